"""A campaign: seed after seed, with statistics; what fails is shrunk and written down."""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..ir.files import writing
from ..ir.graph import Graph
from ..ir.op import REGISTRY
from .check import Failure, Verdict, signature_of
from .generate import STEPS, Recipe, generate
from .numerics import Sharpness
from .shrink import shrink
from .slopes import slope_error
from .variants import BACKENDS, Variant, ops_of, variants_for
from .worker import Task, Worker

SLOPES = Variant("slopes", "none")
"""Stands for the comparison of gradients with differences, see `slopes.py`."""


@dataclass(frozen=True)
class Options:
    """How a campaign runs.

    Attributes
    ----------
    backends : sequence of str
    out : path or None
        The folder that failures are written to.
    recipe : Recipe
    timeout : float
        Seconds for one variant.
    shrink_seconds : float
        Seconds for making one failure small; 0 to leave it.
    threads : int
        Of native code.
    """

    backends: Sequence[str] = BACKENDS
    out: Path | None = None
    recipe: Recipe = field(default_factory=Recipe)
    timeout: float = 60.0
    shrink_seconds: float = 60.0
    threads: int = 1


@dataclass
class Found:
    """A failure and the smallest graph that shows it."""

    seed: int
    failure: Failure
    graph: Graph | None
    steps: int
    small: Graph | None = None
    again: int = 0  # how often something like it happened later

    @property
    def best(self) -> Graph | None:
        return self.small or self.graph


@dataclass
class Statistics:
    """What a campaign did."""

    seconds: float = 0.0
    graphs: int = 0
    nodes: int = 0
    runs: int = 0
    undefined: int = 0
    failing: int = 0
    slopes: int = 0  # programs whose gradient was compared with differences
    ops: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    sharpness: Sharpness = field(default_factory=Sharpness)

    def add(self, graph: Graph, verdict: Verdict) -> None:
        self.graphs += 1
        self.nodes += len(graph.nodes)
        self.ops.update(ops_of(graph))
        self.runs += verdict.ran
        self.undefined += bool(verdict.undefined)
        self.failing += bool(verdict.failures)
        self.skipped.update(f"{b}: {op}" for b, op in verdict.skipped.items())
        self.sharpness += verdict.sharpness

    @property
    def never(self) -> list[str]:
        """Ops of the registry that no graph had."""
        return sorted(set(REGISTRY) - set(self.ops))

    def __str__(self) -> str:
        rate = 60 * self.graphs / self.seconds if self.seconds else 0.0
        seen, all_ = len(set(self.ops) & set(REGISTRY)), len(REGISTRY)
        total = max(1, self.sharpness.elements)
        never = ", ".join(self.never)
        return (
            f"{self.graphs} graphs of {self.nodes / max(1, self.graphs):.0f} nodes, {self.runs} "
            f"runs in {self.seconds / 60:.1f} min ({rate:.0f} graphs a minute), {seen} of {all_} "
            f"ops{f' (not: {never})' if 0 < len(self.never) < 9 else ''}, {self.failing} failed, "
            f"{self.undefined} undefined, {self.slopes} slopes; "
            f"{100 * self.sharpness.compared / total:.1f} % of the elements compared, "
            f"{100 * self.sharpness.sharp / total:.1f} % sharply"
        )


class Campaign:
    """Runs seeds and collects failures.

    Parameters
    ----------
    options : Options
    say : callable
        Told of each failure, in a line.
    """

    def __init__(self, options: Options, say: Callable[[str], None] = print) -> None:
        self.options = options
        self.say = say
        self.statistics = Statistics()
        self.found: list[Found] = []

    def run(
        self, seeds: Iterable[int], progress: Callable[[Statistics], None] = lambda s: None
    ) -> list[Found]:
        """Check the graphs of all seeds."""
        began = time.monotonic()
        with Worker(self.options.timeout) as worker:
            for seed in seeds:
                self.one(worker, seed)
                self.statistics.seconds = time.monotonic() - began
                progress(self.statistics)
        return self.found

    def one(self, worker: Worker, seed: int) -> None:
        """Check the graph of a seed, and the slope of another one."""
        self._slope(seed)
        try:
            graph = generate(seed, self.options.recipe)
        except Exception as error:  # noqa: BLE001 - a rule that raises is what we look for
            text = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            detail = "".join(traceback.format_exception(error)[-8:])
            variant = Variant("generate")
            self._note(Found(seed, Failure("generate", variant, text, signature_of(text), detail),
                             None, 0))  # fmt: skip
            self.statistics.graphs += 1
            self.statistics.failing += 1
            return
        variants = tuple(variants_for(seed, self.options.backends))
        verdict = worker.run(Task(str(graph), seed, variants, STEPS, self.options.threads))
        self.statistics.add(graph, verdict)
        for failure in _distinct(verdict.failures):
            self._examine(worker, Found(seed, failure, graph, STEPS))

    def _slope(self, seed: int) -> None:
        """Compare the gradient of a program with differences."""
        recipe = replace(self.options.recipe, train=0.0, wide=True)
        try:
            graph = generate(seed, recipe)
            text = slope_error(graph, seed)
        except Exception as error:  # noqa: BLE001
            text = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            self.statistics.failing += 1
            failure = Failure("error", SLOPES, text, signature_of(text))
            self._note(Found(seed, failure, None, 0))
            return
        self.statistics.slopes += 1
        if text:
            self.statistics.failing += 1
            result = shrink(graph, 1, lambda g, _: bool(slope_error(g, seed)), 20)
            found = Found(seed, Failure("value", SLOPES, text), graph, 1, result.graph)
            if not self._known(found):
                self._note(found)

    def _examine(self, worker: Worker, found: Found) -> None:
        """Shrink a failure, unless one like it is known."""
        if found.failure.kind != "value" and self._known(found):
            return
        graph = found.graph
        assert graph is not None
        if self.options.shrink_seconds:
            small = shrink_failure(worker, graph, found, self.options)
            if self._known(found):
                return
            found.small = small
        self._note(found)

    def _known(self, found: Found) -> bool:
        for other in self.found:
            if other.failure.kind == found.failure.kind and (
                other.failure.signature == found.failure.signature
                and other.failure.variant.backend == found.failure.variant.backend
                and _same_ops(other, found)
            ):
                other.again += 1
                return True
        return False

    def _note(self, found: Found) -> None:
        self.found.append(found)
        place = write(self.options.out, found) if self.options.out else None
        size = f", {len(found.best.nodes)} nodes" if found.best else ""
        self.say(f"seed {found.seed}: {found.failure.kind}, {found.failure.variant}{size}: "
                 f"{found.failure.text}{f' -> {place}' if place else ''}")  # fmt: skip


def _same_ops(a: Found, b: Found) -> bool:
    """Failures with a message are known by it, wrong numbers by the ops of the small graphs."""
    if a.failure.kind != "value":
        return True
    if a.best is None or b.best is None:
        return a.best is b.best
    return ops_of(a.best) == ops_of(b.best)


def _distinct(failures: Sequence[Failure]) -> list[Failure]:
    """One failure of each backend and kind: with other passes it is likely the same fault."""
    found: dict[tuple[str, str, str], Failure] = {}
    for failure in failures:
        found.setdefault((failure.kind, failure.variant.backend, failure.signature), failure)
    return list(found.values())


def shrink_failure(worker: Worker, graph: Graph, found: Found, options: Options) -> Graph:
    """The smallest graph that fails as `found` says; its steps are noted there."""
    failure = found.failure
    numbers = failure.kind in ("value", "oracle")

    def fails(candidate: Graph, steps: int) -> bool:
        task = Task(str(candidate), found.seed, (failure.variant,), steps, options.threads, numbers)
        return any(f.is_like(failure) for f in worker.run(task).failures)

    result = shrink(graph, found.steps, fails, options.shrink_seconds)
    found.steps = result.steps
    task = Task(str(result.graph), found.seed, (failure.variant,), result.steps, options.threads)
    for again in worker.run(task).failures:
        if again.is_like(failure):
            found.failure = again
    return result.graph


def write(folder: Path, found: Found) -> Path:
    """Write what is needed to see a failure again; returns the file of the small graph."""
    failure = found.failure
    base = folder / f"seed_{found.seed}_{failure.variant.backend}_{failure.kind}"
    path = base.with_suffix(".ir")
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(replayable(found))
        if found.graph is not None:
            base.with_suffix(".original.ir").write_text(str(found.graph) + "\n")
        if failure.detail:
            base.with_suffix(".txt").write_text(failure.detail)
    return path


def replayable(found: Found) -> str:
    """The text of a graph under lines that say how to run it; see `read_replay`."""
    failure = found.failure
    head = {"seed": found.seed, "steps": found.steps, "backend": failure.variant.backend,
            "passes": failure.variant.passes}  # fmt: skip
    lines = [f"# {failure.kind}: {failure.text}", f"# fuzz: {json.dumps(head)}"]
    if found.best is None:
        return "\n".join([*lines, f"# hornfels fuzz --seeds {found.seed}", ""])
    return "\n".join([*lines, "# hornfels fuzz --replay THIS_FILE", str(found.best), ""])


def read_replay(text: str) -> dict[str, object]:
    """The `seed`, `steps`, `backend` and `passes` that a file's `# fuzz:` line states."""
    for line in text.splitlines():
        if line.startswith("# fuzz:"):
            found: dict[str, object] = json.loads(line.removeprefix("# fuzz:"))
            return found
    return {}
