"""Blocks of memory, and the arena that the programs of a model share."""

from __future__ import annotations

import gc
import os
from itertools import pairwise

import numpy as np
import pytest

import hornfels as hf
from hornfels.runtime import blocks
from hornfels.runtime.blocks import ALIGNMENT, Arena, Block, Claim

WEIGHTS = frozenset({"w"})


@pytest.mark.parametrize("nbytes", [0, 1, 64, 1 << 20, (1 << 22) + 1])
def test_a_block_is_aligned_and_can_be_written(nbytes):
    block = Block(nbytes)
    assert block.address % ALIGNMENT == 0
    assert block.bytes.shape == (nbytes,)
    block.bytes[...] = 7
    assert block.bytes.nbytes == 0 or block.bytes.ctypes.data == block.address
    assert (block.bytes == 7).all()


def test_a_block_goes_with_the_last_array_that_shows_it():
    view = Block(1 << 21).bytes[5:9]
    gc.collect()
    view[...] = 1
    assert view.sum() == 4


def predicting(nbytes: int, kept: int) -> Claim:
    return Claim(nbytes, kept, WEIGHTS, frozenset())


def training(nbytes: int) -> Claim:
    return Claim(nbytes, 0, frozenset(), WEIGHTS)


def apart(*claims: Claim) -> bool:
    spans = sorted((c.kept_at, c.kept_at + c.kept_bytes) for c in claims)
    return all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_programs_work_in_the_same_bytes():
    arena = Arena()
    for nbytes in (100, 5000, 300):
        assert arena.make_room(training(nbytes))
    assert arena.nbytes == 5000


def test_what_is_kept_stays_until_training_overwrites_it():
    arena, predict, train = Arena(), predicting(100, 500), training(5000)
    assert arena.make_room(train)
    assert not arena.make_room(predict)
    assert predict.kept_at == 128
    assert arena.nbytes == 5000  # the step's own bytes hold it
    assert arena.make_room(predict)
    assert arena.make_room(train)
    assert predict.kept_at is None
    assert not arena.make_room(predict)


def test_programs_that_change_no_weight_learn_to_keep_off():
    arena, small, large = Arena(), predicting(100, 500), Claim(4000, 0, WEIGHTS, frozenset({"n"}))
    arena.make_room(small)
    assert arena.make_room(large)
    for _ in range(2):  # overwritten once, and then out of the way
        assert small.kept_at is None or small.kept_at >= 4000
        arena.make_room(small)
        arena.make_room(large)
        assert small.kept_at >= 4000


def test_several_programs_keep_something_in_gaps():
    arena = Arena()
    arena.make_room(training(9000))
    claims = [predicting(64, kept) for kept in (500, 700, 300)]
    for claim in claims:
        assert not arena.make_room(claim)
    assert apart(*claims)
    assert all(map(arena.make_room, claims))
    where = claims[0].kept_at
    del claims[0], claim
    gc.collect()
    smaller = predicting(64, 400)
    arena.make_room(smaller)
    assert smaller.kept_at == where
    assert all(map(arena.make_room, claims))
    assert arena.nbytes == 9000


def test_growing_loses_what_was_kept_and_settles():
    arena = Arena()
    claims = [predicting(64 * i, 500 + i) for i in range(1, 5)]
    for _ in range(3):
        for claim in claims:
            arena.make_room(claim)
            arena.put(claim, 1)
    assert all(map(arena.make_room, claims))
    assert apart(*claims)
    assert min(c.kept_at for c in claims) >= 256
    assert arena.nbytes <= 256 + sum(-(-c.kept_bytes // 64) * 64 for c in claims)


def test_without_memory_the_arena_can_be_asked_again(monkeypatch):
    arena, predict, train = Arena(), predicting(100, 500), training(5000)
    arena.make_room(predict)

    class Full(Block):
        def __init__(self, nbytes: int) -> None:
            if nbytes > 1000:
                raise MemoryError
            super().__init__(nbytes)

    with monkeypatch.context() as m:
        m.setattr(blocks, "Block", Full)
        with pytest.raises(MemoryError):
            arena.make_room(train)
        assert not arena.make_room(predict)
        assert arena.nbytes >= predict.kept_at + 500
    assert arena.make_room(train)
    assert arena.nbytes == 5000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_can_use_an_arena_that_a_thread_held():
    arena = Arena()
    with arena.lock:
        child = os.fork()
        if not child:
            os._exit(not arena.lock.acquire(timeout=5))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- models ----------------------------------------------------------------------------------


def network() -> hf.Sequential:
    hf.utils.set_random_seed(0)
    model = hf.Sequential(
        [
            hf.layers.Input((12,)),
            hf.layers.Dense(64, activation="relu"),
            hf.layers.Dropout(0.5),
            hf.layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def test_steps_that_take_turns_in_one_arena_compute_what_the_oracle_does():
    """Training, evaluation and predictions of two sizes, each of which keeps packed weights."""
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 12)).astype(np.float32), rng.integers(0, 4, 40)
    models = [network() for _ in range(2)]
    native, oracle = (
        hf.compile(m, backend=b) for m, b in zip(models, ("tvm", "eager"), strict=True)
    )
    steps = rng.choice(["train", "test", "one", "all"], 40)
    for step in steps:
        found = [
            {
                "train": lambda c=c: c.train_on_batch(x, y),
                "test": lambda c=c: c.test_on_batch(x, y),
                "one": lambda c=c: c.predict_on_batch(x[:1]),
                "all": lambda c=c: c.predict_on_batch(x),
            }[step]()
            for c in (native, oracle)
        ]
        np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)
    executables = [f.result() for s in native._steps.values() for f in s._executables.values()]
    assert len(executables) == 4
    assert len({e._arena for e in executables}) == 1
    working = max(e.compilation.arena_bytes for e in executables)
    kept = sum(e.prepared_bytes for e in executables)
    assert kept
    assert executables[0]._arena.nbytes <= working + kept + 4 * ALIGNMENT
