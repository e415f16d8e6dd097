"""Metrics: Keras' names, arguments and state."""

from __future__ import annotations

from typing import Any

from ...ir.types import Shape
from ..losses import (
    binary_crossentropy,
    categorical_crossentropy,
    is_binary_or_sparse,
    mean_absolute_error,
    mean_squared_error,
    sparse_categorical_crossentropy,
)  # fmt: skip
from .accuracy import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    accuracy,
    binary_accuracy,
    categorical_accuracy,
    sparse_categorical_accuracy,
)  # fmt: skip
from .crossentropy import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)  # fmt: skip
from .metric import CATALOGUE, Metric
from .reduction import Mean, MeanMetricWrapper, Sum
from .regression import MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError

__all__ = [
    "Accuracy", "BinaryAccuracy", "BinaryCrossentropy", "CategoricalAccuracy",
    "CategoricalCrossentropy", "Mean", "MeanAbsoluteError", "MeanMetricWrapper",
    "MeanSquaredError", "Metric", "RootMeanSquaredError", "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy", "Sum",
    "accuracy", "binary_accuracy", "binary_crossentropy", "categorical_accuracy",
    "categorical_crossentropy", "mean_absolute_error", "mean_squared_error",
    "sparse_categorical_accuracy", "sparse_categorical_crossentropy",
    "deserialize", "get", "resolve", "serialize",
]  # fmt: skip


def get(identifier: Any) -> Any:
    """A metric from its name, its config, its class, a callable or itself."""
    return CATALOGUE.get(identifier)


def resolve(identifier: Any, true_shape: Shape, predicted_shape: Shape) -> Metric:
    """The `Metric` that `compile(metrics=[identifier])` means for data of these shapes.

    Parameters
    ----------
    identifier : str, dict, callable or Metric
        `"accuracy"` and `"acc"` are chosen by the shapes: binary if the predictions' last axis
        is 1, sparse if the labels have no class axis, else categorical.
    true_shape, predicted_shape : shape
        Of the labels and of the model's output, the batch included.

    Returns
    -------
    Metric
        Named as it was asked for.
    """
    if isinstance(identifier, str) and identifier.lower() in ("accuracy", "acc"):
        binary, sparse = is_binary_or_sparse(true_shape, predicted_shape)
        if binary:
            return BinaryAccuracy(name=identifier)
        found = SparseCategoricalAccuracy if sparse else CategoricalAccuracy
        return found(name=identifier)
    metric = get(identifier)
    if not isinstance(metric, Metric):
        name = identifier if isinstance(identifier, str) else None
        return MeanMetricWrapper(metric, name=name)
    if isinstance(identifier, str):
        metric.name = identifier
    return metric


serialize = CATALOGUE.serialize
deserialize = CATALOGUE.deserialize
