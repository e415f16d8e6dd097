"""Matrix products with few rows or columns: vectors run along the sum."""

from __future__ import annotations

import math
from collections.abc import Callable

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from .product import Place, Product
from .tile import Tile, cast, for_row_tiles, row_tiles, tasks_for

_DOT_LIMIT = 4  # rows or columns up to which vectors run along the sum


def along_the_sum(product: Product) -> bool:
    """Whether few results are left to sum and both operands are contiguous along the sum."""
    few = min(product.rows, product.columns) <= _DOT_LIMIT
    contiguous = product.transpose_b and not product.transpose_a
    return few and contiguous and product.terms >= product.lanes > 1


def dot(product: Product) -> Stmt:
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
    product: Product, at: Place, first: Index, column: Index, rows: int, columns: int
) -> Stmt:
    lanes, whole = product.lanes, product.terms // product.lanes
    if not all(product.in_place):  # the last pair may be half of one, which no vector may read
        whole = (product.terms - 1) // lanes
    tile = Tile(rows, columns, lanes, product.dtype, product.paired)

    def term(sums: Buffer, k: Index, width: int) -> Stmt:
        index = tile.ramp(k) if width > 1 else k

        def values(load: Callable[[int], Expr], count: int) -> list[Expr]:
            return [cast(load(number), product.packed, width) for number in range(count)]

        left = values(lambda row: product.left(at, first + row, index), rows)
        right = values(lambda j: product.right(at, index, column + j), columns)

        def add(row: int, j: int) -> Stmt:
            place = row * columns + j
            place = tile.ramp(place * lanes) if width > 1 else place
            return emit.store(sums, (place,), tile.plus(sums[place], left[row], right[j]))

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
