"""Sums and means of what a function gives for each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir import sugar
from ...ir.graph import Value
from ...ir.types import as_dtype
from .. import ops
from ..losses import masked_weight, squeeze_or_expand_to_same_rank
from ..masks import mask_of
from ..operation import operation
from ..ops.core import tensor
from .metric import CATALOGUE, Metric


def reduce_to_samples(
    values: Any, sample_weight: Any, reduction: str, dtype: str
) -> tuple[Value, Value | None]:
    """Weighted values, one for each sample, and the weights of the samples.

    Parameters
    ----------
    reduction : str
        `sum` or `mean`: how the values of one sample become one.
    """
    together = {"sum": Value.sum, "mean": Value.mean}[reduction]
    values = tensor(values, as_dtype(dtype))
    weight = None
    if sample_weight is not None:
        weight = tensor(sample_weight, values.dtype)
        values, weight = squeeze_or_expand_to_same_rank(values, weight)
        if values.ndim > weight.ndim:
            values = together(values, tuple(range(weight.ndim, values.ndim)))
        weight = sugar.broadcast_to(weight, values.shape)
        values = values * weight
        if weight.ndim > 1:
            weight = together(weight, tuple(range(1, weight.ndim)))
    if values.ndim > 1:
        values = together(values, tuple(range(1, values.ndim)))
    return values, weight


@CATALOGUE.add()
class Sum(Metric):
    """The weighted sum of the values."""

    def __init__(self, name: str = "sum", dtype: Any = None) -> None:
        super().__init__(dtype, name)
        self.total = self.add_variable(name="total")

    @operation
    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        values, _ = reduce_to_samples(values, sample_weight, "sum", self.dtype)
        self.total.assign_add(values.sum())

    def result(self) -> Any:
        return ops.cast(self.total, self.dtype)


@CATALOGUE.add()
class Mean(Metric):
    """The weighted mean of the values.

    >>> m = Mean()
    >>> m.update_state([1, 3, 5, 7], sample_weight=[1, 1, 0, 0])
    >>> float(m.result())
    2.0
    """

    def __init__(self, name: str = "mean", dtype: Any = None) -> None:
        super().__init__(dtype, name)
        self.total = self.add_variable(name="total")
        self.count = self.add_variable(name="count")

    @operation
    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        values, weight = reduce_to_samples(values, sample_weight, "mean", self.dtype)
        self.total.assign_add(values.sum())
        if weight is None:
            samples = sugar.count(values, range(min(values.ndim, 1)), values.dtype)
        else:
            samples = weight.sum()
        self.count.assign_add(samples)

    def result(self) -> Any:
        return ops.divide_no_nan(self.total, self.count)


@CATALOGUE.add()
class MeanMetricWrapper(Mean):
    """The mean of a function of labels and predictions.

    Parameters
    ----------
    fn : callable
        `fn(y_true, y_pred, **kwargs)` gives one number for each sample, or more.
    """

    def __init__(
        self, fn: Callable[..., Any], name: str | None = None, dtype: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(name or getattr(fn, "__name__", "mean_metric_wrapper"), dtype)
        self._fn = fn
        self._fn_kwargs = kwargs

    @operation
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        mask = mask_of(y_pred)
        values = self._fn(tensor(y_true), tensor(y_pred), **self._fn_kwargs)
        sample_weight = masked_weight(sample_weight, mask, as_dtype(self.dtype), "sum")
        super().update_state(values, sample_weight=sample_weight)

    def get_config(self) -> dict[str, Any]:
        own = {"fn": CATALOGUE.serialize(self._fn)} if type(self) is MeanMetricWrapper else {}
        return {**super().get_config(), **own, **self._fn_kwargs}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Metric:
        if "fn" in config:
            config = {**config, "fn": CATALOGUE.deserialize(config["fn"])}
        return cls(**config)
