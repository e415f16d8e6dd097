"""Rules about arithmetic, comparisons, truth values and casts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.graph import Value
from ...ir.op import get
from ...ir.rewrite import Rule
from ...ir.sugar import full
from ...ir.types import DType


def _op(name: str, *operands: Value, **attrs: Any) -> Value:
    return get(name)(*operands, **attrs)


def like(out: Value, number: Any) -> Value:
    """An array like `out` that repeats one number."""
    return full(out.shape, number, out.dtype)


def equals(number: Any, wanted: Any) -> bool | str:
    """Whether a constant is the number that a rule is about."""
    return bool(number == wanted) or f"the constant is {number}, not {wanted}"


_EXPONENTS = {"f64": 1000, "f32": 120, "bf16": 120, "f16": 13}
"""Powers of two up to this exponent, and their reciprocals, are normal numbers of a dtype."""


def power_of_two(c: Any, dtype: DType, least: int = 0) -> bool | str:
    """Whether multiplying by `c` and dividing by it are exact in a floating-point dtype.

    `least` is an upper limit for the exponent that is closer than the dtype's.
    """
    if not dtype.is_float:
        return f"{dtype} is not floating point"
    limit = least or _EXPONENTS[dtype.name]
    mantissa, exponent = math.frexp(float(c))
    if abs(mantissa) != 0.5:
        return f"the constant is {c}, no power of two, so the result would be rounded differently"
    return abs(exponent - 1) <= limit or f"the constant {c} is too large or too small"


def _product_exact(a: Any, b: Any, out: Value) -> bool | str:
    """Whether `(x * a) * b` is `x * (a * b)` whenever neither overflows."""
    verdict = power_of_two(a, out.dtype)
    verdict = verdict if verdict is True else power_of_two(b, out.dtype)
    if verdict is not True:
        return verdict
    _, exponent = math.frexp(float(a) * float(b))
    normal = a == 0 or b == 0 or abs(exponent) <= _EXPONENTS[out.dtype.name]
    return normal or f"{a} * {b} is out of range"


def floating(out: Value) -> bool | str:
    """Whether a result is floating point."""
    return out.dtype.is_float or f"{out.dtype} is not floating point"


def _signed(out: Value) -> bool | str:
    return out.dtype.kind in ("int", "float") or f"{out.dtype} has no negative numbers"


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every number of dtype `narrow` is exact in `wide`."""
    if narrow == wide or narrow.is_bool:
        return True
    if wide.is_bool:
        return False
    if wide.is_float:
        digits = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}
        if narrow.is_float:
            return wide.bits > narrow.bits
        # f16 reaches 65504: more than its digits hold exactly
        return narrow.bits - (narrow.kind == "int") <= digits[wide.name]
    if narrow.is_float:
        return False
    if wide.kind == narrow.kind:
        return wide.bits > narrow.bits
    return wide.kind == "int" and wide.bits > narrow.bits


def _cast_cast(x: Value, inner: DType, outer: DType) -> bool | str:
    return holds(inner, x.dtype) or f"{inner} does not hold all of {x.dtype}"


def _rescale(x: Value, a: Any, b: Any, out: Value) -> Value:
    with np.errstate(all="ignore"):
        return _op("mul", x, like(out, a * b))


ARITHMETIC = (
    Rule("add-zero", lambda p, x, c: p.add(x, p.const(c)),
         where=lambda c: equals(c, 0), replace=lambda x: x),
    Rule("sub-zero", lambda p, x, c: p.sub(x, p.const(c)),
         where=lambda c: equals(c, 0), replace=lambda x: x),
    Rule("zero-sub", lambda p, x, c: p.sub(p.const(c), x),
         where=lambda c, out: _signed(out) if c == 0 else equals(c, 0),
         replace=lambda x: _op("neg", x)),
    Rule("mul-one", lambda p, x, c: p.mul(x, p.const(c)),
         where=lambda c: equals(c, 1), replace=lambda x: x),
    Rule("mul-minus-one", lambda p, x, c: p.mul(x, p.const(c)),
         where=lambda c, out: _signed(out) if c == -1 else equals(c, -1),
         replace=lambda x: _op("neg", x)),
    Rule("div-one", lambda p, x, c: p.div(x, p.const(c)),
         where=lambda c: equals(c, 1), replace=lambda x: x),
    Rule("div-exact", lambda p, x, c: p.div(x, p.const(c)),
         where=lambda c, out: power_of_two(c, out.dtype),
         replace=lambda x, c, out: _op("mul", x, like(out, 1 / float(c)))),
    Rule("mul-mul-exact", lambda p, x, a, b: p.mul(p.mul(x, p.const(a)), p.const(b)),
         where=lambda a, b, out: _product_exact(a, b, out), replace=_rescale),
    Rule("add-self", lambda p, x: p.add(x, x),
         where=lambda out: floating(out), replace=lambda x, out: _op("mul", x, like(out, 2))),
    Rule("neg-neg", lambda p, x: p.neg(p.neg(x)), replace=lambda x: x, keeps_inner=True),
    Rule("neg-sub", lambda p, x, y: p.neg(p.sub(x, y)), replace=lambda x, y: _op("sub", y, x)),
    Rule("add-neg", lambda p, x, y: p.add(x, p.neg(y)),
         replace=lambda x, y: _op("sub", x, y), keeps_inner=True),
    Rule("sub-neg", lambda p, x, y: p.sub(x, p.neg(y)),
         replace=lambda x, y: _op("add", x, y), keeps_inner=True),
    Rule("neg-mul-const", lambda p, x, c: p.mul(p.neg(x), p.const(c)),
         replace=lambda x, c, out: _op("mul", x, like(out, -c)), keeps_inner=True),
    Rule("mul-neg-neg", lambda p, x, y: p.mul(p.neg(x), p.neg(y)),
         replace=lambda x, y: _op("mul", x, y), keeps_inner=True),
    Rule("abs-neg", lambda p, x: p.abs(p.neg(x)),
         where=_signed, replace=lambda x: _op("abs", x), keeps_inner=True),
    Rule("abs-abs", lambda p, x: p.abs(p.abs(x)), replace=lambda x: _op("abs", x),
         keeps_inner=True),
    Rule("pow-one", lambda p, x, c: p.pow(x, p.const(c)),
         where=lambda c: equals(c, 1), replace=lambda x: x),
    Rule("pow-two", lambda p, x, c: p.pow(x, p.const(c)),
         where=lambda c: equals(c, 2), replace=lambda x: _op("mul", x, x)),
    Rule("maximum-self", lambda p, x: p.any(("maximum", "minimum"), x, x), replace=lambda x: x),
    Rule("maximum-zero", lambda p, x, c: p.maximum(x, p.const(c)),
         where=lambda c: equals(c, 0), replace=lambda x: _op("relu", x)),
    Rule("relu-relu", lambda p, x: p.relu(p.relu(x)), replace=lambda x: _op("relu", x),
         keeps_inner=True),
    Rule("stop-gradient", lambda p, x: p.stop_gradient(x), replace=lambda x: x),
)  # fmt: skip

LOGIC = (
    Rule("not-not", lambda p, x: p.logical_not(p.logical_not(x)), replace=lambda x: x,
         keeps_inner=True),
    Rule("not-equal", lambda p, x, y: p.logical_not(p.equal(x, y)),
         replace=lambda x, y: _op("not_equal", x, y)),
    Rule("not-not-equal", lambda p, x, y: p.logical_not(p.not_equal(x, y)),
         replace=lambda x, y: _op("equal", x, y)),
    Rule("and-const", lambda p, x, c: p.logical_and(x, p.const(c)),
         replace=lambda x, c, out: x if c else like(out, False)),
    Rule("or-const", lambda p, x, c: p.logical_or(x, p.const(c)),
         replace=lambda x, c, out: like(out, True) if c else x),
    Rule("and-self", lambda p, x: p.any(("logical_and", "logical_or"), x, x),
         replace=lambda x: x),
    Rule("bits-zero", lambda p, x, c: p.any(("bit_or", "bit_xor"), x, p.const(c)),
         where=lambda c: equals(c, 0), replace=lambda x: x),
    Rule("shift-zero", lambda p, x, c: p.any(("shift_left", "shift_right"), x, p.const(c)),
         where=lambda c: equals(c, 0), replace=lambda x: x),
    Rule("select-const", lambda p, c, x, y: p.select(p.const(c), x, y),
         replace=lambda c, x, y: x if c else y),
    Rule("select-same", lambda p, c, x: p.select(c, x, x), replace=lambda x: x),
    Rule("select-not", lambda p, c, x, y: p.select(p.logical_not(c), x, y),
         replace=lambda c, x, y: _op("select", c, y, x), keeps_inner=True),
    Rule("select-select-true", lambda p, c, x, y, z: p.select(c, p.select(c, x, y), z),
         replace=lambda c, x, z: _op("select", c, x, z), keeps_inner=True),
    Rule("select-select-false", lambda p, c, x, y, z: p.select(c, x, p.select(c, y, z)),
         replace=lambda c, x, z: _op("select", c, x, z), keeps_inner=True),
    Rule("select-one-zero", lambda p, c, a, b: p.select(c, p.const(a), p.const(b)),
         where=lambda a, b, out: equals(a, 1) if a != 1 else equals(b, 0),
         replace=lambda c, out: c if out.dtype.is_bool else _op("cast", c, dtype=out.dtype)),
)  # fmt: skip

CASTS = (
    Rule("cast-same", lambda p, x, d: p.cast(x, dtype=d),
         where=lambda x, d: x.dtype == d or f"{x.dtype} is not {d}", replace=lambda x: x),
    Rule("cast-cast", lambda p, x, inner, outer: p.cast(p.cast(x, dtype=inner), dtype=outer),
         where=_cast_cast,
         replace=lambda x, outer: x if x.dtype == outer else _op("cast", x, dtype=outer),
         keeps_inner=True),
    Rule("cast-not-zero", lambda p, x, c, d: p.not_equal(p.cast(x, dtype=d), p.const(c)),
         where=lambda x, c: equals(c, 0) if x.dtype.is_bool else f"{x.dtype} is not bool",
         replace=lambda x: x, keeps_inner=True),
)  # fmt: skip

ALGEBRA = (*ARITHMETIC, *LOGIC, *CASTS)
