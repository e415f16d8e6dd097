"""Objectives: the losses and metrics of `compile`, laid out by output of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.builder import suspended
from ...ir.errors import ArgumentError
from .. import losses as losses_module
from .. import metrics as metrics_module
from .. import ops, tree

Flat = list[Any]


class Objectives:
    """What `compile` was given, resolved when the shapes of labels and outputs are known.

    Parameters
    ----------
    loss, loss_weights, metrics, weighted_metrics
        As in `compile`.
    """

    def __init__(self, loss: Any, loss_weights: Any, metrics: Any, weighted_metrics: Any) -> None:
        _check_names(loss, metrics, weighted_metrics)
        for weight in tree.leaves(loss_weights):
            if weight is not None and not isinstance(weight, int | float | np.floating):
                raise ArgumentError(f"loss_weights: must be numbers, got {weight!r}")
        self.loss, self.loss_weights = loss, loss_weights
        self._given = {"metrics": metrics, "weighted_metrics": weighted_metrics}
        self.loss_tracker = metrics_module.Mean(name="loss")
        self._losses: Flat = []
        self._weights: Flat = []
        self._trackers: Flat = []
        self._ranges: Flat = []
        self._metrics: list[tuple[str, Any, int, bool]] = []  # key, metric, output, weighted
        self.built = False

    @property
    def metrics(self) -> list[Any]:
        """The mean of the loss, those of the losses of several outputs, and the metrics."""
        own = [metric for _, metric, _, _ in self._metrics]
        return [self.loss_tracker, *(t for t in self._trackers if t is not None), *own]

    @property
    def keys(self) -> list[str]:
        """The names under which results are logged."""
        trackers = [t.name for t in self._trackers if t is not None]
        return ["loss", *trackers, *(key for key, *_ in self._metrics)]

    def build(self, y: Flat, y_pred: Flat, names: Sequence[str]) -> None:
        """Find the losses and metrics for labels and outputs of these shapes."""
        if self.built:
            return
        count = len(y_pred)
        with suspended():
            losses = _by_output("loss", self.loss, names, count, repeat=True)
            self._losses = [
                None if loss is None else losses_module.resolve(loss, t.shape, p.shape)
                for loss, t, p in zip(losses, _labels(y, losses), y_pred, strict=True)
            ]
            self._ranges = [
                None if loss is None else loss.label_range(p.shape)
                for loss, p in zip(self._losses, y_pred, strict=True)
            ]
            self._weights = _by_output("loss_weights", self.loss_weights, names, count)
            several = sum(loss is not None for loss in self._losses) > 1
            self._trackers = [
                metrics_module.Mean(name=f"{name}_loss") if several and loss is not None else None
                for name, loss in zip(names, self._losses, strict=True)
            ]
            for argument, given in self._given.items():
                self._resolve_metrics(argument, given, y, y_pred, names)
        self.built = True

    def _resolve_metrics(
        self, argument: str, given: Any, y: Flat, y_pred: Flat, names: Sequence[str]
    ) -> None:
        count = len(y_pred)
        if count == 1 and isinstance(given, dict):
            given = list(given.values())
        if count == 1:
            wanted: Flat = [_listed(given)]
        else:
            wanted = [_listed(m) for m in _by_output(argument, given, names, count)]
        weighted = argument == "weighted_metrics"
        for index, (asked, p) in enumerate(zip(wanted, y_pred, strict=True)):
            for identifier in asked:
                if y[index] is None:
                    raise ArgumentError(f"{argument}: output {names[index]!r} has no labels")
                metric = metrics_module.resolve(identifier, y[index].shape, p.shape)
                key = metric.name if count == 1 else f"{names[index]}_{metric.name}"
                self._metrics.append((self._free(key, weighted), metric, index, weighted))

    def _free(self, key: str, weighted: bool) -> str:
        """A key that no other metric has."""
        taken = self.keys
        if key in taken and weighted:
            key = f"weighted_{key}"
        unique, number = key, 0
        while unique in taken:
            number += 1
            unique = f"{key}_{number}"
        return unique

    def check_labels(self, labels: Flat) -> None:
        """Require labels that the losses take, as far as they are known: arrays or None."""
        for label, legal in zip(labels, self._ranges, strict=False):
            if label is not None and legal is not None:
                legal.check("y", label)

    def total(self, y: Flat, y_pred: Flat, sample_weight: Flat, added: Flat) -> Any:
        """The weighted sum of the losses and of those that layers add; None if there are none."""
        terms = []
        _labels(y, self._losses)
        pairs = zip(self._losses, self._weights, self._trackers, strict=True)
        for index, (loss, weight, tracker) in enumerate(pairs):
            if loss is None:
                continue
            value = loss(y[index], y_pred[index], sample_weight[index])
            if tracker is not None:
                tracker.update_state(value, sample_weight=ops.shape(y_pred[index])[0])
            terms.append(value if weight is None else ops.multiply(value, float(weight)))
        for loss in added:
            terms.append(ops.sum(ops.cast(loss, terms[0].dtype if terms else loss.dtype)))
        total = None
        for term in terms:
            total = term if total is None else ops.add(total, term)
        return total

    def update_metrics(self, y: Flat, y_pred: Flat, sample_weight: Flat) -> None:
        """Take a batch into the metrics."""
        for _, metric, index, weighted in self._metrics:
            weight = sample_weight[index] if weighted else None
            if weighted:
                metric.update_state(y[index], y_pred[index], sample_weight=weight)
            else:
                metric.update_state(y[index], y_pred[index])

    def results(self) -> dict[str, Any]:
        """The results so far by their names in logs, the loss first."""
        found: dict[str, Any] = {}
        for key, metric in zip(self.keys, self.metrics, strict=True):
            value = metric.result()
            found.update(value if isinstance(value, dict) else {key: value})
        return found


def _check_names(loss: Any, metrics: Any, weighted_metrics: Any) -> None:
    """Refuse unknown names and what names nothing at once, not when training starts."""
    for wanted in tree.leaves(loss):
        if _name(wanted) not in ("crossentropy", "ce") and not isinstance(wanted, type):
            losses_module.get(wanted)
    for wanted in tree.leaves((metrics, weighted_metrics)):
        names = ("accuracy", "acc", "crossentropy", "ce")
        if _name(wanted) not in names and not isinstance(wanted, type):
            metrics_module.get(wanted)


def _name(identifier: Any) -> str | None:
    return identifier.lower() if isinstance(identifier, str) else None


def _listed(given: Any) -> Flat:
    if given is None:
        return []
    if isinstance(given, list | tuple):
        return [m for item in given for m in _listed(item)]
    return [given]


def _labels(y: Flat, losses: Flat) -> Flat:
    """The labels of each output; a loss without labels is an error."""
    for index, (label, loss) in enumerate(zip(y, losses, strict=True)):
        if loss is not None and label is None:
            raise ArgumentError(f"loss: output {index} has a loss, but no labels were given")
    return y


def _by_output(
    argument: str, given: Any, names: Sequence[str], count: int, repeat: bool = False
) -> Flat:
    """One entry for each output, from one for all, a list, or a dict by names."""
    if isinstance(given, dict):
        unknown = [key for key in given if key not in names]
        if unknown:
            raise ArgumentError(
                f"{argument}: no output is named {unknown[0]!r}; there are {', '.join(names)}"
            )
        return [given.get(name) for name in names]
    if isinstance(given, list | tuple):
        if len(given) != count:
            raise ArgumentError(
                f"{argument}: there must be one for each of {count} outputs, got {len(given)}"
            )
        return list(given)
    return [given] * (count if repeat else 1) + [None] * (0 if repeat else count - 1)
