"""One engine in a process of its own: takes one JSON request a line, answers with one.

`python -m hornfels.benchmarks.worker NAME` is started by `hornfels bench`. Requests:
`{"do": "load", "model": ..., "batch_size": ..., "batches": ..., "policy": ...}`, with
`"sizes"` for the definition of a model of another size;
`{"do": "train" | "predict", "steps": ...}` and `{"do": "quit"}`.

With the time of training steps comes the most memory that the process had meanwhile, less what it
had when its packages were imported and the batches made: weights, state and activations. The
answer to `load` has the same for the time until then, in which models are built and compiled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .engines import ENGINES
from .measuring import Batches, Engine
from .models import BENCH_MODELS


def main() -> None:
    """Serve the engine that the command line names until the input ends."""
    (name,) = sys.argv[1:]
    answers = _claim_stdout()
    worker = Worker(ENGINES[name].make())
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        try:
            answer = worker.serve(request)
        except Exception as error:  # noqa: BLE001 - any failure of an engine is an answer
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".split("\n")[0]}
        print(json.dumps(answer), file=answers, flush=True)


def _claim_stdout() -> TextIO:
    """Keep the pipe for answers; what libraries print goes to the error output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


@dataclass
class Worker:
    """Answers requests to an engine."""

    engine: Engine
    before: float = math.nan

    def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        if request["do"] == "load":
            return self._load(request)
        kinds = {"train": self.engine.train, "predict": self.engine.predict}
        if request["do"] not in kinds:
            raise ValueError(f"worker: unknown request {request['do']!r}")
        forget_peak()
        cpu, start = time.process_time(), time.perf_counter()
        loss = kinds[request["do"]](request["steps"])
        seconds = time.perf_counter() - start
        cpu = time.process_time() - cpu
        peak = resident("VmHWM") - self.before
        return {"seconds": seconds, "cpu_seconds": cpu, "loss": loss, "peak": peak}

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        model = BENCH_MODELS[request["model"]].sized(**request.get("sizes", {}))
        self.engine.begin(request["policy"])
        data = Batches.random(model, request["batch_size"], request["batches"])
        self.before = resident("VmRSS")
        forget_peak()
        first = self.engine.load(model, data)
        return {
            "first": first,
            "peak": resident("VmHWM") - self.before,
            "versions": self.engine.versions(),
            "notes": self.engine.notes(),
        }


def resident(field: str) -> float:
    """Bytes of this process in memory, now (`VmRSS`) or at the most (`VmHWM`), by Linux; or NaN."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next((1024.0 * int(x.split()[1]) for x in lines if x.startswith(f"{field}:")), math.nan)


def forget_peak() -> None:
    """Let `VmHWM` begin with what is in memory now, where Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
