"""The defaults of `keras.config`: float type, epsilon and image layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..ir.errors import ArgumentError

_FLOATS = ("bfloat16", "float16", "float32", "float64")
_LAYOUTS = ("channels_last", "channels_first")


@dataclass
class _Defaults:
    floatx: str = "float32"
    epsilon: float = 1e-7
    image_data_format: str = "channels_last"


_defaults = _Defaults()


def floatx() -> str:
    """The dtype of weights and inputs that name none, as a string such as `float32`."""
    return _defaults.floatx


def set_floatx(value: str) -> None:
    """Set the default float type to one of bfloat16, float16, float32 and float64."""
    if value not in _FLOATS:
        raise ArgumentError(f"set_floatx: value must be one of {', '.join(_FLOATS)}, got {value!r}")
    _defaults.floatx = value


def dtype_policy() -> Any:
    """The dtype policy of layers that name none; that of `floatx` unless set."""
    from . import dtype_policy as policies

    return policies.dtype_policy()


def set_dtype_policy(policy: Any) -> None:
    """Set the dtype policy of layers that name none: `mixed_bfloat16`, or a dtype's name."""
    from . import dtype_policy as policies

    policies.set_dtype_policy(policy)


def epsilon() -> float:
    """The small number that keeps divisions and logarithms finite; 1e-7 unless set."""
    return _defaults.epsilon


def set_epsilon(value: float) -> None:
    """Set the small number that `epsilon` returns."""
    if not value > 0:
        raise ArgumentError(f"set_epsilon: value must be > 0, got {value!r}")
    _defaults.epsilon = float(value)


def image_data_format() -> str:
    """The layout of images that layers assume: `channels_last` unless set."""
    return _defaults.image_data_format


def set_image_data_format(data_format: str) -> None:
    """Set the layout of images to `channels_last` or `channels_first`."""
    _defaults.image_data_format = standardize_data_format(data_format)


def standardize_data_format(data_format: str | None) -> str:
    """A legal layout; None means the default."""
    if data_format is None:
        return _defaults.image_data_format
    if str(data_format).lower() not in _LAYOUTS:
        raise ArgumentError(
            f"data_format must be one of {', '.join(_LAYOUTS)}, got {data_format!r}"
        )
    return str(data_format).lower()
