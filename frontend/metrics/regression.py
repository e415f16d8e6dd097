"""Distances between labels and predictions; the functions are those of `losses`."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..losses import mean_absolute_error, mean_squared_error, squeeze_or_expand_to_same_rank
from ..operation import operation
from .metric import CATALOGUE
from .reduction import Mean, MeanMetricWrapper


@CATALOGUE.add("mse", "MSE")
class MeanSquaredError(MeanMetricWrapper):
    """`mean((y_true - y_pred)^2)`."""

    def __init__(self, name: str = "mean_squared_error", dtype: Any = None) -> None:
        super().__init__(mean_squared_error, name, dtype)


@CATALOGUE.add("mae", "MAE")
class MeanAbsoluteError(MeanMetricWrapper):
    """`mean(|y_true - y_pred|)`."""

    def __init__(self, name: str = "mean_absolute_error", dtype: Any = None) -> None:
        super().__init__(mean_absolute_error, name, dtype)


@CATALOGUE.add()
class RootMeanSquaredError(Mean):
    """`sqrt(mean((y_true - y_pred)^2))`."""

    def __init__(self, name: str = "root_mean_squared_error", dtype: Any = None) -> None:
        super().__init__(name, dtype)

    @operation
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        true, predicted = squeeze_or_expand_to_same_rank(y_true, y_pred)
        super().update_state(ops.square(ops.subtract(true, predicted)), sample_weight)

    def result(self) -> Any:
        return ops.sqrt(super().result())
