"""The pipeline: which passes run, in one list; each one's result is verified.

Settings (see `ir/settings.py`): `debug=passes` prints a line a pass, `debug=rules` what rules did,
`dump` names a folder that gets one folder for each graph, with `00_trace.ir, 01_cse.ir, ...`;
`passes` chooses other passes, `stop_after` ends early, `rewrite_limit` ends rewriting early.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..ir.builder import emit
from ..ir.errors import ArgumentError, PassError
from ..ir.files import writing
from ..ir.graph import Graph, Node, Value, same
from ..ir.ops.custom import erase_gradient_rules
from ..ir.rewrite import Budget, Report, Rewrite, shown, spending
from ..ir.settings import current_settings, report
from .absorb import absorb
from .contracts import check, check_interface, check_plan
from .cse import Cse
from .dce import Dce
from .fold import Fold
from .fusion import fuse
from .memory import plan as plan_memory
from .plan import Plan
from .regions import Regions
from .simplify import Simplify
from .steady import steady_values


class Pass(Protocol):
    """What a pass is: a name, and a graph for a graph. The one that it gets does not change."""

    @property
    def name(self) -> str: ...

    def run(self, graph: Graph) -> Graph: ...


@runtime_checkable
class RewritePass(Protocol):
    """A pass made of rules, which can say what they did."""

    def rewrite(self, graph: Graph) -> tuple[Graph, Report]: ...


# A trace repeats itself so much that merging equal nodes first halves the work of the others.
# Simplifying shows constants to fold and nodes to merge, which show more to simplify; a third
# round found nothing on any model of ours.
PIPELINE: tuple[Pass, ...] = (
    Cse(),
    Regions(),
    Simplify(),
    Fold(),
    Cse(),
    Regions(),
    Regions(products=True, name="vectorize"),
    Simplify(),
    Fold(),
    Cse(),
    Dce(),
)
PASSES: dict[str, Pass] = {each.name: each for each in PIPELINE}
"""The passes by name."""


def passes_named(names: str) -> tuple[Pass, ...]:
    """The passes that `simplify,cse` names, in that order; `all` is the pipeline, `none` no pass.

    Raises
    ------
    ArgumentError
        If there is no such pass.
    """
    found: list[Pass] = []
    for name in filter(None, (word.strip() for word in names.split(","))):
        if name not in PASSES and name not in ("all", "none"):
            raise ArgumentError(f"passes: {name!r} is no pass; there are {', '.join(PASSES)}, "
                                "all, none")  # fmt: skip
        found += PIPELINE if name == "all" else () if name == "none" else (PASSES[name],)
    return tuple(found)


@dataclass(frozen=True)
class Record:
    """What one pass did."""

    name: str
    before: int
    after: int
    seconds: float
    fired: Counter[str] = field(default_factory=Counter)
    rewrites: int = 0
    last: Rewrite | None = None  # the last rewrite that the passes up to here made
    rules: Report | None = None  # what the rules did and refused

    def __str__(self) -> str:
        rules = f", {sum(self.fired.values())} rewrites" if self.fired else ""
        return f"{self.name}: {self.before} -> {self.after} nodes{rules}, {self.seconds:.3f} s"


@dataclass(frozen=True)
class Optimized:
    """A graph and how it came about."""

    graph: Graph
    records: tuple[Record, ...]

    @property
    def fired(self) -> Counter[str]:
        """How often each rule fired."""
        return sum((r.fired for r in self.records), Counter())

    def __str__(self) -> str:
        return "\n".join(map(str, self.records))


def optimize(
    graph: Graph, passes: Sequence[Pass] = PIPELINE, dump: str | Path | None = None
) -> Graph:
    """Run the passes, verify after each, and return the graph.

    Parameters
    ----------
    dump : path, optional
        A folder for the graph after each pass; by default one of the graph's name in the folder
        that the setting `dump` names, if any.

    Raises
    ------
    PassError
        If a pass fails or returns a graph that does not verify. It names that pass and those
        before it, and the file that the pass's input was saved to.
    """
    return optimize_with_records(graph, passes, dump).graph


def optimize_with_records(
    graph: Graph, passes: Sequence[Pass] = PIPELINE, dump: str | Path | None = None
) -> Optimized:
    """As `optimize`, with what each pass did."""
    records = []
    for stage in stages(graph, passes, dump):
        graph = stage.graph
        if stage.record:
            records.append(stage.record)
    return Optimized(graph, tuple(records))


@dataclass(frozen=True)
class Stage:
    """The graph at one point of the pipeline."""

    name: str
    graph: Graph
    record: Record | None = None


def stages(
    graph: Graph, passes: Sequence[Pass] = PIPELINE, dump: str | Path | None = None
) -> Iterator[Stage]:
    """The graph as traced (`00_trace`), and after each pass (`01_cse`, ...)."""
    settings = current_settings()
    if settings.passes and passes is PIPELINE:
        passes = passes_named(settings.passes)
    names = [p.name for p in passes]
    labels = [f"{i + 1:02}_{name}" for i, name in enumerate(names)]
    if settings.stop_after and settings.stop_after not in (*names, *labels):
        raise ArgumentError(f"stop_after: {settings.stop_after!r} is no pass of this pipeline; "
                            f"there are {', '.join(dict.fromkeys(names))}")  # fmt: skip
    folder = dump or _folder_for(graph, settings.dump)
    check("trace", graph)
    first = Stage("00_trace", erase_gradient_rules(graph))
    graph = first.graph
    _write(folder, first)
    yield first
    budget = Budget(settings.rewrite_limit)
    for i, each in enumerate(passes):
        with spending(budget):
            stage = _run(labels[i], each, graph, names[:i], budget)
        graph = stage.graph
        _write(folder, stage)
        report("passes", stage.record)
        yield stage
        if settings.stop_after in (each.name, stage.name):
            return
    if passes == PIPELINE:
        check("optimized", graph, complete=not budget.is_spent)


STAGES: tuple[str, ...] = (
    "00_trace",
    *(f"{i + 1:02}_{each.name}" for i, each in enumerate(PIPELINE)),
    "plan",
)
"""What `stage_text` can show: the trace, the graph after each pass, and the plan of kernels."""


def stage_text(graph: Graph, stage: str) -> str:
    """The text of a traced graph at one of `STAGES`; `plan` needs a graph of fixed sizes."""
    if stage not in STAGES:
        raise ArgumentError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    for each in stages(graph):
        if each.name == stage:
            return str(each.graph)
    if graph.symbols:
        raise ArgumentError(
            f"stage 'plan' needs fixed sizes, graph {graph.name} has {', '.join(graph.symbols)}",
            hint="give the batch size",
        )
    plan = make_plan(each.graph)
    return "\n\n".join([*(str(kernel.body) for kernel in plan.kernels), str(plan)])


_dumped: Counter[str] = Counter()  # how many graphs of a name this process has written


def _folder_for(graph: Graph, dump: str) -> Path | None:
    """`dump/train`, then `dump/train_1`, ... for graphs of one name, as of two batch sizes."""
    if not dump:
        return None
    number = _dumped[graph.name]
    _dumped[graph.name] += 1
    return Path(dump) / (f"{graph.name}_{number}" if number else graph.name)


def _run(label: str, each: Pass, graph: Graph, before: Sequence[str], budget: Budget) -> Stage:
    start, spent = time.perf_counter(), budget.spent
    try:
        result, rules = apply(each, graph)
        if rules:
            report("rules", rules)
        check(each.name, result, complete=not budget.is_spent)
        check_interface(each.name, graph, result)
    except Exception as error:
        raise _failure(each, graph, before, error, budget.trying) from error
    seconds = time.perf_counter() - start
    record = Record(each.name, len(graph.nodes), len(result.nodes), seconds,
                    rules.fired if rules else Counter(), budget.spent - spent, budget.last,
                    rules)  # fmt: skip
    return Stage(label, result, record)


def apply(each: Pass, graph: Graph) -> tuple[Graph, Report | None]:
    """A pass on the bodies of all regions, the innermost first, then on the graph itself.

    Returns
    -------
    tuple
        The graph, and what the rules of the pass did, if it has any.
    """
    reports: list[Report] = []
    result = _apply(each, graph, reports)
    return result, Report.of(reports) if reports else None


def _apply(each: Pass, graph: Graph, reports: list[Report]) -> Graph:
    def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        bodies = {name: _apply(each, body, reports) for name, body in node.regions.items()}
        if all(_is_same(body, node.attrs[name]) for name, body in bodies.items()):
            return None
        return emit(node.op, inputs, {**node.attrs, **bodies})

    if any(node.op.kind == "region" for node in graph.nodes):
        graph = graph.rebuild(visit)
    if not isinstance(each, RewritePass):
        return each.run(graph)
    result, found = each.rewrite(graph)
    reports.append(found)
    return result


def _is_same(one: Graph, other: Graph) -> bool:
    return (
        one.nodes == other.nodes
        and same(one.inputs, other.inputs)
        and same(one.outputs, other.outputs)
    )


def _failure(
    each: Pass, graph: Graph, before: Sequence[str], error: Exception, trying: Rewrite | None
) -> PassError:
    folder = Path(tempfile.mkdtemp(prefix="hornfels-"))
    path = folder / f"before_{each.name}.ir"
    path.write_text(str(graph) + "\n")
    rule = f" (in rule {trying.rule} at {shown(trying.before.outputs)})" if trying else ""
    failure = PassError(
        f"pass {each.name} failed on graph {graph.name} after {', '.join(before) or 'no pass'}: "
        f"{error}{rule}",
        hint=f"the graph that it got is in {path}\n  hornfels bisect {path} -p {each.name}  "
        "finds the rewrite",
    )
    failure.rewrite = trying
    return failure


def _write(folder: str | Path | None, stage: Stage) -> None:
    if folder:
        path = Path(folder) / f"{stage.name}.ir"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(stage.graph) + "\n")


def make_plan(graph: Graph, *, prepare: bool = True) -> Plan:
    """Fuse an optimized, static graph into kernels and place its values in memory.

    With `prepare` what depends on weights and constants alone is computed once and kept, and what
    scales the results of weights is made a part of them.
    """
    graph = erase_gradient_rules(graph)
    if prepare:
        graph = absorb(graph)
    check("plan", graph)
    steady = steady_values(graph) if prepare else None
    plan = plan_memory(graph, fuse(graph, steady=steady or frozenset()), steady)
    check_plan(plan)
    report("kernels", *(kernel.body for kernel in plan.kernels))
    report("memory", plan)
    return plan
