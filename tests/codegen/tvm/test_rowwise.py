"""Row kernels: softmax, norms and their gradients as one kernel each, against the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native import TARGET
from native_graph import arrays_for, check_graph, compiled, only_kernel, run_compiled

from hornfels.codegen.tvm.rowwise import Passes
from hornfels.ir import Builder, Graph, gradients, sugar
from hornfels.ir.op import get
from hornfels.ir.types import bf16, f16, f32, f64
from hornfels.passes import fusion
from hornfels.passes.fusion import fuse
from hornfels.passes.pipeline import optimize


def softmax(x, axis=-1):
    e = sugar.unary("exp", x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def norm(x, axis=-1):
    mean = sugar.mean(x, axis, keepdims=True)
    variance = sugar.mean((x - mean) * (x - mean), axis, keepdims=True)
    return (x - mean) * sugar.unary("rsqrt", variance + 1e-3)


def unit(x, axis=-1):
    return x * sugar.unary("rsqrt", (x * x).sum(axis, keepdims=True) + 1e-6)


def graph_of(function, x, *others, gradient: bool = False, **options) -> Graph:
    """`function` of an input `x`, or its gradient with a cotangent as second input."""
    with Builder(function.__name__) as b:
        v = b.input("x", x)
        y = function(v, **options)
        if not gradient:
            return b.finish({"y": y})
        g = b.input("g", x)
        (dx,) = gradients((y * g).sum(), [v])
        return b.finish({"dx": dx})


SHAPES = [(6, 10), (5, 64), (3, 127), (2, 131), (4, 257), (7, 2), (1, 50), (50,), (2, 3, 1, 33)]


@pytest.mark.parametrize("function", [softmax, norm, unit])
def test_rows_of_every_length(function):
    for shape in SHAPES:
        graph = graph_of(function, f32(*shape))
        assert only_kernel(graph).root == "row"
        check_graph(graph, arrays_for(graph), factor=4)


@pytest.mark.parametrize("function", [softmax, norm])
def test_gradients_are_one_kernel_once_the_rows_are(function):
    for shape in [(6, 10), (3, 131), (4, 5, 64)]:
        graph = optimize(graph_of(function, f32(*shape), gradient=True))
        calls = fuse(graph)
        assert [call.kernel.root for call in calls] == ["row"]
        check_graph(graph, arrays_for(graph), factor=20)


@pytest.mark.parametrize("function", [softmax, norm])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 7, 40), 1), ((2, 5, 3, 33), (1, 2)), ((9, 70), 0), ((2, 6, 4, 5), (1, 3)),
     ((5, 3, 16), (0, 1)), ((2, 3, 130), 1), ((4, 6, 1), 1), ((3, 7, 2, 5), (0, 2))],
)  # fmt: skip
def test_other_axes(function, shape, axis):
    """Softmax over any axis, the moments of an image, of a batch, of a group of channels."""
    graph = graph_of(function, f32(*shape), axis=axis)
    assert only_kernel(graph).root == "row"
    check_graph(graph, arrays_for(graph), factor=4)


@pytest.mark.parametrize("dtype", [f64, f16, bf16])
def test_dtypes(dtype):
    for function in (softmax, norm):
        for axis in (0, 1):
            graph = graph_of(function, dtype(19, 37), axis=axis)
            assert only_kernel(graph).root == "row"
            check_graph(graph, arrays_for(graph), factor=8)


def test_wide_sums_of_half_types():
    """The norm of bf16 values in f32, as layers do it."""

    def mixed(x):
        return sugar.cast(norm(sugar.cast(x, f32)), bf16)

    graph = graph_of(mixed, bf16(6, 77))
    assert only_kernel(graph).root == "row"
    check_graph(graph, arrays_for(graph))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,), (3, 1), (1, 1), (0, 0)])
def test_no_rows_or_rows_of_at_most_one_element(shape):
    for function in (norm, unit):
        graph = graph_of(function, f32(*shape))
        check_graph(graph, arrays_for(graph))


def test_long_rows_are_several_kernels():
    graph = graph_of(softmax, f32(3, 70_000))
    assert "row" not in {call.kernel.root for call in fuse(graph)}
    check_graph(graph, arrays_for(graph), factor=20)


def test_many_rows_are_split_over_threads():
    for shape, axis in [((3001, 65), -1), ((301, 9, 70), 1), ((40, 5000), 0)]:
        graph = graph_of(softmax, f32(*shape), axis=axis)
        check_graph(graph, arrays_for(graph), factor=4)


def test_an_infinite_score_and_no_number():
    graph = graph_of(softmax, f32(4, 37))
    x = np.random.default_rng(0).normal(size=(4, 37)).astype(np.float32)
    x[0, 3], x[1, :5], x[2, 36] = np.nan, -np.inf, 80
    check_graph(graph, {"x": x})


def test_loss_gradient_and_accuracy_share_a_kernel():
    """What is between the logits and their gradient; the sums over the batch come after."""
    with Builder("loss") as b:
        logits, labels = b.input("logits", f32(33, 10)), b.input("labels", f32(33, 10))
        p = softmax(logits)
        clipped = get("maximum")(p, sugar.broadcast_to(1e-7, p.shape))
        loss = -(labels * sugar.unary("log", clipped)).sum(1)
        (gradient,) = gradients(loss.sum(), [logits])
        right = sugar.compare("equal", get("argmax")(p, axis=1), get("argmax")(labels, axis=1))
        graph = b.finish({"loss": loss, "gradient": gradient, "right": right, "p": p})
    graph = optimize(graph)
    assert only_kernel(graph).root == "row"
    check_graph(graph, arrays_for(graph), factor=20)


def test_an_output_may_lie_where_the_row_was():
    """State that is normalized in place, and read no more once its row is written."""
    with Builder("in_place") as b:
        x = b.variable("x", f32(37, 65))
        graph = b.finish({}, [(x, norm(x) * x)])
    program = compiled(graph)
    (call,) = program.plan.calls
    assert call.kernel.root == "row"
    assert program.plan.in_place(call) == ((0, 0),)
    arrays = arrays_for(graph)
    check_graph(graph, arrays, factor=4)
    assert set(run_compiled(program, arrays).updates) == {"x"}


def test_what_is_costly_is_computed_once():
    """The exponentials of a softmax are kept for the quotients; the differences are not."""
    kernel = only_kernel(graph_of(softmax, f32(8, 64)))
    passes = Passes(kernel.body, 1 << 20)
    assert [[n.op.name for n in stage] for stage in passes.stages] == [
        ["reduce_max"], ["reduce_sum"],
    ]  # fmt: skip
    assert [[v.node.op.name for v in kept] for kept in passes.kept] == [[], ["exp"]]
    assert Passes(kernel.body, 8).kept == [[], []], "where there is no room nothing is kept"


def test_a_small_machine():
    target = replace(TARGET, machine=replace(TARGET.machine, vector_bits=128, l1=1 << 10))
    for shape, axis in [((5, 37), 1), ((5, 3, 21), 1)]:
        graph = graph_of(softmax, f32(*shape), axis=axis)
        arrays = arrays_for(graph)
        got = run_compiled(compiled(graph, target), arrays).outputs["y"]
        e = np.exp(arrays["x"] - arrays["x"].max(axis, keepdims=True))
        np.testing.assert_allclose(got, e / e.sum(axis, keepdims=True), rtol=1e-5)


def test_a_kernel_that_reads_the_results_of_other_rows_is_refused(monkeypatch):
    """Fusion never makes one; if it did, no wrong numbers would come of it."""
    monkeypatch.setattr(fusion, "agree", lambda *_: True)
    with Builder("crossed") as b:
        x = b.input("x", f32(8, 8))
        graph = b.finish({"y": x - sugar.broadcast_to(x.sum(1), (8, 8))})
    with pytest.raises(AssertionError, match="not element by element"):
        compiled(graph)


def test_division_by_results_of_any_size():
    """Huge, tiny and special ones."""
    with Builder("quotients") as b:
        x, top = b.input("x", f32(10, 80)), b.input("top", f32(10, 80))
        graph = b.finish({"y": x / top.max(1, keepdims=True)})
    assert only_kernel(graph).root == "row"
    divisors = [3e38, 2.0**127, 1.2e-38, 7.0, 0.0, np.inf, np.nan, 1e-30, 3.3e37, 1.0]
    top = np.full((10, 80), -np.inf, np.float32)
    top[:, 5] = divisors
    x = np.linspace(-3, 3, 800, dtype=np.float32).reshape(10, 80)
    x[0] *= np.float32(1e38)
    x[7] *= np.float32(1e-30)
    x[:, 7], x[:, 8], x[:, 9] = 0, np.inf, np.nan
    check_graph(graph, {"x": x, "top": top})
