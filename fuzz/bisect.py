"""Bisection: which pass, and which of its rewrites, breaks a graph on given arrays.

The pipeline is cut after a pass (`stop_after`) and its rewriting after so many rewrites
(`rewrite_limit`), and the graph that comes out runs on the backend:

    passes     cse  simplify  fold  cse  dce          rewrites of simplify    1 ... 7  8 ... 12
    the graph  ok   wrong     ...                     the graph               ok    ok wrong ...

A graph that fails without any pass shows a fault of the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..ir.errors import ArgumentError, PassError
from ..ir.graph import Graph
from ..ir.rewrite import Rewrite, shown
from ..ir.settings import settings
from ..passes.pipeline import Record, stages
from .check import Failure, check
from .variants import Variant
from .worker import Task, Worker


@dataclass(frozen=True)
class Culprit:
    """What breaks a graph.

    Attributes
    ----------
    failure : Failure
        What happens to the graph.
    stage : str
        The first pass after which it happens, as `02_simplify`; empty if it happens without any.
    rewrite : Rewrite or None
        The first rewrite with which it happens; None if it is not the pass' rewrites.
    number : int
        Which rewrite of the pipeline that is, from 1.
    """

    failure: Failure
    stage: str = ""
    rewrite: Rewrite | None = None
    number: int = 0

    def __str__(self) -> str:
        failure = f"{self.failure.kind}: {self.failure.text}"
        if not self.stage:
            return (
                f"{failure}\nwithout any pass: the backend {self.failure.variant.backend} does it"
            )
        lines = [failure, f"pass     {self.stage}"]
        if self.rewrite is None:
            return "\n".join([*lines, "rewrite  none: the pass does it as a whole"])
        lines += [f"rewrite  {self.number}, by {self.rewrite.rule}",
                  f"before   {shown(self.rewrite.before.outputs)}"]  # fmt: skip
        if self.rewrite.after:
            lines.append(f"after    {shown(self.rewrite.after)}")
        name = self.stage.partition("_")[2]
        return "\n".join([*lines, f"again    HORNFELS_STOP_AFTER={self.stage} "
                                  f"HORNFELS_REWRITE_LIMIT={self.number}, or without the rewrite "
                                  f"{self.number - 1} ({name})"])  # fmt: skip


Probe = Callable[[Variant], Failure | None]
"""Runs the graph as a variant says, and tells how it fails."""


def bisect(graph: Graph, variant: Variant, probe: Probe) -> Culprit | None:
    """Find what breaks a graph; None if nothing does.

    Parameters
    ----------
    graph : Graph
        Of fixed sizes.
    variant : Variant
        The backend, and the passes among which the culprit is looked for.
    probe : callable
        Runs the graph with passes cut short.
    """
    failure = probe(variant)
    if failure is None:
        return None

    def fails(changed: Variant) -> bool:
        found = probe(changed)
        return found is not None and found.kind == failure.kind

    if fails(replace(variant, passes="none")):
        return Culprit(failure)
    labels = _labels(graph, variant)
    place = _first(len(labels), lambda k: fails(replace(variant, stop_after=labels[k - 1])))
    stage = replace(variant, stop_after=labels[place - 1])
    return _rewrite(graph, stage, failure, fails, labels[:place])


def _rewrite(
    graph: Graph, stage: Variant, failure: Failure, fails: Callable[[Variant], bool],
    labels: list[str],
) -> Culprit:  # fmt: skip
    """The single rewrite of a stage that fails, if it is one."""
    spent = _spent(graph, replace(stage, stop_after=labels[-2])) if len(labels) > 1 else 0
    if fails(replace(stage, rewrite_limit=spent)):
        return Culprit(failure, labels[-1])
    count = 1
    while not fails(replace(stage, rewrite_limit=spent + count)):
        count *= 2
        if count > 1 << 40:
            raise ArgumentError("bisect: the graph fails only now and then, so nothing is found")
    number = spent + _first(count, lambda n: fails(replace(stage, rewrite_limit=spent + n)))
    return Culprit(failure, labels[-1], _made(graph, replace(stage, rewrite_limit=number)), number)


def _first(count: int, fails: Callable[[int], bool]) -> int:
    """The first of 1 ... count that fails, by halving; `count` does, and 0 does not."""
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        if fails(middle):
            bad = middle
        else:
            good = middle
    return bad


def _labels(graph: Graph, variant: Variant) -> list[str]:
    """The names of the stages behind the trace."""
    from ..passes.pipeline import passes_named

    return [f"{i + 1:02}_{p.name}" for i, p in enumerate(passes_named(variant.passes))]


def _records(graph: Graph, variant: Variant) -> list[Record]:
    with settings(**variant.settings):
        return [stage.record for stage in stages(graph) if stage.record]


def _spent(graph: Graph, variant: Variant) -> int:
    """Rewrites that the passes up to a stage make."""
    return sum(record.rewrites for record in _records(graph, variant))


def _made(graph: Graph, variant: Variant) -> Rewrite | None:
    """The last rewrite that is made, or the one that raises."""
    try:
        return _records(graph, variant)[-1].last
    except PassError as error:
        rewrite: Rewrite | None = error.rewrite
        return rewrite


# --- probes ----------------------------------------------------------------------------------


def in_process(
    graph: Graph, seed: int, steps: int, arrays: Mapping[str, np.ndarray] | None = None
) -> Probe:
    """Run here: for faults that do not end the process."""

    def probe(variant: Variant) -> Failure | None:
        failures = check(graph, seed, [variant], steps, arrays=arrays).failures
        return failures[0] if failures else None

    return probe


def in_worker(worker: Worker, graph: Graph, seed: int, steps: int, arrays: str = "") -> Probe:
    """Run in a process of its own: `arrays` is a file that it can read."""

    def probe(variant: Variant) -> Failure | None:
        failures = worker.run(Task(str(graph), seed, (variant,), steps, arrays=arrays)).failures
        return failures[0] if failures else None

    return probe
