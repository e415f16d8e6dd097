"""The random numbers: reproducible bits, the right distributions, state that counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hornfels.frontend import random
from hornfels.frontend.trace import Trace
from hornfels.frontend.variable import Variable
from hornfels.ir.errors import ArgumentError, DTypeError
from hornfels.ir.evaluate import evaluate

SHAPE = (200, 500)


def threefry_2x32(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry2x32-20 in Python integers, from the paper's description (Salmon et al., 2011)."""
    mask = 0xFFFFFFFF
    keys = (key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA)
    rotations = ((13, 15, 26, 6), (17, 29, 16, 24))
    a, b = (counter[0] + keys[0]) & mask, (counter[1] + keys[1]) & mask
    for group in range(5):
        for r in rotations[group % 2]:
            a = (a + b) & mask
            b = ((b << r | b >> (32 - r)) & mask) ^ a
        a = (a + keys[(group + 1) % 3]) & mask
        b = (b + keys[(group + 2) % 3] + group + 1) & mask
    return a, b


def test_uniform_is_the_upper_24_bits_of_threefry():
    numbers = random.uniform((2, 3), seed=42)
    wanted = [(threefry_2x32((42, 0), (i, 0))[0] >> 8) * 2.0**-24 for i in range(6)]
    np.testing.assert_array_equal(numbers.ravel(), np.array(wanted, np.float32))


def test_threefry_known_answer():
    """Test vectors of the Random123 distribution."""
    assert threefry_2x32((0, 0), (0, 0)) == (0x6B200159, 0x99BA4EFE)
    ones = 0xFFFFFFFF
    assert threefry_2x32((ones, ones), (ones, ones)) == (0x1CB996FC, 0xBB002BE7)


def test_an_int_seed_repeats_and_a_generator_does_not():
    generator = random.SeedGenerator(7)
    first, second = (random.uniform((50,), seed=generator) for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, random.uniform((50,), seed=7))
    np.testing.assert_array_equal(generator.state.numpy(), np.array([7, 2], np.uint32))
    assert not np.array_equal(first, random.uniform((50,), seed=8))


def test_set_random_seed_repeats_everything():
    def draw():
        random.set_random_seed(123)
        return [random.normal((5,)), random.normal((5,)), random.make_default_seed(),
                random.SeedGenerator().seed, np.random.rand()]  # noqa: NPY002  # fmt: skip

    for a, b in zip(draw(), draw(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_uniform_fills_its_range(dtype):
    numbers = random.uniform(SHAPE, -3.0, 5.0, dtype=dtype, seed=1).astype(np.float64)
    assert numbers.min() >= -3
    assert numbers.max() < 5 if dtype in ("float32", "float64") else numbers.max() <= 5
    assert numbers.mean() == pytest.approx(1, abs=0.05)
    assert numbers.var() == pytest.approx(64 / 12, rel=0.02)


def test_half_precision_uniform_stays_below_one():
    for dtype in ("float16", "bfloat16"):
        numbers = random.uniform(SHAPE, dtype=dtype, seed=3)
        assert numbers.dtype.name == dtype
        assert float(numbers.max()) < 1


def quantile_of_normal(p: float) -> float:
    low, high = -9.0, 9.0
    for _ in range(80):
        middle = (low + high) / 2
        if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < p:
            low = middle
        else:
            high = middle
    return low


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 3e-6), ("float64", 3e-6)])
def test_normal_inverts_the_distribution_of_its_bits(dtype, rtol):
    numbers = random.normal((400,), dtype=dtype, seed=11)
    odd = random.uniform((400,), seed=11).astype(np.float64) + 2.0**-25
    wanted = [quantile_of_normal(p) for p in odd]
    np.testing.assert_allclose(numbers, wanted, rtol=rtol, atol=1e-7)


def test_normal_has_its_moments():
    numbers = random.normal(SHAPE, mean=2.0, stddev=3.0, seed=5).astype(np.float64)
    z = (numbers - 2) / 3
    assert z.mean() == pytest.approx(0, abs=0.01)
    assert z.std() == pytest.approx(1, rel=0.01)
    assert (z**4).mean() == pytest.approx(3, rel=0.03)
    assert np.abs(z).max() > 3.9


def test_truncated_normal_is_cut_at_two():
    numbers = random.truncated_normal(SHAPE, mean=-1.0, stddev=0.5, seed=5).astype(np.float64)
    z = (numbers + 1) / 0.5
    assert np.abs(z).max() <= 2 + 1e-5
    assert np.abs(z).max() > 1.99
    assert z.mean() == pytest.approx(0, abs=0.01)
    assert z.std() == pytest.approx(0.87962566, rel=0.01)


def test_randint_is_uniform_over_its_range():
    numbers = random.randint(SHAPE, -3, 4, seed=9)
    assert numbers.dtype == np.int32
    values, counts = np.unique(numbers, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(-3, 4))
    np.testing.assert_allclose(counts / numbers.size, 1 / 7, rtol=0.05)


def test_bernoulli_and_categorical_follow_their_probabilities():
    assert random.bernoulli(SHAPE, 0.3, seed=1).mean() == pytest.approx(0.3, abs=0.01)
    logits = np.log(np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], np.float32))
    drawn = random.categorical(logits, 20000, seed=2)
    assert drawn.shape == (2, 20000)
    for row, wanted in zip(drawn, np.exp(logits), strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / 20000, wanted, atol=0.015)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_scales_it(rate):
    x = np.full(SHAPE, 2.0, np.float32)
    y = random.dropout(x, rate, seed=4)
    kept = y != 0
    assert kept.mean() == pytest.approx(1 - rate, abs=0.01)
    np.testing.assert_allclose(y[kept], 2 / (1 - rate), rtol=1e-6)
    np.testing.assert_array_equal(kept, random.uniform(SHAPE, seed=4) < np.float32(1 - rate))


def test_dropout_limits_and_noise_shape():
    x = np.ones((4, 6, 8), np.float32)
    np.testing.assert_array_equal(random.dropout(x, 0.0, seed=1), x)
    np.testing.assert_array_equal(random.dropout(x, 1.0, seed=1), 0 * x)
    y = random.dropout(x, 0.5, noise_shape=(None, 1, 8), seed=1)
    assert (y == y[:, :1]).all()
    assert 0 < (y == 0).mean() < 1


def test_masks_are_equal_in_every_precision():
    masks = [random.dropout(np.ones(SHAPE, d), 0.4, seed=6) != 0
             for d in (np.float16, np.float32, np.float64)]  # fmt: skip
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[1], masks[2])


def test_a_traced_draw_takes_its_key_from_state_and_counts_up():
    generator = random.SeedGenerator(5)
    with Trace("step") as trace:
        draws = [random.uniform((3,), seed=generator) for _ in range(2)]
        graph = trace.finish({"a": draws[0], "b": draws[1]})
    (state,) = graph.state
    assert str(state.type) == "u32[2]"
    name = state.name
    run = evaluate(graph, {name: np.array([5, 10], np.uint32)})
    np.testing.assert_array_equal(run.updates[name], np.array([5, 12], np.uint32))
    np.testing.assert_array_equal(generator.state.numpy(), np.array([5, 0], np.uint32))
    wanted = [(threefry_2x32((5, 11), (i, 0))[0] >> 8) * 2.0**-24 for i in range(3)]
    np.testing.assert_array_equal(run.outputs["b"], np.array(wanted, np.float32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: random.SeedGenerator("x"), ArgumentError, r"an int in \[0, 2\*\*32\), got 'x'"),
        (lambda: random.uniform((2,), seed="x"), DTypeError, "got str"),
        (lambda: random.normal((2,), dtype="int32"), DTypeError, "must be floating point, got i32"),
        (lambda: random.dropout(np.ones(3, np.float32), 1.5), ArgumentError,
         r"in \[0, 1\], got 1.5"),
        (lambda: random.dropout(np.ones(3, np.int32), 0.5), DTypeError, "floating point, got i32"),
        (lambda: random.randint((2,), 0, 3, dtype="float32"), DTypeError, "an integer type"),
        (lambda: random.set_random_seed(-1), ArgumentError, "got -1"),
        (lambda: random.dropout(np.ones((2, 3), np.float32), 0.5, noise_shape=(2,)),
         ArgumentError, "2 entries"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_seed_generator_config():
    generator = random.SeedGenerator(99)
    assert random.SeedGenerator.from_config(generator.get_config()).seed == 99
    assert isinstance(generator.state, Variable)
    assert not generator.state.trainable
