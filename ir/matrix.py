"""Matrix algebra over the last two axes, spelled out in IR; all axes before them are a batch.

What the gradients of the factorizations and the frontend's linear algebra share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import sugar
from .types import DType, Size, i32, size_of

if TYPE_CHECKING:
    from .graph import Value
    from .op import Op


def _op(name: str) -> Op:
    from .op import get

    return get(name)


def equal(x: Any, y: Any) -> Value:
    """Elementwise `x == y`."""
    return sugar.binary("equal", x, y)


def transposed(x: Value) -> Value:
    """`x` with its last two axes swapped."""
    rank = x.ndim
    return sugar.transpose(x, (*range(rank - 2), rank - 1, rank - 2))


def product(a: Value, b: Value, *, ta: bool = False, tb: bool = False) -> Value:
    """The matrix product; `ta` and `tb` transpose an operand first."""
    return _op("matmul")(a, b, transpose_a=ta, transpose_b=tb)


def solve_triangular(
    a: Value, b: Value, *, lower: bool, transpose: bool = False, unit: bool = False
) -> Value:
    """The `x` with `a x = b`, or `a^T x = b`, of which a triangle of `a` is read."""
    solve = _op("triangular_solve")
    return solve(a, b, lower=lower, transpose=transpose, unit_diagonal=unit)


def divided(b: Value, a: Value, *, lower: bool, transpose: bool = False) -> Value:
    """`b a^-1` (or `b a^-T`) for a triangular `a`."""
    flipped = solve_triangular(a, transposed(b), lower=lower, transpose=not transpose)
    return transposed(flipped)


def _positions(rows: Size, columns: Size) -> tuple[Value, Value]:
    count = _op("iota")
    shape = (rows, columns)
    return count(shape=shape, axis=0, dtype=i32), count(shape=shape, axis=1, dtype=i32)


def triangle(x: Value, *, lower: bool, strict: bool = False) -> Value:
    """`x` with zeros outside of a triangle; `strict` leaves the diagonal out, too."""
    rows, columns = _positions(*x.shape[-2:])
    inside = columns < rows if lower else rows < columns
    if not strict:
        inside = inside | equal(rows, columns)
    return sugar.select(inside, x, 0)


def identity(rows: Size, columns: Size, dtype: DType) -> Value:
    """Ones on the diagonal."""
    down, right = _positions(rows, columns)
    return sugar.cast(equal(down, right), dtype)


def diagonal(x: Value) -> Value:
    """The elements `x[..., i, i]`, for any shape of matrix."""
    rows, columns = x.shape[-2:]
    if rows != columns:
        least = min(int(rows), int(columns))
        x = x[..., :least, :least]
    return sugar.reduce("reduce_sum", only_diagonal(x), -1)


def only_diagonal(x: Value) -> Value:
    """`x` with zeros off the diagonal."""
    rows, columns = _positions(*x.shape[-2:])
    return sugar.select(equal(rows, columns), x, 0)


def column(x: Value) -> Value:
    """A vector as a matrix of one column."""
    return sugar.reshape(x, (*x.shape, 1))


def row(x: Value) -> Value:
    """A vector as a matrix of one row."""
    return sugar.reshape(x, (*x.shape[:-1], 1, x.shape[-1]))


def with_diagonal(x: Value) -> Value:
    """The diagonal matrix of a vector."""
    size = x.shape[-1]
    return only_diagonal(sugar.broadcast_to(row(x), (*x.shape, size)))


def symmetric(x: Value) -> Value:
    """`(x + x^T) / 2`."""
    return (x + transposed(x)) * 0.5


def safe_reciprocal(x: Value) -> Value:
    """`1 / x`, and 0 where `x` is 0."""
    vanishes = equal(x, 0)
    return sugar.select(vanishes, 0, 1.0 / sugar.select(vanishes, 1, x))


def unit_lower(x: Value) -> Value:
    """The lower triangle of a square matrix, with ones on the diagonal."""
    size = x.shape[-1]
    ones = sugar.broadcast_to(identity(size, size, x.dtype), x.shape)
    return triangle(x, lower=True, strict=True) + ones


def _flat_rows(order: Value) -> Value:
    """Row numbers of each matrix of a batch as positions among the rows of all of them."""
    rows = order.shape[-1]
    count = size_of(order.shape[:-1])
    first = _op("iota")(shape=(count,), axis=0, dtype=order.dtype) * rows
    places = sugar.reshape(order, (count, rows)) + column(first)
    return sugar.reshape(places, (count * rows,))


def permuted(x: Value, order: Value, *, back: bool = False) -> Value:
    """The rows `x[order]` of each matrix, or, `back`, what has `x` as its rows in that order."""
    if 0 in x.shape:
        return x
    flat = sugar.reshape(x, (size_of(x.shape[:-1]), x.shape[-1]))
    places = _flat_rows(order)
    if back:
        result = _op("scatter_add")(sugar.zeros_like(flat), places, flat, axis=0)
    else:
        result = _op("gather")(flat, places, axis=0)
    return sugar.reshape(result, x.shape)


def joined(parts: Sequence[Value], axis: int) -> Value:
    """Blocks of a matrix side by side (axis -1) or one below the other (axis -2)."""
    return _op("concat")(*parts, axis=parts[0].ndim + axis)
