"""Callbacks: what users hook into training, with Keras' names and meaning."""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import ArgumentError
from ..ir.files import writing

Logs = Mapping[str, float] | None


class Callback:
    """Base class; override the moments that matter.

    Attributes
    ----------
    model : Model
        The model in training; set `model.stop_training = True` to end it.
    params : dict
        `epochs`, `steps`, `verbose`.
    """

    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}

    def set_model(self, model: Any) -> None:
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def on_train_begin(self, logs: Logs = None) -> None:
        """Called once before training."""

    def on_train_end(self, logs: Logs = None) -> None:
        """Called once after training, with the last epoch's logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Called before an epoch; `epoch` counts from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Called after an epoch, validation included (`val_...` in the logs)."""

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Called before a training step."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Called after a training step with the epoch's metrics so far."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Another name of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Another name of `on_train_batch_end`."""

    def on_test_begin(self, logs: Logs = None) -> None:
        """Called before an evaluation."""

    def on_test_end(self, logs: Logs = None) -> None:
        """Called after an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Called before an evaluation step."""

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Called after an evaluation step."""

    def on_predict_begin(self, logs: Logs = None) -> None:
        """Called before a prediction."""

    def on_predict_end(self, logs: Logs = None) -> None:
        """Called after a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Called before a prediction step."""

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Called after a prediction step."""


class CallbackList(Callback):
    """Calls every callback in order; what `fit` talks to."""

    def __init__(self, callbacks: Sequence[Callback], model: Any, **params: Any) -> None:
        super().__init__()
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ArgumentError(f"callbacks must be Callback objects, got {callback!r}")
            callback.set_model(model)
            callback.set_params(params)


def _forward(moment: str) -> Callable[..., None]:
    def call(self: CallbackList, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, moment)(*args)

    return call


for _moment in [name for name in vars(Callback) if name.startswith("on_")]:
    setattr(CallbackList, _moment, _forward(_moment))


class History(Callback):
    """Records each epoch's logs in `history`, a dict of lists, and the epochs in `epoch`."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class LambdaCallback(Callback):
    """Calls the functions given by moment: `LambdaCallback(on_epoch_end=lambda e, logs: ...)`."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        super().__init__()
        moments = [name for name in vars(Callback) if name.startswith("on_")]
        for moment, function in functions.items():
            if moment not in moments:
                raise ArgumentError(f"LambdaCallback: {moment!r} is none of {', '.join(moments)}")
            if function is not None:
                setattr(self, moment, function)


class TerminateOnNaN(Callback):
    """Stops training and warns when the loss becomes NaN or infinite."""

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            warnings.warn(f"batch {batch}: the loss is {loss}, training stops", stacklevel=2)
            self.model.stop_training = True


class _Monitor(Callback):
    """What EarlyStopping and ModelCheckpoint share: is this epoch's value an improvement?"""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise ArgumentError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        largest = mode == "max" or (mode == "auto" and _larger_is_better(monitor))
        self.sign = 1.0 if largest else -1.0
        self.min_delta = abs(min_delta)

    def improves(self, value: float, best: float | None) -> bool:
        if best is None:
            return not math.isnan(value)
        return self.sign * (value - best) > self.min_delta

    def value(self, logs: Logs) -> float | None:
        found = (logs or {}).get(self.monitor)
        if found is None:
            known = ", ".join(logs or {})
            warnings.warn(
                f"{type(self).__name__}: there is no metric {self.monitor!r}; there are {known}",
                stacklevel=3,
            )
        return found


def _larger_is_better(monitor: str) -> bool:
    name = monitor.removeprefix("val_")
    return name.endswith(("acc", "accuracy", "auc", "precision", "recall", "f1_score", "iou"))


class EarlyStopping(_Monitor):
    """Stops training once `monitor` has not improved for `patience` epochs.

    Parameters
    ----------
    monitor : str
        A name of the epoch's logs, such as `"val_loss"`.
    min_delta : float
        The least change that counts as an improvement.
    patience : int
        Epochs without improvement that are tolerated.
    verbose : int
        1 prints a line when training stops.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better; `"auto"` infers it from the name.
    baseline : float, optional
        A value that must be beaten first.
    restore_best_weights : bool
        Put the weights of the best epoch back at the end.
    start_from_epoch : int
        Epochs to wait before monitoring begins.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch

    def on_train_begin(self, logs: Logs = None) -> None:
        self.wait = 0
        self.stopped_epoch = 0
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        value = self.value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self.best_weights, self.best_epoch = self.model.get_weights(), epoch
        self.wait += 1
        if self.improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self.best_weights is not None:
            self.model.set_weights(self.best_weights)


class ModelCheckpoint(_Monitor):
    """Saves the weights after epochs or batches, all of them or only the best.

    Parameters
    ----------
    filepath : path
        Ends in `.weights.h5`; may name logs: `"{epoch:02d}-{val_loss:.2f}.weights.h5"`.
    monitor, mode
        As for `EarlyStopping`.
    verbose : int
        1 prints a line for every file.
    save_best_only : bool
        Save only when `monitor` improves.
    save_weights_only : bool
        Must be true: whole models cannot be saved yet.
    save_freq : "epoch" or int
        After every epoch, or after so many batches.
    initial_value_threshold : float, optional
        A best value to start from.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath = os.fspath(filepath)
        if not save_weights_only or not self.filepath.endswith(".weights.h5"):
            raise ArgumentError(
                "ModelCheckpoint: filepath must end in '.weights.h5' and save_weights_only must "
                f"be True, got {self.filepath!r} and {save_weights_only}"
            )
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
            raise ArgumentError(f"save_freq must be 'epoch' or a positive int, got {save_freq!r}")
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_freq = save_freq
        self.best = initial_value_threshold
        self._epoch = 0
        self._batches = 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._batches += 1
        if isinstance(self.save_freq, int) and self._batches % self.save_freq == 0:
            self._save(self._epoch, {"batch": batch + 1, **(logs or {})})

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, logs)

    def _save(self, epoch: int, logs: Logs) -> None:
        if self.save_best_only:
            value = self.value(logs)
            if value is None or not self.improves(value, self.best):
                return
            self.best = value
        try:
            path = Path(self.filepath.format(epoch=epoch + 1, **(logs or {})))
        except KeyError as error:
            raise ArgumentError(
                f"ModelCheckpoint: {self.filepath!r} names {error}, the logs hold "
                f"{', '.join(logs or {})}"
            ) from None
        self.model.save_weights(path, overwrite=True)
        if self.verbose:
            print(f"Epoch {epoch + 1}: weights saved to {path}")


class CSVLogger(Callback):
    """Writes each epoch's logs as a line of a CSV file.

    Parameters
    ----------
    filename : path
    separator : str
    append : bool
        Continue an existing file instead of replacing it.
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        super().__init__()
        self.filename = Path(filename)
        self.separator = separator
        self.append = append

    def on_train_begin(self, logs: Logs = None) -> None:
        continued = self.append and self.filename.exists() and self.filename.stat().st_size > 0
        self._header = not continued
        self._columns: list[str] = []
        if continued:
            with self.filename.open(newline="") as file:
                self._columns = next(csv.reader(file, delimiter=self.separator))
        with writing(self.filename):
            self._file = self.filename.open("a" if self.append else "w", newline="")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        row = {"epoch": epoch, **(logs or {})}
        self._columns = self._columns or list(row)
        writer = csv.DictWriter(self._file, self._columns, restval="NA", extrasaction="ignore",
                                delimiter=self.separator)  # fmt: skip
        if self._header:
            writer.writeheader()
            self._header = False
        writer.writerow(row)
        self._file.flush()

    def on_train_end(self, logs: Logs = None) -> None:
        self._file.close()
