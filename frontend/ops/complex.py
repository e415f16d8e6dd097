"""What Keras offers for complex numbers, on the real ones that there are here.

The IR has no complex dtype: a complex signal is a pair of real tensors, as in `ops.fft`. Of a
real tensor the functions that read it as complex are defined; those that would return complex
numbers, or need them, say what to use.
"""

from __future__ import annotations

import math
from typing import Any

from ...ir import sugar
from ...ir.errors import DTypeError
from ...ir.types import boolean
from ..operation import operation
from .core import floating, tensor
from .special import sign_bit

_PAIR = "a complex signal is a pair (real, imag) of tensors, as in ops.fft"


@operation
def real(x: Any) -> Any:
    """The real part: `x` itself."""
    return tensor(x)


@operation
def imag(x: Any) -> Any:
    """The imaginary part of a real tensor: zeros."""
    return sugar.zeros_like(tensor(x))


@operation
def conjugate(x: Any) -> Any:
    """The complex conjugate: `x` itself."""
    return tensor(x)


@operation
def angle(x: Any) -> Any:
    """The angle in the complex plane: 0 for what is positive, pi for what is negative."""
    x = floating(x)
    turned = sugar.select(sign_bit(x), math.pi, sugar.zeros_like(x))
    return sugar.select(sugar.binary("not_equal", x, x), x, turned)


@operation
def isreal(x: Any) -> Any:
    """Where the imaginary part is 0: everywhere."""
    return sugar.full(tensor(x).shape, True, boolean)


def polar(abs_: Any, angle: Any) -> Any:
    """`abs_ * exp(i * angle)`, which would be complex: always refused.

    Raises
    ------
    DTypeError
        Always; `abs_ * cos(angle)` and `abs_ * sin(angle)` are its real and imaginary parts.
    """
    raise DTypeError(
        "polar: there are no complex tensors",
        hint=f"compute (abs_ * cos(angle), abs_ * sin(angle)): {_PAIR}",
    )


def view_as_complex(x: Any) -> Any:
    """Pairs along the last axis as complex numbers: always refused.

    Raises
    ------
    DTypeError
        Always; `x[..., 0]` and `x[..., 1]` are the real and imaginary parts.
    """
    raise DTypeError(
        "view_as_complex: there are no complex tensors",
        hint=f"take (x[..., 0], x[..., 1]): {_PAIR}",
    )


def view_as_real(x: Any) -> Any:
    """A complex tensor as pairs along a last axis: always refused, for there is none.

    Raises
    ------
    DTypeError
        Always; `stack((real, imag), axis=-1)` makes such pairs.
    """
    raise DTypeError(
        "view_as_real: there are no complex tensors", hint=f"stack (real, imag) on axis -1: {_PAIR}"
    )


conj = conjugate

__all__ = [
    "angle", "conj", "conjugate", "imag", "isreal", "polar", "real", "view_as_complex",
    "view_as_real",
]  # fmt: skip
