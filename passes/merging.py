"""Merging region nodes that run the same steps, or hang on the same predicate, into one.

    %h, %ys = scan[carry=1](%h0, %xs, %w)           %h, %ys, %kept = scan[carry=1](%h0, %xs, %w)
    %g, %kept = scan[carry=1](%h0, %xs, %w)    ->
    ... %g ...                                      ... %h ...

The first is a layer, the second what its gradient emits to store what it will read. Two loops are
merged if one reads nothing that the other does not, none reads what the other gives, and the
carries of one are carries of the other: they begin equal, and a step keeps them equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..ir.graph import Graph, Node, Value, reachable
from .loops import Branches, Loop, Stack, take_apart
from .region_rules import equal_branch_operands, equal_carries, equal_operands

Fires = Callable[[str, Node, Callable[[], Any]], Any]
Refuse = Callable[[str, Node, str], None]


def merge(graph: Graph, fires: Fires, refuse: Refuse) -> Graph:
    """Merge what may be merged; the reasons of the pairs that may not go to `refuse`."""
    refused: set[tuple[Node, Node]] = set()
    while True:
        for first, second in _pairs(graph):
            if (first, second) in refused:
                continue
            region = _merged(first, second)
            if isinstance(region, str):
                refuse("merge", second, region)
            elif fires("merge", second, partial(bool, True)):
                graph = _with(graph, first, second, region)
                break
            refused.add((first, second))
        else:
            return graph


def _pairs(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Nodes of one op that run the same number of steps, or on the same predicate, where one
    reads all that the other reads."""
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        if node.op.kind != "region":
            continue
        reads = set(node.inputs)
        near = dict.fromkeys(n for v in reads for n in readers.get(v, ()))
        for other in near:
            theirs = set(other.inputs)
            if _fit(other, node) and (reads <= theirs or theirs <= reads):
                yield other, node
        for v in reads:
            readers.setdefault(v, []).append(node)


def _fit(first: Node, second: Node) -> bool:
    if first.op is not second.op:
        return False
    if first.op.name == "cond":
        return first.inputs[0] is second.inputs[0]
    return all(
        first.attrs.get(k, default) == second.attrs.get(k, default)
        for k, default in (("length", None), ("reverse", False))
    )


def _merged(first: Node, second: Node) -> Loop | Branches | str:
    """The region that does what both do, or the reason why there is none."""
    if first in reachable(second.inputs):
        return f"it reads what the other {first.op.name} gives"
    one = take_apart(first, first.inputs)
    other = take_apart(second, second.inputs).renamed()
    if isinstance(one, Loop) and isinstance(other, Loop):
        return _merged_loops(one, other)
    assert isinstance(one, Branches)
    assert isinstance(other, Branches)
    both = Branches(one.node, one.predicate, [*one.operands, *other.operands],
                    [*one.outputs, *other.outputs], [*one.results, *other.results],
                    [*one.replaces, *other.replaces])  # fmt: skip
    equal_branch_operands(both)
    return both


def _merged_loops(one: Loop, other: Loop) -> Loop | str:
    conditions = [Stack(each.condition) for each in (one, other) if each.condition is not None]
    most = max(len(one.carries), len(other.carries))
    both = Loop(
        one.node, [*one.carries, *other.carries], [*one.sliced, *other.sliced],
        [*one.shared, *other.shared], [*one.stacks, *other.stacks, *conditions], one.condition,
        [*one.results, *other.results], [*one.replaces, *other.replaces],
    )  # fmt: skip
    equal_operands(both)
    equal_carries(both)
    if len(both.carries) > most:
        return f"only {len(one.carries) + len(other.carries) - len(both.carries)} carries are equal"
    if len({c.value for c in conditions}) > 1:
        return "the conditions differ"
    both.stacks = [s for s in both.stacks if s not in conditions]
    return both


def _with(graph: Graph, first: Node, second: Node, region: Loop | Branches) -> Graph:
    """The graph with one node in place of two."""
    before = reachable([*first.inputs, *second.inputs])
    done = {*before, first, second}
    order = (*before, first, second, *(node for node in graph.nodes if node not in done))
    outputs: list[Value] = []

    def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        if node is first:
            outputs.extend(region.emit(lambda body: body))
            return outputs[: len(first.outputs)]
        return outputs[len(first.outputs) :] if node is second else None

    return replace(graph, nodes=order).rebuild(visit)
