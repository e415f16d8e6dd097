"""Moments, and normalization by them."""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError
from ...ir.graph import Value
from ...ir.types import bf16, f16, f32
from .. import config
from ..operation import operation
from .core import floating, tensor
from .reduce import variance


@operation
def moments(x: Any, axes: Any, keepdims: bool = False, synchronized: bool = False) -> Any:
    """Mean and variance over `axes`; of float16 and bfloat16 computed in float32."""
    if synchronized:
        raise ArgumentError("moments: synchronized needs several devices")
    x = floating(x)
    wide = sugar.cast(x, f32) if x.dtype in (f16, bf16) else x
    mean = sugar.mean(wide, axes, keepdims)
    return sugar.cast(mean, x.dtype), sugar.cast(variance(wide, axes, keepdims), x.dtype)


@operation
def batch_normalization(
    x: Any, mean: Any, variance: Any, axis: int, offset: Any = None, scale: Any = None,
    epsilon: float = 1e-3,
) -> Any:  # fmt: skip
    """`(x - mean) / sqrt(variance + epsilon) * scale + offset` with one number for each `axis`."""
    x = tensor(x)
    axis = sugar.normalize_axis("batch_normalization", axis, x.ndim)
    shape = tuple(d if i == axis else 1 for i, d in enumerate(x.shape))
    one_each = [None if v is None else sugar.reshape(tensor(v), shape)
                for v in (mean, variance, scale, offset)]  # fmt: skip
    mean, variance, scale, offset = one_each
    assert mean is not None
    assert variance is not None
    factor = sugar.unary("rsqrt", variance + epsilon)
    factor = factor if scale is None else factor * scale
    shift = -mean * factor
    shift = shift if offset is None else shift + offset
    return x * factor + shift


def _wide(x: Value) -> Value:
    """What moments are computed in: f16 and bf16 as f32."""
    x = floating(x)
    return sugar.cast(x, f32) if x.dtype in (f16, bf16) else x


@operation
def layer_normalization(
    x: Any, gamma: Any = None, beta: Any = None, axis: Any = -1, epsilon: float | None = None
) -> Any:
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta`, the moments taken over `axis`."""
    x = tensor(x)
    wide = _wide(x)
    axes = sugar.normalize_axes("layer_normalization", axis, x.ndim)
    shape = tuple(d if i in axes else 1 for i, d in enumerate(x.shape))
    mean = sugar.mean(wide, axes, keepdims=True)
    spread = variance(wide, axes, keepdims=True)
    least = config.epsilon() if epsilon is None else epsilon
    factor = sugar.unary("rsqrt", spread + least)
    if gamma is not None:
        factor = factor * sugar.cast(sugar.reshape(tensor(gamma), shape), wide.dtype)
    shift = -mean * factor
    if beta is not None:
        shift = shift + sugar.cast(sugar.reshape(tensor(beta), shape), wide.dtype)
    return sugar.cast(wide * factor + shift, x.dtype)


@operation
def rms_normalization(
    x: Any, scale: Any = None, axis: Any = -1, epsilon: float | None = None
) -> Any:
    """`x / sqrt(mean(x**2) + epsilon) * scale`, the mean taken over `axis`."""
    x = tensor(x)
    least = config.epsilon() if epsilon is None else epsilon
    wide = _wide(x)
    factor = sugar.unary("rsqrt", sugar.mean(wide * wide, axis, keepdims=True) + least)
    if scale is not None:
        factor = factor * sugar.cast(tensor(scale), wide.dtype)
    return sugar.cast(wide * factor, x.dtype)


@operation
def normalize(x: Any, axis: int = -1, order: int = 2, epsilon: float | None = None) -> Any:
    """`x` divided by its norm of an order along `axis`, the Euclidean one by default."""
    x = floating(x)
    least = config.epsilon() if epsilon is None else epsilon
    if order == 2:
        square = sugar.reduce("reduce_sum", x * x, axis, keepdims=True)
        return x * sugar.unary("rsqrt", sugar.binary("maximum", square, least * least))
    if order == 1:
        total = sugar.reduce("reduce_sum", sugar.unary("abs", x), axis, keepdims=True)
        return x / sugar.binary("maximum", total, least)
    if not isinstance(order, int) or order < 1:
        raise ArgumentError(f"normalize: order must be a positive int, got {order!r}")
    powers = sugar.power(sugar.unary("abs", x), float(order))
    total = sugar.reduce("reduce_sum", powers, axis, keepdims=True)
    return x / sugar.binary("maximum", sugar.power(total, 1 / order), least)


__all__ = [
    "batch_normalization", "layer_normalization", "moments", "normalize", "rms_normalization",
]  # fmt: skip
