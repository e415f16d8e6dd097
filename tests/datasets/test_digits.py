"""The embedded digits: the values are scikit-learn's, the split is a fact that never changes."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.datasets import digits
from hornfels.ir.errors import ArgumentError


def test_shapes_and_ranges():
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    assert (x_train.shape, y_train.shape) == ((1438, 8, 8), (1438,))
    assert (x_test.shape, y_test.shape) == ((359, 8, 8), (359,))
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert (x_train.min(), x_train.max()) == (0, 16)
    assert set(y_test) == set(range(10))


def test_the_images_are_those_of_scikit_learn():
    original = pytest.importorskip("sklearn.datasets").load_digits()
    (x, y), (empty, _) = digits.load_data(test_split=0.0, seed=5)
    assert len(empty) == 0
    order = np.random.RandomState(5).permutation(1797)
    np.testing.assert_array_equal(x, original.images[order])
    np.testing.assert_array_equal(y, original.target[order])


def test_the_split_is_deterministic_and_follows_the_seed():
    (first, labels), _ = digits.load_data()
    (again, _), _ = digits.load_data()
    (other, _), _ = digits.load_data(seed=1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert labels[:10].tolist() == [1, 0, 9, 1, 1, 2, 3, 0, 0, 1]


@pytest.mark.parametrize("test_split", [0.0, 0.1, 0.5, 0.9])
def test_the_parts_hold_every_image_once(test_split):
    (x_train, y_train), (x_test, y_test) = digits.load_data(test_split)
    assert len(x_test) == pytest.approx(1797 * test_split, abs=1)
    pixels = int(x_train.sum(dtype=np.int64) + x_test.sum(dtype=np.int64))
    assert len(x_train) + len(x_test) == 1797
    assert pixels == 561718
    counts = np.bincount(np.concatenate([y_train, y_test]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("test_split", [-0.1, 1.0, 2, float("nan")])
def test_a_wrong_split_is_refused(test_split):
    with pytest.raises(ArgumentError, match=r"test_split must be in \[0, 1\), got"):
        digits.load_data(test_split)
