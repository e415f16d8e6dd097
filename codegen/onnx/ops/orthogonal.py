"""Factorizations with orthogonal factors: qr by Householder's reflections, eigh and svd by
Jacobi's rotations, as scans of standard operators.

A round of rotations turns n / 2 pairs of columns at once, those whose numbers add up to the round's
modulo n; n rounds, a sweep, turn every pair once. Sweeps go on until all pairs are orthogonal,
which takes about ten, in f64 whatever the dtype.
"""

from __future__ import annotations

from math import nan

import numpy as np

from ....ir import matrix
from ....ir.graph import Value
from ....ir.op import get
from ....ir.sugar import (
    broadcast_to,
    cast,
    full,
    reduce,
    select,
    unary,
)
from ....ir.types import f64, i32
from ..loops import loop, scan
from ..lowering import composition
from .linalg import at, count

_SWEEPS = 40
"""At which the rotations end, converged or not."""

_EPSILON = float(np.finfo(np.float64).eps)


# --- qr --------------------------------------------------------------------------------------


@composition("qr")
def _qr(x: Value, *, complete: bool = False) -> tuple[Value, Value]:
    *batch, m, n = x.shape
    least = min(int(m), int(n))
    inner = int(m) if complete else least
    start = broadcast_to(matrix.identity(m, inner, x.dtype), (*batch, m, inner))
    if 0 in x.shape:
        return start, full((*batch, inner, n), 0, x.dtype)
    rest, vectors, factors = scan(_reflect, [x], [count(least)], [count(m)])
    upper = matrix.triangle(rest[..., :inner, :], lower=False)

    def back(q: Value, v: Value, factor: Value) -> tuple[Value]:
        return (_reflected(q, v, factor),)

    (q,) = scan(back, [start], [vectors, factors], reverse=True)
    return q, upper


def _reflect(a: Value, k: Value, down: Value) -> tuple[Value, Value, Value]:
    """Reflect column k to the axis, on the side of LAPACK's sign; scaled against overflow."""
    column = select(down >= k, at(a, k, -1), 0)
    largest = abs(column).max(-1, keepdims=True)
    scale = select(matrix.equal(largest, 0), 1, largest)
    column = column / scale
    first = at(column, k, -1).reshape(scale.shape)
    tail = select(down > k, column, 0)
    square = (tail * tail).sum(-1, keepdims=True)
    is_done = matrix.equal(square, 0)
    norm = unary("sqrt", first * first + square)
    pivot = select(first < 0, norm, -norm)
    safe = select(is_done, 1, pivot)
    factor = select(is_done, 0, (pivot - first) / safe)
    v = select(matrix.equal(down, k), 1, tail / select(is_done, 1, first - pivot))
    return _reflected(a, v, factor), v, factor


def _reflected(a: Value, v: Value, factor: Value) -> Value:
    """`(1 - factor v v^T) a`."""
    along = matrix.product(matrix.row(v), a)
    return a - matrix.column(v) * (along * matrix.row(factor))


# --- rotations -------------------------------------------------------------------------------


def _partner(k: Value, columns: Value) -> Value:
    """The column that each is turned with in round k; itself for those that stay."""
    return (k - columns) % get("dimension_size")(columns, axis=0)


def _rotation(own: Value, other: Value, inner: Value, k: Value, columns: Value) -> (
    tuple[Value, Value, Value]
):  # fmt: skip
    """Cosine and tangent for each column, and its partner.

    With `own` and `other` the columns' squares (or diagonal elements) and `inner` their product,
    columns become `c (column - t partner)`; the partner's tangent is the negative one.
    """
    partner = _partner(k, columns)
    none = matrix.equal(inner, 0) | matrix.equal(partner, columns)
    ratio = (other - own) / (select(none, 1, inner) * 2.0)
    sign = select(matrix.equal(ratio, 0), select(columns < partner, 1.0, -1.0),
                  select(ratio < 0, -1.0, 1.0))  # fmt: skip
    tangent = cast(sign, f64) / (abs(ratio) + unary("sqrt", ratio * ratio + 1.0))
    tangent = select(none, 0, tangent)
    return 1.0 / unary("sqrt", tangent * tangent + 1.0), tangent, partner


def _turned(a: Value, cosine: Value, tangent: Value, partner: Value) -> Value:
    """The columns of `a` turned."""
    others = get("gather")(a, partner, axis=a.ndim - 1)
    return matrix.row(cosine) * (a - matrix.row(tangent) * others)


def _direction_signs(vectors: Value) -> Value:
    """1 or -1 for each column, by its product with the cosines of 1, 2, ..."""
    rows = cast(count(vectors.shape[-2]) + 1, f64)
    along = reduce("reduce_sum", matrix.column(unary("cos", rows)) * vectors, -2)
    return cast(select(along < 0, -1.0, 1.0), f64)


def _picked(a: Value, order: Value) -> Value:
    """The columns of each matrix in an order of its own."""
    places = broadcast_to(matrix.row(order), (*order.shape[:-1], a.shape[-2], order.shape[-1]))
    return get("take_along")(a, places, axis=a.ndim - 1)


def _finite(x: Value) -> Value:
    """Whether all elements of a matrix are finite, as `[..., 1]`."""
    last = (x.ndim - 2, x.ndim - 1)
    every = get("reduce_all")(unary("is_finite", x), axes=last)
    return every.reshape((*every.shape, 1))


# --- eigh ------------------------------------------------------------------------------------


@composition("eigh")
def _eigh(x: Value) -> tuple[Value, Value]:
    if 0 in x.shape:
        return full(x.shape[:-1], 0, x.dtype), x
    wide = cast(matrix.triangle(x, lower=True), f64)
    is_finite = _finite(wide)
    start = wide + matrix.transposed(matrix.triangle(wide, lower=True, strict=True))
    start = select(matrix.column(is_finite), start, 0)
    n = x.shape[-1]
    identity = broadcast_to(matrix.identity(n, n, f64), x.shape)
    _, turned, vectors = loop(_is_coupled, _symmetric_sweep, [full((), 0, i32), start, identity])
    values = matrix.diagonal(turned)
    order = get("argsort")(values, axis=values.ndim - 1, descending=False)
    values = get("take_along")(values, order, axis=values.ndim - 1)
    vectors = _picked(vectors, order)
    vectors = vectors * matrix.row(_direction_signs(vectors))
    return (
        cast(select(is_finite, values, nan), x.dtype),
        cast(select(matrix.column(is_finite), vectors, nan), x.dtype),
    )


def _is_coupled(sweep: Value, a: Value, vectors: Value) -> Value:
    """Whether any matrix has elements off the diagonal that count."""
    total = (a * a).sum((-2, -1))
    rest = a - matrix.only_diagonal(a)
    off = (rest * rest).sum((-2, -1))
    size = cast(get("dimension_size")(a, axis=a.ndim - 1), f64) * _EPSILON
    return (sweep < _SWEEPS) & reduce("reduce_any", off > total * (size * size))


def _symmetric_sweep(sweep: Value, a: Value, vectors: Value) -> tuple[Value, ...]:
    def step(a: Value, vectors: Value, k: Value, columns: Value) -> tuple[Value, Value]:
        own = matrix.diagonal(a)
        partner = _partner(k, columns)
        inner = matrix.diagonal(get("gather")(a, partner, axis=a.ndim - 1))
        other = get("gather")(own, partner, axis=own.ndim - 1)
        cosine, tangent, partner = _rotation(own, other, inner, k, columns)
        half = matrix.transposed(_turned(a, cosine, tangent, partner))
        return _turned(half, cosine, tangent, partner), _turned(vectors, cosine, tangent, partner)

    numbers = count(a.shape[-1])
    return sweep + 1, *scan(step, [a, vectors], [numbers], [numbers])


# --- svd -------------------------------------------------------------------------------------


@composition("svd")
def _svd(x: Value, *, vectors: str = "reduced") -> Value | tuple[Value, ...]:
    *batch, m, n = x.shape
    least = min(int(m), int(n))
    left, right = (int(m), int(n)) if vectors == "full" else (least, least)
    if 0 in x.shape:
        identities = [matrix.identity(a, b, x.dtype) for a, b in ((m, left), (right, n))]
        u, vt = (broadcast_to(i, (*batch, *i.shape)) for i in identities)
        s = full((*batch, least), 0, x.dtype)
        return s if vectors == "values" else (u, s, vt)
    is_finite = _finite(x)
    wide = select(matrix.column(is_finite), cast(x, f64), 0)
    is_tall = int(m) >= int(n)
    u, s, v = _tall_svd(wide if is_tall else matrix.transposed(wide))
    s = select(is_finite, s, nan)
    if vectors == "values":
        return cast(s, x.dtype)
    u = _completed(u, left if is_tall else right)
    u, v = (u, v) if is_tall else (v, u)
    signs = _direction_signs(u[..., :least])
    u, v = (_signed(f, signs) for f in (u, v))
    u, v = (select(matrix.column(is_finite), f, nan) for f in (u, v))
    return cast(u, x.dtype), cast(s, x.dtype), cast(matrix.transposed(v), x.dtype)


def _tall_svd(x: Value) -> tuple[Value, Value, Value]:
    """Left vectors (0 where the singular value counts as 0), values and right vectors."""
    n = x.shape[-1]
    identity = broadcast_to(matrix.identity(n, n, f64), (*x.shape[:-2], n, n))
    start = [full((), 0, i32), x, identity]
    _, turned, right = loop(_is_oblique, _sweep, start)
    values = unary("sqrt", (turned * turned).sum(-2))
    order = get("argsort")(values, axis=values.ndim - 1, descending=True)
    values = get("take_along")(values, order, axis=values.ndim - 1)
    turned = _picked(turned, order)
    counts = values > values.max(-1, keepdims=True) * _floor(x)
    left = select(matrix.row(counts), turned / matrix.row(select(counts, values, 1)), 0)
    return left, values, _picked(right, order)


def _floor(x: Value) -> float:
    """Up to which part of the largest a singular value is rounding."""
    return max(map(int, x.shape[-2:])) * _EPSILON


def _is_oblique(sweep: Value, a: Value, vectors: Value) -> Value:
    """Whether two columns that count are not orthogonal."""
    products = matrix.product(a, a, ta=True)
    squares = matrix.diagonal(products)
    counts = squares > squares.max(-1, keepdims=True) * _floor(a) ** 2
    both = matrix.row(squares) * matrix.column(squares)
    products = products - matrix.only_diagonal(products)
    oblique = products * products > both * _floor(a) ** 2
    oblique = oblique & matrix.row(counts) & matrix.column(counts)
    return (sweep < _SWEEPS) & reduce("reduce_any", oblique)


def _sweep(sweep: Value, a: Value, vectors: Value) -> tuple[Value, ...]:
    def step(a: Value, vectors: Value, k: Value, columns: Value) -> tuple[Value, Value]:
        others = get("gather")(a, _partner(k, columns), axis=a.ndim - 1)
        squares, inner = (a * a).sum(-2), (a * others).sum(-2)
        cosine, tangent, partner = _rotation(squares, (others * others).sum(-2), inner, k, columns)
        return _turned(a, cosine, tangent, partner), _turned(vectors, cosine, tangent, partner)

    numbers = count(a.shape[-1])
    return sweep + 1, *scan(step, [a, vectors], [numbers], [numbers])


def _completed(u: Value, columns: int) -> Value:
    """Orthonormal columns in place of zeros, and more of them up to a number.

    Each is the unit vector that is furthest from the others, made orthogonal to them.
    """
    *batch, m, n = u.shape
    missing = matrix.equal((u * u).sum(-2), 0)
    if columns > int(n):
        more = int(columns) - int(n)
        u = matrix.joined([u, full((*batch, m, more), 0, f64)], axis=-1)
        missing = get("concat")(missing, full((*batch, more), True, "bool"), axis=u.ndim - 2)

    def step(basis: Value, j: Value, missing: Value, down: Value, right: Value) -> tuple[Value]:
        lengths = (basis * basis).sum(-1)
        least = get("argmin")(lengths, axis=lengths.ndim - 1)
        is_least = matrix.equal(down, least.reshape((*batch, 1)))
        unit = matrix.column(cast(is_least, f64))
        rest = unit - _along(basis, unit)
        rest = rest - _along(basis, rest)
        rest = rest / unary("sqrt", (rest * rest).sum((-2, -1), keepdims=True))
        is_place = matrix.row(missing & matrix.equal(right, j))
        return (select(is_place, rest, basis),)

    shared = [missing, count(m), count(columns)]
    return scan(step, [u], [count(columns)], shared)[0]


def _along(basis: Value, x: Value) -> Value:
    """What of `x` lies in the span of the basis."""
    return matrix.product(basis, matrix.product(basis, x, ta=True))


def _signed(columns: Value, signs: Value) -> Value:
    """The first columns times their signs."""
    more = int(columns.shape[-1]) - int(signs.shape[-1])
    if more:
        ones = full((*signs.shape[:-1], more), 1, f64)
        signs = get("concat")(signs, ones, axis=signs.ndim - 1)
    return columns * matrix.row(signs)
