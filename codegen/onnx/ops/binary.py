"""Elementwise functions of two operands, comparisons and select."""

from __future__ import annotations

import numpy as np

from ....ir.graph import Node
from ....ir.types import boolean, i64
from ..emit import Emitter
from ..lowering import pointwise


@pointwise("maximum", "minimum")
def _extremum(e: Emitter, a: str, b: str, node: Node) -> str:
    return e.op("Max" if node.op.name == "maximum" else "Min", a, b)


@pointwise("div")
def _div(e: Emitter, a: str, b: str, node: Node) -> str:
    """Integer division by 0, and of the least integer by -1, would kill the process."""
    if e.dtypes[a].is_float:
        return e.op("Div", a, b)
    if _is_harmless(e, b):
        return e.op("Div", a, b)
    zero = e.op("Equal", b, e.like(0, b), dtype=boolean)
    if e.dtypes[b].kind == "uint":
        quotient = e.op("Div", a, e.where(zero, e.like(1, b), b))
        return e.where(zero, e.like(0, b), quotient)
    minus = e.op("Equal", b, e.like(-1, b), dtype=boolean)
    divisor = e.where(e.op("Or", zero, minus), e.like(1, b), b)
    quotient = e.where(minus, e.op("Neg", a), e.op("Div", a, divisor))
    return e.where(zero, e.like(0, b), quotient)


def _is_harmless(e: Emitter, divisor: str) -> bool:
    """Whether a divisor is a constant that no processor refuses."""
    array = e.arrays.get(divisor)
    return array is not None and not np.isin(array.astype(np.int64), (0, -1)).any()


@pointwise("remainder")
def _remainder(e: Emitter, a: str, b: str, node: Node) -> str:
    """ONNX's Mod has the divisor's sign for integers, but C's fmod for floats."""
    if not e.dtypes[a].is_float:
        if _is_harmless(e, b):
            return e.op("Mod", a, b)
        trivial = e.op("Equal", b, e.like(0, b), dtype=boolean)
        if e.dtypes[b].kind == "int":
            trivial = e.op("Or", trivial, e.op("Equal", b, e.like(-1, b), dtype=boolean))
        return e.op("Mod", a, e.where(trivial, e.like(1, b), b))
    rest = e.op("Mod", a, b, fmod=1)
    zero = e.like(0, a)
    crossed = e.op("Less", e.op("Mul", e.op("Sign", rest), e.op("Sign", b)), zero, dtype=boolean)
    return e.where(crossed, e.op("Add", rest, b), rest)


@pointwise("not_equal")
def _not_equal(e: Emitter, a: str, b: str, node: Node) -> str:
    return e.logical_not(e.op("Equal", a, b, dtype=boolean))


@pointwise("shift_left", "shift_right")
def _shift(e: Emitter, a: str, b: str, node: Node) -> str:
    """BitShift knows unsigned integers; signed ones are shifted as multiplication and division."""
    dtype = e.dtypes[a]
    left = node.op.name == "shift_left"
    if dtype.kind == "uint":
        return e.op("BitShift", a, b, direction="LEFT" if left else "RIGHT")
    wide, steps = e.cast(a, i64), e.cast(b, i64)
    if left:
        return e.cast(e.op("Mul", wide, _power_of_two(e, steps)), dtype)
    if dtype.bits < 64:
        return e.cast(_floor_divided(e, wide, _power_of_two(e, steps)), dtype)
    half = e.op("Div", steps, e.const(2, i64))  # 2**63 is no i64
    for part in (half, e.op("Sub", steps, half)):
        wide = _floor_divided(e, wide, _power_of_two(e, part))
    return wide


def _power_of_two(e: Emitter, exponent: str) -> str:
    """`2 ** exponent` by a table, for ONNX Runtime's Pow of integers computes in f64."""
    table = np.left_shift(np.ones(64, np.int64), np.arange(64))
    place = e.op("Clip", exponent, e.const(0, i64), e.const(63, i64))
    return e.op("Gather", e.const(table), place)


def _floor_divided(e: Emitter, x: str, divisor: str) -> str:
    return e.op("Div", e.op("Sub", x, e.op("Mod", x, divisor)), divisor)


@pointwise("select")
def _select(e: Emitter, condition: str, a: str, b: str, node: Node) -> str:
    return e.where(condition, a, b)
