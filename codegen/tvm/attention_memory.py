"""The scratch memory of an attention kernel: arrays, the operands in them, and walks over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import op as top

from ...ir.types import bf16
from . import attention_pairs as pairs
from . import bfloat, emit
from . import index as ix
from .attention_parts import Operand
from .emit import Buffer, Expr, Stmt
from .index import Index
from .math import Element, keep, store


@dataclass(frozen=True)
class Array:
    """A matrix in scratch memory, one for each task."""

    buffer: Buffer
    rows: int
    stride: int

    @property
    def is_short(self) -> bool:
        """Whether it holds bf16."""
        return emit.dtype_of(self.buffer) == bfloat.STORED

    def row(self, task: Index, row: Index | int = 0) -> Index:
        """Where a row begins."""
        start = row if isinstance(row, Index) else ix.number(row)
        return task * (self.rows * self.stride) + start * self.stride


@dataclass(frozen=True)
class Copy:
    """An operand as it is copied: for the rows of scores or their columns, as bf16 or not."""

    operand: Operand
    is_row: bool
    paired: bool

    @property
    def terms(self) -> int:
        """Of a sum along the depth: numbers or pairs."""
        return -(-self.operand.depth // 2) if self.paired else self.operand.depth


@dataclass(frozen=True)
class Walk:
    """A factor of a product: where it begins, and steps to the next tile and the next term."""

    buffer: Buffer
    start: Expr
    tile: int
    along: int

    def at(self, tile: emit.Index) -> Expr:
        return self.start + tile * self.tile

    def scalar(self, place: Expr) -> Expr:
        """A number, or a pair."""
        if emit.dtype_of(self.buffer) == bfloat.STORED:
            return pairs.load(self.buffer, place)
        return self.buffer[place]


@dataclass(frozen=True)
class Shape:
    """A register tile, and how many of them cover a matrix."""

    height: int
    vectors: int
    down: int
    across: int


def put(array: Array, place: Index, value: Element) -> Stmt:
    """Write a number to scratch memory."""
    if array.is_short:
        return store(array.buffer, place.expression(), value.expr, bf16)
    return keep(array.buffer, place, value)


def half(count: Expr | int) -> Expr | int:
    """Pairs that so many numbers make."""
    if isinstance(count, int):
        return -(-count // 2)
    return top.shift_right(count + 1, tirx.IntImm("int32", 1))


def bound(body: Callable[..., Stmt], *values: Expr) -> Stmt:
    """Run `body` with values that are computed once."""
    names: list[Expr] = []
    binds: list[Stmt] = []
    for value in values:
        name = tirx.Var("place", value.ty)
        names.append(name)
        binds.append(tirx.Bind(name, value))
    return emit.seq(*binds, body(*names))


def as_expr(value: Expr | int) -> Expr:
    return ix.number(value).expression() if isinstance(value, int) else value
