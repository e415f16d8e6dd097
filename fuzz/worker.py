"""Graphs are checked in a process of its own: when native code dies, the fuzzer lives.

The parent writes a task as a line of JSON; the worker answers with a line before each variant,
so that a crash can be blamed, and one with the verdict.
"""

from __future__ import annotations

import faulthandler
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from .arrays import load_arrays
from .check import Failure, Verdict, check, signature_of
from .variants import Variant

TASKS = 250
"""A worker is replaced after so many tasks, since compiled code stays in its memory."""


@dataclass(frozen=True)
class Task:
    """What to check: the text of a graph, the seed of its arrays, and how."""

    text: str
    seed: int
    variants: tuple[Variant, ...]
    steps: int
    threads: int = 1
    numbers: bool = True
    arrays: str = ""  # a file of arrays, instead of those of the seed

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @staticmethod
    def read(line: str) -> Task:
        data: dict[str, Any] = json.loads(line)
        return Task(**{**data, "variants": tuple(Variant(**v) for v in data["variants"])})


def serve() -> None:
    """Check what comes in until nothing comes; what the process runs."""
    from ..ir.text import parse

    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what native code prints is no answer

    def answer(**words: Any) -> None:
        print(json.dumps(words), file=answers, flush=True)

    for line in sys.stdin:
        task = Task.read(line)
        verdict = check(
            parse(task.text), task.seed, task.variants, task.steps, threads=task.threads,
            numbers=task.numbers, arrays=load_arrays(task.arrays) if task.arrays else None,
            began=lambda variant: answer(began=asdict(variant)),
        )  # fmt: skip
        answer(verdict=verdict.to_json())


class Worker:
    """A process that checks graphs, started anew when it died.

    Parameters
    ----------
    timeout : float
        Seconds that a variant of a graph may take.
    command : sequence of str, optional
        What to start instead of a worker; for tests.
    """

    def __init__(self, timeout: float = 60.0, command: Sequence[str] | None = None) -> None:
        self.timeout = timeout
        self.command = command or [sys.executable, "-P", "-m", "hornfels.fuzz.worker"]
        self._process: subprocess.Popen[bytes] | None = None
        self._tasks = 0
        self._buffer = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()

    def stop(self) -> None:
        """End the process, if one runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def run(self, task: Task) -> Verdict:
        """Check a graph; a crash or a hang becomes a failure of the variant that ran."""
        process = self._started()
        assert process.stdin is not None
        self._tasks += 1
        running = Variant("oracle")
        try:
            process.stdin.write(task.line())
            process.stdin.flush()
            while True:
                words = json.loads(self._line())
                if "verdict" in words:
                    return Verdict.from_json(words["verdict"])
                running = Variant(**words["began"])
        except TimeoutError:
            text = f"ran for more than {self.timeout:g} s"
            failure = Failure("timeout", running, text, "timeout")
        except (EOFError, BrokenPipeError):
            failure = self._crash(running)
        self.stop()
        return Verdict([failure])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._tasks >= TASKS:
            self.stop()
        if self._process is None:
            self._tasks, self._buffer = 0, b""
            self._log.truncate(0)
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
            )
        return self._process

    def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        end = time.monotonic() + self.timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    raise EOFError
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _crash(self, running: Variant) -> Failure:
        assert self._process is not None
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")[-4000:]
        return Failure("crash", running, f"the process died: {name}", signature_of(name), said)


if __name__ == "__main__":
    serve()
