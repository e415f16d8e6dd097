"""Making arrays: constant ones, sequences, triangles."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Dim, as_dtype, i32
from .. import config
from ..operation import operation
from ..operators import is_number
from .core import floats, sizes, tensor


@operation
def zeros(shape: Any, dtype: Any = None) -> Any:
    """Zeros of `config.floatx()` unless `dtype` says otherwise."""
    return sugar.full(sizes(shape), 0, dtype or config.floatx())


@operation
def ones(shape: Any, dtype: Any = None) -> Any:
    """Ones of `config.floatx()` unless `dtype` says otherwise."""
    return sugar.full(sizes(shape), 1, dtype or config.floatx())


@operation
def full(shape: Any, fill_value: Any, dtype: Any = None) -> Any:
    """An array of one value, or of a tensor broadcast to `shape`."""
    return sugar.broadcast_to(tensor(fill_value, dtype or config.floatx()), sizes(shape))


@operation
def zeros_like(x: Any, dtype: Any = None) -> Any:
    """Zeros of the shape of `x`, and of its dtype."""
    x = tensor(x)
    return sugar.full(x.shape, 0, dtype or x.dtype)


@operation
def ones_like(x: Any, dtype: Any = None) -> Any:
    """Ones of the shape of `x`, and of its dtype."""
    x = tensor(x)
    return sugar.full(x.shape, 1, dtype or x.dtype)


@operation
def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Any:
    """`fill_value` in the shape of `x`, and its dtype."""
    x = tensor(x)
    return sugar.broadcast_to(tensor(fill_value, dtype or x.dtype), x.shape)


@operation
def arange(start: Any, stop: Any = None, step: Any = None, dtype: Any = None) -> Any:
    """`start, start + step, ...` up to and without `stop`; int32 if all three are ints."""
    start, stop = (0, start) if stop is None else (start, stop)
    step = 1 if step is None else step
    for v in (start, stop, step):
        if not is_number(v) and not isinstance(v, Dim) and tensor(v).ndim:
            raise ShapeError(f"arange: start, stop and step must be scalars, got {tensor(v).type}")
    if is_number(step) and step == 0:
        raise ArgumentError("arange: step must not be 0")
    if dtype is None:
        whole = all(isinstance(v, int | np.integer | Dim) for v in (start, stop, step))
        dtype = i32 if whole else config.floatx()
    if isinstance(stop, Dim):
        if (start, step) != (0, 1):
            raise ShapeError(f"arange: an open size {stop} needs start 0 and step 1")
        return primitive("iota")(shape=(stop,), axis=0, dtype=as_dtype(dtype))
    return constant(np.arange(start, stop, step), dtype)


@operation
def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False,
    dtype: Any = None, axis: int = 0,
) -> Any:  # fmt: skip
    """`num` numbers evenly from `start` to `stop`.

    Parameters
    ----------
    start, stop : number or tensor
        They broadcast; the numbers between them lie along a new `axis`.
    endpoint : bool
        Whether `stop` is the last one.
    retstep : bool
        Return the distance of neighbours too.
    dtype : str, optional
        That of `start` and `stop` as floats by default; integers are rounded down.
    """
    first, last = _ends(start, stop)
    result, step = _spaced(first, last, num, endpoint)
    to = first.dtype if dtype is None else as_dtype(dtype)
    if to.is_integer:
        result = sugar.unary("floor", result)
    result = _axis_first_to(sugar.cast(result, to), axis)
    return (result, step) if retstep else result


@operation
def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10,
    dtype: Any = None, axis: int = 0,
) -> Any:  # fmt: skip
    """`base` to the power of `num` numbers evenly from `start` to `stop`."""
    first, last = _ends(start, stop)
    powers, _ = _spaced(first, last, num, endpoint)
    result = sugar.power(sugar.value(base, powers.dtype), powers)
    return _axis_first_to(sugar.cast(result, dtype or first.dtype), axis)


@operation
def geomspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0
) -> Any:
    """`num` numbers of a constant ratio from `start` to `stop`, which have the same sign."""
    first, last = _ends(start, stop)
    sign = sugar.unary("sign", first)
    low, high = (sugar.unary("log", sugar.unary("abs", x)) for x in (first, last))
    logs, _ = _spaced(low, high, num, endpoint)
    result = sugar.unary("exp", logs) * sign
    if num > 1 and endpoint:  # the ends are given exactly
        rows = primitive("iota")(shape=(num, *(1,) * first.ndim), axis=0, dtype=i32)
        result = sugar.select(sugar.binary("equal", rows, num - 1), last, result)
    if num:
        rows = primitive("iota")(shape=(num, *(1,) * first.ndim), axis=0, dtype=i32)
        result = sugar.select(sugar.binary("equal", rows, 0), first, result)
    return _axis_first_to(sugar.cast(result, dtype or first.dtype), axis)


def _ends(start: Any, stop: Any) -> tuple[Value, Value]:
    first, last = floats(start, stop)
    shape = sugar.broadcast_shapes(first.shape, last.shape)
    return sugar.broadcast_to(first, shape), sugar.broadcast_to(last, shape)


def _spaced(first: Value, last: Value, num: int, endpoint: bool) -> tuple[Value, Value]:
    """The numbers along a new first axis, and their distance."""
    if num < 0:
        raise ArgumentError(f"linspace: num must be 0 or more, got {num}")
    parts = num - 1 if endpoint else num
    step = (last - first) / parts if parts > 0 else sugar.full(first.shape, np.nan, first.dtype)
    share = np.arange(num) / max(parts, 1)
    weight = constant(share.reshape(num, *(1,) * first.ndim), first.dtype)
    return first * (1 - weight) + last * weight, step


def _axis_first_to(x: Value, axis: int) -> Value:
    axis = sugar.normalize_axis("linspace", axis, x.ndim)
    order = list(range(1, x.ndim))
    order.insert(axis, 0)
    return sugar.transpose(x, order)


@operation
def empty(shape: Any, dtype: Any = None) -> Any:
    """An array whose contents do not matter: zeros."""
    return sugar.full(sizes(shape), 0, dtype or config.floatx())


@operation
def empty_like(x: Any, dtype: Any = None) -> Any:
    """An array of the shape of `x` whose contents do not matter: zeros."""
    x = tensor(x)
    return sugar.full(x.shape, 0, dtype or x.dtype)


@operation
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    """The Vandermonde matrix: row i holds the powers of `x[i]`, from `N - 1` down to 0."""
    x = tensor(x)
    if x.ndim != 1:
        raise ShapeError(f"vander: x must be a vector, got {x.type}")
    x = sugar.cast(x, i32) if x.dtype.is_bool else x
    count = int(x.shape[0]) if N is None else int(N)
    if count == 0:
        return sugar.full((x.shape[0], 0), 0, x.dtype)
    powers = [sugar.full(x.shape, 1, x.dtype)]
    for _ in range(count - 1):
        powers.append(powers[-1] * x)
    columns = [sugar.reshape(p, (*p.shape, 1)) for p in powers]
    return primitive("concat")(*(columns if increasing else columns[::-1]), axis=1)


@operation
def meshgrid(*x: Any, indexing: str = "xy") -> Any:
    """Coordinates of the grid that the given axes span.

    Parameters
    ----------
    *x : vectors
        A scalar counts as a vector of one element.
    indexing : str
        `xy`: the first vector varies along the second axis; `ij`: along the first.
    """
    if indexing not in ("xy", "ij"):
        raise ArgumentError(f"meshgrid: indexing must be 'xy' or 'ij', got {indexing!r}")
    axes = [tensor(item) for item in x]
    axes = [sugar.reshape(a, (1,)) if a.ndim == 0 else a for a in axes]
    order = list(range(len(axes)))
    if indexing == "xy" and len(axes) > 1:
        order[0], order[1] = 1, 0
    shape = tuple(axes[i].shape[0] for i in order)
    expand = primitive("broadcast")
    return [expand(a, shape=shape, axes=(order.index(i),)) for i, a in enumerate(axes)]


__all__ = [
    "arange", "empty", "empty_like", "full", "full_like", "geomspace", "linspace", "logspace",
    "meshgrid", "ones", "ones_like", "vander", "zeros", "zeros_like",
]  # fmt: skip
