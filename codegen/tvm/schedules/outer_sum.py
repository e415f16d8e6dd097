"""Sums of outer products of pixels: the kernel gradient of a convolution of one tap.

``value[c, o] = sum_p x[p, c] * dy[p, o]``, with many more terms than rows and columns. A block of
pixels stays in the second-level cache while all register tiles run over it, and the sums of the
tiles lie in the workspace from one block to the next; one block needs no such sums. Panels of the
cotangents are copied side by side where they would evict each other from the cache, or where the
last one is not whole. While a tile is summed, the next block's pixels and the next panel are
fetched to the second level: of 8192 terms 112 instead of 81 GFLOP/s for 512 x 128, 110 instead of
97 for 128 x 512, 113 instead of 101 for 512 x 512 (EPYC 9R14, one core of a busy machine).

Tasks take columns, where there is enough of them, else pixels, and then their sums are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine
from .row_shapes import Stripe, cut_columns
from .tile import (
    Epilogue,
    Tile,
    cast,
    element_bytes,
    finish_tile,
    for_row_tiles,
    max_rows,
    tasks_for,
    valid_lanes,
)

_PIXELS = 192  # terms after which moving the sums in and out of registers is cheap
_MANY = 512  # terms up to which a block takes all of them
_CHANNELS = 512  # rows of the result whose operands one block holds
_CONFLICT = 1024  # pixels this many bytes apart share few sets of the first-level cache


Fetch = Callable[[Index, Index], Stmt]


@dataclass(frozen=True)
class OuterSum:
    """``value[c, o] = sum_p left(p, c) * right(p, o)``.

    Parameters
    ----------
    pixels, rows, columns : int
        Sizes, none of them 0.
    left, right : callable
        Read an operand; the second index may be a vector.
    staged : bool
        Whether the left operand is copied block by block before it is used.
    packed : bool
        Whether the right operand must be copied, as it is of another dtype.
    dtype : str
        Of the sums.
    machine : Machine
        What to choose tiles for.
    epilogue : Epilogue
        Gets ``(row, column)``.
    ahead : tuple
        For each operand that is computed, what fetches that of which an element is made.
    """

    pixels: int
    rows: int
    columns: int
    left: Callable[[Index, Index], Expr]
    right: Callable[[Index, Index], Expr]
    staged: bool
    packed: bool
    dtype: str
    machine: Machine
    epilogue: Epilogue
    ahead: tuple[Fetch | None, Fetch | None] = (None, None)

    @property
    def lanes(self) -> int:
        return self.machine.lanes(self.dtype)

    @property
    def stripes(self) -> list[Stripe]:
        return cut_columns(self.columns, self.machine, self.dtype)

    @property
    def work(self) -> int:
        """Multiplications and additions."""
        return 2 * self.pixels * self.rows * self.columns

    @property
    def channels(self) -> int:
        """Rows of the result in a block."""
        return min(self.rows, _CHANNELS)

    @property
    def tasks(self) -> int:
        wanted = tasks_for(self.work, self.machine)
        return min(wanted, self.panels if self.by_columns else -(-self.pixels // 8))

    @property
    def panels(self) -> int:
        return max(stripe.panels for stripe in self.stripes)

    @property
    def by_columns(self) -> bool:
        """Whether tasks take panels, which saves sums of their own, and not pixels."""
        wanted = tasks_for(self.work, self.machine)
        sums = self.rows * self.columns * element_bytes(self.dtype)
        many = sums > self.machine.l2 // 4 or self.pixels < _MANY
        return wanted > 1 and many and self.panels >= wanted

    @property
    def copies(self) -> int:
        """Sums that are added at the end."""
        return 1 if self.by_columns else self.tasks

    @property
    def block(self) -> int:
        """Pixels in a block."""
        share = self.pixels if self.by_columns else -(-self.pixels // self.tasks)
        if share <= _MANY:
            return share
        room = self.machine.l2 // 2 // element_bytes(self.dtype) // (self.channels + self.columns)
        return min(share, max(_PIXELS, min(_MANY, room)))

    @property
    def at_once(self) -> bool:
        """Whether one block holds all pixels, so that sums go straight to the epilogue."""
        return self.copies == 1 and self.block >= self.pixels

    @property
    def fetches(self) -> tuple[Fetch, Fetch]:
        """What fetches an element of the left and of the right operand."""
        left, right = self.ahead
        if left is None:  # copying reads ahead by itself
            left = _no_fetch if self.staged else _fetch_of(self.left)
        return left, right or _fetch_of(self.right)

    def reads_in_place(self, stripe: Stripe) -> bool:
        """Whether a stripe of the right operand is read where it lies."""
        apart = self.columns * element_bytes(self.dtype)
        whole = stripe.columns % stripe.width == 0
        return whole and not self.packed and apart % _CONFLICT != 0


def _fetch_of(operand: Callable[[Index, Index], Expr]) -> Fetch:
    return lambda pixel, place: emit.prefetch(operand(pixel, place), 2)


def _no_fetch(pixel: Index, place: Index) -> Stmt:
    return emit.NOTHING


@dataclass(frozen=True)
class _Room:
    """What the sums keep in memory: their tiles, copied rows, a panel of each stripe."""

    sums: tuple[Buffer, ...]
    rows: Buffer | None
    panels: tuple[Buffer | None, ...]


def outer_sum(problem: OuterSum) -> Stmt:
    """Emit the sums; see the module."""
    tasks, stripes = problem.tasks, problem.stripes

    def rooms(body: Callable[[_Room], Stmt]) -> Stmt:
        def with_sums(sums: tuple[Buffer, ...]) -> Stmt:
            if len(sums) < len(stripes) and not problem.at_once:
                stripe = stripes[len(sums)]
                shape = (problem.copies, stripe.panels, problem.rows, stripe.width)
                return emit.scratch("sums", shape, problem.dtype, lambda b: with_sums((*sums, b)))
            return with_panels(sums, ())

        def with_panels(sums: tuple[Buffer, ...], panels: tuple[Buffer | None, ...]) -> Stmt:
            if len(panels) == len(stripes):
                return with_rows(sums, panels)
            stripe = stripes[len(panels)]
            if problem.reads_in_place(stripe):
                return with_panels(sums, (*panels, None))
            shape = (tasks, problem.block, stripe.width)
            return emit.scratch(
                "panel", shape, problem.dtype, lambda b: with_panels(sums, (*panels, b))
            )

        def with_rows(sums: tuple[Buffer, ...], panels: tuple[Buffer | None, ...]) -> Stmt:
            if not problem.staged:
                return body(_Room(sums, None, panels))
            shape = (tasks, problem.block, problem.channels)
            return emit.scratch(
                "rows", shape, problem.dtype, lambda b: body(_Room(sums, b, panels))
            )

        return with_sums(())

    return rooms(
        lambda room: emit.seq(
            emit.parallel(tasks, lambda number: _task(problem, room, number)),
            None if problem.at_once else _add_up(problem, room),
        )
    )


def _task(problem: OuterSum, room: _Room, number: Index) -> Stmt:
    tasks, stripes = problem.tasks, problem.stripes

    def part(items: int, split: bool) -> tuple[Index, Index]:
        return emit.split_range(items, tasks, number) if split else (0, items)

    first, count = part(problem.pixels, not problem.by_columns)
    columns = [part(stripe.panels, problem.by_columns) for stripe in stripes]

    def some(channel: Index, height: int) -> Stmt:
        def block(index: Index) -> Stmt:
            start = first + index * problem.block
            length = emit.minimum(problem.block, count - index * problem.block)
            return _block(problem, room, number, (start, length), (channel, height), columns)

        blocks = (count + problem.block - 1) // problem.block
        return emit.serial(blocks, block, "block")

    whole, rest = divmod(problem.rows, problem.channels)
    return emit.seq(
        _clear(problem, room, number, columns),
        emit.serial(whole, lambda i: some(i * problem.channels, problem.channels), "channels"),
        some(whole * problem.channels, rest) if rest else None,
    )


def _own(problem: OuterSum, number: Index) -> Index:
    """Which of the copies of the sums a task adds to."""
    return number if problem.copies > 1 else 0


def _clear(
    problem: OuterSum, room: _Room, number: Index, columns: list[tuple[Index, Index]]
) -> Stmt:
    zero = emit.constant(0, problem.dtype)

    def panel(sums: Buffer, stripe: Stripe, index: Index) -> Stmt:
        return emit.serial(
            problem.rows,
            lambda row: emit.strips(
                stripe.width,
                stripe.lanes,
                lambda j: emit.store(sums, (_own(problem, number), index, row, j), zero),
            ),
        )

    return emit.seq(
        *(
            emit.serial(count, lambda i, b=sums, s=stripe: panel(b, s, i), "panel", first)
            for sums, stripe, (first, count) in zip(
                room.sums, problem.stripes[: len(room.sums)], columns, strict=False
            )
        )
    )


def _block(
    problem: OuterSum,
    room: _Room,
    number: Index,
    pixels: tuple[Index, Index],
    channels: tuple[Index, int],
    columns: list[tuple[Index, Index]],
) -> Stmt:
    """Add what a block of pixels gives to some rows of the result."""
    start, length = pixels
    channel, height = channels

    def copy(pixel: Index) -> Stmt:
        assert room.rows is not None

        def element(c: Index) -> Stmt:
            value = cast(problem.left(start + pixel, channel + c), problem.dtype)
            return emit.store(room.rows, (number, pixel, c), value)

        return emit.strips(height, problem.lanes, element)

    def panel(place: int, index: Index) -> Stmt:
        stripe, packed = problem.stripes[place], room.panels[place]
        sums = room.sums[place] if room.sums else None

        def tile(first: Index, rows: int) -> Stmt:
            at = (number, index, channel, first)
            ahead = _fetch_ahead(problem, stripe, at, pixels, columns[place])
            return _tile(problem, room, stripe, packed, sums, at, rows, pixels, ahead)

        tallest = max_rows(problem.machine, stripe.vectors)
        fill = None if packed is None else _pack(problem, stripe, packed, number, index, pixels)
        return emit.seq(fill, for_row_tiles(height, tallest, tile))

    return emit.seq(
        None if room.rows is None else emit.serial(length, copy, "pixel"),
        *(
            emit.serial(count, lambda i, place=place: panel(place, i), "panel", first)
            for place, (first, count) in enumerate(columns)
        ),
    )


def _pack(
    problem: OuterSum,
    stripe: Stripe,
    packed: Buffer,
    number: Index,
    index: Index,
    pixels: tuple[Index, Index],
) -> Stmt:
    """Copy a panel of the cotangents; lanes past the last column become 0."""
    start, length = pixels
    zero = emit.constant(0, problem.dtype)

    def copy(count: int) -> Stmt:
        def pixel(p: Index) -> Stmt:
            def element(j: Index) -> Stmt:
                column = stripe.first + index * stripe.width + j
                value = cast(problem.right(start + p, column), problem.dtype)
                return emit.store(packed, (number, p, j), value)

            def blank(j: Index) -> Stmt:
                return emit.store(packed, (number, p, count + j), zero)

            return emit.seq(
                emit.strips(count, stripe.lanes, element),
                emit.strips(stripe.width - count, stripe.lanes, blank),
            )

        return emit.serial(length, pixel, "pixel")

    rest = stripe.columns % stripe.width
    if rest == 0:
        return copy(stripe.width)
    last = emit.equal(index, stripe.panels - 1)
    return emit.when(last, copy(rest), copy(stripe.width)) if stripe.panels > 1 else copy(rest)


def _tile(
    problem: OuterSum,
    room: _Room,
    stripe: Stripe,
    packed: Buffer | None,
    sums: Buffer | None,
    at: tuple[Index, Index, Index, Index],
    rows: int,
    pixels: tuple[Index, Index],
    ahead: Callable[[Index], Stmt],
) -> Stmt:
    number, index, channel, first = at
    start, length = pixels
    tile = Tile(rows, stripe.vectors, stripe.lanes, problem.dtype)
    column = stripe.first + index * stripe.width

    def left(pixel: Index, row: int) -> Expr:
        if room.rows is not None:
            return room.rows[number, pixel, first + row]
        return problem.left(start + pixel, channel + first + row)

    def right(pixel: Index, vector: int) -> Expr:
        if packed is None:
            return problem.right(start + pixel, tile.ramp(column + vector * tile.lanes))
        return packed[number, pixel, tile.ramp(vector * tile.lanes)]

    def loops(step: Callable[..., Stmt]) -> Stmt:
        def term(pixel: Index) -> Stmt:
            sum_up = step(lambda row: left(pixel, row), lambda vector: right(pixel, vector))
            return emit.seq(ahead(pixel), sum_up)

        return emit.serial(length, term, "pixel")

    if sums is None:
        return tile.reduce(loops, lambda found: _finish(problem, stripe, tile, at, found))

    def place(row: int, vector: int) -> tuple[Index, ...]:
        lane = tile.ramp(vector * tile.lanes)
        return (_own(problem, number), index, channel + first + row, lane)

    return tile.reduce(
        loops,
        lambda found: tile.each(
            lambda row, vector: emit.store(
                sums, place(row, vector), tile.vector(found, row, vector)
            )
        ),
        lambda row, vector: sums[place(row, vector)],
    )


def _fetch_ahead(
    problem: OuterSum,
    stripe: Stripe,
    at: tuple[Index, Index, Index, Index],
    pixels: tuple[Index, Index],
    panels: tuple[Index, Index],
) -> Callable[[Index], Stmt]:
    """What each pixel of a tile fetches: the same rows of the next block, and the next panel.

    Every tile of a panel fetches that panel's successor: told apart, it would need more code, and
    what is there already costs one load of 17 that go with 28 products.
    """
    (_, index, channel, row), (start, length), (first, count) = at, pixels, panels
    last = emit.equal(index, first + count - 1)
    column: Index = stripe.first + (index + 1) * stripe.width
    begin = start
    if isinstance(last, bool):  # there is one panel
        column, begin = stripe.first, start + length
    elif not problem.at_once:
        column = tirx.Select(last, emit.constant(stripe.first, "int32"), column)
        begin = tirx.Select(last, start + length, emit.constant(0, "int32") + start)

    fetch_left, fetch_right = problem.fetches

    def fetch(pixel: Index) -> Stmt:
        right = (
            fetch_right(begin + pixel, column + vector * stripe.lanes)
            for vector in range(stripe.vectors)
        )
        if problem.at_once:
            return emit.seq(*right)
        return emit.seq(fetch_left(start + length + pixel, channel + row), *right)

    if problem.at_once and isinstance(last, bool):
        return lambda pixel: emit.NOTHING
    return fetch


def _finish(
    problem: OuterSum,
    stripe: Stripe,
    tile: Tile,
    at: tuple[Index, Index, Index, Index],
    found: Buffer,
) -> Stmt:
    _, index, channel, first = at
    column = stripe.first + index * stripe.width

    def write(valid: list[int]) -> Stmt:
        return finish_tile(
            tile,
            found,
            valid,
            lambda row, lane: (channel + first + row, column + lane),
            problem.epilogue,
        )

    full, last = valid_lanes(stripe.columns, stripe.width, tile.lanes)
    if full == last or stripe.panels == 1:
        return write(last)
    return emit.when(emit.equal(index, stripe.panels - 1), write(last), write(full))


def _add_up(problem: OuterSum, room: _Room) -> Stmt:
    """Add the tasks' sums and hand the results to the epilogue."""

    def row(stripe: Stripe, sums: Buffer, flat: Index) -> Stmt:
        number, panel = emit.unflatten(flat, (problem.rows, stripe.panels))

        def columns(count: int) -> Stmt:
            def element(j: Index) -> Stmt:
                total = sums[0, panel, number, j]
                for copy in range(1, problem.copies):
                    total = total + sums[copy, panel, number, j]
                at = (number, stripe.first + panel * stripe.width + j)
                return emit.store_all(problem.epilogue(at, total))

            return emit.strips(count, stripe.lanes, element)

        rest = stripe.columns % stripe.width
        if rest == 0 or stripe.panels == 1:
            return columns(rest or stripe.width)
        last = emit.equal(panel, stripe.panels - 1)
        return emit.when(last, columns(rest), columns(stripe.width))

    heavy = problem.rows * problem.columns * problem.copies > 1 << 18
    loop = emit.parallel if heavy and problem.machine.cores > 1 else emit.serial
    return emit.seq(
        *(
            loop(problem.rows * stripe.panels, lambda flat, s=stripe, b=sums: row(s, b, flat))
            for stripe, sums in zip(problem.stripes, room.sums, strict=True)
        )
    )
