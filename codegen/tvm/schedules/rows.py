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

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..kept import kept
from .row_packing import pack, pack_vector
from .row_shapes import RowProduct, Stripe
from .tile import Tile, cast, finish_tile, tasks_for, valid_lanes


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
        fill = (pack(product, stripe, room) for stripe, room in packed if room is not None)
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
        lambda room: pack(product, stripe, room),
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
                lambda v: pack_vector(
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

        def ahead(row: int, k: Index) -> Stmt:
            if product.ahead is not None:
                return product.ahead(first + row, k)
            return emit.prefetch(left(row, k), 2)

        def rows_ahead(k: Index) -> Stmt:
            if not rows:
                return emit.NOTHING
            fetch = emit.seq(*(ahead(row + height, k) for row in range(height)))
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
