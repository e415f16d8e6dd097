"""Matrix products by panels of columns, and sums that are split over tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..kept import is_steady, kept
from .pairs import flat, with_pairs_of_rows
from .product import Place, Product
from .tile import (
    Tile,
    blank,
    cast,
    choose_vectors,
    element_bytes,
    finish_tile,
    for_row_tiles,
    max_rows,
    neighbours,
    row_tiles,
    tasks_for,
    valid_lanes,
)

_LONG_SUM = 2048  # terms from which on a sum is worth splitting over tasks
_FEW_ROWS = 512  # up to which a matrix that comes from memory is read in place
_LINE = 64  # bytes of a line of the cache
_SOON = 32  # terms until a row that is fetched from memory is read
_CONFLICT = 4096  # rows this many bytes apart fall in the same set of the first-level cache


@dataclass(frozen=True)
class Stripe:
    """A range of columns of a product, cut in panels.

    `direct` reads `b` where it lies; `keeps` has all panels of it packed before, for `b` stays.
    """

    product: Product
    first: int
    columns: int
    vectors: int
    direct: bool
    keeps: bool = False

    @property
    def width(self) -> int:
        return self.vectors * self.product.lanes

    @property
    def panels(self) -> int:
        return -(-self.columns // self.width)

    @property
    def tallest(self) -> int:
        return max_rows(self.product.machine, self.vectors)

    @property
    def tiles(self) -> int:
        return row_tiles(self.product.rows, self.tallest)[0]

    def column(self, panel: Index) -> Index:
        return self.first + panel * self.width


def panels(product: Product) -> Stmt:
    """Emit a product panel by panel; see `matmul`."""
    return with_pairs_of_rows(product, _panels)


def _panels(product: Product) -> Stmt:
    product, wrap = _without_conflicts(product)
    if not _read_in_place(product):
        vectors = choose_vectors(product.columns, product.machine, product.dtype)
        keeps = is_steady(product.matrix)
        if keeps:
            vectors = max(vectors, _dividing_vectors(-(-product.columns // product.lanes), product))
        return wrap(_stripe(Stripe(product, 0, product.columns, vectors, False, keeps)))
    whole, rest = divmod(product.columns, product.lanes)
    done = whole * product.lanes
    main = Stripe(product, 0, done, _dividing_vectors(whole, product), True)
    tail = Stripe(product, done, rest, 1, False)
    return wrap(emit.seq(*(_stripe(part) for part in (main, tail) if part.columns)))


def _read_in_place(product: Product) -> bool:
    """Whether packing `b` would cost more than it saves: not many rows, or `b` fits the cache.

    Of a matrix of 256 KiB in a cache of 1 MiB (128 x 512, EPYC 9R14, one core): 116 GFLOP/s where
    it lies and 60 packed with 8 rows, 113 and 94 with 32, 116 and 114 with 512. Of 4096 x 4096,
    whose rows are fetched before they are read: 83 and 36 with 16 rows, 103 and 56 with 32, 110 and
    87 with 128, 112 and 105 with 512; of 1024 x 1024 115 and 90 with 28, as fast with 512. Where
    `a` is transposed, packed is faster (86 and 99 for 4096 x 4096 of 128 terms).

    Packing a `b` that stays costs nothing, and what does not lie in the second-level cache is read
    faster from panels, as it comes in long runs: 4 rows times 1024 x 1024 take 99 and not 247
    microseconds (f32, from the third level), in bf16 54 and not 76.
    """
    if product.transpose_b or product.columns < product.lanes:
        return False
    size = product.terms * product.columns * element_bytes(product.dtypes[1])
    if is_steady(product.matrix):
        return not product.paired and size <= product.machine.l2 // 2
    if product.paired:
        return product.rows <= 4
    few = max_rows(product.machine, 2) if product.transpose_a else _FEW_ROWS
    return product.rows <= few or size <= product.machine.l2 // 2


def _dividing_vectors(whole: int, product: Product) -> int:
    """Vectors in a panel that divide the columns; many for few rows, to fill the pipeline."""
    choices = (8, 4, 2, 1) if product.rows <= 2 else (4, 2, 1) if product.rows <= 4 else (2, 1)
    return next(choice for choice in choices if whole % choice == 0)


def _without_conflicts(product: Product) -> tuple[Product, Callable[[Stmt], Stmt]]:
    """Copy `a` to rows of another length where its rows would evict each other from the cache.

    Numbers that are to be converted are so once, and not for each column that they meet.
    """
    rows, length = product.rows, product.terms
    if product.paired and not product.in_place[0]:
        return product, lambda body: body  # packed to rows of another length
    if product.transpose_a:
        rows, length = length, rows
    conflict = length * element_bytes(product.dtypes[0]) % _CONFLICT == 0
    conflict = conflict or product.dtypes[0] != product.packed
    many_panels = product.columns >= 8 * product.lanes
    if product.batch or not conflict or not many_panels or rows <= 8 or product.rows <= 4:
        return product, lambda body: body
    copy = emit.buffer("rows", (rows, length + product.lanes), product.packed)

    def copied(at: Place, i: Index, k: Index) -> Expr:
        return copy[(k, i) if product.transpose_a else (i, k)]

    def copy_row(i: Index) -> Stmt:
        def element(j: Index) -> Stmt:
            value = product.left((), j, i) if product.transpose_a else product.left((), i, j)
            return emit.store(copy, (i, j), cast(value, product.packed))

        return emit.strips(length, product.lanes, element, unroll=4)

    fill = emit.parallel(rows, copy_row)
    return replace(product, left=copied), lambda body: emit.seq(tirx.AllocBuffer(copy), fill, body)


def _stripe(stripe: Stripe) -> Stmt:
    """All panels of a stripe, over tasks by batch, columns, rows or terms."""
    product = stripe.product
    work = product.work * stripe.columns // product.columns
    tasks = tasks_for(work, product.machine)
    batches = math.prod(product.batch)
    choices = {"batch": batches, "columns": stripe.panels, "rows": stripe.tiles}
    split, items = max(choices.items(), key=lambda choice: _balance(choice[1], tasks))
    if tasks > 1 and 2 * items <= tasks and product.terms >= _LONG_SUM and batches == 1:
        return _split_terms(stripe, tasks)
    tasks = min(tasks, items)

    def task(number: Index, packed: Buffer | None) -> Stmt:
        def part(name: str) -> tuple[Index, Index]:
            if name == split:
                return emit.split_range(items, tasks, number)
            return 0, choices[name]

        first, count = part("batch")
        panels, rows = part("columns"), part("rows")
        every = (0, product.terms)

        def one(flat: Index) -> Stmt:
            at = emit.unflatten(flat, product.batch)
            return _run_panels(stripe, at, panels, rows, every, number, packed)

        return emit.serial(count, one, "batch", first)

    return _with_packed(
        stripe, tasks, lambda packed: emit.parallel(tasks, lambda number: task(number, packed))
    )


def _balance(items: int, tasks: int) -> float:
    """Share of the tasks' time that is used when items are dealt out, 1 if they divide."""
    return items / (-(-items // tasks) * tasks)


def _with_packed(stripe: Stripe, tasks: int, body: Callable[[Buffer | None], Stmt]) -> Stmt:
    """Give each task room for one packed panel, unless `b` is read where it lies."""
    product = stripe.product
    if stripe.direct:
        return body(None)
    if not stripe.keeps:
        return emit.scratch("packed", (tasks, product.terms, stripe.width), product.packed, body)
    shape = (math.prod(product.batch) * stripe.panels, product.terms, stripe.width)
    return kept(
        product.matrix, "packed", shape, product.packed, lambda room: _pack_all(stripe, room), body
    )


def _pack_all(stripe: Stripe, packed: Buffer) -> Stmt:
    """Pack every panel to a room of its own."""
    product = stripe.product
    rooms, _, _ = emit.shape_of(packed)

    def panel(room: Index) -> Stmt:
        batch, number = emit.unflatten(room, (rooms // stripe.panels, stripe.panels))
        at = emit.unflatten(batch, product.batch)
        return pack_panel(stripe, at, number, (0, product.terms), room, packed)

    return emit.parallel(rooms, panel)


def _run_panels(
    stripe: Stripe,
    at: Place,
    panels: tuple[Index, Index],
    rows: tuple[Index, Index],
    terms: tuple[Index, Index],
    task: Index,
    packed: Buffer | None,
) -> Stmt:
    """Panels (start, count) times row tiles (start, count) over terms (start, length)."""
    product = stripe.product

    def panel(number: Index) -> Stmt:
        def tile(first: Index, height: int) -> Stmt:
            return _tile(stripe, at, number, first, height, terms, task, packed)

        down = for_row_tiles(product.rows, stripe.tallest, tile, rows)
        if packed is None or stripe.keeps:
            return down
        return emit.seq(pack_panel(stripe, at, number, terms, task, packed), down)

    return emit.serial(panels[1], panel, "panel", panels[0])


def _tile(
    stripe: Stripe,
    at: Place,
    panel: Index,
    first: Index,
    height: int,
    terms: tuple[Index, Index],
    task: Index,
    packed: Buffer | None,
) -> Stmt:
    product = stripe.product
    tile = Tile(height, stripe.vectors, product.lanes, product.dtype, product.paired)
    start, length = terms
    column = stripe.column(panel)

    def right(k: Index, vector: int) -> Expr:
        if packed is None:
            return product.right(at, start + k, tile.ramp(column + vector * tile.lanes))
        if stripe.keeps:
            room = flat(at, product.batch) * stripe.panels + panel
            return packed[room, start + k, tile.ramp(vector * tile.lanes)]
        return packed[task, k, tile.ramp(vector * tile.lanes)]

    ahead = _fetch_ahead(stripe, at, column)

    def loops(step: Callable[..., Stmt]) -> Stmt:
        def term(k: Index) -> Stmt:
            sum_up = step(
                lambda row: product.left(at, first + row, start + k),
                lambda vector: right(k, vector),
            )
            return emit.seq(ahead(start + k), sum_up)

        return emit.serial(length, term, "k")

    def finish(sums: Buffer) -> Stmt:
        def write(valid: list[int]) -> Stmt:
            return finish_tile(
                tile,
                sums,
                valid,
                lambda row, lane: (*at, first + row, column + lane),
                product.epilogue,
            )

        full, last = valid_lanes(stripe.columns, stripe.width, tile.lanes)
        if full == last:
            return write(full)
        return emit.when(emit.equal(panel, stripe.panels - 1), write(last), write(full))

    return tile.reduce(loops, finish)


def _fetch_ahead(stripe: Stripe, at: Place, column: Index) -> Callable[[Index], Stmt]:
    """What a term fetches of a matrix that comes from memory, a few numbers from each row.

    To a panel that is packed: the same row of the next panel, by every tile, as that is less code
    than one of its own. To one that is read in place: a row that is summed soon.
    """
    product, matrix = stripe.product, stripe.product.matrix
    size = element_bytes(emit.dtype_of(matrix))
    small = math.prod(emit.shape_of(matrix)) * size <= product.machine.l2
    one = stripe.panels == 1 and not stripe.direct
    if small or one or stripe.keeps or product.transpose_b:
        return lambda k: emit.NOTHING
    begin, later = (column, _SOON) if stripe.direct else (column + stripe.width, 0)

    def fetch(k: Index) -> Stmt:
        rows = (2 * (k + later), 2 * (k + later) + 1) if product.paired else (k + later,)
        return emit.seq(
            *(
                emit.prefetch(matrix[(*at, row, begin + j)], 2)
                for row in rows
                for j in range(0, stripe.width, max(1, _LINE // size))
            )
        )

    return fetch


def pack_panel(
    stripe: Stripe,
    at: Place,
    panel: Index,
    terms: tuple[Index, Index],
    task: Index,
    packed: Buffer,
) -> Stmt:
    """Copy a panel of `b` to ``packed[task, k, lane]``; lanes past the last column become 0.

    Vectors are packed one by one, so that the code for a whole one is there once.
    """
    product, lanes = stripe.product, stripe.product.lanes
    pack = _pack_transposed if product.transpose_b else _pack_plain
    whole, rest = divmod(stripe.columns, lanes)

    def vector(number: Index) -> Stmt:
        column = stripe.column(panel) + number * lanes

        def columns(count: int) -> Stmt:
            return pack(product, at, column, terms, count, (task, number * lanes), packed)

        place = panel * stripe.vectors + number
        if stripe.panels * stripe.vectors == whole:
            return columns(lanes)
        return emit.when(
            emit.less(place, whole),
            columns(lanes),
            emit.when(emit.equal(place, whole), columns(rest), columns(0)),
        )

    return emit.serial(stripe.vectors, vector, "vector")


def _pack_plain(
    product: Product,
    at: Place,
    column: Index,
    terms: tuple[Index, Index],
    count: int,
    target: tuple[Index, Index],
    packed: Buffer,
) -> Stmt:
    """Pack one vector of each row of `b`, `count` of its lanes; the others become 0."""
    (task, base), (start, length) = target, terms

    def element(k: Index, lane: Index) -> Stmt:
        value = cast(product.right(at, start + k, column + lane), product.packed)
        return emit.store(packed, (task, k, base + lane), value)

    return emit.seq(
        emit.serial(length, lambda k: emit.vectorized(count, lambda lane: element(k, lane)), "k"),
        blank(packed, target, length, count, product.lanes),
    )


def _pack_transposed(
    product: Product,
    at: Place,
    column: Index,
    terms: tuple[Index, Index],
    count: int,
    target: tuple[Index, Index],
    packed: Buffer,
) -> Stmt:
    """Pack rows of `b` as columns: whole blocks by shuffles, the rest one by one."""
    (task, base), (start, length), lanes = target, terms, product.lanes
    by_blocks = product.dtypes[1] == product.packed and lanes > 1 and count == lanes
    # The last pair may be half of one, which no vector may read.
    blocks = (length - (0 if product.in_place[1] else 1)) // lanes if by_blocks else 0

    def block(number: Index) -> Stmt:
        k = number * lanes
        return emit.transpose_block(
            lambda row, inner: product.right(at, neighbours(start + k, lanes), column + row),
            lambda row, inner, vector: emit.store(packed, (task, k + row, base + inner), vector),
            lanes,
        )

    def single(k: Index, lane: Index) -> Stmt:
        value = cast(product.right(at, start + k, column + lane), product.packed)
        return emit.store(packed, (task, k, base + lane), value)

    def rest(k: Index) -> Stmt:
        return emit.serial(count, lambda lane: single(k, lane), "lane")

    return emit.seq(
        emit.serial(blocks, block, "block"),
        emit.serial(length - blocks * lanes, rest, "k", blocks * lanes),
        blank(packed, target, length, count, product.lanes),
    )


# --- a long sum over tasks -------------------------------------------------------------------


def _split_terms(stripe: Stripe, tasks: int) -> Stmt:
    """Each task sums a stretch of the terms; then the stretches' sums are added."""
    product = stripe.product
    shape = (tasks, product.rows, stripe.columns)

    def body(sums: Buffer) -> Stmt:
        def task(number: Index, packed: Buffer | None) -> Stmt:
            def keep(indices: Place, value: Expr) -> list[tuple[Buffer, Place, Expr]]:
                i, j = indices[-2:]
                return [(sums, (number, i, j - stripe.first), value)]

            own = replace(stripe, product=replace(product, epilogue=keep))
            terms = emit.split_range(product.terms, tasks, number)
            return _run_panels(
                own,
                (0,) * len(product.batch),
                (0, stripe.panels),
                (0, stripe.tiles),
                terms,
                number,
                packed,
            )

        split = _with_packed(
            stripe, tasks, lambda packed: emit.parallel(tasks, lambda number: task(number, packed))
        )
        return emit.seq(split, _add_up(stripe, sums, tasks))

    return emit.scratch("stretches", shape, product.dtype, body)


def _add_up(stripe: Stripe, sums: Buffer, tasks: int) -> Stmt:
    product = stripe.product

    def element(i: Index, j: Index) -> Stmt:
        total = sums[0, i, j]
        for task in range(1, tasks):
            total = total + sums[task, i, j]
        indices = (*(0,) * len(product.batch), i, stripe.first + j)
        return emit.store_all(product.epilogue(indices, total))

    return emit.serial(
        product.rows,
        lambda i: emit.strips(stripe.columns, product.lanes, lambda j: element(i, j)),
    )
