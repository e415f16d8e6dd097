"""Every function of `ops` against Keras' of the same name on JAX, eagerly and traced."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

import hornfels
from hornfels.errors import ArgumentError, DTypeError, ShapeError
from hornfels.frontend.trace import Trace
from hornfels.ir import evaluate
from hornfels.ir.types import boolean, f16, f32, f64, i32, symbol, type_of

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

UNARY = {
    "exp": A, "expm1": A, "log": POSITIVE, "log1p": POSITIVE, "log2": POSITIVE, "log10": POSITIVE,
    "exp2": A, "sqrt": POSITIVE, "rsqrt": POSITIVE, "sin": A, "cos": A, "tan": UNIT, "sinh": A,
    "cosh": A, "tanh": A, "erf": A, "abs": A, "absolute": A, "negative": A, "sign": ODD,
    "square": A, "reciprocal": POSITIVE, "floor": A, "ceil": A, "round": A, "trunc": A,
    "isfinite": ODD, "isnan": ODD, "isinf": ODD, "nan_to_num": ODD, "logical_not": BOOLS,
    "relu": A, "relu6": 3 * A, "leaky_relu": A, "elu": A, "selu": A, "celu": A, "gelu": A,
    "sigmoid": 5 * A, "silu": A, "log_sigmoid": 9 * A, "softplus": 9 * A, "softsign": A,
    "hard_sigmoid": 2 * A, "hard_silu": 2 * A, "hard_tanh": A, "hard_shrink": A,
    "soft_shrink": A, "tanh_shrink": A, "squareplus": A, "sparse_plus": A, "sparse_sigmoid": A,
    "softmax": 5 * A, "log_softmax": 5 * A, "glu": A, "ravel": A, "zeros_like": A,
    "ones_like": A, "copy": A, "stop_gradient": A,
}  # fmt: skip
BINARY = [
    "add", "subtract", "multiply", "divide", "true_divide", "maximum", "minimum", "equal",
    "not_equal", "less", "less_equal", "greater", "greater_equal", "floor_divide", "mod",
    "logaddexp", "divide_no_nan", "isclose",
]  # fmt: skip
CALLS = [
    ("power", (POSITIVE, B), {}), ("power", (A, 2), {}), ("power", (POSITIVE, 0.5), {}),
    ("power", (A, 3), {}),
    ("logical_and", (BOOLS, MORE_BOOLS), {}), ("logical_or", (BOOLS, MORE_BOOLS), {}),
    ("logical_xor", (BOOLS, MORE_BOOLS), {}), ("add", (BOOLS, MORE_BOOLS), {}),
    ("multiply", (BOOLS, MORE_BOOLS), {}),
    ("bitwise_and", (ints(3), ints(3)), {}), ("bitwise_or", (ints(3), ints(3)), {}),
    ("bitwise_xor", (ints(3), ints(3)), {}),
    ("clip", (A, -1.0, 1.0), {}), ("clip", (ints(6), 1, 3), {}),
    ("where", (BOOLS, A, B), {}), ("where", (BOOLS, A, 0.0), {}),
    ("round", (A,), {"decimals": 2}), ("elu", (A,), {"alpha": 0.5}),
    ("celu", (A,), {"alpha": 0.5}), ("leaky_relu", (A,), {"negative_slope": 0.3}),
    ("gelu", (A,), {"approximate": False}), ("threshold", (A, 0.5, -1.0), {}),
    ("softmax", (CUBE,), {"axis": 1}), ("softmax", (CUBE,), {"axis": (1, 2)}),
    ("log_softmax", (CUBE,), {"axis": 0}),
    # reductions
    *[(name, (CUBE,), kw) for name in ("sum", "mean", "max", "min", "prod", "var", "std",
                                       "logsumexp", "amax", "amin")
      for kw in ({}, {"axis": 1}, {"axis": (0, 2), "keepdims": True}, {"axis": -1})],
    *[(name, (CUBE,), kw) for name in ("argmax", "argmin")
      for kw in ({}, {"axis": 1}, {"axis": -1, "keepdims": True})],
    ("any", (BOOLS,), {"axis": 0}), ("all", (BOOLS,), {"axis": 1, "keepdims": True}),
    ("sum", (BOOLS,), {}), ("mean", (ints(3, 4),), {"axis": 0}),
    ("count_nonzero", (ints(3, 4),), {"axis": 1}), ("max", (A,), {"initial": 9.0}),
    ("average", (A,), {"axis": 1, "weights": VECTOR}), ("norm", (A,), {"axis": 1}),
    ("norm", (VECTOR,), {"ord": 1}), ("norm", (VECTOR,), {"ord": np.inf}),
    # making
    ("zeros", ((2, 3),), {}), ("ones", ((2, 3),), {"dtype": "int32"}), ("full", ((2,), 7.0), {}),
    ("full_like", (A, 2.0), {}), ("arange", (5,), {}), ("arange", (1, 9, 2), {}),
    ("arange", (0.0, 1.0, 0.25), {}), ("linspace", (0.0, 1.0, 5), {}), ("eye", (3,), {}),
    ("eye", (3, 4, 1), {}), ("identity", (3,), {}), ("tri", (3, 4, -1), {}),
    ("tril", (A,), {}), ("triu", (CUBE,), {"k": 1}),
    # shape
    ("reshape", (CUBE, (4, -1)), {}), ("transpose", (CUBE,), {}),
    ("transpose", (CUBE,), {"axes": (1, 0, 2)}), ("swapaxes", (CUBE, 0, -1), {}),
    ("moveaxis", (CUBE, 0, 2), {}), ("moveaxis", (CUBE, [0, 1], [2, 0]), {}),
    ("expand_dims", (A, 1), {}), ("expand_dims", (A, (0, -1)), {}),
    ("squeeze", (floats(1, 3, 1),), {}), ("squeeze", (floats(1, 3, 1),), {"axis": -1}),
    ("broadcast_to", (VECTOR, (3, 4)), {}), ("flip", (CUBE,), {}), ("flip", (CUBE,), {"axis": 1}),
    ("repeat", (A, 2), {}), ("repeat", (A, 3), {"axis": 1}), ("tile", (A, (2, 1)), {}),
    ("tile", (VECTOR, (2, 3)), {}), ("roll", (A, 1), {}), ("roll", (A, -1), {"axis": 1}),
    # joining, splitting, taking
    ("concatenate", ([A, B],), {}), ("concatenate", ([A, B],), {"axis": -1}),
    ("stack", ([A, B],), {"axis": 1}), ("vstack", ([A, B],), {}), ("hstack", ([A, B],), {}),
    ("append", (A, B), {}), ("append", (A, B), {"axis": 0}),
    ("split", (CUBE, 2), {"axis": 2}), ("split", (CUBE, [1, 3]), {"axis": -1}),
    ("unstack", (CUBE,), {"axis": 1}), ("meshgrid", (VECTOR, floats(3)), {}),
    ("meshgrid", (VECTOR, floats(3)), {"indexing": "ij"}),
    ("take", (A, ints(5, high=3)), {"axis": 0}), ("take", (A, ints(2, 2, high=12)), {}),
    ("take", (A, np.array([-1, 0], np.int32)), {"axis": 1}),
    ("take_along_axis", (A, ints(3, 2, high=4)), {"axis": 1}),
    ("take_along_axis", (CUBE, ints(2, 1, 4, high=3)), {"axis": 1}),
    ("get_item", (CUBE, (0, slice(1, None))), {}),
    ("pad", (A, ((1, 2), (0, 1))), {}), ("pad", (A, 1), {"constant_values": 2.0}),
    ("pad", (A, ((1, 1), (2, 2))), {"mode": "reflect"}),
    ("pad", (A, ((1, 1), (2, 2))), {"mode": "symmetric"}),
    # products
    ("matmul", (A, floats(4, 5)), {}), ("matmul", (CUBE, floats(4, 5)), {}),
    ("matmul", (CUBE, floats(2, 4, 5)), {}), ("matmul", (VECTOR, floats(4, 5)), {}),
    ("dot", (A, VECTOR), {}), ("dot", (A, floats(2, 4, 5)), {}), ("inner", (A, B), {}),
    ("outer", (VECTOR, VECTOR), {}), ("tensordot", (CUBE, floats(3, 4, 5)), {"axes": 2}),
    ("tensordot", (A, CUBE), {"axes": [[1], [2]]}),
    ("einsum", ("ij,kj->ik", A, B), {}), ("einsum", ("bij,bkj->bik", CUBE, CUBE), {}),
    ("einsum", ("ijk->ki", CUBE), {}), ("einsum", ("ij,jk", A, floats(4, 2)), {}),
    ("einsum", ("abc,cd->abd", CUBE, floats(4, 2)), {}),
    ("normalize", (A,), {}), ("normalize", (A,), {"order": 1, "axis": 0}),
    # encoding
    ("one_hot", (ints(5), 4), {}), ("one_hot", (ints(2, 3), 5), {"axis": 1}),
    ("one_hot", (np.array([-1, 9], np.int32), 3), {}), ("multi_hot", (ints(3, 2), 5), {}),
    # convolution and pooling
    *[("conv", (IMAGE, KERNEL), kw) for kw in (
        {}, {"padding": "same"}, {"strides": 2, "padding": "same"}, {"strides": (2, 3)},
        {"dilation_rate": 2}, {"dilation_rate": 2, "padding": "same"})],
    ("conv", (IMAGE, floats(3, 3, 2, 6)), {}), ("conv", (floats(2, 9, 3), floats(3, 3, 5)), {}),
    ("conv", (floats(1, 5, 5, 5, 2), floats(2, 2, 2, 2, 3)), {"padding": "same"}),
    ("conv", (floats(2, 4, 7, 8), KERNEL), {"data_format": "channels_first"}),
    ("depthwise_conv", (IMAGE, floats(3, 3, 4, 2)), {"padding": "same"}),
    ("separable_conv", (IMAGE, floats(3, 3, 4, 1), floats(1, 1, 4, 5)), {}),
    *[(name, (IMAGE, 2), kw) for name in ("max_pool", "average_pool") for kw in (
        {"strides": 2}, {"strides": 2, "padding": "same"}, {"strides": 1, "padding": "same"},
        {"strides": 3})],
    ("max_pool", (IMAGE, (3, 2)), {"strides": (1, 2)}),
    ("average_pool", (floats(2, 3, 7, 8), 3),
     {"data_format": "channels_first", "strides": 3}),
    ("max_pool", (floats(2, 9, 3), 2), {"strides": 2}),
    # normalization
    ("moments", (CUBE, [0, 1]), {}), ("moments", (CUBE, 1), {"keepdims": True}),
    ("batch_normalization", (CUBE, VECTOR, VECTOR**2, -1), {"offset": VECTOR, "scale": VECTOR}),
    ("batch_normalization", (CUBE, floats(3), floats(3) ** 2, 1), {}),
    ("layer_normalization", (CUBE, VECTOR, VECTOR), {"epsilon": 1e-3}),
    ("rms_normalization", (CUBE, VECTOR), {"epsilon": 1e-3}),
    # losses
    ("categorical_crossentropy", (ONE_HOT, PROBABILITIES), {}),
    ("categorical_crossentropy", (ONE_HOT, A), {"from_logits": True}),
    ("categorical_crossentropy", (ONE_HOT, PROBABILITIES), {"axis": 0}),
    ("sparse_categorical_crossentropy", (ints(3, high=4), PROBABILITIES), {}),
    ("sparse_categorical_crossentropy", (ints(3, 1, high=4), A), {"from_logits": True}),
    ("binary_crossentropy", (BOOLS.astype(np.float32), UNIT**2), {}),
    ("binary_crossentropy", (BOOLS.astype(np.float32), 9 * A), {"from_logits": True}),
    ("cast", (A, "int32"), {}), ("cast", (A, "bool"), {}), ("cast", (BOOLS, "float32"), {}),
    ("saturate_cast", (100 * A, "uint8"), {}), ("convert_to_tensor", ([1, 2.5],), {}),
]  # fmt: skip
CALLS += [(name, (x,), {}) for name, x in UNARY.items()]
CALLS += [(name, (A, B), {}) for name in BINARY]
CALLS += [(name, (A, VECTOR), {}) for name in ("add", "divide", "maximum")]
CALLS += [(name, (A, 2), {}) for name in ("add", "subtract", "divide", "mod", "less")]
CALLS += [(name, (ints(3, 4), ints(4, low=1)), {}) for name in ("add", "divide", "floor_divide")]


def flat(result):
    return [np.asarray(r) for r in (result if isinstance(result, list | tuple) else [result])]


def assert_same(got, want, tolerance=2e-5):
    got, want = flat(got), flat(want)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        assert g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


def identifier(call):
    name, args, kwargs = call
    shapes = "-".join("x".join(map(str, a.shape)) for a in args if isinstance(a, np.ndarray))
    return f"{name}-{shapes}-{'-'.join(f'{k}={v}' for k, v in kwargs.items())}"


@pytest.mark.parametrize("call", CALLS, ids=[identifier(c)[:70] for c in CALLS])
def test_arrays_as_in_keras(call):
    name, args, kwargs = call
    assert_same(getattr(ops, name)(*args, **kwargs), getattr(keras.ops, name)(*args, **kwargs))


def trace_of(name, args, kwargs):
    """The graph of a call, float arrays among the arguments its inputs."""
    inputs = {}

    def lift(x):
        if isinstance(x, list) and x and isinstance(x[0], np.ndarray):
            return [lift(item) for item in x]
        if not (isinstance(x, np.ndarray) and x.dtype == np.float32):
            return x
        key = f"x{len(inputs)}"
        inputs[key] = x
        return trace.input(key, type_of(x))

    with Trace(name) as trace:
        result = getattr(ops, name)(*map(lift, args), **{k: lift(v) for k, v in kwargs.items()})
        results = result if isinstance(result, list | tuple) else [result]
        graph = trace.finish({str(i): r for i, r in enumerate(results)})
    return graph, inputs


TRACED = [c for c in CALLS if any(isinstance(a, np.ndarray) and a.dtype == np.float32
                                  for a in c[1])]  # fmt: skip


@pytest.mark.parametrize("call", TRACED[::3], ids=[identifier(c)[:70] for c in TRACED[::3]])
def test_traced_as_eager(call):
    name, args, kwargs = call
    graph, inputs = trace_of(name, args, kwargs)
    outputs = evaluate(graph, inputs).outputs
    eager = flat(getattr(ops, name)(*args, **kwargs))
    for got, want in zip(outputs.values(), eager, strict=True):
        np.testing.assert_array_equal(got, want)


DIFFERENTIABLE = [
    *[(n, (UNARY[n],), {}) for n in (
        "exp", "log", "sqrt", "rsqrt", "tanh", "erf", "relu", "relu6", "leaky_relu", "elu", "selu",
        "gelu", "sigmoid", "silu", "log_sigmoid", "softplus", "softsign", "hard_sigmoid",
        "hard_silu", "softmax", "log_softmax", "square", "abs", "celu", "squareplus")],
    ("gelu", (A,), {"approximate": False}), ("logsumexp", (CUBE,), {"axis": 1}),
    ("var", (CUBE,), {"axis": 1}), ("std", (CUBE,), {"axis": (0, 2)}), ("mean", (CUBE,), {}),
    ("max", (CUBE,), {"axis": 1}), ("prod", (CUBE,), {"axis": 1}),
    ("divide", (A, POSITIVE), {}), ("divide_no_nan", (A, np.abs(np.sign(B)) * BOOLS), {}),
    ("multiply", (A, VECTOR), {}), ("maximum", (A, B), {}), ("power", (POSITIVE, B), {}),
    ("matmul", (CUBE, floats(4, 5)), {}), ("einsum", ("bij,bkj->bik", CUBE, CUBE), {}),
    ("tensordot", (CUBE, floats(3, 4, 5)), {}), ("where", (BOOLS, A, B), {}),
    ("clip", (A, -1.0, 1.0), {}), ("take", (A, ints(5, high=3)), {"axis": 0}),
    ("pad", (A, ((1, 2), (0, 1))), {}), ("concatenate", ([A, B],), {"axis": 1}),
    ("conv", (IMAGE, KERNEL), {"padding": "same", "strides": 2}),
    ("conv", (IMAGE, floats(3, 3, 2, 6)), {}),
    ("depthwise_conv", (IMAGE, floats(3, 3, 4, 2)), {}),
    ("max_pool", (IMAGE, 2), {"strides": 2}),
    ("average_pool", (IMAGE, 3), {"strides": 2, "padding": "same"}),
    ("batch_normalization", (CUBE, VECTOR, VECTOR**2, -1), {"scale": VECTOR}),
    ("layer_normalization", (CUBE, VECTOR, VECTOR), {"epsilon": 1e-3}),
    ("rms_normalization", (CUBE, VECTOR), {"epsilon": 1e-3}),
    ("categorical_crossentropy", (ONE_HOT, PROBABILITIES), {}),
    ("sparse_categorical_crossentropy", (ints(3, high=4), A), {"from_logits": True}),
    ("binary_crossentropy", (BOOLS.astype(np.float32), 9 * A), {"from_logits": True}),
]  # fmt: skip


@pytest.mark.parametrize("call", DIFFERENTIABLE, ids=[identifier(c)[:70] for c in DIFFERENTIABLE])
def test_gradients_as_in_jax(call):
    name, args, kwargs = call
    variables = [a for a in args if isinstance(a, np.ndarray) and a.dtype == np.float32]
    if isinstance(args[0], list):
        variables = list(args[0])
    weights = np.random.default_rng(1)
    shape = flat(getattr(ops, name)(*args, **kwargs))[0].shape
    cotangent = weights.uniform(-1, 1, shape).astype(np.float32)

    def rebuilt(values):
        values = iter(values)
        if isinstance(args[0], list):
            return [list(values)]
        return [next(values) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a
                for a in args]  # fmt: skip

    def in_keras(*values):
        return (getattr(keras.ops, name)(*rebuilt(values), **kwargs) * cotangent).sum()

    wanted = jax.grad(in_keras, argnums=tuple(range(len(variables))))(*variables)
    with Trace("gradients") as trace:
        inputs = [trace.input(f"x{i}", type_of(v)) for i, v in enumerate(variables)]
        result = getattr(ops, name)(*rebuilt(inputs), **kwargs)
        grads = hornfels.gradients(ops.sum(result * cotangent), inputs)
        outputs = {str(i): ops.zeros_like(v) if g is None else g
                   for i, (g, v) in enumerate(zip(grads, inputs, strict=True))}  # fmt: skip
        graph = trace.finish(outputs)
    found = evaluate(graph, {f"x{i}": v for i, v in enumerate(variables)}).outputs
    for got, want in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


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


def test_signatures_are_those_of_keras():
    import inspect

    def signature(function):
        parameters = inspect.signature(function).parameters.values()
        return [
            (p.name, p.default)
            for p in parameters
            if p.kind is not p.VAR_KEYWORD and (function, p.name) != (ops.scan, "gradient")
        ]

    ours_alone = {"squared_difference", "standardize_dtype"}
    for name in set(ops.__all__) - ours_alone:
        assert signature(getattr(ops, name)) == signature(getattr(keras.ops, name)), name


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
        (lambda: ops.where(BOOLS), ArgumentError, "x1 and x2 must be given"),
        (lambda: ops.convert_to_tensor("text"), DTypeError, "no array of numbers"),
        (lambda: ops.einsum("ij,i", A), ArgumentError, "names 2 operands, got 1"),
        (lambda: ops.take_along_axis(A, ints(3, 2), axis=3), ShapeError, "axis must be in"),
        (lambda: ops.pad(A, ((1, 2),) * 3), ShapeError, "a pair for each of 2 axes"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
