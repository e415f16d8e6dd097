"""Cross entropies as metrics; the functions are those of `losses`."""

from __future__ import annotations

from typing import Any

from .. import losses
from .metric import CATALOGUE
from .reduction import MeanMetricWrapper


@CATALOGUE.add("bce", "BCE")
class BinaryCrossentropy(MeanMetricWrapper):
    """Cross entropy of labels 0 and 1."""

    def __init__(
        self,
        name: str = "binary_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
    ) -> None:
        super().__init__(losses.binary_crossentropy, name, dtype,
                         from_logits=from_logits, label_smoothing=label_smoothing)  # fmt: skip


@CATALOGUE.add()
class CategoricalCrossentropy(MeanMetricWrapper):
    """Cross entropy of one-hot labels."""

    def __init__(
        self,
        name: str = "categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
        axis: int = -1,
    ) -> None:
        super().__init__(losses.categorical_crossentropy, name, dtype, from_logits=from_logits,
                         label_smoothing=label_smoothing, axis=axis)  # fmt: skip


@CATALOGUE.add()
class SparseCategoricalCrossentropy(MeanMetricWrapper):
    """Cross entropy of class numbers."""

    def __init__(
        self,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ) -> None:
        super().__init__(losses.sparse_categorical_crossentropy, name, dtype,
                         from_logits=from_logits, ignore_class=ignore_class,
                         axis=axis)  # fmt: skip
