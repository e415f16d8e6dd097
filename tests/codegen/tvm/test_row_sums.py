"""Row kernels that add up rows: gradients of normalizations with those of their weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native import TARGET
from native_graph import arrays_for, check_graph, compiled, only_kernel, run_compiled, run_graph

from hornfels.ir import Builder, Graph, gradients, sugar
from hornfels.ir.op import get
from hornfels.ir.types import bf16, f16, f32, f64
from hornfels.passes import row_sums
from hornfels.passes.contracts import check_plan
from hornfels.passes.fusion import fuse
from hornfels.passes.interpret import run_plan
from hornfels.passes.pipeline import make_plan, optimize


@pytest.fixture(autouse=True)
def small_arrays_too(monkeypatch):
    monkeypatch.setattr(row_sums, "LEAST_BYTES", 0)


def layer_norm(x, gamma, beta):
    mean = sugar.mean(x, -1, keepdims=True)
    variance = sugar.mean((x - mean) * (x - mean), -1, keepdims=True)
    return (x - mean) * sugar.unary("rsqrt", variance + 1e-3) * gamma + beta


def rms_norm(x, gamma, beta):
    return x * sugar.unary("rsqrt", sugar.mean(x * x, -1, keepdims=True) + 0.5) * gamma + beta


def backward(function, *shape: int, dtype=f32, state: bool = False) -> Graph:
    """Gradients of the operand and the weights; or new weights."""
    with Builder("backward") as b:
        x, g = b.input("x", dtype(*shape)), b.input("g", dtype(*shape))
        declare = b.variable if state else b.input
        weights = [declare(name, dtype(shape[-1])) for name in ("gamma", "beta")]
        dx, *dw = gradients((function(x, *weights) * g).sum(), [x, *weights])
        if state:
            updates = [(w, w - d * 0.125) for w, d in zip(weights, dw, strict=True)]
            return optimize(b.finish({"dx": dx}, updates))
        return optimize(b.finish({"dx": dx, "gamma": dw[0], "beta": dw[1]}))


SHAPES = [(6, 10), (5, 64), (3, 127), (2, 131), (4, 257), (7, 2), (2, 3, 1, 33), (2, 5, 16)]


@pytest.mark.parametrize("function", [layer_norm, rms_norm])
def test_all_gradients_are_one_kernel(function):
    for shape in SHAPES:
        graph = backward(function, *shape)
        assert only_kernel(graph).root == "row_sums"
        check_graph(graph, arrays_for(graph), factor=30)


@pytest.mark.parametrize("dtype", [f64, f16, bf16])
def test_dtypes(dtype):
    graph = backward(rms_norm, 19, 37, dtype=dtype)
    assert only_kernel(graph).root == "row_sums"
    check_graph(graph, arrays_for(graph), factor=30)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (3, 1), (1, 1), (1, 50), (8, 8)])
def test_without_rows_or_places_or_with_as_many(shape):
    """Where sizes do not tell rows from columns there are more kernels."""
    graph = backward(rms_norm, *shape)
    assert "row_sums" not in {call.kernel.root for call in fuse(graph)}
    check_graph(graph, arrays_for(graph), factor=30)


def test_tasks_add_up_for_themselves_and_their_sums_are_added_in_order():
    graph = backward(layer_norm, 3001, 70)
    arrays = arrays_for(graph)
    check_graph(graph, arrays, factor=60)
    machine = replace(TARGET.machine, cores=3)
    program = compiled(graph, replace(TARGET, machine=machine))
    first, *others = (run_compiled(program, arrays).outputs for _ in range(4))
    for other in others:
        for name, array in other.items():
            np.testing.assert_array_equal(array, first[name])


def test_new_weights_lie_where_the_old_ones_do():
    """Rows read gamma, and all of them are done when it is replaced."""
    graph = backward(layer_norm, 30, 20, state=True)
    plan = make_plan(graph)
    check_plan(plan)
    assert [call.kernel.root for call in plan.calls] == ["row_sums"]
    for old, new in graph.updates:
        assert plan.slots[old] == plan.slots[new]
    arrays = arrays_for(graph)
    run_plan(plan, arrays)
    check_graph(graph, arrays, factor=30)


def test_a_gradient_may_lie_on_its_cotangent_which_is_added_up():
    """What is read only to be added up is not stored again, over what was stored in its place."""
    with Builder("chain") as b:
        x, h = (b.input(name, f32(30, 20)) for name in "xh")
        w, beta = b.input("w", f32(20, 20)), b.input("beta", f32(20))
        gamma = b.variable("gamma", f32(20))
        g = get("stop_gradient")(sugar.matmul(h, w))
        dx, dgamma, dbeta = gradients((layer_norm(x, gamma, beta) * g).sum(), [x, gamma, beta])
        outputs = {"y": sugar.matmul(dx, w), "dbeta": dbeta}
        graph = optimize(b.finish(outputs, [(gamma, gamma - dgamma * 0.125)]))
    plan = make_plan(graph)
    check_plan(plan)
    (call,) = (call for call in plan.calls if call.kernel.root == "row_sums")
    large = {plan.slots[v] for v in call.outputs if v.shape == (30, 20)}
    assert large <= {plan.slots[v] for v in call.inputs}
    check_graph(graph, arrays_for(graph), factor=30)


def test_sums_whose_results_rows_read_stay_outside():
    with Builder("centred") as b:
        x = b.input("x", f32(30, 20))
        column = x.sum(0, keepdims=True)
        row = (x * x).sum(1, keepdims=True)
        graph = optimize(b.finish({"y": x * row - column, "column": column}))
    assert "row_sums" not in {call.kernel.root for call in fuse(graph)}
    check_graph(graph, arrays_for(graph), factor=4)


@pytest.mark.parametrize("dims", [(30, 20), (3, 10, 20)])
def test_sums_of_what_another_sum_decides_stay_outside(dims):
    """Batch normalization behind a softmax: deviations wait for the mean over all rows."""
    with Builder("normalized") as b:
        x, axes = b.input("x", f32(*dims)), tuple(range(len(dims) - 1))
        e = get("exp")(x)
        p = e / e.sum(-1, keepdims=True)
        mean = sugar.mean(p, axes, keepdims=True)
        variance = sugar.mean((p - mean) * (p - mean), axes)
        graph = optimize(b.finish({"p": p, "mean": mean, "deviation": get("sqrt")(variance)}))
    check_plan(make_plan(graph))
    check_graph(graph, arrays_for(graph), factor=10)


def test_a_mean_is_exact_where_rows_are_many():
    """Sums of half types are added up in f32."""
    graph = backward(rms_norm, 4000, 8, dtype=bf16)
    assert only_kernel(graph).root == "row_sums"
    arrays = {name: np.ones_like(array) for name, array in arrays_for(graph).items()}
    found = run_graph(graph, arrays).outputs["beta"]
    np.testing.assert_array_equal(found.astype(np.float32), 4000.0)
