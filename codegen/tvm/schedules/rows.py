"""Products of many rows, such as all pixels or tokens of a batch, with a matrix packed once.

Rows are cut in blocks that stay in the second-level cache with their results; inside of a block
panel after panel of the packed matrix runs down the rows, so rows are read from memory once and
whole rows of results leave the cache together. (Panels outermost read all rows once a panel: 1.5
times slower from 112x112x16 to 96 channels.) Columns are cut without waste: in panels of two and
three vectors, and a half vector where that holds the rest.

Rows that do not lie one after another (the pixels that strides meet) or whose distance makes them
evict each other from the first-level cache are copied block by block. Others are read where they
lie, and those of the next tile fetched ahead to the second level, with what its epilogue reads and
writes: of 8192 rows of 512 numbers, 2 KiB apart, times 128 columns 113 GFLOP/s, nothing fetched for
the epilogue 110, copied 100, panels outermost 84; of 128 numbers with two addends 110 and not 78
(EPYC 9R14, one core of a busy machine).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from .. import bfloat, emit
from ..emit import Buffer, Expr, Index, Stmt
from ..kept import is_steady, kept
from ..target import Machine
from .tile import (
    Epilogue,
    Tile,
    cast,
    element_bytes,
    finish_tile,
    max_rows,
    neighbours,
    row_tiles,
    tasks_for,
    valid_lanes,
)

_DIRECT_TILES = 4  # so many tiles of rows repay no packing
_SERIAL_PACK = 1 << 14  # elements that are packed before other threads would have begun
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
        return not self.copies and nbytes > 2 * self.machine.l2

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


def row_product(product: RowProduct) -> Stmt:
    """Emit a product; see the module."""
    return _packed(product, product.stripes, (), lambda weights: _blocks(product, weights))


Weights = tuple[tuple[Stripe, Buffer | None], ...]


def _packed(
    product: RowProduct,
    stripes: list[Stripe],
    done: Weights,
    body: Callable[[Weights], Stmt],
) -> Stmt:
    """Declare room for the panels of each stripe and fill it."""
    if len(done) == len(stripes):
        packed = () if product.hot or product.keeps else done
        fill = (_pack(product, stripe, room) for stripe, room in packed if room is not None)
        return emit.seq(*fill, body(done))
    stripe = stripes[len(done)]
    if product.reads_in_place(stripe):
        return _packed(product, stripes, (*done, (stripe, None)), body)
    rooms = product.machine.cores if product.hot else stripe.panels
    shape = (rooms, product.terms, stripe.width)

    def filled(room: Buffer) -> Stmt:
        return _packed(product, stripes, (*done, (stripe, room)), body)

    if not product.keeps:
        return emit.scratch("packed", shape, product.factors, filled)
    return kept(
        product.matrix,
        "packed",
        shape,
        product.factors,
        lambda room: _pack(product, stripe, room),
        filled,
    )


def _blocks(product: RowProduct, weights: Weights) -> Stmt:
    """Blocks of rows, over tasks by row tiles or by panels."""
    tasks = tasks_for(product.work, product.machine)
    tiles, panels = product.tiles[0], max(stripe.panels for stripe, _ in weights)
    uneven = tiles < 4 * tasks and panels >= tasks and tiles % tasks != 0
    by_panels = product.hot or uneven
    tasks = min(tasks, panels if by_panels else tiles)

    def body(stage: Buffer | None) -> Stmt:
        def task(number: Index) -> Stmt:
            def part(items: int, split: bool) -> tuple[Index, Index]:
                return emit.split_range(items, tasks, number) if split else (0, items)

            first, count = part(tiles, not by_panels)
            columns = [part(stripe.panels, by_panels) for stripe, _ in weights]

            def block(index: Index) -> Stmt:
                start = first + index * product.block
                length = emit.minimum(product.block, count - index * product.block)
                return _block(product, weights, columns, (start, length), number, stage)

            return emit.serial((count + product.block - 1) // product.block, block, "block")

        return emit.parallel(tasks, task)

    if not product.copies:
        return body(None)
    _, height, taller = product.tiles
    shape = (tasks, product.block, height + bool(taller), product.pitch)
    return emit.scratch("rows", shape, product.factors, body)


def _block(
    product: RowProduct,
    weights: Weights,
    columns: list[tuple[Index, Index]],
    tiles: tuple[Index, Index],
    task: Index,
    stage: Buffer | None,
) -> Stmt:
    """All panels of some row tiles."""

    def panel(stripe: Stripe, packed: Buffer | None, number: Index) -> Stmt:
        room = task if product.hot else number

        def tile(place: Index, first: Index, height: int) -> Stmt:
            def left(row: int, k: Index) -> Expr:
                if stage is None:
                    return product.left(first + row, k)
                return stage[task, place, row, k]

            return _tile(product, stripe, packed, (number, room), first, height, left)

        fill = None
        if product.hot and packed is not None:
            fill = emit.serial(
                stripe.vectors,
                lambda v: _pack_vector(
                    product, stripe, number * stripe.vectors + v, (room, v * stripe.lanes), packed
                ),
                "vector",
            )
        return emit.seq(fill, _over_tiles(product, tiles, tile))

    return emit.seq(
        None if stage is None else _copy(product, tiles, task, stage),
        *(
            emit.serial(count, lambda i, s=stripe, p=packed: panel(s, p, i), "panel", first)
            for (stripe, packed), (first, count) in zip(weights, columns, strict=True)
        ),
    )


def _over_tiles(
    product: RowProduct,
    tiles: tuple[Index, Index],
    body: Callable[[Index, Index, int], Stmt],
) -> Stmt:
    """Run ``body(place in the block, first row, height)``; places are counted by loops from 0, for
    LLVM keeps the address of each row apart where it cannot see how far places are from rows.
    """
    (start, count), (_, height, taller) = tiles, product.tiles
    if not taller:
        return emit.serial(count, lambda j: body(j, (start + j) * height, height), "tile")

    def both(tall: Index) -> Stmt:
        def low(j: Index) -> Stmt:
            return body(tall + j, (start + tall + j) * height + taller, height)

        return emit.seq(
            emit.serial(tall, lambda j: body(j, (start + j) * (height + 1), height + 1), "tile"),
            emit.serial(count - tall, low, "tile"),
        )

    return emit.let(emit.maximum(0, emit.minimum(taller - start, count)), both, "tall")


def _copy(product: RowProduct, tiles: tuple[Index, Index], task: Index, stage: Buffer) -> Stmt:
    """Copy the rows of some tiles, each to a place of its own."""
    start, count = tiles

    def tile(place: Index) -> Stmt:
        first = product.start(start + place)

        def row(number: Index) -> Stmt:
            def element(k: Index) -> Stmt:
                value = cast(product.left(first + number, k), product.factors)
                return emit.store(stage, (task, place, number, k), value)

            return emit.strips(product.terms, product.lanes, element)

        return emit.serial(product.start(start + place + 1) - first, row, "row")

    return emit.serial(count, tile, "tile")


def _tile(
    product: RowProduct,
    stripe: Stripe,
    packed: Buffer | None,
    panel: tuple[Index, Index],
    first: Index,
    height: int,
    left: Callable[[int, Index], Expr],
) -> Stmt:
    number, room = panel
    tile = Tile(height, stripe.vectors, stripe.lanes, product.dtype, product.paired)
    column = stripe.first + number * stripe.width

    def right(k: Index, vector: int) -> Expr:
        if packed is None:
            return product.right(k, tile.ramp(column + vector * tile.lanes))
        return packed[room, k, tile.ramp(vector * tile.lanes)]

    def terms(
        step: Callable[..., Stmt], start: Index, length: int, fetch: Callable[[Index], Stmt]
    ) -> Stmt:
        def term(i: Index) -> Stmt:
            k = start + i
            sum_up = step(lambda row: left(row, k), lambda vector: right(k, vector))
            return emit.seq(fetch(i), sum_up)

        return emit.serial(length, term, "k")

    def loops(step: Callable[..., Stmt]) -> Stmt:
        rows = product.streams and stripe.vectors > 1
        if not rows and not product.fills:
            return terms(step, 0, product.terms, _nothing)
        line = product.lanes
        whole, rest = divmod(product.terms, line)

        def rows_ahead(k: Index) -> Stmt:
            if not rows:
                return emit.NOTHING
            fetch = emit.seq(*(emit.prefetch(left(row + height, k), 2) for row in range(height)))
            return fetch if stripe.panels == 1 else emit.when(emit.equal(number, 0), fetch)

        def run(index: Index) -> Stmt:
            fetch = _results_ahead(product, tile, (first + height, column), (index, whole))
            k = index * line
            return emit.seq(rows_ahead(k), terms(step, k, line, fetch))

        k = whole * line
        tail = emit.seq(rows_ahead(k), terms(step, k, rest, _nothing)) if rest else None
        return emit.seq(emit.serial(whole, run, "line"), tail)

    def finish(sums: Buffer) -> Stmt:
        def write(valid: list[int]) -> Stmt:
            return finish_tile(
                tile, sums, valid, lambda row, lane: (first + row, column + lane), product.epilogue
            )

        full, last = valid_lanes(stripe.columns, stripe.width, tile.lanes)
        if full == last or stripe.panels == 1:
            return write(last)
        return emit.when(emit.equal(number, stripe.panels - 1), write(last), write(full))

    return tile.reduce(loops, finish)


def _nothing(_: Index) -> Stmt:
    return emit.NOTHING


def _results_ahead(
    product: RowProduct, tile: Tile, corner: tuple[Index, Index], line: tuple[Index, int]
) -> Callable[[Index], Stmt]:
    """What the terms of one of some lines fetch of what the next tile's epilogue reads and writes.

    A term fetches one row, or few, for all at once would wait for each other.
    """
    if not product.fills:
        return _nothing
    owner = getattr(product.epilogue, "__self__", product.epilogue)
    places = getattr(owner, "places", None) or functools.partial(_stored, product)
    (first, column), (index, lines) = corner, line
    parts = -(-tile.rows // product.lanes)
    blocks = parts * tile.vectors
    some = -(-blocks // lines)

    def fetch(i: Index) -> Stmt:
        numbers = ((index * some + number) % blocks for number in range(some))
        found = (
            element
            for number in numbers
            for element in places(
                (
                    first + number // tile.vectors * product.lanes + i,
                    column + number % tile.vectors * tile.lanes,
                )
            )
        )
        return emit.seq(*(emit.prefetch(element, 2) for element in found))

    return fetch


def _stored(product: RowProduct, indices: tuple[Index, ...]) -> list[Expr]:
    """The elements that an epilogue of few stores writes."""
    stores = product.epilogue(indices, emit.constant(0, product.dtype))
    if isinstance(stores, Stmt):
        return []
    return [buffer[tuple(at)] for buffer, at, _ in stores]


# --- packing ---------------------------------------------------------------------------------


def _pack(product: RowProduct, stripe: Stripe, packed: Buffer) -> Stmt:
    """Copy columns to ``packed[panel, k, lane]``, with zeros past the last column."""

    def vector(flat: Index) -> Stmt:
        number, place = emit.unflatten(flat, (stripe.panels, stripe.vectors))
        return _pack_vector(product, stripe, flat, (number, place * stripe.lanes), packed)

    small = stripe.columns * product.terms <= _SERIAL_PACK
    loop = emit.serial if small or product.machine.cores == 1 else emit.parallel
    return loop(stripe.panels * stripe.vectors, vector)


def _pack_vector(
    product: RowProduct,
    stripe: Stripe,
    flat: Index,
    target: tuple[Index, Index],
    packed: Buffer,
) -> Stmt:
    """Pack the `flat`-th vector of a stripe."""
    whole, rest = divmod(stripe.columns, stripe.lanes)

    def columns(count: int) -> Stmt:
        pack = _pack_across if product.transposed else _pack_along
        return pack(product, stripe, stripe.first + flat * stripe.lanes, count, target, packed)

    if stripe.panels * stripe.vectors == whole:
        return columns(stripe.lanes)
    return emit.when(
        emit.less(flat, whole),
        columns(stripe.lanes),
        emit.when(emit.equal(flat, whole), columns(rest), columns(0)),
    )


def _pack_along(
    product: RowProduct,
    stripe: Stripe,
    column: Index,
    count: int,
    target: tuple[Index, Index],
    packed: Buffer,
) -> Stmt:
    """Pack one vector of columns that lie side by side."""
    number, base = target

    def element(k: Index, lane: Index) -> Stmt:
        value = cast(product.right(k, column + lane), product.factors)
        return emit.store(packed, (number, k, base + lane), value)

    return emit.seq(
        emit.serial(
            product.terms, lambda k: emit.vectorized(count, lambda lane: element(k, lane)), "k"
        ),
        _blank(product, stripe, count, target, packed),
    )


def _pack_across(
    product: RowProduct,
    stripe: Stripe,
    column: Index,
    count: int,
    target: tuple[Index, Index],
    packed: Buffer,
) -> Stmt:
    """Pack one vector of columns each of which lies along the sum: square blocks by shuffles."""
    (number, base), lanes = target, stripe.lanes
    blocks = 0
    if count == lanes > 1 and product.plain:
        blocks = (product.terms - product.halves) // lanes

    def block(index: Index) -> Stmt:
        k = index * lanes
        return emit.transpose_block(
            lambda row, _: product.right(neighbours(k, lanes), column + row),
            lambda row, inner, vector: emit.store(packed, (number, k + row, base + inner), vector),
            lanes,
        )

    def single(k: Index, lane: Index) -> Stmt:
        value = cast(product.right(k, column + lane), product.factors)
        return emit.store(packed, (number, k, base + lane), value)

    return emit.seq(
        emit.serial(blocks, block, "block"),
        emit.serial(
            product.terms - blocks * lanes,
            lambda k: emit.serial(count, lambda lane: single(k, lane), "lane"),
            "k",
            blocks * lanes,
        ),
        _blank(product, stripe, count, target, packed),
    )


def _blank(
    product: RowProduct, stripe: Stripe, count: int, target: tuple[Index, Index], packed: Buffer
) -> Stmt:
    """Set the lanes of a packed vector from `count` on to 0."""
    (number, base), zero = target, emit.constant(0, product.factors)

    def lane(k: Index, place: Index) -> Stmt:
        return emit.store(packed, (number, k, base + count + place), zero)

    return emit.serial(
        product.terms,
        lambda k: emit.vectorized(stripe.lanes - count, lambda place: lane(k, place)),
        "k",
    )
