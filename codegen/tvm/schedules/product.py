"""A matrix product as its templates see it: sizes and how to read each operand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import bfloat, emit
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
    matrix: Buffer
    """What `right` reads."""
    paired: bool = False
    """Whether a term is a pair of bf16 (see `pairs`)."""
    in_place: tuple[bool, bool] = (True, True)
    """Of a product of pairs, which operands lie so in memory."""

    @property
    def packed(self) -> str:
        """The dtype that operands are packed in."""
        return bfloat.PAIR if self.paired else self.dtype

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

    dtypes = (emit.dtype_of(a), emit.dtype_of(b))
    short = bfloat.STORED in dtypes

    def left(at: Place, i: Index, k: Index) -> Expr:
        return _operand(a[(*at, k, i) if transpose_a else (*at, i, k)], short)

    def right(at: Place, k: Index, j: Index) -> Expr:
        return _operand(b[(*at, j, k) if transpose_b else (*at, k, j)], short)

    return Product(
        tuple(batch),
        rows,
        columns,
        terms,
        left,
        right,
        transpose_a,
        transpose_b,
        dtypes,
        accumulator(a, b),
        machine,
        epilogue,
        b,
    )


def _operand(value: Expr, short: bool) -> Expr:
    """A factor; one of f32 is rounded to bf16 where the other operand is `short`."""
    if short and str(value.ty).startswith("float32"):
        return bfloat.widen(bfloat.rounded(value))
    return value
