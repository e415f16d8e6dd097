"""Sums and sums of squared deviations in one pass over the operand (see `passes.moments`).

A block of rows is read twice, the second time from the first-level cache: for its sums, and for
the squares of what differs from its own means. A few rows are summed side by side, for each
addition waits for the one before it. All is relative to the first row, so that the digits of a
large mean are not carried along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...ir.graph import Graph, Value
from ...ir.types import DType, i32
from ...passes.moments import Centered, deviations
from . import index as ix
from .accumulate import Moments, Parts
from .emit import Buffer, Stmt
from .index import Index, Indices
from .math import Element, cast, constant, read, storage, store
from .nest import loops
from .reducer import Arrays, At, Loop, Reducer, Results, Space
from .reduction import Columns, Outermost
from .target import Machine

_BLOCK_BYTES = 16 << 10  # of one operand, half of a small first-level cache
_VECTORS = 4  # sums in flight


def moments(body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    """The loops of a kernel of moments.

    Parameters
    ----------
    body : Graph
        As for `reduction`, but that some reductions are sums over deviations from what is
        computed of the others. The last dimension of more than one element is kept.
    buffers : mapping of Value to Buffer
        Flat buffers of inputs and outputs.
    machine : Machine
        What to choose vectors and threads for.
    """
    space = Space(body, buffers, machine)
    reducer = MomentReducer(space, deviations(space.nodes))
    kept = [loop for loop in space.loops if loop.kept]
    MomentColumns(reducer, kept, [loop for loop in space.loops if not loop.kept]).run()
    return space.nest.finish()


class MomentReducer(Reducer):
    """Partial results of which some are moments."""

    def __init__(self, space: Space, deviations: Sequence[Centered]) -> None:
        derived = {c.node for c in deviations}
        super().__init__(space, [n for n in space.nodes if n not in derived])
        self.deviations = deviations
        self.wanted = {c.total for c in deviations}
        self.accumulators = [
            Moments(self.nest, n) if n in self.wanted else a
            for n, a in zip(self.nodes, self.accumulators, strict=True)
        ]

    def begun(self, at: At) -> Results:
        """The results for no elements, shifted by the one at `at`."""
        found = self.identities()
        for i, parts in enumerate(self.lifted(at)):
            accumulator = self.accumulators[i]
            if isinstance(accumulator, Moments):
                found[i][1] = accumulator.shift(parts[2])
        return found

    def give(self, at: At, values: Results) -> None:
        super().give(at, values)
        for each in self.deviations:
            parts = values[self.nodes.index(each.total)]
            self.know(each.node, at, self._sum(each, at, parts))

    def _sum(self, each: Centered, at: At, parts: Parts) -> Element:
        indices = ix.delinearize(self.space.kept(at), each.mean.shape)
        return from_mean(each, self.space.evaluator.element(each.mean, indices), parts)


def from_mean(each: Centered, mean: Element, parts: Parts) -> Element:
    """The sum over deviations from the number that a kernel takes for the mean.

    `parts` are those of `Moments`.
    """
    count, shift, total, squares = parts
    mean = mean.plain(total.dtype) - shift
    if not each.is_square:
        return (total - count * mean).plain()
    off = mean - total / count
    return (squares + (count * off).plain() * off).plain()


class MomentColumns(Columns):
    """Tiles of columns, whose reduced rows come in blocks."""

    def __init__(self, reducer: MomentReducer, kept: list[Loop], reduced: list[Loop]) -> None:
        lanes = reducer.lanes
        vectors = min(_VECTORS, max(1, kept[-1].extent // lanes))
        super().__init__(reducer, kept, reduced, lanes * vectors)
        self.moments = reducer
        self.rows = reduced[-1].extent
        self.aside = next(n for n in (4, 2, 1) if n * vectors <= _VECTORS and self.rows % n == 0)
        row_bytes = 4 * min(kept[-1].extent, self.tile)
        block = max(self.aside, _BLOCK_BYTES // row_bytes)
        self.block = min(self.rows, block - block % self.aside)
        self.steps[-1] = -(-self.rows // self.block)

    def accumulate(
        self,
        at: dict[Loop, Index],
        first: Index,
        columns: int,
        outermost: Outermost | None = None,
    ) -> Arrays:
        reducer, nest = self.reducer, self.nest
        arrays = reducer.arrays(columns)
        some = {**at, **dict.fromkeys(self.reduced, ix.ZERO)}
        self.vectors(columns, lambda place: reducer.put(
            arrays, place, reducer.begun({**some, self.last: first + place})))  # fmt: skip

        def step(indices: Indices) -> None:
            here = {**at, **dict(zip(self.reduced[:-1], indices[:-1], strict=True))}
            _Block(self, here, indices[-1], first, columns).add_to(arrays)

        if outermost is None:
            loops(nest, self.steps, step)
        else:
            outermost(lambda i: loops(nest, self.steps[1:], lambda rest: step((i, *rest))))
        return arrays


class _Block:
    """Some rows of a tile of columns."""

    def __init__(
        self, tiles: MomentColumns, at: dict[Loop, Index], number: Index, first: Index, columns: int
    ) -> None:
        self.tiles, self.nest, self.reducer = tiles, tiles.nest, tiles.moments
        self.at, self.first, self.columns = at, first, columns
        self.start = self.nest.hold(number * tiles.block)
        self.length = self._length()

    def _length(self) -> Index:
        """Rows of the block: the last one may be shorter."""
        rows, block = self.tiles.rows, self.tiles.block
        if rows % block == 0:
            return ix.number(block)
        return self.nest.hold((self.start * -1 + rows).clamp(0, block))

    def add_to(self, arrays: Arrays) -> None:
        """Join what the block sums up to with what was found before."""
        reducer, tiles = self.reducer, self.tiles
        places = [i for i, n in enumerate(reducer.nodes) if n in reducer.wanted]
        dtypes = {i: reducer.accumulators[i].dtypes[0] for i in places}
        size = self.columns * tiles.aside
        sums, squares = ({i: self._zeros(dtypes[i], size) for i in places} for _ in range(2))
        means = {i: self.nest.local(storage(dtypes[i]), self.columns) for i in places}

        def add(place: Index, side: int, at: At) -> None:
            values = reducer.lifted(at)
            for i, values_of in enumerate(values):
                if i in sums:
                    off = values_of[2] - self._read(arrays[i][1], place, dtypes[i])
                    self._add(sums[i], place + side * self.columns, off)
                else:
                    self._join(arrays, i, place, values_of)

        def add_square(place: Index, side: int, at: At) -> None:
            values = reducer.lifted(at)
            for i in places:
                off = values[i][2] - self._read(means[i], place, dtypes[i])
                self._add(squares[i], place + side * self.columns, off * off)

        def mean(place: Index) -> None:
            for i in places:
                off = self._total(sums[i], place, dtypes[i]) / self._count(dtypes[i])
                self._write(means[i], place, off + self._read(arrays[i][1], place, dtypes[i]))

        def join(place: Index) -> None:
            for i in places:
                count, shift = self._count(dtypes[i]), self._read(arrays[i][1], place, dtypes[i])
                total, found = (self._total(each[i], place, dtypes[i]) for each in (sums, squares))
                rounding = self._read(means[i], place, dtypes[i]) - shift - total / count
                found = found - (rounding * rounding).plain() * count
                self._join(arrays, i, place, [count, shift, total, found.plain()])

        self._each_row(add)
        tiles.vectors(self.columns, mean)
        self._each_row(add_square)
        tiles.vectors(self.columns, join)

    def _each_row(self, body: Callable[[Index, int, At], None]) -> None:
        """Run `body` for all elements, `aside` rows at once."""
        tiles, aside = self.tiles, self.tiles.aside
        most = tiles.block // aside

        def rows(step: Index) -> None:
            for side in range(aside):
                row = {tiles.reduced[-1]: self.start + step * aside + side}
                tiles.vectors(self.columns, lambda place, side=side, row=row: body(  # type: ignore[misc]
                    place, side, {**self.at, tiles.last: self.first + place, **row}
                ))  # fmt: skip

        steps = self.length // aside
        if steps.is_constant:
            self.nest.loop(most, rows, name="row")
        else:
            start, length = ix.ZERO.expression(), self.nest.known(steps.expression())
            self.nest.span(start, length, (0, most - 1), rows, name="row")

    def _count(self, dtype: DType) -> Element:
        if self.length.is_constant:
            return constant(self.nest, dtype, self.length.constant)
        level = self.length.level
        return cast(Element(self.nest, i32, self.length.expression(), level), dtype)

    def _zeros(self, dtype: DType, size: int) -> Buffer:
        buffer = self.nest.local(storage(dtype), size)
        zero = constant(self.nest, dtype, 0)
        for side in range(size // self.columns):
            self.tiles.vectors(self.columns, lambda place, side=side: self._write(  # type: ignore[misc]
                buffer, place + side * self.columns, zero))  # fmt: skip
        return buffer

    def _total(self, buffer: Buffer, place: Index, dtype: DType) -> Element:
        found = self._read(buffer, place, dtype)
        for side in range(1, self.tiles.aside):
            found = found + self._read(buffer, place + side * self.columns, dtype)
        return found

    def _add(self, buffer: Buffer, place: Index, value: Element) -> None:
        self._write(buffer, place, value + self._read(buffer, place, value.dtype))

    def _join(self, arrays: Arrays, i: int, place: Index, parts: Parts) -> None:
        accumulator = self.reducer.accumulators[i]
        before = [
            self._read(b, place, d) for b, d in zip(arrays[i], accumulator.dtypes, strict=True)
        ]
        for buffer, part in zip(arrays[i], accumulator.combine(before, parts), strict=True):
            self._write(buffer, place, part)

    def _read(self, buffer: Buffer, place: Index, dtype: DType) -> Element:
        return read(self.nest, buffer, place, dtype)

    def _write(self, buffer: Buffer, place: Index, value: Element) -> None:
        self.nest.emit(store(buffer, place.expression(), value.expr, value.dtype))
