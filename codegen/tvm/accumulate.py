"""What reductions do with elements: where they start, how two partial results become one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...ir.graph import Node
from ...ir.types import DType, bf16, f16, f32, i32
from .index import Indices
from .math import Element, Math, cast, constant, position, select
from .nest import Nest

Parts = list[Element]


class Accumulator(Protocol):
    """One reduction; a partial result has a part for each of `dtypes`."""

    dtypes: tuple[DType, ...]

    def identity(self) -> Parts:
        """The result for no elements."""

    def lift(self, x: Element, at: Indices) -> Parts:
        """The result for one element of the operand."""

    def combine(self, x: Parts, y: Parts) -> Parts:
        """The result for the elements of both."""

    def extend(self, x: Parts, y: Parts) -> Parts:
        """As `combine`, where `y` is of an element behind all those of `x`."""

    def result(self, parts: Parts) -> Element:
        """What the op returns."""


def accumulator(nest: Nest, node: Node) -> Accumulator:
    """The accumulator of a reduction."""
    if node.op.name in ("argmax", "argmin"):
        return _Position(nest, node)
    combine, start = _SIMPLE[node.op.name]
    return _Simple(nest, node, combine, start)


def wide(dtype: DType) -> DType:
    """What elements of a dtype are summed in: f32 for f16 and bf16."""
    return f32 if dtype in (f16, bf16) else dtype


def _lowest(dtype: DType) -> float:
    return -math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def _highest(dtype: DType) -> float:
    return math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).max)


_SIMPLE: dict[str, tuple[Callable[[Math, Element, Element], Element], Callable[[DType], float]]] = {
    "reduce_sum": (lambda m, x, y: x + y, lambda dtype: 0),
    "reduce_prod": (lambda m, x, y: x * y, lambda dtype: 1),
    "reduce_max": (lambda m, x, y: m.maximum(x, y), _lowest),
    "reduce_min": (lambda m, x, y: m.minimum(x, y), _highest),
    "reduce_any": (lambda m, x, y: x | y, lambda dtype: False),
    "reduce_all": (lambda m, x, y: x & y, lambda dtype: True),
}


@dataclass(frozen=True)
class _Simple:
    """An associative operation on elements."""

    nest: Nest
    node: Node
    operation: Callable[[Math, Element, Element], Element]
    start: Callable[[DType], float]

    @property
    def dtype(self) -> DType:
        return wide(self.node.inputs[0].dtype)

    @property
    def dtypes(self) -> tuple[DType, ...]:
        return (self.dtype,)

    def identity(self) -> Parts:
        return [constant(self.nest, self.dtype, self.start(self.dtype))]

    def lift(self, x: Element, at: Indices) -> Parts:
        return [x.plain(self.dtype)]

    def combine(self, x: Parts, y: Parts) -> Parts:
        return [self.operation(Math(self.nest, self.dtype), x[0], y[0]).plain()]

    extend = combine

    def result(self, parts: Parts) -> Element:
        return cast(parts[0], self.node.output.dtype)


@dataclass(frozen=True)
class Moments:
    """Sum and squared deviations: a count, a shift near the elements, the sum of what differs from
    it, and the sum of the squares of what differs from the mean.

    Chan, Golub and LeVeque: Updating formulae and a pairwise algorithm for computing sample
    variances, 1979.
    """

    nest: Nest
    node: Node

    @property
    def dtypes(self) -> tuple[DType, ...]:
        return (wide(self.node.inputs[0].dtype),) * 4

    def identity(self) -> Parts:
        return [constant(self.nest, dtype, 0) for dtype in self.dtypes]

    def shift(self, x: Element) -> Element:
        """A shift for elements like `x`."""
        x = x.plain(self.dtypes[0])
        return select(x - x == 0, x, constant(self.nest, x.dtype, 0))

    def lift(self, x: Element, at: Indices) -> Parts:
        one, zero = (constant(self.nest, self.dtypes[0], number) for number in (1, 0))
        return [one, zero, x.plain(self.dtypes[0]), zero]

    def combine(self, x: Parts, y: Parts) -> Parts:
        m = Math(self.nest, self.dtypes[0])
        shift = select(x[0] > 0, x[1], y[1])
        moved = y[1] - shift
        means = [parts[2] / m.maximum(parts[0], 1) for parts in (x, y)]
        apart = moved + means[1] - means[0]
        count = x[0] + y[0]
        share = x[0] * y[0] / m.maximum(count, 1)
        total = x[2] + (y[2] + (y[0] * moved))
        squares = x[3] + y[3] + (apart * apart).plain() * share
        return [count, shift, total.plain(), squares.plain()]

    extend = combine

    def result(self, parts: Parts) -> Element:
        count, shift, total, _ = parts
        return cast((count * shift + total).plain(), self.node.output.dtype)


@dataclass(frozen=True)
class _Position:
    """argmax and argmin: the extreme element and its index; NaN is the most extreme.

    That of no element is the least extreme number at index 0, which is right if there is no other
    number: elements are so compared with `<` alone, as long as they come in order.
    """

    nest: Nest
    node: Node

    @property
    def dtypes(self) -> tuple[DType, ...]:
        return (wide(self.node.inputs[0].dtype), i32)

    def identity(self) -> Parts:
        dtype = self.dtypes[0]
        start = _lowest(dtype) if self.node.op.name == "argmax" else _highest(dtype)
        return [constant(self.nest, dtype, start), constant(self.nest, i32, 0)]

    def lift(self, x: Element, at: Indices) -> Parts:
        return [x.plain(self.dtypes[0]), position(self.nest, at[self.node.attrs["axis"]], i32)]

    def _beats(self, x: Element, y: Element) -> Element:
        """Whether `y` is more extreme."""
        beats = x < y if self.node.op.name == "argmax" else y < x
        return beats | ((y != y) & (x == x)) if self.dtypes[0].is_float else beats

    def combine(self, x: Parts, y: Parts) -> Parts:
        ties = x[0] == y[0]
        if self.dtypes[0].is_float:
            ties = ties | ((x[0] != x[0]) & (y[0] != y[0]))
        take = self._beats(x[0], y[0]) | (ties & (y[1] < x[1]))
        return [select(take, y[0], x[0]), select(take, y[1], x[1])]

    def extend(self, x: Parts, y: Parts) -> Parts:
        take = self._beats(x[0], y[0])
        return [select(take, y[0], x[0]), select(take, y[1], x[1])]

    def result(self, parts: Parts) -> Element:
        return parts[1]
