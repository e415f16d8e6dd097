"""Triangular systems and factorizations by elimination, row by row so that vectors are filled.

Each matrix of a batch is a problem of its own; a batch with much work is split over the cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ....ir.graph import Node, Value
from ..emit import Expr
from ..imperative import Array, Code, Matrix, larger, logical_not, magnitude, nan, sqrt
from ..math import storage
from ..nest import Nest
from ..target import Machine
from .lowering import Buffers, loops


def begin(nest: Nest, node: Node, machine: Machine) -> Code:
    """What the algorithm of a node is written with."""
    return Code(nest, machine.lanes(storage(node.inputs[0].dtype)))


def dims(x: Value) -> tuple[int, int, int]:
    """Number of matrices, rows and columns."""
    return math.prod(map(int, x.shape[:-2])), int(x.shape[-2]), int(x.shape[-1])


def matrix_of(code: Code, buffers: Buffers, x: Value, problem: Expr) -> Matrix:
    """One matrix of an operand or result."""
    _, rows, columns = dims(x)
    return code.array(buffers[x], problem * (rows * columns)).matrix(columns)


def vector_of(code: Code, buffers: Buffers, x: Value, problem: Expr) -> Array:
    """One vector of an operand or result, along its last axis."""
    return code.array(buffers[x], problem * int(x.shape[-1]))


def copy(code: Code, source: Array, target: Array, size: int) -> None:
    """`target[:size] = source[:size]`."""
    for i in code.strips(size):
        target[i] = source[i]


def problems(code: Code, node: Node, machine: Machine) -> Iterator[Expr]:
    """A loop over the matrices of a batch."""
    count, rows, columns = dims(node.inputs[0])
    work = float(rows) * columns * int(node.inputs[-1].shape[-1])
    yield from code.batch(count, work, machine.cores)


@loops("cholesky")
def _cholesky(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    """`L[i, j] = (x[i, j] - L[i, :j] . L[j, :j]) / L[j, j]`, row after row."""
    code = begin(nest, node, machine)
    _, size, _ = dims(node.output)
    dtype = storage(node.output.dtype)
    for problem in problems(code, node, machine):
        x = matrix_of(code, buffers, node.inputs[0], problem)
        lower = matrix_of(code, buffers, node.output, problem)
        fits = code.number(1, "int32")
        for i in code.range(size):
            for j in code.range(i):
                inner = code.dot(j, lower.row(i), lower.row(j), size)
                lower[i, j] = (x[i, j] - inner) / lower[j, j]
            pivot = code.let(x[i, i] - code.dot(i, lower.row(i), lower.row(i), size))
            with code.when(pivot > 0.0):
                lower[i, i] = sqrt(pivot)
            with code.when(logical_not(pivot > 0.0)):
                fits.set(0)
                lower[i, i] = 1.0
            for j in code.range(size - 1 - i, i + 1):
                lower[i, j] = 0.0
        with code.when(fits.now < 1):
            for i in code.range(size):
                for j in code.range(i + 1):
                    lower[i, j] = nan(dtype)
    code.finish()


@loops("triangular_solve")
def _solve(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    """Substitution: each row of the result takes its share from those that are still to come."""
    code = begin(nest, node, machine)
    lower, unit = node.attrs["lower"], node.attrs.get("unit_diagonal", False)
    _, size, columns = dims(node.output)
    for problem in problems(code, node, machine):
        a = matrix_of(code, buffers, node.inputs[0], problem)
        b = matrix_of(code, buffers, node.inputs[1], problem)
        x = matrix_of(code, buffers, node.output, problem)
        if node.attrs.get("transpose", False):
            a = a.T
        is_lower = lower != node.attrs.get("transpose", False)
        copy(code, b.array, x.array, size * columns)
        for i in code.range(size) if is_lower else code.down(size):
            for k in code.range(i) if is_lower else code.range(size - 1 - i, i + 1):
                factor = code.let(a[i, k])
                for j in code.strips(columns):
                    x[i, j] = x[i, j] - factor * x[k, j]
            if not unit:
                diagonal = code.let(a[i, i])
                for j in code.strips(columns):
                    x[i, j] = x[i, j] / diagonal
    code.finish()


@loops("lu")
def _lu(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    """Elimination with the first largest pivot of each column; rows are swapped as a whole."""
    code = begin(nest, node, machine)
    packed, pivots, permutation = node.outputs
    _, rows, columns = dims(packed)
    for problem in problems(code, node, machine):
        a = matrix_of(code, buffers, packed, problem)
        swaps = vector_of(code, buffers, pivots, problem)
        order = vector_of(code, buffers, permutation, problem)
        copy(code, matrix_of(code, buffers, node.inputs[0], problem).array, a.array, rows * columns)
        for i in code.range(rows):
            order[i] = i
        for k in code.range(min(rows, columns)):
            best = _pivot(code, a, k, rows)
            swaps[k] = best
            _swap(code, a.row(k), a.row(best), columns)
            _swap(code, order.shifted(k), order.shifted(best), 1)
            pivot = code.let(a[k, k])
            for i in code.range(rows - 1 - k, k + 1):
                with code.when(pivot != 0.0):
                    a[i, k] = a[i, k] / pivot
                factor = code.let(a[i, k])
                for j in code.strips(columns - 1 - k, k + 1):
                    a[i, j] = a[i, j] - factor * a[k, j]
    code.finish()


def _pivot(code: Code, a: Matrix, k: Expr, rows: int) -> Expr:
    """The row at or below k of the largest element of column k."""
    best, size = code.number(k, "int32"), code.number(magnitude(a[k, k]), a.array.dtype)
    for i in code.range(rows - 1 - k, k + 1):
        here = code.let(magnitude(a[i, k]))
        with code.when(here > size.now):
            best.set(i)
            size.set(here)
    return code.let(best.now)


def _swap(code: Code, x: Array, y: Array, size: int) -> None:
    for i in code.range(size):
        kept = code.let(x[i])
        x[i] = y[i]
        y[i] = kept


def largest(code: Code, x: Array, size: int) -> Expr:
    """The largest absolute value; NaN is left out."""
    found = code.number(0.0, x.dtype)
    for i in code.range(size):
        found.set(larger(found.now, magnitude(x[i])))
    return code.let(found.now)
