"""Triangular systems and factorizations by elimination, as scans over columns.

ONNX has no operator for any of them. A step works on whole matrices of a batch, so that a matrix
of n columns takes n steps of about ten operators.
"""

from __future__ import annotations

import math

from ....ir import matrix
from ....ir.graph import Value
from ....ir.op import get
from ....ir.sugar import broadcast_to, full, select, transpose, unary
from ....ir.types import Size, i32
from ..loops import scan
from ..lowering import composition


def count(size: Size) -> Value:
    """0, 1, ..., size - 1."""
    return get("iota")(shape=(size,), axis=0, dtype=i32)


def at(x: Value, index: Value, axis: int) -> Value:
    """The slices of `x` at a computed index along an axis counted from the end."""
    return get("gather")(x, index, axis=x.ndim + axis)


def first_axis(x: Value, axis: int) -> Value:
    """`x` with an axis, counted from the end, brought to the front."""
    rest = [a for a in range(x.ndim) if a != x.ndim + axis]
    return transpose(x, (x.ndim + axis, *rest))


def last_axis(x: Value, place: int = -1) -> Value:
    """`x` with the first axis moved to `place`, counted from the end."""
    rest = list(range(1, x.ndim))
    rest.insert(x.ndim + place, 0)
    return transpose(x, tuple(rest))


@composition("cholesky")
def _cholesky(x: Value) -> Value:
    """Column by column; each is subtracted from what is left of the matrix."""
    n = x.shape[-1]
    if 0 in x.shape:
        return x

    def step(rest: Value, valid: Value, k: Value, rows: Value) -> tuple[Value, ...]:
        column = at(rest, k, -1)
        pivot = at(column, k, -1).reshape((*column.shape[:-1], 1))
        found = select(rows >= k, column / unary("sqrt", pivot), 0)
        rest = rest - matrix.column(found) * matrix.row(found)
        return rest, valid & (pivot > 0), found

    start = full((*x.shape[:-2], 1), True, "bool")
    _, valid, columns = scan(step, [x, start], [count(n)], [count(n)])
    nothing = matrix.triangle(full(x.shape, math.nan, x.dtype), lower=True)
    return select(matrix.column(valid), last_axis(columns), nothing)


@composition("triangular_solve")
def _triangular_solve(
    a: Value, b: Value, *, lower: bool, transpose: bool = False, unit_diagonal: bool = False
) -> Value:
    """Row by row; each, times its column of `a`, is subtracted from the rows not yet solved."""
    if 0 in b.shape:
        return b

    def step(rest: Value, column: Value, i: Value) -> tuple[Value, ...]:
        row = at(rest, i, -2)
        if not unit_diagonal:
            row = row / at(column, i, -1).reshape((*column.shape[:-1], 1))
        return rest - matrix.column(column) * matrix.row(row), row

    columns = first_axis(a, -2 if transpose else -1)
    _, rows = scan(step, [b], [columns, count(a.shape[-1])], reverse=lower == transpose)
    return last_axis(rows, -2)


@composition("lu")
def _lu(x: Value) -> tuple[Value, Value, Value]:
    """Doolittle's elimination with the largest pivot of each column, the first if several."""
    *batch, rows, columns = x.shape
    order = broadcast_to(count(rows), (*batch, rows))
    least = min(int(rows), int(columns))
    if 0 in x.shape:
        return x, full((*batch, least), 0, i32), order

    def step(a: Value, order: Value, k: Value, down: Value, right: Value) -> tuple[Value, ...]:
        best = get("argmax")(select(down >= k, abs(at(a, k, -1)), -1), axis=a.ndim - 2)
        a, order = _swapped(a, k, best, down), _swapped(matrix.column(order), k, best, down)
        column, row = at(a, k, -1), at(a, k, -2)
        pivot = at(column, k, -1).reshape((*batch, 1))
        ratio = column / select(matrix.equal(pivot, 0), 1, pivot)
        below, here = down.reshape((rows, 1)) > k, matrix.equal(right, k)
        rest = a - matrix.column(ratio) * matrix.row(row)
        changed = select(here, matrix.column(ratio), select(right > k, rest, a))
        return select(below, changed, a), order.reshape((*batch, rows)), best

    packed, order, pivots = scan(step, [x, order], [count(least)], [count(rows), count(columns)])
    return packed, last_axis(pivots), order


def _swapped(a: Value, k: Value, best: Value, down: Value) -> Value:
    """`a` with row k and, in each matrix, its row `best` swapped."""
    *batch, _, columns = a.shape
    chosen = broadcast_to(best.reshape((*batch, 1, 1)), (*batch, 1, columns))
    other = get("take_along")(a, chosen, axis=a.ndim - 2)
    is_best = matrix.column(matrix.equal(down, best.reshape((*batch, 1))))
    is_k = matrix.column(matrix.equal(down, k))
    return select(is_k, other, select(is_best, matrix.row(at(a, k, -2)), a))
