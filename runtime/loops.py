"""The loops over data: fit, evaluate and predict, with Keras' arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import ArgumentError
from ..ir.types import type_of
from .callbacks import Callback, CallbackList, History
from .data import Batch, Examples, Source, Stream, is_stream, size_of_batch
from .progress import ProgressDisplay, as_floats

if TYPE_CHECKING:
    from .session import CompiledModel

DEFAULT_BATCH_SIZE = 32


def fit(
    compiled: CompiledModel,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: int | str = "auto",
    callbacks: Sequence[Callback] | Callback | None = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: int | Sequence[int] = 1,
) -> History:
    """Train for epochs.

    Parameters
    ----------
    x : array `[examples, ...]`, list or dict of arrays, or an iterable of batches
    y : array or list of arrays, as the losses need them
    batch_size : int
        Examples per step, 32 by default; the last batch of an epoch may be smaller.
    epochs, initial_epoch : int
        Train until `epochs` are done, counting from `initial_epoch`.
    verbose : {"auto", 0, 1, 2}
        Silent, a progress bar, or a line per epoch.
    callbacks : sequence of Callback
    validation_split : float in [0, 1)
        This part at the end of the arrays is kept out of training.
    validation_data : (x, y), (x, y, sample_weight) or an iterable of batches
    shuffle : bool
        Draw a new order of the examples for every epoch.
    class_weight : mapping of int to float
    sample_weight : array `[examples]`
    steps_per_epoch, validation_steps : int
        End an epoch, or a validation, after so many batches.
    validation_batch_size : int
        `batch_size` by default.
    validation_freq : int or sequence of int
        Validate after every so many epochs, or after these epochs, counted from 1.

    Returns
    -------
    History
        `history.history` holds each epoch's logs.

    Raises
    ------
    HornfelsError
        If arguments or data do not fit; nothing has been trained on the batch at fault.
    """
    _require_counts(epochs=epochs, initial_epoch=initial_epoch, least=0)
    _require_counts(steps_per_epoch=steps_per_epoch, validation_steps=validation_steps)
    _require_epochs(validation_freq)
    train = _source(compiled, x, y, sample_weight, batch_size, class_weight)
    held_out = _validation(compiled, validation_data, validation_batch_size or batch_size)
    if validation_split:
        train, held_out = _split(train, held_out, validation_split, validation_batch_size)
    if isinstance(held_out, Examples):  # what is wrong with them shows before training starts
        compiled.step("test", {name: type_of(array) for name, array in held_out.arrays.items()})
        compiled.model.check(held_out.arrays)
    display = ProgressDisplay(verbose)
    history = History()
    model: Any = compiled.model
    hooks = CallbackList([history, *_listed(callbacks), display], model, epochs=epochs,
                         steps=steps_per_epoch or train.steps(), verbose=verbose)  # fmt: skip
    model.stop_training = False
    model.history = history

    def validate(epoch: int) -> dict[str, float]:
        if held_out is None or not _is_due(epoch + 1, validation_freq):
            return {}
        found = _test(compiled, held_out, validation_steps, hooks)
        return {f"val_{name}": value for name, value in found.items()}

    numbers = range(initial_epoch, epochs)
    try:
        _train(compiled, train, numbers, steps_per_epoch, shuffle, hooks, validate)
    finally:
        display.close()
    return history


def evaluate(
    compiled: CompiledModel,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    verbose: int | str = "auto",
    sample_weight: Any = None,
    steps: int | None = None,
    callbacks: Sequence[Callback] | Callback | None = None,
    return_dict: bool = False,
) -> Any:
    """Loss and metrics over a data set, as a list (or one number), or a dict.

    The arguments are those of `fit`; the order of the examples is kept.
    """
    _require_counts(steps=steps)
    source = _source(compiled, x, y, sample_weight, batch_size)
    display = ProgressDisplay(verbose)
    hooks = CallbackList([*_listed(callbacks), display], compiled.model,
                         steps=steps or source.steps(), verbose=verbose)  # fmt: skip
    try:
        logs = _test(compiled, source, steps, hooks)
    finally:
        display.close()
    if return_dict:
        return logs
    return next(iter(logs.values())) if len(logs) == 1 else list(logs.values())


def predict(
    compiled: CompiledModel,
    x: Any,
    batch_size: int | None = None,
    verbose: int | str = "auto",
    steps: int | None = None,
    callbacks: Sequence[Callback] | Callback | None = None,
) -> Any:
    """The model's outputs for all examples, in order, in the structure of its output."""
    _require_counts(steps=steps)
    source = _source(compiled, x, None, None, batch_size)
    display = ProgressDisplay(verbose)
    hooks = CallbackList([*_listed(callbacks), display], compiled.model,
                         steps=steps or source.steps(), verbose=verbose)  # fmt: skip
    parts: list[dict[str, np.ndarray]] = []
    try:
        hooks.on_predict_begin()
        for index, batch in enumerate(_prepared(compiled, "predict", source, shuffle=False)):
            hooks.on_predict_batch_begin(index)
            parts.append(compiled.run("predict", batch))
            hooks.on_predict_batch_end(index)
            if steps is not None and index + 1 >= steps:
                break
        hooks.on_predict_end()
    finally:
        display.close()
    if not parts:
        raise ArgumentError("predict: the iterable gave no batch")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return compiled.model.unpack(joined)


def _source(
    compiled: CompiledModel,
    x: Any,
    y: Any,
    sample_weight: Any,
    batch_size: int | None,
    class_weight: Mapping[int, float] | None = None,
) -> Source:
    def pack(x: Any, y: Any = None, sample_weight: Any = None) -> Batch:
        return compiled.pack(x, y, sample_weight, class_weight)

    if not is_stream(x):
        size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        return Examples(pack(x, y, sample_weight), size, compiled.random)
    if y is not None or sample_weight is not None or batch_size is not None:
        raise ArgumentError(
            "an iterable of batches brings its own labels and weights: "
            "y, sample_weight and batch_size must be None"
        )
    return Stream(x, pack)


def _validation(compiled: CompiledModel, data: Any, batch_size: int | None) -> Source | None:
    if data is None:
        return None
    if is_stream(data):
        return Stream(data, compiled.model.pack)
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ArgumentError("validation_data must be (x, y), (x, y, sample_weight) or an iterable")
    return _source(compiled, data[0], data[1], data[2] if len(data) == 3 else None, batch_size)


def _require_counts(least: int = 1, **counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int | np.integer) or count < least):
            raise ArgumentError(f"{name} must be an int of {least} or more, got {count!r}")


def _require_epochs(validation_freq: int | Sequence[int]) -> None:
    if not isinstance(validation_freq, list | tuple | set | range):
        _require_counts(validation_freq=validation_freq)  # type: ignore[arg-type]


def _is_due(epoch: int, validation_freq: int | Sequence[int]) -> bool:
    if isinstance(validation_freq, int | np.integer):
        return bool(epoch % validation_freq == 0)
    return epoch in validation_freq


def _listed(callbacks: Sequence[Callback] | Callback | None) -> list[Callback]:
    if callbacks is None:
        return []
    return [callbacks] if isinstance(callbacks, Callback) else list(callbacks)


def _prepared(compiled: CompiledModel, kind: str, source: Source, shuffle: bool) -> Iterator[Batch]:
    """The batches of an epoch; the smaller last batch's program is compiled meanwhile."""
    for index, batch in enumerate(source.batches(shuffle)):
        if index == 0:
            compiled.prepare(kind, batch, source.batch_sizes() or (size_of_batch(batch),))
        yield batch


def _split(
    train: Source, held_out: Source | None, share: float, batch_size: int | None
) -> tuple[Source, Source]:
    """What to train on, and the share at its end that is held out."""
    if not isinstance(train, Examples) or held_out is not None:
        raise ArgumentError("validation_split needs arrays and excludes validation_data")
    train, rest = train.split(share)
    return train, Examples(rest.arrays, batch_size, rest.random) if batch_size else rest


def _train(
    compiled: CompiledModel,
    train: Source,
    epochs: range,
    steps_per_epoch: int | None,
    shuffle: bool,
    hooks: CallbackList,
    validate: Callable[[int], dict[str, float]],
) -> None:
    """All epochs; `validate` gives what an epoch's logs have beside those of training."""
    logs: dict[str, float] = {}
    hooks.on_train_begin()
    batches: Iterator[Batch] | None = None
    for epoch in epochs:
        hooks.on_epoch_begin(epoch)
        if batches is None or steps_per_epoch is None:
            batches = _prepared(compiled, "train", train, shuffle)
        logs, steps = _train_epoch(compiled, batches, steps_per_epoch, hooks)
        if steps_per_epoch is not None and steps < steps_per_epoch:
            batches = None  # they ran out: the next epoch begins anew
        logs |= validate(epoch)
        hooks.on_epoch_end(epoch, logs)
        if compiled.model.stop_training:
            break
    compiled.model.finish_training()
    hooks.on_train_end(logs)


def _train_epoch(
    compiled: CompiledModel, batches: Iterator[Batch], limit: int | None, hooks: CallbackList
) -> tuple[dict[str, float], int]:
    """The last logs and the number of steps done, fewer than `limit` if the data ran out."""
    compiled.model.reset_metrics()
    logs: dict[str, float] = {}
    index = 0
    while (limit is None or index < limit) and (batch := next(batches, None)) is not None:
        hooks.on_train_batch_begin(index)
        logs = as_floats(compiled.run("train", batch))
        hooks.on_train_batch_end(index, logs)
        index += 1
        if compiled.model.stop_training:
            break
    if not index:
        raise ArgumentError("fit: the data gave no batch",
                            hint="an iterator gives its batches once; with several epochs "
                            "pass steps_per_epoch")  # fmt: skip
    if limit is not None and index < limit and not compiled.model.stop_training:
        warnings.warn(f"the data gave {index} of {limit} batches for this epoch", stacklevel=4)
    return logs, index


def _test(
    compiled: CompiledModel, source: Source, limit: int | None, hooks: CallbackList
) -> dict[str, float]:
    compiled.model.reset_metrics()
    hooks.on_test_begin()
    logs: dict[str, float] = {}
    for index, batch in enumerate(_prepared(compiled, "test", source, shuffle=False)):
        hooks.on_test_batch_begin(index)
        logs = as_floats(compiled.run("test", batch))
        hooks.on_test_batch_end(index, logs)
        if limit is not None and index + 1 >= limit:
            break
    hooks.on_test_end(logs)
    if not logs:
        raise ArgumentError("evaluate: the data gave no batch")
    return logs
