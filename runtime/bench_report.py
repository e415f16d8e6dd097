"""The tables of `hornfels bench`, for the terminal and as Markdown."""

from __future__ import annotations

import contextlib
import math
import platform
import statistics
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..benchmarks.measuring import cores
from ..benchmarks.models import BENCH_MODELS
from .bench_busy import busy_core
from .bench_measure import MATMUL_SIZE, Measurement, Report

COLUMNS = (
    "engine",
    "train ms",
    "limit",
    "to tvm",
    "predict ms",
    "limit",
    "to tvm",
    "first s",
    "MB",
)


def rows_of(report: Report, model: str) -> list[tuple[str, ...]]:
    """The table of one model: one row for each engine that was measured."""
    measured = [m for m in report.of(model) if not m.error]
    base = next((m for m in measured if m.engine == "tvm"), Measurement("tvm", model))
    bench = BENCH_MODELS[model]
    train, predict = report.options.batches_of(bench)
    return [
        (
            m.engine,
            *_cells(m.train, base.train, train * bench.train_flops, report),
            *_cells(m.predict, base.predict, predict * bench.forward_flops, report),
            f"{m.first:.2f}",
            "-" if math.isnan(m.peak) else f"{m.peak / 1e6:.0f}",
        )
        for m in measured
    ]


def failures_of(report: Report, model: str) -> list[str]:
    """One line for each engine that gave no numbers on one model: which, and why."""
    return [f"{m.engine}: {m.error}" for m in report.of(model) if m.error]


def busy_of(report: Report, model: str) -> list[str]:
    """One line for each engine that was measured with a busy core: its times, and ratios."""
    return [
        f"{m.engine}: with one core busy, {_slowed(m.busy_train, m.train)} a training step, "
        f"{_slowed(m.busy_predict, m.predict)} a prediction"
        for m in report.of(model)
        if m.busy_predict and not m.error
    ]


def loading_of(report: Report, model: str) -> list[str]:
    """One line with the memory that each engine took until it had made a step of each kind."""
    found = [
        f"{m.engine} {m.load_peak / 1e6:.0f} MB"
        for m in report.of(model)
        if not (m.error or math.isnan(m.load_peak))
    ]
    listed = ", ".join(found)
    return [f"at the most while it was built, compiled and first run: {listed}"] if found else []


def _lines_of(report: Report, model: str) -> list[str]:
    """What is said of a model below its table."""
    return [*loading_of(report, model), *busy_of(report, model), *failures_of(report, model)]


def _slowed(busy: Sequence[float], quiet: Sequence[float]) -> str:
    median = statistics.median(busy)
    return f"{median * 1e3:.2f} ms ({median / statistics.median(quiet):.2f}x)"


def _cells(
    seconds: Sequence[float], base: Sequence[float], flops: int, report: Report
) -> tuple[str, str, str]:
    """Median with half the distance of the quartiles, share of the limit, ratio to TVM's median."""
    median = statistics.median(seconds)
    low, high = np.percentile(seconds, [25, 75])
    rate = flops / median
    ratio = f"{median / statistics.median(base):.2f}x" if base else "-"
    time = f"{median * 1e3:.2f} ±{(high - low) / 2 / median:.0%}"
    return time, f"{rate / report.limit:.0%}", ratio


def machine() -> str:
    """The processor, its cores, the system and Python's version, in one line."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), name)
    return (
        f"{name} ({platform.machine()}), {cores()} cores, {platform.system()}, "
        f"Python {platform.python_version()}"
    )


def _median(numbers: Sequence[float]) -> float:
    return statistics.median(numbers) if numbers else math.nan


def facts_of(report: Report) -> list[str]:
    """Where, when and with what the numbers were taken, one fact a line."""
    options = report.options
    facts = [
        f"Machine: {machine()}; load {report.load_average:.1f} at the start; other processes used "
        f"{_median(report.foreign_cores):.2f} cores while the rounds ran (median), "
        f"{max(report.foreign_cores, default=math.nan):.2f} at the most.",
        f"Date: {datetime.now(UTC):%Y-%m-%d}.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(report.versions.items())) + ".",
        f"Arithmetic limit: {report.limit / 1e9:.0f} GFLOP/s, the best f32 product of two "
        f"{MATMUL_SIZE}x{MATMUL_SIZE} matrices through NumPy's BLAS in the same run.",
        f"Dtype policy {options.policy}; Adam; mean squared error for autoencoder, categorical "
        "cross-entropy for the others.",
        f"{options.rounds} interleaved rounds after a warm-up: medians, and half the distance of "
        "the quartiles.",
        "limit: share of the arithmetic limit; to tvm: time divided by that of tvm; MB: the most "
        "memory of a process in training, less that with its packages and the data loaded.",
    ]
    if options.busy:
        facts.append(
            "With one core busy: each round once more while another process computed on core "
            f"{busy_core()}; the median, and its ratio to that without."
        )
    for name in report.models:
        bench = BENCH_MODELS[name]
        train, predict = options.batches_of(bench)
        facts.append(
            f"{name}: {bench.train_flops * train / 1e9:.3f} GFLOP a training step of {train} "
            f"samples, {bench.forward_flops * predict / 1e9:.3f} a prediction of {predict} "
            "(products and convolutions)."
        )
    for name, modules in report.not_installed.items():
        facts.append(f"{name}: left out, {' and '.join(modules)} not installed.")
    for m in report.measurements:
        facts += [f"{m.engine} on {m.model}: {note}." for note in m.notes]
    return facts


# Nine columns in 80 characters.
_NARROW: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": 0, "show_edge": False}


def show(report: Report, console: Console) -> None:
    """Print one table a model, then the facts."""
    for model in report.models:
        table = Table(title=model, title_justify="left", title_style="bold", **_NARROW)
        for i, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if i else "left", no_wrap=True)
        for row in rows_of(report, model):
            table.add_row(*row)
        console.print(table)
        _print_list(_lines_of(report, model), console)
    _print_list(facts_of(report), console)


def _print_list(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)


def markdown(report: Report) -> str:
    """The same as `show` prints, as a Markdown document."""
    lines = ["# Benchmark results", "", "Written by `hornfels bench --markdown`.", ""]
    lines += [f"- {fact}" for fact in facts_of(report)]
    for model in report.models:
        lines += ["", f"## {model}", "", _markdown_row(COLUMNS)]
        lines.append(_markdown_row("---" if i == 0 else "---:" for i in range(len(COLUMNS))))
        lines += [_markdown_row(row) for row in rows_of(report, model)]
        below = _lines_of(report, model)
        lines += [""] * bool(below) + [f"- {line}" for line in below]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
