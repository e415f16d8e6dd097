"""Shapes as users write them, for layers: None where a size is open."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.errors import DTypeError
from ...ir.types import Dim
from ..keras_tensor import KerasTensor


def open_shape(x: Any) -> Any:
    """A shape with None for what is open."""
    if not hasattr(x, "shape"):
        return None
    return tuple(None if isinstance(d, Dim) else int(d) for d in x.shape)


def tensors_of(shape: Any, dtype: str) -> Any:
    """Symbolic tensors for a shape or a nest of shapes."""
    if isinstance(shape, dict):
        return {k: tensors_of(v, dtype) for k, v in shape.items()}
    if all(d is None or isinstance(d, int | np.integer) for d in shape):
        return KerasTensor(shape, dtype)
    return [tensors_of(item, dtype) for item in shape]


def declared_shape(layer: str, kwargs: dict[str, Any]) -> tuple[int | None, ...] | None:
    """The batch shape that `input_shape`, `input_dim` or `batch_input_shape` asks for."""
    batch = kwargs.pop("batch_size", None)
    whole = kwargs.pop("batch_input_shape", kwargs.pop("batch_shape", None))
    size = kwargs.pop("input_dim", None)
    shape = kwargs.pop("input_shape", None if size is None else (size,))
    if whole is not None:
        return tuple(whole)
    if shape is None:
        return None
    if isinstance(shape, int):
        raise DTypeError(f"{layer}: input_shape must be a tuple, got {shape}")
    return (batch, *shape)
