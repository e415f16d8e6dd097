"""Sums over the pixels of what a template's epilogue computes, and what follows from them.

A convolution whose result is normalized is read once more for mean and variance of its channels,
and a gradient for the two sums that the normalization's own gradient needs. While the results are
in registers both cost a few instructions: each task adds up its pixels for itself, and behind all
tasks their sums are added in the order of the tasks, so that it does not matter which thread ran
which. (Where that is more than a pass over memory in time, fusion does not come here.)

Sums of squared deviations are of what differs from a shift, which is what a few pixels in the
middle of images are, computed before all others: so no digits are lost if the mean is large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ...ir.graph import Graph, Node, Value
from ...ir.types import DType
from ...passes.moments import Centered, deviations
from . import bfloat, emit
from . import index as ix
from .accumulate import wide
from .emit import Buffer, Expr, Stmt
from .evaluator import Evaluator
from .index import Index, Indices
from .math import Element, Math, cast, constant, given, read, select, storage, store
from .moments import from_mean
from .nest import Nest
from .reducer import reductions_of
from .schedules.tile import Store
from .target import Machine

SAMPLES = 4
"""Images whose pixels in the middle have the shift as their mean."""

Pixel = Callable[[tuple[emit.Index, ...], Callable[[emit.Index, Expr], Stmt]], Stmt]
"""Emits one pixel of the root's output: ``pixel(place, keep)``, where ``keep(channel, value)``."""

_ANY = 1 << 30  # elements of a buffer whose size is not known yet
_PITCH = 32  # channels: tasks share no line of the cache, nor the one beside it


class _Partial:
    """What tasks have added up of one sum: by task and channel."""

    def __init__(self, name: str, dtype: DType) -> None:
        self.dtype = dtype
        self.buffer = emit.buffer(name, (_ANY,), storage(dtype))

    def declare(self, size: int) -> Stmt:
        """Room for so many elements, all zero."""
        zero = emit.constant(0, storage(self.dtype))

        def clear(array: Buffer) -> Stmt:
            return emit.seq(
                emit.lay(self.buffer, array),
                emit.strips(size, 16, lambda i: emit.store(self.buffer, (i,), zero)),
            )

        return emit.scratch(self.buffer.name, (size,), storage(self.dtype), clear)


class Sums:
    """The sums of a kernel with a root.

    Parameters
    ----------
    body : Graph
        The root, pointwise ops over its shape, sums over all axes but the last of such, and
        pointwise ops over their results.
    root : Node
    buffers : mapping of Value to Buffer
        As for `rooted`.
    machine : Machine
    pixel : callable or None
        Computes single pixels; None if there are no deviations.
    """

    def __init__(
        self, body: Graph, root: Node, buffers: Mapping[Value, Buffer], machine: Machine,
        pixel: Pixel | None = None,
    ) -> None:  # fmt: skip
        self.body, self.root, self.buffers, self.machine = body, root, buffers, machine
        self.pixel = pixel
        self.shape = tuple(map(int, root.output.shape))
        self.channels = self.shape[-1]
        self.pitch = -(-self.channels // _PITCH) * _PITCH
        nodes = reductions_of(body)
        self.deviations = deviations(nodes)
        derived = {each.node for each in self.deviations}
        self.nodes = tuple(n for n in nodes if n not in derived)
        self.wanted = tuple(dict.fromkeys(each.total for each in self.deviations))
        self.sums = {n: _Partial("sum", wide(n.inputs[0].dtype)) for n in self.nodes}
        self.squares = {n: _Partial("squares", self.sums[n].dtype) for n in self.wanted}
        self.shifts = {n: _Partial("shift", self.sums[n].dtype) for n in self.wanted}
        self.tasks = 1

    # --- in the epilogue ---

    def stores(self, nest: Nest, evaluator: Evaluator, flat: Index, channel: Index) -> list[Store]:
        """What adds an element of the root's output to the sums of the task."""
        number, count = emit.task()
        self.tasks = max(self.tasks, count)
        task = ix.ZERO if isinstance(number, int) else nest.variable(number, 0, count - 1)
        place = task * self.pitch + channel
        found: list[Store] = []

        def add(partial: _Partial, value: Element) -> None:
            total = read(nest, partial.buffer, place, partial.dtype) + value
            found.append((partial.buffer, [place.expression()], total.plain().expr))

        for node in self.nodes:
            x = self._operand(evaluator, node, flat)
            if node in self.squares:
                shift = self.shifts[node]
                x = (x - read(nest, shift.buffer, channel, shift.dtype)).plain()
                add(self.squares[node], x * x)
            add(self.sums[node], x)
        return found

    def _operand(self, evaluator: Evaluator, node: Node, flat: Index) -> Element:
        x = evaluator.element(node.inputs[0], ix.delinearize(flat, node.inputs[0].shape))
        return x.plain(self.sums[node].dtype)

    # --- around the template ---

    def around(self, loops: Stmt) -> Stmt:
        """The template's loops, what must be there before, and what follows from the sums."""
        size = self.tasks * self.pitch
        partials = (*self.sums.values(), *self.squares.values())
        rooms = [partial.declare(size) for partial in partials]
        shifts = [partial.declare(self.channels) for partial in self.shifts.values()]
        return emit.seq(*rooms, *shifts, self._sample(), loops, self._finish())

    def _sample(self) -> Stmt:
        """Set the shifts to the mean of some pixels."""
        if not self.wanted:
            return emit.NOTHING
        assert self.pixel is not None
        pixel = self.pixel
        batch, *spatial = self.shape[:-1]
        samples = min(SAMPLES, batch)
        middle = [d // 2 for d in spatial]

        def sample(number: emit.Index) -> Stmt:
            place = (number * (batch // samples), *middle)
            return pixel(place, lambda channel, value: self._add(place, channel, value, samples))

        return emit.serial(samples, sample, "sample")

    def _add(
        self, place: tuple[emit.Index, ...], channel: emit.Index, value: Expr, samples: int
    ) -> Stmt:
        nest = Nest.inside_lanes(inline=False, narrows=bfloat.narrows(self.machine))
        element = given(nest, value, self.root.output.dtype)
        evaluator = Evaluator(nest, self.buffers, {self.root.output: lambda _: element})
        *pixel, at = (
            ix.number(i) if isinstance(i, int) else nest.variable(i, 0, size - 1)
            for i, size in zip((*place, channel), self.shape, strict=True)
        )
        flat = ix.linearize((*pixel, at), self.shape)
        for node in self.wanted:
            x, shift = self._operand(evaluator, node, flat), self.shifts[node]
            x = select(x - x == 0, x, constant(nest, x.dtype, 0))
            total = read(nest, shift.buffer, at, shift.dtype) + x * (1 / samples)
            nest.emit(store(shift.buffer, at.expression(), total.plain().expr, shift.dtype))
        return nest.finish()

    def _finish(self) -> Stmt:
        """Add up what the tasks left, and store all that has a channel's size."""
        nest = Nest(narrows=bfloat.narrows(self.machine))
        evaluator = Evaluator(nest, self.buffers)
        size = math.prod(self.shape)
        outputs = [v for v in dict.fromkeys(self.body.outputs) if int(v.type.size) != size]

        def channel(at: Index) -> None:
            for node in self.nodes:
                self._know(evaluator, node, at)
            wanted = [(v, ix.delinearize(at, v.shape)) for v in outputs]
            results = evaluator.elements(wanted)
            for value, result in zip(outputs, results, strict=True):
                nest.emit(store(self.buffers[value], at.expression(), result.expr, value.dtype))

        nest.strips(self.channels, self.machine.lanes("float32"), channel)
        return nest.finish()

    def _know(self, evaluator: Evaluator, node: Node, at: Index) -> None:
        """Have the evaluator know a sum at a channel, and the sums over deviations from it."""
        total = self._total(evaluator.nest, self.sums[node], at)
        if node not in self.squares:
            _give(evaluator, node, at, cast(total, node.output.dtype))
            return
        nest, dtype = evaluator.nest, total.dtype
        count = constant(nest, dtype, math.prod(self.shape[:-1]))
        shift = read(nest, self.shifts[node].buffer, at, dtype)
        squares = self._total(nest, self.squares[node], at)
        mean = (total / count).plain()
        squares = Math(nest, dtype).maximum((squares - (total * mean).plain()).plain(), 0)
        _give(evaluator, node, at, cast((count * shift + total).plain(), node.output.dtype))
        for each in self.deviations:
            if each.total is node:
                self._know_deviations(evaluator, each, at, [count, shift, total, squares])

    def _know_deviations(
        self, evaluator: Evaluator, each: Centered, at: Index, parts: list[Element]
    ) -> None:
        mean = evaluator.element(each.mean, ix.delinearize(at, each.mean.shape))
        found = from_mean(each, mean, parts)
        _give(evaluator, each.node, at, cast(found, each.node.output.dtype))

    def _total(self, nest: Nest, partial: _Partial, at: Index) -> Element:
        total = read(nest, partial.buffer, at, partial.dtype)
        for task in range(1, self.tasks):
            place = at + task * self.pitch
            total = (total + read(nest, partial.buffer, place, partial.dtype)).plain()
        return total


def _give(evaluator: Evaluator, node: Node, at: Index, result: Element) -> None:
    def known(here: Indices) -> Element:
        assert ix.linearize(here, node.output.shape) == at, "not channel by channel"
        return result

    evaluator.given[node.output] = known
