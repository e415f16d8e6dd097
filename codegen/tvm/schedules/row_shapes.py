"""What a product of many rows is, and how it is cut: tiles, stripes of columns, blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .. import bfloat, emit
from ..emit import Buffer, Expr, Index, Stmt
from ..kept import is_steady
from ..target import Machine
from .tile import Epilogue, element_bytes, max_rows, row_tiles, tasks_for

_DIRECT_TILES = 4  # so many tiles of rows repay no packing
_CONFLICT = 4096  # rows this many bytes apart fall in one set of the first-level cache


@dataclass(frozen=True)
class RowProduct:
    """``value[i, j] = sum_k left(i, k) * right(k, j)``.

    Parameters
    ----------
    rows, terms, columns : int
        Sizes, none of them 0.
    left, right : callable
        Read an operand; an index may be a vector along a row of `left`, and along the side on
        which `right` is contiguous.
    matrix : Buffer
        What `right` reads.
    transposed : bool
        Whether `right` is contiguous along the sum.
    staged, plain : bool
        Whether rows are copied before they are used; whether `right` has the dtype of the sums.
    dtype : str
        Of the sums.
    machine : Machine
        What to choose tiles for.
    epilogue : Epilogue
        Gets ``(row, column)``.
    paired : bool
        Whether a term is a pair of bf16 (see `pairs`), read as such from both operands.
    halves : bool
        Whether the last pair of `right` may be half of one, which no vector may read.
    ahead : callable, optional
        ``ahead(row, k)`` fetches what an element of a computed left operand is made of.
    """

    rows: int
    terms: int
    columns: int
    left: Callable[[Index, Index], Expr]
    right: Callable[[Index, Index], Expr]
    matrix: Buffer
    transposed: bool
    staged: bool
    plain: bool
    dtype: str
    machine: Machine
    epilogue: Epilogue
    paired: bool = False
    halves: bool = False
    ahead: Callable[[Index, Index], Stmt] | None = None

    @property
    def lanes(self) -> int:
        return self.machine.lanes(self.dtype)

    @property
    def factors(self) -> str:
        """The dtype in which operands are copied."""
        return bfloat.PAIR if self.paired else self.dtype

    @property
    def work(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.terms * self.columns

    @property
    def copies(self) -> bool:
        """Whether rows are copied, for whatever reason."""
        apart = self.terms * element_bytes(self.dtype)
        conflict = apart % _CONFLICT == 0 and self.columns >= 4 * self.lanes
        return self.staged or (conflict and self.rows > 8)

    @property
    def streams(self) -> bool:
        """Whether rows come from memory: then those of the next tile are fetched ahead."""
        nbytes = self.rows * self.terms * element_bytes(self.dtype)
        near = self.ahead is not None and self.block == 1
        return (near or not self.copies) and nbytes > 2 * self.machine.l2

    @property
    def fills(self) -> bool:
        """Whether results go to memory: then what the next tile's epilogue meets is fetched."""
        return self.rows * self.columns * element_bytes(self.dtype) > self.machine.l2

    @property
    def pitch(self) -> int:
        """Elements from one copied row to the next, so that rows fall in different sets."""
        whole = -(-self.terms // self.lanes) * self.lanes
        return whole + self.lanes

    @property
    def stripes(self) -> list[Stripe]:
        return cut_columns(self.columns, self.machine, self.dtype, halves=not self.paired)

    def reads_in_place(self, stripe: Stripe) -> bool:
        """Whether a stripe of the right operand is read where it lies, as few rows need it."""
        tiles = 1 if self.is_heavy else _DIRECT_TILES
        few = self.rows <= tiles * max_rows(self.machine, stripe.vectors)
        plain = self.plain and not self.transposed and not self.halves
        return few and plain and stripe.columns % stripe.width == 0

    @property
    def is_heavy(self) -> bool:
        """Whether the packed matrix would not stay in the second-level cache."""
        return self.terms * self.columns * element_bytes(self.dtype) > self.machine.l2 // 4

    @property
    def hot(self) -> bool:
        """Whether each panel is packed where it is used, for one block that holds all rows."""
        panels = max(stripe.panels for stripe in self.stripes)
        enough = panels >= tasks_for(self.work, self.machine)
        return self.is_heavy and enough and self.tiles[0] <= self.block and not self.keeps

    @property
    def keeps(self) -> bool:
        """Whether the panels are packed before, for the matrix stays."""
        return is_steady(self.matrix)

    @property
    def tallest(self) -> int:
        """Rows of a register tile, for all stripes."""
        return min(max_rows(self.machine, stripe.vectors) for stripe in self.stripes)

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Number of row tiles, their height, how many are one taller."""
        return row_tiles(self.rows, self.tallest)

    def start(self, tile: Index) -> Index:
        """First row of a tile."""
        _, height, taller = self.tiles
        return tile * height + emit.minimum(tile, taller) if taller else tile * height

    @property
    def block(self) -> int:
        """Row tiles in a block."""
        size, half = element_bytes(self.dtype), self.machine.l2 // 2
        if self.ahead is not None and not self.is_heavy:
            return 1  # what is computed stays in the first-level cache
        if self.is_heavy and self.rows * self.terms * size <= half + half // 2:
            return self.tiles[0]
        each = self.terms + (0 if self.is_heavy else self.columns)
        rows = max(4 * self.tallest, half // (each * size))
        return max(1, min(self.tiles[0], rows // self.tallest))


@dataclass(frozen=True)
class Stripe:
    """Columns from `first` on, in panels of `vectors` of `lanes`."""

    first: int
    columns: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        return -(-self.columns // self.width)


def cut_columns(columns: int, machine: Machine, dtype: str, *, halves: bool = True) -> list[Stripe]:
    """Cut columns in stripes of equal panels, with as few lanes unused as possible.

    Pairs of bf16 are multiplied in whole vectors only, not in `halves`.
    """
    lanes = machine.lanes(dtype)
    whole, rest = divmod(columns, lanes)
    half = lanes // 2 if halves and lanes >= 8 and 0 < rest <= lanes // 2 else 0
    if half and whole <= 1:
        return [Stripe(0, columns, 2 * whole + 1, half)]
    vectors = whole if half else -(-columns // lanes)
    triple = 3 if vectors > 1 and vectors % 2 else 0
    pairs = min(columns, (vectors - triple) * lanes)
    found = []
    if pairs:
        found.append(Stripe(0, pairs, min(2, vectors), lanes))
    if triple:
        found.append(Stripe(pairs, min(columns - pairs, triple * lanes), triple, lanes))
    if half:
        found.append(Stripe(whole * lanes, rest, 1, half))
    return found
