"""Rewriting by rules: patterns as data, an engine that checks them, and reasons for refusals.

A rule names what it looks for, when that may be replaced, and by what::

    Rule("mul-one",
         pattern=lambda p, x, c: p.mul(x, p.const(c)),
         where=lambda c: c == 1 or f"the constant is {c}, not 1",
         replace=lambda x: x)

The parameters of `pattern` after `p` are its variables: a name stands for any value, the same
name twice for the same value, and in `name=variable` for an attribute. `where` and `replace` ask
for the variables that they need, and may ask for `out`, the value that is replaced, to read its
type and attributes.

A sweep visits every node once, operands first. Rules that need to know who uses the inner values
of a match see the graph from before the sweep; the others see what it has become.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from .errors import ArgumentError, VerifyError
from .graph import Graph, Node, Value
from .pattern import (
    Bindings,
    Match,
    Mismatch,
    OpPattern,
    PatternBuilder,
    Variable,
    match,
    may_match,
)
from .settings import current_settings

SWEEPS = 24
"""More sweeps over a graph than rules that make progress ever need."""


@dataclass(frozen=True)
class Rule:
    """One rewrite.

    Attributes
    ----------
    name : str
    pattern : callable
        `pattern(p, *variables)` -> the pattern of the root; called once.
    replace : callable
        `replace(**variables)` -> a Value, or a tuple for several outputs; emits IR.
    where : callable, optional
        `where(**variables)` -> True, or the reason in words why this match is refused.
    keeps_inner : bool
        The rule is a gain even if inner values of the pattern are used elsewhere too. By default
        such a match is refused, since the inner nodes would stay.
    """

    name: str
    pattern: Callable[..., OpPattern]
    replace: Callable[..., Value]
    where: Callable[..., bool | str] | None = None
    keeps_inner: bool = False

    @cached_property
    def root(self) -> OpPattern:
        """The pattern, built."""
        names = list(inspect.signature(self.pattern).parameters)[1:]
        return self.pattern(PatternBuilder(), *map(Variable, names))

    def __str__(self) -> str:
        return self.name


def _call(function: Callable[..., Any], bindings: Bindings) -> Any:
    return function(**{name: bindings[name] for name in _parameters(function)})


@lru_cache(maxsize=1024)
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


@dataclass(frozen=True, eq=False)
class Rewrite:
    """One change of a graph: by which rule, and the node that it took away."""

    rule: str
    before: Node
    after: tuple[Value, ...]

    def __str__(self) -> str:
        return f"{self.rule}: {shown(self.before.outputs)}  ->  {shown(self.after)}"


def shown(values: Sequence[Value]) -> str:
    """The expressions that compute the values, their operands and theirs included."""
    return ", ".join(_shown(v, 3) for v in values)


def _shown(value: Value, depth: int) -> str:
    node = value.node
    if node is None:
        return f"%{value.name}: {value.type}"
    if depth == 0:
        return f"...: {value.type}"
    attrs = ", ".join(
        f"{k}={v.shape if isinstance(v, np.ndarray) and v.size > 8 else v}"
        for k, v in node.attrs.items()
        if k not in node.regions
    )
    operands = ", ".join(_shown(v, depth - 1) for v in node.inputs)
    return f"{node.op.name}{f'[{attrs}]' if attrs else ''}({operands}): {value.type}"


@dataclass
class Budget:
    """How many rewrites the passes of a pipeline may make together; the last one is kept, and
    the one that is being made."""

    limit: int | None = None
    spent: int = 0
    last: Rewrite | None = None
    trying: Rewrite | None = None

    @property
    def is_spent(self) -> bool:
        return self.limit is not None and self.spent >= self.limit

    def spend(self, rule: str, before: Node, after: Sequence[Value]) -> None:
        """Count a rewrite."""
        self.spent += 1
        self.trying, self.last = None, Rewrite(rule, before, tuple(after))

    def begin(self, rule: str, before: Node) -> None:
        """Say what is tried now, in case it fails."""
        self.trying = Rewrite(rule, before, ())


_budget: ContextVar[Budget | None] = ContextVar("hornfels_budget", default=None)


def current_budget() -> Budget:
    """The budget in force; outside of a pipeline one of `rewrite_limit` rewrites."""
    return _budget.get() or Budget(current_settings().rewrite_limit)


@contextmanager
def spending(budget: Budget) -> Iterator[Budget]:
    """Inside, passes count their rewrites in `budget` and make none that it does not allow."""
    token = _budget.set(budget)
    try:
        yield budget
    finally:
        _budget.reset(token)


@dataclass(frozen=True)
class Refusal:
    """A match that was not taken."""

    rule: str
    node: Node
    reason: str

    def __str__(self) -> str:
        return f"at {_label(self.node)}: {self.reason}"


@dataclass
class Report:
    """What a run of the engine did."""

    fired: Counter[str] = field(default_factory=Counter)
    refusals: dict[Refusal, None] = field(default_factory=dict)
    sweeps: int = 0
    budget: Budget = field(default_factory=Budget)

    @staticmethod
    def of(reports: Sequence[Report]) -> Report:
        """One report on what several runs did together."""
        total = Report(budget=reports[-1].budget)
        for each in reports:
            total.fired += each.fired
            total.refusals |= each.refusals
            total.sweeps = max(total.sweeps, each.sweeps)
        return total

    def why_not(self, rule: str) -> list[str]:
        """The reasons why matches of a rule were refused."""
        return list(dict.fromkeys(str(r) for r in self.refusals if r.rule == rule))

    def __str__(self) -> str:
        lines = [f"{count:5} x {name}" for name, count in self.fired.most_common()]
        lines += dict.fromkeys(f"refused {r.rule} {r}" for r in self.refusals)
        return "\n".join([f"{sum(self.fired.values())} rewrites in {self.sweeps} sweeps", *lines])


class Rewriter:
    """Applies rules until none fires.

    Parameters
    ----------
    rules : sequence of Rule
        Tried in order at every node; the first that fits is applied.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        names = [rule.name for rule in rules]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise ArgumentError(f"rewrite: two rules are named {', '.join(repeated)}")
        self.by_op: dict[str, list[Rule]] = {}
        for rule in rules:
            for op in rule.root.ops:
                self.by_op.setdefault(op, []).append(rule)
        self._chosen: dict[tuple[Any, ...], tuple[Rule, ...]] = {}

    def run(self, graph: Graph) -> tuple[Graph, Report]:
        """The rewritten graph, and what was done."""
        report = Report(budget=current_budget())
        matches: Matches = {}
        for _ in range(SWEEPS):
            before = sum(report.fired.values())
            graph = self._sweep(graph, report, matches)
            report.sweeps += 1
            if sum(report.fired.values()) == before:
                return graph, report
        raise VerifyError(
            f"graph {graph.name}: rules keep undoing each other after {SWEEPS} sweeps: "
            f"{dict(report.fired)}"
        )

    def _sweep(self, graph: Graph, report: Report, matches: Matches) -> Graph:
        sweep = _Sweep(graph, set(graph.results), report, matches)

        def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
            changed = any(v is not w for v, w in zip(inputs, node.inputs, strict=True))
            now = node.reading(inputs) if changed else node
            outputs = self._first_fit(sweep, node, now)
            for _ in range(SWEEPS):  # a rule's result may be what the next one looks for
                if outputs is now.outputs or len(outputs) > 1 or not sweep.is_new(outputs[0]):
                    break
                root = outputs[0].node
                assert root is not None
                now = root
                outputs = self._first_fit(sweep, None, now)
            sweep.replaced.update(zip(node.outputs, outputs, strict=True))
            sweep.visited.update(outputs)
            return None if outputs is node.outputs else outputs

        return graph.rebuild(visit)

    def _first_fit(self, sweep: _Sweep, before: Node | None, now: Node) -> tuple[Value, ...]:
        """What the first rule that fits makes of a node; its own outputs if none does.

        Rules that ask who else uses inner values look at the node as it was `before` the sweep,
        when that was known. The others look at it as it is `now`, so that a chain of rewrites
        takes one sweep.
        """
        report = sweep.report
        for rule in () if report.budget.is_spent else self._candidates(before, now):
            node = now if rule.keeps_inner else before
            assert node is not None
            found = sweep.match(rule, node)
            if found is None:
                continue
            reason = _refusal(rule, found, sweep.graph, sweep.results)
            if reason:
                report.refusals[Refusal(rule.name, node, reason)] = None
                continue
            report.budget.begin(rule.name, node)
            outputs = _replace(rule, found, node, {} if node is now else sweep.replaced)
            report.fired[rule.name] += 1
            report.budget.spend(rule.name, node, outputs)
            return outputs
        return now.outputs

    def _candidates(self, before: Node | None, now: Node) -> tuple[Rule, ...]:
        """The rules that a look at the operands' ops does not rule out; looked up by these."""
        key = (_ops(before) if before else None, _ops(now))
        chosen = self._chosen.get(key)
        if chosen is None:
            nodes = {True: now, False: before}
            chosen = self._chosen[key] = tuple(
                rule for rule in self.by_op.get(now.op.name, ())
                if (node := nodes[rule.keeps_inner]) and may_match(rule.root, node)
            )  # fmt: skip
        return chosen


Matches = dict[tuple[int, Node], Match | None]
"""What `match` found in the sweeps before, by the rule's identity and the node."""


def _ops(node: Node) -> tuple[str, ...]:
    """What `may_match` looks at: the names of the node's op and of those of its operands."""
    return (node.op.name, *[v.node.op.name if v.node else "" for v in node.inputs])


@dataclass(eq=False)
class _Sweep:
    """One pass of the engine over a graph."""

    graph: Graph
    results: set[Value]
    report: Report
    matches: Matches
    replaced: dict[Value, Value] = field(default_factory=dict)
    visited: set[Value] = field(default_factory=set)

    def match(self, rule: Rule, node: Node) -> Match | None:
        """How the rule's pattern fits the node, if it does; neither of them ever changes."""
        key = (id(rule), node)
        if key not in self.matches:
            found = match(rule.root, node)
            self.matches[key] = found if isinstance(found, Match) else None
        return self.matches[key]

    def is_new(self, value: Value) -> bool:
        """Whether a rule has just made the value; other values had their turn or will."""
        return value.node is not None and value not in self.visited and value not in self.replaced


def _refusal(rule: Rule, found: Match, graph: Graph, results: set[Value]) -> str:
    """Why the match may not be taken; empty if it may."""
    if not rule.keeps_inner:
        inside = set(found.nodes)
        for inner in found.nodes[1:]:
            for value in inner.outputs:
                if value in results or any(u not in inside for u in graph.users.get(value, ())):
                    return f"the inner value of {inner.op.name} is used elsewhere"
    if rule.where is None:
        return ""
    verdict = _call(rule.where, {**found.bindings, "out": found.nodes[0].outputs[0]})
    return "" if verdict is True or verdict is np.True_ else str(verdict)


def _replace(
    rule: Rule, found: Match, node: Node, replaced: Mapping[Value, Value]
) -> tuple[Value, ...]:
    out = node.outputs[0]
    bindings = {
        name: replaced.get(content, content) if isinstance(content, Value) else content
        for name, content in found.bindings.items()
    }
    result = _call(rule.replace, {**bindings, "out": out})
    outputs = result if isinstance(result, tuple) else (result,)
    types = tuple(v.type for v in node.outputs)
    if tuple(v.type for v in outputs) != types:
        raise VerifyError(f"rule {rule.name}: must keep the type {types[0]} of {node.op.name}, "
                          f"gives {outputs[0].type}", where=node.source.where)  # fmt: skip
    return outputs


def _label(node: Node) -> str:
    types = ", ".join(str(v.type) for v in node.outputs)
    return f"{node.op.name}: {types}" + (f" ({node.source})" if str(node.source) else "")


def explain(rule: Rule, graph: Graph) -> str:
    """Why a rule fires or does not fire on a graph, one line for each node that it looks at.

    >>> print(explain(rule, graph))
    mul-one at mul: f32[3] (train.py:4): found <Value y: f32[3]> where a constant number was ...
    """
    results = set(graph.results)
    lines = []
    for node in graph.nodes:
        if node.op.name in rule.root.ops:
            found = match(rule.root, node)
            if isinstance(found, Mismatch):
                verdict = found.reason
            else:
                verdict = _refusal(rule, found, graph, results) or "fires"
            lines.append(f"{rule.name} at {_label(node)}: {verdict}")
    if not lines:
        return f"{rule.name}: the graph has no {rule.root}"
    return "\n".join(lines)
