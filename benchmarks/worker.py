"""One engine in a process of its own: takes one JSON request a line, answers with one.

`python -m hornfels.benchmarks.worker NAME` is started by `hornfels bench`. Requests:
`{"do": "load", "model": ..., "batch_size": ..., "batches": ...}`,
`{"do": "train" | "predict", "steps": ...}` and `{"do": "quit"}`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any, TextIO

from .engines import ENGINES, Batches, Engine
from .models import BENCH_MODELS


def main() -> None:
    """Serve the engine that the command line names until the input ends."""
    (name,) = sys.argv[1:]
    answers = _claim_stdout()
    engine = ENGINES[name].make()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        try:
            answer = _serve(engine, request)
        except Exception as error:  # noqa: BLE001 - any failure of an engine is an answer
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".split("\n")[0]}
        print(json.dumps(answer), file=answers, flush=True)


def _claim_stdout() -> TextIO:
    """Keep the pipe for answers; what libraries print goes to the error output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _serve(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "load":
        model = BENCH_MODELS[request["model"]]
        data = Batches.random(model, request["batch_size"], request["batches"])
        first = engine.load(model, data)
        return {"first": first, "versions": engine.versions(), "notes": engine.notes()}
    kinds = {"train": engine.train, "predict": engine.predict}
    if request["do"] not in kinds:
        raise ValueError(f"worker: unknown request {request['do']!r}")
    cpu, start = time.process_time(), time.perf_counter()
    loss = kinds[request["do"]](request["steps"])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "loss": loss}


if __name__ == "__main__":
    main()
