"""Callbacks, driven as `fit` drives them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from hornfels.ir.errors import ArgumentError
from hornfels.runtime.callbacks import (
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    ModelCheckpoint,
    TerminateOnNaN,
)  # fmt: skip


class FakeModel:
    """Counts its epochs in its only weight."""

    def __init__(self) -> None:
        self.stop_training = False
        self.weight = 0.0
        self.saved: list[tuple[str, float]] = []

    def get_weights(self) -> list[np.ndarray]:
        return [np.array(self.weight)]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.weight = float(weights[0])

    def save_weights(self, path: Path, overwrite: bool) -> None:
        self.saved.append((Path(path).name, self.weight))


def run(callback: Callback, logs: list[dict[str, float]]) -> FakeModel:
    """Train until the logs end or the callback stops it; each epoch has one batch."""
    model = FakeModel()
    hooks = CallbackList([callback], model, epochs=len(logs))
    hooks.on_train_begin()
    for epoch, log in enumerate(logs):
        hooks.on_epoch_begin(epoch)
        model.weight = epoch
        hooks.on_train_batch_end(0, log)
        hooks.on_epoch_end(epoch, log)
        if model.stop_training:
            break
    hooks.on_train_end()
    return model


def losses(*values: float, name: str = "val_loss") -> list[dict[str, float]]:
    return [{name: v} for v in values]


def test_history_records_every_epoch():
    history = History()
    run(history, [{"loss": 2.0}, {"loss": 1.0, "val_loss": 3.0}])
    assert history.epoch == [0, 1]
    assert history.history == {"loss": [2.0, 1.0], "val_loss": [3.0]}


def test_the_short_names_of_batches_are_called_too():
    class Counts(Callback):
        ends = 0

        def on_batch_end(self, batch, logs=None):
            self.ends += 1

    counts = Counts()
    run(counts, losses(3, 2))
    assert counts.ends == 2


@pytest.mark.parametrize(
    ("options", "values", "last_epoch"),
    [
        ({}, (3, 2, 2.5, 1), 2),
        ({"patience": 2}, (3, 2, 2.5, 2.6, 1), 3),
        ({"min_delta": 0.5}, (3, 2.8, 1), 1),
        ({"mode": "max"}, (1, 2, 1.5, 3), 2),
        ({"baseline": 1.0, "patience": 2}, (3, 2, 2, 2, 0.5), 2),
        ({"start_from_epoch": 3}, (3, 4, 5, 6, 7, 8), 4),
    ],
)
def test_early_stopping_stops_at(options, values, last_epoch):
    model = run(EarlyStopping(**options), losses(*values))
    assert model.weight == last_epoch


def test_early_stopping_is_keras_s():
    import keras

    random = np.random.default_rng(0)
    for trial in range(30):
        values = random.normal(size=12).round(1)
        options = {"patience": int(random.integers(0, 4)), "min_delta": 0.15 * (trial % 2),
                   "restore_best_weights": trial % 3 == 0}  # fmt: skip
        ours = run(EarlyStopping(**options), losses(*values))
        theirs = keras.callbacks.EarlyStopping(monitor="val_loss", **options)
        model = FakeModel()
        theirs._model = model
        theirs.on_train_begin()
        for epoch, log in enumerate(losses(*values)):
            model.weight = epoch
            theirs.on_epoch_end(epoch, log)
            if model.stop_training:
                break
        theirs.on_train_end()
        assert ours.weight == model.weight, (options, values)


def test_early_stopping_restores_the_best_weights():
    model = run(EarlyStopping(patience=1, restore_best_weights=True), losses(3, 1, 2, 2))
    assert model.weight == 1


def test_accuracy_is_better_when_larger():
    model = run(EarlyStopping("val_accuracy"), losses(0.1, 0.2, 0.15, 0.9, name="val_accuracy"))
    assert model.weight == 2


def test_a_missing_metric_is_named():
    with pytest.warns(UserWarning, match=r"no metric 'val_loss'; there are loss"):
        run(EarlyStopping(), losses(1.0, name="loss"))


def test_checkpoint_keeps_only_the_best(tmp_path):
    callback = ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.1f}.weights.h5",
                               save_best_only=True, save_weights_only=True)  # fmt: skip
    model = run(callback, losses(3, 4, 2))
    assert model.saved == [("01-3.0.weights.h5", 0), ("03-2.0.weights.h5", 2)]


def test_checkpoint_by_batches(tmp_path):
    callback = ModelCheckpoint(tmp_path / "w.weights.h5", save_weights_only=True, save_freq=2)
    assert [w for _, w in run(callback, losses(1, 1, 1, 1, 1)).saved] == [1, 3]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [("m.keras", {}, "weights.h5"), ("m.weights.h5", {"save_weights_only": False}, "must"),
     ("m.weights.h5", {"save_weights_only": True, "save_freq": 0}, "save_freq"),
     ("m.weights.h5", {"save_weights_only": True, "mode": "best"}, "mode")],
)  # fmt: skip
def test_checkpoint_refuses(path, options, message):
    with pytest.raises(ArgumentError, match=message):
        ModelCheckpoint(path, **options)


def test_checkpoint_names_an_unknown_log(tmp_path):
    callback = ModelCheckpoint(tmp_path / "{acc}.weights.h5", save_weights_only=True)
    with pytest.raises(ArgumentError, match="'acc'"):
        run(callback, losses(1))


def test_csv_logger_writes_and_appends(tmp_path):
    path = tmp_path / "log.csv"
    run(CSVLogger(path), [{"loss": 1.0}, {"loss": 0.5}])
    run(CSVLogger(path, append=True), [{"loss": 0.25}])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["epoch"], r["loss"]) for r in rows] == [("0", "1.0"), ("1", "0.5"), ("0", "0.25")]


def test_lambda_callback():
    seen: list[object] = []
    run(LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss"]))),
        losses(2, 1, name="loss"))  # fmt: skip
    assert seen == [(0, 2), (1, 1)]
    with pytest.raises(ArgumentError, match="on_epoch_finish"):
        LambdaCallback(on_epoch_finish=print)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_terminate_on_nan(bad):
    with pytest.warns(UserWarning, match="training stops"):
        model = run(TerminateOnNaN(), losses(1, bad, 1, name="loss"))
    assert model.weight == 1


def test_only_callbacks_are_taken():
    with pytest.raises(ArgumentError, match="must be Callback objects"):
        CallbackList([print], FakeModel())
