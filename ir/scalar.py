"""Arithmetic on one element, written once for every code generator.

An elementwise op's `scalar(m, *elements, **attrs)` is straight-line arithmetic over a math
namespace `m`: each code generator emits instructions through an `m` of its own, and tests run it
on arrays. There are no branches: `m.select` chooses between numbers that are both computed, so
that everything vectorizes.

The exponential family is defined here in f32 by polynomials, since a vectorized program that
calls the C library for one element at a time is several times slower. Their coefficients are
weighted minimax fits (Lawson's algorithm) of the functions that the docstrings name. Errors
are stated in ulp (units in the last place of the exact result) and held by
`tests/ir/test_scalar.py`, with and without the fused multiply-add into which a compiler may
contract `a * b + c`. f64 uses the C library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from .types import DType, f32, f64, i32

Element = Any
"""One number of a code generator's own kind, f16 and bf16 carried as f32. It has Python's
operators, a Python number may stand on their right: `+ - * /` (`/` of integers rounds toward
zero and gives 0 for a divisor of 0), `%` with the sign of the divisor (of integers 0 for a
divisor of 0), unary `-`, comparisons with a truth value for a result (`==` and the ordered ones
false for NaN), `& | ^ ~` of integers and truth values, `<< >>` of integers by less than their
width (`>>` repeats the sign of a signed one)."""


class Math(Protocol):
    """What a code generator offers to `scalar` functions.

    Attributes
    ----------
    dtype : DType
        Of the op's last operand: of what is computed with, compared, chosen or cast; f32 for
        f16 and bf16, which are rounded where the op ends.
    """

    dtype: DType

    def const(self, value: float) -> Element:
        """A number of `dtype`."""

    def cast(self, x: Element, dtype: DType) -> Element:
        """Conversion; float to integer cuts the fraction off, anything to bool is `x != 0`."""

    def bitcast(self, x: Element, dtype: DType) -> Element:
        """The same bits as another dtype of the same size."""

    def select(self, condition: Element, x: Any, y: Any) -> Element:
        """`x` if `condition` else `y`; both are computed."""

    def maximum(self, x: Element, y: Any) -> Element:
        """The larger, NaN if one is NaN."""

    def minimum(self, x: Element, y: Any) -> Element:
        """The smaller, NaN if one is NaN."""

    def abs(self, x: Element) -> Element:
        """The absolute value."""

    def sqrt(self, x: Element) -> Element:
        """The square root, correctly rounded."""

    def floor(self, x: Element) -> Element:
        """The largest integer not above."""

    def ceil(self, x: Element) -> Element:
        """The smallest integer not below."""

    def round(self, x: Element) -> Element:
        """The nearest integer, halves to the even one."""

    def sin(self, x: Element) -> Element:
        """The C library's, as all that follow."""

    def cos(self, x: Element) -> Element: ...

    def pow(self, x: Element, y: Any) -> Element: ...

    def exp(self, x: Element) -> Element: ...

    def expm1(self, x: Element) -> Element: ...

    def log(self, x: Element) -> Element: ...

    def log1p(self, x: Element) -> Element: ...

    def tanh(self, x: Element) -> Element: ...

    def erf(self, x: Element) -> Element: ...

    def library(self, name: str, *xs: Element) -> Element:
        """Any other function of one or two floats of the C library, by its name for f64."""


# --- pieces ----------------------------------------------------------------------------------

LOG2_E = 1.4426950408889634
LN2 = math.log(2)
LN2_HIGH = 0.693145751953125  # 16 bits: a product with a whole number below 2**8 is exact
LN2_LOW = LN2 - LN2_HIGH
ROUNDING = 12582912.0  # 1.5 * 2**23: what is added to it is rounded to a whole number
ROUNDING_BITS = 0x4B400000  # its bits; those of `ROUNDING + n` are these plus n
SIGN_BIT = -0x80000000

EXP = (0.4999999403953552, 0.1666652113199234, 0.04166826605796814, 0.008368677459657192,
       0.001382073387503624)  # fmt: skip
_EXPM1 = (0.5, 0.1666666567325592, 0.04166635870933533, 0.008333389647305012,
          0.0013940719654783607, 0.0001984588598133996)  # fmt: skip
_TANH = (0.375, 0.12499911338090897, 0.03125013783574104, 0.006274548824876547,
         0.001042393036186695)  # fmt: skip
_LOG = (0.3333331346511841, -0.25000008940696716, 0.2000211924314499, -0.1666799634695053,
        0.14219552278518677, -0.1240558922290802, 0.11888162046670914, -0.11675652116537094,
        0.06746640801429749)  # fmt: skip
_ERF_SMALL = (-0.29046154022216797, -0.14670158922672272, 0.034860361367464066,
              -0.007262888830155134, 0.0012970002135261893, -0.00020014155597891659,
              2.7084290195489302e-05, -3.2861894396774005e-06, 3.6012156101605797e-07,
              -2.8090703096950165e-08)  # fmt: skip
_ERF_LARGE = (3.0201928893802688e-05, -0.00018737505888566375, 0.0005531950737349689,
              -0.0010278183035552502, 0.0013275149976834655, -0.001245700754225254,
              0.0008850093581713736, -0.0004766653582919389, 0.00014031032333150506,
              2.7230653358856216e-05, -2.588357347121928e-05)  # fmt: skip


def polynomial(m: Math, x: Element, coefficients: Sequence[float]) -> Element:
    """`c[0] + c[1] x + c[2] x**2 + ...` by Horner's rule."""
    result = m.const(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


def power_of_two(m: Math, n: Element) -> Element:
    """`2.0 ** n` for an i32 from -126 to 127; infinity for 128."""
    return m.bitcast((n + 127) << 23, f32)


def with_sign(m: Math, x: Element, sign: Element) -> Element:
    """`x`, which is not negative, with the sign bit of `sign`."""
    return m.bitcast(m.bitcast(x, i32) | (m.bitcast(sign, i32) & SIGN_BIT), f32)


def reduced_exp(m: Math, x: Element, coefficients: Sequence[float]) -> tuple[Element, Element]:
    """A whole i32 n and p with `exp(x) = 2**n * (1 + p)` and `|p|` at most 0.42.

    p is `r + r**2 P(r)` with `r = x - n log(2)`. NaN ends up in p. With the coefficients `EXP`
    `1 + p` is good to the last place, with `_EXPM1` p itself is.
    """
    shifted = x * LOG2_E + ROUNDING
    n = m.bitcast(shifted, i32) - ROUNDING_BITS
    whole = shifted - ROUNDING
    r = x - whole * LN2_HIGH - whole * LN2_LOW
    return n, r + r * r * polynomial(m, r, coefficients)


def decompose(m: Math, x: Element) -> tuple[Element, Element]:
    """k, a whole number as f32, and f with `x = 2**k (1 + f)`, `sqrt(1/2) <= 1 + f < sqrt(2)`.

    For a normal positive x.
    """
    bits = m.bitcast(x, i32)
    k = (bits - 0x3F3504F3) >> 23  # the bits of sqrt(1/2)
    return m.cast(k, f32), m.bitcast(bits - (k << 23), f32) - 1.0


def log_of(m: Math, k: Element, f: Element, correction: Element) -> Element:
    """`k log(2) + log(1 + f) + correction`, as `f - f**2 / 2 + f**3 Q(f)`."""
    square = f * f
    low = square * (f * polynomial(m, f, _LOG)) - square * 0.5
    return k * LN2_HIGH + (f + (low + (k * LN2_LOW + correction)))


# --- the exponential family ------------------------------------------------------------------


def exp(m: Math, x: Element) -> Element:
    """`e ** x`; in f32 within 1.1 ulp, results below the normal numbers included."""
    if m.dtype == f64:
        return m.exp(x)
    n, p = reduced_exp(m, m.minimum(m.maximum(x, -104.0), 89.0), EXP)
    half = n >> 1  # in two steps, since 2**n alone may be out of range
    return (p + 1.0) * power_of_two(m, half) * power_of_two(m, n - half)


def expm1(m: Math, x: Element) -> Element:
    """`e ** x - 1`; in f32 within 1.5 ulp."""
    if m.dtype == f64:
        return m.expm1(x)
    n, p = reduced_exp(m, m.minimum(m.maximum(x, -18.0), 89.0), _EXPM1)
    scale = power_of_two(m, n - 1)  # half of it, since 2**128 is out of range
    result = (p * scale + (scale - 0.5)) * 2.0
    return m.select(m.abs(x) < 2.0**-25, x, result)


def log(m: Math, x: Element) -> Element:
    """The natural logarithm; in f32 within 1 ulp, of numbers below the normal ones too."""
    if m.dtype == f64:
        return m.log(x)
    is_small = x < 2.0**-126
    k, f = decompose(m, m.select(is_small, x * 2.0**23, x))
    result = log_of(m, m.select(is_small, k - 23.0, k), f, m.const(0.0))
    result = m.select(x < math.inf, result, x)  # infinity and NaN
    return m.select(x > 0.0, result, m.select(x == 0.0, -math.inf, x * math.nan))


def log1p(m: Math, x: Element) -> Element:
    """`log(1 + x)`; in f32 within 1 ulp."""
    if m.dtype == f64:
        return m.log1p(x)
    u = x + 1.0
    part = u - 1.0
    lost = (m.const(1.0) - (u - part)) + (x - part)
    k, f = decompose(m, u)
    result = m.select(m.abs(x) < 2.0**-25, x, log_of(m, k, f, lost / u))
    result = m.select(x < math.inf, result, x)
    return m.select(x > -1.0, result, m.select(x == -1.0, -math.inf, x * math.nan))


def tanh(m: Math, x: Element) -> Element:
    """The hyperbolic tangent; in f32 within 1.9 ulp.

    `e / (e + 1.5)` with `e = 0.75 (exp(2 |x|) - 1)`: so the divisor of results between an eighth
    and a quarter lies just below 2, where it rounds to half as much as above. An error of e counts
    less the larger it is. The logarithm of 2 needs one number only: n is from 0 to 29.
    """
    if m.dtype == f64:
        return m.tanh(x)
    y = m.abs(x)
    y = m.minimum(y + y, 20.0)
    shifted = y * LOG2_E + ROUNDING
    r = y - (shifted - ROUNDING) * LN2
    p = r * 0.75 + r * r * polynomial(m, r, _TANH)
    exponent = (m.bitcast(shifted, i32) - ROUNDING_BITS) << 23
    scale = m.bitcast(exponent + 0x3F400000, f32)  # 0.75 * 2**n
    e = p * m.bitcast(exponent + 0x3F800000, f32) + (scale - 0.75)
    return with_sign(m, e / (e + 1.5), x)


def sigmoid(m: Math, x: Element) -> Element:
    """`1 / (1 + exp(-x))`; in f32 within 2 ulp above -87.3, and 0 below -88.8.

    Clamps do all that large numbers need: n is at most 127, so `2**n` is finite, and p is positive
    where the sum overflows. With `r = x + n log(2)` nothing has to change its sign.
    """
    if m.dtype == f64:
        return m.const(1.0) / (m.exp(-x) + 1.0)
    y = m.minimum(m.maximum(x, -88.8), 87.0)
    shifted = m.minimum(y * -LOG2_E + ROUNDING, ROUNDING + 127.0)
    whole = shifted - ROUNDING
    r = y + whole * LN2_HIGH + whole * LN2_LOW
    p = r * r * polynomial(m, r, [c * (-1) ** i for i, c in enumerate(EXP)]) - r
    scale = power_of_two(m, m.bitcast(shifted, i32) - ROUNDING_BITS)
    return m.const(1.0) / ((p * scale + 1.0) + scale)  # rounds once less than (p + 1) * scale + 1


def erf(m: Math, x: Element) -> Element:
    """The error function; in f32 within 2 ulp.

    `x + x P(x**2 - 1.75)` up to 1.95, then `1 - Q(|x| - 2.95)`. Each number takes its polynomial's
    coefficients, so that one is evaluated, not two; the points around which they are taken keep
    roundings small. From 3.95 on the result is 1.
    """
    if m.dtype == f64:
        return m.erf(x)
    t = m.minimum(m.abs(x), 3.95)
    is_small = t < 1.95
    w = m.select(is_small, t * t - 1.75, t - 2.95)
    result = w * _ERF_LARGE[-1] + _ERF_LARGE[-2]
    result = m.select(is_small, _ERF_SMALL[-1], result)
    for small, large in zip(_ERF_SMALL[-2::-1], _ERF_LARGE[-3::-1], strict=True):
        result = result * w + m.select(is_small, small, large)
    return with_sign(m, m.select(is_small, t, -1.0) * result + m.select(is_small, t, 1.0), x)


# --- random bits -----------------------------------------------------------------------------


def threefry2x32(
    key0: Element, key1: Element, counter0: Element, counter1: Element
) -> tuple[Element, Element]:
    """Both words of Threefry2x32-20, over u32 elements; sums wrap around.

    References
    ----------
    Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    keys = (key0, key1, key0 ^ key1 ^ 0x1BD11BDA)
    x0, x1 = counter0 + key0, counter1 + key1
    for group in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << rotation) | (x1 >> (32 - rotation))) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + (group + 1)
    return x0, x1
