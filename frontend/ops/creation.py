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
from .core import sizes, tensor


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
    """`num` numbers evenly from `start` to `stop`."""
    if retstep or axis != 0:
        raise ArgumentError("linspace: retstep and axis are not supported")
    points = np.linspace(float(start), float(stop), num, endpoint)
    return constant(points, dtype or config.floatx())


@operation
def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Any:
    """Ones on diagonal `k`, zeros elsewhere."""
    return constant(np.eye(N, M, k), dtype or config.floatx())


@operation
def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Any:
    """Ones on and below diagonal `k`, zeros elsewhere."""
    return constant(np.tri(N, M, k), dtype or config.floatx())


def identity(n: int, dtype: Any = None) -> Any:
    """The identity matrix of `n` rows."""
    return eye(n, dtype=dtype)


def _triangle(name: str, x: Value, k: int, lower: bool) -> Value:
    if x.ndim < 2:
        raise ShapeError(f"{name}: x must have rank 2 or more, got {x.type}")
    iota = primitive("iota")
    shape = x.shape[-2:]
    rows, columns = (iota(shape=shape, axis=a, dtype=i32) for a in (0, 1))
    keep = columns <= rows + k if lower else columns >= rows + k
    return sugar.select(keep, x, 0)


@operation
def tril(x: Any, k: int = 0) -> Any:
    """`x` with zeros above diagonal `k`."""
    return _triangle("tril", tensor(x), k, lower=True)


@operation
def triu(x: Any, k: int = 0) -> Any:
    """`x` with zeros below diagonal `k`."""
    return _triangle("triu", tensor(x), k, lower=False)


__all__ = [
    "arange", "eye", "full", "full_like", "identity", "linspace", "ones", "ones_like", "tri",
    "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip
