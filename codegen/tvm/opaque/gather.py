"""Writing at computed positions: updates in order, so that the result does not depend on threads.

What is written to differs from line to line across the axis, so lines are split over threads and
put into vectors, and each runs through all of its updates.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from ....ir.graph import Node
from ....ir.types import i64
from .. import emit
from .. import index as ix
from ..evaluator import Evaluator
from ..index import Index
from ..math import Element, Math, carrier, cast, held, keep, rounded, select, storage, store
from ..nest import Nest
from ..target import Machine
from .lines import Lines, over_lines
from .lowering import Buffers, loops

Combine = Callable[[Math, Element, Element], Element]

_COMBINE: dict[str, Combine] = {
    "add": lambda m, old, new: old + new,
    "prod": lambda m, old, new: old * new,
    "max": lambda m, old, new: m.maximum(old, new),
    "min": lambda m, old, new: m.minimum(old, new),
}


@loops("scatter_add", "scatter", "scatter_add_along")
def _scatter(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    if 0 in node.output.shape:
        return
    lines = Lines.of(node.output, node.attrs["axis"])
    lanes = machine.lanes(f"int{max(32, node.output.dtype.bits)}")
    kernel = _Scatter(nest, node, buffers, lines, lanes)
    over_lines(nest, lines, lanes, lines.size + 2 * kernel.count, machine, kernel.run)


class _Scatter:
    """State of one kernel's construction.

    f16 and bf16 are combined in f32, short integers and all others as what they are carried as,
    in an array beside the result if that cannot hold it. What is only replaced is moved as it
    is.
    """

    def __init__(self, nest: Nest, node: Node, buffers: Buffers, lines: Lines, lanes: int) -> None:
        self.nest, self.node, self.lines, self.lanes = nest, node, lines, lanes
        x, indices, updates = node.inputs
        self.x, self.updates, self.result = buffers[x], buffers[updates], buffers[node.output]
        self.dtype, self.indices = x.dtype, indices
        self.along = node.op.name == "scatter_add_along"
        axis = node.attrs["axis"]
        self.count = int(indices.shape[axis] if self.along else indices.type.size)
        self.combine = node.attrs.get("combine", "add")
        self.evaluator = Evaluator(nest, buffers)
        narrow = carrier(self.dtype) != storage(self.dtype) and self.combine != "set"
        size = lines.outer * lines.size * lines.inner
        self.sums = nest.scratch(carrier(self.dtype), size) if narrow else self.result

    def run(self, outer: Index, first: Index, width: int) -> None:
        """Copy, write every update, round: the lines first ... first + width - 1."""
        nest, lines = self.nest, self.lines

        def each(body: Callable[[Index], None]) -> None:
            def row(i: Index) -> None:
                base = lines.at(outer, i, first)
                nest.strips(width, self.lanes, lambda j: body(base + j))

            nest.loop(lines.size, row)

        if self.sums is self.result:
            self._copy(outer, first, width)
        else:
            each(self._begin)
        nest.loop(self.count, lambda k: self._update(outer, k, first, width))
        if self.sums is not self.result:
            each(self._end)

    def _copy(self, outer: Index, first: Index, width: int) -> None:
        """Lines of the operand as those of the result, if that does not lie over it."""

        def move(at: Index) -> None:
            value = tirx.BufferLoad(self.x, [at.expression()])
            copy.emit(tirx.BufferStore(self.result, value, [at.expression()]))

        def row(i: Index) -> None:
            base = self.lines.at(outer, i, first)
            copy.strips(width, self.lanes, lambda j: move(base + j))

        copy = Nest()
        copy.loop(self.lines.size, row)
        differs = tirx.NE(emit.address(self.x), emit.address(self.result))
        self.nest.emit(emit.when(differs, copy.finish()))

    def _begin(self, at: Index) -> None:
        value = self.evaluator.flat_element(self.node.inputs[0], at)
        self.nest.emit(keep(self.sums, at, value))

    def _end(self, at: Index) -> None:
        value = rounded(held(self.nest, self.sums, at, self.dtype))
        self.nest.emit(store(self.result, at.expression(), value.expr, self.dtype))

    def _update(self, outer: Index, k: Index, first: Index, width: int) -> None:
        """The update number k of some lines."""
        updates = Lines(self.lines.outer, self.count, self.lines.inner)
        base = updates.at(outer, k, first)

        def write(j: Index) -> None:
            if self.along:
                picked = self.evaluator.flat_element(self.indices, base + j)
            else:
                picked = self.evaluator.element(self.indices, ix.delinearize(k, self.indices.shape))
            row, inside = self._place(picked)
            self._write(self.lines.at(outer, row, first + j), base + j, inside)

        self.nest.strips(width, self.lanes, write)

    def _place(self, picked: Element) -> tuple[Index, Element | None]:
        """The index along the axis, and whether it was one; None where it is clamped."""
        last = self.lines.size - 1
        row = self.evaluator.clamped(picked, max(last, 0))
        if self.node.op.name != "scatter":
            return row, None
        wide = picked if picked.dtype.bits >= 32 else cast(picked, i64)
        return row, (wide >= 0) & (wide <= last)

    def _write(self, place: Index, at: Index, inside: Element | None) -> None:
        """Combine the update at a position with what stands at a place."""
        nest = self.nest
        if self.combine == "set":
            assert inside is not None
            value = tirx.BufferLoad(self.updates, [at.expression()])
            old = tirx.BufferLoad(self.result, [place.expression()])
            chosen = tirx.Select(inside.expr, value, old)
            nest.emit(tirx.BufferStore(self.result, chosen, [place.expression()]))
            return
        update = self.evaluator.flat_element(self.node.inputs[2], at)
        old = held(nest, self.sums, place, self.dtype)
        m = Math(nest, self.dtype)
        total = _COMBINE[self.combine](m, old.plain(m.dtype), update.plain(m.dtype))
        total = total.plain(self.dtype)
        if not self.dtype.is_float:
            total = rounded(total)
        if inside is not None:
            total = select(inside, total, old)
        nest.emit(keep(self.sums, place, total))
