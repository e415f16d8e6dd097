"""What a memory budget costs: a training step's time against the bytes that it may use.

    python -m hornfels.benchmarks.budget --model resnet50 --shares 0.75,0.5

A share is that of the temporary bytes (the arena: activations, gradients, workspaces) of the step
without a budget. All are compiled in this process and make their steps in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

import hornfels

from ..ir.errors import MemoryBudgetError
from ..ir.types import type_of
from .bench_model import BenchModel
from .measuring import Batches
from .models import BENCH_MODELS


@dataclass
class Measured:
    """A compiled training step: its share of the bytes, what it takes, and its times in seconds."""

    share: float
    arena: int
    step: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def compiled(model: BenchModel, data: Batches, share: float, budget: int | None) -> Measured:
    """Compile a model within a budget in bytes and make its first step.

    Raises
    ------
    MemoryBudgetError
        If no plan that was found fits.
    """
    fast = hornfels.compile(model.build(hornfels), memory_budget=budget)
    batch = data.batch(0)

    def step() -> Any:
        return fast.train_on_batch(*batch)

    step()
    return Measured(share, _memory(fast, data)[1], step)


def _memory(fast: Any, data: Batches) -> tuple[int, int]:
    """Bytes that stay (parameters, inputs, outputs, constants), and those of the arena."""
    batch = fast.model.pack(*data.batch(0))
    types = {name: type_of(array) for name, array in batch.items()}
    executable = fast.step("train", types).executable(data.batch_size)
    face = executable.face
    stays = sum(blank.nbytes for blank in (*face.inputs, *face.state, *face.outputs))
    constants = sum(array.nbytes for array in executable.compilation.constants)
    return stays + constants, executable.peak_bytes


def measure(
    model: BenchModel, batch_size: int, shares: Sequence[float], rounds: int, console: Console
) -> list[Measured]:
    """Time the step without a budget and within each share that a plan fits into, in turns."""
    data = Batches.random(model, batch_size, 1)
    free = hornfels.compile(model.build(hornfels))
    free.train_on_batch(*data.batch(0))
    stays, arena = _memory(free, data)
    measured = [Measured(1.0, arena, lambda: free.train_on_batch(*data.batch(0)))]
    for share in shares:
        try:
            measured.append(compiled(model, data, share, stays + int(share * arena)))
        except MemoryBudgetError as error:
            console.print(f"share {share}: {error}", highlight=False)
    for _ in range(rounds):
        for one in measured:
            start = time.perf_counter()
            one.step()
            one.seconds.append(time.perf_counter() - start)
    return measured


def table_of(measured: Sequence[Measured]) -> Table:
    """One row for each budget."""
    table = Table("share asked", "arena, MiB", "of all", "ms a step", "to no budget")
    base = measured[0]
    for one in measured:
        table.add_row(
            f"{one.share:.2f}",
            f"{one.arena / 2**20:.0f}",
            f"{one.arena / base.arena:.0%}",
            f"{one.median * 1e3:.1f}",
            f"{one.median / base.median:.2f}x",
        )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="hornfels.benchmarks.budget", description=__doc__)
    parser.add_argument("--model", choices=tuple(BENCH_MODELS), default="resnet50")
    parser.add_argument("--batch-size", type=int, help="by the model, if not given")
    parser.add_argument("--shares", default="0.75,0.5", help="comma-separated, of the arena")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args(argv)
    model = BENCH_MODELS[arguments.model]
    shares = [float(share) for share in arguments.shares.split(",")]
    console = Console()
    size = arguments.batch_size or model.batch_size
    console.print(table_of(measure(model, size, shares, arguments.rounds, console)))


if __name__ == "__main__":
    main()
