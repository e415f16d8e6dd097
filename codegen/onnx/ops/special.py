"""Powers and logarithms of other bases, the cube root, the inverse of erf.

ONNX has none of them; they are computed in f64, whatever the dtype, and rounded once.
"""

from __future__ import annotations

import math

from ....ir.graph import Value
from ....ir.sugar import binary, full, select, unary
from ..lowering import composition_of_doubles


@composition_of_doubles("exp2")
def _exp2(x: Value) -> Value:
    return _power(2.0, x)


def _logarithm(x: Value, base: float) -> Value:
    """Exact for powers of the base: a whole number near the quotient is tried."""
    y = unary("log", x) * (1 / math.log(base))
    whole = unary("round", y)
    return select(binary("equal", _power(base, whole), x), whole, y)


def _power(base: float, exponent: Value) -> Value:
    return binary("pow", full(exponent.shape, base, exponent.dtype), exponent)


@composition_of_doubles("log2")
def _log2(x: Value) -> Value:
    return _logarithm(x, 2.0)


@composition_of_doubles("log10")
def _log10(x: Value) -> Value:
    return _logarithm(x, 10.0)


@composition_of_doubles("cbrt")
def _cbrt(x: Value) -> Value:
    """A power, and a step of Newton's iteration where it is a positive finite number."""
    size = abs(x)
    y = binary("pow", size, 1 / 3)
    is_plain = (size > 0.0) & (size < math.inf)
    square = select(is_plain, y * y, 1.0)
    better = y - (y - size / square) * (1 / 3)
    return select(is_plain, select(x < 0.0, -better, better), x)


_WINITZKI = 0.147


@composition_of_doubles("erf_inv")
def _erf_inv(x: Value) -> Value:
    """Winitzki's approximation, to 2e-3, and three steps of Halley's iteration, on the side of
    erf or erfc where nothing cancels."""
    size = abs(x)
    log = unary("log", (1.0 - size) * (1.0 + size))
    b = log * 0.5 + 2 / (math.pi * _WINITZKI)
    y = unary("sqrt", unary("sqrt", b * b - log * (1 / _WINITZKI)) - b)
    y = select(size < 0.1, size * (math.sqrt(math.pi) / 2), y)
    for _ in range(3):
        missing = select(size < 0.5, unary("erf", y) - size, (1.0 - size) - unary("erfc", y))
        step = missing * unary("exp", y * y) * (math.sqrt(math.pi) / 2)
        y = y - step / (y * step + 1.0)
    signed = select(x < 0.0, -y, y)
    return select(binary("equal", size, 1.0), x * math.inf, select(size > 1.0, math.nan, signed))
