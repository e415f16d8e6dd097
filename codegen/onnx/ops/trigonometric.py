"""Angles. ONNX Runtime has kernels for f32 alone; f64 is composed, to a few units in the last
place, of what there is in f64: exp, log, sin, cos, sqrt."""

from __future__ import annotations

import math

from ....ir.graph import Value
from ....ir.sugar import binary, select, unary
from ..lowering import composition_of_doubles

_LN2 = math.log(2)
_TERMS = 13
"""Of atan's series at tan(pi / 16), of which the next is below the last place."""


def _with_sign(x: Value, sign: Value) -> Value:
    """`x`, which is not negative, with the sign of another number; where that is 0, it stays."""
    return select(sign < 0.0, -x, select(binary("equal", sign, 0.0), sign, x))


@composition_of_doubles("tan")
def _tan(x: Value) -> Value:
    return unary("sin", x) / unary("cos", x)


def _atan(x: Value) -> Value:
    """Its series at a quarter of the angle, which two bisections give: `t / (1 + sqrt(1 + t^2))`.
    Numbers above 1 become their inverse."""
    size = abs(x)
    is_large = size > 1.0
    t = select(is_large, 1.0 / size, size)
    for _ in range(2):
        t = t / (unary("sqrt", t * t + 1.0) + 1.0)
    square = t * t
    total = square * (1.0 / (2 * _TERMS + 1)) * (-1) ** _TERMS
    for k in range(_TERMS - 1, 0, -1):
        total = (total + (-1) ** k / (2 * k + 1)) * square
    angle = (t + t * total) * 4.0
    return _with_sign(select(is_large, math.pi / 2 - angle, angle), x)


composition_of_doubles("atan")(_atan)


@composition_of_doubles("asin")
def _asin(x: Value) -> Value:
    return _atan(x / unary("sqrt", (1.0 - x) * (1.0 + x)))


@composition_of_doubles("acos")
def _acos(x: Value) -> Value:
    return _atan(unary("sqrt", (1.0 - x) / (1.0 + x))) * 2.0


@composition_of_doubles("atan2")
def _atan2(y: Value, x: Value) -> Value:
    """The angle of `|y| / |x|`, then by quadrants; the sign of a zero is that of its inverse."""
    a, b = abs(y), abs(x)
    both = binary("equal", a, b) & ((a > 1e300) | binary("equal", a, 0.0))  # 0/0 and inf/inf
    ratio = select(both, select(a > 1.0, 1.0, 0.0), a / b)
    angle = _atan(ratio)
    is_left = (x < 0.0) | (1.0 / x < 0.0)
    is_below = (y < 0.0) | (1.0 / y < 0.0)
    angle = select(is_left, math.pi - angle, angle)
    return select(is_below, -angle, angle)


# --- hyperbolic ------------------------------------------------------------------------------


def _half_exp(x: Value) -> Value:
    """`e ** x / 2`, finite where `e ** x` is not yet."""
    root = unary("exp", x * 0.5)
    return root * (root * 0.5)


@composition_of_doubles("sinh")
def _sinh(x: Value) -> Value:
    size = abs(x)
    e = unary("expm1", binary("minimum", size, 20.0))
    near = (e + e / (e + 1.0)) * 0.5
    return _with_sign(select(size < 20.0, near, _half_exp(size)), x)


@composition_of_doubles("cosh")
def _cosh(x: Value) -> Value:
    half = _half_exp(abs(x))
    return half + 0.25 / half


@composition_of_doubles("asinh")
def _asinh(x: Value) -> Value:
    size = abs(x)
    small = binary("minimum", size, 1e8)
    square = small * small
    near = unary("log1p", small + square / (unary("sqrt", square + 1.0) + 1.0))
    return _with_sign(select(size < 1e8, near, unary("log", size) + _LN2), x)


@composition_of_doubles("acosh")
def _acosh(x: Value) -> Value:
    t = binary("minimum", x, 1e8) - 1.0
    near = unary("log1p", t + unary("sqrt", t * (t + 2.0)))
    result = select(x < 1e8, near, unary("log", x) + _LN2)
    return select(x < 1.0, math.nan, result)


@composition_of_doubles("atanh")
def _atanh(x: Value) -> Value:
    size = abs(x)
    return _with_sign(unary("log1p", (size + size) / (1.0 - size)) * 0.5, x)
