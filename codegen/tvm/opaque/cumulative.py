"""Running totals: one step after the other along the axis, vectors across it.

The total of each line along the axis stands in an array of its own, in f32 for f16 and bf16, so
that rows of the operands are read in order whatever the axis is.

Sums along the last axis go by vectors: a vector's own running sums take log2(lanes) shuffles and
additions, and only one addition waits for the vector before.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tvm import tirx

from ....ir.graph import Node
from ....ir.types import DType
from .. import emit
from .. import index as ix
from ..emit import Buffer, Expr
from ..evaluator import Evaluator
from ..index import Index
from ..math import Element, Math, carrier, constant, held, keep, rounded, storage, store
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

        done = self._vectors(outer, totals) if width == lines.inner == 1 else 0

        def step(rest: Index) -> None:
            i = rest + done
            at = lines.size - 1 - i if self.node.attrs["reverse"] else i
            base = lines.at(outer, at, first)
            nest.strips(width, self.lanes, lambda j: self._element(totals, row + j, base + j))

        nest.loop(lines.size - done, step)

    def _vectors(self, outer: Index, totals: Buffer) -> int:
        """Sum up whole vectors of a line, and say how many elements these were."""
        nest, lines, lanes = self.nest, self.lines, self.lanes
        count, dtype = lines.size // lanes, carrier(self.dtype)
        plain = dtype == storage(self.dtype) and lanes & (lanes - 1) == 0 < lanes - 1
        if self.node.op.name != "cumsum" or not plain or not count:
            return 0
        carry, all_lanes = nest.local(dtype, lanes), _ramp(ix.ZERO.expression(), lanes)
        zero = tirx.Broadcast(tirx.const(0, dtype), lanes)
        nest.emit(emit.store(carry, (all_lanes,), zero))
        backwards = bool(self.node.attrs["reverse"])

        def vector(s: Index) -> None:
            first = s * lanes
            if backwards:
                first = lines.size - lanes - first
            place = _ramp(lines.at(outer, first, ix.ZERO).expression(), lanes)
            names = emit.Names()
            own = names.of("own", tirx.BufferLoad(self.buffers[self.node.inputs[0]], [place]))
            distance = 1
            while distance < lanes:
                own = names.of("own", own + _moved(own, zero, distance, lanes, backwards))
                distance *= 2
            before = names.of("before", tirx.BufferLoad(carry, [all_lanes]))
            last = 0 if backwards else lanes - 1
            total = tirx.Shuffle([own], [tirx.IntImm("int32", last)] * lanes)
            names.emit(emit.store(carry, (all_lanes,), before + total))
            names.emit(emit.store(self.buffers[self.node.output], (place,), own + before))
            nest.emit(names.finish())

        nest.loop(count, vector, name="vector")
        total = tirx.BufferLoad(carry, [tirx.IntImm("int32", 0)])
        nest.emit(emit.store(totals, (0,), total))
        return count * lanes

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


def _ramp(start: Expr, lanes: int) -> Expr:
    return tirx.Ramp(start, tirx.IntImm("int32", 1), lanes)


def _moved(vector: Expr, zero: Expr, distance: int, lanes: int, backwards: bool) -> Expr:
    """Each lane of a vector in the lane that comes so far behind; zeros in the first ones."""
    sources = [lane + distance if backwards else lane - distance for lane in range(lanes)]
    picked = [source if 0 <= source < lanes else lanes for source in sources]
    return tirx.Shuffle([vector, zero], [tirx.IntImm("int32", lane) for lane in picked])
