"""A training step with vectors of 256 bits against one with those of the machine, on one thread.

::

    python -m hornfels.benchmarks.vectors --models mlp,resnet

Both are compiled for this machine, once with the features of AVX2 and FMA alone, and run in turns;
the processor's clock counts, so other processes' turns do not. The limit of each is NumPy's product
of two large matrices, made by OpenBLAS with its kernels for the same instructions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..codegen.tvm.target import host_machine
from ..ir.errors import ArgumentError
from .measuring import Batches
from .models import BENCH_MODELS, SETS


@dataclass(frozen=True)
class Vectors:
    """Instructions to compile for: a target, and OpenBLAS' name of kernels that use the same."""

    name: str
    target: str
    openblas: str


AVX2 = Vectors("AVX2", "cpu -mcpu=haswell -num-cores=1", "Haswell")
AVX512 = Vectors("AVX-512", "cpu -num-cores=1", "SkylakeX")

_LIMIT = """
import json, time
import numpy as np
a, b = (np.random.rand(1536, 1536).astype(np.float32) for _ in "ab")
c, best = np.empty_like(a), 9e9
for _ in range(20):
    start = time.thread_time()
    np.matmul(a, b, out=c)
    best = min(best, time.thread_time() - start)
print(json.dumps(2 * 1536**3 / best / 1e9))
"""


def limit(vectors: Vectors) -> float:
    """GFLOP/s of a large product with these instructions on one thread."""
    chosen = {"OPENBLAS_CORETYPE": vectors.openblas, "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", _LIMIT], env={**os.environ, **chosen}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return float(json.loads(result.stdout))


def measure(
    name: str, kinds: Sequence[Vectors], batch_size: int | None, seconds: float, warm: int = 2
) -> list[list[float]]:
    """Seconds of the training steps of a model for each of `kinds`, taken in turns."""
    model = BENCH_MODELS[name]
    data = Batches.random(model, batch_size or model.batch_size, 2)
    compiled = [_compiled(model, kind) for kind in kinds]
    found: list[list[float]] = [[] for _ in kinds]
    for each in compiled:
        for i in range(warm):
            each.train_on_batch(*data.batch(i))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found[0]) < 3:
        for each, own in zip(compiled, found, strict=True):
            start = time.thread_time()
            each.train_on_batch(*data.batch(len(own)))
            own.append(time.thread_time() - start)
    return found


def _compiled(model: Any, kind: Vectors) -> Any:
    import hornfels

    return hornfels.compile(model.build(hornfels), backend="tvm", target=kind.target)


HEADER = (
    *("model", "AVX-512 ms", "of its limit", "AVX2 ms", "of its limit"),
    *("AVX2 to AVX-512", "medians"),
)


def rows(names: Sequence[str], batch_size: int | None, seconds: float) -> Iterator[tuple[str, ...]]:
    """One line of the table for each model, while they are measured."""
    kinds = (AVX512, AVX2)
    limits = [limit(kind) for kind in kinds]
    yield tuple(f"{kind.name} {rate:.0f} GFLOP/s" for kind, rate in zip(kinds, limits, strict=True))
    for name in names:
        model = BENCH_MODELS[name]
        flops = model.train_flops * (batch_size or model.batch_size)
        times = measure(name, kinds, batch_size, seconds)
        line = [name]
        for own, rate in zip(times, limits, strict=True):
            line += [f"{min(own) * 1e3:.2f}", f"{flops / min(own) / rate / 1e9:.0%}"]
        wide, narrow = times
        middle = float(np.median(narrow) / np.median(wide))
        yield (*line, f"{min(narrow) / min(wide):.2f}", f"{middle:.2f}")


def main(arguments: list[str] | None = None) -> None:
    """Print the table of the models that the command line names."""
    parser = argparse.ArgumentParser(prog="hornfels.benchmarks.vectors", description=__doc__)
    parser.add_argument("--models", default="small", help="comma-separated, or a set of models")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring for each model")
    options = parser.parse_args(arguments)
    if "avx512f" not in host_machine().features:
        raise ArgumentError("vectors: compares AVX2 with AVX-512, which this processor has not")
    names = [n for name in options.models.split(",") for n in SETS.get(name, (name,))]
    for name in names:
        if name not in BENCH_MODELS:
            raise ArgumentError(f"vectors: must be of {', '.join(BENCH_MODELS)}, got {name!r}")
    print(" | ".join(HEADER))
    for row in rows(names, options.batch_size, options.seconds):
        print(" | ".join(row), flush=True)


if __name__ == "__main__":
    main()
