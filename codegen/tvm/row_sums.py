"""Row kernels that add up rows: each task for itself, and behind all of them in their order.

While a row's elements are computed in the last pass over it, what is summed up over the rows is
added to an array of the task that stays in the first-level cache. Tasks are as many as threads and
their sums are added in the order of the tasks, so it does not matter which thread ran which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...ir.graph import Graph, Node, Value
from ...passes.row_sums import Parts, parts_of_rows
from . import emit
from . import index as ix
from .accumulate import wide
from .emit import Buffer, Stmt
from .evaluator import Evaluator
from .index import Index, Indices
from .math import Element, cast, constant, read, storage, store
from .reducer import Loop, Space
from .rowwise import RowUnit
from .target import Machine

_PITCH = 32  # elements: tasks share no line of the cache, nor the one beside it


def row_sums(body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    """The loops of a row kernel with sums over rows.

    Parameters
    ----------
    body : Graph
        As for `rowwise`, with sums over all rows and what is pointwise in these (see
        `passes.row_sums`).
    buffers : mapping of Value to Buffer
        Flat buffers of inputs and outputs.
    machine : Machine
        What to choose vectors and threads for.
    """
    parts = parts_of_rows(body)
    space = Space(parts.rows, buffers, machine)
    kept = [loop for loop in space.loops if loop.kept]
    reduced = [loop for loop in space.loops if not loop.kept]
    _Summed(space, kept, reduced, parts, set(body.outputs)).run()
    return space.nest.finish()


class _Summed(RowUnit):
    """Rows, one after another, whose elements are added up."""

    def __init__(
        self, space: Space, kept: list[Loop], reduced: list[Loop], parts: Parts, outputs: set[Value]
    ) -> None:
        super().__init__(space, kept, reduced)
        self.parts = parts
        self.stored = [v for v in self.full if v in outputs]  # others may be operands, added up
        self.length = math.prod(loop.extent for loop in reduced)
        self.pitch = -(-self.length // _PITCH) * _PITCH
        self.count = math.prod(loop.extent for loop in kept)
        self.tasks = min(space.tasks, self.count)
        self.dtypes = {n: wide(n.inputs[0].dtype) for n in parts.sums}
        size = self.tasks * self.pitch
        self.sums = {n: self.nest.scratch(storage(d), size) for n, d in self.dtypes.items()}
        self.base = ix.ZERO  # of the task's sums

    def run(self) -> None:
        extents = [loop.extent for loop in self.outer]

        def task(number: Index) -> None:
            self.base = number * self.pitch
            self.nest.strips(self.length, self.space.lanes, self._clear)
            start, length = emit.split_range(self.count, self.tasks, number.expression())
            bounds = (0, self.count - 1)
            self.nest.span(
                self.nest.known(start), self.nest.known(length), bounds,
                lambda row: self.row(ix.delinearize(row, extents)),
            )  # fmt: skip

        self.nest.loop(self.tasks, task, emit.ForKind.PARALLEL, "task")
        self.nest.strips(self.length, self.space.lanes, self._finish)

    def _clear(self, place: Index) -> None:
        for node, dtype in self.dtypes.items():
            self._put(node, self.base + place, constant(self.nest, dtype, 0))

    def write_element(self) -> None:
        """Store the element, and add it up."""
        operands = [n.inputs[0] for n in self.parts.sums]
        wanted = list(dict.fromkeys([*self.stored, *operands]))
        at = [(v, self.space.output_at(v, self.at)) for v in wanted]
        found = dict(zip(wanted, self.space.evaluator.elements(at), strict=True))
        for value in self.stored:
            flat = self.space.full(self.at).expression()
            self.nest.emit(store(self.space.buffers[value], flat, found[value].expr, value.dtype))
        place = self.base + self.inside()
        for node, operand in zip(self.parts.sums, operands, strict=True):
            x = found[operand].plain(self.dtypes[node])
            self._put(node, place, (self._get(node, place) + x).plain())

    def _finish(self, place: Index) -> None:
        """Add up what the tasks left, and store what is computed of that."""
        evaluator = Evaluator(self.nest, self.space.buffers)
        for node in self.parts.sums:
            total = self._get(node, place)
            for task in range(1, self.tasks):
                total = (total + self._get(node, place + task * self.pitch)).plain()
            self._know(evaluator, node, place, cast(total, node.output.dtype))
        wanted = [(v, ix.delinearize(place, v.shape)) for v in self.parts.columns]
        for (value, _), result in zip(wanted, evaluator.elements(wanted), strict=True):
            buffer = self.space.buffers[value]
            self.nest.emit(store(buffer, place.expression(), result.expr, value.dtype))

    def _know(self, evaluator: Evaluator, node: Node, place: Index, total: Element) -> None:
        def known(here: Indices) -> Element:
            assert ix.linearize(here, node.output.shape) == place, "not column by column"
            return total

        evaluator.given[node.output] = known

    def _get(self, node: Node, place: Index) -> Element:
        return read(self.nest, self.sums[node], place, self.dtypes[node])

    def _put(self, node: Node, place: Index, value: Element) -> None:
        self.nest.emit(store(self.sums[node], place.expression(), value.expr, self.dtypes[node]))
