"""Rows: which values of a kernel belong to the row that it works on, and to which element.

A row kernel reduces arrays of one size over the same positions, and computes values of a row from
the results. It goes over one row after another, so a row's results are there when its elements
are computed, as in the softmax:

    %m = reduce_max[axes=(1,)](%x)             f32[8,64] -> f32[8]
    %e = exp(sub(%x, broadcast[axes=(0,)](%m)))
    %s = reduce_sum[axes=(1,)](%e)
    %y = div(%e, broadcast[axes=(0,)](%s))     f32[8,64]

That is right only if what is read of a result is the result of the row itself, and what is read
of an element is the element itself. `visits` finds that out exactly: it walks up from the outputs
and knows for every value which digits of the position in the whole array each of its dimensions
is made of. A digit is (stride, extent): `position // stride % extent`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..ir.graph import Graph, Node, Value
from ..ir.types import Shape
from .outline import VIEWS, tokens_of

Digit = tuple[int, int]
Digits = tuple[Digit, ...]
Layout = tuple[Digits, ...]
"""For each dimension its digits, the most significant first."""

_SAME_POSITION = frozenset({"stop_gradient", "optimization_barrier"})


@dataclass(frozen=True)
class Rows:
    """How an array of `total` elements is cut into rows.

    Attributes
    ----------
    total : int
        Elements of the array, more than one.
    kept : tuple of (int, int)
        The digits of the position that say which row it is in.
    reduced : tuple of (int, int)
        The digits of the position inside of its row.
    """

    total: int
    kept: Digits
    reduced: Digits

    @property
    def count(self) -> int:
        """How many rows there are."""
        return _extent(self.kept)

    @property
    def length(self) -> int:
        """Elements of a row."""
        return _extent(self.reduced)

    @cached_property
    def block(self) -> int:
        """Elements of the shortest stretch of the array that consists of whole rows."""
        return max(stride * extent for stride, extent in self.reduced)

    @property
    def whole(self) -> Digits:
        """The digits of a position."""
        return ((1, self.total),)

    def row_of(self, positions: np.ndarray) -> np.ndarray:
        """The row that each position is in."""
        row = np.zeros_like(positions)
        for stride, extent in self.kept:
            row = row * extent + positions // stride % extent
        return row

    def layout(self, value: Value) -> Layout | None:
        """The layout of an output: one element for each position, or one for each row."""
        size = int(value.type.size)
        digits = self.whole if size == self.total else self.kept
        return _split(digits, value.shape) if size in (self.total, self.count) else None

    def is_element(self, layout: Layout | None) -> bool:
        """Whether a value of this layout is read at the position that is computed."""
        return layout is not None and _flat(layout) == self.whole

    def is_result(self, layout: Layout | None) -> bool:
        """Whether a value of this layout is read at the row that is computed."""
        return layout is not None and _flat(layout) == self.kept

    def is_own(self, value: Value, layout: Layout | None) -> bool:
        """Whether nothing of another row, or another element of the row, is read."""
        if int(value.type.size) == self.total:
            return self.is_element(layout)
        return int(value.type.size) == self.count and self.is_result(layout)


def reduced_axes(node: Node) -> tuple[int, ...]:
    """The axes that a reduction drops."""
    return node.attrs["axes"] if "axes" in node.attrs else (node.attrs["axis"],)


def rows_of(node: Node) -> Rows | None:
    """The rows of a reduction; None if there are none of more than one element."""
    shape, axes = _sizes(node.inputs[0].shape), reduced_axes(node)
    total, length = math.prod(shape), math.prod(shape[axis] for axis in axes)
    if not total or length < 2:
        return None
    layout = _split(((1, total),), shape)
    assert layout is not None
    kept = (digits for axis, digits in enumerate(layout) if axis not in axes)
    reduced = (layout[axis] for axis in sorted(axes))
    return Rows(total, _flat(kept), _flat(reduced))


def _is_border(value: Value, borders: Collection[Value], own: Collection[Value]) -> bool:
    """Whether a value is read from memory: in `borders`, and no view of an output."""
    if value not in borders or value in own:
        return False
    while value.node is not None and value.node.op.name in VIEWS:
        value = value.node.inputs[0]
        if value in own:
            return False
    return True


def visits(
    outputs: Iterable[Value], borders: Collection[Value], rows: Rows
) -> Iterator[tuple[Value, Layout | None]]:
    """Every value that computing `outputs` passes, with each layout in which it is read.

    Values in `borders` that are no outputs are not looked into. None stands for positions that
    are not made of the digits of the position that is computed, and for the tokens of a barrier,
    all of which must be there before.
    """
    own = set(outputs)
    stack = [(v, rows.layout(v)) for v in own]
    seen = set(stack)
    while stack:
        value, layout = stack.pop()
        yield value, layout
        node = value.node
        if node is None or _is_border(value, borders, own):
            yield from ((token, None) for token in tokens_of(value))
            continue
        for item in _operands(node, layout, rows):
            if item not in seen:
                seen.add(item)
                stack.append(item)


def agree(outputs: Collection[Value], borders: Collection[Value], rows: Rows) -> bool:
    """Whether outputs and reductions are read by each other only where they are computed."""
    own = set(outputs)
    return all(
        rows.is_own(value, layout)
        for value, layout in visits(own, borders, rows)
        if value in own or is_reduction(value)
    )


def is_reduction(value: Value) -> bool:
    """Whether a value is the result of a reduction."""
    return value.node is not None and value.node.op.kind == "reduce"


def aligned(body: Graph) -> dict[Value, bool]:
    """For each operand of a row kernel: is it read only at the element or row that is computed?"""
    rows = body_rows(body)
    found = dict.fromkeys(body.inputs, True)
    for value, layout in visits(body.outputs, (), rows):
        if value in found:
            found[value] = found[value] and rows.is_own(value, layout)
    return found


def body_rows(body: Graph) -> Rows:
    """The rows of a row kernel; of one that adds up rows, too, those that it adds up."""
    found = [rows_of(n) for n in body.nodes if n.op.kind == "reduce"]
    rows = [rows for rows in found if rows is not None]
    assert rows, "a row kernel has rows"
    return min(rows, key=lambda each: each.reduced[-1][0])


# --- layouts ---------------------------------------------------------------------------------


def _operands(
    node: Node, layout: Layout | None, rows: Rows
) -> Iterator[tuple[Value, Layout | None]]:
    if node.op.kind == "reduce":
        inside = rows.is_result(layout) and rows_of(node) == rows
        yield node.inputs[0], rows.layout(node.inputs[0]) if inside else None
        return
    for place, value in enumerate(node.inputs):
        yield value, None if layout is None else _operand(node, place, layout)


def _operand(node: Node, place: int, layout: Layout) -> Layout | None:
    """The layout in which a node reads an operand."""
    name, shape = node.op.name, node.inputs[place].shape
    if node.op.kind == "elementwise" or (name in _SAME_POSITION and place == 0):
        return layout
    if name == "broadcast":
        axes = node.attrs["axes"]
        return tuple(
            () if size == 1 else layout[axis] for size, axis in zip(shape, axes, strict=True)
        )
    if name == "reshape":
        return _split(_flat(layout), shape)
    if name == "transpose":
        permutation = node.attrs["permutation"]
        return tuple(layout[permutation.index(axis)] for axis in range(len(shape)))
    return None


def _flat(layout: Iterable[Digits]) -> Digits:
    """The digits of the row-major position, neighbours joined."""
    found: list[Digit] = []
    for stride, extent in (digit for digits in layout for digit in digits):
        if found and found[-1][0] == stride * extent:
            found[-1] = (stride, found[-1][1] * extent)
        else:
            found.append((stride, extent))
    return tuple(found)


def _split(digits: Digits, shape: Shape) -> Layout | None:
    """The layout of an array whose row-major position has these digits, if it has one."""
    left = list(digits)
    dimensions: list[Digits] = []
    for size in reversed(_sizes(shape)):
        taken: list[Digit] = []
        while size > 1:
            if not left:
                return None
            stride, extent = left.pop()
            part = math.gcd(size, extent)
            if part != min(size, extent):
                return None
            taken.append((stride, part))
            size //= part
            if extent > part:
                left.append((stride * part, extent // part))
        dimensions.append(tuple(reversed(taken)))
    return None if left else tuple(reversed(dimensions))


def _extent(digits: Sequence[Digit]) -> int:
    return math.prod(extent for _, extent in digits)


def _sizes(shape: Shape) -> tuple[int, ...]:
    return tuple(int(d) for d in shape)
