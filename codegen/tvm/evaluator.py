"""Evaluate one element of a kernel's graph: expressions by `op.scalar`, index ops by index maps.

`Evaluator.element(value, indices)` walks up from a value: an elementwise op asks for its
operands at the same indices, an index op at others, an input becomes a load. All that it makes
is bound in a `Nest`, in the outermost loop that it does not change in, and made once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.errors import LoweringError
from ...ir.graph import Node, Value
from ...ir.scalar import threefry2x32
from ...ir.types import Shape, bf16, boolean, f16, f32, i64, u32
from ...passes.stored import READ_AT_COMPUTED
from . import index as ix
from .emit import Buffer, shape_of
from .index import Index, Indices
from .math import (
    Element,
    Math,
    cast,
    constant,
    element,
    load,
    position,
    rounded,
    select,
)  # fmt: skip
from .nest import Nest

Given = Callable[[Indices], Element]


@dataclass(frozen=True, eq=False)
class Source:
    """Where an element comes from: `value` at `indices`, if every index in `inside` fits.

    `inside` holds (index, low, high, modulus): it must lie in low ... high and be a multiple of
    the modulus.
    """

    value: Value
    indices: Indices
    inside: tuple[tuple[Index, int, int, int], ...] = ()

    @property
    def is_outside(self) -> bool:
        """Whether no index can fit."""
        return any(index.high < low or index.low > high for index, low, high, _ in self.inside)


def source(node: Node, at: Indices) -> Source | None:
    """Where an op that only moves elements takes the element `at` from; None for other ops.

    The indices are always legal ones, for a load happens even where `inside` does not hold.
    """
    rule = _SOURCES.get(node.op.name)
    return rule(node, at) if rule else None


def _broadcast(node: Node, at: Indices) -> Source:
    (x,), axes = node.inputs, node.attrs["axes"]
    return Source(x, tuple(ix.ZERO if size == 1 else at[axis]
                           for size, axis in zip(x.shape, axes, strict=True)))  # fmt: skip


def _reshape(node: Node, at: Indices) -> Source:
    (x,) = node.inputs
    flat = ix.linearize(at, node.output.shape)
    return Source(x, ix.delinearize(flat, x.shape))


def _transpose(node: Node, at: Indices) -> Source:
    permutation = node.attrs["permutation"]
    return Source(node.inputs[0], tuple(at[permutation.index(i)] for i in range(len(at))))


def _slice(node: Node, at: Indices) -> Source:
    starts, strides = node.attrs["starts"], node.attrs["strides"]
    return Source(
        node.inputs[0], tuple(i * t + s for i, s, t in zip(at, starts, strides, strict=True))
    )


def _reverse(node: Node, at: Indices) -> Source:
    (x,), axes = node.inputs, node.attrs["axes"]
    turned = tuple(
        size - 1 - i if axis in axes else i
        for axis, (i, size) in enumerate(zip(at, x.shape, strict=True))
    )
    return Source(x, turned)


def _pad(node: Node, at: Indices) -> Source:
    (x,), interior = node.inputs, node.attrs["interior"]
    indices, inside = [], []
    for i, size, low, gap in zip(at, x.shape, node.attrs["low"], interior, strict=True):
        moved, step = i - low, gap + 1
        last = (size - 1) * step
        if moved.low < 0 or moved.high > last or step > 1:
            inside.append((moved, 0, last, step))
        indices.append((moved.clamp(0, max(last, 0)) // step).clamp(0, max(size - 1, 0)))
    return Source(x, tuple(indices), tuple(inside))


def _identity(node: Node, at: Indices) -> Source:
    return Source(node.inputs[0], at)


_SOURCES: dict[str, Callable[[Node, Indices], Source]] = {
    "broadcast": _broadcast, "reshape": _reshape, "transpose": _transpose, "slice": _slice,
    "reverse": _reverse, "pad": _pad, "stop_gradient": _identity,
    "optimization_barrier": _identity,
}  # fmt: skip


def concat_parts(node: Node, at: Indices) -> list[tuple[Source, int]]:
    """For each operand of a concat that `at` may lie in its source and the first position after."""
    axis, end, parts = node.attrs["axis"], 0, []
    for x in node.inputs:
        size = x.shape[axis]
        local = (at[axis] - end).clamp(0, max(size - 1, 0))
        end += size
        if 0 not in x.shape and at[axis].low < end and at[axis].high >= end - size:
            parts.append((Source(x, (*at[:axis], local, *at[axis + 1 :])), end))
    return parts


class Evaluator:
    """Elements of a graph inside a `Nest`.

    Parameters
    ----------
    nest : Nest
        Where expressions are bound.
    buffers : mapping of Value to Buffer
        Where inputs lie: flat buffers of the storage type.
    given : mapping of Value to callable, optional
        Values that are known otherwise (the result of a reduction or of a template): a function
        from indices to the element.
    """

    def __init__(
        self,
        nest: Nest,
        buffers: Mapping[Value, Buffer],
        given: Mapping[Value, Given] | None = None,
    ) -> None:
        self.nest = nest
        self.buffers = buffers
        self.given = dict(given or {})

    def elements(self, wanted: Sequence[tuple[Value, Indices]]) -> list[Element]:
        """Several elements; long chains of nodes are walked without recursion."""
        for value, at in self._order(wanted):
            self.element(value, at)
        return [self.element(value, at) for value, at in wanted]

    def _order(self, wanted: Sequence[tuple[Value, Indices]]) -> list[tuple[Value, Indices]]:
        """The elements that `wanted` is computed from, each after those that it needs."""
        order: dict[tuple[Value, Indices], None] = {}
        stack = [(item, False) for item in reversed(wanted)]
        while stack:
            item, is_ready = stack.pop()
            value, at = item
            if item in order or value.node is None or value in self.given or 0 in value.shape:
                continue
            if is_ready:
                order[item] = None
                continue
            stack.append((item, True))
            picked = READ_AT_COMPUTED.get(value.node.op.name)
            operands = _operands(value.node, at, [])
            if picked is not None:  # where it reads is known only when it does
                operands = [item for item in operands if item[0] is not value.node.inputs[picked]]
            stack.extend((operand, False) for operand in reversed(operands))
        return list(order)

    def element(self, value: Value, at: Indices) -> Element:
        """The element of `value` at `at`."""
        key = (value, at)
        found = self.nest.find(key)
        if found is None:
            found = self._make(value, at)
            self.nest.remember(key, found.level, found)
        return found

    def _make(self, value: Value, at: Indices) -> Element:
        if value in self.given:
            return self.given[value](at)
        node = value.node
        if node is None:
            return self._load(value, at)
        if node.op.kind == "elementwise" and node.op.name != "stop_gradient":
            return self._elementwise(node, at)
        moved = source(node, at)
        if moved is not None:
            return self._moved(node, moved)
        rule = _SPECIAL.get(node.op.name)
        if rule is None:
            raise LoweringError(f"{node.op.name}: cannot be part of a fused kernel",
                                where=node.source.where)  # fmt: skip
        return rule(self, node, at)

    def _load(self, value: Value, at: Indices) -> Element:
        if value not in self.buffers:
            raise LoweringError(f"kernel: no buffer holds {value!r}")
        flat, buffer = ix.linearize(at, value.shape), self.buffers[value]
        whole = value.ndim > 1 and len(shape_of(buffer)) == value.ndim
        place = [i.expression() for i in (at if whole else (flat,))]
        return element(self.nest, ("load", value, flat), value.dtype, flat.level,
                       lambda: load(buffer, place, value.dtype))  # fmt: skip

    def flat_element(self, value: Value, flat: Index) -> Element:
        """The element of an input at a row-major position."""
        buffer = self.buffers[value]
        return element(self.nest, ("load", value, flat), value.dtype, flat.level,
                       lambda: load(buffer, [flat.expression()], value.dtype))  # fmt: skip

    def _elementwise(self, node: Node, at: Indices) -> Element:
        assert node.op.scalar is not None, node.op.name
        operands = [self.element(v, at) for v in node.inputs]
        picks = node.op.name in _PICKS and node.output.dtype.is_float
        rounds = not picks or any(x.exact is not None for x in operands)
        if picks:  # rounding keeps the order of numbers, so it may as well come last
            operands = [x.exact or x for x in operands]
        result = node.op.scalar(self.math(node), *map(_as_computed, operands), **node.attrs)
        return as_stored(result, node.output) if rounds else result.plain(node.output.dtype)

    def math(self, node: Node) -> Math:
        """The namespace for a node: of its operands' dtype, which for a select is the branches'."""
        dtypes = [v.dtype for v in node.inputs] or [node.output.dtype]
        return Math(self.nest, dtypes[-1])

    def _moved(self, node: Node, origin: Source) -> Element:
        x = origin.value
        if 0 in x.shape or origin.is_outside:
            return constant(self.nest, x.dtype, node.attrs.get("value", 0))
        result = self.element(x, origin.indices)
        if not origin.inside:
            return result
        condition = self._all(origin.inside)
        return select(condition, result, constant(self.nest, x.dtype, node.attrs["value"]))

    def _all(self, tests: tuple[tuple[Index, int, int, int], ...]) -> Element:
        condition = constant(self.nest, boolean, True)
        for index, low, high, modulus in tests:
            if index.low < low:
                condition = _both(condition, self.below(ix.number(low - 1), index))
            if index.high > high:
                condition = _both(condition, self.below(index, ix.number(high + 1)))
            if modulus > 1:
                condition = _both(condition, self.below(index % modulus, ix.number(1)))
        return condition

    def below(self, a: Index, b: Index) -> Element:
        """Whether index `a` is smaller than index `b`."""
        level = max(a.level, b.level)
        return element(self.nest, ("below", a, b), boolean, level,
                       lambda: a.expression() < b.expression())  # fmt: skip

    def _concat(self, node: Node, at: Indices) -> Element:
        along = at[node.attrs["axis"]]
        result: Element | None = None
        for part, end in reversed(concat_parts(node, at)):
            piece = self.element(part.value, part.indices)
            if result is None:
                result = piece
            else:
                result = select(self.below(along, ix.number(end)), piece, result)
        return constant(self.nest, node.output.dtype, 0) if result is None else result

    def _gather(self, node: Node, at: Indices) -> Element:
        x, indices = node.inputs
        axis = node.attrs["axis"]
        inner = self.element(indices, at[axis : axis + indices.ndim])
        last = x.shape[axis] - 1
        found = self.clamped(inner, last)
        rest = at[axis + indices.ndim :]
        return self.element(x, (*at[:axis], found, *rest))

    def _take_along(self, node: Node, at: Indices) -> Element:
        x, indices = node.inputs
        axis = node.attrs["axis"]
        found = self.clamped(self.element(indices, at), x.shape[axis] - 1)
        return self.element(x, (*at[:axis], found, *at[axis + 1 :]))

    def starts(self, starts: Sequence[Value], shape: Shape, sizes: Shape) -> Indices:
        """Where a window begins, moved inside."""
        return tuple(
            self.clamped(self.element(start, ()), whole - size)
            for start, whole, size in zip(starts, shape, sizes, strict=True)
        )

    def _dynamic_slice(self, node: Node, at: Indices) -> Element:
        x, *starts = node.inputs
        first = self.starts(starts, x.shape, node.output.shape)
        return self.element(x, tuple(i + j for i, j in zip(at, first, strict=True)))

    def _dynamic_update(self, node: Node, at: Indices) -> Element:
        x, update, *starts = node.inputs
        if 0 in update.shape:
            return self.element(x, at)
        first = self.starts(starts, x.shape, update.shape)
        local = [i - j for i, j in zip(at, first, strict=True)]
        ends = [size - 1 for size in update.shape]
        inside = tuple((i, 0, end, 1) for i, end in zip(local, ends, strict=True))
        near = tuple(i.clamp(0, end) for i, end in zip(local, ends, strict=True))
        replaced = self.element(update, near)
        return select(self._all(inside), replaced, self.element(x, at))

    def clamped(self, picked: Element, last: int) -> Index:
        """A loaded index as an index in 0 ... last."""
        if picked.number is not None:
            return ix.number(min(max(int(picked.number), 0), last))
        key = ("picked", picked.key, last)
        found = self.nest.find(key)
        if found is None:
            m = Math(self.nest, picked.dtype)
            wide = picked if picked.dtype.bits >= 32 else m.cast(picked, i64)
            m = Math(self.nest, wide.dtype)
            near = m.minimum(m.maximum(wide, m.const(0)), m.const(last))
            variable = self.nest.bind(near.expr.astype("int32"), near.level, "picked")
            found = self.nest.variable(variable, 0, last, near.level)
            self.nest.remember(key, near.level, found)
        return found

    def _iota(self, node: Node, at: Indices) -> Element:
        return position(self.nest, at[node.attrs["axis"]], node.output.dtype)

    def _rng_bits(self, node: Node, at: Indices) -> Element:
        words = int(node.inputs[0].shape[0])
        key = [self.element(node.inputs[0], (ix.number(i),)) for i in range(words)]
        flat = ix.linearize(at, node.output.shape)
        counter = position(self.nest, flat, u32)
        stream = key[2] if words > 2 else constant(self.nest, u32, 0)
        return threefry2x32(key[0], key[1], counter, stream)[0]

    def _constant(self, node: Node, at: Indices) -> Element:
        array = node.attrs["value"]
        if array.size != 1:
            raise LoweringError(f"kernel: a constant of {array.size} elements must be an input")
        return constant(self.nest, node.output.dtype, array.reshape(())[()])

    def _dimension_size(self, node: Node, at: Indices) -> Element:
        size = node.inputs[0].shape[node.attrs["axis"]]
        return constant(self.nest, node.output.dtype, size)


def _both(a: Element, b: Element) -> Element:
    return b if a.number else a & b


def _as_computed(x: Element) -> Element:
    """f16 and bf16 as f32, which they are carried as."""
    return x.plain(f32 if x.dtype in (f16, bf16) else None)


def as_stored(x: Element, value: Value) -> Element:
    """The result of a formula as an element of the dtype of `value`."""
    if x.dtype in (f16, bf16):  # of a cast, which has rounded it
        return x
    return rounded(x.plain()) if x.dtype == value.dtype else cast(x.plain(), value.dtype)


# Each result is one of the operands but for its sign, so it needs no rounding.
_PICKS = frozenset({"neg", "abs", "relu", "maximum", "minimum", "select", "stop_gradient"})

_SPECIAL: dict[str, Any] = {
    "concat": Evaluator._concat, "gather": Evaluator._gather, "iota": Evaluator._iota,
    "rng_bits": Evaluator._rng_bits, "constant": Evaluator._constant,
    "dimension_size": Evaluator._dimension_size, "take_along": Evaluator._take_along,
    "dynamic_slice": Evaluator._dynamic_slice, "dynamic_update": Evaluator._dynamic_update,
}  # fmt: skip


def loads(outputs: tuple[Value, ...], at: Indices, stop: frozenset[Value]) -> list[Index]:
    """The positions in memory that an element of each output is computed from.

    Walks like an `Evaluator` but makes no expression; loaded indices count as constant 0.
    `stop` holds values that are not looked into.
    """
    return [position for _, position in reads(outputs, at, stop)]


def reads(
    outputs: tuple[Value, ...], at: Indices, stop: frozenset[Value] = frozenset()
) -> list[tuple[Value | None, Index]]:
    """As `loads`, with the values that are read; None for an index that is a number itself."""
    found: list[tuple[Value | None, Index]] = []
    own: list[Index] = []
    pending: list[tuple[Value, Indices]] = [(v, at) for v in outputs]
    seen: set[tuple[Value, Indices]] = set()
    while pending:
        value, here = pending.pop()
        if (value, here) in seen or 0 in value.shape:
            continue
        seen.add((value, here))
        node = value.node
        if node is None or value in stop:
            found.append((value, ix.linearize(here, value.shape)))
            continue
        pending.extend(_operands(node, here, own))
        found += [(None, index) for index in own]
        own.clear()
    return found


def _operands(node: Node, here: Indices, found: list[Index]) -> list[tuple[Value, Indices]]:
    """The operands' elements that an element of a node needs; notes its own use of `here`."""
    moved = source(node, here)
    if moved is not None:
        found.extend(index for index, *_ in moved.inside)
        return [] if moved.is_outside else [(moved.value, moved.indices)]
    if node.op.name == "concat":
        found.append(here[node.attrs["axis"]])
        return [(part.value, part.indices) for part, _ in concat_parts(node, here)]
    if node.op.name in READ_AT_COMPUTED:
        return _computed_operands(node, here)
    if node.op.name == "iota":
        found.append(here[node.attrs["axis"]])
        return []
    if node.op.name == "rng_bits":
        found.append(ix.linearize(here, node.output.shape))
        return []
    if node.op.kind in ("constant",) or node.op.name == "dimension_size":
        return []
    return [(v, here) for v in node.inputs]


def _computed_operands(node: Node, here: Indices) -> list[tuple[Value, Indices]]:
    """As `_operands`, with 0 for what is known only when the code runs."""
    x, other, *_ = (*node.inputs, None)
    if node.op.name == "gather":
        axis = node.attrs["axis"]
        end = axis + other.ndim
        return [(other, here[axis:end]), (x, (*here[:axis], ix.ZERO, *here[end:]))]
    if node.op.name == "take_along":
        axis = node.attrs["axis"]
        return [(other, here), (x, (*here[:axis], ix.ZERO, *here[axis + 1 :]))]
    if node.op.name == "dynamic_slice":
        return [(x, here), *((start, ()) for start in node.inputs[1:])]
    inner = tuple(i.clamp(0, max(size - 1, 0)) for i, size in zip(here, other.shape, strict=True))
    return [(x, here), (other, inner), *((start, ()) for start in node.inputs[2:])]
