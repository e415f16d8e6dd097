"""Batches: the loops of several pointwise kernels, whose work threads share evenly.

Every task takes its share of every part, so there is one parallel loop for all. What a share of
whole vectors leaves over is done after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.graph import Graph, Value
from ...passes.batches import parts_of
from . import bfloat, emit
from . import index as ix
from .cost import serial_nanoseconds, tasks_for, traffic
from .emit import Buffer, Stmt
from .evaluator import Evaluator
from .index import Index, Indices
from .nest import Nest
from .pointwise import lanes_for, loop_shape, write
from .target import Machine


def batch(body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    """The loops of a batch.

    Parameters
    ----------
    body : Graph
        Elementwise and index ops, in parts that share nothing but scalars.
    buffers : mapping of Value to Buffer
        Flat buffers of inputs and outputs.
    machine : Machine
        What to choose vectors and threads for.
    """
    nest = Nest(narrows=bfloat.narrows(machine))
    evaluator = Evaluator(nest, buffers)
    parts = [_Part.of(part, evaluator, buffers, machine) for part in parts_of(body)]
    work = sum(
        serial_nanoseconds(math.prod(p.shape), p.body.nodes, traffic(p.body), machine)
        for p in parts
    )
    tasks = tasks_for(work, machine)

    def task(number: Index) -> None:
        for part in parts:
            start, length = emit.split_range(part.rows, tasks, number.expression())
            if part.rows:
                begin, count = nest.known(start), nest.known(length)
                nest.span(begin, count, (0, part.rows - 1), part.row)

    nest.loop(tasks, task, emit.ForKind.PARALLEL, "task")
    for part in parts:
        part.finish()
    return nest.finish()


@dataclass(frozen=True)
class _Part:
    """A part and its loops: rows of vectors, or vectors of a single row."""

    body: Graph
    evaluator: Evaluator
    buffers: Mapping[Value, Buffer]
    shape: tuple[int, ...]
    lanes: int

    @staticmethod
    def of(
        body: Graph, evaluator: Evaluator, buffers: Mapping[Value, Buffer], machine: Machine
    ) -> _Part:
        return _Part(body, evaluator, buffers, loop_shape(body), lanes_for(body, machine))

    @property
    def rows(self) -> int:
        """What tasks share."""
        *outer, inner = self.shape
        return math.prod(outer) if outer and inner else inner // self.lanes

    def row(self, number: Index) -> None:
        """One row, or one vector of the only row."""
        *outer, inner = self.shape
        nest = self.evaluator.nest
        if outer:
            at = ix.delinearize(number, outer)
            nest.strips(inner, self.lanes, lambda j: self._element((*at, j)))
        else:
            nest.lanes(self.lanes, lambda lane: self._element((number * self.lanes + lane,)))

    def finish(self) -> None:
        """What no task did."""
        *outer, inner = self.shape
        whole = inner // self.lanes * self.lanes
        if not outer:
            self.evaluator.nest.lanes(inner - whole, lambda lane: self._element((lane + whole,)))

    def _element(self, at: Indices) -> None:
        write(self.evaluator, self.body, self.buffers, ix.linearize(at, self.shape))
