"""Outlining: turn a group of values into a kernel, and share kernels between equal groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from ..ir.graph import Graph, Node, Value, is_among
from .plan import Call, Kernel

POINTWISE = frozenset({"elementwise", "index", "constant"})
"""Kinds of ops that can be computed one element at a time, anywhere."""


BARRIER = "optimization_barrier"
VIEWS = frozenset({"reshape", "stop_gradient", BARRIER})
"""Ops that show their first operand, and need no computation where that is stored."""


def tokens_of(value: Value) -> Iterator[Value]:
    """What must have been computed before a view may be read."""
    while value.node is not None and value.node.op.name in VIEWS:
        yield from value.node.inputs[1:]
        value = value.node.inputs[0]


def is_scalar_constant(value: Value) -> bool:
    """Constants of one element are written into the kernels that use them."""
    return value.is_constant and value.type.size == 1


def viewed(value: Value) -> Value:
    """What a value is a view of; itself for what is no view."""
    while value.node is not None and value.node.op.name in VIEWS:
        value = value.node.inputs[0]
    return value


def members(outputs: Sequence[Value], borders: Collection[Value]) -> tuple[Node, ...]:
    """The nodes that compute `outputs` from values in `borders`, in running order.

    An output is computed even if it is in `borders`; what has no node is a border too.
    """
    order: dict[Node, None] = {}

    def visit(node: Node) -> None:
        stack = [(node, iter(node.inputs))]
        while stack:
            top, pending = stack[-1]
            for value in pending:
                inner = value.node
                if (
                    inner is not None
                    and inner not in order
                    and (value in own or value not in borders)
                ):
                    stack.append((inner, iter(inner.inputs)))
                    break
            else:
                order.setdefault(top)
                stack.pop()

    own = set(outputs)
    for value in outputs:
        if value.node is not None and value.node not in order:
            visit(value.node)
    return tuple(order)


def accesses(outputs: Iterable[Value], borders: Collection[Value]) -> Iterator[tuple[Value, bool]]:
    """Every border or parameter that computing `outputs` reads, with how it is read.

    True: element i is read only for element i of the outputs. A value that is read both ways
    comes twice. Reshapes keep the order of elements, so they do not count as moving them.
    """
    seen: set[tuple[Value, bool]] = set()
    stack = [(v, True) for v in outputs]
    starts = set(outputs)
    while stack:
        value, aligned = stack.pop()
        if (value, aligned) in seen:
            continue
        seen.add((value, aligned))
        node = value.node
        if (value in borders and value not in starts) or node is None:
            yield value, aligned
            continue
        for operand in node.inputs:
            if not is_scalar_constant(operand):
                stack.append((operand, aligned and _keeps_position(node, operand)))


def _keeps_position(node: Node, operand: Value) -> bool:
    if node.op.kind == "elementwise" or node.op.name in VIEWS:
        return True
    if node.op.name in REPLACES:
        return operand is node.inputs[0] and not is_among(operand, node.inputs[1:])
    return node.op.kind == "index" and operand.type.size == node.output.type.size == 1


REPLACES = frozenset({"dynamic_update", "scatter", "scatter_add", "scatter_add_along"})
"""Ops whose result is the first operand but for some elements, which may stand over it."""


class Outliner:
    """Makes calls; groups that compute the same from operands of the same types share a kernel."""

    def __init__(self) -> None:
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        self._names: dict[str, int] = {}

    def call(self, outputs: Sequence[Value], borders: Collection[Value], root: str) -> Call:
        """The call that computes `outputs` from `borders`, parameters and large constants.

        >>> # outputs: %2, borders: %x, %b
        >>> #   %1 = broadcast[...](%b)          kernel pointwise_add(%p0, %p1) {
        >>> #   %2 = add(%x, %1)             ->    %0 = broadcast[...](%p1)
        >>> #                                      %1 = add(%p0, %0)   return %1 }
        """
        nodes = members(outputs, borders)
        inputs = _operands(nodes)
        key = (root, *_structure(nodes, inputs, outputs))
        kernel = self._kernels.get(key)
        if kernel is None:
            name = self._name(root, nodes)
            kernel = Kernel(name, root, body_of(name, nodes, inputs, outputs))
            self._kernels[key] = kernel
        return Call(kernel, inputs, tuple(outputs))

    def _name(self, root: str, nodes: Sequence[Node]) -> str:
        """`conv_add_maximum`, and a number where that is taken."""
        silent = {root, "constant", "broadcast", "reshape"}
        words = [w for w in dict.fromkeys(n.op.name for n in nodes) if w not in silent]
        base = "_".join([root, *words[:2], *(["etc"] if len(words) > 3 else []), *words[2:][-1:]])
        count = self._names[base] = self._names.get(base, -1) + 1
        return f"{base}_{count}" if count else base


def _operands(nodes: Sequence[Node]) -> tuple[Value, ...]:
    """What the nodes read and do not compute, in the order of first use."""
    computed = {out for node in nodes for out in node.outputs}
    read = dict.fromkeys(v for node in nodes for v in node.inputs)
    return tuple(v for v in read if v not in computed)


def _structure(
    nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]
) -> tuple[Any, ...]:
    """Equal for two groups whose kernels would be equal."""
    number: dict[Value, int] = {v: i for i, v in enumerate(inputs)}
    parts: list[Any] = [tuple(v.type for v in inputs)]
    for node in nodes:
        name, _, attrs = node.key()
        parts.append((name, tuple(number[v] for v in node.inputs), attrs))
        for out in node.outputs:
            number[out] = len(number)
    return (*parts, tuple(number[v] for v in outputs))


def body_of(
    name: str, nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]
) -> Graph:
    """The graph that computes `outputs` of `inputs`, in that order, by copies of `nodes`."""
    new = {v: Value(v.type, name=f"p{i}") for i, v in enumerate(inputs)}
    parameters = tuple(new.values())
    for node in nodes:
        copy = Node(node.op, [new[v] for v in node.inputs], node.attrs, node.source)
        new.update(zip(node.outputs, copy.outputs, strict=True))
    results = {f"r{i}": new[v] for i, v in enumerate(outputs)}
    return Graph.make(name, parameters, (), results)
