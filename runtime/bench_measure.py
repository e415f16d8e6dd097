"""Seconds a step of every backend and of every installed peer, measured in one run.

Each engine lives in a process of its own, is warmed up, and is then asked for one round of steps
after the other engines had theirs: rounds are interleaved, and only one engine computes at a time.
So a slow moment of the machine meets all of them, and the ratios of the medians can be compared.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console

from ..benchmarks.bench_model import BenchModel
from ..benchmarks.engines import ENGINES, EngineKind
from ..benchmarks.measuring import cores
from ..benchmarks.models import BENCH_MODELS, SETS
from .bench_busy import one_busy_core

LOAD_TIMEOUT_SECONDS = 900
ROUND_TIMEOUT_SECONDS = 300
# Thread pools of an engine go on spinning for a while after its last step.
SETTLE_SECONDS = 0.25
MATMUL_SIZE = 2048


@dataclass(frozen=True)
class Options:
    """What to measure.

    Parameters
    ----------
    models
        Names of benchmark models.
    engines
        Names of engines, in the order of the table.
    batch_size
        Samples a step; those of each model if None.
    policy
        The dtype policy of all models: `float32`, or `mixed_bfloat16`.
    rounds
        Timed rounds of each engine; the median counts.
    round_seconds
        Aimed length of a round; it decides the steps of a round.
    busy
        Whether to time every round once more while another process computes on one core.
    """

    models: tuple[str, ...] = SETS["small"]
    engines: tuple[str, ...] = tuple(ENGINES)
    batch_size: int | None = None
    policy: str = "float32"
    rounds: int = 7
    round_seconds: float = 0.5
    busy: bool = False

    def batches_of(self, model: BenchModel) -> tuple[int, int]:
        """The samples of a training step and of a prediction."""
        train = self.batch_size or model.batch_size
        return train, model.predict_batch or train


@dataclass
class Measurement:
    """Seconds a step of one engine on one model; `error` says why there are none.

    `peak` is the memory in bytes that training takes at the most, `load_peak` what building,
    compiling and the first steps do; `busy_train` and `busy_predict` are seconds while another
    process computed on one core.
    """

    engine: str
    model: str
    train: list[float] = field(default_factory=list)
    predict: list[float] = field(default_factory=list)
    busy_train: list[float] = field(default_factory=list)
    busy_predict: list[float] = field(default_factory=list)
    first: float = math.nan
    peak: float = math.nan
    load_peak: float = math.nan
    notes: list[str] = field(default_factory=list)
    error: str = ""


@dataclass
class Report:
    """All measurements of a run and where they were taken."""

    options: Options
    measurements: list[Measurement] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    not_installed: dict[str, list[str]] = field(default_factory=dict)
    matmul_flops: list[float] = field(default_factory=list)
    load_average: float = math.nan
    foreign_cores: list[float] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """Floating-point operations a second of large f32 matrix products: the best round."""
        return max(self.matmul_flops, default=math.nan)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that were measured so far."""
        return tuple(dict.fromkeys(m.model for m in self.measurements))

    def of(self, model: str) -> list[Measurement]:
        """The measurements of one model, in the order of the engines."""
        return [m for m in self.measurements if m.model == model]


class WorkerError(RuntimeError):
    """A worker's process ended, or answered with an error, or not in time."""


def worker_command(kind: EngineKind) -> list[str]:
    """The command line of the process of an engine."""
    return [sys.executable, "-m", "hornfels.benchmarks.worker", kind.name]


class Worker:
    """The process of one engine, which may use some of our cores or all."""

    def __init__(self, kind: EngineKind, cores: int | None = None) -> None:
        self.kind = kind
        self.cores = cores
        self._start()

    def _start(self) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop
        self._process = subprocess.Popen(
            worker_command(self.kind),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_worker_environment(),
        )
        if self.cores:  # before it starts any thread; forked children would have to be careful
            ours = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(self._process.pid, ours[: self.cores])
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def restart(self) -> None:
        """Start a new process, so that nothing of the last model is left."""
        self.stop()
        self._start()

    def ask(self, timeout: float, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises
        ------
        WorkerError
            The answer is an error, does not come within `timeout` seconds, or the process ended.
        """
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.stop()
            raise WorkerError(f"no answer within {timeout:.0f} s; stopped") from None
        except OSError:
            line = ""
        if not line:
            raise WorkerError(
                f"its process ended with status {self._process.wait()}: {self._end()}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def stop(self) -> None:
        """End the process, at once if it does not end by itself."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._log.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _end(self) -> str:
        """The last line that the process wrote to its error output."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


def _worker_environment() -> dict[str, str]:
    """Ours, with the libraries' chatter off and no limit on threads that the user did not set."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **quiet}


def measure(
    options: Options,
    console: Console | None = None,
    after_model: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Run the benchmark.

    Parameters
    ----------
    options
        What to measure. Engines whose packages are not installed are left out and reported.
    console
        Where to say what is being done; None says nothing.
    after_model
        Called with the report so far when a model has been measured.

    Returns
    -------
    Report
    """
    say = console.print if console else lambda *_: None
    report = Report(options)
    if hasattr(os, "getloadavg"):
        report.load_average = os.getloadavg()[0]
        if report.load_average > cores() / 2:
            say(f"[yellow]The machine is busy: load {report.load_average:.1f} on {cores()} cores.")
    kinds = []
    for name in options.engines:
        missing = ENGINES[name].missing_modules()
        if missing:
            report.not_installed[name] = missing
        else:
            kinds.append(ENGINES[name])
    with contextlib.ExitStack() as stack:
        workers = {kind.name: _started(kind, stack) for kind in kinds}
        for number, name in enumerate(options.models):
            say(f"[bold]{name}")
            for worker in workers.values() if number else ():
                worker.restart()
            _measure_model(BENCH_MODELS[name], workers, report, say)
            after_model(report)
    return report


def _started(kind: EngineKind, stack: contextlib.ExitStack) -> Worker:
    worker = Worker(kind)
    stack.callback(worker.stop)
    return worker


def _measure_model(
    model: BenchModel, workers: dict[str, Worker], report: Report, say: Callable[..., None]
) -> None:
    options = report.options
    rows = {name: Measurement(name, model.name) for name in workers}
    report.measurements += rows.values()
    batch_size, _ = options.batches_of(model)
    batches = _batches_for(model, batch_size)
    steps: dict[tuple[str, str], int] = {}
    for name, worker in workers.items():
        row = rows[name]
        try:
            answer = worker.ask(
                LOAD_TIMEOUT_SECONDS,
                do="load",
                model=model.name,
                batch_size=batch_size,
                batches=batches,
                policy=options.policy,
            )
            row.first, row.notes = answer["first"], answer["notes"]
            row.load_peak = answer["peak"]
            report.versions |= answer["versions"]
            for kind in ("train", "predict"):
                steps[name, kind] = _steps_of_a_round(worker, kind, options.round_seconds, batches)
        except WorkerError as error:
            row.error = str(error)
        say(f"  {name}: {row.error or f'first step after {row.first:.2f} s'}")
    for number in range(options.rounds):
        report.matmul_flops.append(_matmul_flops())
        names = [name for name in workers if not rows[name].error]
        first = number % max(len(names), 1)  # another engine each time
        for name in names[first:] + names[:first]:
            report.foreign_cores += _one_round(workers[name], rows[name], steps, options.busy)


def _one_round(
    worker: Worker, row: Measurement, steps: dict[tuple[str, str], int], with_busy: bool
) -> Iterator[float]:
    """Time both kinds of step; yields the cores that other processes used meanwhile."""
    for kind, quiet, busy in (
        ("train", row.train, row.busy_train),
        ("predict", row.predict, row.busy_predict),
    ):
        count = steps[row.engine, kind]
        answer = _timed(worker, row, kind, count)
        if answer is None:
            return
        quiet.append(answer["seconds"] / count)
        yield answer["foreign_cores"]
        if with_busy:
            with one_busy_core():
                answer = _timed(worker, row, kind, count)
            if answer is None:
                return
            busy.append(answer["seconds"] / count)


def _timed(worker: Worker, row: Measurement, kind: str, count: int) -> dict[str, Any] | None:
    """The worker's answer to a number of steps; None, and the row's error, if that is wrong."""
    time.sleep(SETTLE_SECONDS)
    before = _busy_seconds()
    try:
        answer = worker.ask(ROUND_TIMEOUT_SECONDS, do=kind, steps=count)
    except WorkerError as error:
        row.error = str(error)
        return None
    if kind == "train" and not math.isfinite(answer["loss"]):
        row.error = f"the loss is {answer['loss']}"
        return None
    if kind == "train":
        row.peak = np.fmax(row.peak, answer["peak"])
    foreign = max(_busy_seconds() - before - answer["cpu_seconds"], 0.0)
    return {**answer, "foreign_cores": foreign / answer["seconds"]}


def _busy_seconds() -> float:
    """Processor seconds that all processes have used, as Linux counts them; NaN elsewhere."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return math.nan
    user, nice, system = map(int, fields[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _batches_for(model: BenchModel, batch_size: int) -> int:
    """Different batches to keep: up to 64 MB of samples, and not more than 64."""
    bytes_of_a_batch = 4 * batch_size * math.prod(model.input_shape)
    return int(np.clip(64e6 // bytes_of_a_batch, 1, 64))


def _steps_of_a_round(worker: Worker, kind: str, seconds: float, batches: int) -> int:
    """Steps that fill about `seconds`; this is the warm-up too."""
    worker.ask(ROUND_TIMEOUT_SECONDS, do=kind, steps=1)
    one = worker.ask(ROUND_TIMEOUT_SECONDS, do=kind, steps=1)["seconds"]
    count = int(np.clip(seconds / max(one, 1e-9), 1, batches))
    if count > 1:
        some = worker.ask(ROUND_TIMEOUT_SECONDS, do=kind, steps=count)["seconds"]
        count = int(np.clip(seconds * count / some, 1, batches))
    return count


def _matmul_flops() -> float:
    """Operations a second of one large f32 matrix product through NumPy's BLAS."""
    a = np.ones((MATMUL_SIZE, MATMUL_SIZE), np.float32)
    a @ a
    start = time.perf_counter()
    a @ a
    return 2 * MATMUL_SIZE**3 / (time.perf_counter() - start)
