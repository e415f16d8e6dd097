"""Merging region nodes that run the same steps, or hang on the same predicate, into one.

    %h, %ys = scan[carry=1](%h0, %xs, %w)           %h, %ys, %kept = scan[carry=1](%h0, %xs, %w)
    %g, %kept = scan[carry=1](%h0, %xs, %w)    ->
    ... %g ...                                      ... %h ...

The first is a layer, the second what its gradient emits to store what it will read. Two loops are
merged if one reads nothing that the other does not, none reads what the other gives, and the
carries of one are carries of the other: they begin equal, and a step keeps them equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..ir.builder import emit
from ..ir.graph import Graph, Node, Value, reachable, same
from .loops import Branches, Loop, Stack, take_apart
from .region_rules import equal_branch_operands, equal_carries, equal_operands

Fires = Callable[[str, Node, Callable[[], Any]], Any]
Refuse = Callable[[str, Node, str], None]


def merge(graph: Graph, fires: Fires, refuse: Refuse) -> Graph:
    """Merge what may be merged; the reasons of the pairs that may not go to `refuse`."""
    groups: dict[Node, list[Node]] = {}
    waiting: list[tuple[Node, Node]] = []
    place = {node: i for i, node in enumerate(graph.nodes)}
    for first, second in _pairs(graph, groups):
        if any(v.node is not None and place[v.node] >= place[first] for v in second.inputs):
            waiting.append((first, second))
        elif _allowed(_merged([*groups.get(first, [first]), second]), second, fires, refuse):
            groups.setdefault(first, [first]).append(second)
    graph = _with(graph, groups) if groups else graph
    for first, second in waiting:
        if first in graph.nodes and second in graph.nodes:
            graph = _moved(graph, first, second, fires, refuse)
    return graph


def _allowed(region: Loop | Branches | str, node: Node, fires: Fires, refuse: Refuse) -> bool:
    if isinstance(region, str):
        refuse("merge", node, region)
        return False
    return bool(fires("merge", node, partial(bool, True)))


def _moved(graph: Graph, first: Node, second: Node, fires: Fires, refuse: Refuse) -> Graph:
    """The two merged, behind what the second needs, if that needs nothing of the first."""
    before = reachable([*first.inputs, *second.inputs])
    if first in before:
        refuse("merge", second, f"it reads what the other {first.op.name} gives")
    elif _allowed(_merged([first, second]), second, fires, refuse):
        done = {*before, first, second}
        rest = (node for node in graph.nodes if node not in done)
        graph = replace(graph, nodes=(*before, first, second, *rest))
        return _with(graph, {first: [first, second]})
    return graph


def _pairs(graph: Graph, groups: Mapping[Node, list[Node]]) -> Iterator[tuple[Node, Node]]:
    """Nodes of one op that run the same number of steps, or on the same predicate, where one
    reads all that the other reads. A node that got into a group makes no more pairs."""
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
                if node in groups.get(other, ()):
                    break
        else:
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


def _merged(nodes: Sequence[Node]) -> Loop | Branches | str:
    """The region that does what all do, or the reason why there is none."""
    total = take_apart(nodes[0], nodes[0].inputs)
    for node in nodes[1:]:
        other = take_apart(node, node.inputs).renamed()
        if isinstance(total, Loop) and isinstance(other, Loop):
            found = _merged_loops(total, other)
            if isinstance(found, str):
                return found
            total = found
        else:
            assert isinstance(total, Branches)
            assert isinstance(other, Branches)
            total = Branches(
                total.node, total.predicate, [*total.operands, *other.operands],
                [*total.outputs, *other.outputs], [*total.results, *other.results],
                [*total.replaces, *other.replaces],
            )  # fmt: skip
            equal_branch_operands(total)
    return total


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


def _with(graph: Graph, groups: Mapping[Node, Sequence[Node]]) -> Graph:
    """The graph with one node in the place of the first of each group."""
    new: dict[Value, Value] = {}
    members = {node for group in groups.values() for node in group[1:]}

    def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        if node in members:
            return [new[v] for v in node.outputs]
        if node in groups:
            group = groups[node]
            region = _merged(group)
            assert not isinstance(region, str)
            region.read_from(new)
            outputs: Sequence[Value] = region.emit(lambda body: body)
            new.update(zip((v for each in group for v in each.outputs), outputs, strict=True))
            return outputs[: len(node.outputs)]
        if same(inputs, node.inputs):
            return None
        outputs = emit(node.op, inputs, node.attrs)
        new.update(zip(node.outputs, outputs, strict=True))
        return outputs

    return graph.rebuild(visit)
