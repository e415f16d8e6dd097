"""Batches from arrays and from iterables."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.ir.errors import ArgumentError, ShapeError
from hornfels.runtime.data import Examples, Stream, is_stream, weights_of_classes


def examples(n: int = 10, batch_size: int = 4) -> Examples:
    x = np.arange(2 * n).reshape(n, 2)
    return Examples({"x": x, "y": x[:, 0] // 2}, batch_size, np.random.default_rng(0))


def test_batches_cover_all_rows_once():
    source = examples()
    assert source.steps() == 3
    assert source.batch_sizes() == (4, 2)
    for shuffle in (False, True):
        batches = list(source.batches(shuffle))
        assert [len(b["x"]) for b in batches] == [4, 4, 2]
        rows = np.concatenate([b["y"] for b in batches])
        assert sorted(rows) == list(range(10))
        assert (rows.tolist() == list(range(10))) is not shuffle
        for b in batches:  # rows stay together
            np.testing.assert_array_equal(b["x"][:, 0] // 2, b["y"])


def test_every_epoch_has_another_order():
    source = examples()
    first, second = ([b["y"].tolist() for b in source.batches(True)] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(("n", "size", "sizes"), [(8, 4, (4,)), (3, 4, (3,)), (5, 4, (4, 1))])
def test_batch_sizes(n, size, sizes):
    assert examples(n, size).batch_sizes() == sizes


def test_split_takes_the_end():
    train, held_out = examples().split(0.2)
    assert (train.size, held_out.size) == (8, 2)
    np.testing.assert_array_equal(held_out.arrays["y"], [8, 9])
    for bad in (0.0, 1.0, -1, 0.99999):
        with pytest.raises(ArgumentError, match="validation_split"):
            examples().split(bad)


def test_bad_arrays_are_refused():
    random = np.random.default_rng(0)
    with pytest.raises(ShapeError, match="same number of examples, got x: 3, y: 2"):
        Examples({"x": np.zeros((3, 1)), "y": np.zeros(2)}, 1, random)
    with pytest.raises(ShapeError, match="at least one"):
        Examples({"x": np.zeros((0, 1))}, 1, random)
    with pytest.raises(ShapeError, match="x must have a batch dimension"):
        Examples({"x": np.float32(1)}, 1, random)
    for bad in (0, -1, 2.5, "8"):
        with pytest.raises(ArgumentError, match="batch_size"):
            examples(3, bad)


def test_streams():
    def pack(x, y=None, w=None):
        return {"x": x, "y": y, "w": w}

    class Sequence:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return np.full(2, i), np.zeros(2)

    assert [b["x"][0] for b in Stream(Sequence(), pack).batches(False)] == [0, 1, 2]
    assert Stream(Sequence(), pack).steps() == 3
    generator = ((np.ones(1),) for _ in range(2))
    assert is_stream(generator)
    assert is_stream(Sequence())
    assert Stream(generator, pack).steps() is None
    assert len(list(Stream(generator, pack).batches(False))) == 2
    assert not any(map(is_stream, (np.ones(2), [np.ones(2)], {"a": np.ones(2)})))
    with pytest.raises(ArgumentError, match="got 4 parts"):
        list(Stream([(1, 2, 3, 4)], pack).batches(False))


def test_class_weights():
    for y in (np.array([0, 1, 2]), np.array([[0], [1], [2]]), np.eye(3)):
        np.testing.assert_array_equal(weights_of_classes(y, {1: 2.0, 2: 0.5}), [1, 2, 0.5])
    for wrong in ([1.0, 2.0], {0: "much"}):
        with pytest.raises(ArgumentError, match="class_weight"):
            weights_of_classes(np.array([0, 1]), wrong)
