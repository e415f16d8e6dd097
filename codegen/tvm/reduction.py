"""Reduction kernels: several reductions over the same axes, producers inlined, epilogue fused.

The operand's dimensions become loops, neighbours of one kind (kept or reduced) merged where
positions in memory allow it. Two forms, by the kind of the last loop, along which vectors run:

- *rows*: the last loop is reduced. Vectors of partial results, combined at the end of a row.
- *columns*: the last loop is kept. A tile of neighbouring columns stays in registers while the
  reduced loops run; so the bias gradient over N, H, W reads its operand once, in order. If the
  operand does not fit the cache the tile is wide and lies in memory, for reading a few columns of
  each row would use a part of each page only. Rows of a few columns are taken several at once,
  so that they fill vectors; what the lanes of a column hold is combined at the end.

Threads split the kept loops if these are long enough, else the reduced ones; then every task
leaves partial results in the workspace, which are combined afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...ir.graph import Graph, Value
from . import emit
from . import index as ix
from .emit import Buffer, Stmt
from .index import Index, Indices
from .nest import loops, spread
from .reducer import VECTORS, Arrays, At, Finish, Loop, Reducer, Results, Space
from .target import Machine

_WIDE = 4096  # columns whose sums fit the first-level cache beside what streams through it
_ONE_STREAM = range(129, 2048)
"""Columns with which rows are added one by one. Four at once take a quarter of the loads and
stores of sums, but are four streams of memory at distances of 0.5 to 8 KiB, which are fetched
ahead badly: half as fast with 256 to 1024 columns of f32. Shorter rows are one stream anyway, and
sums of longer ones are as far away as the rows."""

Outermost = Callable[[Callable[[Index], None]], None]


@dataclass(frozen=True)
class Span:
    """A part of a loop: start ... start + length - 1, where `start` may be computed."""

    start: Index
    length: int


def reduction(body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    """The loops of a reduction kernel.

    Parameters
    ----------
    body : Graph
        Pointwise ops, reductions of operands of one shape over the same axes, and pointwise
        ops over the reduced shape, of which are all outputs.
    buffers : mapping of Value to Buffer
        Flat buffers of inputs and outputs.
    machine : Machine
        What to choose vectors and threads for.
    """
    space = Space(body, buffers, machine)
    kept = [loop for loop in space.loops if loop.kept]
    reduced = [loop for loop in space.loops if not loop.kept]
    reducer = Reducer(space)
    if 0 not in space.kept_shape:
        if 0 in space.shape or not reduced:
            _trivial(reducer, kept)
        elif space.loops[-1].kept:
            Columns(reducer, kept, reduced, at_once=_rows_at_once(reducer)).run()
        else:
            Rows(reducer, kept, reduced).run()
    return space.nest.finish()


def _trivial(reducer: Reducer, kept: list[Loop]) -> None:
    """One element or none along the reduced axes."""

    def element(indices: Indices) -> None:
        at = dict(zip(kept, indices, strict=True))
        is_empty = 0 in reducer.space.shape
        reducer.finish(at, reducer.identities() if is_empty else reducer.lifted(at))

    _each_result(reducer, kept, element)


def _each_result(
    reducer: Reducer, kept: Sequence[Loop], element: Callable[[Indices], None]
) -> None:
    """Run `element` for all results, in vectors along the last loop."""
    nest = reducer.nest
    *outer, inner = [loop.extent for loop in kept] or [1]
    count = len(kept)
    loops(nest, outer, lambda rest: nest.strips(
        inner, reducer.lanes, lambda j: element((*rest, j)[:count])))  # fmt: skip


# --- columns ---------------------------------------------------------------------------------


class Columns:
    """The last loop is kept: tiles of columns."""

    def __init__(
        self, reducer: Reducer, kept: list[Loop], reduced: list[Loop], tile: int | None = None,
        at_once: int = 1,
    ) -> None:  # fmt: skip
        self.reducer, self.nest = reducer, reducer.nest
        self.outer, self.last, self.reduced = kept[:-1], kept[-1], reduced
        registers = sum(len(a.dtypes) for a in reducer.accumulators)
        vectors = max(1, VECTORS // registers) if reducer.light else 1
        self.lanes = reducer.lanes
        self.tile = tile or self.lanes * vectors
        self.unrolled = self.tile
        if tile is None and reducer.space.is_streamed and self.last.extent > self.tile:
            self.tile = max(self.tile, _WIDE // registers)
        is_wide = self.tile > self.unrolled
        streams = is_wide and reducer.light and self.last.extent not in _ONE_STREAM
        self.together = 4 if streams and reduced[-1].extent % 4 == 0 else 1
        self.steps = [loop.extent for loop in reduced]
        self.steps[-1] //= self.together * at_once
        self.at_once = at_once
        if at_once > 1:
            self.unrolled = at_once * self.last.extent

    def run(self) -> None:
        tasks = self.reducer.space.tasks
        rows = math.prod(loop.extent for loop in self.outer)
        tiles = self.last.extent // self.tile
        if tasks == 1:
            self._all()
        elif rows >= 4 * tasks or (rows > 1 and rows % tasks == 0):
            self._over_rows(tasks)
        elif tiles >= 4 * tasks:
            self._over_tiles(tasks)
        elif self.steps[0] >= 4 * tasks:
            self._over_reduced(tasks)
        elif tiles > 1 and tiles % tasks == 0:
            self._over_tiles(tasks)
        else:
            self._all()

    def _all(self) -> None:
        sizes = [loop.extent for loop in self.outer]
        loops(self.nest, sizes, lambda at: self._row(dict(zip(self.outer, at, strict=True))))

    def _over_rows(self, tasks: int) -> None:
        sizes = [loop.extent for loop in self.outer]

        def row(flat: Index) -> None:
            self._row(dict(zip(self.outer, ix.delinearize(flat, sizes), strict=True)))

        spread(self.nest, math.prod(sizes), tasks, row)

    def _over_tiles(self, tasks: int) -> None:
        def row(indices: Indices) -> None:
            at = dict(zip(self.outer, indices, strict=True))
            whole = self.last.extent // self.tile
            spread(self.nest, whole, tasks, lambda t: self._tile(at, t * self.tile, self.tile))
            self._rest(at)

        loops(self.nest, [loop.extent for loop in self.outer], row)

    def _over_reduced(self, tasks: int) -> None:
        partials = self.reducer.partials(tasks)
        size = math.prod(self.reducer.space.kept_shape)
        steps = self.steps[0]

        def task(number: Index) -> None:
            start, length = emit.split_range(steps, tasks, number.expression())
            start, length = self.nest.known(start), self.nest.known(length)

            def keep(at: At, values: Results) -> None:
                flat = self.reducer.space.kept(at)
                self.reducer.put(partials, flat + number * size, values)

            def outermost(body: Callable[[Index], None]) -> None:
                self.nest.span(start, length, (0, steps - 1), body)

            loops(self.nest, [loop.extent for loop in self.outer], lambda at: self._row(
                dict(zip(self.outer, at, strict=True)), keep, outermost))  # fmt: skip

        self.nest.loop(tasks, task, emit.ForKind.PARALLEL, "task")
        combine_partials(self.reducer, partials, tasks, [*self.outer, self.last])

    def _row(
        self,
        at: dict[Loop, Index],
        finish: Finish | None = None,
        outermost: Outermost | None = None,
    ) -> None:
        def tile(t: Index) -> None:
            self._tile(at, t * self.tile, self.tile, finish, outermost)

        self.nest.loop(self.last.extent // self.tile, tile, name="tile")
        self._rest(at, finish, outermost)

    def _rest(
        self,
        at: dict[Loop, Index],
        finish: Finish | None = None,
        outermost: Outermost | None = None,
    ) -> None:
        whole = self.last.extent // self.tile
        rest = self.last.extent - whole * self.tile
        if rest:
            self._tile(at, ix.number(whole * self.tile), rest, finish, outermost)

    def vectors(self, columns: int, body: Callable[[Index], None]) -> None:
        """Run `body` for all columns of a tile: in registers, or in a loop over memory."""
        if columns > self.unrolled:
            self.nest.strips(columns, self.lanes, body)
            return
        for first in range(0, columns, self.lanes):
            width = min(self.lanes, columns - first)
            self.nest.lanes(width, lambda lane, f=first: body(lane + f))

    def _tile(
        self,
        at: dict[Loop, Index],
        first: Index,
        columns: int,
        finish: Finish | None = None,
        outermost: Outermost | None = None,
    ) -> None:
        finish = finish or self.reducer.finish
        arrays = self.accumulate(at, first, columns, outermost)
        self.vectors(columns, lambda place: finish(
            {**at, self.last: first + place}, self.reducer.get(arrays, place)))  # fmt: skip

    def accumulate(
        self,
        at: dict[Loop, Index],
        first: Index,
        columns: int,
        outermost: Outermost | None = None,
    ) -> Arrays:
        """Reduce the columns from `first` on; the results lie in the arrays."""
        reducer, nest = self.reducer, self.nest
        size = columns * self.at_once
        arrays = reducer.arrays(size)
        identities = reducer.identities()
        self.vectors(size, lambda place: reducer.put(arrays, place, identities))

        def step(indices: Indices) -> None:
            *outer, last = indices

            def update(place: Index) -> None:
                for row in range(self.together):
                    taken, column = last * self.together + row, place
                    if self.at_once > 1:
                        taken, column = last * self.at_once + place // columns, place % columns
                    here = dict(zip(self.reduced, (*outer, taken), strict=True))
                    reducer.update(arrays, place, {**at, self.last: first + column} | here)

            self.vectors(size, update)

        if outermost is None:
            loops(nest, self.steps, step)
        else:
            outermost(lambda i: loops(nest, self.steps[1:], lambda rest: step((i, *rest))))
        for row in range(1, self.at_once):
            self._join(arrays, columns, row)
        return arrays

    def _join(self, arrays: Arrays, columns: int, row: int) -> None:
        """Combine the partial results of the first row of lanes with those of another one."""
        get, put = self.reducer.get, self.reducer.put

        def join(place: Index) -> None:
            other = get(arrays, place + row * columns)
            put(arrays, place, self.reducer.combined(get(arrays, place), other))

        self.vectors(columns, join)


_AT_ONCE = 8  # vectors that rows of a few columns may fill


def _rows_at_once(reducer: Reducer) -> int:
    """How many rows of a few columns fill vectors together; 1 where rows are taken one by one."""
    space, lanes = reducer.space, reducer.lanes
    if len(space.loops) < 2 or space.loops[-2].kept or not reducer.light:
        return 1
    columns, rows = space.loops[-1].extent, space.loops[-2].extent
    together = lanes // math.gcd(columns, lanes)
    registers = sum(len(a.dtypes) for a in reducer.accumulators)
    fits = together * columns * registers <= _AT_ONCE * lanes
    if not fits or rows % together or rows < 4 * together or not space.are_side_by_side():
        return 1
    return together


def combine_partials(
    reducer: Reducer,
    partials: Arrays,
    tasks: int,
    kept: Sequence[Loop],
) -> None:
    """Combine what the tasks left, and finish."""
    size = math.prod(reducer.space.kept_shape)

    def element(indices: Indices) -> None:
        at = dict(zip(kept, indices, strict=True))
        flat = reducer.space.kept(at)
        values = reducer.get(partials, flat)
        for task in range(1, tasks):
            values = reducer.combined(values, reducer.get(partials, flat + task * size))
        reducer.finish(at, values)

    _each_result(reducer, kept, element)


# --- rows ------------------------------------------------------------------------------------


class Rows:
    """The last loop is reduced: vectors of partial results along it."""

    def __init__(self, reducer: Reducer, kept: list[Loop], reduced: list[Loop]) -> None:
        self.reducer, self.nest = reducer, reducer.nest
        self.kept, self.outer, self.last = kept, reduced[:-1], reduced[-1]

    def run(self) -> None:
        tasks, nest = self.reducer.space.tasks, self.nest
        sizes = [loop.extent for loop in self.kept]
        rows = math.prod(sizes)

        def row(at: Indices) -> None:
            here = dict(zip(self.kept, at, strict=True))
            self.row(here, None, Span(ix.ZERO, self.last.extent), self.reducer.finish)

        if tasks == 1:
            loops(nest, sizes, row)
        elif rows >= 4 * tasks or (rows > 1 and rows % tasks == 0):
            spread(nest, rows, tasks, lambda flat: row(ix.delinearize(flat, sizes)))
        elif self.outer and self.outer[0].extent >= 4 * tasks:
            self._over_outer(tasks)
        else:
            self._over_last(tasks)

    def _over_outer(self, tasks: int) -> None:
        """Each task takes a part of the outermost reduced loop."""
        first = self.outer[0]
        partials = self.reducer.partials(tasks)

        def task(number: Index) -> None:
            start, length = emit.split_range(first.extent, tasks, number.expression())
            start, length = self.nest.known(start), self.nest.known(length)

            def outermost(body: Callable[[Index], None]) -> None:
                self.nest.span(start, length, (0, first.extent - 1), body)

            self._each(lambda at: self.row(
                at, outermost, Span(ix.ZERO, self.last.extent), self._keep(partials, number)
            ))  # fmt: skip

        self.nest.loop(tasks, task, emit.ForKind.PARALLEL, "task")
        combine_partials(self.reducer, partials, tasks, self.kept)

    def _over_last(self, tasks: int) -> None:
        """Each task takes a part of the last loop; one more takes what does not divide."""
        unit = self.reducer.lanes * VECTORS
        length = self.last.extent // tasks // unit * unit
        rest = self.last.extent - length * tasks
        partials = self.reducer.partials(tasks + 1)

        def task(number: Index) -> None:
            span = Span(self.nest.hold(number * length), length)
            self._each(lambda at: self.row(at, None, span, self._keep(partials, number)))

        if length:
            self.nest.loop(tasks, task, emit.ForKind.PARALLEL, "task")
        last = ix.number(tasks)
        span = Span(ix.number(length * tasks), rest)
        self._each(lambda at: self.row(at, None, span, self._keep(partials, last)))
        combine_partials(self.reducer, partials, tasks + 1, self.kept)

    def _each(self, body: Callable[[dict[Loop, Index]], None]) -> None:
        sizes = [loop.extent for loop in self.kept]
        loops(self.nest, sizes, lambda at: body(dict(zip(self.kept, at, strict=True))))

    def _keep(self, partials: Arrays, number: Index) -> Finish:
        size = math.prod(self.reducer.space.kept_shape)

        def keep(at: At, values: Results) -> None:
            flat = self.reducer.space.kept(at)
            self.reducer.put(partials, flat + number * size, values)

        return keep

    def row(
        self,
        at: dict[Loop, Index],
        outermost: Outermost | None,
        span: Span,
        finish: Finish,
    ) -> None:
        """Reduce one row (or the part `span` of it) and hand the result to `finish`."""
        reducer, nest = self.reducer, self.nest
        lanes = _power_of_two(min(reducer.lanes, max(1, span.length)))
        vectors = VECTORS if reducer.light and span.length >= 2 * VECTORS * lanes else 1
        arrays = reducer.arrays(lanes * vectors)
        reducer.start(arrays, [lanes] * vectors, lanes)

        def strip(indices: Indices) -> None:
            here = at | dict(zip(self.outer, indices, strict=True))
            self._strip(arrays, here, span, lanes, vectors)

        inner = [loop.extent for loop in self.outer]
        if outermost is None:
            loops(nest, inner, strip)
        else:
            outermost(lambda i: loops(nest, inner[1:], lambda rest: strip((i, *rest))))
        finish(at, self._fold(arrays, lanes, vectors))

    def _strip(
        self, arrays: Arrays, at: dict[Loop, Index], span: Span, lanes: int, vectors: int
    ) -> None:
        """Run along the last loop."""
        nest, step = self.nest, lanes * vectors
        steps, rest = divmod(span.length, step)

        def vector(base: Index, number: int, width: int) -> None:
            def lane_of(lane: Index) -> None:
                place = {**at, self.last: span.start + base + lane}
                self.reducer.update(arrays, lane + number * lanes, place)

            nest.lanes(width, lane_of)

        def full(s: Index) -> None:
            for number in range(vectors):
                vector(s * step + number * lanes, number, lanes)

        nest.loop(steps, full, name="strip")
        for number in range(-(-rest // lanes)):
            width = min(lanes, rest - number * lanes)
            vector(ix.number(steps * step + number * lanes), number, width)

    def _fold(self, arrays: Arrays, lanes: int, vectors: int) -> Results:
        """The partial results of all lanes as one: halves are combined until one is left."""
        reducer, nest = self.reducer, self.nest
        if lanes * vectors == 1:
            return reducer.get(arrays, ix.ZERO)
        folded = reducer.arrays(lanes)

        def gather(lane: Index) -> None:
            values = reducer.get(arrays, lane)
            for number in range(1, vectors):
                other = reducer.get(arrays, lane + number * lanes)
                values = reducer.combined(values, other)
            reducer.put(folded, lane, values)

        nest.lanes(lanes, gather)
        half = lanes // 2
        while half:
            nest.lanes(half, lambda lane, h=half: reducer.put(folded, lane, reducer.combined(
                reducer.get(folded, lane), reducer.get(folded, lane + h))))  # fmt: skip
            half //= 2
        return reducer.get(folded, ix.ZERO)


def _power_of_two(value: int) -> int:
    return 1 << (value.bit_length() - 1)
