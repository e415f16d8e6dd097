"""Element by element: special functions, and what numbers are made of.

Everything is a composition of the IR's elementwise ops, so that it fuses and differentiates.
"""

from __future__ import annotations

import math
from typing import Any

from ...ir import sugar
from ...ir.errors import DTypeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import DType, as_dtype, bf16, boolean, f16, f32, f64, i16, i32, i64
from ..operation import operation
from .core import floating, floats, operand, tensor

INF = float("inf")

# --- bits ------------------------------------------------------------------------------------

_SAME_WIDTH = {f32: i32, f64: i64, f16: i16, bf16: i16}


def bits_of(x: Value) -> Value:
    """The bits of a floating-point number as a signed integer of its width."""
    if x.dtype == bf16:
        wide = primitive("bitcast")(sugar.cast(x, f32), dtype=i32)
        return sugar.cast(sugar.binary("shift_right", wide, 16), i16)
    if x.dtype == f16:
        return _half_to_bits(x)
    return primitive("bitcast")(x, dtype=_SAME_WIDTH[x.dtype])


def from_bits(x: Value, dtype: DType) -> Value:
    """The floating-point number whose bits a signed integer holds."""
    if dtype == bf16:
        wide = sugar.binary("shift_left", sugar.cast(x, i32), 16)
        return sugar.cast(primitive("bitcast")(wide, dtype=f32), bf16)
    if dtype == f16:
        return _bits_to_half(x)
    return primitive("bitcast")(x, dtype=dtype)


def _half_to_bits(x: Value) -> Value:
    """f16 by its f32, whose fraction is 13 bits longer and whose exponent starts 112 lower."""
    wide = sugar.cast(x, f32)
    bits = primitive("bitcast")(wide, dtype=i32)
    size = bits & 0x7FFFFFFF
    normal = sugar.binary("shift_right", size, 13) - (112 << 10)
    tiny = sugar.cast(sugar.unary("abs", wide) * 2.0**24, i32)  # a multiple of 2**-24
    special = 0x7C00 + sugar.binary("shift_right", size & 0x7FFFFF, 13)
    inside = sugar.select(size < 0x38800000, tiny, normal)
    magnitude = sugar.select(size >= 0x7F800000, special, inside)
    return sugar.cast(sugar.select(bits < 0, magnitude + 0x8000, magnitude), i16)


def _bits_to_half(x: Value) -> Value:
    bits = sugar.cast(x, i32)
    size = bits & 0x7FFF
    normal = primitive("bitcast")(sugar.binary("shift_left", size + (112 << 10), 13), dtype=f32)
    tiny = sugar.cast(size, f32) * 2.0**-24
    special = primitive("bitcast")(
        sugar.binary("shift_left", (size & 0x3FF) + (0xFF << 10), 13), dtype=f32
    )
    inside = sugar.select(size < 0x400, tiny, normal)
    magnitude = sugar.select(size >= 0x7C00, special, inside)
    return sugar.cast(sugar.select(bits < 0, -magnitude, magnitude), f16)


def sign_bit(x: Value) -> Value:
    """Where a number is negative, -0.0 and -NaN included."""
    if x.dtype.is_float:
        return bits_of(x) < 0
    return x < 0 if x.dtype.kind == "int" else sugar.full(x.shape, False, boolean)


@operation
def signbit(x: Any) -> Any:
    """Where the sign bit is set: negative numbers, -0.0 included."""
    return sign_bit(tensor(x))


@operation
def view(x: Any, dtype: Any = None) -> Any:
    """The bytes of `x` read as another dtype; the last axis grows or shrinks with its width."""
    x = tensor(x)
    to = x.dtype if dtype is None else as_dtype(dtype)
    if to == x.dtype:
        return x
    if x.dtype.is_bool or to.is_bool:
        raise DTypeError(f"view: dtype must be a number's, got {x.type} to {to}")
    if to.bits == x.dtype.bits:
        return _same_width(x, to)
    return _narrowed(x, to) if to.bits < x.dtype.bits else _widened(x, to)


_SIGNED = {d.bits: d for d in (as_dtype("int8"), i16, i32, i64)}


def _same_width(x: Value, to: DType) -> Value:
    if x.dtype.is_float:
        x = bits_of(x)
    if to.is_float:
        return from_bits(sugar.cast(x, _SIGNED[to.bits]), to)
    return sugar.cast(x, to)  # integers of one width wrap around


def _narrowed(x: Value, to: DType) -> Value:
    """Little end first, as memory has them."""
    bits = _same_width(x, _SIGNED[x.dtype.bits])
    parts = [
        sugar.cast(sugar.binary("shift_right", bits, start), _SIGNED[to.bits])
        for start in range(0, x.dtype.bits, to.bits)
    ]
    rows = [sugar.reshape(part, (*part.shape, 1)) for part in parts]
    joined = primitive("concat")(*rows, axis=x.ndim)
    count = len(parts)
    shape = (*x.shape[:-1], x.shape[-1] * count) if x.ndim else (count,)
    return _same_width(sugar.reshape(joined, shape), to)


def _widened(x: Value, to: DType) -> Value:
    count = to.bits // x.dtype.bits
    if not x.ndim or x.shape[-1] % count:
        raise DTypeError(f"view: the last axis must hold whole numbers of {to}, got {x.type}")
    wide = sugar.cast(_same_width(x, _SIGNED[x.dtype.bits]), _SIGNED[to.bits])
    wide = wide & ((1 << x.dtype.bits) - 1)
    wide = sugar.reshape(wide, (*x.shape[:-1], x.shape[-1] // count, count))
    total = wide[..., 0]
    for i in range(1, count):
        total = total | sugar.binary("shift_left", wide[..., i], i * x.dtype.bits)
    return _same_width(total, to)


@operation
def nextafter(x1: Any, x2: Any) -> Any:
    """The next number after `x1` towards `x2` that the dtype can hold."""
    a, b = floats(x1, x2)
    a, b = (
        sugar.broadcast_to(a, s := sugar.broadcast_shapes(a.shape, b.shape)),
        sugar.broadcast_to(b, s),
    )
    bits = bits_of(a)
    least = from_bits(sugar.full(a.shape, 1, bits.dtype), a.dtype)
    from_zero = sugar.select(b > 0, least, -least)
    away = sugar.binary("equal", sugar.binary("less", a, b), sugar.binary("greater", a, 0))
    step = sugar.select(away, sugar.value(1, bits.dtype), sugar.value(-1, bits.dtype))
    moved = from_bits(bits + step, a.dtype)
    result = sugar.select(sugar.binary("equal", a, 0), from_zero, moved)
    unordered = sugar.binary("not_equal", a, a) | sugar.binary("not_equal", b, b)
    return sugar.select(sugar.binary("equal", a, b), b, sugar.select(unordered, a + b, result))


@operation
def ldexp(x1: Any, x2: Any) -> Any:
    """`x1 * 2**x2` for integers `x2`, exactly."""
    x, n = floating(x1), tensor(x2)
    if not n.dtype.is_integer:
        raise DTypeError(f"ldexp: x2 must be of an integer dtype, got {n.type}")
    wide = x if x.dtype == f64 else sugar.cast(x, f32)
    whole = i64 if x.dtype == f64 else i32
    bound, bias, fraction = (1023, 1023, 52) if x.dtype == f64 else (127, 127, 23)
    n = sugar.cast(n, whole)
    n = sugar.binary("minimum", sugar.binary("maximum", n, -3 * bound), 3 * bound)
    for _ in range(4):  # a power of two that the dtype holds at a time
        part = sugar.binary("minimum", sugar.binary("maximum", n, 1 - bound), bound)
        power = primitive("bitcast")(
            sugar.binary("shift_left", part + bias, fraction), dtype=wide.dtype
        )
        wide, n = sugar.binary("mul", wide, power), n - part
    return sugar.cast(wide, x.dtype)


# --- of one operand --------------------------------------------------------------------------


@operation
def fabs(x: Any) -> Any:
    """`|x|` as a float."""
    return sugar.unary("abs", floating(x))


@operation
def deg2rad(x: Any) -> Any:
    """Degrees as radians."""
    return floating(x) * (math.pi / 180)


@operation
def rad2deg(x: Any) -> Any:
    """Radians as degrees."""
    return floating(x) * (180 / math.pi)


@operation
def sinc(x: Any) -> Any:
    """`sin(pi x) / (pi x)`, and 1 at 0."""
    x = floating(x)
    zero = sugar.binary("equal", x, 0)
    safe = sugar.select(zero, 1, x) * math.pi
    return sugar.select(zero, 1 - x * x * (math.pi**2 / 6), sugar.unary("sin", safe) / safe)


@operation
def isposinf(x: Any) -> Any:
    """Where `x` is plus infinity."""
    return sugar.binary("equal", floating(x), INF)


@operation
def isneginf(x: Any) -> Any:
    """Where `x` is minus infinity."""
    return sugar.binary("equal", floating(x), -INF)


@operation
def i0(x: Any) -> Any:
    """The modified Bessel function of the first kind of order 0."""
    return bessel_i0(floating(x))


def bessel_i0(x: Value) -> Value:
    """The mean of `exp(x cos t)` over a circle, by the trapezoidal rule.

    Of a periodic integrand its error falls faster than any power: with m points it is
    `2 I_m(x)`, below the last place for every x whose result the dtype holds.
    """
    points = 240 if x.dtype == f64 else 64
    wide = sugar.unary("abs", x if x.dtype == f64 else sugar.cast(x, f32))
    total = None
    for k in range(points // 4 + 1):  # cosh(x cos t) is the same in all four quarters
        slope = math.cos(2 * math.pi * k / points)
        weight = (1 if k in (0, points // 4) else 2) * 2 / points
        grown = sugar.unary("exp", wide * (slope - 1)) + sugar.unary("exp", wide * (-slope - 1))
        total = grown * (weight / 2) * 1.0 if total is None else total + grown * (weight / 2)
    assert total is not None
    return sugar.cast(total * 2 * 0.5 * sugar.unary("exp", wide), x.dtype)


# --- of two operands -------------------------------------------------------------------------


@operation
def fmax(x1: Any, x2: Any) -> Any:
    """The larger of two, the other one if one is NaN."""
    return _ignoring_nan("greater", x1, x2)


@operation
def fmin(x1: Any, x2: Any) -> Any:
    """The smaller of two, the other one if one is NaN."""
    return _ignoring_nan("less", x1, x2)


def _ignoring_nan(better: str, x1: Any, x2: Any) -> Value:
    a, b = sugar.common(operand(x1), operand(x2))
    if a.dtype.is_bool:
        return sugar.binary("logical_or" if better == "greater" else "logical_and", a, b)
    first = sugar.binary(better, a, b)
    if a.dtype.is_float:
        first = first | sugar.binary("not_equal", b, b)
    return sugar.select(first, a, b)


@operation
def fmod(x1: Any, x2: Any) -> Any:
    """The remainder of `x1 / x2`, of the sign of `x1`."""
    a, b = sugar.common(operand(x1), operand(x2))
    if a.dtype.is_bool:
        a, b = sugar.cast(a, i32), sugar.cast(b, i32)
    if a.dtype.is_float:
        size = sugar.binary("remainder", sugar.unary("abs", a), sugar.unary("abs", b))
        return sugar.select(a < 0, -size, size)
    rest = sugar.binary("remainder", a, b)
    if a.dtype.kind == "uint":
        return rest
    other = sugar.binary("not_equal", a < 0, b < 0) & sugar.binary("not_equal", rest, 0)
    return sugar.select(other, rest - b, rest)


@operation
def heaviside(x1: Any, x2: Any) -> Any:
    """0 where `x1` is negative, 1 where it is positive, `x2` where it is 0."""
    a, b = floats(x1, x2)
    step = sugar.select(a < 0, 0, sugar.select(a > 0, 1, a))  # NaN stays
    return sugar.select(sugar.binary("equal", a, 0), b, step)


@operation
def hypot(x1: Any, x2: Any) -> Any:
    """`sqrt(x1**2 + x2**2)` without overflow."""
    a, b = floats(x1, x2)
    a, b = sugar.unary("abs", a), sugar.unary("abs", b)
    high, low = sugar.binary("maximum", a, b), sugar.binary("minimum", a, b)
    plain = sugar.binary("equal", high, 0) | sugar.binary("equal", low, INF)
    ratio = low / sugar.select(plain, 1, high)
    return sugar.select(plain, high, high * sugar.unary("sqrt", ratio * ratio + 1))


@operation
def logaddexp2(x1: Any, x2: Any) -> Any:
    """`log2(2**x1 + 2**x2)` without overflow."""
    a, b = floats(tensor(x1), tensor(x2))
    high = sugar.binary("maximum", a, b)
    same = sugar.binary("equal", a, b)  # inf - inf is NaN
    distance = sugar.select(same, 0, sugar.unary("abs", a - b))
    tail = sugar.unary("log1p", sugar.unary("exp", distance * -math.log(2)))
    return high + tail * (1 / math.log(2))


__all__ = [
    "deg2rad", "fabs", "fmax", "fmin", "fmod", "heaviside", "hypot", "i0", "isneginf", "isposinf",
    "ldexp", "logaddexp2", "nextafter", "rad2deg", "signbit", "sinc", "view",
]  # fmt: skip
