"""Pooling and its gradients against the oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from native import SMALL, TARGET, run_template

from hornfels.codegen.tvm.schedules import avg_pool_grad, window
from hornfels.codegen.tvm.schedules.max_pool_grad import max_pool_grad
from hornfels.codegen.tvm.schedules.window import Windows
from hornfels.ir.op import get

# (shape, window, strides, padding)
CASES = {
    "tiles": ((2, 6, 6, 5), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "remainder": ((2, 7, 8, 20), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "overlap and padding": ((2, 7, 8, 3), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "lopsided": ((1, 6, 5, 17), (3, 2), (1, 1), ((2, 0), (0, 1))),
    "gaps": ((2, 5, 5, 4), (2, 2), (3, 3), ((0, 0), (0, 0))),
    "gaps, padding and a rest": ((2, 8, 11, 19), (2, 2), (3, 4), ((1, 0), (1, 1))),
    "gaps, rank 1": ((2, 12, 5), (2,), (5,), ((1, 0),)),
    "gaps, rank 3": ((1, 6, 7, 8, 3), (1, 2, 3), (2, 3, 3), ((0, 0), (1, 0), (0, 2))),
    "wide window": ((1, 7, 13, 6), (2, 6), (2, 6), ((0, 0), (0, 0))),
    "line in parts": ((1, 4, 90, 40), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "only the first": ((2, 5, 6, 4), (2, 2), (7, 7), ((0, 0), (0, 0))),
    "no channel": ((2, 4, 4, 0), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "tiles, parallel": ((5, 25, 26, 272), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "rank 1": ((1, 5, 6), (2,), (1,), ((0, 0),)),
    "rank 3": ((2, 4, 5, 6, 2), (2, 3, 2), (1, 2, 2), ((0, 1), (1, 1), (0, 0))),
    "steps": ((2, 11, 21, 35), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "steps, much padding": ((1, 3, 5, 8), (4, 5), (1, 1), ((2, 3), (0, 4))),
    "steps, rank 3": ((2, 4, 5, 9, 6), (2, 1, 3), (1, 1, 1), ((0, 1), (0, 0), (1, 1))),
    "steps, parallel": ((3, 40, 41, 64), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "one": ((1, 1, 1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))),
    "many channels": ((2, 9, 9, 70), (3, 3), (3, 3), ((0, 0), (0, 0))),
    "whole image": ((2, 8, 8, 64), (8, 8), (8, 8), ((0, 0), (0, 0))),
    "no image": ((0, 4, 4, 2), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "parallel": ((9, 30, 30, 64), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "one image, parallel": ((1, 99, 97, 64), (3, 3), (2, 2), ((1, 1), (0, 1))),
    "far windows, parallel": ((1, 90, 75, 64), (5, 4), (2, 3), ((2, 1), (0, 3))),
}


def values(shape, dtype="float32", *, ties=True):
    random = np.random.default_rng(sum(shape))
    drawn = random.integers(-3, 3, shape) if ties else random.standard_normal(shape)
    return drawn.astype(dtype)


def machine_for(case):
    """A large case runs on this machine, to be split over tasks; a small one on a small one."""
    return TARGET.machine if math.prod(case[0]) > 1 << 18 else SMALL


def attributes(case):
    shape, size, strides, padding = case
    windows = Windows(size, strides, padding)
    result = (shape[0], *windows.positions(shape[1:-1]), shape[-1])
    return windows, result, {"window": size, "strides": strides, "padding": padding}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_max_pool(case):
    windows, result, oracle = attributes(case)
    x = values(case[0])
    got = run_template(
        window.max_pool, [x], result, x.dtype, windows=windows, machine=machine_for(case)
    )
    np.testing.assert_array_equal(got, get("max_pool").numpy(x, **oracle))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_max_pool_grad(case):
    """Values from a small set, so that most windows have several maxima."""
    windows, result, oracle = attributes(case)
    x, dy = values(case[0]), values(result, ties=False)
    got = run_template(
        max_pool_grad, [x, dy], case[0], x.dtype, windows=windows,
        machine=machine_for(case),
    )  # fmt: skip
    want = get("max_pool_grad").numpy(x, dy, **oracle)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("include_padding", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_avg_pool(case, include_padding):
    windows, result, oracle = attributes(case)
    x = values(case[0], ties=False)
    got = run_template(
        window.avg_pool, [x], result, x.dtype, windows=windows, include_padding=include_padding,
        machine=machine_for(case),
    )  # fmt: skip
    want = get("avg_pool").numpy(x, include_padding=include_padding, **oracle)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("include_padding", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_avg_pool_grad(case, include_padding):
    windows, result, oracle = attributes(case)
    dy = values(result, ties=False)
    options = {"input_shape": case[0], "include_padding": include_padding}
    got = run_template(
        avg_pool_grad.avg_pool_grad, [dy], case[0], dy.dtype, windows=windows,
        machine=machine_for(case), **options,
    )  # fmt: skip
    want = get("avg_pool_grad").numpy(dy, **options, **oracle)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("case", ["steps", "overlap and padding", "tiles"])
def test_avg_pool_grad_of_dtypes(case, dtype):
    windows, result, oracle = attributes(CASES[case])
    dy, shape = values(result, dtype, ties=False), CASES[case][0]
    options = {"input_shape": shape, "include_padding": False}
    got = run_template(
        avg_pool_grad.avg_pool_grad, [dy], shape, dtype, windows=windows, machine=SMALL, **options
    )
    want = get("avg_pool_grad").numpy(dy.astype(np.float64), **options, **oracle)
    bound = 1e-12 if dtype == "float64" else 2e-3
    np.testing.assert_allclose(got, want, rtol=bound, atol=bound)


@pytest.mark.parametrize("case", ["tiles", "overlap and padding", "gaps, padding and a rest"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_wins(case, dtype):
    windows, result, oracle = attributes(CASES[case])
    x, dy = values(CASES[case][0], dtype), values(result, dtype, ties=False)
    x[0, 2, 3:5] = np.nan  # two of them in one window
    got = run_template(window.max_pool, [x], result, x.dtype, windows=windows)
    np.testing.assert_array_equal(got, get("max_pool").numpy(x, **oracle))
    assert np.isnan(got).any()
    got = run_template(max_pool_grad, [x, dy], x.shape, x.dtype, windows=windows)
    want = get("max_pool_grad").numpy(x, dy, **oracle)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", ["tiles", "overlap and padding"])
def test_minus_infinity_is_a_maximum_where_there_is_nothing_else(case):
    windows, result, _ = attributes(CASES[case])
    x, dy = np.full(CASES[case][0], -np.inf, np.float32), np.ones(result, np.float32)
    x[0, 1, 1] = np.finfo(np.float32).min
    got = run_template(window.max_pool, [x], result, x.dtype, windows=windows)
    assert (got[0, 0, 0] == x[0, 1, 1]).all()
    assert (got[-1] == -np.inf).all()
    got = run_template(max_pool_grad, [x, dy], x.shape, x.dtype, windows=windows)
    assert got[0, 1, 1].min() >= 1
    assert got.sum() == dy.sum()


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("case", ["remainder", "gaps, padding and a rest", "overlap and padding"])
def test_max_pool_grad_dtypes(case, dtype):
    windows, result, oracle = attributes(CASES[case])
    x, dy = values(CASES[case][0], dtype), values(result, dtype, ties=False)
    got = run_template(max_pool_grad, [x, dy], x.shape, dtype, windows=windows)
    want = get("max_pool_grad").numpy(x, dy, **oracle)
    np.testing.assert_allclose(got, want, rtol=1e-3 if dtype == "float16" else 1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8"])
def test_max_pool_dtypes(dtype):
    windows, result, oracle = attributes(CASES["overlap and padding"])
    x = np.abs(values(CASES["overlap and padding"][0])).astype(dtype)
    got = run_template(window.max_pool, [x], result, dtype, windows=windows)
    np.testing.assert_array_equal(got, get("max_pool").numpy(x, **oracle))
