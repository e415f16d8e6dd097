"""The bits of numbers, by arithmetic: ONNX has no operator that reads them.

Integers of one width are cast, which keeps their bits. A float is taken apart into its exponent,
found by a logarithm and corrected by one, and what is left of it, which is exact; and a float is
put together as a product with a power of two. NaN is the one quiet NaN, its payload is lost.
"""

from __future__ import annotations

import numpy as np

from ....ir.graph import Node
from ....ir.types import DType, boolean, f64, i64
from ..emit import Emitter
from ..lowering import pointwise

_FRACTION = {32: 23, 64: 52}  # bits behind the point
_BIAS = {32: 127, 64: 1023}
_LEAST = -(2**63)


@pointwise("bitcast")
def _bitcast(e: Emitter, x: str, node: Node) -> str:
    source, target = e.dtypes[x], node.output.dtype
    if source.is_float and target.is_float:
        return x
    if source.is_float:
        return _bits(e, x, target)
    return _number(e, x, target) if target.is_float else e.cast(x, target)


def _powers(e: Emitter, exponent: str, low: int, high: int) -> str:
    """`2.0 ** exponent` in f64 for i64 in [low, high], exactly."""
    table = e.const(np.ldexp(1.0, np.arange(low, high + 1)))
    place = e.op("Sub", exponent, e.const(low, i64))
    return e.op("Gather", table, e.op("Clip", place, e.const(0, i64), e.const(high - low, i64)))


def _bits(e: Emitter, x: str, target: DType) -> str:
    """`(exponent + bias - 1 + |x| / 2**exponent) * 2**fraction`, plus the sign.

    Below the normal numbers the exponent is the least and the quotient below 1: the same formula.
    """
    width = target.bits
    fraction, bias = _FRACTION[width], _BIAS[width]
    size = e.op("Abs", e.cast(x, f64))
    is_nan, infinite = (e.op(op, size, dtype=boolean) for op in ("IsNaN", "IsInf"))
    special = e.op("Or", is_nan, infinite)
    safe = e.where(special, e.const(1, f64), size)
    log = e.op("Mul", e.op("Log", e.op("Max", safe, e.const(1e-320, f64))), _f64(e, 1 / np.log(2)))
    exponent = e.cast(e.op("Floor", log), i64)
    exponent = e.op("Clip", exponent, e.const(1 - bias, i64), e.const(bias, i64))
    quotient = e.op("Div", safe, _powers(e, exponent, 1 - bias, bias))
    down = e.cast(e.op("Less", quotient, _f64(e, 1), dtype=boolean), i64)
    up = e.cast(e.op("GreaterOrEqual", quotient, _f64(e, 2), dtype=boolean), i64)
    exponent = e.op("Add", exponent, e.op("Sub", up, down))
    exponent = e.op("Clip", exponent, e.const(1 - bias, i64), e.const(bias, i64))
    quotient = e.op("Div", safe, _powers(e, exponent, 1 - bias, bias))
    scaled = e.cast(e.op("Mul", quotient, _f64(e, 2.0**fraction)), i64)
    whole = e.op("Mul", e.op("Add", exponent, e.const(bias - 1, i64)), e.const(2**fraction, i64))
    bits = e.op("Add", whole, scaled)
    top = (2 * bias + 1) << fraction
    quiet = e.where(is_nan, e.const(top + 2 ** (fraction - 1), i64), e.const(top, i64))
    bits = e.where(special, quiet, bits)
    return e.cast(e.where(_is_negative(e, x), e.op("Add", bits, _sign(e, target)), bits), target)


def _f64(e: Emitter, number: float) -> str:
    return e.const(number, f64)


def _sign(e: Emitter, dtype: DType) -> str:
    """The sign bit of integers of this type, as what it adds to the others."""
    if dtype.bits == 64:
        return e.const(_LEAST, i64)
    return e.const(2**31 if dtype.kind == "uint" else -(2**31), i64)


def _is_negative(e: Emitter, x: str) -> str:
    """Whether a float's sign bit is set; that of NaN counts as not set."""
    below = e.op("Less", x, e.like(0, x), dtype=boolean)
    inverse = e.op("Less", e.op("Reciprocal", x), e.like(0, x), dtype=boolean)
    return e.op("Or", below, inverse)


def _number(e: Emitter, x: str, target: DType) -> str:
    """`(2**fraction + rest) * 2**(exponent - bias - fraction)`, with the sign."""
    width = target.bits
    fraction, bias = _FRACTION[width], _BIAS[width]
    bits = e.cast(x, i64)
    is_negative = e.op("Less", bits, e.const(0, i64), dtype=boolean)
    size = e.op("BitwiseAnd", bits, e.const(2 ** (width - 1) - 1, i64))
    if e.dtypes[x].kind == "uint":
        is_negative = e.op("GreaterOrEqual", bits, e.const(2**31, i64), dtype=boolean)
    exponent = e.op("Div", size, e.const(2**fraction, i64))
    rest = e.op("Mod", size, e.const(2**fraction, i64))
    none = e.const(0, i64)
    is_small = e.op("Equal", exponent, none, dtype=boolean)
    digits = e.op("Add", rest, e.where(is_small, none, e.const(2**fraction, i64)))
    power = e.op("Sub", e.op("Max", exponent, e.const(1, i64)), e.const(bias + fraction, i64))
    scale = _powers(e, power, 1 - bias - fraction, bias - fraction)
    number = e.op("Mul", e.cast(digits, f64), scale)
    is_special = e.op("Equal", exponent, e.const(2 * bias + 1, i64), dtype=boolean)
    is_infinite = e.op("Equal", rest, none, dtype=boolean)
    special = e.where(is_infinite, _f64(e, np.inf), _f64(e, np.nan))
    number = e.where(is_special, special, number)
    return e.cast(e.where(is_negative, e.op("Neg", number), number), target)
