"""More functions of one element, in the manner of `scalar`: trigonometric, hyperbolic, powers and
logarithms of other bases, roots, and the error function's relatives.

f32 is computed by polynomials, minimax fits as in `scalar`, and by compositions of what is
there; f64 uses the C library. `tests/ir/test_scalar.py` holds the stated errors.
"""

from __future__ import annotations

import math

from . import scalar
from .scalar import (
    ROUNDING,
    ROUNDING_BITS,
    SIGN_BIT,
    Element,
    Math,
    decompose,
    log_of,
    polynomial,
    power_of_two,
    reduced_exp,
    with_sign,
)
from .types import f32, f64, i32, i64

_HALF_PI_HIGH = 1.5707963705062866  # the nearest f32
_HALF_PI_LOW = math.pi / 2 - _HALF_PI_HIGH
_LN2 = math.log(2)

_TWO_OVER_PI = (0.636619770899415, 1.4681663246252086e-09, 2.2760100671971816e-18,
                5.8812147387730434e-27, 1.0346868700836215e-35, 3.783256351091319e-45,
                3.720474878517739e-53)  # fmt: skip
_SIN = (-0.1666666716337204, 0.008333329111337662, -0.00019839307060465217,
        2.7180774395674234e-06)  # fmt: skip
_COS = (0.04166664555668831, -0.0013887364184483886, 2.443808625685051e-05)
_ASIN = (0.16666752099990845, 0.07495291531085968, 0.04547111690044403, 0.02417588233947754,
         0.0421723946928978)  # fmt: skip
_ATAN = (-0.33333316445350647, 0.19998489320278168, -0.1424383670091629, 0.10595908015966415,
         -0.060832057148218155)  # fmt: skip
_ERFC = (-1.2655327320098877, 1.000626802444458, 0.36676496267318726, 0.14491769671440125,
         -0.37523090839385986, 0.7413287162780762, -1.8461521863937378, 2.1551690101623535,
         -1.1703660488128662, 0.24850015342235565)  # fmt: skip
_ERF_INV_NEAR = (1.5014094114303589, 0.24664027988910675, -0.004177386872470379,
                 -0.0012527419021353126, 0.00021834444487467408, -4.963351329934085e-06,
                 -3.462705080892192e-06, 4.6617140014859615e-07, 2.3232672674566857e-08,
                 -8.791109173955647e-09)  # fmt: skip
_ERF_INV_FAR = (2.832976818084717, 1.0016751289367676, 0.009445655159652233,
                -0.0076391748152673244, 0.0056834775023162365, -0.0035881800577044487,
                0.0014949364122003317, -7.432744314428419e-05, -0.00031790381763130426,
                0.00012744679406750947)  # fmt: skip
_ERF_INV_WIDE = (2.832746744155884, 1.0019376277923584, 0.011647331528365612,
                 -0.009353412315249443, 0.00354210939258337, -0.00048482243437319994)  # fmt: skip


# --- trigonometric ---------------------------------------------------------------------------


def _quadrant(m: Math, x: Element) -> tuple[Element, Element, Element]:
    """n, from 0 to 3, and r with `|x| = (4 k + n) pi / 2 + r`, `|r| <= pi / 4`, for any f32;
    r is a number and what its rounding leaves over.

    2 / pi comes in pieces of 29 bits, whose products with x are exact in f64; of each, multiples
    of 4 are left away, which is exact too. Whole numbers are split off as soon as they arise, so
    that nothing is rounded where the sum cancels.
    """
    t = m.cast(m.abs(x), f64)
    rest = whole = m.cast(m.const(0.0), f64)
    zero = whole
    for piece in _TWO_OVER_PI:
        turns = t * piece
        rest = rest + (turns - m.round(turns * 0.25) * 4.0)
        count = m.round(rest)
        rest, whole = rest - count, whole + count
    number = m.select(whole == whole, whole, zero)  # NaN is no integer
    wide = rest * (math.pi / 2)
    r = m.cast(wide, f32)
    return m.cast(number, i32) & 3, r, m.cast(wide - m.cast(r, f64), f32)


def _both_waves(m: Math, r: Element, low: Element | None = None) -> tuple[Element, Element]:
    """Sine and cosine of `r`, or of `r + low`, up to pi / 4."""
    z = r * r
    bent, half = r * z * polynomial(m, z, _SIN), z * 0.5
    if low is not None:
        bent, half = bent + low, half + r * low
    return r + bent, (z * z * polynomial(m, z, _COS) - half) + 1.0


def _flipped(m: Math, x: Element, *signs: Element) -> Element:
    """`x` with its sign changed once for each number whose sign bit is set."""
    bits = m.bitcast(x, i32)
    for sign in signs:
        bits = bits ^ (sign & SIGN_BIT)
    return m.bitcast(bits, f32)


def sin(m: Math, x: Element) -> Element:
    """The sine; in f32 within 1.5 ulp, of any number."""
    if m.dtype == f64:
        return m.sin(x)
    n, r, _ = _quadrant(m, x)
    sine, cosine = _both_waves(m, r)
    return _flipped(m, m.select((n & 1) == 0, sine, cosine), n << 30, m.bitcast(x, i32))


def cos(m: Math, x: Element) -> Element:
    """The cosine; in f32 within 1.5 ulp, of any number."""
    if m.dtype == f64:
        return m.cos(x)
    n, r, _ = _quadrant(m, x)
    sine, cosine = _both_waves(m, r)
    return _flipped(m, m.select((n & 1) == 0, cosine, sine), (n + 1) << 30)


def tan(m: Math, x: Element) -> Element:
    """The tangent; in f32 within 3 ulp, of any number."""
    if m.dtype == f64:
        return m.library("tan", x)
    n, r, low = _quadrant(m, x)
    sine, cosine = _both_waves(m, r, low)
    is_even = (n & 1) == 0
    ratio = m.select(is_even, sine, cosine) / m.select(is_even, cosine, sine)
    return _flipped(m, ratio, n << 31, m.bitcast(x, i32))


def _asin_parts(m: Math, x: Element) -> tuple[Element, Element]:
    """Whether `|x| > 0.5`, and the arcsine of `|x|`, or there of `sqrt((1 - |x|) / 2)`."""
    t = m.abs(x)
    is_large = t > 0.5
    z = m.select(is_large, (m.const(1.0) - t) * 0.5, t * t)
    s = m.select(is_large, m.sqrt(z), t)
    return is_large, s + s * z * polynomial(m, z, _ASIN)


def asin(m: Math, x: Element) -> Element:
    """The arcsine; in f32 within 2 ulp."""
    if m.dtype == f64:
        return m.library("asin", x)
    is_large, p = _asin_parts(m, x)
    large = (m.const(_HALF_PI_HIGH) - (p + p)) + _HALF_PI_LOW
    return with_sign(m, m.select(is_large, large, p), x)


def acos(m: Math, x: Element) -> Element:
    """The arccosine; in f32 within 2 ulp."""
    if m.dtype == f64:
        return m.library("acos", x)
    is_large, p = _asin_parts(m, x)
    double = p + p
    large = m.select(x > 0, double, (m.const(2 * _HALF_PI_HIGH) - double) + 2 * _HALF_PI_LOW)
    signed = with_sign(m, p, x)
    return m.select(is_large, large, m.const(_HALF_PI_HIGH) - (signed - _HALF_PI_LOW))


def _atan_of_ratio(m: Math, y: Element, x: Element) -> Element:
    """`atan(y / x)` for numbers that are not negative and not both 0, one of them finite.

    The ratio is turned by 45 or 90 degrees to be at most tan(22.5 degrees).
    """
    is_high = y > x * 2.414213562373095
    is_middle = y > x * 0.41421356237309503
    number = m.select(is_high, -x, m.select(is_middle, y - x, y))
    ratio = number / m.select(is_high, y, m.select(is_middle, y + x, x))
    z = ratio * ratio
    bent = ratio + ratio * z * polynomial(m, z, _ATAN)
    high = m.select(is_high, _HALF_PI_HIGH, m.select(is_middle, _HALF_PI_HIGH / 2, 0.0))
    low = m.select(is_high, _HALF_PI_LOW, m.select(is_middle, _HALF_PI_LOW / 2, 0.0))
    return high + (bent + low)


def atan(m: Math, x: Element) -> Element:
    """The arctangent; in f32 within 2.5 ulp."""
    if m.dtype == f64:
        return m.library("atan", x)
    result = _atan_of_ratio(m, m.minimum(m.abs(x), 1e30), m.const(1.0))
    return with_sign(m, result, x)


def atan2(m: Math, y: Element, x: Element) -> Element:
    """The angle of the point (x, y), signed zeros as in C; in f32 within 2.5 ulp."""
    if m.dtype == f64:
        return m.library("atan2", y, x)
    a, b = m.abs(y), m.abs(x)
    scale = m.select(m.maximum(a, b) > 1e37, 0.125, 1.0)
    scale = m.select(m.maximum(a, b) < 1e-30, 2.0**60, scale)
    a_infinite, b_infinite = a == math.inf, b == math.inf
    either = a_infinite | b_infinite
    a = m.select(either, m.select(a_infinite, 1.0, a * 0.0), a * scale)
    b = m.select(either, m.select(b_infinite, 1.0, b * 0.0), b * scale)
    is_origin = (a == 0.0) & (b == 0.0)
    angle = _atan_of_ratio(m, a, m.select(is_origin, 1.0, b))
    is_left = m.bitcast(x, i32) < 0
    turned = (m.const(2 * _HALF_PI_HIGH) - angle) + 2 * _HALF_PI_LOW
    result = with_sign(m, m.select(is_left, turned, angle), y)
    return m.select((x == x) & (y == y), result, x + y)


# --- hyperbolic ------------------------------------------------------------------------------


def _half_exp(m: Math, x: Element) -> Element:
    """`e ** x / 2`, which is finite where `e ** x` is not yet; from -80 up."""
    n, p = reduced_exp(m, m.minimum(x, 91.0), scalar.EXP)
    half = n >> 1
    return (p + 1.0) * power_of_two(m, half) * power_of_two(m, n - half - 1)


def sinh(m: Math, x: Element) -> Element:
    """The hyperbolic sine; in f32 within 2.5 ulp."""
    if m.dtype == f64:
        return m.library("sinh", x)
    t = m.abs(x)
    e = scalar.expm1(m, m.minimum(t, 9.0))
    near = (e + e / (e + 1.0)) * 0.5
    return with_sign(m, m.select(t < 9.0, near, _half_exp(m, t)), x)


def cosh(m: Math, x: Element) -> Element:
    """The hyperbolic cosine; in f32 within 2 ulp."""
    if m.dtype == f64:
        return m.library("cosh", x)
    half = _half_exp(m, m.abs(x))
    return half + m.const(0.25) / half


def asinh(m: Math, x: Element) -> Element:
    """The inverse of `sinh`; in f32 within 2 ulp."""
    if m.dtype == f64:
        return m.library("asinh", x)
    t = m.abs(x)
    small = m.minimum(t, 1e4)
    square = small * small
    near = scalar.log1p(m, small + square / (m.sqrt(square + 1.0) + 1.0))
    return with_sign(m, m.select(t < 1e4, near, scalar.log(m, t) + _LN2), x)


def acosh(m: Math, x: Element) -> Element:
    """The inverse of `cosh`, NaN below 1; in f32 within 2 ulp."""
    if m.dtype == f64:
        return m.library("acosh", x)
    t = m.minimum(x, 1e4) - 1.0
    near = scalar.log1p(m, t + m.sqrt(t * (t + 2.0)))
    result = m.select(x < 1e4, near, scalar.log(m, x) + _LN2)
    return m.select(x < 1.0, math.nan, result)


def atanh(m: Math, x: Element) -> Element:
    """The inverse of `tanh`; in f32 within 2 ulp."""
    if m.dtype == f64:
        return m.library("atanh", x)
    t = m.abs(x)
    return with_sign(m, scalar.log1p(m, (t + t) / (m.const(1.0) - t)) * 0.5, x)


# --- other bases, roots ----------------------------------------------------------------------


def exp2(m: Math, x: Element) -> Element:
    """`2 ** x`, exact for whole numbers; in f32 within 1.5 ulp."""
    if m.dtype == f64:
        return m.library("exp2", x)
    near = m.minimum(m.maximum(x, -151.0), 129.0)
    shifted = near + ROUNDING
    n = m.bitcast(shifted, i32) - ROUNDING_BITS
    r = (near - (shifted - ROUNDING)) * _LN2
    p = r + r * r * polynomial(m, r, scalar.EXP)
    half = n >> 1
    return (p + 1.0) * power_of_two(m, half) * power_of_two(m, n - half)


def _parts_of_log(m: Math, x: Element) -> tuple[Element, Element]:
    """k and `log(1 + f)` with `x = 2**k (1 + f)`."""
    is_small = x < 2.0**-126
    k, f = decompose(m, m.select(is_small, x * 2.0**23, x))
    zero = m.const(0.0)
    return m.select(is_small, k - 23.0, k), log_of(m, zero, f, zero)


def _limits_of_log(m: Math, x: Element, result: Element) -> Element:
    result = m.select(x < math.inf, result, x)  # infinity and NaN
    return m.select(x > 0.0, result, m.select(x == 0.0, -math.inf, x * math.nan))


def log2(m: Math, x: Element) -> Element:
    """The logarithm to base 2, exact for powers of 2; in f32 within 2 ulp."""
    if m.dtype == f64:
        return m.library("log2", x)
    k, rest = _parts_of_log(m, x)
    return _limits_of_log(m, x, k + rest * scalar.LOG2_E)


def log10(m: Math, x: Element) -> Element:
    """The logarithm to base 10; in f32 within 2 ulp."""
    if m.dtype == f64:
        return m.library("log10", x)
    k, rest = _parts_of_log(m, x)
    high = 0.301025390625  # of log10(2): 12 bits, so that a product with k is exact
    low = math.log10(2) - high
    return _limits_of_log(m, x, k * high + (k * low + rest * math.log10(math.e)))


def cbrt(m: Math, x: Element) -> Element:
    """The cube root; in f32 within 1.5 ulp."""
    if m.dtype == f64:
        return m.library("cbrt", x)
    t = m.abs(x)
    is_small = t < 2.0**-126
    t = m.select(is_small, t * 2.0**24, t)
    bits = m.cast(m.cast(m.bitcast(t, i32), f32) * (1.0 / 3.0), i32) + 709952852
    y = m.bitcast(bits, f32)
    for _ in range(2):  # Halley's iteration, of cubic convergence
        r = t / (y * y)
        y = y + y * ((r - y) / (y + y + r))
    y = m.select(is_small, y * 2.0**-8, y)
    is_plain = (t > 0.0) & (t < math.inf)
    return m.select(is_plain, with_sign(m, y, x), x)


# --- powers ----------------------------------------------------------------------------------

_LOG2_WIDE = tuple(2 * math.log2(math.e) / (2 * n + 1) for n in range(8))  # of atanh
_EXP2_WIDE = tuple(_LN2**n / math.factorial(n) for n in range(11))


def _series(x: Element, coefficients: tuple[float, ...]) -> Element:
    """`c[0] + c[1] x + c[2] x**2 + ...` in the dtype of x."""
    result = x * coefficients[-1] + coefficients[-2]
    for c in reversed(coefficients[:-2]):
        result = result * x + c
    return result


def _log2_wide(m: Math, x: Element) -> Element:
    """The logarithm to base 2 of a positive f32 as f64, within 2**-40 of itself.

    `2 atanh(s)` with `s = (f - 1) / (f + 1)`, for `x = 2**k f`, f from sqrt(1/2) to sqrt(2).
    """
    wide = m.cast(x, f64)  # where f32 numbers below the normal ones are normal
    bits = m.bitcast(wide, i64)
    k = (bits - 0x3FE6A09E667F3BCD) >> 52  # the bits of sqrt(1/2)
    f = m.bitcast(bits - (k << 52), f64)
    s = (f - 1.0) / (f + 1.0)
    return m.cast(k, f64) + s * _series(s * s, _LOG2_WIDE)


def _exp2_wide(m: Math, p: Element) -> Element:
    """`2 ** p` of an f64 from -300 to 300 as f32."""
    count = m.round(p)
    whole = m.select(count == count, count, m.cast(m.const(0.0), f64))  # NaN is no integer
    scale = m.bitcast((m.cast(whole, i64) + 1023) << 52, f64)
    return m.cast(_series(p - count, _EXP2_WIDE) * scale, f32)


def pow(m: Math, x: Element, y: Element) -> Element:
    """`x ** y` with C's special values; in f32 within 0.6 ulp."""
    if m.dtype == f64:
        return m.pow(x, y)
    t = m.abs(x)
    product = m.cast(y, f64) * _log2_wide(m, t)
    limit = m.cast(m.const(300.0), f64)
    result = _exp2_wide(m, m.minimum(m.maximum(product, -limit), limit))
    growing = m.select(t > 1.0, y > 0.0, y < 0.0)
    extreme = m.select(growing, math.inf, 0.0)
    is_extreme = (t == 0.0) | (t == math.inf) | (m.abs(y) == math.inf)
    result = m.select(is_extreme, m.select(t == 1.0, 1.0, extreme), result)
    half = y * 0.5
    is_whole = m.floor(y) == y
    is_odd = is_whole & (m.floor(half) != half)
    result = m.select(is_odd, with_sign(m, result, x), result)
    fails = (x < 0.0) & (t < math.inf) & (m.abs(y) < math.inf) & ~is_whole
    result = m.select(fails | (x != x) | (y != y), math.nan, result)
    return m.select((x == 1.0) | (y == 0.0), 1.0, result)


# --- the error function's relatives ----------------------------------------------------------


def erfc(m: Math, x: Element) -> Element:
    """`1 - erf(x)`, exact for large x; in f32 within 6 ulp.

    `t exp(P(t) - x**2)` with `t = 2 / (2 + x)`; x**2 in two parts, one of which is exact.
    """
    if m.dtype == f64:
        return m.library("erfc", x)
    near = m.minimum(m.maximum(x, 0.4), 10.5)
    t = m.const(2.0) / (near + 2.0)
    head = m.bitcast(m.bitcast(near, i32) & -4096, f32)
    rest = polynomial(m, t, _ERFC) - (near - head) * (near + head)
    large = scalar.exp(m, -(head * head)) * (scalar.exp(m, rest) * t)
    return m.select(x < 0.45, m.const(1.0) - scalar.erf(m, x), large)


def _newton(m: Math, x: Element, y: Element) -> Element:
    """One step of Halley's iteration toward `erf(y) = x`, for x from 0 to 1."""
    near = scalar.erf(m, y) - x
    far = (m.const(1.0) - x) - erfc(m, y)
    slope = scalar.exp(m, -(y * y)) * (2 / math.sqrt(math.pi))
    step = m.select(x < 0.5, near, far) / slope
    return y - step / (y * step + 1.0)


def erf_inv(m: Math, x: Element) -> Element:
    """The inverse of `erf`; in f32 within 4 ulp.

    `x P(w)` with `w = -log(1 - x**2)`, and `x Q(sqrt(w))` for w above 5; f64 goes on from there.

    References
    ----------
    Giles, "Approximating the erfinv function", GPU Computing Gems, 2011.
    """
    w = -scalar.log(m, (m.const(1.0) - x) * (x + 1.0))
    t = m.abs(x)
    root = m.sqrt(m.maximum(w, 5.0)) - 3.0
    far = polynomial(m, root, _ERF_INV_WIDE if m.dtype == f64 else _ERF_INV_FAR)
    factor = m.select(w < 5.0, polynomial(m, m.minimum(w, 5.0) - 2.5, _ERF_INV_NEAR), far)
    y = t * factor
    if m.dtype == f64:
        y = _newton(m, t, _newton(m, t, y))
        y = m.select(x < 0.0, -y, m.select(x == 0.0, x, y))
    else:
        y = with_sign(m, y, x)
    return m.select(t == 1.0, x * math.inf, y)
