"""How the time of a step grows with batch, width and depth, and shrinks with cores.

    python -m hornfels.benchmarks.scaling --folder benchmarks

Each point is a training step of one of the measured models with one size changed. Engines are
measured in turns, in processes of their own that may use so many cores; the least of several
short rounds counts. With matplotlib the curves are drawn too.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ..ir.files import replacing
from ..runtime.bench_measure import Worker, WorkerError
from .engines import ENGINES
from .measuring import cores
from .models import BENCH_MODELS
from .small_models import RESNET_BLOCKS

ROUNDS = 5
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Point:
    """One size of a model.

    Parameters
    ----------
    at
        The size that changes from point to point.
    batch_size
        Samples of a step.
    sizes
        Arguments of the model's definition.
    cores
        Cores that an engine may use; all if None.
    """

    at: int
    batch_size: int = 128
    sizes: dict[str, Any] = field(default_factory=dict)
    cores: int | None = None


@dataclass(frozen=True)
class Series:
    """Points of one model along one size."""

    model: str
    what: str
    points: tuple[Point, ...]

    @property
    def title(self) -> str:
        return f"{self.model}: {self.what}"


def all_series(available: int) -> Iterator[Series]:
    """What is measured on a machine with so many cores."""
    batches = (1, 4, 16, 64, 256, 1024)
    for model in ("mlp", "cnn"):
        yield Series(model, "batch", tuple(Point(n, n) for n in batches))
    widths = (64, 256, 1024, 4096)
    yield Series("mlp", "width", tuple(Point(n, sizes={"width": n}) for n in widths))
    depths = [(n, {"blocks": RESNET_BLOCKS[:n]}) for n in (1, 3, 6, 9)]
    yield Series("resnet", "residual blocks", tuple(Point(n, 32, sizes) for n, sizes in depths))
    depths = [(n, {"depth": n}) for n in (1, 2, 4)]
    yield Series("transformer", "blocks", tuple(Point(n, 32, sizes) for n, sizes in depths))
    if available > 1 and hasattr(os, "sched_setaffinity"):
        counts = sorted({*(2**i for i in range(available.bit_length())), available})
        counts = [n for n in counts if n <= available]
        for model in ("mlp", "cnn", "transformer"):
            yield Series(model, "cores", tuple(Point(n, cores=n) for n in counts))


Times = dict[tuple[str, int], dict[str, float]]
"""Seconds a step: by series' title and size, then by engine."""


def measure(
    series: Sequence[Series], engines: Sequence[str], seconds: float, console: Console
) -> Times:
    """Measure all points, until the time is over; points that are left out have no times."""
    found: Times = {}
    end = time.monotonic() + seconds
    workers: dict[tuple[str, int | None], Worker] = {}
    try:
        for one in series:
            for point in one.points:
                if time.monotonic() > end:
                    console.print(f"[yellow]no time left for {one.title} at {point.at}")
                    continue
                for name in engines:
                    if (name, point.cores) not in workers:
                        workers[name, point.cores] = Worker(ENGINES[name], point.cores)
                ready = {name: workers[name, point.cores] for name in engines}
                times = _measure_point(one, point, ready, console)
                found[one.title, point.at] = times
                shown = ", ".join(f"{name} {1e3 * s:.3g} ms" for name, s in times.items())
                console.print(f"{one.title} {point.at}: {shown}")
    finally:
        for worker in workers.values():
            worker.stop()
    return found


def _measure_point(
    one: Series, point: Point, workers: dict[str, Worker], console: Console
) -> dict[str, float]:
    """The least seconds a step of each engine."""
    times: dict[str, float] = {}
    steps: dict[str, int] = {}
    for name, worker in workers.items():
        try:
            worker.ask(TIMEOUT_SECONDS, do="load", model=one.model, batch_size=point.batch_size,
                       batches=2, policy="float32", sizes=point.sizes)  # fmt: skip
            worker.ask(TIMEOUT_SECONDS, do="train", steps=1)
            step = worker.ask(TIMEOUT_SECONDS, do="train", steps=1)["seconds"]
            steps[name] = max(1, min(50, int(0.05 / step)))
            times[name] = math.inf
        except WorkerError as error:
            console.print(f"[red]{name} on {one.title} at {point.at}: {error}")
    for _ in range(ROUNDS):
        for name, count in steps.items():
            answer = workers[name].ask(TIMEOUT_SECONDS, do="train", steps=count)
            times[name] = min(times[name], answer["seconds"] / count)
    return times


def markdown(series: Sequence[Series], times: Times, engines: Sequence[str]) -> str:
    """The page of results."""
    command = f"{Path(sys.executable).name} -m hornfels.benchmarks.scaling"
    lines = ["# How the time of a training step grows", "",
             f"Written by `{command}`: milliseconds a step (Adam, f32), the least of {ROUNDS} "
             f"short rounds in turns, on {cores()} cores."]  # fmt: skip
    for one in series:
        note = "" if one.what == "batch" else f" (batch {one.points[0].batch_size})"
        lines += ["", f"## {one.title}{note}", "", f"| {one.what} | {' | '.join(engines)} |",
                  f"|{'---:|' * (1 + len(engines))}"]  # fmt: skip
        for point in one.points:
            found = times.get((one.title, point.at), {})
            cells = [f"{1e3 * found[e]:.3g}" if e in found else "-" for e in engines]
            lines.append(f"| {point.at} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(series: Sequence[Series], times: Times, engines: Sequence[str], path: Path) -> None:
    """One diagram a series, both axes logarithmic; the dotted line grows with the size."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    columns = min(3, len(series))
    rows = math.ceil(len(series) / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(series) :]:
        axis.set_visible(False)
    for one, axis in zip(series, axes.flat, strict=False):
        for engine in engines:
            known = [(p.at, 1e3 * times[one.title, p.at][engine]) for p in one.points
                     if engine in times.get((one.title, p.at), {})]  # fmt: skip
            if known:
                axis.plot(*zip(*known, strict=True), marker="o", label=engine)
        if times.get((one.title, one.points[-1].at)):
            last, ends = one.points[-1].at, times[one.title, one.points[-1].at]
            slope = -1 if one.what == "cores" else 1
            straight = [1e3 * min(ends.values()) * (p.at / last) ** slope for p in one.points]
            axis.plot(
                [p.at for p in one.points], straight, ":", color="gray", label="in proportion"
            )
        axis.set(xscale="log", yscale="log", title=one.title, xlabel=one.what, ylabel="ms a step")
        axis.set_xticks([p.at for p in one.points], [str(p.at) for p in one.points])
        axis.minorticks_off()
        if axis.lines:
            axis.legend(fontsize="small")
    figure.savefig(path, format="svg")
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the table, and draw."""
    parser = argparse.ArgumentParser(prog="hornfels.benchmarks.scaling", description=__doc__)
    parser.add_argument("--engines", default="tvm", help="comma-separated; peers take longer")
    parser.add_argument("--models", help="only the series of these, comma-separated")
    parser.add_argument("--seconds", type=float, default=270.0, help="after which it stops")
    parser.add_argument("--folder", type=Path, default=Path(), help="of SCALING.md and scaling.svg")
    arguments = parser.parse_args(argv)
    engines = [name for name in arguments.engines.split(",") if not ENGINES[name].missing_modules()]
    wanted = (arguments.models or ",".join(BENCH_MODELS)).split(",")
    series = [one for one in all_series(cores()) if one.model in wanted]
    console = Console(stderr=True)
    times = measure(series, engines, arguments.seconds, console)
    with replacing(arguments.folder / "SCALING.md") as path:
        path.write_text(markdown(series, times, engines))
    if importlib.util.find_spec("matplotlib") is None:
        console.print("matplotlib is not installed: no diagrams")
        return
    with replacing(arguments.folder / "scaling.svg") as path:
        draw(series, times, engines, path)


if __name__ == "__main__":
    main()
