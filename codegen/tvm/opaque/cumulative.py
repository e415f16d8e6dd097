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
from ..cost import tasks_for
from ..emit import Buffer
from ..evaluator import Evaluator
from ..index import Index
from ..math import Element, Math, carrier, constant, held, keep, rounded, store
from ..nest import Nest
from ..pointwise import spread
from ..target import Machine
from .lowering import Buffers, loops

Step = Callable[[Math, Element, list[Element]], Element]

_NANOSECONDS = 1.0  # a step of a serial chain takes about an addition's latency

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
    """Each line of the operands along the axis, or each part of a row of lines, is a unit."""
    x, axis = node.inputs[0], node.attrs["axis"]
    outer, inner = math.prod(map(int, x.shape[:axis])), math.prod(map(int, x.shape[axis + 1 :]))
    size, lanes = int(x.shape[axis]), machine.lanes(f"int{max(32, x.dtype.bits)}")
    if outer * size * inner == 0:
        return
    kernel = _Lines(nest, node, buffers, size, inner, lanes)
    per_line = size * _NANOSECONDS
    tasks = tasks_for(outer * -(-inner // lanes) * per_line, machine)
    if tasks == 1 or outer >= tasks:
        spread_or_loop(nest, outer, tasks, lambda o: kernel.run(o, ix.ZERO, inner))
        return
    width = -(-inner // (4 * tasks * lanes)) * lanes
    whole, rest = divmod(inner, width)
    for o in range(outer):
        first = ix.number(o)
        spread_or_loop(nest, whole, tasks, lambda u, o=first: kernel.run(o, u * width, width))
        kernel.run(first, ix.number(whole * width), rest)


def spread_or_loop(nest: Nest, extent: int, tasks: int, body: Callable[[Index], None]) -> None:
    """A loop over 0 ... extent-1, on several threads if there are several tasks."""
    if tasks > 1 and extent > 1:
        spread(nest, extent, tasks, body)
    else:
        nest.loop(extent, body)


class _Lines:
    """Lines of `size` elements at a distance of `inner`."""

    def __init__(
        self, nest: Nest, node: Node, buffers: Buffers, size: int, inner: int, lanes: int
    ) -> None:
        self.nest, self.node, self.buffers = nest, node, buffers
        self.size, self.inner, self.lanes = size, inner, lanes
        self.dtype = node.output.dtype
        outer = int(node.output.type.size) // (size * inner)
        self.totals = nest.scratch(carrier(self.dtype), outer * inner)
        self.evaluator = Evaluator(nest, buffers)

    def run(self, outer: Index, first: Index, width: int) -> None:
        """The lines first ... first + width - 1."""
        nest, inner = self.nest, self.inner
        row = outer * inner + first
        totals = self.totals
        if width == 1:  # in a register
            totals, row = nest.local(carrier(self.dtype), 1), ix.ZERO
        start = constant(nest, self.dtype, _start(self.node.op.name, self.dtype))
        nest.strips(width, self.lanes, lambda j: nest.emit(keep(totals, row + j, start)))

        def step(i: Index) -> None:
            at = self.size - 1 - i if self.node.attrs["reverse"] else i
            base = outer * (self.size * inner) + at * inner + first
            nest.strips(width, self.lanes, lambda j: self._element(totals, row + j, base + j))

        nest.loop(self.size, step)

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
