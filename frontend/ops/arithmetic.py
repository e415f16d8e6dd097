"""Element by element: arithmetic, comparison, logic, rounding, exponentials.

Operands broadcast as in NumPy; dtypes promote as in JAX, Python numbers giving way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes

from ...ir import sugar
from ...ir.graph import Value
from ...ir.types import DType, boolean, f32, i32, u8
from ..operation import operation
from .core import floating, floats, operand, tensor
from .integers import integer_power

INF = float("inf")


def _define(name: str, doc: str, body: Callable[..., Any]) -> Callable[..., Any]:
    body.__name__ = body.__qualname__ = name
    body.__doc__ = doc
    return operation(body)


def _float_unary(name: str, primitive: str, doc: str) -> Callable[[Any], Any]:
    """A function of floats; integers are converted first."""
    return _define(name, doc, lambda x: sugar.unary(primitive, floating(x)))


def _binary(name: str, primitive: str, doc: str) -> Callable[[Any, Any], Any]:
    return _define(
        name, doc, lambda x1, x2: sugar.binary(primitive, operand(x1), operand(x2))
    )  # fmt: skip


def _logical(name: str, primitive: str, doc: str) -> Callable[[Any, Any], Any]:
    def body(x1: Any, x2: Any) -> Value:
        return sugar.binary(primitive, tensor(x1, boolean), tensor(x2, boolean))

    return _define(name, doc, body)


# --- of one operand --------------------------------------------------------------------------

exp = _float_unary("exp", "exp", "e to the power of `x`.")
expm1 = _float_unary("expm1", "expm1", "`exp(x) - 1`, exact for small `x`.")
log = _float_unary("log", "log", "Natural logarithm.")
log1p = _float_unary("log1p", "log1p", "`log(1 + x)`, exact for small `x`.")
sqrt = _float_unary("sqrt", "sqrt", "Square root.")
rsqrt = _float_unary("rsqrt", "rsqrt", "`1 / sqrt(x)`.")
sin = _float_unary("sin", "sin", "Sine of `x` radians.")
cos = _float_unary("cos", "cos", "Cosine of `x` radians.")
tan = _float_unary("tan", "tan", "Tangent of `x` radians.")
arcsin = _float_unary("arcsin", "asin", "The angle whose sine is `x`.")
arccos = _float_unary("arccos", "acos", "The angle whose cosine is `x`.")
arctan = _float_unary("arctan", "atan", "The angle whose tangent is `x`.")
sinh = _float_unary("sinh", "sinh", "Hyperbolic sine.")
cosh = _float_unary("cosh", "cosh", "Hyperbolic cosine.")
tanh = _float_unary("tanh", "tanh", "Hyperbolic tangent.")
arcsinh = _float_unary("arcsinh", "asinh", "The number whose hyperbolic sine is `x`.")
arccosh = _float_unary("arccosh", "acosh", "The number whose hyperbolic cosine is `x`.")
arctanh = _float_unary("arctanh", "atanh", "The number whose hyperbolic tangent is `x`.")
exp2 = _float_unary("exp2", "exp2", "2 to the power of `x`.")
log2 = _float_unary("log2", "log2", "Logarithm to base 2.")
log10 = _float_unary("log10", "log10", "Logarithm to base 10.")
cbrt = _float_unary("cbrt", "cbrt", "Cube root.")
erf = _float_unary("erf", "erf", "The error function.")
erfc = _float_unary("erfc", "erfc", "`1 - erf(x)`, exact where `erf` is nearly 1.")
erfinv = _float_unary("erfinv", "erf_inv", "The number whose error function is `x`.")


@operation
def absolute(x: Any) -> Any:
    """`|x|`."""
    x = tensor(x)
    return x if x.dtype.is_bool else sugar.unary("abs", x)


@operation
def negative(x: Any) -> Any:
    """`-x`."""
    return sugar.unary("neg", tensor(x))


@operation
def sign(x: Any) -> Any:
    """-1, 0 or 1 as `x` is negative, zero or positive."""
    return sugar.unary("sign", tensor(x))


@operation
def square(x: Any) -> Any:
    """`x * x`; of bools, int32."""
    x = tensor(x)
    x = sugar.cast(x, i32) if x.dtype.is_bool else x
    return sugar.binary("mul", x, x)


@operation
def reciprocal(x: Any) -> Any:
    """`1 / x`."""
    return sugar.divide(1.0, floating(x))


def _rounding(name: str, doc: str) -> Callable[[Any], Any]:
    return _define(name, doc, lambda x: sugar.unary(name, floating(x)))


floor = _rounding("floor", "The largest whole number that is not above `x`, as a float.")
ceil = _rounding("ceil", "The smallest whole number that is not below `x`, as a float.")


@operation
def round(x: Any, decimals: int = 0) -> Any:
    """`x` rounded to `decimals` places, halves to even."""
    x = tensor(x)
    if not x.dtype.is_float and decimals >= 0:
        return x
    scale = 10.0**decimals
    if decimals == 0:
        return sugar.unary("round", x)
    rounded = sugar.unary("round", floating(x) * scale) / scale
    return sugar.cast(rounded, x.dtype)


@operation
def trunc(x: Any) -> Any:
    """`x` without its fraction."""
    x = tensor(x)
    if not x.dtype.is_float:
        return x
    return sugar.select(x < 0, sugar.unary("ceil", x), sugar.unary("floor", x))


@operation
def isfinite(x: Any) -> Any:
    """Where `x` is neither infinite nor NaN."""
    return sugar.unary("is_finite", floating(x))


@operation
def isnan(x: Any) -> Any:
    """Where `x` is NaN."""
    x = floating(x)
    return sugar.binary("not_equal", x, x)


@operation
def isinf(x: Any) -> Any:
    """Where `x` is plus or minus infinity."""
    return sugar.binary("equal", sugar.unary("abs", floating(x)), INF)


@operation
def nan_to_num(x: Any, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    """`x` with NaN and infinities replaced; infinities by the largest numbers by default."""
    x = tensor(x)
    if not x.dtype.is_float:
        return x
    largest = _largest(x)
    high = largest if posinf is None else posinf
    low = -largest if neginf is None else neginf
    y = sugar.select(sugar.binary("equal", x, INF), high, x)
    y = sugar.select(sugar.binary("equal", x, -INF), low, y)
    return sugar.select(sugar.binary("not_equal", x, x), nan, y)


def _largest(x: Value) -> float:
    return float(ml_dtypes.finfo(x.dtype.numpy).max)  # type: ignore[no-untyped-call]


@operation
def logical_not(x: Any) -> Any:
    """Where `x` is false."""
    return sugar.unary("logical_not", tensor(x, boolean))


# --- of two operands -------------------------------------------------------------------------


@operation
def add(x1: Any, x2: Any) -> Any:
    """`x1 + x2`; of bools, their or."""
    return _with_bools("add", "logical_or", x1, x2)


@operation
def multiply(x1: Any, x2: Any) -> Any:
    """`x1 * x2`; of bools, their and."""
    return _with_bools("mul", "logical_and", x1, x2)


def _with_bools(primitive: str, logical: str, x1: Any, x2: Any) -> Value:
    a, b = sugar.common(operand(x1), operand(x2))
    return sugar.binary(logical if a.dtype.is_bool else primitive, a, b)


@operation
def maximum(x1: Any, x2: Any) -> Any:
    """The larger of two; NaN if one is NaN."""
    return _with_bools("maximum", "logical_or", x1, x2)


@operation
def minimum(x1: Any, x2: Any) -> Any:
    """The smaller of two; NaN if one is NaN."""
    return _with_bools("minimum", "logical_and", x1, x2)


@operation
def mod(x1: Any, x2: Any) -> Any:
    """The remainder of `x1 / x2`, of the sign of `x2`; bools count as int32."""
    return sugar.binary("remainder", *_numbers(i32, x1, x2))


def _numbers(dtype: DType, x1: Any, x2: Any) -> tuple[Value, Value]:
    """Operands of one dtype, bools as `dtype`."""
    a, b = sugar.common(operand(x1), operand(x2))
    return (sugar.cast(a, dtype), sugar.cast(b, dtype)) if a.dtype.is_bool else (a, b)


def _order(name: str, doc: str) -> Callable[[Any, Any], Any]:
    return _define(name, doc, lambda x1, x2: sugar.binary(name, *_numbers(u8, x1, x2)))


subtract = _binary("subtract", "sub", "`x1 - x2`.")
equal = _binary("equal", "equal", "Where `x1 == x2`.")
not_equal = _binary("not_equal", "not_equal", "Where `x1 != x2`.")
less = _order("less", "Where `x1 < x2`.")
less_equal = _order("less_equal", "Where `x1 <= x2`.")
greater = _order("greater", "Where `x1 > x2`.")
greater_equal = _order("greater_equal", "Where `x1 >= x2`.")
logical_and = _logical("logical_and", "logical_and", "Where both are true.")
logical_or = _logical("logical_or", "logical_or", "Where at least one is true.")
logical_xor = _logical("logical_xor", "not_equal", "Where exactly one is true.")


def _bitwise(name: str, bits: str, logical: str, doc: str) -> Callable[[Any, Any], Any]:
    return _define(name, doc, lambda x, y: _with_bools(bits, logical, x, y))


def _shift(name: str, primitive: str, doc: str) -> Callable[[Any, Any], Any]:
    return _define(name, doc, lambda x, y: sugar.binary(primitive, *_numbers(i32, x, y)))


bitwise_and = _bitwise("bitwise_and", "bit_and", "logical_and", "The bits that both have.")
bitwise_or = _bitwise("bitwise_or", "bit_or", "logical_or", "The bits that at least one has.")
bitwise_xor = _bitwise("bitwise_xor", "bit_xor", "not_equal", "The bits that exactly one has.")
bitwise_left_shift = _shift("bitwise_left_shift", "shift_left", "`x * 2**y` on bits.")
bitwise_right_shift = _shift("bitwise_right_shift", "shift_right", "Bits moved down by `y`.")


@operation
def divide(x1: Any, x2: Any) -> Any:
    """`x1 / x2` as floats."""
    return sugar.divide(operand(x1), operand(x2))


@operation
def divide_no_nan(x1: Any, x2: Any) -> Any:
    """`x1 / x2`, and 0 where `x2` is 0; the gradient is 0 there too."""
    a, b = sugar.common(operand(x1), operand(x2))
    if not a.dtype.is_float:
        a, b = sugar.cast(a, f32), sugar.cast(b, f32)
    zero = sugar.binary("equal", b, 0)
    return sugar.select(zero, 0, sugar.divide(a, sugar.select(zero, 1, b)))


@operation
def floor_divide(x1: Any, x2: Any) -> Any:
    """`x1 / x2` rounded down; bools count as int32."""
    return sugar.floor_divide(*_numbers(i32, x1, x2))


@operation
def arctan2(x1: Any, x2: Any) -> Any:
    """The angle of the point with ordinate `x1` and abscissa `x2`, from -pi to pi."""
    return sugar.binary("atan2", *floats(tensor(x1), tensor(x2)))


@operation
def bitwise_invert(x: Any) -> Any:
    """All bits of `x` flipped; of bools, `not`."""
    x = tensor(x)
    return sugar.unary("logical_not" if x.dtype.is_bool else "bit_not", x)


@operation
def allclose(
    x1: Any, x2: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Any:
    """Whether `isclose` holds everywhere."""
    return sugar.reduce("reduce_all", isclose(x1, x2, rtol, atol, equal_nan))


@operation
def power(x1: Any, x2: Any) -> Any:
    """`x1` to the power of `x2`; of integers an integer, 0 for negative exponents."""
    base, exponent = operand(x1), operand(x2)
    if isinstance(base, Value) and base.dtype.is_float:
        return sugar.power(base, exponent)
    a, b = _numbers(i32, base, exponent)
    return sugar.power(a, b) if a.dtype.is_float else integer_power(a, b)


@operation
def squared_difference(x1: Any, x2: Any) -> Any:
    """`(x1 - x2)**2`."""
    difference = sugar.binary("sub", operand(x1), operand(x2))
    return sugar.binary("mul", difference, difference)


@operation
def logaddexp(x1: Any, x2: Any) -> Any:
    """`log(exp(x1) + exp(x2))` without overflow."""
    a, b = floats(tensor(x1), tensor(x2))
    high = sugar.binary("maximum", a, b)
    distance = sugar.unary("abs", a - b)
    same = sugar.binary("equal", a, b)  # inf - inf is NaN
    tail = sugar.unary("log1p", sugar.unary("exp", -sugar.select(same, 0, distance)))
    return high + tail


@operation
def clip(x: Any, x_min: Any, x_max: Any) -> Any:
    """`x` limited to `[x_min, x_max]`."""
    x = tensor(x)
    x = sugar.cast(x, i32) if x.dtype.is_bool else x
    low = x if x_min is None else sugar.binary("maximum", x, operand(x_min))
    return low if x_max is None else sugar.binary("minimum", low, operand(x_max))


@operation
def isclose(
    x1: Any, x2: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Any:
    """Where `|x1 - x2| <= atol + rtol * |x2|`, or both are the same infinity."""
    a, b = sugar.common(operand(x1), operand(x2))
    a, b = floating(a), floating(b)
    near = sugar.unary("abs", a - b) <= sugar.unary("abs", b) * rtol + atol
    finite = sugar.unary("is_finite", b)
    result = sugar.select(finite, near, sugar.binary("equal", a, b))
    if not equal_nan:
        return result
    both = sugar.binary("not_equal", a, a) & sugar.binary("not_equal", b, b)
    return result | both


abs = absolute
bitwise_not = bitwise_invert
true_divide = divide
left_shift = bitwise_left_shift
right_shift = bitwise_right_shift

__all__ = [
    "abs", "absolute", "add", "allclose", "arccos", "arccosh", "arcsin", "arcsinh", "arctan",
    "arctan2", "arctanh", "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_not",
    "bitwise_or", "bitwise_right_shift", "bitwise_xor", "cbrt", "ceil", "clip", "cos", "cosh",
    "divide", "divide_no_nan", "equal", "erf", "erfc", "erfinv", "exp", "exp2", "expm1",
    "floor", "floor_divide", "greater", "greater_equal", "isclose", "isfinite", "isinf",
    "isnan", "left_shift", "less", "less_equal", "log", "log10", "log1p", "log2", "logaddexp",
    "logical_and", "logical_not", "logical_or", "logical_xor", "maximum", "minimum", "mod",
    "multiply", "nan_to_num", "negative", "not_equal", "power", "reciprocal", "right_shift",
    "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "squared_difference", "subtract",
    "tan", "tanh", "true_divide", "trunc",
]  # fmt: skip
