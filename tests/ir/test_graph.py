"""Building, rebuilding, specializing, printing, reading, verifying and evaluating graphs."""

from __future__ import annotations

import gc
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from hornfels import ir
from hornfels.ir.errors import (
    ArgumentError,
    DTypeError,
    GradientError,
    ParseError,
    ShapeError,
    VerifyError,
)  # fmt: skip
from hornfels.ir.graph import Node, Value, is_among, same
from hornfels.ir.types import boolean, f32, f64, i32, symbol

N = symbol("N")


def linear() -> ir.Graph:
    """A linear model's loss and its update by gradient descent."""
    with ir.Builder("linear") as b:
        x, y = b.input("x", f32(N, 3)), b.input("y", f32(N, 4))
        w = b.variable("dense/kernel", f32(3, 4))
        with b.scope("dense"):
            error = x @ w - y
        loss = (error * error).mean()
        (g,) = ir.gradients(loss, [w])
        return b.finish({"loss": loss}, [(w, w - 0.1 * g)])


def arrays(seed: int = 0, n: int = 5) -> dict[str, np.ndarray]:
    r = np.random.default_rng(seed)
    return {"x": r.normal(size=(n, 3)).astype("f"), "y": r.normal(size=(n, 4)).astype("f"),
            "dense/kernel": r.normal(size=(3, 4)).astype("f")}  # fmt: skip


def test_a_step_of_gradient_descent_is_right():
    a = arrays()
    result = ir.evaluate(linear(), a)
    error = a["x"].astype("d") @ a["dense/kernel"] - a["y"]
    np.testing.assert_allclose(result.outputs["loss"], (error**2).mean(), rtol=1e-6)
    step = a["dense/kernel"] - 0.1 * a["x"].T @ (2 * error / error.size)
    np.testing.assert_allclose(result.updates["dense/kernel"], step, rtol=1e-5)


def test_specialize_binds_every_size():
    graph = ir.verify(linear().specialize({"N": 5}))
    assert graph.symbols == ()
    expected, found = ir.evaluate(linear(), arrays()), ir.evaluate(graph, arrays())
    np.testing.assert_allclose(found.outputs["loss"], expected.outputs["loss"], rtol=1e-6)
    assert graph.specialize({"N": 5}) is graph
    with pytest.raises(ShapeError, match="N must be 0 or more, got -1"):
        linear().specialize({"N": -1})


def test_text_reads_back():
    text = str(linear())
    again = ir.parse(text)
    assert str(again) == text
    ir.verify(again)
    assert (
        ir.evaluate(again, arrays()).outputs["loss"]
        == ir.evaluate(linear(), arrays()).outputs["loss"]
    )
    assert "# dense (test_graph.py:" in text


def test_every_kind_of_attribute_reads_back():
    special, tiny = np.array([1.5, np.inf, -np.inf, np.nan], "f"), np.array([1e-45, 0.1], "f")
    values = [special, tiny, np.array(True), np.zeros((0, 2)), np.arange(40), np.float16(0.1)]
    with ir.Builder("constants") as b:
        outputs = {f"c{i}": ir.constant(np.asarray(v)) for i, v in enumerate(values)}
        x = b.input("x", f32(N, 2))
        outputs["full"] = ir.sugar.full((N, 2), 3.0, "f32") + x
        graph = b.finish(outputs)
    again = ir.parse(str(graph))
    assert str(again) == str(graph)
    found = ir.evaluate(again, {"x": np.zeros((3, 2), "f")}).outputs
    for i, v in enumerate(values):
        assert found[f"c{i}"].dtype == np.asarray(v).dtype
        np.testing.assert_array_equal(found[f"c{i}"], v)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a head"),
        ("graph g(%x: f32[2]) {\n  %0: f32[3] = neg(%x)\n  return y=%0\n}",
         "line 2: neg gives f32[2], the text says f32[3]"),
        ("graph g(%x: f32[2]) {\n  %0: f32[2] = neg(%z)\n  return y=%0\n}", "line 2: %z is not"),
        ("graph g(%x: f32[2]) {\n  %0: f32[2] = nag(%x)\n  return y=%0\n}", "line 2: no op is"),
        ("graph g(%x: f32[2]) {\n  return y=%0\n}", "line 2: %0 is not"),
        ("graph g(%x f32[2]) {\n  %0: f32[2] = neg(%x)\n  return y=%0\n}", "line 1: cannot read"),
        ("graph g(%x: f32[2]) {\n  neg(%x)\n  return y=%x\n}", "line 2: expected"),
    ],
)  # fmt: skip
def test_a_wrong_text_is_refused_with_its_line(text, message):
    with pytest.raises(ParseError, match=re.escape(message)):
        ir.parse(text)


def test_rebuild_shares_what_it_keeps_and_drops_what_is_dead():
    graph = linear()
    same = graph.rebuild(lambda *_: None)
    assert same.nodes == graph.nodes
    with ir.Builder():
        zero = ir.constant(np.zeros((3, 4), "f"))
    cut = graph.rebuild(lambda n, _: (zero,) if n.output.shape == (3, 4) else None)
    assert len(cut.nodes) < len(graph.nodes)
    ir.verify(cut)


def test_users_count_operands():
    with ir.Builder() as b:
        x = b.input("x", f32(2))
        graph = b.finish({"y": x * x})
    assert len(graph.users[x]) == 2


def test_verify_finds_what_is_wrong():
    graph = linear()
    first = graph.nodes[0]
    with pytest.raises(VerifyError, match="used before it is defined"):
        ir.verify(replace(graph, nodes=graph.nodes[::-1]))
    with pytest.raises(VerifyError, match="named 'x'"):
        ir.verify(replace(graph, inputs=(*graph.inputs, Value(f32(), name="x"))))
    with pytest.raises(VerifyError, match="cannot name"):
        ir.verify(replace(graph, inputs=(*graph.inputs, Value(f32(), name="1"))))
    with pytest.raises(VerifyError, match="no state"):
        ir.verify(replace(graph, updates=((graph.inputs[0], graph.inputs[0]),)))
    with pytest.raises(VerifyError, match="its update"):
        ir.verify(replace(graph, updates=((graph.state[0], graph.outputs[0]),)))
    with pytest.raises(VerifyError, match="twice"):
        ir.verify(replace(graph, updates=graph.updates * 2))
    wrong = Node(first.op, first.inputs, first.attrs, first.source)
    wrong.outputs = (Value(f32(7), wrong),)
    with pytest.raises(VerifyError, match="outputs must be"):
        ir.verify(replace(graph, nodes=(wrong,), outputs=(wrong.output,), updates=()))


def test_evaluate_checks_the_arrays():
    a = arrays()
    with pytest.raises(ShapeError, match="no array is given for %y"):
        ir.evaluate(linear(), {k: v for k, v in a.items() if k != "y"})
    with pytest.raises(DTypeError, match=r"x must be f32\[N,3\], got f64\[5,3\]"):
        ir.evaluate(linear(), a | {"x": a["x"].astype("d")})
    with pytest.raises(ShapeError, match=r"y must be f32\[N,4\], got f32\[6,4\]"):
        ir.evaluate(linear(), a | {"y": np.zeros((6, 4), "f")})


def test_errors_say_layer_and_line():
    with ir.Builder() as b, b.scope("head"):
        x = b.input("x", f32(2, 3))
        with pytest.raises(ShapeError) as caught:
            ir.REGISTRY["matmul"](x, x)
    assert "layer 'head' (test_graph.py:" in str(caught.value)


def test_iteration_goes_along_a_fixed_first_axis():
    with ir.Builder("rows") as b:
        x, rows = b.input("x", f32(3, 2)), b.input("rows", f32(symbol("N"), 2))
        first, second, third = x
        assert first.type == second.type == third.type == f32(2)
        for value in (rows, x[0, 0]):
            with pytest.raises(ShapeError, match="iteration needs a first axis of fixed size"):
                list(value)


def test_a_traced_tensor_has_no_numbers():
    with ir.Builder() as b:
        x = b.input("x", f32())
        with pytest.raises(DTypeError, match="not known while tracing"):
            bool(x > 0)
    with ir.EagerBuilder():
        assert bool(ir.constant(2.0) > 1)
    with pytest.raises(ArgumentError, match="no current Builder"):
        _ = x + 1


@pytest.mark.parametrize(
    "key",
    [0, -1, slice(1, 3), slice(None, None, 2), slice(None, None, -1), slice(3, 0, -2),
     (slice(None), 1), (..., 0), (None, 1, ..., slice(2, None)), (1, 2), slice(5, 2)],
)  # fmt: skip
def test_indexing_is_numpy_s(key):
    x = np.arange(24, dtype="f").reshape(4, 3, 2) if not isinstance(key, tuple) or len(
        key) < 3 else np.arange(24, dtype="f").reshape(4, 6)  # fmt: skip
    with ir.EagerBuilder():
        np.testing.assert_array_equal(np.asarray(ir.constant(x)[key]), x[key])


@pytest.mark.parametrize(
    ("a", "b"),
    [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)),
     ((2, 1, 2, 3), (5, 3, 4))],
)  # fmt: skip
def test_matmul_is_numpy_s(a, b):
    r = np.random.default_rng(0)
    x, y = r.normal(size=a), r.normal(size=b)
    with ir.EagerBuilder():
        found = np.asarray(ir.constant(x) @ ir.constant(y))
    np.testing.assert_allclose(found, x @ y, rtol=1e-12)


def test_operators_promote_and_broadcast():
    with ir.EagerBuilder():
        x = ir.constant(np.array([1, 2, 3], np.int32))
        assert (x + 1).dtype is i32
        assert (x + 1.5).dtype is f32
        assert (x / 2).dtype is f32
        assert (x > 1).dtype is boolean
        np.testing.assert_array_equal(np.asarray(-x % 2), [1, 0, 1])
        np.testing.assert_array_equal(np.asarray(-x // 2), [-1, -1, -2])
        np.testing.assert_array_equal(np.asarray(2 - x), [1, 0, -1])
        np.testing.assert_array_equal(np.asarray(np.ones((2, 1)) * x), np.tile([1.0, 2, 3], (2, 1)))
        with pytest.raises(ShapeError, match="must broadcast"):
            _ = x + np.ones(4)


def compared(p, q, x):
    """The comparisons of two tensors, or arrays, of i32[2,3] and f32[3]; `x` is `p` as an array."""
    return {"eq": p == q, "ne": p != q, "even": p % 2 == 0, "number": q == 5.0, "self": q == q,
            "other": q != q, "array": x == q, "unlike": x != q, "list": q == [1, 2, 3],
            "bools": (p > 3) == (p == 4)}  # fmt: skip


def test_equality_compares_elements():
    x, y = np.array([[1, 2, 3], [4, 5, 6]], np.int32), np.array([1.0, 5.0, np.nan], np.float32)
    with ir.Builder() as b:
        p, q = b.input("x", i32(2, 3)), b.input("y", f32(3))
        with pytest.raises(ShapeError, match="equal: shapes must broadcast"):
            _ = p == np.ones(4)
        graph = ir.verify(b.finish(compared(p, q, x)))
    assert all(v.dtype is boolean for v in graph.outputs)
    traced = ir.evaluate(graph, {"x": x, "y": y}).outputs
    with ir.EagerBuilder():
        eager = compared(ir.constant(x), ir.constant(y), x)
        assert ir.constant(3) % 2 == 1
    for name, want in compared(x, y, x).items():
        np.testing.assert_array_equal(traced[name], want, name)
        np.testing.assert_array_equal(np.asarray(eager[name]), want, name)


def test_equality_with_what_is_no_tensor_is_a_truth_value():
    with ir.Builder() as b:
        x = b.input("x", f32(3))
        for other in (None, "x", (), (None, 3), {}, object(), f32(3)):
            assert (x == other) is False
            assert (x != other) is True
        assert (x == None) is False  # noqa: E711 - the other order
        graph = b.finish({"x": x})
    assert graph.nodes == ()


def test_sets_dicts_and_the_helpers_compare_by_identity():
    with ir.Builder() as b:
        x, y = b.input("x", f32(3)), b.input("y", f32(3))
        assert {x: 1, y: 2}[y] == 2
        assert x not in {y}
        assert len({x, y, x}) == 2
        assert is_among(y, (x, y))
        assert not is_among(y, (x,))
        assert same((x, y), [x, y])
        assert not same((x, y), (y, x))
        assert not same((x,), (x, y))
        with pytest.raises(DTypeError, match=r"bool\(\) of a traced tensor"):
            assert x in (y, x)
        assert len(b.finish({"x": x}).nodes) == 0


def test_gradients_of_gradients():
    with ir.Builder() as b:
        x = b.input("x", f64(3))
        (first,) = ir.gradients((x * x * x).sum(), [x])
        (second,) = ir.gradients(first.sum(), [x])
        graph = b.finish({"first": first, "second": second})
    x = np.array([1.0, -2.0, 0.5])
    found = ir.evaluate(graph, {"x": x}).outputs
    np.testing.assert_allclose(found["first"], 3 * x**2)
    np.testing.assert_allclose(found["second"], 6 * x)


def test_gradients_that_do_not_exist():
    with ir.Builder() as b:
        x, y = b.input("x", f32(3)), b.input("y", f32(3))
        assert ir.gradients(x.sum(), [y]) == [None]
        with pytest.raises(GradientError, match="floating point"):
            ir.gradients((x > 0).astype("i32").sum(), [x])
        with pytest.raises(ShapeError, match="scalar"):
            ir.gradients(x, [x])
        graph = ir.gradient_graph(b.finish({"s": (x * y).sum()}), ["x", "y"])
    assert graph.output_names == ("s", "grad/x", "grad/y")


def test_a_frozen_weight_costs_nothing():
    with ir.Builder() as b:
        x, w, v = b.input("x", f32(8, 4)), b.variable("w", f32(4, 4)), b.variable("v", f32(4, 4))
        loss = ((x @ w).max(-1, keepdims=True) * (x @ v)).sum()
        (g,) = ir.gradients(loss, [v])
        graph = b.finish({"g": g})
    assert sum(n.op.name == "matmul" for n in graph.nodes) == 2  # x @ w, and the gradient of v


def test_numbers_that_are_computed_at_once_go_with_the_last_reference():
    """Nodes and their outputs refer to each other, and would wait for Python's collector."""
    gc.disable()
    tracemalloc.start()
    try:
        with ir.EagerBuilder():
            x = ir.constant(np.ones(1 << 18, np.float32))
            for _ in range(40):
                x = x * 1.0 + 0.0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert peak < 8 * x.type.nbytes
    assert x.constant.sum() == 1 << 18
    assert x.node.output is x
    assert x.node.attrs["value"] is x.constant


def test_what_is_computed_at_once_is_a_constant_of_graphs():
    with ir.EagerBuilder():
        table = ir.constant(np.arange(3, dtype=np.float32)) * 2.0
    with ir.Builder("g") as b:
        graph = b.finish({"y": b.input("x", f32(3)) + table})
    assert ir.parse(str(graph)).structure == graph.structure
    np.testing.assert_array_equal(
        ir.evaluate(graph, {"x": np.ones(3, np.float32)}).outputs["y"], [1, 3, 5]
    )
    with pytest.raises(ValueError, match="read-only"):
        table.constant[0] = 1
