"""What programs look up in `keras.backend`."""

from __future__ import annotations

from typing import Any

from .config import (
    epsilon,
    floatx,
    image_data_format,
    set_epsilon,
    set_floatx,
    set_image_data_format,
)
from .keras_tensor import KerasTensor
from .ops.core import standardize_dtype
from .utils import clear_session


def backend() -> str:
    """The name of what computes: `hornfels`."""
    return "hornfels"


def is_keras_tensor(x: Any) -> bool:
    """Whether `x` is a symbolic tensor."""
    return isinstance(x, KerasTensor)


def is_float_dtype(dtype: Any) -> bool:
    """Whether a dtype is floating point."""
    return "float" in standardize_dtype(dtype)


def is_int_dtype(dtype: Any) -> bool:
    """Whether a dtype is an integer."""
    return "int" in standardize_dtype(dtype)


__all__ = [
    "backend",
    "clear_session",
    "epsilon",
    "floatx",
    "image_data_format",
    "is_float_dtype",
    "is_int_dtype",
    "is_keras_tensor",
    "set_epsilon",
    "set_floatx",
    "set_image_data_format",
    "standardize_dtype",
]
