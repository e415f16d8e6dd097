"""Batches: independent pointwise computations of arrays of any sizes in one kernel.

The update of a bias or of a small kernel by Adam is too little work for several threads, and a
model has dozens of them. As the parts of one batch they share one parallel loop:

    kernel pointwise_update(%w1, %g1, ...)  f32[3,3,16,16]        kernel batch_update(
    kernel pointwise_update(%w2, %g2, ...)  f32[64,10]      ->        %w1, %g1, ..., %w2, %g2, ...)

A part is what shares an array: only scalars are read by several parts.
"""

from __future__ import annotations

from ..ir.graph import Graph, Value


def parts_of(body: Graph) -> list[Graph]:
    """The parts of a batch: graphs of the same nodes and operands as the body."""
    groups: list[tuple[dict[Value, None], set[Value]]] = []
    for output in dict.fromkeys(body.outputs):
        mine, seen = {output: None}, _arrays(output, set(body.outputs))
        apart = []
        for outputs, arrays in groups:
            if arrays.isdisjoint(seen):
                apart.append((outputs, arrays))
            else:
                mine = {**outputs, **mine}
                seen |= arrays
        groups = [*apart, (mine, seen)]
    return [_part(body, list(outputs)) for outputs, _ in groups]


def _arrays(output: Value, outputs: set[Value]) -> set[Value]:
    """The operands and outputs of more than one element that an output is made of."""
    found: set[Value] = set()
    stack, seen = [output], set[Value]()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.type.size != 1 and (value.node is None or value in outputs):
            found.add(value)
        stack += value.node.inputs if value.node else ()
    return found


def _part(body: Graph, outputs: list[Value]) -> Graph:
    read = set(outputs)
    for node in reversed(body.nodes):
        if not read.isdisjoint(node.outputs):
            read.update(node.inputs)
    inputs = tuple(v for v in body.inputs if v in read)
    return Graph.make(body.name, inputs, (), {f"r{i}": v for i, v in enumerate(outputs)})
