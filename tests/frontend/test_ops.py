"""What `ops` do beside Keras' values (test_ops_against_keras.py): gradients, sizes, refusals."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

import hornfels
from hornfels.errors import ArgumentError, DTypeError, ShapeError
from hornfels.frontend.trace import Trace
from hornfels.ir import evaluate
from hornfels.ir.types import boolean, f16, f32, f64, i32, symbol

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

ops = hornfels.ops
rng = np.random.default_rng(0)


def floats(*shape, low=-3.0, high=3.0):
    return rng.uniform(low, high, shape).astype(np.float32)


def ints(*shape, low=0, high=5):
    return rng.integers(low, high, shape).astype(np.int32)


A, B = floats(3, 4), floats(3, 4)
POSITIVE, UNIT = floats(3, 4, low=0.1), floats(3, 4, low=-0.9, high=0.9)
BOOLS, MORE_BOOLS = rng.random((3, 4)) > 0.5, rng.random((3, 4)) > 0.5
ODD = np.array([0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 1e30], np.float32)
VECTOR, CUBE = floats(4), floats(2, 3, 4)
IMAGE, KERNEL = floats(2, 7, 8, 4), floats(3, 3, 4, 6)
PROBABILITIES = rng.dirichlet(np.ones(4), 3).astype(np.float32)
ONE_HOT = np.eye(4, dtype=np.float32)[[0, 3, 1]]


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "selu", "softplus", "relu6", "silu"])
def test_gradient_of_activations_at_zero_as_in_jax(name):
    zero = np.zeros(1, np.float32)
    with Trace("g") as trace:
        x = trace.input("x", f32(1))
        (grad,) = hornfels.gradients(ops.sum(getattr(ops, name)(x)), [x])
        graph = trace.finish({"g": grad})
    wanted = jax.grad(lambda v: getattr(keras.ops, name)(v).sum())(zero)
    np.testing.assert_allclose(evaluate(graph, {"x": zero}).outputs["g"], wanted, rtol=1e-6)


def test_pools_step_by_their_window():
    assert ops.max_pool(IMAGE, 2).shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(ops.average_pool(IMAGE, 3), ops.average_pool(IMAGE, 3, 3))


def test_size_counts_the_elements():
    assert ops.size(CUBE) == 24


def test_python_numbers_give_way_to_the_tensor():
    with Trace("t") as trace:
        x = trace.input("x", f16(2))
        n = trace.input("n", i32(2))
        assert ops.add(x, 1.5).dtype is f16
        assert ops.multiply(2, x).dtype is f16
        assert ops.add(n, 1).dtype is i32
        assert ops.add(n, 1.5).dtype is f32
        assert ops.equal(n, 1).dtype is boolean


def test_symbolic_sizes_stay():
    with Trace("t") as trace:
        x = trace.input("x", f32(symbol("N"), 7, 7, 8))
        assert str(ops.reshape(x, (-1, 392)).type) == "f32[N,392]"
        assert str(ops.reshape(x, (ops.shape(x)[0], -1)).type) == "f32[N,392]"
        assert str(ops.mean(x, axis=(1, 2)).type) == "f32[N,8]"
        graph = trace.finish({"y": ops.sum(x) / ops.shape(x)[0]})
    ones = np.ones((5, 7, 7, 8), np.float32)
    np.testing.assert_allclose(evaluate(graph, {"x": ones}).outputs["y"], 392)


def test_cond_chooses_results_and_assignments():
    counter = hornfels.Variable(0, name="counter")
    other = hornfels.Variable(0, name="other")

    def up():
        counter.assign_add(1)
        return {"y": x * 2}

    def down():
        counter.assign_sub(1)
        other.assign(5)
        return {"y": x / 2}

    with Trace("t") as trace:
        x = trace.input("x", f32())
        result = ops.cond(x > 1, up, down)
        graph = trace.finish(result)
    for value, y, count, rest in ((4.0, 8, 1, 0), (1.0, 0.5, -1, 5)):
        run = evaluate(graph, {"x": np.float32(value), "counter": np.int32(0),
                               "other": np.int32(0)})  # fmt: skip
        assert (run.outputs["y"], run.updates["counter"], run.updates["other"]) == (y, count, rest)


def test_cond_on_known_numbers_runs_one_branch():
    assert ops.cond(np.array(True), lambda: 1, lambda: 1 / 0) == 1
    with Trace("t"):
        assert ops.cond(False, lambda: 1 / 0, lambda: 2) == 2


def test_cond_refuses_branches_that_differ():
    with Trace("t") as trace:
        x = trace.input("x", f32())
        with pytest.raises(ShapeError, match=r"one type, got f32\[\] and f32\[2\]"):
            ops.cond(x > 1, lambda: x, lambda: ops.stack([x, x]))
        with pytest.raises(ShapeError, match="pred must be a scalar"):
            ops.cond(ops.stack([x > 1, x > 2]), lambda: x, lambda: x)


def test_lists_of_traced_values_are_stacked():
    with Trace("t") as trace:
        x = trace.input("x", f32())
        y = ops.convert_to_tensor([[x, 1.0], [2.0, x]])
        graph = trace.finish({"y": y})
    np.testing.assert_array_equal(
        evaluate(graph, {"x": np.float32(5)}).outputs["y"], [[5, 1], [2, 5]]
    )


def test_float64_is_kept():
    assert ops.add(np.ones(2), 1.0).dtype == np.float64
    with Trace("t") as trace:
        assert ops.softmax(trace.input("x", f64(2, 3))).dtype is f64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.add(A, floats(5)), ShapeError, "add: shapes must broadcast"),
        (lambda: ops.reshape(A, (5, -1)), ShapeError, "reshape: .* must fit the elements"),
        (lambda: ops.sum(A, axis=2), ShapeError, "axis must be in"),
        (lambda: ops.concatenate([A, VECTOR]), ShapeError, "concat"),
        (lambda: ops.stack([A, VECTOR]), ShapeError, "stack: shapes must be equal"),
        (lambda: ops.split(A, 3, axis=1), ShapeError, "3 equal parts must fit size 4"),
        (lambda: ops.squeeze(A, axis=0), ShapeError, "axes .* must have size 1"),
        (lambda: ops.conv(IMAGE, floats(3, 3, 3, 6)), ShapeError, "multiple of the kernel's 3"),
        (lambda: ops.conv(A, KERNEL), ShapeError, "spatial axes and channels"),
        (lambda: ops.max_pool(IMAGE, 2, padding="full"), ArgumentError, "valid' or 'same"),
        (lambda: ops.max_pool(IMAGE, (2, 2, 2)), ArgumentError, "pool_size must be"),
        (lambda: ops.categorical_crossentropy(ints(3), A), ShapeError, "shape of output"),
        (lambda: ops.where(BOOLS, A), ArgumentError, "both or neither"),
        (lambda: ops.convert_to_tensor("text"), DTypeError, "no array of numbers"),
        (lambda: ops.einsum("ij,i", A), ArgumentError, "names 2 operands, got 1"),
        (lambda: ops.take_along_axis(A, ints(3, 2), axis=3), ShapeError, "axis must be in"),
        (lambda: ops.pad(A, ((1, 2),) * 3), ShapeError, "a pair for each of 2 axes"),
        (lambda: ops.sum(A, axis="rows"), ArgumentError, "axis must be an integer, got 'rows'"),
        (lambda: ops.sum(A, axis=1.0), ArgumentError, r"axis must be an integer, got 1\.0"),
        (lambda: ops.argmax(A, axis=(0, 1)), ArgumentError, r"an integer, got \(0, 1\)"),
        (lambda: ops.diff(A, axis=None), ArgumentError, "an integer, got None"),
        (lambda: ops.slice(A, (0, 0), (5, 2)), ShapeError, r"shape must fit into .*got \[5, 2\]"),
        (lambda: ops.slice(A, (0, 4), (1, -2)), ShapeError, r"got \[1, -2\]"),
        (lambda: ops.zeros((2, -1)), ShapeError, r"not be negative, got f32\[2,-1\]"),
        (lambda: ops.full((2, "a"), 1), ArgumentError, "a sequence of integers, got"),
        (lambda: ops.reshape(A, 2.5), ArgumentError, r"a sequence of integers, got 2\.5"),
        (lambda: hornfels.random.uniform((2, 2.5)), ArgumentError, "a sequence of integers, got"),
        (lambda: hornfels.random.uniform((-1,)), ShapeError, "not be negative"),
        (lambda: ops.arange(VECTOR), ShapeError, "start, stop and step must be scalars, got f32"),
        (lambda: ops.arange(0, 3, 0), ArgumentError, "step must not be 0"),
        (lambda: ops.stack([]), ArgumentError, r"at least one tensor, got \[\]"),
        (lambda: ops.concatenate(3), ArgumentError, "at least one tensor, got 3"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_flip_along_no_axis_gives_what_it_got():
    np.testing.assert_array_equal(ops.flip(A, axis=()), A)


def test_tensors_are_joined_from_any_sequence_of_them():
    rows = ops.stack(A)  # the rows of a tensor
    np.testing.assert_array_equal(rows, A)
    np.testing.assert_array_equal(ops.concatenate(x for x in (VECTOR, VECTOR)), [*VECTOR, *VECTOR])
