"""Classes as numbers and as vectors, and the cross entropies between them."""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Size, f32, i32, promote
from .. import config
from ..operation import operation
from .activation import log_softmax_of, softplus_of
from .core import floating, tensor


@operation
def one_hot(
    x: Any, num_classes: int, axis: int = -1, dtype: Any = None, sparse: bool = False
) -> Any:
    """1 at the position that an integer names along a new `axis`, 0 elsewhere.

    An integer outside of `[0, num_classes)` gives zeros only.
    """
    if sparse:
        raise ArgumentError("one_hot: sparse tensors are not supported")
    x = tensor(x)
    x = x if x.dtype.is_integer else sugar.cast(x, i32)
    axis = sugar.normalize_axis("one_hot", axis, x.ndim + 1)
    shape: tuple[Size, ...] = (*x.shape[:axis], num_classes, *x.shape[axis:])
    position = primitive("iota")(shape=shape, axis=axis, dtype=x.dtype)
    names = sugar.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
    return sugar.cast(sugar.binary("equal", names, position), dtype or f32)


@operation
def multi_hot(
    inputs: Any, num_classes: int | None = None, axis: int = -1, dtype: Any = None,
    sparse: bool = False,
) -> Any:  # fmt: skip
    """1 at every position that a row of integers names, 0 elsewhere."""
    if num_classes is None:
        raise ArgumentError("multi_hot: num_classes must be given")
    x = tensor(inputs)
    hot = one_hot(x, num_classes, axis=axis, dtype=dtype, sparse=sparse)
    return sugar.reduce("reduce_max", hot, 1 if x.ndim > 1 else 0)


def _as_weights(target: Value, output: Value) -> Value:
    """Integers and bools as floats of the dtype of the output."""
    return target if target.dtype.is_float else sugar.cast(target, output.dtype)


def _log_probabilities(output: Value, from_logits: bool, axis: int) -> Value:
    if from_logits:
        return log_softmax_of(output, axis)
    output = output / sugar.reduce("reduce_sum", output, axis, keepdims=True)
    return sugar.unary("log", _inside_unit(output))


def _inside_unit(p: Value) -> Value:
    """Probabilities away from 0 and 1 by `epsilon`, so that their logarithms are finite."""
    low, high = config.epsilon(), 1.0 - config.epsilon()
    return sugar.binary("minimum", sugar.binary("maximum", p, low), high)


@operation
def categorical_crossentropy(
    target: Any, output: Any, from_logits: bool = False, axis: int = -1
) -> Any:
    """`-sum(target * log(output))` along `axis`, `output` first divided by its sum."""
    target, output = tensor(target), floating(output)
    if target.ndim < 1 or target.shape != output.shape:
        raise ShapeError(
            "categorical_crossentropy: target must have the shape of output, "
            f"got {target.type} and {output.type}",
            hint="sparse_categorical_crossentropy takes class numbers as targets",
        )
    target = _as_weights(target, output)
    logs = _log_probabilities(output, from_logits, axis)
    return -sugar.reduce("reduce_sum", target * logs, axis)


@operation
def sparse_categorical_crossentropy(
    target: Any, output: Any, from_logits: bool = False, axis: int = -1
) -> Any:
    """`-log(output)` at the class number `target` along `axis`."""
    target, output = sugar.cast(tensor(target), i32), floating(output)
    if target.ndim == output.ndim and target.ndim and target.shape[-1] == 1:
        target = sugar.reshape(target, target.shape[:-1])
    if output.ndim < 1 or target.shape != output.shape[:-1]:
        raise ShapeError(
            "sparse_categorical_crossentropy: target must have the shape of output without its "
            f"last axis, got {target.type} and {output.type}",
            hint="categorical_crossentropy takes one-hot targets",
        )
    logs = _log_probabilities(output, from_logits, axis)
    axis = sugar.normalize_axis("sparse_categorical_crossentropy", axis, output.ndim)
    labels = promote(output.dtype, f32)  # Keras' one-hot labels are f32, so narrow outputs widen
    hot = one_hot(target, int(output.shape[axis]), axis=axis, dtype=labels)
    return -sugar.reduce("reduce_sum", hot * logs, axis)


@operation
def binary_crossentropy(target: Any, output: Any, from_logits: bool = False) -> Any:
    """`-target * log(output) - (1 - target) * log(1 - output)`, element by element."""
    target, output = tensor(target), floating(output)
    if target.shape != output.shape:
        raise ShapeError(
            "binary_crossentropy: target must have the shape of output, "
            f"got {target.type} and {output.type}"
        )
    target = _as_weights(target, output)
    if from_logits:
        return target * softplus_of(-output) + (1 - target) * softplus_of(output)
    output = _inside_unit(output)
    return -(target * sugar.unary("log", output) + (1 - target) * sugar.unary("log", 1 - output))


__all__ = [
    "binary_crossentropy", "categorical_crossentropy", "multi_hot", "one_hot",
    "sparse_categorical_crossentropy",
]  # fmt: skip
