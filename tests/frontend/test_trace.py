"""Traces: variables become state, assignments become updates, gradients are taken inside."""

from __future__ import annotations

import numpy as np
import pytest

import hornfels
from hornfels import Trace, Variable, ops
from hornfels.errors import DTypeError, GradientError, ShapeError
from hornfels.frontend.trace import StateNames
from hornfels.ir import evaluate, verify
from hornfels.ir.types import f32, symbol


def test_reading_declares_state_once():
    w = Variable(np.ones(3, np.float32), name="w")
    with Trace("t") as trace:
        x = trace.input("x", f32(symbol("N"), 3))
        graph = trace.finish({"y": x * w + w})
    verify(graph)
    assert [v.name for v in graph.state] == ["w"]
    assert trace.variables == {"w": w}
    assert graph.updates == ()


def test_assigning_overlays_and_updates_at_the_end():
    v = Variable(np.float32(1), name="v")
    with Trace("t") as trace:
        x = trace.input("x", f32())
        v.assign(x)
        v.assign_add(10)
        graph = trace.finish({"now": v * 2})
    run = evaluate(graph, {"x": np.float32(3), "v": np.float32(1)})
    assert run.outputs["now"] == 26
    assert run.updates["v"] == 13
    assert v.numpy() == 1  # the trace itself changes nothing


def test_assigning_without_reading_makes_state_too():
    v = Variable(np.float32(1), name="v")
    with Trace("t") as trace:
        v.assign(trace.input("x", f32()))
        graph = trace.finish({})
    assert [s.name for s in graph.state] == ["v"]
    assert evaluate(graph, {"x": np.float32(3), "v": np.float32(1)}).updates["v"] == 3


@pytest.mark.parametrize("operation", [
    lambda x, v: x + v, lambda x, v: v + x, lambda x, v: x @ v, lambda x, v: x > v,
    lambda x, v: ops.maximum(x, v), lambda x, v: ops.stack([x, v]),
    lambda x, v: ops.convert_to_tensor([x, v]), lambda x, v: ops.where(x > 0, v, 0.0),
])  # fmt: skip
def test_no_operation_bakes_a_variable_into_the_graph(operation):
    v = Variable(np.ones(3, np.float32), name="v")
    with Trace("t") as trace:
        graph = trace.finish({"y": operation(trace.input("x", f32(3)), v)})
    assert [s.name for s in graph.state] == ["v"]


def test_equal_paths_get_different_names():
    a, b = Variable(np.float32(1), name="v"), Variable(np.float32(2), name="v")
    with Trace("t") as trace:
        graph = trace.finish({"y": ops.add(a, b)})
    assert [v.name for v in graph.state] == ["v", "v_1"]
    assert trace.variables == {"v": a, "v_1": b}


def test_names_can_be_shared_by_several_traces():
    a, b = Variable(np.float32(1), name="v"), Variable(np.float32(2), name="v")
    names = StateNames()
    assert (names[a], names[b]) == ("v", "v_1")
    with Trace("t", names) as trace:
        graph = trace.finish({"y": ops.add(b, 1)})
    assert [v.name for v in graph.state] == ["v_1"]


def test_a_variable_made_inside_is_state_with_its_initial_value():
    with Trace("t") as trace:
        v = Variable("ones", shape=(2,), name="v")
        graph = trace.finish({"y": v * 3})
    np.testing.assert_array_equal(v.numpy(), [1, 1])
    assert [s.name for s in graph.state] == ["v"]


def test_refusals():
    v = Variable(np.zeros(3, np.float32), name="v")
    with Trace("t") as trace:
        x = trace.input("x", f32(2))
        with pytest.raises(ShapeError, match=r"variable 'v' is f32\[3\], got f32\[2\]"):
            v.assign(x)
        with pytest.raises(DTypeError, match="cannot hold the traced tensor"):
            Variable(x)
        with pytest.raises(DTypeError, match="not known while tracing"):
            bool(x[0] > 0)


def test_gradients_of_variables_and_values():
    w = Variable(np.array([1, 2], np.float32), name="w")
    unused = Variable(np.float32(0), name="unused")
    with Trace("t") as trace:
        x = trace.input("x", f32(2))
        loss = ops.sum(ops.square(w * x))
        by_w, by_x, none = hornfels.gradients(loss, [w, x, unused])
        graph = trace.finish({"w": by_w, "x": by_x})
    assert none is None
    assert [v.name for v in graph.state] == ["w"]  # nothing reads the other one
    run = evaluate(graph, {"x": np.array([3, 4], np.float32), "w": w.numpy()})
    np.testing.assert_array_equal(run.outputs["w"], [18, 64])
    np.testing.assert_array_equal(run.outputs["x"], [6, 32])


def test_gradients_of_gradients():
    with Trace("t") as trace:
        x = trace.input("x", f32())
        (first,) = hornfels.gradients(x**3, [x])
        (second,) = hornfels.gradients(first, [x])
        graph = trace.finish({"y": second})
    assert evaluate(graph, {"x": np.float32(2)}).outputs["y"] == 12


def test_gradients_need_a_trace():
    v = Variable(1.0)
    with pytest.raises(GradientError, match="needs a loss that is traced"):
        hornfels.gradients(ops.square(v), [v])


def test_tracing_is_fast():
    import time

    with Trace("t") as trace:
        x = trace.input("x", f32(symbol("N"), 8))
        y, start = x, time.thread_time()
        for _ in range(1000):
            y = ops.tanh(y * 2)
        seconds = time.thread_time() - start
    nodes = len(trace.finish({"y": y}).nodes)
    assert nodes == 4000
    assert nodes / seconds > 4000
