"""Reduction kernels: several reductions over the same axes, producers inlined, epilogue fused.

The operand's dimensions become loops, neighbours of one kind (kept or reduced) merged where
positions in memory allow it. Two forms, by the kind of the last loop, along which vectors run:

- *rows*: the last loop is reduced. Vectors of partial results, combined at the end of a row.
- *columns*: the last loop is kept. A tile of neighbouring columns stays in registers while the
  reduced loops run; so the bias gradient over N, H, W reads its operand once, in order. If the
  operand does not fit the cache the tile is wide and lies in memory, for reading a few columns of
  each row would use a part of each page only.

Threads split the kept loops if these are long enough, else the reduced ones; then every task
leaves partial results in the workspace, which are combined afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...ir.graph import Graph, Node, Value
from ...passes.fusion import cost
from . import emit
from . import index as ix
from .accumulate import accumulator
from .cost import serial_nanoseconds, tasks_for, traffic
from .emit import Buffer, Stmt
from .evaluator import Evaluator, loads
from .index import Index, Indices
from .math import Element, read, storage, store
from .nest import Nest
from .pointwise import lanes_for, loops, spread, write
from .target import Machine

_UNROLLED_COST = 24  # operations of a body that may be repeated for several vectors
_WIDE = 4096  # columns whose sums fit the first-level cache beside what streams through it
_VECTORS = 4  # accumulators in flight, which hide the latency of an addition


@dataclass(frozen=True)
class _Loop:
    """Merged neighbouring dimensions of the operand, all kept or all reduced."""

    kept: bool
    axes: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def extent(self) -> int:
        return math.prod(self.sizes)


Arrays = list[list[Buffer]]  # for each reduction, one for each part of its partial results
Results = list[list[Element]]
Finish = Callable[[Mapping["_Loop", Index], Results], None]
Outermost = Callable[[Callable[[Index], None]], None]


@dataclass(frozen=True)
class _Span:
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
    reducer = _Reducer(body, buffers, machine)
    reducer.run()
    return reducer.nest.finish()


def reductions_of(body: Graph) -> tuple[Node, ...]:
    """The reductions of a kernel's body."""
    return tuple(n for n in body.nodes if n.op.kind == "reduce")


class _Reducer:
    """State of one kernel's construction."""

    def __init__(self, body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> None:
        self.body, self.buffers = body, buffers
        self.nodes = reductions_of(body)
        self.shape = tuple(int(d) for d in self.nodes[0].inputs[0].shape)
        self.reduced = reduced_axes(self.nodes[0])
        self.kept_shape = tuple(d for i, d in enumerate(self.shape) if i not in self.reduced)
        self.nest = Nest()
        self.evaluator = Evaluator(self.nest, buffers)
        self.accumulators = [accumulator(self.nest, n) for n in self.nodes]
        self.loops = self._loops()
        self.lanes = lanes_for(body, machine)
        size = math.prod(self.shape)
        work = serial_nanoseconds(size, body.nodes, traffic(body), machine)
        self.tasks = tasks_for(work, machine)
        self.light = sum(map(cost, body.nodes)) <= _UNROLLED_COST
        self.is_streamed = sum(v.type.nbytes for v in body.inputs) > machine.l2

    # --- loops ---

    def _loops(self) -> list[_Loop]:
        parts = [_Loop(i not in self.reduced, (i,), (d,)) for i, d in enumerate(self.shape)
                 if d != 1]  # fmt: skip
        best = self._complexity(parts)
        for place in range(len(parts) - 2, -1, -1):
            a, b = parts[place], parts[place + 1]
            if a.kept != b.kept:
                continue
            joined = _Loop(a.kept, a.axes + b.axes, a.sizes + b.sizes)
            tried = [*parts[:place], joined, *parts[place + 2 :]]
            found = self._complexity(tried)
            if found <= best:
                parts, best = tried, found
        return parts

    def _complexity(self, parts: Sequence[_Loop]) -> int:
        at = {p: ix.of(ix.Loop(_NO_VARIABLE, 0, p.extent - 1, 1)) for p in parts}
        operands = tuple(n.inputs[0] for n in self.nodes)
        positions = set(loads(operands, self._full(at), frozenset()))
        outputs = tuple(n.output for n in self.nodes)
        flat = ix.linearize(self._kept(at), self.kept_shape)
        for value in self.body.outputs:
            here = ix.delinearize(flat, value.shape)
            positions.update(loads((value,), here, frozenset(outputs)))
        return sum(not p.is_affine for p in positions)

    def _by_axis(self, at: Mapping[_Loop, Index]) -> dict[int, Index]:
        found: dict[int, Index] = {}
        for loop, index in at.items():
            found.update(zip(loop.axes, ix.delinearize(index, loop.sizes), strict=True))
        return found

    def _full(self, at: Mapping[_Loop, Index]) -> Indices:
        """Indices of the operand."""
        by_axis = self._by_axis(at)
        return tuple(by_axis.get(axis, ix.ZERO) for axis in range(len(self.shape)))

    def _kept(self, at: Mapping[_Loop, Index]) -> Indices:
        """Indices of the results."""
        by_axis = self._by_axis(at)
        return tuple(by_axis.get(axis, ix.ZERO) for axis in range(len(self.shape))
                     if axis not in self.reduced)  # fmt: skip

    def run(self) -> None:
        """Emit everything."""
        if 0 in self.kept_shape:
            return
        kept = [loop for loop in self.loops if loop.kept]
        reduced = [loop for loop in self.loops if not loop.kept]
        if 0 in self.shape or not reduced:
            self._trivial(kept)
        elif self.loops[-1].kept:
            _Columns(self, kept, reduced).run()
        else:
            _Rows(self, kept, reduced).run()

    def _trivial(self, kept: list[_Loop]) -> None:
        """One element or none along the reduced axes."""

        def element(indices: Indices) -> None:
            at = dict(zip(kept, indices, strict=True))
            values = [a.identity() for a in self.accumulators]
            if 0 not in self.shape:
                values = self.lifted(at)
            self.finish(at, values)

        *outer, inner = [loop.extent for loop in kept] or [1]
        count = len(kept)
        loops(self.nest, outer, lambda rest: self.nest.strips(
            inner, self.lanes, lambda j: element((*rest, j)[:count])))  # fmt: skip

    # --- elements ---

    def lifted(self, at: Mapping[_Loop, Index]) -> Results:
        """What one element of the operands contributes to each reduction."""
        full = self._full(at)
        elements = self.evaluator.elements([(n.inputs[0], full) for n in self.nodes])
        return [a.lift(x, full) for a, x in zip(self.accumulators, elements, strict=True)]

    def finish(self, at: Mapping[_Loop, Index], values: Results) -> None:
        """Run the epilogue on the results at `at` and store."""
        kept = self._kept(at)
        flat = ix.linearize(kept, self.kept_shape)
        for a, n, parts in zip(self.accumulators, self.nodes, values, strict=True):
            result = a.result(parts)

            def known(here: Indices, result: Element = result) -> Element:
                assert ix.linearize(here, self.kept_shape) == flat, "not element by element"
                return result

            self.evaluator.given[n.output] = known
        write(self.evaluator, self.body, self.buffers, flat)

    # --- accumulators in registers ---

    def arrays(self, size: int) -> Arrays:
        """Local arrays for `size` partial results of each reduction."""
        return [[self.nest.local(storage(d), size) for d in a.dtypes] for a in self.accumulators]

    def put(self, arrays: Arrays, place: Index, values: Results) -> None:
        """Store partial results at a place of arrays."""
        for a, buffers, parts in zip(self.accumulators, arrays, values, strict=True):
            for buffer, part, dtype in zip(buffers, parts, a.dtypes, strict=True):
                self.nest.emit(store(buffer, place.expression(), part.expr, dtype))

    def get(self, arrays: Arrays, place: Index) -> Results:
        """Load partial results."""
        return [
            [read(self.nest, b, place, d) for b, d in
             zip(buffers, a.dtypes, strict=True)]
            for a, buffers in zip(self.accumulators, arrays, strict=True)
        ]  # fmt: skip

    def combined(self, first: Results, second: Results) -> Results:
        """Partial results of two sets of elements as one."""
        return [a.combine(x, y) for a, x, y in zip(self.accumulators, first, second, strict=True)]

    def start(self, arrays: Arrays, widths: Sequence[int], lanes: int) -> None:
        """Set partial results to the identities."""
        identities = [a.identity() for a in self.accumulators]
        for number, width in enumerate(widths):
            self.nest.lanes(
                width, lambda lane, n=number: self.put(arrays, lane + n * lanes, identities)
            )

    def update(self, arrays: Arrays, place: Index, at: Mapping[_Loop, Index]) -> None:
        """Add one element of the operands to the partial results at `place`."""
        values = self.lifted(at)
        self.put(arrays, place, self.combined(self.get(arrays, place), values))

    def partials(self, tasks: int) -> Arrays:
        """Workspace for the results of each task."""
        size = tasks * max(1, math.prod(self.kept_shape))
        return [[self.nest.scratch(storage(d), size) for d in a.dtypes] for a in self.accumulators]


_NO_VARIABLE = emit.constant(0, "int32")


def reduced_axes(node: Node) -> tuple[int, ...]:
    """The axes that a reduction drops."""
    return node.attrs["axes"] if "axes" in node.attrs else (node.attrs["axis"],)


# --- columns ---------------------------------------------------------------------------------


class _Columns:
    """The last loop is kept: tiles of columns."""

    def __init__(self, reducer: _Reducer, kept: list[_Loop], reduced: list[_Loop]) -> None:
        self.reducer, self.nest = reducer, reducer.nest
        self.outer, self.last, self.reduced = kept[:-1], kept[-1], reduced
        registers = sum(len(a.dtypes) for a in reducer.accumulators)
        vectors = max(1, _VECTORS // registers) if reducer.light else 1
        self.lanes = reducer.lanes
        self.tile = self.lanes * vectors
        self.unrolled = self.tile
        if reducer.is_streamed and self.last.extent > self.tile:
            self.tile = max(self.tile, _WIDE // registers)
        is_wide = self.tile > self.unrolled
        self.together = 4 if is_wide and reducer.light and reduced[-1].extent % 4 == 0 else 1
        self.steps = [loop.extent for loop in reduced]
        self.steps[-1] //= self.together

    def run(self) -> None:
        tasks = self.reducer.tasks
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
        size = math.prod(self.reducer.kept_shape)
        steps = self.steps[0]

        def task(number: Index) -> None:
            start, length = emit.split_range(steps, tasks, number.expression())
            start, length = self.nest.known(start), self.nest.known(length)

            def keep(at: Mapping[_Loop, Index], values: Results) -> None:
                flat = ix.linearize(self.reducer._kept(at), self.reducer.kept_shape)
                self.reducer.put(partials, flat + number * size, values)

            def outermost(body: Callable[[Index], None]) -> None:
                self.nest.span(start, length, (0, steps - 1), body)

            loops(self.nest, [loop.extent for loop in self.outer], lambda at: self._row(
                dict(zip(self.outer, at, strict=True)), keep, outermost))  # fmt: skip

        self.nest.loop(tasks, task, emit.ForKind.PARALLEL, "task")
        combine_partials(self.reducer, partials, tasks, [*self.outer, self.last])

    def _row(
        self,
        at: dict[_Loop, Index],
        finish: Finish | None = None,
        outermost: Outermost | None = None,
    ) -> None:
        def tile(t: Index) -> None:
            self._tile(at, t * self.tile, self.tile, finish, outermost)

        self.nest.loop(self.last.extent // self.tile, tile, name="tile")
        self._rest(at, finish, outermost)

    def _rest(
        self,
        at: dict[_Loop, Index],
        finish: Finish | None = None,
        outermost: Outermost | None = None,
    ) -> None:
        whole = self.last.extent // self.tile
        rest = self.last.extent - whole * self.tile
        if rest:
            self._tile(at, ix.number(whole * self.tile), rest, finish, outermost)

    def _vectors(self, columns: int, body: Callable[[Index], None]) -> None:
        """Run `body` for all columns of a tile: in registers, or in a loop over memory."""
        if columns > self.unrolled:
            self.nest.strips(columns, self.lanes, body)
            return
        for first in range(0, columns, self.lanes):
            width = min(self.lanes, columns - first)
            self.nest.lanes(width, lambda lane, f=first: body(lane + f))

    def _tile(
        self,
        at: dict[_Loop, Index],
        first: Index,
        columns: int,
        finish: Finish | None = None,
        outermost: Outermost | None = None,
    ) -> None:
        reducer, nest = self.reducer, self.nest
        finish = finish or reducer.finish
        arrays = reducer.arrays(columns)
        identities = [a.identity() for a in reducer.accumulators]
        self._vectors(columns, lambda place: reducer.put(arrays, place, identities))

        def column(place: Index) -> dict[_Loop, Index]:
            return {**at, self.last: first + place}

        def step(indices: Indices) -> None:
            *outer, last = indices

            def update(place: Index) -> None:
                for row in range(self.together):
                    here = dict(
                        zip(self.reduced, (*outer, last * self.together + row), strict=True)
                    )
                    reducer.update(arrays, place, column(place) | here)

            self._vectors(columns, update)

        if outermost is None:
            loops(nest, self.steps, step)
        else:
            outermost(lambda i: loops(nest, self.steps[1:], lambda rest: step((i, *rest))))
        self._vectors(columns, lambda place: finish(column(place), reducer.get(arrays, place)))


def combine_partials(
    reducer: _Reducer,
    partials: Arrays,
    tasks: int,
    kept: Sequence[_Loop],
) -> None:
    """Combine what the tasks left, and finish."""
    nest, size = reducer.nest, math.prod(reducer.kept_shape)

    def element(indices: Indices) -> None:
        at = dict(zip(kept, indices, strict=True))
        flat = ix.linearize(reducer._kept(at), reducer.kept_shape)
        values = reducer.get(partials, flat)
        for task in range(1, tasks):
            values = reducer.combined(values, reducer.get(partials, flat + task * size))
        reducer.finish(at, values)

    *outer, inner = [loop.extent for loop in kept] or [1]
    count = len(kept)
    loops(nest, outer, lambda rest: nest.strips(
        inner, reducer.lanes, lambda j: element((*rest, j)[:count])))  # fmt: skip


# --- rows ------------------------------------------------------------------------------------


class _Rows:
    """The last loop is reduced: vectors of partial results along it."""

    def __init__(self, reducer: _Reducer, kept: list[_Loop], reduced: list[_Loop]) -> None:
        self.reducer, self.nest = reducer, reducer.nest
        self.kept, self.outer, self.last = kept, reduced[:-1], reduced[-1]

    def run(self) -> None:
        tasks, nest = self.reducer.tasks, self.nest
        sizes = [loop.extent for loop in self.kept]
        rows = math.prod(sizes)

        def row(at: Indices) -> None:
            here = dict(zip(self.kept, at, strict=True))
            self._row(here, None, _Span(ix.ZERO, self.last.extent), self.reducer.finish)

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

            self._each(lambda at: self._row(
                at, outermost, _Span(ix.ZERO, self.last.extent), self._keep(partials, number)
            ))  # fmt: skip

        self.nest.loop(tasks, task, emit.ForKind.PARALLEL, "task")
        combine_partials(self.reducer, partials, tasks, self.kept)

    def _over_last(self, tasks: int) -> None:
        """Each task takes a part of the last loop; one more takes what does not divide."""
        unit = self.reducer.lanes * _VECTORS
        length = self.last.extent // tasks // unit * unit
        rest = self.last.extent - length * tasks
        partials = self.reducer.partials(tasks + 1)

        def task(number: Index) -> None:
            span = _Span(self.nest.hold(number * length), length)
            self._each(lambda at: self._row(at, None, span, self._keep(partials, number)))

        if length:
            self.nest.loop(tasks, task, emit.ForKind.PARALLEL, "task")
        last = ix.number(tasks)
        span = _Span(ix.number(length * tasks), rest)
        self._each(lambda at: self._row(at, None, span, self._keep(partials, last)))
        combine_partials(self.reducer, partials, tasks + 1, self.kept)

    def _each(self, body: Callable[[dict[_Loop, Index]], None]) -> None:
        sizes = [loop.extent for loop in self.kept]
        loops(self.nest, sizes, lambda at: body(dict(zip(self.kept, at, strict=True))))

    def _keep(self, partials: Arrays, number: Index) -> Finish:
        size = math.prod(self.reducer.kept_shape)

        def keep(at: Mapping[_Loop, Index], values: Results) -> None:
            flat = ix.linearize(self.reducer._kept(at), self.reducer.kept_shape)
            self.reducer.put(partials, flat + number * size, values)

        return keep

    def _row(
        self,
        at: dict[_Loop, Index],
        outermost: Outermost | None,
        span: _Span,
        finish: Finish,
    ) -> None:
        """Reduce one row (or the part `span` of it) and hand the result to `finish`."""
        reducer, nest = self.reducer, self.nest
        lanes = _power_of_two(min(reducer.lanes, max(1, span.length)))
        vectors = _VECTORS if reducer.light and span.length >= 2 * _VECTORS * lanes else 1
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
        self, arrays: Arrays, at: dict[_Loop, Index], span: _Span, lanes: int, vectors: int
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
