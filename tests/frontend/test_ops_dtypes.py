"""The dtype of every op's result, for all pairs of dtypes, is that of Keras on JAX.

Only types are compared: neither side computes anything.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import keras
import pytest
from op_cases.run import flat, function

import hornfels
from hornfels.errors import HornfelsError
from hornfels.frontend.trace import Trace
from hornfels.ir.types import TensorType, as_dtype, keras_name

DTYPES = ["bool", "int8", "int16", "int32", "uint8", "uint32", "float16", "bfloat16", "float32"]
"""All but those of 64 bits, which JAX does not have unless told so."""
NUMBERS = [True, 2, 2.5]

UNARY = [
    "abs", "angle", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh",
    "bitwise_invert", "cbrt", "ceil", "celu", "conj", "copy", "cos", "cosh", "deg2rad", "elu",
    "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "fabs", "floor", "gelu", "glu",
    "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "i0", "imag", "isfinite", "isinf",
    "isnan", "isneginf", "isposinf", "isreal", "leaky_relu", "log", "log10", "log1p", "log2",
    "log_sigmoid", "log_softmax", "logical_not", "nan_to_num", "negative", "rad2deg", "real",
    "reciprocal", "relu", "relu6", "round", "rsqrt", "selu", "sigmoid", "sign", "signbit",
    "silu", "sin", "sinc", "sinh", "soft_shrink", "softmax", "softplus", "softsign",
    "sparse_plus", "sparse_sigmoid", "sparsemax", "sqrt", "square", "squareplus", "tan", "tanh",
    "tanh_shrink", "trunc", "all", "any", "argmax", "argmin", "count_nonzero", "cumprod",
    "cumsum", "max", "min", "mean", "median", "logsumexp", "nanargmax", "nanargmin",
    "nancumprod", "nancumsum", "nanmax", "nanmean", "nanmedian", "nanmin", "nanprod", "nanstd",
    "nansum", "nanvar", "prod", "ptp", "std", "sum", "var", "average", "sort", "argsort",
    "diff", "trace", "diag", "diagonal", "diagflat", "tril", "triu", "ravel", "transpose",
    "flip", "fliplr", "flipud", "rot90", "trapezoid", "corrcoef", "size", "zeros_like",
    "ones_like", "empty_like", "normalize", "norm", "layer_normalization", "rms_normalization",
    "unstack", "array", "convert_to_tensor", "stop_gradient",
]  # fmt: skip
BINARY = [
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "equal", "not_equal", "less",
    "less_equal", "greater", "greater_equal", "floor_divide", "mod", "fmod", "power",
    "logaddexp", "logaddexp2", "divide_no_nan", "isclose", "allclose", "arctan2", "fmax",
    "fmin", "heaviside", "hypot", "nextafter", "ldexp", "gcd", "lcm", "bitwise_and",
    "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift", "logical_and",
    "logical_or", "logical_xor", "matmul", "dot", "inner", "outer", "vdot", "tensordot", "kron",
    "append", "isin",
]  # fmt: skip

V, M = (4,), (4, 4)


def spec(shape: tuple[int, ...], slot: int) -> tuple[Any, ...]:
    """A tensor of the dtype in that slot."""
    return ("tensor", shape, slot)


A, B = spec(V, 0), spec(V, 1)
OTHERS = [
    ("where", ("tensor", V, "bool"), A, B), ("where", ("tensor", V, "bool"), A, 2.5),
    ("where", ("tensor", V, "bool"), A, 2), ("clip", A, 1, 2.5), ("clip", A, 1, 3),
    ("cross", spec((4, 3), 0), spec((4, 3), 1)), ("correlate", A, spec((3,), 1)),
    ("searchsorted", A, spec((3,), 1)), ("digitize", A, spec((3,), 1)), ("take", A, B),
    ("einsum", "ij,jk->ik", spec(M, 0), spec(M, 1)), ("quantile", A, spec((3,), 1)),
    ("histogram", A), ("slice_update", A, [1], spec((2,), 0)), ("full_like", A, 2.5),
    ("top_k", A, 2), ("pad", A, 1), ("tile", A, 2), ("round", A, 1), ("round", A, -1),
    ("segment_sum", A, ("tensor", V, "int32"), 3), ("one_hot", A, 3), ("multi_hot", A, 3),
    ("linspace", spec((), 0), spec((), 1)), ("max_pool", spec((1, 4, 2), 0), 2),
    ("average_pool", spec((1, 4, 2), 0), 2), ("adaptive_average_pool", spec((1, 4, 2), 0), 2),
    ("adaptive_max_pool", spec((1, 4, 2), 0), 2), ("moments", spec(M, 0), [0]),
    ("conv", spec((1, 4, 2), 0), spec((2, 2, 3), 1)), ("vander", A), ("threshold", A, 0.5, 2.0),
    ("conv_transpose", spec((1, 4, 2), 0), spec((2, 3, 2), 0)),
    ("depthwise_conv", spec((1, 4, 2), 0), spec((2, 2, 3), 0)), ("in_top_k", A, spec(M, 1), 2),
    ("batch_normalization", spec((4, 3), 0), spec((3,), 1), spec((3,), 1), -1),
    ("dot_product_attention", *[spec((1, 4, 1, 2), s) for s in (0, 1, 1)]),
    ("psnr", A, B, 2.0), ("binary_crossentropy", A, B),
    ("categorical_crossentropy", spec((4, 2), 0), spec((4, 2), 1)),
    ("sparse_categorical_crossentropy", A, spec((4, 2), 1)), ("meshgrid", A, B),
    ("cdist", spec(M, 0), spec(M, 1)),
]  # fmt: skip


UNSYMMETRIC = {"add", "power", "ldexp", "append", "isin", "matmul", "bitwise_left_shift"}
"""Ops of which both orders of two dtypes are compared; `add` stands for all that promote alike."""


def is_float(dtype: str) -> bool:
    return "float" in dtype


DIFFERENT = {
    "dot_product_attention": lambda a, b: not (is_float(a) and is_float(b)),
    "binary_crossentropy": lambda a, b: not is_float(b),
    "batch_normalization": lambda a, b: not is_float(b),
    "psnr": lambda a, b: not (is_float(a) and is_float(b)),
}
"""Where Keras computes probabilities, moments or losses in integers; here they are floats."""


def in_keras(name: str, arguments: list[Any]) -> list[Any] | None:
    """Dtypes and shapes of the results, None where Keras refuses."""
    at = [i for i, x in enumerate(arguments) if isinstance(x, jax.ShapeDtypeStruct)]

    def run(*tensors: Any) -> Any:
        given = list(arguments)
        for i, x in zip(at, tensors, strict=True):
            given[i] = x
        return function(keras.ops, name)(*given)

    try:
        with warnings.catch_warnings():  # of JAX, about limits and bools as classes
            warnings.simplefilter("ignore")
            found = jax.eval_shape(run, *(arguments[i] for i in at))
    except (TypeError, ValueError, OverflowError, AssertionError):
        return None
    return [(str(y.dtype), tuple(y.shape)) for y in flat(found)]


def in_hornfels(name: str, arguments: list[Any]) -> list[Any] | str:
    try:
        with Trace("t") as trace:
            given = [
                trace.input(f"x{i}", TensorType(as_dtype(str(x.dtype)), x.shape))
                if isinstance(x, jax.ShapeDtypeStruct) else x
                for i, x in enumerate(arguments)
            ]  # fmt: skip
            found = flat(function(hornfels.ops, name)(*given))
    except HornfelsError as error:
        return str(error)
    return [(keras_name(y.dtype), tuple(y.shape)) for y in found]


def differences(name: str, arguments: list[Any]) -> list[Any]:
    wanted = in_keras(name, arguments)
    found = in_hornfels(name, arguments) if wanted is not None else None
    if found == wanted:
        return []
    return [(name, [getattr(x, "dtype", x) for x in arguments], found, wanted)]


def tensor(shape: tuple[int, ...], dtype: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("name", UNARY)
def test_of_one_operand(name):
    assert [d for dtype in DTYPES for d in differences(name, [tensor(M, dtype)])] == []


@pytest.mark.parametrize("name", BINARY)
def test_of_two_operands(name):
    found = []
    for i, a in enumerate(DTYPES):
        for b in DTYPES if name in UNSYMMETRIC else DTYPES[i:]:
            found += differences(name, [tensor(M, a), tensor(M, b)])
        for number in NUMBERS:
            found += differences(name, [tensor(M, a), number])
            found += differences(name, [number, tensor(M, a)])
    assert found == []


@pytest.mark.parametrize("call", OTHERS, ids=[c[0] for c in OTHERS])
def test_of_others(call):
    name, *arguments = call
    slots = {x[2] for x in arguments if isinstance(x, tuple) and x[0] == "tensor"}
    found = []
    for a in DTYPES:
        for b in DTYPES if 1 in slots else [a]:
            if name in DIFFERENT and DIFFERENT[name](a, b):
                continue
            dtypes = {0: a, 1: b}
            given = [
                tensor(x[1], dtypes.get(x[2], x[2])) if isinstance(x, tuple) else x
                for x in arguments
            ]
            found += differences(name, given)
    assert found == []


@pytest.mark.parametrize("name", ["add", "multiply", "maximum", "where", "concatenate", "matmul"])
def test_64_bits_are_those_of_jax(name):
    """With 64 bits enabled, where Keras leaves promotion to JAX."""
    found = []
    with jax.enable_x64(True):
        for a in DTYPES:
            for b in ("int64", "float64"):
                x, y = tensor(M, a), tensor(M, b)
                wanted = str(jax.numpy.promote_types(a, b))
                given = {"where": [tensor(M, "bool"), x, y], "concatenate": [x, y]}.get(
                    name, [x, y]
                )
                with Trace("t") as trace:
                    values = [
                        trace.input(f"x{i}", TensorType(as_dtype(str(v.dtype)), v.shape))
                        for i, v in enumerate(given)
                    ]
                    operation = function(hornfels.ops, name)
                    result = operation(values) if name == "concatenate" else operation(*values)
                if keras_name(result.dtype) != wanted:
                    found.append((a, b, result.dtype, wanted))
    assert found == []


@pytest.mark.parametrize(
    "name", ["exp", "sqrt", "sum", "mean", "sort", "softmax", "square", "cumsum"]
)
def test_64_bits_stay(name):
    with Trace("t") as trace:
        x, n = trace.input("x", as_dtype("float64")(4)), trace.input("n", as_dtype("int64")(4))
        operation = function(hornfels.ops, name)
        assert keras_name(operation(x).dtype) == "float64"
        whole = name in ("sum", "sort", "square", "cumsum")
        assert keras_name(operation(n).dtype) == ("int64" if whole else "float32")
