"""Derivatives of activations are computed with the activation, in the epilogue of one product.

The gradient of a GELU needs `x`, the product before it, for its derivative `d`:

    forward:   %x = matmul(...)    %y = gelu(%x)          stores %x, %y
    backward:  %g = matmul(...)    %r = mul(%g, d(%x))    loads %x

Where nothing else of the backward half needs `%x`, storing `d` in its place takes as much memory,
`d` shares the dear functions with `y`, and the backward half has a multiplication left.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection

from ..ir.graph import Graph, Node, Value

_ROOTS = frozenset({"matmul"})


def derivatives(
    graph: Graph, stored: Collection[Value], cost: Callable[[Node], int], least: int
) -> list[Value]:
    """Values to store, each in place of the product that it is computed from.

    Parameters
    ----------
    graph : Graph
    stored : collection of Value
        What is stored without that.
    cost : callable
        Simple operations of a node.
    least : int
        What computing a value must cost to be worth it.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    results, found = set(graph.results), []
    for node in graph.nodes:
        if node.op.name in _ROOTS and node.output not in results:
            value = _derivative(graph, node.output, stored, order, (cost, least))
            found += [] if value is None else [value]
    return found


def _derivative(
    graph: Graph,
    root: Value,
    stored: Collection[Value],
    order: dict[Node, int],
    worth: tuple[Callable[[Node], int], int],
) -> Value | None:
    """The one value, computed from a root alone, that is all that later kernels need of it."""
    cost, least = worth
    alone = {root: 0}  # what is computed from the root alone, and what that costs
    needed: dict[Value, None] = {}  # by what is not
    pending = [(order[user], user) for user in graph.users.get(root, ())]
    heapq.heapify(pending)
    last = -1
    while pending:
        number, node = heapq.heappop(pending)
        if number == last:
            continue
        last = number
        operands = [v for v in node.inputs if v in alone]
        if not _stays(node, root, alone):
            needed.update(dict.fromkeys(operands))
            continue
        alone[node.output] = cost(node) + sum(alone[v] for v in operands)
        if node.output not in stored:
            for user in graph.users.get(node.output, ()):
                heapq.heappush(pending, (order[user], user))
    if len(needed) != 1:
        return None
    (value,) = needed
    if value in stored or value.dtype.bits > root.dtype.bits:
        return None
    return value if alone[value] > least else None


def _stays(node: Node, root: Value, alone: Collection[Value]) -> bool:
    """Whether a node computes, for each element of the root, a number from this and constants or
    weights."""
    if node.op.kind != "elementwise" or len(node.outputs) != 1:
        return False
    if node.output.shape != root.shape:
        return False
    return all(v in alone or _is_given(v) for v in node.inputs)


def _is_given(value: Value) -> bool:
    while value.node is not None and value.node.op.name in ("broadcast", "reshape", "cast"):
        value = value.node.inputs[0]
    return value.node is None or value.is_constant
