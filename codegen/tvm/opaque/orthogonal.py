"""Factorizations with orthogonal factors: Householder's QR, Jacobi's rotations for eigh and svd.

Rotations are chosen because they are short, need no special cases and are as accurate as
LAPACK's methods or more so; they cost several times as much on large matrices. What they rotate
are rows, whose elements lie side by side: the vectors are kept as rows until they are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tvm import tirx

from ....ir.graph import Node
from ..emit import Expr
from ..imperative import (
    Array,
    Code,
    Matrix,
    Number,
    epsilon,
    logical_not,
    magnitude,
    nan,
    select,
    sqrt,
    tiny,
)
from ..math import storage
from ..nest import Nest
from ..target import Machine
from .linalg import begin, copy, dims, largest, matrix_of, problems, vector_of
from .lowering import Buffers, loops

SWEEPS = 40
"""Rounds over all pairs at most; six to ten do."""


# --- qr --------------------------------------------------------------------------------------


@loops("qr")
def _qr(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    """Reflections as in LAPACK's geqr2 and org2r, with the same signs."""
    code = begin(nest, node, machine)
    (x,), (q, r) = node.inputs, node.outputs
    _, rows, columns = dims(x)
    inner, steps = dims(r)[1], min(rows, columns)
    dtype = storage(x.dtype)
    for problem in problems(code, node, machine):
        a = code.scratch(dtype, rows * columns).matrix(columns)
        taus, sums = code.scratch(dtype, steps), code.scratch(dtype, max(columns, inner))
        copy(code, matrix_of(code, buffers, x, problem).array, a.array, rows * columns)
        for k in code.range(steps):
            taus[k] = _reflector(code, a, k, rows)
            right = _Block(a, columns, k, k + 1)
            _reflect(code, a, right, k, taus[k], rows, sums)
        upper = matrix_of(code, buffers, r, problem)
        for i in code.range(inner):
            for j in code.range(columns):
                upper[i, j] = select(i <= j, a[i, j], tirx.const(0.0, dtype))
        basis = matrix_of(code, buffers, q, problem)
        for i in code.range(rows):
            for j in code.range(inner):
                basis[i, j] = select(tirx.EQ(i, j), _one(dtype), tirx.const(0.0, dtype))
        for k in code.down(steps):
            _reflect(code, a, _Block(basis, inner, k, k), k, taus[k], rows, sums)
    code.finish()


def _one(dtype: str) -> Expr:
    return tirx.const(1.0, dtype)


def _reflector(code: Code, a: Matrix, k: Expr, rows: int) -> Expr:
    """Make column k below the diagonal zero: beta on the diagonal, below it the vector without
    its leading 1; the factor tau is returned."""
    dtype = a.array.dtype
    tau = code.number(0.0, dtype)
    scale = code.number(0.0, dtype)
    for i in code.range(rows - 1 - k, k + 1):
        here = code.let(magnitude(a[i, k]))
        scale.set(select(logical_not(here <= scale.now), here, scale.now))
    with code.when(logical_not(scale.now <= 0.0)):
        first = code.let(a[k, k])
        top = code.let(select(magnitude(first) > scale.now, magnitude(first), scale.now))
        alpha = code.let(first / top)  # numbers around 1, whatever the column's size is
        total = code.number(alpha * alpha, dtype)
        for i in code.range(rows - 1 - k, k + 1):
            here = code.let(a[i, k] / top)
            total.add(here * here)
        length = code.let(sqrt(total.now))
        beta = code.let(select(alpha < 0.0, length, length * -1.0))
        tau.set((beta - alpha) / beta)
        for i in code.range(rows - 1 - k, k + 1):
            a[i, k] = a[i, k] / top / (alpha - beta)
        a[k, k] = beta * top
    return code.let(tau.now)


class _Block:
    """The part of a matrix from a row and a column on."""

    def __init__(self, whole: Matrix, columns: int, row: Expr, column: Expr) -> None:
        self.whole, self.row, self.column = whole, row, column
        self.width = columns - column


def _reflect(
    code: Code, a: Matrix, block: _Block, k: Expr, tau: Expr, rows: int, sums: Array
) -> None:
    """`block -= tau v (v^T block)`, where `v` is column k of `a` with a leading 1."""
    whole, first = block.whole, block.column
    for j in code.strips(block.width, first):
        sums[j] = whole[k, j]
    for i in code.range(rows - 1 - k, k + 1):
        factor = code.let(a[i, k])
        for j in code.strips(block.width, first):
            sums[j] = sums[j] + factor * whole[i, j]
    for j in code.strips(block.width, first):
        sums[j] = sums[j] * tau
        whole[k, j] = whole[k, j] - sums[j]
    for i in code.range(rows - 1 - k, k + 1):
        factor = code.let(a[i, k])
        for j in code.strips(block.width, first):
            whole[i, j] = whole[i, j] - factor * sums[j]


# --- what rotations share --------------------------------------------------------------------


@dataclass(frozen=True)
class _Rotation:
    """By an angle: its tangent, its sine, and the tangent of its half."""

    tangent: Expr
    sine: Expr
    half: Expr


def _rotation(code: Code, difference: Expr, coupling: Expr, dtype: str) -> _Rotation:
    """The smaller rotation that makes `coupling` vanish, where `difference` is what the second
    diagonal element exceeds the first by."""
    zeta = code.let(difference / (coupling * 2.0))
    root = magnitude(zeta) + sqrt(zeta * zeta + _one(dtype))
    t = code.let(select(zeta < 0.0, tirx.const(-1.0, dtype), _one(dtype)) / root)
    c = code.let(_one(dtype) / sqrt(t * t + _one(dtype)))
    s = code.let(c * t)
    return _Rotation(t, s, code.let(s / (c + _one(dtype))))


def _rotate(code: Code, x: Array, y: Array, by: _Rotation, size: int) -> None:
    """`x, y = c x - s y, s x + c y`, with `1 - c` as `s tan(angle / 2)`: a cosine rounded to 1
    would make both longer each time."""
    for i in code.strips(size):
        first, second = code.let(x[i]), code.let(y[i])
        x[i] = first - by.sine * (second + by.half * first)
        y[i] = second + by.sine * (first - by.half * second)


def _unit_rows(code: Code, x: Matrix, size: int) -> None:
    """The identity."""
    dtype = x.array.dtype
    for i in code.range(size):
        for j in code.range(size):
            x[i, j] = select(tirx.EQ(i, j), _one(dtype), tirx.const(0.0, dtype))


def _order(code: Code, keys: Array, order: Array, size: int, *, descending: bool) -> None:
    """Indices that sort `keys`, equal ones as they come; by insertion."""
    for i in code.range(size):
        place, key = code.number(i, "int32"), code.let(keys[i])
        for back in code.range(i):
            other = code.let(keys[order[i - 1 - back]])
            is_later = key > other if descending else key < other
            with code.when(tirx.And(is_later, tirx.EQ(place.now, i - back))):
                order[i - back] = order[i - 1 - back]
                place.set(i - 1 - back)
        order[place.now] = i


def _directions(code: Code, size: int) -> Array:
    """`ir.ops.orthogonal.direction`."""
    cosines = code.scratch("float64", size)
    for i in code.range(size):
        angle = tirx.Cast("float64", i + 1)
        cosines[i] = tirx.call_pure_extern("float64", "cos", angle)
    return cosines


def _sign(code: Code, x: Array, cosines: Array, size: int) -> Expr:
    """1 or -1, which makes the inner product with the cosines positive."""
    along = code.number(0.0, "float64")
    for i in code.range(size):
        along.add(cosines[i] * tirx.Cast("float64", x[i]))
    return code.let(select(along.now < 0.0, tirx.const(-1.0, x.dtype), _one(x.dtype)))


def _finite(code: Code, x: Array, size: int) -> Expr:
    """0, or NaN where an element is not finite."""
    poison = code.number(0.0, x.dtype)
    for i in code.range(size):
        is_finite = magnitude(x[i]) < tirx.const(math.inf, x.dtype)
        poison.set(select(is_finite, poison.now, nan(x.dtype)))
    return code.let(poison.now)


# --- eigh ------------------------------------------------------------------------------------


@loops("eigh")
def _eigh(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    """Jacobi's cyclic method: rotate every element off the diagonal away, until all are below
    the rounding error of the largest."""
    code = begin(nest, node, machine)
    (x,), (values, vectors) = node.inputs, node.outputs
    _, size, _ = dims(x)
    dtype = storage(x.dtype)
    for problem in problems(code, node, machine):
        a = code.scratch(dtype, size * size).matrix(size)
        basis = code.scratch(dtype, size * size).matrix(size)
        keys, order = code.scratch(dtype, size), code.scratch("int32", size)
        given = matrix_of(code, buffers, x, problem)
        for i in code.range(size):
            for j in code.range(i + 1):
                a[i, j] = given[i, j]
                a[j, i] = given[i, j]
        _unit_rows(code, basis, size)
        poison = _finite(code, a.array, size * size)
        limit = code.let(largest(code, a.array, size * size) * (epsilon(dtype) / 16))
        for p, q, rotations in _pairs(code, size):
            _eliminate(code, a, basis, (p, q), rotations, limit)
        for i in code.range(size):
            keys[i] = a[i, i]
        _order(code, keys, order, size, descending=False)
        target = vector_of(code, buffers, values, problem)
        result, cosines = matrix_of(code, buffers, vectors, problem), _directions(code, size)
        for k in code.range(size):
            target[k] = keys[order[k]] + poison
            found = basis.row(code.let(order[k]))
            sign = _sign(code, found, cosines, size)
            for i in code.range(size):
                result[i, k] = found[i] * sign + poison
    code.finish()


def _pairs(code: Code, size: int) -> Iterator[tuple[Expr, Expr, Number]]:
    """Loops over all p < q, again and again until a round counted no rotation."""
    rotations = code.number(1, "int32")
    for _ in code.range(SWEEPS):
        with code.when(rotations.now > 0):
            rotations.set(0)
            for p in code.range(size):
                for q in code.range(size - 1 - p, p + 1):
                    yield p, q, rotations


def _eliminate(
    code: Code, a: Matrix, basis: Matrix, at: tuple[Expr, Expr], rotations: Number, limit: Expr
) -> None:
    """Rotate rows and columns p and q of a symmetric matrix so that `a[p, q]` becomes 0."""
    (p, q), size, dtype = at, a.row_stride, a.array.dtype
    coupling = code.let(a[p, q])
    with code.when(magnitude(coupling) > limit):
        rotations.add(tirx.IntImm("int32", 1))
        first, second = code.let(a[p, p]), code.let(a[q, q])
        by = _rotation(code, second - first, coupling, dtype)
        _rotate(code, a.row(p), a.row(q), by, size)
        for i in code.range(size):
            a[i, p] = a[p, i]
            a[i, q] = a[q, i]
        a[p, p] = first - by.tangent * coupling
        a[q, q] = second + by.tangent * coupling
        a[p, q] = 0.0
        a[q, p] = 0.0
        _rotate(code, basis.row(p), basis.row(q), by, size)


# --- svd -------------------------------------------------------------------------------------


@loops("svd")
def _svd(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    """One-sided Jacobi: rotate pairs of columns, or of rows where there are fewer of them, until
    all are orthogonal. Their lengths are the singular values, their directions the vectors of
    one side, and what the rotations make of the identity is those of the other."""
    code = begin(nest, node, machine)
    _, rows, columns = dims(node.inputs[0])
    is_wide, least, most = rows < columns, min(rows, columns), max(rows, columns)
    dtype = storage(node.inputs[0].dtype)
    values_only = len(node.outputs) == 1
    for problem in problems(code, node, machine):
        x = matrix_of(code, buffers, node.inputs[0], problem)
        found = _Rotated(code, least, most, dtype, values_only=values_only)
        found.load(x if is_wide else x.T)
        for p, q, rotations in _pairs(code, least):
            found.make_orthogonal(p, q, rotations)
        found.measure()
        values = node.outputs[0 if values_only else 1]
        found.write_values(vector_of(code, buffers, values, problem))
        if values_only:
            continue
        u, vt = (matrix_of(code, buffers, node.outputs[i], problem) for i in (0, 2))
        count = max(int(node.outputs[0].shape[-1]), int(node.outputs[2].shape[-2]))
        basis = found.basis(count)
        cosines = _directions(code, rows)
        for k in code.range(least):
            turned = found.turned.row(code.let(found.order[k]))
            left, right = (turned, basis.row(k)) if is_wide else (basis.row(k), turned)
            sign = _sign(code, left, cosines, rows)
            for i in code.range(rows):
                u[i, k] = left[i] * sign + found.poison
            for j in code.range(columns):
                vt[k, j] = right[j] * sign + found.poison
        target = vt if is_wide else u.T
        for k in code.range(count - least, least):
            for i in code.range(most):
                target[k, i] = basis[k, i] + found.poison
    code.finish()


class _Rotated:
    """`count` rows of `length` numbers on their way to be orthogonal, scaled to at most 1."""

    def __init__(
        self, code: Code, count: int, length: int, dtype: str, *, values_only: bool
    ) -> None:
        self.code, self.count, self.length, self.dtype = code, count, length, dtype
        self.values_only = values_only
        self.rows = code.scratch(dtype, count * length).matrix(length)
        self.turned = code.scratch(dtype, count * count).matrix(count)
        self.lengths = code.scratch(dtype, count)
        self.order = code.scratch("int32", count)
        self.limit = epsilon(dtype) / 2 * math.sqrt(length)

    def load(self, x: Matrix) -> None:
        """Take the rows of a matrix."""
        code, size = self.code, self.count * self.length
        for i in code.range(self.count):
            for j in code.range(self.length):
                self.rows[i, j] = x[i, j]
        self.poison = _finite(code, self.rows.array, size)
        most = largest(code, self.rows.array, size)
        self.scale = code.let(select(most > 0.0, most, _one(self.dtype)))
        for i in code.strips(size):
            self.rows.array[i] = self.rows.array[i] / self.scale
        if not self.values_only:
            _unit_rows(code, self.turned, self.count)

    def make_orthogonal(self, p: Expr, q: Expr, rotations: Number) -> None:
        """Rotate rows p and q until their inner product is 0, if it is not yet."""
        code, x, y = self.code, self.rows.row(p), self.rows.row(q)
        first, second, coupling = (
            code.dot(self.length, a, b, self.length) for a, b in ((x, x), (y, y), (x, y))
        )
        bound = sqrt(first) * sqrt(second) * self.limit
        with code.when(tirx.And(magnitude(coupling) > bound, bound > 0.0)):
            rotations.add(tirx.IntImm("int32", 1))
            by = _rotation(code, second - first, coupling, self.dtype)
            _rotate(code, x, y, by, self.length)
            if not self.values_only:
                _rotate(code, self.turned.row(p), self.turned.row(q), by, self.count)

    def measure(self) -> None:
        """Find the lengths of the rows and their order, longest first."""
        code = self.code
        for i in code.range(self.count):
            row = self.rows.row(i)
            self.lengths[i] = sqrt(code.dot(self.length, row, row, self.length))
        _order(code, self.lengths, self.order, self.count, descending=True)

    def write_values(self, target: Array) -> None:
        """The singular values."""
        for k in self.code.range(self.count):
            target[k] = self.lengths[self.order[k]] * self.scale + self.poison

    def basis(self, count: int) -> Matrix:
        """The directions of the rows, longest first, and others that make them `count`.

        Rows without a length give way to others, too; see `ir.ops.orthogonal.completed`.
        """
        code, length = self.code, self.length
        found = code.scratch(self.dtype, count * length).matrix(length)
        shares, rest = code.scratch(self.dtype, length), code.scratch(self.dtype, length)
        known = code.number(0, "int32")
        for k in code.range(self.count):
            place = code.let(self.order[k])
            size = code.let(self.lengths[place])
            with code.when(size > tiny(self.dtype)):
                for i in code.strips(length):
                    found[k, i] = self.rows[place, i] / size
                known.set(k + 1)
        for k in code.range(count):
            with code.when(k >= known.now):
                _next_direction(code, found, k, length, shares, rest)
        return found


def _next_direction(
    code: Code, found: Matrix, k: Expr, length: int, shares: Array, rest: Array
) -> None:
    """Row k: the unit vector that is furthest from the rows before, made orthogonal to them."""
    dtype = found.array.dtype
    for i in code.range(length):
        shares[i] = 0.0
    for c in code.range(k):
        for i in code.strips(length):
            shares[i] = shares[i] + found[c, i] * found[c, i]
    axis, least = code.number(0, "int32"), code.number(shares[0], dtype)
    for i in code.range(length):
        with code.when(shares[i] < least.now):
            axis.set(i)
            least.set(shares[i])
    for i in code.range(length):
        rest[i] = select(tirx.EQ(i, axis.now), _one(dtype), tirx.const(0.0, dtype))
    for _ in range(2):
        for c in code.range(k):
            along = code.dot(length, found.row(c), rest, length)
            for i in code.strips(length):
                rest[i] = rest[i] - along * found[c, i]
    size = code.let(sqrt(code.dot(length, rest, rest, length)))
    for i in code.strips(length):
        found[k, i] = rest[i] / size
