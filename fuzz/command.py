"""`hornfels fuzz`: its options, and the campaign with its progress."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..ir.errors import ArgumentError, FuzzError
from ..ir.text import parse
from .arrays import load_arrays
from .bisect import bisect, in_worker
from .campaign import Campaign, Options, Statistics, read_replay
from .check import Verdict
from .generate import STEPS
from .variants import BACKENDS, Variant, variants_for
from .worker import Task, Worker


def _duration(text: str) -> float:
    """A length of time, of which there must be some."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text}")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hornfels fuzz`."""
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=_duration, help="how long to go on")
    length.add_argument("--seeds", metavar="A:B", help="these seeds, B excluded; or one seed")
    length.add_argument("--replay", type=Path, metavar="FILE.ir",
                        help="run a graph on all backends, as its '# fuzz:' line says")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the first seed with --minutes (0)")
    parser.add_argument("--backends", default=",".join(BACKENDS),
                        help="comma-separated (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=None, metavar="DIR",
                        help="a folder for the graphs that fail")  # fmt: skip
    parser.add_argument("--timeout", type=_duration, default=60.0,
                        help="seconds that a graph may take on a backend (60)")  # fmt: skip
    parser.add_argument("--shrink", type=float, default=60.0, metavar="SECONDS",
                        help="time to make a failure small; 0 to leave it (60)")  # fmt: skip
    parser.add_argument("--threads", type=_count, default=1, help="threads of native code (1)")


def run(arguments: argparse.Namespace) -> None:
    """Fuzz, or run one graph again.

    Raises
    ------
    FuzzError
        If something failed.
    ArgumentError
        If an option is not legal.
    """
    backends = [name.strip() for name in arguments.backends.split(",")]
    for name in backends:
        if name not in BACKENDS:
            raise ArgumentError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    console = Console()
    if arguments.replay:
        replay(arguments.replay, backends, arguments.timeout, console)
        return
    options = Options(
        backends, arguments.out, timeout=arguments.timeout, shrink_seconds=arguments.shrink,
        threads=arguments.threads,
    )  # fmt: skip
    campaign = Campaign(options, lambda text: console.print(text, markup=False, soft_wrap=True))
    with Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False),
                  TimeElapsedColumn(), console=console, transient=True) as progress:  # fmt: skip
        shown = progress.add_task("starting")

        def show(statistics: Statistics) -> None:
            progress.update(shown, description=str(statistics))
            if not console.is_terminal and statistics.graphs % 100 == 0:
                console.print(f"[{time.strftime('%H:%M:%S')}] {statistics}", markup=False,
                              soft_wrap=True)  # fmt: skip

        campaign.run(_seeds(arguments), show)
    console.print(str(campaign.statistics), markup=False, soft_wrap=True)
    if campaign.found:
        again = sum(found.again for found in campaign.found)
        raise FuzzError(f"fuzz: {len(campaign.found)} failures, and {again} more like them")


def _seeds(arguments: argparse.Namespace) -> Iterator[int]:
    if arguments.seeds:
        first, _, end = arguments.seeds.partition(":")
        if not first.isdigit() or (end and not end.isdigit()):
            raise ArgumentError(f"--seeds must be A:B or a number, got {arguments.seeds!r}")
        yield from range(int(first), int(end) if end else int(first) + 1)
        return
    end_time = time.monotonic() + 60 * arguments.minutes
    for seed in count(arguments.seed):
        if time.monotonic() > end_time:
            return
        yield seed


def replay(path: Path, backends: list[str], timeout: float, console: Console) -> None:
    """Run the graph of a file on all backends."""
    if not path.is_file():
        raise ArgumentError(f"there is no file {path}")
    text = path.read_text()
    head = read_replay(text)
    with Worker(timeout) as worker:
        verdict = replayed(worker, text, backends)
    for failure in verdict.failures:
        console.print(f"{failure.kind}, {failure.variant}: {failure.text}", markup=False)
        console.print(failure.detail, markup=False)
    for backend, op in verdict.skipped.items():
        console.print(f"{backend} does not have {op}", markup=False)
    console.print(f"{verdict.ran} runs agree, {len(verdict.failures)} fail ({head})", markup=False)
    if verdict.failures:
        raise FuzzError(f"fuzz: {path} fails")


def replayed(worker: Worker, text: str, backends: list[str]) -> Verdict:
    """What the graph of a file does on backends, with all passes, none, and those it names."""
    head = read_replay(text)
    seed, steps = int(str(head.get("seed", 0))), int(str(head.get("steps", STEPS)))
    variants = dict.fromkeys(variants_for(seed, backends))
    if head.get("backend") in backends:
        variants[Variant(str(head["backend"]), str(head.get("passes", "all")))] = None
    return worker.run(Task(str(parse(text)), seed, tuple(variants), steps))


# --- hornfels bisect -------------------------------------------------------------------------


def add_bisect_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hornfels bisect`."""
    parser.add_argument("graph", type=Path, metavar="GRAPH.ir")
    arrays = parser.add_mutually_exclusive_group()
    arrays.add_argument("--inputs", type=Path, metavar="ARRAYS.npz",
                        help="the arrays of inputs and state, by name")  # fmt: skip
    arrays.add_argument("--seed", type=int, help="draw them at random (0, or as the file says)")
    parser.add_argument("--backend", choices=BACKENDS, help="tvm, or as the file says")
    parser.add_argument("-p", "--passes", help="the passes to look at (all, or as the file says)")
    parser.add_argument("--steps", type=_count, help="runs, each with the state of the last (1)")
    parser.add_argument("--timeout", type=_duration, default=60.0, help="seconds for a run (60)")


def run_bisect(arguments: argparse.Namespace) -> None:
    """Print which pass and which rewrite break a graph.

    Raises
    ------
    ArgumentError
        If a file is missing, or the graph does not fail.
    """
    if not arguments.graph.is_file():
        raise ArgumentError(f"there is no file {arguments.graph}")
    text = arguments.graph.read_text()
    graph, head = parse(text), read_replay(text)
    if graph.symbols:
        raise ArgumentError(
            f"bisect: sizes must be fixed, the graph has {', '.join(graph.symbols)}"
        )

    def choose(name: str, default: Any) -> Any:
        given = getattr(arguments, name)
        return given if given is not None else head.get(name, default)

    variant = Variant(choose("backend", "tvm"), choose("passes", "all"))
    seed, steps = choose("seed", 0), choose("steps", 1)
    if arguments.inputs:
        load_arrays(arguments.inputs)  # a wrong file is refused here
    with Worker(arguments.timeout) as worker:
        path = str(arguments.inputs.resolve()) if arguments.inputs else ""
        culprit = bisect(graph, variant, in_worker(worker, graph, seed, steps, path))
    if culprit is None:
        raise ArgumentError(f"bisect: the graph does not fail on {variant}")
    Console().print(str(culprit), markup=False, highlight=False, soft_wrap=True)
