"""Reductions over one axis, several or all: `axis=None` means all."""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import bf16, boolean, f16, f32, i32
from ..operation import operation
from .arithmetic import maximum, minimum
from .core import countable, floating, tensor


@operation
def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Sum of the elements."""
    return sugar.reduce("reduce_sum", countable(tensor(x)), axis, keepdims)


@operation
def prod(x: Any, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Any:
    """Product of the elements."""
    x = countable(tensor(x)) if dtype is None else tensor(x, dtype)
    return sugar.reduce("reduce_all" if x.dtype.is_bool else "reduce_prod", x, axis, keepdims)


def _extremum(name: str, logical: str, x: Value, axis: Any, keepdims: bool) -> Value:
    return sugar.reduce(logical if x.dtype.is_bool else name, x, axis, keepdims)


@operation
def max(x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Any:
    """The largest element; NaN if one is NaN."""
    found = _extremum("reduce_max", "reduce_any", tensor(x), axis, keepdims)
    return found if initial is None else maximum(found, initial)


@operation
def min(x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Any:
    """The smallest element; NaN if one is NaN."""
    found = _extremum("reduce_min", "reduce_all", tensor(x), axis, keepdims)
    return found if initial is None else minimum(found, initial)


@operation
def any(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether at least one element is true."""
    return sugar.reduce("reduce_any", tensor(x, boolean), axis, keepdims)


@operation
def all(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Whether every element is true."""
    return sugar.reduce("reduce_all", tensor(x, boolean), axis, keepdims)


@operation
def count_nonzero(x: Any, axis: Any = None) -> Any:
    """The number of elements that are not zero."""
    return sugar.reduce("reduce_sum", sugar.cast(tensor(x, boolean), i32), axis)


@operation
def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Arithmetic mean; float16 and bfloat16 are summed in float32."""
    x = floating(x)
    return sugar.cast(sugar.mean(_wide(x), axis, keepdims), x.dtype)


def _wide(x: Value) -> Value:
    return sugar.cast(x, f32) if x.dtype in (f16, bf16) else x


@operation
def var(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Mean of the squared distances from the mean."""
    x = floating(x)
    return sugar.cast(variance(_wide(x), axis, keepdims), x.dtype)


def variance(x: Value, axis: Any, keepdims: bool) -> Value:
    """The variance in two passes, which stays exact where the mean is large."""
    centred = x - sugar.mean(x, axis, keepdims=True)
    return sugar.mean(centred * centred, axis, keepdims)


@operation
def std(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Square root of the variance."""
    x = floating(x)
    return sugar.cast(sugar.unary("sqrt", variance(_wide(x), axis, keepdims)), x.dtype)


@operation
def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """`log(sum(exp(x)))` without overflow."""
    x = floating(x)
    axes = sugar.normalize_axes("logsumexp", axis, x.ndim)
    high = sugar.unary("stop_gradient", sugar.reduce("reduce_max", x, axes, keepdims=True))
    high = sugar.select(sugar.unary("is_finite", high), high, 0)
    total = sugar.reduce("reduce_sum", sugar.unary("exp", x - high), axes, keepdims=True)
    result = sugar.unary("log", total) + high
    if keepdims:
        return result
    return sugar.reshape(result, tuple(d for i, d in enumerate(x.shape) if i not in axes))


@operation
def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Position of the first largest element as int32; in the flat array if `axis` is None."""
    return _arg("argmax", x, axis, keepdims)


@operation
def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Position of the first smallest element as int32; in the flat array if `axis` is None."""
    return _arg("argmin", x, axis, keepdims)


def _arg(name: str, x: Any, axis: int | None, keepdims: bool) -> Value:
    x = tensor(x)
    x = sugar.cast(x, i32) if x.dtype.is_bool else x
    shape = x.shape
    if axis is None:
        found = primitive(name)(sugar.reshape(x, (x.type.size,)), axis=0)
        return sugar.reshape(found, (1,) * len(shape)) if keepdims else found
    axis = sugar.normalize_axis(name, axis, x.ndim)
    found = primitive(name)(x, axis=axis)
    return sugar.keep_dims(found, shape, (axis,)) if keepdims else found


@operation
def average(x: Any, axis: Any = None, weights: Any = None) -> Any:
    """Mean of `x` with `weights`, which broadcast to it."""
    x = floating(x)
    if weights is None:
        return sugar.mean(x, axis)
    weights = tensor(weights)
    if weights.ndim == 1 and x.ndim > 1 and isinstance(axis, int):
        axis = sugar.normalize_axis("average", axis, x.ndim)
        weights = sugar.reshape(weights, (-1, *(1,) * (x.ndim - axis - 1)))
    x, weights = sugar.common(x, weights)
    weights = sugar.broadcast_to(weights, x.shape)
    total = sugar.reduce("reduce_sum", x * weights, axis)
    return total / sugar.reduce("reduce_sum", weights, axis)


def amax(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element; NaN if one is NaN."""
    return max(x, axis, keepdims)


def amin(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element; NaN if one is NaN."""
    return min(x, axis, keepdims)


__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "average", "count_nonzero", "logsumexp",
    "max", "mean", "min", "prod", "std", "sum", "var",
]  # fmt: skip
