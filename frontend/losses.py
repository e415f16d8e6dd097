"""Losses: one number for each sample from labels and predictions, and how they are reduced.

A function such as `mean_squared_error` gives a number per sample; a `Loss` object adds sample
weights and the reduction to a scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import sugar
from ..ir.errors import ArgumentError, LabelError, ShapeError
from ..ir.graph import Value
from ..ir.types import Shape, as_dtype, i32
from . import ops
from .config import floatx
from .identifiers import Catalogue
from .masks import mask_of
from .naming import auto_name
from .operation import operation
from .ops.core import floating, tensor

CATALOGUE = Catalogue("loss", "keras.losses")
REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None)


@dataclass(frozen=True)
class LabelRange:
    """The class numbers that a loss takes: 0 to `classes - 1`, and `ignored` if it is given."""

    classes: int
    ignored: int | None = None

    def check(self, name: str, labels: np.ndarray) -> None:
        """Require that all labels are in range; done on the host, before a step runs.

        Raises
        ------
        LabelError
            If one is not.
        """
        wrong = ~((labels >= 0) & (labels < self.classes))  # so that NaN is wrong too
        if self.ignored is not None:
            wrong &= labels != self.ignored
        if wrong.any():
            raise LabelError(
                f"{name}: labels must be class numbers in [0, {self.classes}), "
                f"got {labels[wrong].flat[0]}"
            )


class Loss:
    """Base class: define `call(y_true, y_pred)`, which returns one number for each sample.

    Parameters
    ----------
    name : str, optional
    reduction : str or None
        `sum_over_batch_size` (the default, also called `mean`), `sum`,
        `mean_with_sample_weight` (divides by the sum of the weights), `none` or None.
    dtype : str, optional
        What labels and predictions are cast to; `floatx()` by default.
    """

    def __init__(
        self, name: str | None = None, reduction: Any = "sum_over_batch_size", dtype: Any = None
    ) -> None:
        if reduction not in REDUCTIONS:
            legal = ", ".join(map(str, REDUCTIONS))
            raise ArgumentError(f"loss: reduction must be one of {legal}, got {reduction!r}")
        self.name = name or auto_name(type(self).__name__)
        self.reduction = reduction
        self._dtype = dtype

    @property
    def dtype(self) -> str:
        """The float type that the loss is computed in."""
        return (
            floatx() if self._dtype is None else getattr(self._dtype, "compute_dtype", self._dtype)
        )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One number for each sample."""
        raise NotImplementedError(f"{type(self).__name__} must define call(y_true, y_pred)")

    def label_range(self, predicted_shape: Shape) -> LabelRange | None:
        """What labels are legal beside predictions of this shape; None if any are."""
        return None

    @operation
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss."""
        dtype = as_dtype(self.dtype)
        values = self.call(tensor(y_true, dtype), tensor(y_pred, dtype))
        return reduce_weighted_values(values, sample_weight, self.reduction, mask_of(y_pred))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"name": self.name, "reduction": self.reduction}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        return cls(**config)


@operation
def squeeze_or_expand_to_same_rank(a: Any, b: Any, expand_rank_1: bool = True) -> Any:
    """Two tensors whose ranks differ by a last axis of size 1, brought to one rank."""
    a, b = tensor(a), tensor(b)
    if a.ndim == b.ndim + 1:
        return _same_rank(a, b, expand_rank_1)
    if b.ndim == a.ndim + 1:
        return _same_rank(b, a, expand_rank_1)[::-1]
    return a, b


def _same_rank(longer: Value, shorter: Value, expand_rank_1: bool) -> tuple[Value, Value]:
    if longer.shape[-1] != 1:
        return longer, shorter
    if shorter.ndim == 1 and expand_rank_1:
        return longer, sugar.reshape(shorter, (*shorter.shape, 1))
    return sugar.reshape(longer, longer.shape[:-1]), shorter


def masked_weight(sample_weight: Any, mask: Any, dtype: Any, reduction: Any) -> Any:
    """The weights with 0 where the mask is false; a mean is then one over what it keeps."""
    if mask is None:
        return sample_weight
    weight = tensor(mask, dtype)
    if reduction in ("mean", "sum_over_batch_size"):
        total = sugar.count(weight, range(weight.ndim), weight.dtype)
        weight = weight * ops.divide_no_nan(total, weight.sum())
    if sample_weight is None:
        return weight
    weight, given = squeeze_or_expand_to_same_rank(weight, tensor(sample_weight, dtype))
    return weight * given


def reduce_weighted_values(
    values: Any,
    sample_weight: Any = None,
    reduction: Any = "sum_over_batch_size",
    mask: Any = None,
) -> Value:
    """Weight the losses of the samples, leave out masked ones, and reduce them to a scalar."""
    values = tensor(values)
    sample_weight = masked_weight(sample_weight, mask, values.dtype, reduction)
    weight = None
    if sample_weight is not None:
        weight = tensor(sample_weight, values.dtype)
        values, weight = squeeze_or_expand_to_same_rank(values, weight)
        values = values * _broadcast_weight(weight, values.shape)
    if reduction in (None, "none") or values.ndim == 0:
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    if reduction == "mean_with_sample_weight" and weight is not None:
        return ops.divide_no_nan(total, weight.sum())
    return total / sugar.count(values, range(values.ndim), values.dtype)


def _broadcast_weight(weight: Value, shape: Shape) -> Value:
    """The weights as a tensor that broadcasts to the losses."""
    try:
        sugar.broadcast_shapes(weight.shape, shape)
    except ShapeError:
        raise ShapeError(
            f"loss: sample_weight must broadcast to the losses {list(shape)}, got {weight.type}"
        ) from None
    return weight


class LossFunctionWrapper(Loss):
    """A loss from a function of labels and predictions and its further arguments."""

    def __init__(
        self,
        fn: Callable[..., Any],
        reduction: Any = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name or getattr(fn, "__name__", None), reduction, dtype)
        self.fn = fn
        self._arguments = kwargs

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true, y_pred = squeeze_or_expand_to_same_rank(y_true, y_pred)
        return self.fn(y_true, y_pred, **self._arguments)

    def label_range(self, predicted_shape: Shape) -> LabelRange | None:
        if self.fn is not sparse_categorical_crossentropy:
            return None
        classes = predicted_shape[self._arguments.get("axis", -1)]
        return LabelRange(int(classes), self._arguments.get("ignore_class"))

    def get_config(self) -> dict[str, Any]:
        own = {} if type(self) is not LossFunctionWrapper else {"fn": CATALOGUE.serialize(self.fn)}
        return {**super().get_config(), **own, **self._arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        if "fn" in config:
            config = {**config, "fn": CATALOGUE.deserialize(config["fn"])}
        return cls(**config)


# --- functions -------------------------------------------------------------------------------


def _pair(name: str, y_true: Any, y_pred: Any) -> tuple[Value, Value]:
    """Labels in the dtype of the predictions, with shapes that fit."""
    prediction = floating(y_pred)
    true, prediction = squeeze_or_expand_to_same_rank(tensor(y_true, prediction.dtype), prediction)
    try:
        sugar.broadcast_shapes(true.shape, prediction.shape)
    except ShapeError:
        raise _unequal(name, true, prediction) from None
    return true, prediction


def _unequal(name: str, y_true: Value, y_pred: Value) -> ShapeError:
    return ShapeError(
        f"{name}: y_true and y_pred must have the same shape, got {y_true.type} and {y_pred.type}"
    )


def _require_equal_shapes(name: str, y_true: Value, y_pred: Value, hint: str = "") -> None:
    if y_true.shape != y_pred.shape:
        error = _unequal(name, y_true, y_pred)
        error.hint = hint
        raise error


@CATALOGUE.add("mse", "MSE")
@operation
def mean_squared_error(y_true: Any, y_pred: Any) -> Any:
    """`mean((y_true - y_pred)^2)` over the last axis."""
    true, prediction = _pair("mean_squared_error", y_true, y_pred)
    return ((true - prediction) ** 2).mean(-1)


@CATALOGUE.add("mae", "MAE")
@operation
def mean_absolute_error(y_true: Any, y_pred: Any) -> Any:
    """`mean(|y_true - y_pred|)` over the last axis."""
    true, prediction = _pair("mean_absolute_error", y_true, y_pred)
    return abs(true - prediction).mean(-1)


@CATALOGUE.add()
@operation
def categorical_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Any:
    """`-sum(y_true * log(p))` over the classes.

    Parameters
    ----------
    y_true : tensor
        One-hot labels or probabilities, of the shape of `y_pred`.
    y_pred : tensor
        Probabilities (normalized here, and clipped to [epsilon, 1 - epsilon]) or logits.
    from_logits : bool
    label_smoothing : float
        In [0, 1]: this share of each label is spread evenly over the classes.
    axis : int
        Where the classes are.
    """
    prediction = floating(y_pred)
    true = tensor(y_true, prediction.dtype)
    _require_equal_shapes("categorical_crossentropy", true, prediction,
                          "for integer labels use sparse_categorical_crossentropy")  # fmt: skip
    _check_smoothing("categorical_crossentropy", label_smoothing)
    axis = sugar.normalize_axis("categorical_crossentropy", axis, prediction.ndim)
    if label_smoothing:
        classes = sugar.count(prediction, [axis], prediction.dtype)
        true = true * (1.0 - label_smoothing) + label_smoothing / classes
    return ops.categorical_crossentropy(true, prediction, from_logits, axis)


def _check_smoothing(name: str, label_smoothing: Any) -> None:
    if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"{name}: label_smoothing must be in [0, 1], got {label_smoothing!r}")


@CATALOGUE.add()
@operation
def sparse_categorical_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> Any:
    """`-log(p[y_true])`.

    Parameters
    ----------
    y_true : tensor
        Class numbers in [0, classes), of the shape of `y_pred` without its class axis, or with
        a last axis of size 1.
    y_pred : tensor
        Probabilities (normalized here, and clipped to [epsilon, 1 - epsilon]) or logits.
    from_logits : bool
    ignore_class : int, optional
        Samples of this class count 0.
    axis : int
        Where the classes are.
    """
    name = "sparse_categorical_crossentropy"
    prediction = floating(y_pred)
    axis = sugar.normalize_axis(name, axis, prediction.ndim)
    true = tensor(y_true, i32)
    if true.ndim == prediction.ndim and true.shape[-1] == 1:
        true = sugar.reshape(true, true.shape[:-1])
    wanted = prediction.shape[:axis] + prediction.shape[axis + 1 :]
    if true.shape != wanted:
        raise ShapeError(
            f"{name}: y_true must be class numbers of shape {list(wanted)} for y_pred "
            f"{prediction.type}, got {true.type}",
            hint="for one-hot labels use categorical_crossentropy",
        )
    ignored = None
    if ignore_class is not None:
        ignored = sugar.binary("equal", true, ignore_class)
        true = sugar.select(ignored, 0, true)
    loss = ops.sparse_categorical_crossentropy(true, prediction, from_logits, axis)
    return loss if ignored is None else sugar.select(ignored, 0, loss)


@CATALOGUE.add("bce", "BCE")
@operation
def binary_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Any:
    """`mean(-y_true * log(p) - (1 - y_true) * log(1 - p))` over `axis`.

    Parameters
    ----------
    y_true : tensor
        0 and 1, or probabilities, of the shape of `y_pred`.
    y_pred : tensor
        Probabilities (clipped to [epsilon, 1 - epsilon]) or logits.
    from_logits : bool
    label_smoothing : float
        In [0, 1]: labels move this share of the way to 0.5.
    axis : int
        The axis that the mean is over.
    """
    prediction = floating(y_pred)
    true = tensor(y_true, prediction.dtype)
    _require_equal_shapes("binary_crossentropy", true, prediction)
    _check_smoothing("binary_crossentropy", label_smoothing)
    if label_smoothing:
        true = true * (1.0 - label_smoothing) + 0.5 * label_smoothing
    return sugar.mean(ops.binary_crossentropy(true, prediction, from_logits), axis)


# --- classes ---------------------------------------------------------------------------------


@CATALOGUE.add()
class MeanSquaredError(LossFunctionWrapper):
    """`mean((y_true - y_pred)^2)`."""

    def __init__(
        self,
        reduction: Any = "sum_over_batch_size",
        name: str = "mean_squared_error",
        dtype: Any = None,
    ) -> None:
        super().__init__(mean_squared_error, reduction, name, dtype)


@CATALOGUE.add()
class MeanAbsoluteError(LossFunctionWrapper):
    """`mean(|y_true - y_pred|)`."""

    def __init__(
        self,
        reduction: Any = "sum_over_batch_size",
        name: str = "mean_absolute_error",
        dtype: Any = None,
    ) -> None:
        super().__init__(mean_absolute_error, reduction, name, dtype)


@CATALOGUE.add()
class CategoricalCrossentropy(LossFunctionWrapper):
    """Cross entropy of one-hot labels; arguments as for `categorical_crossentropy`."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Any = "sum_over_batch_size",
        name: str = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(categorical_crossentropy, reduction, name, dtype,
                         from_logits=from_logits, label_smoothing=label_smoothing,
                         axis=axis)  # fmt: skip


@CATALOGUE.add()
class SparseCategoricalCrossentropy(LossFunctionWrapper):
    """Cross entropy of class numbers; arguments as for `sparse_categorical_crossentropy`."""

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: Any = "sum_over_batch_size",
        axis: int = -1,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(sparse_categorical_crossentropy, reduction, name, dtype,
                         from_logits=from_logits, ignore_class=ignore_class, axis=axis)  # fmt: skip

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.fn(y_true, y_pred, **self._arguments)


@CATALOGUE.add()
class BinaryCrossentropy(LossFunctionWrapper):
    """Cross entropy of labels 0 and 1; arguments as for `binary_crossentropy`."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Any = "sum_over_batch_size",
        name: str = "binary_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(binary_crossentropy, reduction, name, dtype,
                         from_logits=from_logits, label_smoothing=label_smoothing,
                         axis=axis)  # fmt: skip


mse = MSE = mean_squared_error
mae = MAE = mean_absolute_error
bce = BCE = binary_crossentropy


def get(identifier: Any) -> Any:
    """A loss from its name (a function or a class), its config, a callable or itself."""
    return CATALOGUE.get(identifier)


serialize = CATALOGUE.serialize
deserialize = CATALOGUE.deserialize


def is_binary_or_sparse(true_shape: Shape, predicted_shape: Shape) -> tuple[bool, bool]:
    """Whether labels of this shape are binary, or class numbers, beside such predictions.

    `"accuracy"` and `"crossentropy"` choose their form by it, as Keras does.
    """
    last = predicted_shape[-1] if predicted_shape else 1
    sparse = len(true_shape) < len(predicted_shape) or (true_shape[-1:] == (1,) and last != 1)
    return last == 1, sparse


def resolve(identifier: Any, true_shape: Shape, predicted_shape: Shape) -> Loss | None:
    """The `Loss` object that `compile(loss=identifier)` means for data of these shapes.

    Parameters
    ----------
    identifier : str, dict, callable, Loss or None
        `"crossentropy"` and `"ce"` are chosen by the shapes; a function becomes a
        `LossFunctionWrapper` that is averaged over the batch.
    true_shape, predicted_shape : shape
        Of the labels and of the model's output, the batch included.
    """
    if isinstance(identifier, str) and identifier.lower() in ("crossentropy", "ce"):
        binary, sparse = is_binary_or_sparse(true_shape, predicted_shape)
        if binary:
            return LossFunctionWrapper(binary_crossentropy)
        return LossFunctionWrapper(
            sparse_categorical_crossentropy if sparse else categorical_crossentropy
        )
    loss = get(identifier)
    return loss if loss is None or isinstance(loss, Loss) else LossFunctionWrapper(loss)
