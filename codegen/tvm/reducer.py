"""What reductions over the same axes share: loops over the operand, and partial results.

A `Space` is the operand's dimensions as loops, neighbours of one kind (kept or reduced) merged
where positions in memory allow it. A `Reducer` holds the partial results of some reductions over
it in arrays, which are registers where every index is a constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...ir.graph import Graph, Node, Value
from ...passes.rows import reduced_axes
from ...passes.stored import cost
from . import bfloat, emit
from . import index as ix
from .accumulate import Accumulator, accumulator
from .cost import serial_nanoseconds, tasks_for, traffic
from .emit import Buffer
from .evaluator import Evaluator, loads
from .index import Index, Indices
from .math import Element, read, storage, store
from .nest import Nest
from .pointwise import lanes_for
from .target import Machine

VECTORS = 4
"""Accumulators in flight, which hide the latency of an addition."""

_UNROLLED_COST = 24  # operations of a body that may be repeated for several vectors


@dataclass(frozen=True)
class Loop:
    """Merged neighbouring dimensions of the operand, all kept or all reduced."""

    kept: bool
    axes: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def extent(self) -> int:
        return math.prod(self.sizes)


At = Mapping[Loop, Index]
Arrays = list[list[Buffer]]  # for each reduction, one for each part of its partial results
Results = list[list[Element]]
Finish = Callable[[At, Results], None]


def reductions_of(body: Graph) -> tuple[Node, ...]:
    """The reductions of a kernel's body."""
    return tuple(n for n in body.nodes if n.op.kind == "reduce")


class Space:
    """The loops of a kernel whose reductions go over the same positions.

    Parameters
    ----------
    body : Graph
    buffers : mapping of Value to Buffer
        Flat buffers of inputs and outputs.
    machine : Machine
        What to choose vectors and threads for.
    """

    def __init__(self, body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> None:
        self.body, self.buffers, self.machine = body, buffers, machine
        self.nodes = reductions_of(body)
        self.shape = tuple(int(d) for d in self.nodes[0].inputs[0].shape)
        self.reduced = reduced_axes(self.nodes[0])
        self.kept_shape = tuple(d for i, d in enumerate(self.shape) if i not in self.reduced)
        self.nest = Nest(narrows=bfloat.narrows(machine))
        self.evaluator = Evaluator(self.nest, buffers)
        self.loops = self._loops()
        self.lanes = lanes_for(body, machine)
        size = math.prod(self.shape)
        work = serial_nanoseconds(size, body.nodes, traffic(body), machine)
        self.tasks = tasks_for(work, machine)

    @property
    def is_streamed(self) -> bool:
        """Whether the operands do not fit the second-level cache."""
        return sum(v.type.nbytes for v in self.body.inputs) > self.machine.l2

    def _loops(self) -> list[Loop]:
        parts = [Loop(i not in self.reduced, (i,), (d,)) for i, d in enumerate(self.shape)
                 if d != 1]  # fmt: skip
        best = self._complexity(parts)
        for place in range(len(parts) - 2, -1, -1):
            a, b = parts[place], parts[place + 1]
            if a.kept != b.kept:
                continue
            joined = Loop(a.kept, a.axes + b.axes, a.sizes + b.sizes)
            tried = [*parts[:place], joined, *parts[place + 2 :]]
            found = self._complexity(tried)
            if found <= best:
                parts, best = tried, found
        return parts

    def _complexity(self, parts: Sequence[Loop]) -> int:
        at = {p: ix.of(ix.Loop(_NO_VARIABLE, 0, p.extent - 1, 1)) for p in parts}
        results = frozenset(n.output for n in self.nodes)
        positions: set[Index] = set()
        for node in self.nodes:
            operand = node.inputs[0]
            positions.update(loads((operand,), self.operand_at(node, at), results))
        for value in self.body.outputs:
            positions.update(loads((value,), self.output_at(value, at), results))
        return sum(not p.is_affine for p in positions)

    def are_side_by_side(self) -> bool:
        """Whether all that is read of the last two loops lies in one run of memory."""
        terms = [ix.Loop(_NO_VARIABLE, 0, p.extent - 1, 1) for p in self.loops]
        at = dict(zip(self.loops, map(ix.of, terms), strict=True))
        results = frozenset(n.output for n in self.nodes)
        row, column = terms[-2:]
        return all(
            position.is_affine
            and position.coefficient(row) == column.high + 1
            and position.coefficient(column) == 1
            for node in self.nodes
            for position in loads((node.inputs[0],), self.operand_at(node, at), results)
        )

    def _by_axis(self, at: At) -> dict[int, Index]:
        found: dict[int, Index] = {}
        for loop, index in at.items():
            found.update(zip(loop.axes, ix.delinearize(index, loop.sizes), strict=True))
        return found

    def full(self, at: At) -> Index:
        """The row-major position in the operands."""
        by_axis = self._by_axis(at)
        indices = [by_axis.get(axis, ix.ZERO) for axis in range(len(self.shape))]
        return ix.linearize(indices, self.shape)

    def kept(self, at: At) -> Index:
        """The row-major position in the results."""
        by_axis = self._by_axis(at)
        indices = [by_axis.get(axis, ix.ZERO) for axis in range(len(self.shape))
                   if axis not in self.reduced]  # fmt: skip
        return ix.linearize(indices, self.kept_shape)

    def operand_at(self, node: Node, at: At) -> Indices:
        """Indices of a reduction's operand."""
        return ix.delinearize(self.full(at), node.inputs[0].shape)

    def is_full(self, value: Value) -> bool:
        """Whether an output has an element for every position of the operands."""
        size = int(value.type.size)
        return size == math.prod(self.shape) != math.prod(self.kept_shape)

    def output_at(self, value: Value, at: At) -> Indices:
        """Indices of an output."""
        flat = self.full(at) if self.is_full(value) else self.kept(at)
        return ix.delinearize(flat, value.shape)

    def write(self, values: Iterable[Value], at: At) -> None:
        """Compute the elements of outputs, then store all."""
        wanted = [(v, self.output_at(v, at)) for v in dict.fromkeys(values)]
        results = self.evaluator.elements(wanted)
        for (value, indices), result in zip(wanted, results, strict=True):
            flat = ix.linearize(indices, value.shape).expression()
            self.nest.emit(store(self.buffers[value], flat, result.expr, value.dtype))


_NO_VARIABLE = emit.constant(0, "int32")


class Reducer:
    """Partial results of some reductions of a space.

    Parameters
    ----------
    space : Space
    nodes : sequence of Node
        The reductions; all of the space by default.
    """

    def __init__(self, space: Space, nodes: Sequence[Node] = ()) -> None:
        self.space, self.nest, self.lanes = space, space.nest, space.lanes
        self.nodes = tuple(nodes) or space.nodes
        self.accumulators: list[Accumulator] = [accumulator(self.nest, n) for n in self.nodes]
        self.light = sum(map(cost, space.body.nodes)) <= _UNROLLED_COST

    # --- elements ---

    def lifted(self, at: At) -> Results:
        """What one element of the operands contributes to each reduction."""
        space = self.space
        places = [space.operand_at(n, at) for n in self.nodes]
        operands = [(n.inputs[0], place) for n, place in zip(self.nodes, places, strict=True)]
        elements = space.evaluator.elements(operands)
        return [
            a.lift(x, place)
            for a, x, place in zip(self.accumulators, elements, places, strict=True)
        ]

    def give(self, at: At, values: Results) -> None:
        """From now on the results at `at` are what the evaluator knows of the reductions."""
        for a, n, parts in zip(self.accumulators, self.nodes, values, strict=True):
            self.know(n, at, a.result(parts))

    def know(self, node: Node, at: At, result: Element) -> None:
        """From now on this is what the evaluator knows of a reduction at `at`."""
        flat = self.space.kept(at)

        def known(here: Indices) -> Element:
            assert ix.linearize(here, node.output.shape) == flat, "not element by element"
            return result

        self.space.evaluator.given[node.output] = known

    def finish(self, at: At, values: Results) -> None:
        """Run the epilogue on the results at `at` and store."""
        self.give(at, values)
        self.space.write(self.space.body.outputs, at)

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

    def identities(self) -> Results:
        """The results for no elements."""
        return [a.identity() for a in self.accumulators]

    def start(self, arrays: Arrays, widths: Sequence[int], lanes: int) -> None:
        """Set partial results to the identities."""
        identities = self.identities()
        for number, width in enumerate(widths):
            self.nest.lanes(
                width, lambda lane, n=number: self.put(arrays, lane + n * lanes, identities)
            )

    def update(self, arrays: Arrays, place: Index, at: At) -> None:
        """Add one element of the operands to the partial results at `place`, of those before it."""
        values, before = self.lifted(at), self.get(arrays, place)
        parts = zip(self.accumulators, before, values, strict=True)
        self.put(arrays, place, [a.extend(x, y) for a, x, y in parts])

    def partials(self, tasks: int) -> Arrays:
        """Workspace for the results of each task."""
        size = tasks * max(1, math.prod(self.space.kept_shape))
        return [[self.nest.scratch(storage(d), size) for d in a.dtypes] for a in self.accumulators]
