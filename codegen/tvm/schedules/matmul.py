"""Matrix products: batched, either operand transposed, any shape.

Four ways, the first that fits:

- *empty*: nothing to sum; the epilogue gets zeros.
- *dot*: at most 4 rows or columns, and both operands contiguous along the sum: vectors run along
  the sum, and lanes are added up at the end. Matrix times vector is bound by memory, and packing
  would double the traffic.
- *split*: fewer tiles than processors and a long sum: each task sums a stretch of it.
- *panels*: columns are cut in panels of a few vectors; a task packs a panel of `b` in its own
  workspace, hot in its cache, then runs down the rows in register tiles. Packing costs 1/40 of
  the tile's time at 128 rows, and needs no barrier. Blocking the sum was left out: a panel from
  the second level of cache keeps up with the multipliers, and so do rows from the third.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine
from .tile import (
    Epilogue,
    Tile,
    accumulator,
    cast,
    choose_vectors,
    element_bytes,
    finish_tile,
    for_row_tiles,
    max_rows,
    row_tiles,
    store_to,
    tasks_for,
    valid_lanes,
)

_DOT_LIMIT = 4  # rows or columns up to which vectors run along the sum
_LONG_SUM = 2048  # terms from which on a sum is worth splitting over tasks
_CONFLICT = 4096  # rows this many bytes apart fall in the same set of the first-level cache

Place = tuple[Index, ...]


@dataclass(frozen=True)
class _Product:
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


def matmul(
    a: Buffer,
    b: Buffer,
    out: Buffer | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    machine: Machine,
    epilogue: Epilogue | None = None,
) -> Stmt:
    """Multiply matrices: ``out[..., i, j] = sum_k a[..., i, k] * b[..., k, j]``.

    Parameters
    ----------
    a : Buffer
        Shape ``(*batch, rows, terms)``, or ``(*batch, terms, rows)`` if `transpose_a`.
    b : Buffer
        Shape ``(*batch, terms, columns)``, or ``(*batch, columns, terms)`` if `transpose_b`.
    out : Buffer, optional
        Shape ``(*batch, rows, columns)``; needed only without an `epilogue`.
    transpose_a, transpose_b : bool
        Whether the last two dimensions of an operand are swapped.
    machine : Machine
        What to choose tiles for.
    epilogue : callable, optional
        ``epilogue(indices, value)`` returns the stores for one element of the product, whose
        value it gets in the dtype of the sums (f32 for f16 and bf16).

    Returns
    -------
    Stmt
        The loops, parallel where the work is worth it.
    """
    epilogue = epilogue or store_to(out)
    if transpose_a and emit.shape_of(a)[-1] == 1:  # a vector is its own transpose
        return _with_row(a, lambda row: _emit(row, b, False, transpose_b, machine, epilogue))
    return _emit(a, b, transpose_a, transpose_b, machine, epilogue)


def _emit(
    a: Buffer, b: Buffer, transpose_a: bool, transpose_b: bool, machine: Machine, epilogue: Epilogue
) -> Stmt:
    if not transpose_b and emit.shape_of(b)[-1] == 1:
        return _with_row(b, lambda row: _emit(a, row, transpose_a, True, machine, epilogue))
    product = _product(a, b, transpose_a, transpose_b, machine, epilogue)
    if product.size == 0:
        return emit.NOTHING
    if product.terms == 0:
        return _empty(product)
    if _along_the_sum(product):
        return _dot(product)
    return _panels(product)


def _with_row(column: Buffer, body: Callable[[Buffer], Stmt]) -> Stmt:
    """See a matrix of one column as a matrix of one row."""
    *batch, length, one = emit.shape_of(column)
    if 0 in (*batch, length):
        return body(emit.buffer("row", (*batch, one, length), emit.dtype_of(column)))
    return emit.view(column, (*batch, one, length), body)


def _product(
    a: Buffer, b: Buffer, transpose_a: bool, transpose_b: bool, machine: Machine, epilogue: Epilogue
) -> _Product:
    *batch, rows, terms = emit.shape_of(a)
    columns = emit.shape_of(b)[-2 if transpose_b else -1]
    if transpose_a:
        rows, terms = terms, rows

    def left(at: Place, i: Index, k: Index) -> Expr:
        return a[(*at, k, i) if transpose_a else (*at, i, k)]

    def right(at: Place, k: Index, j: Index) -> Expr:
        return b[(*at, j, k) if transpose_b else (*at, k, j)]

    return _Product(
        tuple(batch), rows, columns, terms, left, right, transpose_a, transpose_b,
        (emit.dtype_of(a), emit.dtype_of(b)), accumulator(a, b), machine, epilogue,
    )


def _empty(product: _Product) -> Stmt:
    zero = emit.constant(0, product.dtype)

    def row(at: Place) -> Stmt:
        return emit.strips(
            product.columns,
            product.lanes,
            lambda j: emit.store_all(product.epilogue((*at, j), zero)),
        )

    return emit.nest((*product.batch, product.rows), row)


# --- panels ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stripe:
    """A range of columns of a product, cut in panels; `direct` reads `b` where it lies."""

    product: _Product
    first: int
    columns: int
    vectors: int
    direct: bool

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


def _panels(product: _Product) -> Stmt:
    product, wrap = _without_conflicts(product)
    if not _read_in_place(product):
        vectors = choose_vectors(product.columns, product.machine, product.dtype)
        return wrap(_stripe(_Stripe(product, 0, product.columns, vectors, False)))
    whole, rest = divmod(product.columns, product.lanes)
    done = whole * product.lanes
    main = _Stripe(product, 0, done, _dividing_vectors(whole, product), True)
    tail = _Stripe(product, done, rest, 1, False)
    return wrap(emit.seq(*(_stripe(part) for part in (main, tail) if part.columns)))


def _read_in_place(product: _Product) -> bool:
    """Whether packing `b` would cost more than it saves: few rows, or `b` fits the cache."""
    if product.transpose_b or product.columns < product.lanes:
        return False
    size = product.terms * product.columns * element_bytes(product.dtypes[1])
    return product.rows <= 4 or size <= product.machine.l2 // 16


def _dividing_vectors(whole: int, product: _Product) -> int:
    """Vectors in a panel that divide the columns; many for few rows, to fill the pipeline."""
    choices = (8, 4, 2, 1) if product.rows <= 2 else (4, 2, 1) if product.rows <= 4 else (2, 1)
    return next(choice for choice in choices if whole % choice == 0)


def _without_conflicts(product: _Product) -> tuple[_Product, Callable[[Stmt], Stmt]]:
    """Copy `a` to rows of another length where its rows would evict each other from the cache."""
    rows, length = product.rows, product.terms
    if product.transpose_a:
        rows, length = length, rows
    conflict = length * element_bytes(product.dtypes[0]) % _CONFLICT == 0
    many_panels = product.columns >= 8 * product.lanes
    if product.batch or not conflict or not many_panels or rows <= 8 or product.rows <= 4:
        return product, lambda body: body
    copy = emit.buffer("rows", (rows, length + product.lanes), product.dtypes[0])

    def copied(at: Place, i: Index, k: Index) -> Expr:
        return copy[(k, i) if product.transpose_a else (i, k)]

    def copy_row(i: Index) -> Stmt:
        def element(j: Index) -> Stmt:
            value = product.left((), j, i) if product.transpose_a else product.left((), i, j)
            return emit.store(copy, (i, j), value)

        return emit.strips(length, product.lanes, element, unroll=4)

    fill = emit.parallel(rows, copy_row)
    return replace(product, left=copied), lambda body: emit.seq(
        tirx.AllocBuffer(copy), fill, body
    )


def _stripe(stripe: _Stripe) -> Stmt:
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

    return _with_packed(stripe, tasks, lambda packed: emit.parallel(
        tasks, lambda number: task(number, packed)
    ))


def _balance(items: int, tasks: int) -> float:
    """Share of the tasks' time that is used when items are dealt out, 1 if they divide."""
    return items / (-(-items // tasks) * tasks)


def _with_packed(
    stripe: _Stripe, tasks: int, body: Callable[[Buffer | None], Stmt]
) -> Stmt:
    """Give each task room for one packed panel, unless `b` is read where it lies."""
    if stripe.direct:
        return body(None)
    shape = (tasks, stripe.product.terms, stripe.width)
    return emit.scratch("packed", shape, stripe.product.dtype, body)


def _run_panels(
    stripe: _Stripe,
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
        if packed is None:
            return down
        return emit.seq(_pack(stripe, at, number, terms, task, packed), down)

    return emit.serial(panels[1], panel, "panel", panels[0])


def _tile(
    stripe: _Stripe,
    at: Place,
    panel: Index,
    first: Index,
    height: int,
    terms: tuple[Index, Index],
    task: Index,
    packed: Buffer | None,
) -> Stmt:
    product = stripe.product
    tile = Tile(height, stripe.vectors, product.lanes, product.dtype)
    start, length = terms
    column = stripe.column(panel)

    def right(k: Index, vector: int) -> Expr:
        if packed is None:
            return product.right(at, start + k, tile.ramp(column + vector * tile.lanes))
        return packed[task, k, tile.ramp(vector * tile.lanes)]

    def loops(step: Callable[..., Stmt]) -> Stmt:
        def term(k: Index) -> Stmt:
            return step(
                lambda row: product.left(at, first + row, start + k),
                lambda vector: right(k, vector),
            )

        return emit.serial(length, term, "k")

    def finish(sums: Buffer) -> Stmt:
        def write(valid: list[int]) -> Stmt:
            return finish_tile(
                tile, sums, valid, lambda row, lane: (*at, first + row, column + lane),
                product.epilogue,
            )

        full, last = valid_lanes(stripe.columns, stripe.width, tile.lanes)
        if full == last:
            return write(full)
        return emit.when(emit.equal(panel, stripe.panels - 1), write(last), write(full))

    return tile.reduce(loops, finish)


def _pack(
    stripe: _Stripe,
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
    product: _Product,
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
        value = cast(product.right(at, start + k, column + lane), product.dtype)
        return emit.store(packed, (task, k, base + lane), value)

    return emit.seq(
        emit.serial(length, lambda k: emit.vectorized(count, lambda lane: element(k, lane)), "k"),
        _blank(product, length, count, target, packed),
    )


def _pack_transposed(
    product: _Product,
    at: Place,
    column: Index,
    terms: tuple[Index, Index],
    count: int,
    target: tuple[Index, Index],
    packed: Buffer,
) -> Stmt:
    """Pack rows of `b` as columns: whole blocks by shuffles, the rest one by one."""
    (task, base), (start, length), lanes = target, terms, product.lanes
    by_blocks = product.dtypes[1] == product.dtype and lanes > 1 and count == lanes
    blocks = length // lanes if by_blocks else 0

    def block(number: Index) -> Stmt:
        k = number * lanes
        return emit.transpose_block(
            lambda row, inner: product.right(at, start + k + inner, column + row),
            lambda row, inner, vector: emit.store(packed, (task, k + row, base + inner), vector),
            lanes,
        )

    def single(k: Index, lane: Index) -> Stmt:
        value = cast(product.right(at, start + k, column + lane), product.dtype)
        return emit.store(packed, (task, k, base + lane), value)

    def rest(k: Index) -> Stmt:
        return emit.serial(count, lambda lane: single(k, lane), "lane")

    return emit.seq(
        emit.serial(blocks, block, "block"),
        emit.serial(length - blocks * lanes, rest, "k", blocks * lanes),
        _blank(product, length, count, target, packed),
    )


def _blank(
    product: _Product, length: Index, count: int, target: tuple[Index, Index], packed: Buffer
) -> Stmt:
    """Set the lanes of a packed vector from `count` on to 0."""
    (task, base), zero = target, emit.constant(0, product.dtype)

    def lane(k: Index, number: Index) -> Stmt:
        return emit.store(packed, (task, k, base + count + number), zero)

    return emit.serial(
        length, lambda k: emit.vectorized(product.lanes - count, lambda n: lane(k, n)), "k"
    )


# --- a long sum over tasks -------------------------------------------------------------------


def _split_terms(stripe: _Stripe, tasks: int) -> Stmt:
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
                own, (0,) * len(product.batch), (0, stripe.panels), (0, stripe.tiles), terms,
                number, packed,
            )

        split = _with_packed(stripe, tasks, lambda packed: emit.parallel(
            tasks, lambda number: task(number, packed)
        ))
        return emit.seq(split, _add_up(stripe, sums, tasks))

    return emit.scratch("stretches", shape, product.dtype, body)


def _add_up(stripe: _Stripe, sums: Buffer, tasks: int) -> Stmt:
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


# --- dot -------------------------------------------------------------------------------------


def _along_the_sum(product: _Product) -> bool:
    """Whether few results are left to sum and both operands are contiguous along the sum."""
    few = min(product.rows, product.columns) <= _DOT_LIMIT
    contiguous = product.transpose_b and not product.transpose_a
    return few and contiguous and product.terms >= product.lanes > 1


def _dot(product: _Product) -> Stmt:
    """Tiles of up to 8 results, each summed lane by lane, then over lanes."""
    by_rows = product.columns <= _DOT_LIMIT
    long, short = product.rows, product.columns
    if not by_rows:
        long, short = short, long
    tallest = max(1, 8 // short)
    count = row_tiles(long, tallest)[0]
    batches = math.prod(product.batch)
    split_batch = batches >= count
    items = batches if split_batch else count
    tasks = min(tasks_for(product.work, product.machine), items)

    def task(number: Index) -> Stmt:
        part = emit.split_range(items, tasks, number)
        first, length = part if split_batch else (0, batches)
        tiles = (0, count) if split_batch else part

        def one(flat: Index) -> Stmt:
            at = emit.unflatten(flat, product.batch)

            def tile(start: Index, height: int) -> Stmt:
                if by_rows:
                    return _dot_tile(product, at, start, 0, height, short)
                return _dot_tile(product, at, 0, start, short, height)

            return for_row_tiles(long, tallest, tile, tiles)

        return emit.serial(length, one, "batch", first)

    return emit.parallel(tasks, task)


def _dot_tile(
    product: _Product, at: Place, first: Index, column: Index, rows: int, columns: int
) -> Stmt:
    lanes, whole = product.lanes, product.terms // product.lanes
    tile = Tile(rows, columns, lanes, product.dtype)

    def term(sums: Buffer, k: Index, width: int) -> Stmt:
        index = tile.ramp(k) if width > 1 else k

        def values(load: Callable[[int], Expr], count: int) -> list[Expr]:
            return [cast(load(number), product.dtype, width) for number in range(count)]

        left = values(lambda row: product.left(at, first + row, index), rows)
        right = values(lambda j: product.right(at, index, column + j), columns)

        def add(row: int, j: int) -> Stmt:
            place = row * columns + j
            place = tile.ramp(place * lanes) if width > 1 else place
            return emit.store(sums, (place,), sums[place] + left[row] * right[j])

        return tile.each(add)

    def finish(sums: Buffer) -> Stmt:
        def write(totals: Buffer) -> Stmt:
            def result(place: Place) -> Stmt:
                i, j = place
                indices = (*at, first + i, column + j)
                return emit.store_all(product.epilogue(indices, totals[i * columns + j]))

            def total(row: int, j: int) -> Stmt:
                place = row * columns + j
                return emit.store(totals, (place,), _lane_sum(sums, place * lanes, lanes))

            return emit.seq(
                tile.each(total),
                emit.serial(
                    product.terms - whole * lanes, lambda k: term(totals, k, 1), "k", whole * lanes
                ),
                emit.nest((rows, columns), result),
            )

        return emit.local("totals", (rows * columns,), product.dtype, write)

    def loops(sums: Buffer) -> Stmt:
        return emit.serial(whole, lambda k: term(sums, k * lanes, lanes), "k")

    return tile.accumulate(loops, finish)


def _lane_sum(sums: Buffer, start: int, count: int) -> Expr:
    """Sum `count` elements pairwise."""
    if count == 1:
        return sums[start]
    half = count // 2
    return _lane_sum(sums, start, half) + _lane_sum(sums, start + half, count - half)
