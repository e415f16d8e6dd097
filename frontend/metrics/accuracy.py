"""How often predictions are right."""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.errors import ShapeError
from ...ir.graph import Value
from ...ir.types import i32
from ..config import floatx
from ..losses import squeeze_or_expand_to_same_rank
from ..operation import operation
from ..ops.core import tensor
from .metric import CATALOGUE
from .reduction import MeanMetricWrapper


def _matches(name: str, true: Value, predicted: Value) -> Value:
    """1 where both are equal, else 0."""
    try:
        sugar.broadcast_shapes(true.shape, predicted.shape)
    except ShapeError:
        raise ShapeError(
            f"{name}: labels and predictions must have the same shape, "
            f"got {true.type} and {predicted.type}"
        ) from None
    return sugar.cast(sugar.binary("equal", true, predicted), floatx())


def _class(scores: Value) -> Value:
    return sugar._op("argmax")(scores, axis=scores.ndim - 1)


@operation
def accuracy(y_true: Any, y_pred: Any) -> Any:
    """1 where `y_pred` equals `y_true`."""
    predicted = tensor(y_pred)
    true, predicted = squeeze_or_expand_to_same_rank(tensor(y_true, predicted.dtype), predicted)
    return _matches("accuracy", true, predicted)


@operation
def binary_accuracy(y_true: Any, y_pred: Any, threshold: float = 0.5) -> Any:
    """1 where `y_pred > threshold` equals `y_true`."""
    true, predicted = squeeze_or_expand_to_same_rank(y_true, y_pred)
    return _matches("binary_accuracy", true, sugar.cast(predicted > threshold, true.dtype))


@operation
def categorical_accuracy(y_true: Any, y_pred: Any) -> Any:
    """1 where the largest prediction is at the place of the largest label."""
    true, predicted = tensor(y_true), tensor(y_pred)
    if true.ndim < 1 or true.shape[-1] != predicted.shape[-1]:
        raise ShapeError(
            "categorical_accuracy: labels must be one-hot, with the classes of the predictions "
            f"{predicted.type}, got {true.type}",
            hint="for integer labels use sparse_categorical_accuracy",
        )
    return _matches("categorical_accuracy", _class(true), _class(predicted))


@operation
def sparse_categorical_accuracy(y_true: Any, y_pred: Any) -> Any:
    """1 where the largest prediction is that of class `y_true`."""
    true, predicted = tensor(y_true), tensor(y_pred)
    if true.ndim == predicted.ndim and true.shape[-1] == 1:
        true = sugar.reshape(true, true.shape[:-1])
    return _matches("sparse_categorical_accuracy", sugar.cast(true, i32), _class(predicted))


@CATALOGUE.add()
class Accuracy(MeanMetricWrapper):
    """The share of predictions that equal their labels."""

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(accuracy, name, dtype)


@CATALOGUE.add()
class BinaryAccuracy(MeanMetricWrapper):
    """The share of predictions on the right side of `threshold`."""

    def __init__(
        self, name: str = "binary_accuracy", dtype: Any = None, threshold: float = 0.5
    ) -> None:
        super().__init__(binary_accuracy, name, dtype, threshold=threshold)


@CATALOGUE.add()
class CategoricalAccuracy(MeanMetricWrapper):
    """The share of samples whose one-hot label is predicted highest."""

    def __init__(self, name: str = "categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(categorical_accuracy, name, dtype)


@CATALOGUE.add()
class SparseCategoricalAccuracy(MeanMetricWrapper):
    """The share of samples whose class number is predicted highest."""

    def __init__(self, name: str = "sparse_categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(sparse_categorical_accuracy, name, dtype)
