"""A matrix product as its templates see it: sizes and how to read each operand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import emit
from ..emit import Buffer, Expr, Index
from ..target import Machine
from .tile import Epilogue, accumulator

Place = tuple[Index, ...]


@dataclass(frozen=True)
class Product:
    """``out[*at, i, j] = sum_k left(at, i, k) * right(at, k, j)`` for `at` in `batch`."""

    batch: tuple[int, ...]
    rows: int
    columns: int
    terms: int
    left: Callable[[Place, Index, Index], Expr]
    right: Callable[[Place, Index, Index], Expr]
    transpose_a: bool
    transpose_b: bool
    dtypes: tuple[str, str]
    dtype: str
    machine: Machine
    epilogue: Epilogue

    @property
    def size(self) -> int:
        """Elements of the result."""
        return math.prod(self.batch) * self.rows * self.columns

    @property
    def work(self) -> int:
        """Multiplications and additions."""
        return 2 * self.size * self.terms

    @property
    def lanes(self) -> int:
        """Sums in a vector."""
        return self.machine.lanes(self.dtype)


def product_of(
    a: Buffer, b: Buffer, transpose_a: bool, transpose_b: bool, machine: Machine, epilogue: Epilogue
) -> Product:
    """See two buffers as the operands of a product."""
    *batch, rows, terms = emit.shape_of(a)
    columns = emit.shape_of(b)[-2 if transpose_b else -1]
    if transpose_a:
        rows, terms = terms, rows

    def left(at: Place, i: Index, k: Index) -> Expr:
        return a[(*at, k, i) if transpose_a else (*at, i, k)]

    def right(at: Place, k: Index, j: Index) -> Expr:
        return b[(*at, j, k) if transpose_b else (*at, k, j)]

    return Product(
        tuple(batch),
        rows,
        columns,
        terms,
        left,
        right,
        transpose_a,
        transpose_b,
        (emit.dtype_of(a), emit.dtype_of(b)),
        accumulator(a, b),
        machine,
        epilogue,
    )
