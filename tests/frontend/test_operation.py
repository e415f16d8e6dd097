"""One body, three ways to run it."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels import Input, KerasTensor, Model, Trace, Variable, operation, ops
from hornfels.errors import DTypeError, ShapeError
from hornfels.ir import Value, evaluate
from hornfels.ir.types import f32


@operation
def scaled(x, factor=2.0, *, more=()):
    """A body that takes a nest and returns several things."""
    total = ops.multiply(x, factor)
    for item in more:
        total = ops.add(total, item)
    return {"total": total, "rank": ops.ndim(x)}


def test_arrays_are_evaluated_at_once():
    result = scaled(np.ones(3, np.float32), more=[np.ones(3, np.float32), 1.0])
    assert result["rank"] == 1
    assert type(result["total"]) is np.ndarray
    np.testing.assert_array_equal(result["total"], [4, 4, 4])
    result["total"][0] = 7  # the caller's own


def test_values_are_emitted():
    with Trace("t") as trace:
        x = trace.input("x", f32(3))
        result = scaled(x, more=[np.ones(3, np.float32)])
        assert isinstance(result["total"], Value)
        graph = trace.finish({"y": result["total"]})
    outputs = evaluate(graph, {"x": np.ones(3, np.float32)}).outputs
    np.testing.assert_array_equal(outputs["y"], [3, 3, 3])


def test_symbolic_tensors_are_recorded():
    x = Input((3,), name="x")
    result = scaled(x, 3.0, more=[x])
    assert result["total"].shape == (None, 3)
    assert result["rank"] == 2
    model = Model(x, result["total"])
    np.testing.assert_array_equal(model(np.ones((2, 3), np.float32)), np.full((2, 3), 4))


def test_name_and_doc_stay():
    assert scaled.__name__ == "scaled"
    assert "several things" in scaled.__doc__


def test_methods_can_be_operations():
    class Counter:
        def __init__(self):
            self.count = Variable(0, name="count")

        @operation
        def next(self, step):
            self.count.assign_add(step)
            return ops.convert_to_tensor(self.count)

    counter = Counter()
    assert counter.next(2) == 2
    assert counter.next(3) == 5
    counter.next(KerasTensor((), "int32"))  # shapes only: nothing is assigned
    assert counter.count.numpy() == 5


def test_shapes_of_open_sizes():
    x = Input((None, 7, 8), name="x")
    assert x.shape == (None, None, 7, 8)
    assert ops.reshape(x, (-1, 8)).shape == (None, 8)
    assert ops.transpose(x, (0, 2, 1, 3)).shape == (None, 7, None, 8)
    assert ops.matmul(x, np.ones((8, 3), np.float32)).shape == (None, None, 7, 3)
    assert ops.sum(x, axis=1).dtype == "float32"
    assert ops.argmax(x, axis=-1).dtype == "int32"


def test_open_sizes_of_two_inputs_differ_unless_they_must_be_equal():
    a, b = Input((None, 4), name="a"), Input((None, 4), name="b")
    assert ops.matmul(a, ops.transpose(b, (0, 2, 1))).shape == (None, None, None)
    assert ops.add(a, b).shape == (None, None, 4)
    assert ops.concatenate([a, b], axis=-1).shape == (None, None, 8)
    with pytest.raises(ShapeError, match=r"\[N, a_1, 4\] and \[N, c_1, 5\]"):
        ops.add(a, Input((None, 5), name="c"))


def test_operators_of_symbolic_tensors():
    x = Input((4,), name="x")
    y = (1.0 - x) * 2 / (abs(x) + 1) ** 2 @ np.ones((4, 2), np.float32)
    y = -y[:, 0]
    data = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    want = -(((1 - data) * 2 / (abs(data) + 1) ** 2) @ np.ones((4, 2), np.float32))[:, 0]
    np.testing.assert_allclose(Model(x, y)(data), want, rtol=1e-6)
    assert (x > 0).dtype == "bool"


def test_equality_of_symbolic_tensors_compares_elements():
    x, y = Input((3,), name="x"), Input((3,), name="y")
    scale = Variable(np.float32(2))
    model = Model([x, y], [x == y, x != y, x == 2, scale == x, np.ones(3, np.float32) != x])
    a, b = np.float32([[1, 2, 3]]), np.float32([[1, 0, 3]])
    want = [a == b, a != b, a == 2, a == 2, a != 1]
    for found, wanted in zip(model([a, b]), want, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert (x == None) is False  # noqa: E711 - what `==` says, not `is`
    assert (x != "x") is True
    assert {x: 1, y: 2}[y] == 2
    assert x not in {y}


def test_symbolic_tensors_have_no_numbers():
    x = Input((4,))
    for use in (bool, float, int, list, np.asarray):
        with pytest.raises(DTypeError, match="has no numbers yet"):
            use(x)
    with Trace("t") as trace, pytest.raises(DTypeError, match="has no numbers yet"):
        trace.input("v", f32(4)) + x


def test_errors_say_where():
    with pytest.raises(ShapeError, match=r"(?s)matmul: .*in test_operation.py:\d+"):
        ops.matmul(np.ones((2, 3)), np.ones((2, 3)))
