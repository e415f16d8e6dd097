"""Running totals: one step after the other along the axis, vectors across it.

The total of each line along the axis stands in an array of its own, in f32 for f16 and bf16, so
that rows of the operands are read in order whatever the axis is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ....ir.graph import Node
from ....ir.types import DType
from .. import index as ix
from ..emit import Buffer
from ..evaluator import Evaluator
from ..index import Index
from ..math import Element, Math, carrier, constant, held, keep, rounded, store
from ..nest import Nest
from ..target import Machine
from .lines import Lines, over_lines
from .lowering import Buffers, loops

Step = Callable[[Math, Element, list[Element]], Element]

_STEPS: dict[str, Step] = {
    "cumsum": lambda m, total, x: total + x[0],
    "cumprod": lambda m, total, x: total * x[0],
    "cummax": lambda m, total, x: m.maximum(total, x[0]),
    "cummin": lambda m, total, x: m.minimum(total, x[0]),
    "linear_recurrence": lambda m, total, x: x[0] * total + x[1],
}


def _start(name: str, dtype: DType) -> float:
    """The total of nothing."""
    if name == "cumprod":
        return 1
    if name not in ("cummax", "cummin"):
        return 0
    sign = -1 if name == "cummax" else 1
    if dtype.is_float:
        return sign * math.inf
    ends = np.iinfo(dtype.numpy)
    return int(ends.min if sign < 0 else ends.max)


@loops(*_STEPS)
def _running(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    if 0 in node.output.shape:
        return
    lines = Lines.of(node.output, node.attrs["axis"])
    lanes = machine.lanes(f"int{max(32, node.output.dtype.bits)}")
    kernel = _Running(nest, node, buffers, lines, lanes)
    over_lines(nest, lines, lanes, lines.size, machine, kernel.run)


class _Running:
    """State of one kernel's construction."""

    def __init__(self, nest: Nest, node: Node, buffers: Buffers, lines: Lines, lanes: int) -> None:
        self.nest, self.node, self.buffers = nest, node, buffers
        self.lines, self.lanes = lines, lanes
        self.dtype = node.output.dtype
        self.totals = nest.scratch(carrier(self.dtype), lines.outer * lines.inner)
        self.evaluator = Evaluator(nest, buffers)

    def run(self, outer: Index, first: Index, width: int) -> None:
        """The lines first ... first + width - 1."""
        nest, lines = self.nest, self.lines
        row = outer * lines.inner + first
        totals = self.totals
        if width == 1:  # in a register
            totals, row = nest.local(carrier(self.dtype), 1), ix.ZERO
        start = constant(nest, self.dtype, _start(self.node.op.name, self.dtype))
        nest.strips(width, self.lanes, lambda j: nest.emit(keep(totals, row + j, start)))

        def step(i: Index) -> None:
            at = lines.size - 1 - i if self.node.attrs["reverse"] else i
            base = lines.at(outer, at, first)
            nest.strips(width, self.lanes, lambda j: self._element(totals, row + j, base + j))

        nest.loop(lines.size, step)

    def _element(self, totals: Buffer, line: Index, flat: Index) -> None:
        nest, node = self.nest, self.node
        operands = [self.evaluator.flat_element(v, flat).plain() for v in node.inputs]
        total = held(nest, totals, line, self.dtype)
        m = Math(nest, self.dtype)
        if m.dtype != self.dtype:  # f16 and bf16 are carried as f32
            operands, total = [x.plain(m.dtype) for x in operands], total.plain(m.dtype)
        total = _STEPS[node.op.name](m, total, operands).plain(self.dtype)
        if not self.dtype.is_float:
            total = rounded(total)
        nest.emit(keep(totals, line, total))
        value = rounded(total)
        nest.emit(store(self.buffers[node.output], flat.expression(), value.expr, self.dtype))
