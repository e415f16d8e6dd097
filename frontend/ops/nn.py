"""Activations, and what else a network's own mathematics needs element by element."""

from __future__ import annotations

import math
from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Size, f32, i32
from .. import config
from ..operation import operation
from .core import floating, tensor


@operation
def relu(x: Any) -> Any:
    """`max(x, 0)`; the gradient at 0 is 0."""
    return sugar.unary("relu", tensor(x))


@operation
def relu6(x: Any) -> Any:
    """`min(max(x, 0), 6)`; the gradient at 0 and 6 is 0."""
    x = tensor(x)
    inner = sugar.unary("relu", x)
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
    x = floating(x)
    return x * sugar.unary("sigmoid", x)


@operation
def log_sigmoid(x: Any) -> Any:
    """`log(sigmoid(x))` without overflow."""
    return -_softplus(-floating(x))


@operation
def softplus(x: Any) -> Any:
    """`log(1 + exp(x))` without overflow."""
    return _softplus(floating(x))


def _softplus(x: Value) -> Value:
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
    x = floating(x)
    return sugar.select(x > 1, 1, sugar.select(x < -1, -1, x))


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
    x = floating(x)
    if approximate:
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        return x * ((sugar.unary("tanh", inner) + 1) * 0.5)
    return x * ((sugar.unary("erf", x * math.sqrt(0.5)) + 1) * 0.5)


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
    exponentials, total = _exponentials(floating(x), axis)
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
def one_hot(
    x: Any, num_classes: int, axis: int = -1, dtype: Any = None, sparse: bool = False
) -> Any:
    """1 at the position that an integer names along a new `axis`, 0 elsewhere.

    An integer outside of `[0, num_classes)` gives zeros only.
    """
    if sparse:
        raise ArgumentError("one_hot: sparse tensors are not supported")
    x = tensor(x)
    x = x if x.dtype.is_integer else sugar.cast(x, i32)
    axis = sugar.normalize_axis("one_hot", axis, x.ndim + 1)
    shape: tuple[Size, ...] = (*x.shape[:axis], num_classes, *x.shape[axis:])
    position = primitive("iota")(shape=shape, axis=axis, dtype=x.dtype)
    names = sugar.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
    return sugar.cast(sugar.binary("equal", names, position), dtype or f32)


@operation
def multi_hot(
    inputs: Any, num_classes: int | None = None, axis: int = -1, dtype: Any = None,
    sparse: bool = False,
) -> Any:  # fmt: skip
    """1 at every position that a row of integers names, 0 elsewhere."""
    if num_classes is None:
        raise ArgumentError("multi_hot: num_classes must be given")
    x = tensor(inputs)
    hot = one_hot(x, num_classes, axis=axis, dtype=dtype, sparse=sparse)
    return sugar.reduce("reduce_max", hot, 1 if x.ndim > 1 else 0)


# --- cross entropies -------------------------------------------------------------------------


def _log_probabilities(output: Value, from_logits: bool, axis: int) -> Value:
    if from_logits:
        return log_softmax_of(output, axis)
    output = output / sugar.reduce("reduce_sum", output, axis, keepdims=True)
    return sugar.unary("log", _inside_unit(output))


def _inside_unit(p: Value) -> Value:
    """Probabilities away from 0 and 1 by `epsilon`, so that their logarithms are finite."""
    low, high = config.epsilon(), 1.0 - config.epsilon()
    return sugar.binary("minimum", sugar.binary("maximum", p, low), high)


@operation
def categorical_crossentropy(
    target: Any, output: Any, from_logits: bool = False, axis: int = -1
) -> Any:
    """`-sum(target * log(output))` along `axis`, `output` first divided by its sum."""
    target, output = tensor(target), floating(output)
    if target.ndim < 1 or target.shape != output.shape:
        raise ShapeError(
            "categorical_crossentropy: target must have the shape of output, "
            f"got {target.type} and {output.type}",
            hint="sparse_categorical_crossentropy takes class numbers as targets",
        )
    target = sugar.cast(target, output.dtype)
    logs = _log_probabilities(output, from_logits, axis)
    return -sugar.reduce("reduce_sum", target * logs, axis)


@operation
def sparse_categorical_crossentropy(
    target: Any, output: Any, from_logits: bool = False, axis: int = -1
) -> Any:
    """`-log(output)` at the class number `target` along `axis`."""
    target, output = sugar.cast(tensor(target), i32), floating(output)
    if target.ndim == output.ndim and target.ndim and target.shape[-1] == 1:
        target = sugar.reshape(target, target.shape[:-1])
    if output.ndim < 1 or target.shape != output.shape[:-1]:
        raise ShapeError(
            "sparse_categorical_crossentropy: target must have the shape of output without its "
            f"last axis, got {target.type} and {output.type}",
            hint="categorical_crossentropy takes one-hot targets",
        )
    logs = _log_probabilities(output, from_logits, axis)
    axis = sugar.normalize_axis("sparse_categorical_crossentropy", axis, output.ndim)
    hot = one_hot(target, int(output.shape[axis]), axis=axis, dtype=output.dtype)
    return -sugar.reduce("reduce_sum", hot * logs, axis)


@operation
def binary_crossentropy(target: Any, output: Any, from_logits: bool = False) -> Any:
    """`-target * log(output) - (1 - target) * log(1 - output)`, element by element."""
    target, output = tensor(target), floating(output)
    if target.shape != output.shape:
        raise ShapeError(
            "binary_crossentropy: target must have the shape of output, "
            f"got {target.type} and {output.type}"
        )
    target = sugar.cast(target, output.dtype)
    if from_logits:
        return target * _softplus(-output) + (1 - target) * _softplus(output)
    output = _inside_unit(output)
    return -(target * sugar.unary("log", output) + (1 - target) * sugar.unary("log", 1 - output))


swish = silu
hard_swish = hard_silu

__all__ = [
    "binary_crossentropy", "categorical_crossentropy", "celu", "elu", "gelu", "glu",
    "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu",
    "log_sigmoid", "log_softmax", "multi_hot", "one_hot", "relu", "relu6", "selu", "sigmoid",
    "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_categorical_crossentropy",
    "sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh_shrink", "threshold",
]  # fmt: skip
