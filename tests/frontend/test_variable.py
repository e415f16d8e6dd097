"""Variables outside of traces: what they hold, and who holds it for them."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest

import hornfels
from hornfels import Variable, ops
from hornfels.errors import ArgumentError, DTypeError, ShapeError
from hornfels.frontend.trace import Trace
from hornfels.frontend.variable import autocast
from hornfels.ir import Builder, evaluate
from hornfels.ir.types import bf16, f32, i32


def test_from_an_array():
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    v = Variable(given, name="table")
    assert (v.shape, v.ndim, v.dtype, v.size) == ((2, 3), 2, "float32", 6)
    assert (v.name, v.path, v.trainable) == ("table", "table", True)
    given[0, 0] = 100  # the variable has its own copy
    np.testing.assert_array_equal(v.numpy(), np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1.5, None, "float32"), (3, None, "int32"), (True, None, "bool"),
        ([1.0, 2.0], None, "float32"), (np.ones(2), None, "float64"), (1, "float16", "float16"),
        (np.zeros(2, np.uint8), None, "uint8"), (1.0, "bfloat16", "bfloat16"),
    ],
)  # fmt: skip
def test_dtype(value, dtype, expected):
    assert Variable(value, dtype=dtype).dtype == expected


def test_from_an_initializer():
    made = Variable("ones", shape=(2, 2))
    np.testing.assert_array_equal(made, np.ones((2, 2)))
    asked = []
    Variable(lambda shape, dtype: asked.append((shape, dtype)) or np.zeros(shape), shape=[3])
    assert asked == [((3,), "float32")]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Variable("zeros"), ArgumentError, "needs a shape"),
        (lambda: Variable("zeros", shape=(None, 3)), ShapeError, "all sizes must be known"),
        (lambda: Variable(0.0, name="a/b"), ArgumentError, "without '/'"),
        (lambda: Variable(lambda shape, dtype: np.ones(3), shape=(2,)), ShapeError, "must return"),
        (lambda: Variable(0.0, colour="red"), ArgumentError, "unknown arguments colour"),
        (lambda: Variable("text", shape=(2,)), ArgumentError, "text"),
        (lambda: Variable(np.array(["a"])), DTypeError, "dtype must be one of"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_assign():
    v = Variable(np.zeros(3), dtype="float32")
    v.assign([1, 2, 3])
    v.assign_add(np.ones(3))
    v.assign_sub(0.5 * v)
    np.testing.assert_array_equal(v, [1, 1.5, 2])
    assert v.dtype == "float32"


def test_assign_of_a_wrong_shape_leaves_the_variable_as_it_is():
    v = Variable(np.zeros(3, np.float32), name="v")
    with pytest.raises(ShapeError, match=r"variable 'v' is f32\[3\], got \(2,\)"):
        v.assign([1, 2])
    np.testing.assert_array_equal(v, np.zeros(3))


def test_the_value_cannot_be_changed_in_place():
    v = Variable(np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        v.value[0] = 1


def test_operators_and_conversions():
    v = Variable(np.array([1.0, 4.0], np.float32))
    np.testing.assert_array_equal(v + 1, [2, 5])
    np.testing.assert_array_equal(np.ones(2, np.float32) - v, [0, -3])
    np.testing.assert_array_equal(-v * v / 2, [-0.5, -8])
    np.testing.assert_array_equal(v**2 >= 2, [False, True])
    np.testing.assert_array_equal(ops.sqrt(v), [1, 2])
    assert v[1] == 4
    assert len(v) == 2
    assert float(Variable(2.5)) == 2.5
    assert int(Variable(7)) == 7
    assert bool(Variable(True))
    assert v @ v == 17


def test_equality_compares_elements():
    v = Variable(np.array([1.0, 2.0, 3.0], np.float32))
    w = Variable(np.array([1.0, 5.0, 3.0], np.float32))
    same = keras.Variable(v.numpy()) == keras.Variable(w.numpy())
    for found in (v == w, v == w.numpy(), w.numpy() == v, v == [1, 5, 3]):
        np.testing.assert_array_equal(found, same)
        assert found.dtype == bool
    np.testing.assert_array_equal(v != w, ~np.asarray(same))
    np.testing.assert_array_equal(w.numpy() != v, ~np.asarray(same))
    np.testing.assert_array_equal(v == 2, [False, True, False])
    assert Variable(3) % 2 == 1
    assert (v == None) is False  # noqa: E711 - what `==` says, not `is`
    assert (v != "v") is True


def test_sets_and_dicts_hold_variables_by_identity():
    v, w = Variable(1.0), Variable(1.0)
    assert {v: 1, w: 2}[w] == 2
    assert w not in {v}


def test_equality_in_a_trace():
    count = Variable(np.int32(4), name="count")
    with Trace("t") as trace:
        x = trace.input("x", i32(3))
        found = {"even": count % 2 == 0, "same": count == x, "other": x != count, "x": x == count}
        graph = trace.finish(found)
    found = evaluate(graph, {"x": np.int32([3, 4, 5]), "count": np.int32(4)}).outputs
    assert found["even"].tolist() is True
    assert found["same"].tolist() == found["x"].tolist() == [False, True, False]
    assert found["other"].tolist() == [True, False, True]


def test_paths_follow_name_scopes():
    with hornfels.name_scope("outer"), hornfels.name_scope("inner"):
        assert Variable(0.0, name="v").path == "outer/inner/v"
    assert Variable(0.0, name="v").path == "v"


class Shelf:
    """Keeps arrays elsewhere, as a session does."""

    def __init__(self):
        self.arrays = {}

    def read(self, variable):
        return self.arrays[variable.path].copy()

    def write(self, variable, array):
        self.arrays[variable.path] = array


def test_a_residence_holds_the_array():
    v = Variable(np.array([5, 6], np.float32), name="v")
    shelf = Shelf()
    v.move_to(shelf)
    np.testing.assert_array_equal(v.numpy(), [5, 6])
    np.testing.assert_array_equal(v + 1, [6, 7])
    v.assign([1, 2])
    np.testing.assert_array_equal(shelf.arrays["v"], [1, 2])
    assert shelf.arrays["v"].dtype == np.float32
    v.move_home(Shelf())  # which does not have it
    assert v.residence is shelf
    v.move_home(shelf)
    shelf.arrays.clear()
    np.testing.assert_array_equal(v.numpy(), [1, 2])


@pytest.mark.parametrize("home", [True, False])
def test_what_is_assigned_while_an_array_moves_is_not_lost(home):
    """Another thread assigns after the array was copied and before the copy counts."""
    v = Variable(np.zeros(2, np.float32), name="v")
    assigning = threading.Thread(target=v.assign, args=([1, 2],), daemon=True)

    def copied():
        assigning.start()
        assigning.join(0.1)  # it waits for the move

    class Slow(Shelf):
        def read(self, variable):
            array = super().read(variable)
            if home and not assigning.ident:
                copied()
            return array

        def write(self, variable, array):
            super().write(variable, array)
            if not home and not assigning.ident:
                copied()

    shelf = Slow()
    v.move_to(shelf)
    if home:
        v.move_home(shelf)
    assigning.join()
    np.testing.assert_array_equal(v.numpy(), [1, 2])


def test_autocast_reads_floats_in_another_dtype():
    v, n = Variable(np.ones(2, np.float32)), Variable(np.ones(2, np.int32))
    fixed = Variable(np.ones(2, np.float32), autocast=False)
    with autocast(bf16):
        assert (v.dtype, n.dtype, fixed.dtype) == ("bfloat16", "int32", "float32")
        assert ops.convert_to_tensor(v).dtype.name == "bfloat16"
    assert v.dtype == "float32"


def test_a_plain_builder_has_no_state():
    v = Variable(1.0, name="v")
    with Builder() as builder, pytest.raises(ArgumentError, match="a plain Builder has no state"):
        ops.add(builder.input("x", f32()), v)
