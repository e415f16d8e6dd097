"""Sums in the epilogues of convolutions: statistics of a batch, and the sums of its gradient."""

from __future__ import annotations

import numpy as np
import pytest
from native import TARGET, is_parallel
from native_graph import arrays_for, check_graph, compiled, only_kernel, run_compiled

from hornfels.codegen.tvm.lower import lower_kernel
from hornfels.ir import Builder, Graph, sugar
from hornfels.ir.op import get
from hornfels.ir.types import bf16, f16, f32, f64
from hornfels.passes import fusion, sums
from hornfels.passes.interpret import run_plan
from hornfels.passes.memory import plan

SAME = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))


def attributes(padding, strides=(1, 1), dilation=(1, 1), groups=1):
    return {
        "strides": strides, "padding": padding, "input_dilation": (1, 1),
        "kernel_dilation": dilation, "groups": groups,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Sums join epilogues at any size."""
    monkeypatch.setattr(sums, "LEAST_BYTES", 0)
    monkeypatch.setattr(sums, "LEAST_PIXELS", 0)
    monkeypatch.setattr(fusion, "ROW_BYTES", 0)


def normalized(x, w, add=None, **attrs) -> Graph:
    """Mean and squared deviations of a convolution, and numbers made of both."""
    with Builder("normalized") as b:
        y = get("conv")(b.input("x", x), b.input("w", w), **attrs)
        if add is not None:
            y = y + add
        wide = y if y.dtype == f64 else sugar.cast(y, f32)
        mean = sugar.mean(wide, (0, 1, 2), keepdims=True)
        off = wide - mean
        squares, rest = (sugar.reduce("reduce_sum", d, (0, 1, 2)) for d in (off * off, off))
        old = b.variable("moving", squares.type)
        mean = sugar.reshape(mean, squares.shape)
        results = {"y": y, "mean": mean, "squares": squares, "rest": 0 * rest}
        return b.finish(results, [(old, old * 0.5 + mean)])


CASES = {
    "minimal filtering": (f32(2, 16, 16, 16), f32(3, 3, 16, 32), attributes(SAME)),
    "tails": (f32(3, 13, 9, 5), f32(3, 3, 5, 7), attributes(SAME)),
    "one tap": (f32(4, 9, 7, 6), f32(1, 1, 6, 20), attributes(NONE)),
    "one tap, strides": (f32(2, 9, 9, 16), f32(1, 1, 16, 18), attributes(NONE, (2, 2))),
    "strides": (f32(2, 11, 8, 4), f32(3, 3, 4, 40), attributes(SAME, (2, 2))),
    "depthwise": (f32(3, 7, 7, 24), f32(3, 3, 1, 24), attributes(SAME, groups=24)),
    "groups": (f32(2, 6, 6, 8), f32(3, 3, 2, 12), attributes(SAME, groups=4)),
    "dilation": (f32(1, 9, 9, 4), f32(3, 3, 4, 33), attributes(((2, 2), (2, 2)), dilation=(2, 2))),
    "one pixel": (f32(5, 3, 3, 4), f32(3, 3, 4, 33), attributes(NONE)),
    "f64": (f64(1, 5, 5, 3), f64(3, 3, 3, 9), attributes(SAME)),
    "f16": (f16(2, 5, 5, 4), f16(3, 3, 4, 9), attributes(SAME)),
    "bf16": (bf16(2, 9, 9, 16), bf16(3, 3, 16, 18), attributes(SAME)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_statistics(case):
    x, w, attrs = case
    graph = normalized(x, w, **attrs)
    kernel = only_kernel(graph)
    assert kernel.root == "conv"
    assert kernel.has_sums
    check_graph(graph, arrays_for(graph), factor=40)


def test_tasks_have_sums_of_their_own():
    graph = normalized(f32(4, 40, 40, 16), f32(3, 3, 16, 24), **attributes(SAME))
    assert is_parallel(lower_kernel(only_kernel(graph), TARGET.machine))
    arrays = arrays_for(graph)
    check_graph(graph, arrays, factor=40)
    program = compiled(graph)
    first, second = (run_compiled(program, arrays).outputs for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.parametrize("mean", [1e4, -1e6])
def test_large_means(mean):
    """A sum of squares minus a squared sum would leave no digit."""
    graph = normalized(f32(4, 24, 24, 8), f32(1, 1, 8, 16), add=mean, **attributes(NONE))
    assert only_kernel(graph).has_sums
    arrays = arrays_for(graph)
    got = run_compiled(compiled(graph), arrays).outputs
    wide = got["y"].astype(np.float64)
    np.testing.assert_allclose(got["mean"], wide.mean((0, 1, 2)), rtol=1e-6)
    off = wide - got["mean"].astype(np.float64)
    np.testing.assert_allclose(got["squares"], (off * off).sum((0, 1, 2)), rtol=1e-4)


def gradient(dy, w, shape, **attrs) -> Graph:
    """A masked gradient and the two sums of it that a normalization needs."""
    with Builder("gradient") as b:
        x, mask = (b.input(name, dy.with_shape(shape)) for name in ("x", "mask"))
        dx = get("conv_input_grad")(b.input("dy", dy), b.input("w", w), input_shape=shape, **attrs)
        dx = dx * mask
        total, product = (sugar.reduce("reduce_sum", v, (0, 1, 2)) for v in (dx, dx * x))
        old = b.variable("gamma", total.type)
        results = {"dx": dx, "total": total, "product": product * old + total}
        return b.finish(results, [(old, old - product)])


GRADIENTS = {
    "one tap": (f32(4, 9, 7, 20), f32(1, 1, 6, 20), (4, 9, 7, 6), attributes(NONE)),
    "depthwise": (f32(3, 7, 7, 24), f32(3, 3, 1, 24), (3, 7, 7, 24), attributes(SAME, groups=24)),
    "one tap, strides": (
        f32(2, 5, 5, 10), f32(1, 1, 3, 10), (2, 9, 9, 3), attributes(NONE, (2, 2)),
    ),
    "bf16": (bf16(4, 9, 7, 20), bf16(1, 1, 6, 20), (4, 9, 7, 6), attributes(NONE)),
    "f64": (f64(4, 9, 7, 20), f64(1, 1, 6, 20), (4, 9, 7, 6), attributes(NONE)),
}  # fmt: skip


@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS)
def test_sums_of_gradients(case):
    dy, w, shape, attrs = case
    graph = gradient(dy, w, shape, **attrs)
    assert only_kernel(graph).has_sums
    check_graph(graph, arrays_for(graph), factor=40)


def product(a, b, transpose_a=False, transpose_b=False) -> Graph:
    """A masked product, as a gradient through an activation, and its sums: that of a bias."""
    with Builder("product") as builder:
        operands = builder.input("a", a), builder.input("b", b)
        y = get("matmul")(*operands, transpose_a=transpose_a, transpose_b=transpose_b)
        y = y * builder.input("mask", y.type)
        total = sugar.reduce("reduce_sum", y, tuple(range(y.ndim - 1)))
        old = builder.variable("bias", total.type)
        return builder.finish({"y": y, "total": total}, [(old, old - total)])


PRODUCTS = {
    "tails": (f32(70, 33), f32(33, 50)),
    "rows of a kernel": (f32(70, 33), f32(50, 33), False, True),
    "columns of an image": (f32(33, 70), f32(33, 50), True, False),
    "batches": (f32(3, 20, 16), f32(3, 16, 24)),
    "few columns": (f32(300, 64), f32(3, 64), False, True),
    "few rows": (f32(2, 64), f32(300, 64), False, True),
    "a long sum": (f32(9001, 40), f32(9001, 24), True, False),
    "a long sum of few": (f32(20, 30_000), f32(30_000, 40)),
    "many rows": (f32(9000, 40), f32(40, 72)),
    "nothing to sum": (f32(5, 0), f32(0, 8)),
    "f64": (f64(70, 33), f64(33, 50)),
    "f16": (f16(70, 33), f16(33, 50)),
    "bf16": (bf16(70, 34), bf16(34, 50)),
    "bf16, odd": (bf16(300, 33), bf16(50, 33), False, True),
}


@pytest.mark.parametrize("case", PRODUCTS.values(), ids=PRODUCTS)
def test_sums_of_products(case):
    graph = product(*case)
    assert only_kernel(graph).has_sums
    check_graph(graph, arrays_for(graph), factor=100)


def test_of_several_taps_what_reads_further_arrays_is_a_pass_of_its_own():
    case = f32(2, 8, 8, 12), f32(3, 3, 8, 12), (2, 8, 8, 8)
    roots = [call.kernel.root for call in fusion.fuse(gradient(*case, **attributes(SAME)))]
    assert roots == ["conv_input_grad", "reduce_sum"]


def test_a_sum_of_what_another_sum_decides_is_a_pass_of_its_own():
    """As in the gradient of a normalization whose cotangent does not depend on the forward half."""
    with Builder("weighted") as b:
        x, w = b.input("x", f32(2, 9, 8, 5)), b.input("w", f32(1, 1, 5, 7))
        y = get("conv")(x, w, **attributes(NONE))
        g = b.input("g", y.type)
        off = y - sugar.mean(y, (0, 1, 2), keepdims=True)
        squares, weighted = (get("reduce_sum")(d, axes=(0, 1, 2)) for d in (off * off, off * g))
        graph = b.finish({"squares": squares, "weighted": weighted})
    first, *others = fusion.fuse(graph)
    assert first.kernel.has_sums
    assert others
    check_graph(graph, arrays_for(graph), factor=4.0)


def test_plans_run_in_place():
    """States may lie under sums, and gradients under what masks them."""
    dy, w, shape, attrs = GRADIENTS["one tap"]
    for graph in (
        gradient(dy, w, shape, **attrs),
        normalized(*CASES["tails"][:2], **CASES["tails"][2]),
    ):
        planned = plan(graph, fusion.fuse(graph))
        (call,) = planned.calls
        assert planned.in_place(call)
        arrays = arrays_for(graph)
        native, interpreted = check_graph(graph, arrays, factor=40), run_plan(planned, arrays)
        for name, value in native.updates.items():
            np.testing.assert_allclose(interpreted.updates[name], value, rtol=1e-4, atol=1e-4)
