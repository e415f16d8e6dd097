"""Patterns of the rewrite engine: what a rule looks for, as data, and how it fits a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ArgumentError
from .graph import Node, Value
from .op import REGISTRY

COMMUTATIVE = frozenset({
    "add", "mul", "maximum", "minimum", "logical_and", "logical_or", "bit_and", "bit_or",
    "bit_xor", "equal", "not_equal",
})  # fmt: skip
"""Ops whose two operands a pattern may meet in either order."""

Bindings = dict[str, Any]


@dataclass(frozen=True)
class Variable:
    """Stands for any value or attribute, the same one wherever it appears."""

    name: str


@dataclass(frozen=True)
class OpPattern:
    """A node of one of `ops`, with patterns for its operands and attributes."""

    ops: tuple[str, ...]
    operands: tuple[Any, ...]
    attrs: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return "|".join(self.ops)


@dataclass(frozen=True)
class ConstPattern:
    """One number: a constant whose elements are all equal, however it is broadcast or shaped."""

    value: Any

    def __str__(self) -> str:
        return "a constant number"


@dataclass(frozen=True)
class ArrayPattern:
    """A `constant` node; binds its array."""

    value: Any

    def __str__(self) -> str:
        return "a constant array"


class PatternBuilder:
    """`p` of a pattern: `p.<op>(operands, attribute=...)` and what stands below."""

    def __getattr__(self, op: str) -> Callable[..., OpPattern]:
        def build(*operands: Any, **attrs: Any) -> OpPattern:
            return self.any((op,), *operands, **attrs)

        return build

    def any(self, ops: Sequence[str], *operands: Any, **attrs: Any) -> OpPattern:
        """A node of any of these ops; ask for `out` to see which it was."""
        for op in ops:
            if op not in REGISTRY:
                raise ArgumentError(f"pattern: no op is named {op!r}")
        return OpPattern(tuple(ops), operands, tuple(attrs.items()))

    def const(self, value: Any) -> ConstPattern:
        """One repeated number, bound to a variable or equal to a given number."""
        return ConstPattern(value)

    def array(self, value: Any) -> ArrayPattern:
        """A constant of any shape."""
        return ArrayPattern(value)


def number_of(value: Value) -> Any:
    """The one number that the value repeats, as a NumPy scalar; None if it is not such a value."""
    node = value.node
    while node is not None and node.op.name in ("broadcast", "reshape"):
        node = node.inputs[0].node
    if node is None or node.op.name != "constant":
        return None
    array = np.asarray(node.attrs["value"])
    if array.size == 0 or (array.size > 1 and not _uniform(array)):
        return None
    return array.reshape(-1)[0]


def _uniform(array: np.ndarray) -> bool:
    """Whether all elements have the same bits (so 0.0 and -0.0 differ)."""
    first = array.reshape(-1)[0]
    return bool(array.tobytes() == first.tobytes() * array.size)


@dataclass(frozen=True)
class Mismatch:
    """Why a pattern does not fit; `depth` says how far it fitted."""

    words: tuple[object, ...]  # joined only when somebody asks: most matches fail
    depth: int

    @property
    def reason(self) -> str:
        return "".join(map(str, self.words))


@dataclass(frozen=True)
class Match:
    """What the variables stand for, and the nodes that the pattern covers, the root first."""

    bindings: Bindings
    nodes: tuple[Node, ...]


def match(pattern: OpPattern, node: Node) -> Match | Mismatch:
    """Fit a pattern to a node and what it is computed from."""
    state = _Matching()
    for bindings, nodes in state.node(pattern, node, {}, 0):
        return Match(bindings, tuple(nodes))
    return state.best


def may_match(pattern: OpPattern, node: Node) -> bool:
    """A quick look at the operands that rules out most nodes before `match` is asked."""
    patterns, values = pattern.operands, node.inputs
    if len(patterns) != len(values):
        return False
    if all(map(_may_be, patterns, values)):
        return True
    return node.op.name in COMMUTATIVE and all(map(_may_be, patterns, values[::-1]))


def _may_be(pattern: Any, value: Value) -> bool:
    if isinstance(pattern, Variable):
        return True
    if value.node is None:
        return False
    if isinstance(pattern, OpPattern):
        return value.node.op.name in pattern.ops
    return value.node.op.name in ("constant", "broadcast", "reshape")


class _Matching:
    """Backtracking over the orders of commutative operands."""

    def __init__(self) -> None:
        self.best = Mismatch(("nothing was tried",), -1)

    def fail(self, depth: int, *words: object) -> None:
        if depth > self.best.depth:
            self.best = Mismatch(words, depth)

    def node(
        self, pattern: OpPattern, node: Node, bound: Bindings, depth: int
    ) -> Iterator[tuple[Bindings, list[Node]]]:
        if node.op.name not in pattern.ops:
            self.fail(depth, "found ", node.op.name, " where ", pattern, " was looked for")
            return
        for name, expected in pattern.attrs:
            if name not in node.attrs:
                self.fail(depth, node.op.name, " states no ", name)
                return
            found = self.bind(expected, node.attrs[name], bound, f"{node.op.name}.{name}", depth)
            if found is None:
                return
            bound = found
        orders = [node.inputs]
        if node.op.name in COMMUTATIVE and node.inputs[0] is not node.inputs[1]:
            orders.append(node.inputs[::-1])
        for operands in orders:
            if len(operands) != len(pattern.operands):
                self.fail(depth, node.op.name, " has ", len(operands), " operands")
                continue
            for result, inner in self.operands(pattern.operands, operands, bound, depth + 1):
                yield result, [node, *inner]

    def operands(
        self, patterns: Sequence[Any], values: Sequence[Value], bound: Bindings, depth: int
    ) -> Iterator[tuple[Bindings, list[Node]]]:
        if not patterns:
            yield bound, []
            return
        for found, nodes in self.value(patterns[0], values[0], bound, depth):
            for result, more in self.operands(patterns[1:], values[1:], found, depth):
                yield result, [*nodes, *more]

    def value(
        self, pattern: Any, value: Value, bound: Bindings, depth: int
    ) -> Iterator[tuple[Bindings, list[Node]]]:
        if isinstance(pattern, OpPattern):
            if value.node is None or len(value.node.outputs) != 1:
                self.fail(depth, "found ", value, " where ", pattern, " was looked for")
            else:
                yield from self.node(pattern, value.node, bound, depth)
            return
        content: Any = value
        if isinstance(pattern, ConstPattern | ArrayPattern):
            content = number_of(value) if isinstance(pattern, ConstPattern) else value.constant
            if content is None:
                self.fail(depth, "found ", value, " where ", pattern, " was looked for")
                return
            pattern = pattern.value
        found = self.bind(pattern, content, bound, value, depth)
        if found is not None:
            yield found, []

    def bind(
        self, pattern: Any, content: Any, bound: Bindings, what: object, depth: int
    ) -> Bindings | None:
        if isinstance(pattern, Variable):
            if pattern.name not in bound:
                return {**bound, pattern.name: content}
            pattern = bound[pattern.name]
        if _same(pattern, content):
            return bound
        self.fail(depth, what, " is ", content, ", not ", pattern)
        return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Value) or isinstance(b, Value):
        return a is b
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)
