"""Diagonals of matrices, and the triangles that they bound."""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.errors import ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import i32
from .. import config
from ..operation import operation
from .core import countable, tensor


@operation
def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Any:
    """Ones on diagonal `k`, zeros elsewhere."""
    return sugar.cast(_on_diagonal(N, N if M is None else M, k), dtype or config.floatx())


@operation
def identity(n: int, dtype: Any = None) -> Any:
    """The identity matrix of `n` rows."""
    return sugar.cast(_on_diagonal(n, n, 0), dtype or config.floatx())


@operation
def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Any:
    """Ones on and below diagonal `k`, zeros elsewhere."""
    rows, columns = _positions((N, N if M is None else M))
    return sugar.cast(columns <= rows + k, dtype or config.floatx())


@operation
def tril(x: Any, k: int = 0) -> Any:
    """`x` with zeros above diagonal `k`."""
    x = _matrices("tril", tensor(x))
    rows, columns = _positions(x.shape[-2:])
    return sugar.select(columns <= rows + k, x, sugar.zeros_like(x))


@operation
def triu(x: Any, k: int = 0) -> Any:
    """`x` with zeros below diagonal `k`."""
    x = _matrices("triu", tensor(x))
    rows, columns = _positions(x.shape[-2:])
    return sugar.select(columns >= rows + k, x, sugar.zeros_like(x))


def _matrices(name: str, x: Value) -> Value:
    if x.ndim < 2:
        raise ShapeError(f"{name}: x must have rank 2 or more, got {x.type}")
    return x


def _positions(shape: Any) -> tuple[Value, Value]:
    """Row and column numbers of a matrix."""
    iota = primitive("iota")
    return iota(shape=shape, axis=0, dtype=i32), iota(shape=shape, axis=1, dtype=i32)


def _on_diagonal(rows: int, columns: int, k: int) -> Value:
    row, column = _positions((rows, columns))
    return sugar.binary("equal", column, row + k)


@operation
def diag(x: Any, k: int = 0) -> Any:
    """A matrix with the vector `x` on diagonal `k`, or diagonal `k` of the matrix `x`."""
    x = tensor(x)
    if x.ndim == 1:
        return _matrix_of(x, k)
    if x.ndim != 2:
        raise ShapeError(f"diag: x must be a vector or a matrix, got {x.type}")
    return _diagonal(x, k)


@operation
def diagflat(x: Any, k: int = 0) -> Any:
    """A matrix with the elements of `x`, whatever its shape, on diagonal `k`."""
    x = tensor(x)
    return _matrix_of(sugar.reshape(x, (x.type.size,)), k)


def _matrix_of(x: Value, k: int) -> Value:
    """Row i holds the element of row i in every column; those off the diagonal give way to 0."""
    low, high = max(-k, 0), max(k, 0)
    rows = primitive("pad")(x, low=(low,), high=(high,), interior=(0,), value=0.0)
    size = rows.shape[0]
    square = primitive("broadcast")(rows, shape=(size, size), axes=(0,))
    row, column = _positions((size, size))
    return sugar.select(sugar.binary("equal", column, row + k), square, sugar.zeros_like(square))


@operation
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Diagonal `offset` of the matrices along `axis1` and `axis2`, as a last axis."""
    return _diagonal(_matrix_axes_last("diagonal", tensor(x), axis1, axis2), offset)


@operation
def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Sum of the diagonal `offset` of the matrices along `axis1` and `axis2`."""
    x = _matrix_axes_last("trace", tensor(x), axis1, axis2)
    return sugar.reduce("reduce_sum", countable(_diagonal(x, offset)), -1)


def _matrix_axes_last(name: str, x: Value, axis1: int, axis2: int) -> Value:
    _matrices(name, x)
    a, b = (sugar.normalize_axis(name, axis, x.ndim) for axis in (axis1, axis2))
    if a == b:
        raise ShapeError(f"{name}: axis1 and axis2 must differ, got {axis1} and {axis2}")
    return sugar.transpose(x, [*(i for i in range(x.ndim) if i not in (a, b)), a, b])


def _diagonal(x: Value, k: int) -> Value:
    """Of the flat matrix every element that is one row and one column further."""
    rows, columns = int(x.shape[-2]), int(x.shape[-1])
    first_row, first_column = max(-k, 0), max(k, 0)
    length = max(min(rows - first_row, columns - first_column), 0)
    lead = x.shape[:-2]
    if length == 0:
        return sugar.full((*lead, 0), 0, x.dtype)
    start = first_row * columns + first_column
    flat = sugar.reshape(x, (*lead, rows * columns))
    return flat[..., start : start + (length - 1) * (columns + 1) + 1 : columns + 1]


__all__ = ["diag", "diagflat", "diagonal", "eye", "identity", "trace", "tri", "tril", "triu"]
