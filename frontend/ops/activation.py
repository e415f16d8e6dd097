"""Activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...ir import sugar
from ...ir.autodiff import gradients
from ...ir.builder import current
from ...ir.errors import ShapeError
from ...ir.graph import Value, outline
from ...ir.op import get as primitive
from ...ir.types import bf16, f16, f32, i32
from ..operation import operation
from .core import floating, tensor


@operation
def relu(x: Any) -> Any:
    """`max(x, 0)`; the gradient at 0 is 0."""
    return sugar.unary("relu", _number(tensor(x)))


def _number(x: Value) -> Value:
    """Bools as int32."""
    return sugar.cast(x, i32) if x.dtype.is_bool else x


@operation
def relu6(x: Any) -> Any:
    """`min(max(x, 0), 6)`; the gradient at 0 and 6 is 0."""
    inner = sugar.unary("relu", floating(x))
    return sugar.select(inner < 6, inner, 6)


@operation
def leaky_relu(x: Any, negative_slope: float = 0.2) -> Any:
    """`x` where it is not negative, `negative_slope * x` elsewhere."""
    x = floating(x)
    return sugar.select(x >= 0, x, x * negative_slope)


@operation
def elu(x: Any, alpha: float = 1.0) -> Any:
    """`x` where it is positive, `alpha * (exp(x) - 1)` elsewhere."""
    return _elu(floating(x), alpha)


def _elu(x: Value, alpha: float) -> Value:
    positive = x > 0
    inside = sugar.unary("expm1", sugar.select(positive, 0, x))  # no overflow in the gradient
    return sugar.select(positive, x, inside * alpha)


@operation
def selu(x: Any) -> Any:
    """`1.0507 * elu(x, 1.6733)`, which keeps mean 0 and variance 1 (Klambauer et al., 2017)."""
    return _elu(floating(x), 1.6732632423543772848170429916717) * 1.0507009873554804934193349852946


@operation
def celu(x: Any, alpha: float = 1.0) -> Any:
    """`max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))`."""
    x = floating(x)
    positive = x > 0
    inside = sugar.unary("expm1", sugar.select(positive, 0, x) / alpha)
    return sugar.select(positive, x, inside * alpha)


@operation
def sigmoid(x: Any) -> Any:
    """`1 / (1 + exp(-x))`."""
    return sugar.unary("sigmoid", floating(x))


@operation
def silu(x: Any) -> Any:
    """`x * sigmoid(x)`."""
    return _in_f32(floating(x), lambda x: x * sugar.unary("sigmoid", x))


@operation
def log_sigmoid(x: Any) -> Any:
    """`log(sigmoid(x))` without overflow."""
    return -softplus_of(-floating(x))


@operation
def softplus(x: Any) -> Any:
    """`log(1 + exp(x))` without overflow."""
    return softplus_of(floating(x))


def softplus_of(x: Value) -> Value:
    tail = sugar.unary("log1p", sugar.unary("exp", -sugar.unary("abs", x)))
    return sugar.binary("maximum", x, 0) + tail


@operation
def softsign(x: Any) -> Any:
    """`x / (1 + |x|)`."""
    x = floating(x)
    return x / (sugar.unary("abs", x) + 1)


@operation
def hard_sigmoid(x: Any) -> Any:
    """`min(max(x + 3, 0), 6) / 6`."""
    return relu6(floating(x) + 3) / 6


@operation
def hard_silu(x: Any) -> Any:
    """`x * hard_sigmoid(x)`."""
    x = floating(x)
    return x * hard_sigmoid(x)


@operation
def hard_tanh(x: Any) -> Any:
    """`x` limited to `[-1, 1]`."""
    x = _number(tensor(x))
    low = x if x.dtype.kind == "uint" else sugar.select(x < -1, -1, x)
    return sugar.select(x > 1, 1, low)


@operation
def hard_shrink(x: Any, threshold: float = 0.5) -> Any:
    """`x` where `|x| > threshold`, 0 elsewhere."""
    x = floating(x)
    return sugar.select(sugar.unary("abs", x) > threshold, x, 0)


@operation
def soft_shrink(x: Any, threshold: float = 0.5) -> Any:
    """`x` moved towards 0 by `threshold`, and 0 within it."""
    x = floating(x)
    return sugar.select(
        x > threshold, x - threshold, sugar.select(x < -threshold, x + threshold, 0)
    )


@operation
def tanh_shrink(x: Any) -> Any:
    """`x - tanh(x)`."""
    x = floating(x)
    return x - sugar.unary("tanh", x)


@operation
def threshold(x: Any, threshold: float, default_value: float) -> Any:
    """`x` where `x > threshold`, `default_value` elsewhere."""
    x = floating(x)
    return sugar.select(x > threshold, x, default_value)


@operation
def squareplus(x: Any, b: float = 4) -> Any:
    """`(x + sqrt(x*x + b)) / 2`."""
    x = floating(x)
    return (x + sugar.unary("sqrt", x * x + b)) * 0.5


@operation
def sparse_plus(x: Any) -> Any:
    """0 below -1, `x` above 1, `(x + 1)**2 / 4` between."""
    x = floating(x)
    between = (x + 1) * (x + 1) * 0.25
    return sugar.select(x <= -1, 0, sugar.select(x >= 1, x, between))


@operation
def sparse_sigmoid(x: Any) -> Any:
    """0 below -1, 1 above 1, `(x + 1) / 2` between."""
    x = floating(x)
    return sugar.select(x <= -1, 0, sugar.select(x >= 1, 1, (x + 1) * 0.5))


@operation
def gelu(x: Any, approximate: bool = True) -> Any:
    """`x * Phi(x)` with the normal distribution's Phi, or its approximation by tanh."""
    return _in_f32(floating(x), _gelu_by_tanh if approximate else _gelu)


def _gelu_by_tanh(x: Value) -> Value:
    inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return x * ((sugar.unary("tanh", inner) + 1) * 0.5)


def _gelu(x: Value) -> Value:
    return x * ((sugar.unary("erf", x * math.sqrt(0.5)) + 1) * 0.5)


def _in_f32(x: Value, formula: Callable[[Value], Value]) -> Value:
    """A formula of several steps; of f16 and bf16 the result and the derivative are rounded once.

    That is more exact and faster than rounding each step, and the derivative takes no more memory
    than `x` where it is stored.
    """
    if x.dtype not in (f16, bf16):
        return formula(x)
    wide = sugar.cast(x, f32)
    result = formula(wide)
    builder = current()
    if builder is None or builder.eager:
        return sugar.cast(result, x.dtype)
    (derivative,) = gradients(result, [wide], sugar.full(x.shape, 1, f32))
    slope = sugar.cast(derivative, x.dtype)
    kept, upstream = (Value(x.type, name=name) for name in ("kept", "upstream"))
    rule = outline("backward", {kept: "kept", upstream: "upstream"}, {"dx": upstream * kept})
    (found,) = primitive("custom_gradient").all(
        sugar.cast(result, x.dtype), slope, x, backward=rule,
        outputs=1, residuals=1, arguments=1, wrt=(0,),
    )  # fmt: skip
    return found


@operation
def glu(x: Any, axis: int = -1) -> Any:
    """The first half along `axis` times the sigmoid of the second."""
    x = floating(x)
    axis = sugar.normalize_axis("glu", axis, x.ndim)
    if int(x.shape[axis]) % 2:
        raise ShapeError(f"glu: axis {axis} must have an even size, got {x.type}")
    half = int(x.shape[axis]) // 2
    before = (slice(None),) * axis
    return x[(*before, slice(0, half))] * sugar.unary("sigmoid", x[(*before, slice(half, None))])


@operation
def softmax(x: Any, axis: Any = -1) -> Any:
    """Exponentials divided by their sum along `axis` (one axis or several)."""
    return softmax_of(floating(x), axis)


def softmax_of(x: Value, axis: Any) -> Value:
    """`softmax` on a Value."""
    exponentials, total = _exponentials(x, axis)
    return exponentials / total


@operation
def log_softmax(x: Any, axis: Any = -1) -> Any:
    """`log(softmax(x))` without underflow."""
    return log_softmax_of(floating(x), axis)


def log_softmax_of(x: Value, axis: Any) -> Value:
    """`log_softmax` on a Value."""
    shifted = x - sugar.unary("stop_gradient", sugar.reduce("reduce_max", x, axis, keepdims=True))
    total = sugar.reduce("reduce_sum", sugar.unary("exp", shifted), axis, keepdims=True)
    return shifted - sugar.unary("log", total)


def _exponentials(x: Value, axis: Any) -> tuple[Value, Value]:
    """`exp(x - max)` and its sum: neither overflows."""
    high = sugar.unary("stop_gradient", sugar.reduce("reduce_max", x, axis, keepdims=True))
    exponentials = sugar.unary("exp", x - high)
    return exponentials, sugar.reduce("reduce_sum", exponentials, axis, keepdims=True)


@operation
def sparsemax(x: Any, axis: int = -1) -> Any:
    """The nearest point to `x` whose elements along `axis` are probabilities: many are 0.

    Martins and Astudillo, "From softmax to sparsemax", 2016.
    """
    x = floating(x)
    axis = sugar.normalize_axis("sparsemax", axis, x.ndim)
    ordered = primitive("sort")(x, axis=axis, descending=True)
    sums = primitive("cumsum")(ordered, axis=axis, reverse=False)
    rank = primitive("iota")(shape=x.shape, axis=axis, dtype=x.dtype) + 1
    support = ordered * rank > sums - 1
    count = sugar.reduce("reduce_sum", sugar.cast(support, x.dtype), axis, keepdims=True)
    inside = sugar.select(support, ordered, sugar.zeros_like(ordered))
    total = sugar.reduce("reduce_sum", inside, axis, keepdims=True)
    return sugar.binary("maximum", x - (total - 1) / count, 0.0)


swish = silu
hard_swish = hard_silu

__all__ = [
    "celu", "elu", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish",
    "hard_tanh", "leaky_relu", "log_sigmoid", "log_softmax", "relu", "relu6", "selu", "sigmoid",
    "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid",
    "sparsemax", "squareplus", "swish", "tanh_shrink", "threshold",
]  # fmt: skip
