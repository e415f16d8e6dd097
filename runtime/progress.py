"""The progress display of fit, evaluate and predict: a rich bar, or plain lines."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from ..ir.errors import ArgumentError
from .callbacks import Callback, Logs

REFRESH_SECONDS = 0.1
"""The bar's metrics are redrawn at most this often: drawing must not slow training."""


def format_logs(logs: Logs) -> str:
    """`loss: 0.1234 - accuracy: 0.9876`."""
    return " - ".join(f"{name}: {_number(value)}" for name, value in (logs or {}).items())


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) > 1e-3 or value == 0 else f"{value:.4e}"


def resolve_verbose(verbose: int | str, console: Console) -> int:
    """0 silent, 1 a bar, 2 a line per epoch; `"auto"` is 1 on a terminal, else 2."""
    if verbose == "auto":
        return 1 if console.is_terminal else 2
    if verbose in (0, 1, 2):
        return 2 if verbose == 1 and not console.is_terminal else int(verbose)
    raise ArgumentError(f"verbose must be 'auto', 0, 1 or 2, got {verbose!r}")


class ProgressDisplay(Callback):
    """Shows each epoch's steps, time and metrics.

    Parameters
    ----------
    verbose : {"auto", 0, 1, 2}
        1 draws a bar on a terminal and falls back to lines elsewhere; 2 prints lines.
    console : rich.console.Console, optional
        Where to; standard output by default.
    """

    def __init__(self, verbose: int | str = "auto", console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Console()
        self.verbose = resolve_verbose(verbose, self.console)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._training = False

    def on_train_begin(self, logs: Logs = None) -> None:
        self._training = True

    def on_train_end(self, logs: Logs = None) -> None:
        self._training = False
        self._stop()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._begin(f"Epoch {epoch + 1}/{self.params['epochs']}")

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._step(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._end(logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        if not self._training:
            self._begin("Evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        if not self._training:
            self._step(batch, logs)

    def on_test_end(self, logs: Logs = None) -> None:
        if not self._training:
            self._end(logs)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._begin("Predict")

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._step(batch, logs)

    def on_predict_end(self, logs: Logs = None) -> None:
        self._end(logs)

    def _begin(self, title: str) -> None:
        self._title, self._start, self._drawn, self._steps = title, time.perf_counter(), 0.0, 0
        if self.verbose != 1:
            return
        self._stop()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[metrics]}"),
            console=self.console, auto_refresh=False,
        )  # fmt: skip
        self._task = self._progress.add_task(title, total=self.params.get("steps"), metrics="")
        self._progress.start()

    def _step(self, batch: int, logs: Logs) -> None:
        self._steps = batch + 1
        now = time.perf_counter()
        if self._progress is None or now - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = now
        self._progress.update(self._task, completed=self._steps, metrics=format_logs(logs),
                              refresh=True)  # fmt: skip

    def _end(self, logs: Logs) -> None:
        seconds = time.perf_counter() - self._start
        per_step = 1e3 * seconds / max(1, self._steps)
        summary = f"{per_step:.1f} ms/step"
        if logs:
            summary += f" - {format_logs(logs)}"
        if self._progress is not None:
            self._progress.update(self._task, completed=self._steps, metrics=summary, refresh=True)
            self._stop()
        elif self.verbose == 2:
            self.console.print(f"{self._title} - {seconds:.1f} s - {summary}", highlight=False,
                               soft_wrap=True)  # fmt: skip

    def close(self) -> None:
        """Leave the terminal in order, also when training was interrupted."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def as_floats(logs: dict[str, Any]) -> dict[str, float]:
    """Metric results as Python floats."""
    return {name: float(value) for name, value in logs.items()}
