"""Uniform and normal numbers of random words: what all distributions are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..ir import sugar
from ..ir.graph import Value
from ..ir.types import DType, Size, bf16, f16, f32, f64, u32
from .seeds import bits

_EXACT = {f16: 11, bf16: 8, f32: 24}
"""Bits of a number in [0, 1) that the dtype holds exactly."""


def unit(key: Value, shape: Sequence[Size], dtype: DType) -> Value:
    """Uniform numbers in [0, 1): the upper bits of words, as many as the dtype holds exactly."""
    if dtype != f64:
        return of_words(bits(key, shape), dtype)
    words = bits(key, (2, *shape))
    upper = sugar.binary("shift_right", words[0], sugar.value(5, u32))
    lower = sugar.binary("shift_right", words[1], sugar.value(6, u32))
    return (sugar.cast(upper, f64) * 2.0**26 + sugar.cast(lower, f64)) * 2.0**-53


def of_words(words: Value, dtype: DType) -> Value:
    """Words as numbers in [0, 1) of up to 24 bits."""
    kept = sugar.binary("shift_right", words, sugar.value(32 - _EXACT.get(dtype, 24), u32))
    return sugar.cast(kept, dtype) * 2.0 ** -_EXACT.get(dtype, 24)


def positive_of_words(words: Value, dtype: DType) -> Value:
    """Words as numbers in (0, 1), symmetric about 1/2."""
    kept = sugar.binary("shift_right", words, sugar.value(9, u32))
    return (sugar.cast(kept, dtype) + 0.5) * 2.0**-23


def standard_normal(key: Value, shape: Sequence[Size], dtype: DType, limit: float) -> Value:
    """Normal numbers within `limit` standard deviations, by inverting the distribution."""
    wide = f32 if dtype.bits < 32 else dtype
    middle = 2.0**-53 if wide == f64 else 2.0**-24
    odd = unit(key, shape, wide) * 2.0 + (middle - 1.0)  # exact, symmetric, never -1 or 1
    scale = math.erf(limit / math.sqrt(2)) if math.isfinite(limit) else 1.0
    return sugar.cast(erf_inverse(odd * scale) * math.sqrt(2), dtype)


def normal_of_words(words: Value, dtype: DType) -> Value:
    """Words as normal numbers."""
    return erf_inverse(positive_of_words(words, dtype) * 2.0 - 1.0) * math.sqrt(2)


def erf_inverse(x: Value) -> Value:
    """The inverse of erf on (-1, 1); M. Giles, Approximating the erfinv function (2010).

    In f64 Newton's method goes on from there.
    """
    w = -sugar.unary("log1p", -(x * x))
    near = _polynomial(w - 2.5, (
        2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
        -0.00125372503, -0.00417768164, 0.246640727, 1.50140941))  # fmt: skip
    far = _polynomial(sugar.unary("sqrt", w) - 3.0, (
        -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
        -0.0076224613, 0.00943887047, 1.00167406, 2.83297682))  # fmt: skip
    y = sugar.select(w < 5.0, near, far) * x
    for _ in range(2 if x.dtype == f64 else 0):
        missing = sugar.unary("erf", y) - x
        y = y - missing * sugar.unary("exp", y * y) * (math.sqrt(math.pi) / 2)
    return y


def _polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's scheme, highest power first."""
    total: Any = coefficients[0]
    for c in coefficients[1:]:
        total = x * total + c
    return total  # type: ignore[no-any-return]
