"""How the time of tracing, differentiating, optimizing and planning grows with the graph.

    python -m hornfels.benchmarks.scale --markdown benchmarks/SCALE.md

The graphs are training steps (Adam, batch normalization) of residual networks of growing depth;
the one with 50 blocks is ResNet-152. Times are of one thread (`time.process_time`), medians.
"""

from __future__ import annotations

import argparse
import gc
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .. import layers
from ..frontend.models import Model
from ..ir.files import replacing
from ..ir.graph import Graph
from ..ir.types import f32, i32, symbol
from ..passes.pipeline import make_plan, optimize

RESNET_152 = (3, 8, 36, 3)
DEPTHS: tuple[tuple[int, ...], ...] = (
    (1, 1, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3), RESNET_152, (3, 8, 52, 3),
)  # fmt: skip
STEPS = ("trace", "optimize", "plan")


def residual_network(blocks: Sequence[int]) -> Model:
    """A residual network of bottleneck blocks in four stages (He et al. 2015, table 1)."""

    def convolution(x: Any, filters: int, size: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    def block(x: Any, filters: int, strides: int, first: bool) -> Any:
        shortcut = convolution(x, 4 * filters, 1, strides) if first else x
        y = layers.ReLU()(convolution(x, filters, 1, strides))
        y = layers.ReLU()(convolution(y, filters, 3))
        y = convolution(y, 4 * filters, 1)
        return layers.ReLU()(layers.Add()([y, shortcut]))

    x = image = layers.Input((224, 224, 3))
    x = layers.ReLU()(convolution(x, 64, 7, 2))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for stage, count in enumerate(blocks):
        for i in range(count):
            x = block(x, 64 * 2**stage, 2 if stage and not i else 1, first=not i)
    x = layers.GlobalAveragePooling2D()(x)
    model = Model(image, layers.Dense(1000, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@dataclass(frozen=True)
class Measured:
    """One graph: its size at three points, and seconds of each of `STEPS`."""

    blocks: int
    traced: int
    optimized: int
    calls: int
    seconds: dict[str, float]

    def per_node(self, step: str) -> float:
        """Microseconds a traced node."""
        return 1e6 * self.seconds[step] / self.traced

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def _timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    gc.collect()
    start = time.process_time()
    result = function(*args)
    return result, time.process_time() - start


def measure_once(blocks: Sequence[int]) -> Measured:
    """Trace with gradients and optimizer, optimize for a batch of 8, and plan."""
    model = residual_network(blocks)
    types = {"x": f32(symbol("N"), 224, 224, 3), "y": i32(symbol("N"))}
    (graph, _), trace = _timed(model.trace, "train", types)
    fixed: Graph = graph.specialize({"N": 8})
    optimized, optimizing = _timed(optimize, fixed)
    plan, planning = _timed(make_plan, optimized)
    seconds = dict(zip(STEPS, (trace, optimizing, planning), strict=True))
    return Measured(sum(blocks), len(graph.nodes), len(optimized.nodes), len(plan.calls), seconds)


def measure(blocks: Sequence[int], rounds: int) -> Measured:
    """The medians of several rounds."""
    found = [measure_once(blocks) for _ in range(rounds)]
    seconds = {s: statistics.median(m.seconds[s] for m in found) for s in STEPS}
    first = found[0]
    return Measured(first.blocks, first.traced, first.optimized, first.calls, seconds)


def growth(measured: Sequence[Measured], step: str) -> float:
    """The exponent of time against nodes, from the second graph to the last: 1 is linear."""
    first, last = measured[1 if len(measured) > 2 else 0], measured[-1]
    return math.log(last.seconds[step] / first.seconds[step]) / math.log(last.traced / first.traced)


def rows(measured: Sequence[Measured]) -> Iterator[list[str]]:
    """The cells of the table."""
    for m in measured:
        times = [f"{m.seconds[s]:.2f} ({m.per_node(s):.0f})" for s in STEPS]
        yield [str(m.blocks), str(m.traced), str(m.optimized), str(m.calls), *times,
               f"{m.total:.1f}"]  # fmt: skip


HEADER = ["blocks", "nodes traced", "optimized", "kernel calls",
          *(f"{s}, s (us a node)" for s in STEPS), "total s"]  # fmt: skip


def markdown(measured: Sequence[Measured], rounds: int) -> str:
    """The page of results."""
    lines = [" | ".join(HEADER), " | ".join("---:" for _ in HEADER),
             *(" | ".join(row) for row in rows(measured))]  # fmt: skip
    table = "\n".join(f"| {line} |" for line in lines)
    exponents = ", ".join(f"{s} {growth(measured, s):.2f}" for s in STEPS)
    return f"""# How compile time grows with the graph

Written by `python -m hornfels.benchmarks.scale --rounds {rounds} --markdown FILE`: training steps
(forward, loss, backward, batch statistics, Adam) of residual networks of bottleneck blocks at
224x224; 50 blocks are ResNet-152. Seconds of one thread, medians of {rounds} rounds, on
{platform.machine()}, Python {platform.python_version()}; code generation is not in them.

{table}

Exponent of time against nodes from the second row to the last (1 is linear): {exponents}.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="hornfels.benchmarks.scale", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depths", type=int, default=len(DEPTHS), help="only the first so many")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    measured = [measure(blocks, arguments.rounds) for blocks in DEPTHS[: arguments.depths]]
    table = Table(*HEADER)
    for row in rows(measured):
        table.add_row(*row)
    Console().print(table)
    if arguments.markdown:
        with replacing(arguments.markdown) as path:
            path.write_text(markdown(measured, arguments.rounds))


if __name__ == "__main__":
    main()
