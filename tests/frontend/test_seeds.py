"""Keys: what goes into the cipher is never the same twice, and what comes out looks unrelated."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.errors import ArgumentError
from hornfels.frontend import layers, models, random, seeds
from hornfels.frontend.trace import Trace
from hornfels.ir import evaluate
from hornfels.ir.builder import EagerBuilder
from hornfels.ir.ops.constant import threefry
from hornfels.ir.settings import settings

COUNT = 1 << 16


def words(key):
    with EagerBuilder():
        return np.array(seeds.bits(seeds.tensor(key), (COUNT,)).constant)


def cipher_input(key):
    """What a key puts into the cipher beside the element's position: both words and the stream."""
    key = np.asarray(key)
    return (*map(int, key), *(() if key.size == 3 else (0,)))


def test_seeds_that_nobody_chose_are_all_different():
    random.set_random_seed(5)
    found = {random.make_default_seed() for _ in range(100_000)}
    assert len(found) == 100_000
    assert max(found) < 1 << 32


def test_no_input_of_the_cipher_comes_twice():
    """Over layers, steps, workers and rounds."""
    random.set_random_seed(5)
    layers = [random.SeedGenerator() for _ in range(20)]
    seen = []
    for worker in range(3):
        with settings(worker=worker):
            for layer in layers:
                layer.state.assign(np.array([layer.seed, 0], np.uint32))
                for _ in range(10):
                    key = layer.next()
                    seen.append(cipher_input(key))
                    with EagerBuilder():
                        rounds = [seeds.in_round(seeds.tensor(key), r) for r in (1, 2, 250)]
                    seen += [cipher_input(r.constant) for r in rounds]
    assert len(set(seen)) == len(seen) == 3 * 20 * 10 * 4
    assert all(stream < 1 << 31 for *_, stream in seen)  # above are the keys that are derived


def test_layers_of_a_model_draw_from_streams_of_their_own_in_every_step():
    random.set_random_seed(11)
    noise = [layers.Dropout(0.5), layers.GaussianNoise(0.1), layers.Dropout(0.5)]
    model = models.Sequential([layers.Input((4,)), layers.Dense(8), *noise, layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    x, y = np.ones((8, 4), np.float32), np.ones((8, 1), np.float32)
    keys = set()
    for _ in range(4):
        keys |= {tuple(v.numpy()) for v in model.variables if "seed_generator_state" in v.path}
        model.train_on_batch(x, y)
    assert len(keys) == 4 * len(noise)


def test_the_input_of_a_worker_is_what_the_text_says():
    with settings(worker=3):
        numbers = random.uniform((4,), seed=random.SeedGenerator(9))
    counters = np.array([[0, 1, 2, 3], [3 << 16] * 4])
    wanted = threefry(np.array([9, 0]), counters)[0] >> 8
    np.testing.assert_array_equal(numbers, wanted * np.float32(2.0**-24))


def test_workers_draw_their_own_numbers_and_keep_one_state():
    drawn, states = [], []
    for worker in (0, 1, 2):
        with settings(worker=worker):
            generator = random.SeedGenerator(4)
            with Trace("step") as trace:
                graph = trace.finish({"x": random.normal((50,), seed=generator)})
            run = evaluate(graph, {v.name: np.array([4, 7], np.uint32) for v in graph.state})
            drawn.append(run.outputs["x"])
            states.append(*run.updates.values())
            initial = random.normal((50,), seed=4)
        np.testing.assert_array_equal(initial, random.normal((50,), seed=4))
    assert len({x.tobytes() for x in drawn}) == 3
    np.testing.assert_array_equal(states, [[4, 8]] * 3)


@pytest.mark.parametrize("worker", [-1, 1 << 15, "x"])
def test_worker_is_a_small_number(worker):
    with pytest.raises(ArgumentError, match="worker"), settings(worker=worker):
        pass


def test_derived_keys_differ():
    folded = [tuple(random.fold_in(3, i)) for i in range(300)]
    split = [tuple(k) for k in random.split(3, 300)]
    drawn = [(3, i) for i in range(300)]
    assert len({*folded, *split, *drawn}) == 900
    np.testing.assert_array_equal(random.fold_in(3, 8), random.fold_in(3, np.array(8, np.int32)))
    with settings(worker=1):
        others = [tuple(random.fold_in(random.SeedGenerator(3), i)) for i in range(3)]
    assert not {*others} & {*folded}
    with pytest.raises(ArgumentError, match=r"in \[0, 2\*\*31 - 1\), got -1"):
        random.fold_in(3, -1)


PAIRS = {
    "adjacent seeds": ((6, 0), (7, 0)),
    "seeds of one bit": ((0, 0), (1 << 31, 0)),
    "adjacent draws": ((6, 0), (6, 1)),
    "swapped": ((1, 2), (2, 1)),
    "adjacent rounds": ((6, 0, 1 << 8), (6, 0, 2 << 8)),
    "adjacent workers": ((6, 0), (6, 0, 1 << 16)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_streams_look_unrelated(name):
    """Half of all bits differ at every place, and the numbers do not correlate."""
    first, second = (words(np.array(key, np.uint32)) for key in PAIRS[name])
    differing = np.unpackbits((first ^ second).view(np.uint8)).reshape(COUNT, 32).mean(0)
    assert np.abs(differing - 0.5).max() < 5 * 0.5 / np.sqrt(COUNT)
    for lag in (0, 1, -1):
        correlation = np.corrcoef(first, np.roll(second, lag))[0, 1]
        assert abs(correlation) < 5 / np.sqrt(COUNT)


def test_bits_of_one_stream_look_unrelated():
    found = words(np.array((12, 0), np.uint32))
    counts = np.bincount(found >> 24, minlength=256)
    assert ((counts - COUNT / 256) ** 2 / (COUNT / 256)).sum() < 255 + 5 * np.sqrt(2 * 255)
    assert len(np.unique(found)) > COUNT - 10
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 5 / np.sqrt(COUNT)
