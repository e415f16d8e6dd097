"""Gather and scatter_add: repeated and outlying indices, indices of any rank."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from hornfels.ir import REGISTRY


def test_indices_out_of_range_are_clamped() -> None:
    x = np.asarray([10, 20, 30], np.float32)
    indices = np.asarray([-5, -1, 0, 2, 3, 99], np.int32)
    (got,) = REGISTRY["gather"].evaluate(x, indices, axis=0)
    assert got.tolist() == [10, 10, 10, 30, 30, 30]
    zeros = np.zeros(3, np.float32)
    (back,) = REGISTRY["scatter_add"].evaluate(zeros, indices, np.ones(6, np.float32), axis=0)
    assert back.tolist() == [3, 0, 3]


def test_axes_of_the_indices_take_the_place_of_the_axis() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    indices = np.asarray([[0, 2], [1, 1]], np.int64)
    (got,) = REGISTRY["gather"].evaluate(x, indices, axis=1)
    np.testing.assert_array_equal(got, x[:, indices])
    (scalar,) = REGISTRY["gather"].evaluate(x, np.asarray(2, np.int32), axis=2)
    np.testing.assert_array_equal(scalar, x[..., 2])


def test_scatter_add_is_the_transpose_of_gather() -> None:
    rng = np.random.default_rng(0)
    for axis, shape in enumerate([(5, 3, 2), (3, 5, 2), (3, 2, 5)]):
        x, indices = rng.standard_normal(shape), rng.integers(0, 5, (2, 4)).astype(np.int32)
        (y,) = REGISTRY["gather"].evaluate(x, indices, axis=axis)
        g = rng.standard_normal(y.shape)
        (back,) = REGISTRY["scatter_add"].evaluate(np.zeros(shape), indices, g, axis=axis)
        np.testing.assert_allclose((y * g).sum(), (x * back).sum(), rtol=1e-12)


def test_repeated_bf16_updates_accumulate_in_f32() -> None:
    ones = np.ones(1000, ml_dtypes.bfloat16)
    zeros = np.zeros(1, ml_dtypes.bfloat16)
    (got,) = REGISTRY["scatter_add"].evaluate(zeros, np.zeros(1000, np.int32), ones, axis=0)
    assert float(got[0]) == 1000
