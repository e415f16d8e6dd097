"""Attention kernels: forward and backward as one kernel each, against the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native import SMALL, TARGET
from native_graph import (
    arrays_for,
    check_graph,
    compiled,
    error,
    run_compiled,
    source,
    tolerance,
)

from hornfels.ir import Builder, Graph, evaluate, gradients, sugar
from hornfels.ir.op import get
from hornfels.ir.types import bf16, boolean, f16, f32, f64, u32
from hornfels.passes.fusion import fuse
from hornfels.passes.pipeline import make_plan, optimize
from hornfels.passes.work import work_of

NAMES = ("out", "dq", "dk", "dv")


def softmax(x, stop=True):
    largest = x.max(-1, keepdims=True)
    e = sugar.unary("exp", x - (sugar.unary("stop_gradient", largest) if stop else largest))
    return e / e.sum(-1, keepdims=True)


def masked(scores, b):
    """Only where a mask says so; rows of which it hides all are uniform, as in Keras."""
    mask = b.input("mask", boolean(*scores.shape))
    return softmax(sugar.select(mask, scores, -1e30))


def causal(scores, b):
    rows, columns = (get("iota")(shape=scores.shape, axis=a, dtype=u32) for a in (2, 3))
    return softmax(sugar.select(columns <= rows, scores, -1e30))


def biased(scores, b):
    """A bias for each head, and scores that are kept from growing."""
    bias = b.input("bias", scores.dtype(*scores.shape[1:]))
    return softmax(sugar.unary("tanh", scores + bias) * 3.0)


def dropped(scores, b):
    key = b.input("key", u32(2))
    kept = get("rng_bits")(key, shape=scores.shape) >= sugar.full(scores.shape, 1 << 30, u32)
    return sugar.select(kept, softmax(scores) / 0.75, 0.0)


def sharp(scores, b):
    return softmax(scores, stop=False)


def plain(scores, b):
    return softmax(scores)


def graph_of(batch, heads, rows, columns, depth, value_depth, dtype=f32, weights=plain,
             gradient=False, repeats=1) -> Graph:  # fmt: skip
    """Attention of `(batch, time, heads, depth)`, or also its gradients."""
    sizes = {"q": (rows, heads, depth), "k": (columns, heads // repeats, depth),
             "v": (columns, heads // repeats, value_depth)}  # fmt: skip
    with Builder("attention") as b:
        x = [b.input(name, dtype(batch, *size)) for name, size in sizes.items()]
        q, k, v = x
        if repeats > 1:
            k, v = (repeated(each, repeats) for each in (k, v))
        q, k, v = (sugar.transpose(each, (0, 2, 1, 3)) for each in (q, k, v))
        scores = sugar.matmul(q, sugar.transpose(k, (0, 1, 3, 2))) * 0.5
        out = sugar.transpose(sugar.matmul(weights(scores, b), v), (0, 2, 1, 3))
        if not gradient:
            return b.finish({"out": out})
        g = b.input("g", dtype(batch, rows, heads, value_depth))
        grads = gradients((out * out * g).sum(), x)
        return b.finish(dict(zip(NAMES, (out, *grads), strict=True)))


def repeated(x, times):
    batch, time, heads, depth = x.shape
    shape = (batch, time, heads, times, depth)
    spread = get("broadcast")(x, shape=shape, axes=(0, 1, 2, 4))
    return sugar.reshape(spread, (batch, time, heads * times, depth))


def kernels_of(graph: Graph) -> list[str]:
    return [call.kernel.root for call in fuse(optimize(graph))]


def check(graph: Graph, count: int, factor: float = 8) -> None:
    """Require so many kernels of attention, no other products, and the oracle's values."""
    found = kernels_of(graph)
    assert found.count("attention") == count
    assert "matmul" not in found
    optimized = optimize(graph)
    check_graph(optimized, arrays_for(optimized), factor=factor)


SIZES = [
    (2, 1, 8, 2, 1, 1), (1, 3, 9, 7, 5, 3), (2, 2, 65, 65, 8, 8), (1, 2, 16, 64, 40, 33),
    (3, 1, 33, 17, 32, 16), (1, 1, 130, 100, 7, 64),
]  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES)
def test_sizes(sizes):
    check(graph_of(*sizes, gradient=True), 2)


@pytest.mark.parametrize("weights", [masked, causal, biased, dropped, sharp])
def test_what_stands_between_the_products(weights):
    check(graph_of(2, 2, 13, 11, 4, 5, weights=weights, gradient=True), 2, factor=20)


def test_rows_without_anything_to_see():
    graph = graph_of(1, 2, 8, 5, 3, 3, weights=masked)
    arrays = arrays_for(graph)
    arrays["mask"][0, 1, 3] = False
    program = compiled(optimize(graph))
    got = run_compiled(program, arrays).outputs["out"]
    mean = arrays["v"][0, :, 1].mean(0)
    np.testing.assert_allclose(got[0, 3, 1], mean, rtol=1e-5, atol=1e-6)


def test_double_precision():
    check(graph_of(1, 2, 19, 18, 9, 6, dtype=f64, gradient=True), 2)


def halves_of(batch, heads, rows, columns, depth, dtype, weights=plain) -> Graph:
    """Attention whose rows are computed in f32, as layers do it, and its gradients."""
    shapes = {"q": (rows, depth), "k": (columns, depth), "v": (columns, depth)}
    with Builder("halves") as b:
        x = [b.input(name, dtype(batch, heads, *shape)) for name, shape in shapes.items()]
        q, k = (sugar.cast(each, f32) for each in x[:2])
        scores = sugar.matmul(q, sugar.transpose(k, (0, 1, 3, 2))) * 0.5
        out = sugar.matmul(sugar.cast(weights(scores, b), dtype), x[2])
        g = b.input("g", dtype(batch, heads, rows, depth))
        grads = gradients((out * out * g).sum(), x)
        return b.finish(dict(zip(NAMES, (out, *grads), strict=True)))


@pytest.mark.parametrize("dtype", [bf16, f16])
@pytest.mark.parametrize("sizes", [*SIZES[:3], SIZES[4]])
def test_half_precision(sizes, dtype):
    check(graph_of(*sizes, dtype=dtype, gradient=True), 2, factor=3)


@pytest.mark.parametrize("weights", [masked, causal, dropped])
@pytest.mark.parametrize("columns", [8, 11])
def test_half_precision_with_rows_in_single(weights, columns):
    check(halves_of(2, 2, 13, columns, 7, bf16, weights), 2, factor=3)


@pytest.mark.parametrize("columns", [17, 18])
def test_blocks_of_rows_in_half_precision(columns):
    """The last block has fewer rows, of which there may be an odd number."""
    graph = optimize(halves_of(1, 4, 37, columns, 5, bf16))
    arrays = arrays_for(graph)
    expected = evaluate(graph, arrays).outputs
    machine = replace(TARGET.machine, l2=1 << 13, cores=3)
    program = compiled(graph, replace(TARGET, machine=machine))
    for name, array in run_compiled(program, arrays).outputs.items():
        assert error(array, expected[name]) < tolerance(array, 3)


def test_heads_that_share_keys_and_values():
    check(graph_of(2, 4, 10, 9, 6, 6, gradient=True, repeats=2), 2)


def test_gradients_alone_need_no_second_kernel():
    """Where the cotangent does not depend on the result, all four products of rows share one."""
    with Builder("once") as b:
        q, k, v, g = (b.input(name, f32(2, 9, 7)) for name in "qkvg")
        out = sugar.matmul(softmax(sugar.matmul(q, sugar.transpose(k, (0, 2, 1)))), v)
        grads = gradients((out * g).sum(), [q, k, v])
        graph = b.finish(dict(zip(NAMES, (out, *grads), strict=True)))
    assert kernels_of(graph) == ["attention"]
    optimized = optimize(graph)
    check_graph(optimized, arrays_for(optimized), factor=8)


def test_blocks_of_rows():
    """A machine with a small cache takes several blocks, one of short vectors narrow tiles."""
    graph = optimize(graph_of(1, 2, 37, 30, 6, 5, gradient=True))
    arrays = arrays_for(graph)
    expected = evaluate(graph, arrays).outputs
    for machine in (SMALL, replace(TARGET.machine, l2=1 << 13, cores=3)):
        program = compiled(graph, replace(TARGET, machine=machine))
        for name, array in run_compiled(program, arrays).outputs.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-4)


def test_scores_that_others_read_are_stored():
    with Builder("shown") as b:
        q, k, v = (b.input(name, f32(2, 9, 7)) for name in "qkv")
        weights = softmax(sugar.matmul(q, sugar.transpose(k, (0, 2, 1))))
        graph = b.finish({"out": sugar.matmul(weights, v), "weights": weights})
    assert kernels_of(graph) == ["attention"]
    optimized = optimize(graph)
    check_graph(optimized, arrays_for(optimized), factor=8)


def test_few_rows_and_single_matrices_stay_apart():
    assert "attention" not in kernels_of(graph_of(2, 2, 7, 64, 8, 8))
    assert "attention" not in kernels_of(graph_of(1, 1, 256, 256, 8, 8))
    assert "attention" not in kernels_of(graph_of(2, 2, 8, 1, 8, 8))


def test_long_rows_are_computed_again_and_short_ones_kept():
    def stored(columns: int) -> list[tuple[int, ...]]:
        calls = fuse(optimize(graph_of(1, 4, 40, columns, 8, 8, gradient=True)))
        kernel = next(c.kernel for c in calls if c.kernel.root == "attention")
        return sorted(tuple(map(int, v.shape)) for v in kernel.body.outputs if v.ndim != 4 or
                      v.shape[-1] == columns)  # fmt: skip

    assert (1, 4, 40, 32) in stored(32) or (4, 40, 32) in stored(32)
    assert all(columns != 33 for *_, columns in stored(33))


def test_flops_are_those_of_the_products():
    (kernel,) = make_plan(optimize(graph_of(2, 3, 16, 24, 5, 7))).kernels
    assert work_of(kernel).flops == 2 * 2 * 3 * 16 * 24 * (5 + 7)


@pytest.mark.skipif("avx512bf16" not in TARGET.machine.features, reason="no products of pairs")
def test_products_of_half_precision_take_pairs():
    planned = make_plan(optimize(halves_of(1, 4, 16, 18, 8, bf16)))
    code = source(planned, "asm")
    assert [k.root for k in planned.kernels].count("attention") == 2
    assert "dpbf16ps" in code
