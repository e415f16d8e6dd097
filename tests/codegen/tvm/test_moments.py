"""Moments in one pass: right whatever the mean is, on every size."""

from __future__ import annotations

import numpy as np
import pytest
from native_graph import arrays_for, check_graph, compiled, only_kernel, run_compiled

from hornfels.ir import Builder, Graph, sugar
from hornfels.ir.types import bf16, f16, f32, f64
from hornfels.passes.fusion import fuse


def moments(x, axes=(0, 1)) -> Graph:
    """Mean, sum of squared deviations and sum of deviations, and a number made of all."""
    with Builder("moments") as b:
        v = b.input("x", x)
        mean = sugar.mean(v, axes, keepdims=True)
        off = v - mean
        squares, rest = (sugar.reduce("reduce_sum", d, axes) for d in (off * off, off))
        mean = sugar.reshape(mean, squares.shape)
        return b.finish({"mean": mean, "squares": squares, "all": squares * 2 + mean + 0 * rest})


# A row of 64 columns is 256 bytes; blocks of 64 rows.
SHAPES = [(70, 100, 64), (1, 8191, 16), (5, 4096, 10), (9, 1000, 70), (3, 700, 130), (40, 500, 24)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_size(shape):
    graph = moments(f32(*shape))
    assert only_kernel(graph).root == "moments"
    check_graph(graph, arrays_for(graph), factor=20)


@pytest.mark.parametrize("dtype", [f64, f16, bf16])
def test_dtypes(dtype):
    with Builder("wide") as b:
        x = b.input("x", dtype(3, 6001, 24))
        wide = sugar.cast(x, f64 if dtype is f64 else f32)
        mean = sugar.mean(wide, (0, 1), keepdims=True)
        off = wide - mean
        variance = sugar.mean(off * off, (0, 1))
        graph = b.finish({"mean": mean, "variance": variance})
    assert only_kernel(graph).root == "moments"
    check_graph(graph, arrays_for(graph), factor=50)


@pytest.mark.parametrize("mean", [0.0, 1e4, -1e6])
def test_large_means(mean):
    """A sum of squares minus a squared sum would leave no digit at a mean of 1e4."""
    graph = moments(f32(8, 3000, 32))
    rng = np.random.default_rng(0)
    x = (mean + rng.normal(size=(8, 3000, 32))).astype(np.float32)
    x[:, :1500] += 3  # whose blocks have means of their own
    got = run_compiled(compiled(graph), {"x": x}).outputs
    wide = x.astype(np.float64)
    np.testing.assert_allclose(got["mean"], wide.mean((0, 1)), rtol=3e-6)
    off = wide - got["mean"].astype(np.float64)
    np.testing.assert_allclose(got["squares"], (off * off).sum((0, 1)), rtol=1e-4)


def test_no_number_shows():
    graph = moments(f32(4, 5000, 16))
    x = np.ones((4, 5000, 16), np.float32)
    x[3, 17, 5], x[0, 0, 7] = np.nan, np.inf
    got = run_compiled(compiled(graph), {"x": x}).outputs
    assert np.flatnonzero(np.isnan(got["squares"])).tolist() == [5, 7]
    assert got["squares"][0] == 0


def test_kept_dimensions_outside():
    graph = moments(f32(6, 3000, 24), axes=(1,))
    assert only_kernel(graph).root == "moments"
    check_graph(graph, arrays_for(graph), factor=20)


def test_what_is_reduced_in_a_row_takes_two_passes():
    graph = moments(f32(2, 3, 90_000), axes=(1, 2))
    assert "moments" not in {call.kernel.root for call in fuse(graph)}
    check_graph(graph, arrays_for(graph), factor=100)
