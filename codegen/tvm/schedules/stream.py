"""Products of a few rows with a matrix that comes from memory: its rows are read as they lie.

``out[i, j] = sum_k left(i, k) * right(k, j)`` with at most 4 rows. Some rows of the matrix at a
time run side by side along the columns, which hardware fetches ahead; the sums of a stretch of
columns stay in the first-level cache meanwhile, and are loaded and stored once for all rows of
the matrix that are taken at a time. Panels of columns, whose sums stay in registers, go down the
matrix instead, from page to page, which nothing fetches ahead: for 4096 x 4096 numbers one row
takes 2.2 ms here and 4.5 ms there (EPYC 9R14, one core), while from the second-level cache
panels are as fast.

Where the matrix stays from call to call, panels packed before are as fast for one row and take more
memory, but faster for more rows: 4 rows times 1024 x 1024 take 122 microseconds, here 224.
"""

from __future__ import annotations

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..kept import is_steady
from .product import Product
from .tile import Tile, cast, element_bytes, neighbours, tasks_for

_FEW = 4  # rows
_AT_ONCE = 8  # rows of the matrix; so many streams are fetched ahead
_SUMS = 16 << 10  # bytes of sums, half of a small first-level cache
_NARROWEST = 2048  # bytes of a row of the matrix, of each task


def streams(product: Product) -> bool:
    """Whether few rows meet a matrix of long rows that does not stay in the cache."""
    few = 1 if is_steady(product.matrix) else _FEW
    if product.batch or product.transpose_b or product.paired or product.rows > few:
        return False
    row = product.columns * element_bytes(product.dtypes[1])
    return row >= _NARROWEST and product.terms * row > product.machine.l2


def stream(product: Product) -> Stmt:
    """Emit a product; see the module."""
    lanes, size = product.lanes, element_bytes(product.dtypes[1])
    whole = product.columns // lanes
    tasks = min(
        tasks_for(product.work, product.machine), max(1, product.columns * size // _NARROWEST)
    )
    most = max(1, _SUMS // (product.rows * lanes * element_bytes(product.dtype)))
    length = min(most, -(-whole // tasks))

    def task(sums: Buffer, number: Index) -> Stmt:
        first, count = emit.split_range(whole, tasks, number)

        def stretch(index: Index) -> Stmt:
            start = first + index * length
            some = emit.minimum(length, count - index * length)
            return _Stretch(product, sums, number, start * lanes, lanes).emit(some)

        rest = _Stretch(product, sums, number, whole * lanes, product.columns - whole * lanes)
        last = rest.emit(1) if rest.lanes else emit.NOTHING
        return emit.seq(
            emit.serial((count + length - 1) // length, stretch, "stretch"),
            emit.when(emit.equal(number, tasks - 1), last),
        )

    return emit.scratch(
        "sums",
        (tasks, product.rows, length * lanes),
        product.dtype,
        lambda sums: emit.parallel(tasks, lambda number: task(sums, number)),
    )


class _Stretch:
    """Columns from `first` on whose sums are kept, in vectors of `lanes`."""

    def __init__(
        self, product: Product, sums: Buffer, task: Index, first: Index, lanes: int
    ) -> None:
        self.product, self.sums, self.task = product, sums, task
        self.first, self.lanes = first, lanes
        self.tile = Tile(product.rows, 1, lanes, product.dtype)

    def emit(self, vectors: Index) -> Stmt:
        """All terms of so many vectors."""
        product, rows = self.product, range(self.product.rows)
        at_once = max(1, _AT_ONCE // (1 if len(rows) <= 2 else 2))
        groups, rest = divmod(product.terms, at_once)

        def clear(v: Index) -> Stmt:
            return emit.seq(*(self._set(row, v, self.tile.zero) for row in rows))

        def finish(v: Index) -> Stmt:
            def lane(number: Index) -> Stmt:
                place = v * self.lanes + number
                return emit.seq(
                    *(
                        emit.store_all(
                            product.epilogue(
                                (row, self.first + place), self.sums[self.task, row, place]
                            )
                        )
                        for row in rows
                    )
                )

            return emit.vectorized(self.lanes, lane)

        return emit.seq(
            emit.serial(vectors, clear, "vector"),
            emit.serial(groups, lambda g: self._add(g * at_once, at_once, vectors), "group"),
            self._add(groups * at_once, rest, vectors) if rest else None,
            emit.serial(vectors, finish, "vector"),
        )

    def _set(self, row: int, vector: Index, value: Expr) -> Stmt:
        place = neighbours(vector * self.lanes, self.lanes)
        return emit.store(self.sums, (self.task, row, place), value)

    def _add(self, start: Index, count: int, vectors: Index) -> Stmt:
        """Add the products with so many rows of the matrix."""
        product = self.product
        factors: dict[tuple[int, int], Expr] = {}

        def bound(left: list[tuple[int, int]]) -> Stmt:
            if not left:
                return emit.serial(vectors, vector, "vector")
            row, k = left[0]

            def with_factor(value: Expr) -> Stmt:
                factors[row, k] = value
                return bound(left[1:])

            return emit.let(cast(product.left((), row, start + k), product.dtype), with_factor)

        def vector(v: Index) -> Stmt:
            columns = neighbours(self.first + v * self.lanes, self.lanes)
            place = neighbours(v * self.lanes, self.lanes)

            def all_rows(weights: list[Expr]) -> Stmt:
                return emit.seq(*(add(row, weights) for row in range(product.rows)))

            def add(row: int, weights: list[Expr]) -> Stmt:
                total = self.sums[self.task, row, place]
                for k, weight in enumerate(weights):
                    total = self.tile.plus(total, self.tile.factor(factors[row, k]), weight)
                return emit.store(self.sums, (self.task, row, place), total)

            def loaded(weights: list[Expr]) -> Stmt:
                if len(weights) == count:
                    return all_rows(weights)
                value = product.right((), start + len(weights), columns)
                value = cast(value, product.dtype, self.lanes)
                return emit.let(value, lambda weight: loaded([*weights, weight]))

            return loaded([])

        return bound([(row, k) for row in range(product.rows) for k in range(count)])
