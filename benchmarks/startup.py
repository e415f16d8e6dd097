"""How long the first training step takes: cold, from the compile cache, and with Keras on JAX.

    python -m hornfels.benchmarks.startup --models small --rounds 3

Every start is a process of its own. Its clock runs from `compile` to the end of the first training
step; importing the packages, building the model and its samples come before, except for TVM, which
Hornfels imports when it has something to compile. The starts of a round come one after the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Column, Table

from .models import BENCH_MODELS, SETS

COLD, WARM, PEER = "cold", "warm", "keras-jax"
STARTS = (PEER, COLD, WARM)


@dataclass
class Started:
    """The starts of one kind: seconds of the first step, and of the whole process."""

    first: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)

    def shown(self) -> tuple[str, str]:
        """The medians."""
        return f"{statistics.median(self.first):.2f}", f"{statistics.median(self.process):.1f}"


def first_step(name: str, kind: str) -> float:
    """Seconds from `compile` to the end of the first training step, in this process."""
    model = BENCH_MODELS[name]
    x, y = model.samples(model.batch_size)
    peer = kind == PEER
    package = importlib.import_module("keras" if peer else "hornfels")
    built = model.build(package)
    begin = time.perf_counter()
    (built if peer else package.compile(built)).train_on_batch(x, y)
    return time.perf_counter() - begin


def start(name: str, kind: str, folder: str) -> tuple[float, float]:
    """Make the first step in a fresh process, with the compile cache in `folder`.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails; what it wrote is on stderr.
    """
    environment = {  # settings that watch how a program is made turn the cache off
        **{k: v for k, v in os.environ.items() if not k.startswith("HORNFELS_")},
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "HORNFELS_CACHE_DIR": folder,
        "HORNFELS_CACHE_SIZE": "0" if kind == COLD else "1G",
    }
    command = [sys.executable, "-m", "hornfels.benchmarks.startup", "--child", name, kind]
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - begin


def measure(name: str, kinds: Sequence[str], rounds: int) -> dict[str, Started]:
    """Start a model in each of these ways, in turns."""
    found = {kind: Started() for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="hornfels") as folder:
        start(name, WARM, folder)  # fills the cache
        for _ in range(rounds):
            for kind, started in found.items():
                first, process = start(name, kind, folder)
                started.first.append(first)
                started.process.append(process)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="hornfels.benchmarks.startup", description=__doc__)
    parser.add_argument("--models", default="small", help=f"names, or {', '.join(SETS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        print(json.dumps(first_step(*arguments.child)))
        return
    has_peer = all(importlib.util.find_spec(module) for module in ("keras", "jax"))
    kinds = STARTS if has_peer else (COLD, WARM)
    names = SETS.get(arguments.models, tuple(arguments.models.split(",")))
    table = Table(Column("model", no_wrap=True), *kinds, *(f"process, {kind}" for kind in kinds))
    for name in names:
        shown = [started.shown() for started in measure(name, kinds, arguments.rounds).values()]
        table.add_row(name, *(first for first, _ in shown), *(process for _, process in shown))
    Console().print(table)


if __name__ == "__main__":
    main()
