"""Reductions that leave NaN out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import bf16, f16, f32, i32
from ..operation import operation
from .core import countable, floating, tensor
from .statistics import running


def _nan(x: Value) -> Value:
    return sugar.binary("not_equal", x, x)


def _without(x: Value, instead: float) -> Value:
    """`x` with `instead` for NaN."""
    return sugar.select(_nan(x), instead, x) if x.dtype.is_float else x


@operation
def nansum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Sum of the elements that are not NaN; 0 where there is none."""
    return sugar.reduce("reduce_sum", countable(_without(tensor(x), 0)), axis, keepdims)


@operation
def nanprod(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Product of the elements that are not NaN; 1 where there is none."""
    return sugar.reduce("reduce_prod", countable(_without(tensor(x), 1)), axis, keepdims)


@operation
def nanmax(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element that is not NaN; NaN where there is none."""
    return _extremum("reduce_max", tensor(x), axis, keepdims, -np.inf)


@operation
def nanmin(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element that is not NaN; NaN where there is none."""
    return _extremum("reduce_min", tensor(x), axis, keepdims, np.inf)


def _extremum(name: str, x: Value, axis: Any, keepdims: bool, least: float) -> Value:
    if x.dtype.is_bool:
        logical = "reduce_any" if name == "reduce_max" else "reduce_all"
        return sugar.reduce(logical, x, axis, keepdims)
    found = sugar.reduce(name, _without(x, least), axis, keepdims)
    if not x.dtype.is_float:
        return found
    nothing = sugar.reduce("reduce_all", _nan(x), axis, keepdims)
    return sugar.select(nothing, np.nan, found)


@operation
def nanmean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Arithmetic mean of the elements that are not NaN; NaN where there is none."""
    x = floating(x)
    return sugar.cast(_mean(_wide(x), _nan(x), axis, keepdims), x.dtype)


def _wide(x: Value) -> Value:
    return sugar.cast(x, f32) if x.dtype in (f16, bf16) else x


def _mean(x: Value, leave_out: Value, axis: Any, keepdims: bool) -> Value:
    there = sugar.cast(sugar.unary("logical_not", leave_out), x.dtype)
    total = sugar.reduce("reduce_sum", sugar.select(leave_out, 0, x), axis, keepdims)
    return total / sugar.reduce("reduce_sum", there, axis, keepdims)


@operation
def nanvar(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Variance of the elements that are not NaN; NaN where there is none."""
    x = floating(x)
    return sugar.cast(_variance(x, axis, keepdims), x.dtype)


def _variance(x: Value, axis: Any, keepdims: bool) -> Value:
    nan, wide = _nan(x), _wide(x)
    centred = sugar.select(nan, 0, wide - _mean(wide, nan, axis, keepdims=True))
    return _mean(centred * centred, nan, axis, keepdims)


@operation
def nanstd(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Standard deviation of the elements that are not NaN; NaN where there is none."""
    x = floating(x)
    return sugar.cast(sugar.unary("sqrt", _variance(x, axis, keepdims)), x.dtype)


@operation
def nanargmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Position of the largest element that is not NaN, as int32; -1 where there is none."""
    return _position("argmax", x, axis, keepdims, -np.inf)


@operation
def nanargmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Position of the smallest element that is not NaN, as int32; -1 where there is none."""
    return _position("argmin", x, axis, keepdims, np.inf)


def _position(name: str, x: Any, axis: int | None, keepdims: bool, least: float) -> Value:
    x = tensor(x)
    x = sugar.cast(x, i32) if x.dtype.is_bool else x
    rank = x.ndim
    if axis is None:
        x, axis = sugar.reshape(x, (x.type.size,)), 0
        shape: tuple[Any, ...] = (1,) * rank
    else:
        axis = sugar.normalize_axis(f"nan{name}", axis, rank)
        shape = tuple(1 if i == axis else d for i, d in enumerate(x.shape))
    found = primitive(name)(_without(x, least), axis=axis)
    if x.dtype.is_float:
        found = sugar.select(sugar.reduce("reduce_all", _nan(x), axis), -1, found)
    return sugar.reshape(found, shape) if keepdims else found


@operation
def nancumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Any:
    """`cumsum` with 0 for NaN."""
    return running("cumsum", _without(tensor(x), 0), axis, dtype)


@operation
def nancumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Any:
    """`cumprod` with 1 for NaN."""
    return running("cumprod", _without(tensor(x), 1), axis, dtype)


__all__ = [
    "nanargmax", "nanargmin", "nancumprod", "nancumsum", "nanmax", "nanmean", "nanmin", "nanprod",
    "nanstd", "nansum", "nanvar",
]  # fmt: skip
