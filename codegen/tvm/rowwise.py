"""Row kernels: one row after another, as often over each as its reductions wait for each other.

The softmax of a row takes three passes over it: the maximum; the exponentials and their sum; the
quotients. All but the first read what lies in the first caches. A pass reduces what it can from
the results of those before it (a *stage*); the last one stores what has an element for each
position. What takes many operations and is needed by several passes is kept beside them.

By the kind of the last loop the unit of work is

- *a row*, if that loop is reduced: its results are single numbers in registers, and a short row
  stays in registers as a whole;
- *a tile of columns*, if it is kept: vectors of results, one lane for each column. What is
  computed from results alone is computed once for each column and kept, too.

Threads split the rows or tiles. A row is never split, for the plan makes row kernels only where
a block of rows is small (`passes.fusion.ROW_BYTES`). Stores come last in the unit of work, so an
output may lie where an operand does that is read in the same row only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from ...ir.graph import Graph, Node, Value
from ...passes.rows import body_rows, visits
from ...passes.stored import cost
from . import index as ix
from .emit import Buffer, Stmt
from .index import Index, Indices
from .math import Element, carrier, held, keep
from .pointwise import loops, spread
from .reducer import At, Loop, Reducer, Space, reductions_of
from .reduction import Columns, Rows, Span
from .target import Machine

_KEPT_COST = 6  # operations from which on a value is kept for later passes, not computed again
_KEPT_BYTES = 32 << 10  # of all that is kept of one row or tile, on the stack
_TILE = 2  # vectors of columns in a tile


def rowwise(body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    """The loops of a row kernel.

    Parameters
    ----------
    body : Graph
        Reductions over the same positions, and pointwise ops. An output has an element for each
        row or for each position; results of reductions are read at their own row only.
    buffers : mapping of Value to Buffer
        Flat buffers of inputs and outputs.
    machine : Machine
        What to choose vectors and threads for.
    """
    space = Space(body, buffers, machine)
    kept = [loop for loop in space.loops if loop.kept]
    reduced = [loop for loop in space.loops if not loop.kept]
    unit = _Tile if space.loops[-1].kept else RowUnit
    unit(space, kept, reduced).run()
    return space.nest.finish()


# --- stages ----------------------------------------------------------------------------------


class Passes:
    """What each pass over a row computes; the last one is that of the outputs.

    Attributes
    ----------
    stages : list of list of Node
        The reductions of each pass but the last.
    kept : list of list of Value
        For each pass the values of elements that it keeps for later ones.
    results : list of list of Value
        For each pass the values that are computed from its results alone and that are read at
        elements.
    """

    def __init__(self, body: Graph, limit: int) -> None:
        self.body, self.limit = body, limit
        self.rows = body_rows(body)
        self.levels = self._levels()
        count = max(self.levels[n.output] for n in reductions_of(body))
        self.stages = [
            [n for n in reductions_of(body) if self.levels[n.output] == level + 1]
            for level in range(count)
        ]
        self.elements, own = self._classes()
        self._settled: set[Value] = set()  # kept by earlier passes
        self.kept = [self._keep(stage) for stage in range(count)]
        self.results = [[v for v in own if self.levels[v] == s + 1] for s in range(count)]

    def _levels(self) -> dict[Value, int]:
        """How many reductions must come one after another before a value is known."""
        levels = dict.fromkeys(self.body.inputs, 0)
        for node in self.body.nodes:
            level = max((levels[v] for v in node.inputs), default=0)
            levels.update(dict.fromkeys(node.outputs, level + (node.op.kind == "reduce")))
        return levels

    def _classes(self) -> tuple[set[Value], list[Value]]:
        """Values with one element for each position; those of rows that elements are made of."""
        alone: dict[Value, bool] = {}
        for value, layout in visits(self.body.outputs, (), self.rows):
            alone[value] = alone.get(value, True) and self.rows.is_own(value, layout)
        computed = [
            n.output for n in self.body.nodes
            if n.op.kind == "elementwise" and alone.get(n.output) and not n.output.dtype.is_bool
        ]  # fmt: skip
        elements = {v for v in computed if int(v.type.size) == self.rows.total}
        spread_out = {
            n.inputs[0] for n in self.body.nodes
            if n.op.name == "broadcast" and int(n.output.type.size) == self.rows.total
        }  # fmt: skip
        return elements, [v for v in computed if v not in elements and v in spread_out]

    def roots(self, stage: int) -> list[Value]:
        """What a pass computes for each element."""
        if stage < len(self.stages):
            return [n.inputs[0] for n in self.stages[stage]]
        return [v for v in self.body.outputs if int(v.type.size) == self.rows.total]

    def members(self, roots: Iterable[Value]) -> dict[Value, None]:
        """What is computed of an element for `roots`, without results and what is kept."""
        found: dict[Value, None] = {}
        stack = list(roots)
        while stack:
            value = stack.pop()
            node = value.node
            if node is None or node.op.kind == "reduce" or value in self._settled | found.keys():
                continue
            found[value] = None
            stack.extend(node.inputs)
        return found

    def work(self, stage: int) -> int:
        """Simple operations that a pass takes for an element."""
        return self._work(self.members(self.roots(stage))) + len(self.roots(stage))

    def _work(self, values: Iterable[Value]) -> int:
        return sum(cost(node) for node in {v.node: None for v in values} if node)

    def _keep(self, stage: int) -> list[Value]:
        """The values of a pass that later ones are better not to compute again."""
        later = range(stage + 1, len(self.stages) + 1)
        again = {v for s in later for v in self.members(self.roots(s))}
        mine = self.members(self.roots(stage)).keys() & self.elements & again
        costly = {v for v in mine if self._work(self.members([v])) > _KEPT_COST}
        read = {v for s in later for v in self.roots(s)}
        read |= {v for w in again - costly if w.node for v in w.node.inputs}
        found = []
        for value in (n.output for n in self.body.nodes if n.output in costly & read):
            nbytes = self.rows.length * value.dtype.bits // 8
            if nbytes <= self.limit:
                self.limit -= nbytes
                found.append(value)
        self._settled |= set(found)
        return found


class _Stage(Reducer):
    """The reductions of one pass, which keeps some values of the elements that it meets."""

    def __init__(self, unit: _Unit, number: int) -> None:
        super().__init__(unit.space, unit.passes.stages[number])
        self.unit, self.kept = unit, unit.passes.kept[number]
        self.light = unit.passes.work(number) <= 24

    def update(self, arrays: list[list[Buffer]], place: Index, at: At) -> None:
        self.unit.stand(at, place if isinstance(self.unit, _Tile) else ix.ZERO)
        super().update(arrays, place, at)
        self.unit.keep(self.kept)


class _Unit:
    """What both units of work share: where the element that is computed lies."""

    columns = 1

    def __init__(self, space: Space, kept: list[Loop], reduced: list[Loop]) -> None:
        self.space, self.nest = space, space.nest
        self.outer, self.reduced = kept, reduced
        self.passes = Passes(space.body, _KEPT_BYTES // self.columns)
        self.full = [v for v in dict.fromkeys(space.body.outputs) if space.is_full(v)]
        self.results = [v for v in dict.fromkeys(space.body.outputs) if not space.is_full(v)]
        self.at: At = {}
        self.place = ix.ZERO  # column in the tile
        self.memory: dict[Value, Buffer] = {}

    def stand(self, at: At, place: Index) -> None:
        """The element that is computed next."""
        self.at, self.place = at, place

    def begin(self, columns: int) -> None:
        """Forget the row before, and make room for what is kept of the next."""
        self.space.evaluator.given.clear()
        self.columns = columns
        size = self.passes.rows.length * columns
        for value in (v for values in self.passes.kept for v in values):
            self.memory[value] = self.nest.local(carrier(value.dtype), size)

    def inside(self) -> Index:
        """Where the element's value lies in what is kept of the row or tile."""
        flat = ix.ZERO
        for loop in self.reduced:
            flat = flat * loop.extent + self.at[loop]
        return flat * self.columns + self.place

    def keep(self, values: Sequence[Value]) -> None:
        """Keep values of the element for later passes."""
        for value in values:
            indices = self.space.output_at(value, self.at)
            element = self.space.evaluator.element(value, indices)
            self.nest.emit(keep(self.memory[value], self.inside(), element))

    def know(self, values: Sequence[Value]) -> None:
        """From now on values are read from where they were kept."""
        for value in values:
            self.space.evaluator.given[value] = self._reader(value)

    def _reader(self, value: Value) -> Callable[[Indices], Element]:
        def kept(here: Indices) -> Element:
            position = ix.linearize(here, value.shape)
            assert position == self.space.full(self.at), "not element by element"
            return held(self.nest, self.memory[value], self.inside(), value.dtype)

        return kept

    def spread(self, extents: Sequence[int], body: Callable[[Indices], None]) -> None:
        """Run `body` for all rows or tiles, on several threads where that is worth it."""
        count = math.prod(extents)
        if self.space.tasks == 1 or count == 1:
            loops(self.nest, extents, body)
            return
        spread(self.nest, count, self.space.tasks, lambda i: body(ix.delinearize(i, extents)))


# --- rows ------------------------------------------------------------------------------------


class RowUnit(_Unit):
    """The last loop is reduced: one row at a time."""

    def run(self) -> None:
        self.spread([loop.extent for loop in self.outer], self.row)

    def row(self, indices: Indices) -> None:
        """Compute and store one row."""
        at = dict(zip(self.outer, indices, strict=True))
        self.begin(1)
        last = self.reduced[-1]
        for number in range(len(self.passes.stages)):
            stage = _Stage(self, number)
            reducer = Rows(stage, self.outer, self.reduced)
            reducer.row(at, None, Span(ix.ZERO, last.extent), stage.give)
            self.know(stage.kept)

        def element(outer: Indices, j: Index) -> None:
            self.stand({**at, **dict(zip(self.reduced, (*outer, j), strict=True))}, ix.ZERO)
            self.write_element()

        if self.full:
            loops(self.nest, [loop.extent for loop in self.reduced[:-1]], lambda outer: (
                self.nest.strips(last.extent, self.space.lanes, lambda j: element(outer, j))
            ))  # fmt: skip
        self.space.write(self.results, at)

    def write_element(self) -> None:
        """Compute and store what has an element for the position."""
        self.space.write(self.full, self.at)


# --- tiles of columns ------------------------------------------------------------------------


class _Tile(_Unit):
    """The last loop is kept: a tile of columns at a time."""

    def __init__(self, space: Space, kept: list[Loop], reduced: list[Loop]) -> None:
        self.columns = space.lanes * _TILE
        super().__init__(space, kept[:-1], reduced)
        self.last = kept[-1]

    def run(self) -> None:
        tile = self.columns
        whole, rest = divmod(self.last.extent, tile)
        extents = [loop.extent for loop in self.outer]

        def tiles(indices: Indices) -> None:
            self.nest.loop(whole, lambda t: self._tile(indices, t * tile, tile), name="tile")
            if rest:
                self._tile(indices, ix.number(whole * tile), rest)

        if math.prod(extents) > 1:
            self.spread(extents, tiles)
            return
        self.spread([whole], lambda t: self._tile((), t[0] * tile, tile))
        if rest:
            self._tile((), ix.number(whole * tile), rest)

    def _tile(self, indices: Indices, first: Index, columns: int) -> None:
        at = dict(zip(self.outer, indices, strict=True))
        self.begin(columns)
        stages = [_Stage(self, number) for number in range(len(self.passes.stages))]
        tiles = [Columns(s, [*self.outer, self.last], self.reduced, columns) for s in stages]
        vectors = tiles[0].vectors

        def stand(place: Index, inner: At) -> None:
            self.stand({**at, self.last: first + place, **inner}, place)

        for number, stage in enumerate(stages):
            self._give(stage, tiles[number].accumulate(at, first, columns))
            self.know(stage.kept)
            self._keep_results(
                self.passes.results[number], columns,
                lambda body: vectors(columns, lambda place: (stand(place, {}), body(place))),
            )  # fmt: skip

        def element(place: Index, inner: Indices) -> None:
            stand(place, dict(zip(self.reduced, inner, strict=True)))
            self.space.write(self.full, self.at)

        def result(place: Index) -> None:
            stand(place, {})
            self.space.write(self.results, self.at)

        if self.full:
            loops(self.nest, [loop.extent for loop in self.reduced], lambda inner: vectors(
                columns, lambda place: element(place, inner)))  # fmt: skip
        vectors(columns, result)

    def _give(self, stage: _Stage, arrays: list[list[Buffer]]) -> None:
        """From now on the results are those of the column that is computed."""
        for number, node in enumerate(stage.nodes):

            def known(here: Indices, number: int = number, node: Node = node) -> Element:
                flat = ix.linearize(here, node.output.shape)
                assert flat == self.space.kept(self.at), "not at its own row"
                return stage.accumulators[number].result(stage.get(arrays, self.place)[number])

            self.space.evaluator.given[node.output] = known

    def _keep_results(
        self, values: list[Value], columns: int, each: Callable[[Callable[[Index], object]], None]
    ) -> None:
        """Compute what depends on results alone once for each column."""
        memory = {v: self.nest.local(carrier(v.dtype), columns) for v in values}

        def column(place: Index) -> None:
            indices = [(v, self.space.output_at(v, self.at)) for v in values]
            for value, element in zip(values, self.space.evaluator.elements(indices), strict=True):
                self.nest.emit(keep(memory[value], place, element))

        if values:
            each(column)
        for value, buffer in memory.items():

            def known(here: Indices, value: Value = value, buffer: Buffer = buffer) -> Element:
                flat = ix.linearize(here, value.shape)
                assert flat == self.space.kept(self.at), "not at its own row"
                return held(self.nest, buffer, self.place, value.dtype)

            self.space.evaluator.given[value] = known
