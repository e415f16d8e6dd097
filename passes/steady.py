"""What stays the same from call to call: values of weights and constants alone.

A step of a prediction computes much of its weights alone: casts to bf16, the scales of batch
normalizations, tables of positions. As long as no weight changes these values do not, so a plan
computes them in its first calls (`Plan.preparing`) and keeps what the rest reads:

    %0 = cast[dtype=bf16](%w)        prepared: %0, kept in prepared+0
    %1 = matmul(%x, %0)              each call: %1

An array of one number is made anew in each call, if nothing that is kept reads it: to write it
takes no longer than to copy it, and what begins as it (the gradient of an embedding, a recurrent
state) is computed over it.

A state that the graph updates is not steady, and what an output or a new state shows is computed in
each call, for it lies in memory that is not the plan's.
"""

from __future__ import annotations

from ..ir.graph import Graph, Node, Value
from .outline import BARRIER, VIEWS, is_scalar_constant


def steady_parameters(graph: Graph) -> frozenset[Value]:
    """The state that the graph does not update."""
    return frozenset(graph.state) - {old for old, _ in graph.updates}


def steady_values(graph: Graph) -> frozenset[Value]:
    """What nodes compute of steady state and constants alone, the constants included."""
    shown = _results(graph)
    known = set(steady_parameters(graph))
    found: set[Value] = set()
    for node in graph.nodes:
        if node not in shown and node.op.name != BARRIER and known.issuperset(node.inputs):
            known.update(node.outputs)
            found.update(node.outputs)
    read = {v for node in graph.nodes if found.issuperset(node.outputs) for v in node.inputs}
    return frozenset(v for v in found if v in read or not _is_uniform(v))


def _is_uniform(value: Value) -> bool:
    """Whether one constant fills the whole array."""
    node = value.node
    return node is not None and node.op.name == "broadcast" and is_scalar_constant(node.inputs[0])


def _results(graph: Graph) -> set[Node]:
    """The nodes whose values are outputs or new states, or are what these are views of."""
    found: set[Node] = set()
    for value in graph.results:
        node = value.node
        while node is not None and node not in found and not value.is_constant:
            found.add(node)
            node = node.inputs[0].node if node.op.name in VIEWS else None
    return found
