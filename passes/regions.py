"""Regions: make the bodies of scan, while and cond small, and run nothing twice.

    %last, %ys = scan[carry=2, stacked=1, length=N](%a, %b, %xs, %w, %one, %unused)
    body(%a, %b, %x, %w, %one, %unused) {     # %one is a constant, %b is returned as it came
      %0 = exp(%w)                            # the same in every step
      ...
    ->
    %0 = exp(%w)
    %last, %ys = scan[carry=1, stacked=1, length=N](%a, %xs, %b, %0)

What is done, by name:

- `unused`: outputs that nobody reads, and the carries, operands and code that only they needed,
  are dropped. This is what a frozen weight's gradient and what it stored vanish by.
- `steady-carry`: a carry that every step returns as it came becomes a shared operand.
- `equal-carries`: carries that begin equal and go on equally are one.
- `equal-operands`, `equal-outputs`: what comes in or goes out twice does so once.
- `outside-output`: an output that an operand already is, or a repetition of one.
- `stacked-broadcast`: a stacked operand whose slices are all the same becomes a shared one.
- `sink-constant`: a constant becomes part of the body, repeated numbers of any size.
- `hoist`: what is the same in every step is computed before the loop.
- `merge`: loops over the same operands with the same carries become one, as does a `cond` with
  another of the same predicate; so the scan that a gradient emits, to store what it reads, melts
  into the scan that is there.
- `no-steps`, `one-step`, `never-runs`: loops of known, small length.
- `known-branch`, `equal-branches`: a cond without a choice.
- `hoist-product`, `sink-sum`, if asked for: products for all steps at once (`vectorize.py`).

Bodies have been through the pass before the graph around them: the pipeline sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..ir.graph import Graph, Node, Value
from ..ir.rewrite import Refusal, Report, current_budget
from .loops import Branches, take_apart
from .merging import merge
from .region_rules import BRANCH_RULES, INLINED, LOOP_RULES
from .vectorize import VECTORIZE_RULES

ROUNDS = 8
"""More rounds than it takes for one rewrite to show the next."""


@dataclass(frozen=True)
class Regions:
    """Simplify region nodes and merge them.

    Attributes
    ----------
    elements : int
        Constants of at most so many elements are sunk; larger ones stay outside, once.
    products : bool
        Whether products leave loops: when loops are merged and bodies simplified.
    """

    elements: int = 256
    products: bool = False
    name: str = "regions"

    def run(self, graph: Graph) -> Graph:
        return self.rewrite(graph)[0]

    def rewrite(self, graph: Graph) -> tuple[Graph, Report]:
        """The graph, and what was done or refused."""
        report = Report(budget=current_budget())
        return _rewritten(graph, self, report), report


def _rewritten(graph: Graph, regions: Regions, report: Report) -> Graph:
    for _ in range(ROUNDS):
        if not any(node.op.kind == "region" for node in graph.nodes):
            break
        before = sum(report.fired.values())
        graph = _Round(graph, regions, report).run()
        report.sweeps += 1
        if sum(report.fired.values()) == before:
            break
    return graph


class _Round:
    """One visit to every region node, operands first; also what the rules ask and tell."""

    def __init__(self, graph: Graph, regions: Regions, report: Report) -> None:
        self.regions, self.report = regions, report
        self.elements = regions.elements
        self.loop_rules = LOOP_RULES | (VECTORIZE_RULES if regions.products else {})
        self.graph = merge(graph, self.fires, self.refuse)
        self.live = live_outputs(self.graph)

    def run(self) -> Graph:
        return self.graph.rebuild(self.visit)

    def fires(self, rule: str, node: Node, attempt: Callable[[], Any]) -> Any:
        """What a rule makes of a node, if it makes anything and the budget allows it."""
        if self.report.budget.is_spent or not (result := attempt()):
            return None
        self.report.fired[rule] += 1
        self.report.budget.spend(rule, node, node.outputs)
        return result

    def refuse(self, rule: str, node: Node, reason: str) -> None:
        """Note why a rule did not fire."""
        self.report.refusals[Refusal(rule, node, reason)] = None

    def visit(self, node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        if node not in self.live:
            return None
        for rule, inline in INLINED.items():
            outputs = self.fires(rule, node, partial(inline, node, inputs))
            if outputs:
                return list(outputs)
        region = take_apart(node, inputs)
        live = self.live[node]
        changed = bool(self.fires("unused", node, partial(region.keep, live)))
        rules: dict[str, Any] = BRANCH_RULES if isinstance(region, Branches) else self.loop_rules
        for rule, edit in rules.items():
            changed |= bool(self.fires(rule, node, partial(edit, region, self)))
        if not changed:
            return None
        region.keep(live)
        return region.emit(lambda body: _rewritten(body, self.regions, self.report))


def live_outputs(graph: Graph) -> dict[Node, list[int]]:
    """The outputs of region nodes that results depend on, and nodes that have none left out.

    What only feeds an operand that its region then drops counts as unused.
    """
    needed = set(graph.results)
    live: dict[Node, list[int]] = {}
    for node in reversed(graph.nodes):
        outputs = [i for i, v in enumerate(node.outputs) if v in needed]
        if outputs and node.op.kind == "region":
            live[node] = outputs
            region = take_apart(node, node.inputs)
            region.keep(outputs)
            needed.update(region.reads)
        elif outputs:
            needed.update(node.inputs)
    return live
