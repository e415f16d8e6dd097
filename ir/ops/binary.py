"""Elementwise operations of two and three operands, and conversion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import elementary
from ..errors import DTypeError, ShapeError
from ..graph import Value
from ..op import CODE, Op, Rejected, case, define, reject
from ..scalar import Element, Math
from ..sugar import full
from ..sugar import select as where
from ..types import DType, TensorType, bf16, boolean, f16, f32, f64, i8, i32, i64, u8, u32
from .common import (
    DISCRETE,
    N,
    require_bool,
    require_float,
    require_integer,
    require_number,
    require_same,
)

Rule = Callable[[TensorType, TensorType], TensorType]


def _rule(op: str, require: Callable[..., None], result: DType | None = None) -> Rule:
    """The type rule of a binary op: both operands of one type that `require` accepts."""

    def rule(x: TensorType, y: TensorType) -> TensorType:
        require(op, x=x, y=y)
        require_same(op, x, y)
        return x if result is None else x.with_dtype(result)

    return rule


def _unequal(op: str) -> list[Rejected]:
    """What all operations of two equal types refuse."""
    error = f"{op}: operands must have one"
    return [
        reject(f32(3), f32(4), error=f"{error} shape, got f32[3] and f32[4]"),
        reject(f32(3), i32(3), error=f"{error} dtype, got f32[3] and i32[3]"),
    ]


# --- arithmetic ------------------------------------------------------------------------------


def _add_vjp(g: Value, x: Value, y: Value, *, out: Value) -> tuple[Value, Value]:
    return g, g


def _add_scalar(m: Math, x: Element, y: Element) -> Element:
    return x + y


add = define(Op(
    name="add",
    doc="`x + y`; integers wrap around.",
    kind="elementwise",
    type=_rule("add", require_number), numpy=np.add, vjp=_add_vjp,
    scalar=_add_scalar, onnx="Add",
    samples=[
        case(f32(4, 7), f32(4, 7)), case(f32(N, 3), f32(N, 3)), case(f16(5), f16(5)),
        case(bf16(5), bf16(5)), case(i32(6), i32(6)), case(u8(6), u8(6)),
    ],
    rejects=[
        *_unequal("add"),
        reject(boolean(3), boolean(3), error="add: operand x must be a number, got bool[3]"),
        reject(f32(3), error="add: missing a required argument: 'y'"),
    ],
))  # fmt: skip


def _sub_vjp(g: Value, x: Value, y: Value, *, out: Value) -> tuple[Value, Value]:
    return g, -g


def _sub_scalar(m: Math, x: Element, y: Element) -> Element:
    return x - y


sub = define(Op(
    name="sub",
    doc="`x - y`; integers wrap around.",
    kind="elementwise",
    type=_rule("sub", require_number), numpy=np.subtract, vjp=_sub_vjp,
    scalar=_sub_scalar, onnx="Sub",
    samples=[
        case(f32(4, 7), f32(4, 7)), case(f32(N, 3), f32(N, 3)), case(f16(5), f16(5)),
        case(bf16(5), bf16(5)), case(i32(6), i32(6)), case(u8(6), u8(6)),
    ],
    rejects=[
        *_unequal("sub"),
        reject(boolean(3), boolean(3), error="sub: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _mul_vjp(g: Value, x: Value, y: Value, *, out: Value) -> tuple[Value, Value]:
    return g * y, g * x


def _mul_scalar(m: Math, x: Element, y: Element) -> Element:
    return x * y


mul = define(Op(
    name="mul",
    doc="`x * y`; integers wrap around.",
    kind="elementwise",
    type=_rule("mul", require_number), numpy=np.multiply, vjp=_mul_vjp,
    scalar=_mul_scalar, onnx="Mul",
    samples=[
        case(f32(4, 7), f32(4, 7)), case(f32(N, 3), f32(N, 3)), case(f16(5), f16(5)),
        case(bf16(5), bf16(5)), case(i32(6), i32(6)), case(u8(6), u8(6)),
    ],
    rejects=[
        *_unequal("mul"),
        reject(boolean(3), boolean(3), error="mul: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _div_numpy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "iu":
        return np.asarray(x / y)
    quotient = x // y  # rounded down, and 0 for a divisor of 0
    inexact = (y != 0) & (quotient * y != x)
    up = inexact & ((x < 0) != (y < 0))
    return np.asarray(quotient + up).astype(x.dtype, copy=False)


def _div_vjp(g: Value, x: Value, y: Value, *, out: Value) -> tuple[Value, Value]:
    share = g / y
    return share, -share * out


def _div_scalar(m: Math, x: Element, y: Element) -> Element:
    return x / y


div = define(Op(
    name="div",
    doc="`x / y`; of integers rounded toward zero, and 0 where `y` is 0.",
    kind="elementwise",
    type=_rule("div", require_number), numpy=_div_numpy, vjp=_div_vjp,
    scalar=_div_scalar, onnx="Div",
    samples=[
        case(f32(4, 7), f32(4, 7), domain=(0.5, 2.0)), case(f32(N), f32(N), domain=(-3.0, -0.5)),
        case(f16(5), f16(5), domain=(0.5, 2.0)), case(bf16(5), bf16(5), domain=(0.5, 2.0)),
        case(i32(40), i32(40), integers=(-9, 9)), case(u32(40), u32(40), integers=(0, 9)),
        case(i8(40), i8(40), integers=(-128, 128)),
    ],
    rejects=[
        *_unequal("div"),
        reject(boolean(3), boolean(3), error="div: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _remainder_vjp(g: Value, x: Value, y: Value, *, out: Value) -> tuple[Value, Value]:
    from .elementwise import floor

    return g, -g * floor(x / y)


def _remainder_scalar(m: Math, x: Element, y: Element) -> Element:
    return x % y


remainder = define(Op(
    name="remainder",
    doc="""`x - floor(x / y) * y`, which has the sign of `y`; of integers 0 where `y` is 0.""",
    kind="elementwise",
    type=_rule("remainder", require_number), numpy=np.remainder, vjp=_remainder_vjp,
    scalar=_remainder_scalar, onnx=CODE,
    samples=[
        case(f32(4, 7), f32(4, 7), domain=(0.5, 4.0)), case(f32(N), f32(N), domain=(-4.0, -0.5)),
        case(f32(40), f32(40)), case(f16(5), f16(5), domain=(0.5, 2.0)),
        case(bf16(5), bf16(5), domain=(0.5, 2.0)), case(i32(40), i32(40), integers=(-9, 9)),
        case(u32(40), u32(40), integers=(0, 9)),
    ],
    rejects=[
        *_unequal("remainder"),
        reject(boolean(3), boolean(3), error="remainder: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _pow_vjp(g: Value, x: Value, y: Value, *, out: Value) -> tuple[Value, Value]:
    from .elementwise import log

    # Guarded operands, so that no 0 * inf arises, in these or in their own gradients.
    is_constant = equal(y, full(y.shape, 0, y.dtype))
    dx = where(is_constant, 0, y * pow_(x, where(is_constant, 1, y - 1)))
    dy = where(x > 0, log(where(x > 0, x, 1)) * out, 0)
    return g * dx, g * dy


pow_ = define(Op(
    name="pow",
    doc="""`x ** y`; NaN for a negative `x` and a fractional `y`. The gradient of `y` is 0 where
    `x` is not positive.""",
    kind="elementwise",
    type=_rule("pow", require_float), numpy=np.power, vjp=_pow_vjp,
    scalar=elementary.pow, onnx="Pow",
    samples=[
        case(f32(4, 7), f32(4, 7), domain=(0.5, 3.0)), case(f32(N), f32(N), domain=(0.5, 3.0)),
        case(f16(5), f16(5), domain=(0.5, 2.0)), case(bf16(5), bf16(5), domain=(0.5, 2.0)),
    ],
    rejects=[
        reject(f32(3), f32(4), error="pow: operands must have one shape, got f32[3] and f32[4]"),
        reject(i32(3), i32(3), error="pow: operand x must be floating point, got i32[3]"),
    ],
))  # fmt: skip


def _extremum_vjp(g: Value, x: Value, y: Value, *, out: Value) -> tuple[Value, Value]:
    """The operand that is the result gets the cotangent; operands that tie get half."""
    half = g * 0.5
    tie = equal(x, y)
    wins = equal(x, out)
    zero = full(g.shape, 0, g.dtype)
    return where(tie, half, where(wins, g, zero)), where(tie, half, where(wins, zero, g))


def _maximum_scalar(m: Math, x: Element, y: Element) -> Element:
    return m.maximum(x, y)


maximum = define(Op(
    name="maximum",
    doc="The larger of `x` and `y`, NaN if one is NaN; where they tie each gets half a gradient.",
    kind="elementwise",
    type=_rule("maximum", require_number), numpy=np.maximum, vjp=_extremum_vjp,
    scalar=_maximum_scalar, onnx=CODE,
    samples=[
        case(f32(4, 7), f32(4, 7)), case(f32(N, 3), f32(N, 3)), case(f16(5), f16(5)),
        case(bf16(5), bf16(5)), case(i32(6), i32(6)), case(u32(6), u32(6)),
    ],
    rejects=[
        *_unequal("maximum"),
        reject(boolean(3), boolean(3), error="maximum: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _minimum_scalar(m: Math, x: Element, y: Element) -> Element:
    return m.minimum(x, y)


minimum = define(Op(
    name="minimum",
    doc="The smaller of `x` and `y`, NaN if one is NaN; where they tie each gets half a gradient.",
    kind="elementwise",
    type=_rule("minimum", require_number), numpy=np.minimum, vjp=_extremum_vjp,
    scalar=_minimum_scalar, onnx=CODE,
    samples=[
        case(f32(4, 7), f32(4, 7)), case(f32(N, 3), f32(N, 3)), case(f16(5), f16(5)),
        case(bf16(5), bf16(5)), case(i32(6), i32(6)), case(u32(6), u32(6)),
    ],
    rejects=[
        *_unequal("minimum"),
        reject(boolean(3), boolean(3), error="minimum: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


# --- truth values and bits -------------------------------------------------------------------


def _logical_and_scalar(m: Math, x: Element, y: Element) -> Element:
    return x & y


logical_and = define(Op(
    name="logical_and",
    doc="True where both are.",
    kind="elementwise",
    type=_rule("logical_and", require_bool), numpy=np.logical_and, vjp=DISCRETE,
    scalar=_logical_and_scalar, onnx="And",
    samples=[case(boolean(4, 7), boolean(4, 7)), case(boolean(N), boolean(N))],
    rejects=[reject(i32(3), i32(3), error="logical_and: operand x must be bool, got i32[3]")],
))  # fmt: skip


def _logical_or_scalar(m: Math, x: Element, y: Element) -> Element:
    return x | y


logical_or = define(Op(
    name="logical_or",
    doc="True where one is.",
    kind="elementwise",
    type=_rule("logical_or", require_bool), numpy=np.logical_or, vjp=DISCRETE,
    scalar=_logical_or_scalar, onnx="Or",
    samples=[case(boolean(4, 7), boolean(4, 7)), case(boolean(N), boolean(N))],
    rejects=[reject(i32(3), i32(3), error="logical_or: operand x must be bool, got i32[3]")],
))  # fmt: skip


def _bit_and_scalar(m: Math, x: Element, y: Element) -> Element:
    return x & y


bit_and = define(Op(
    name="bit_and",
    doc="The bits that both have.",
    kind="elementwise",
    type=_rule("bit_and", require_integer), numpy=np.bitwise_and, vjp=DISCRETE,
    scalar=_bit_and_scalar, onnx="BitwiseAnd",
    samples=[case(u32(4, 7), u32(4, 7)), case(i32(N), i32(N)), case(u8(5), u8(5))],
    rejects=[reject(f32(3), f32(3), error="bit_and: operand x must be an integer, got f32[3]")],
))  # fmt: skip


def _bit_or_scalar(m: Math, x: Element, y: Element) -> Element:
    return x | y


bit_or = define(Op(
    name="bit_or",
    doc="The bits that one has.",
    kind="elementwise",
    type=_rule("bit_or", require_integer), numpy=np.bitwise_or, vjp=DISCRETE,
    scalar=_bit_or_scalar, onnx="BitwiseOr",
    samples=[case(u32(4, 7), u32(4, 7)), case(i32(N), i32(N)), case(u8(5), u8(5))],
    rejects=[reject(f32(3), f32(3), error="bit_or: operand x must be an integer, got f32[3]")],
))  # fmt: skip


def _bit_xor_scalar(m: Math, x: Element, y: Element) -> Element:
    return x ^ y


bit_xor = define(Op(
    name="bit_xor",
    doc="The bits that exactly one has.",
    kind="elementwise",
    type=_rule("bit_xor", require_integer), numpy=np.bitwise_xor, vjp=DISCRETE,
    scalar=_bit_xor_scalar, onnx="BitwiseXor",
    samples=[case(u32(4, 7), u32(4, 7)), case(i32(N), i32(N)), case(u8(5), u8(5))],
    rejects=[reject(f32(3), f32(3), error="bit_xor: operand x must be an integer, got f32[3]")],
))  # fmt: skip


def _shift_left_scalar(m: Math, x: Element, y: Element) -> Element:
    return x << y


shift_left = define(Op(
    name="shift_left",
    doc="The bits of `x` moved up by `y`, which must be below the number of bits.",
    kind="elementwise",
    type=_rule("shift_left", require_integer), numpy=np.left_shift, vjp=DISCRETE,
    scalar=_shift_left_scalar, onnx=CODE,
    samples=[
        case(u32(4, 7), u32(4, 7), integers=(0, 32)), case(u32(N), u32(N), integers=(0, 9)),
        case(i32(9), i32(9), integers=(0, 9)), case(u8(9), u8(9), integers=(0, 8)),
    ],
    rejects=[reject(f32(3), f32(3), error="shift_left: operand x must be an integer, got f32[3]")],
))  # fmt: skip


def _shift_right_scalar(m: Math, x: Element, y: Element) -> Element:
    return x >> y


shift_right = define(Op(
    name="shift_right",
    doc="""The bits of `x` moved down by `y`, which must be below the number of bits; zeros come
    in, for signed integers copies of the sign.""",
    kind="elementwise",
    type=_rule("shift_right", require_integer), numpy=np.right_shift, vjp=DISCRETE,
    scalar=_shift_right_scalar, onnx=CODE,
    samples=[
        case(u32(4, 7), u32(4, 7), integers=(0, 32)), case(u32(N), u32(N), integers=(0, 9)),
        case(i32(9), i32(9), integers=(0, 9)), case(u8(9), u8(9), integers=(0, 8)),
    ],
    rejects=[reject(f32(3), f32(3), error="shift_right: operand x must be an integer, got f32[3]")],
))  # fmt: skip


# --- comparison, choice, conversion ----------------------------------------------------------


def _require_any(op: str, **operands: TensorType) -> None:
    """Equality takes every dtype."""


def _equal_scalar(m: Math, x: Element, y: Element) -> Element:
    return x == y


equal = define(Op(
    name="equal",
    doc="`x == y`; false where one is NaN.",
    kind="elementwise",
    type=_rule("equal", _require_any, boolean), numpy=np.equal, vjp=DISCRETE,
    scalar=_equal_scalar, onnx="Equal",
    samples=[
        case(f32(4, 7), f32(4, 7)), case(i32(N), i32(N)), case(boolean(5), boolean(5)),
        case(u8(9), u8(9)), case(bf16(3), bf16(3)),
    ],
    rejects=_unequal("equal"),
))  # fmt: skip


def _not_equal_scalar(m: Math, x: Element, y: Element) -> Element:
    return x != y


not_equal = define(Op(
    name="not_equal",
    doc="`x != y`; true where one is NaN.",
    kind="elementwise",
    type=_rule("not_equal", _require_any, boolean), numpy=np.not_equal, vjp=DISCRETE,
    scalar=_not_equal_scalar, onnx=CODE,
    samples=[
        case(f32(4, 7), f32(4, 7)), case(i32(N), i32(N)), case(boolean(5), boolean(5)),
        case(u8(9), u8(9)), case(bf16(3), bf16(3)),
    ],
    rejects=_unequal("not_equal"),
))  # fmt: skip


def _less_scalar(m: Math, x: Element, y: Element) -> Element:
    return x < y


less = define(Op(
    name="less",
    doc="`x < y`; false where one is NaN.",
    kind="elementwise",
    type=_rule("less", require_number, boolean), numpy=np.less, vjp=DISCRETE,
    scalar=_less_scalar, onnx="Less",
    samples=[
        case(f32(4, 7), f32(4, 7)), case(i32(N), i32(N)), case(u32(9), u32(9)),
        case(bf16(3), bf16(3)), case(f16(3), f16(3)),
    ],
    rejects=[
        *_unequal("less"),
        reject(boolean(3), boolean(3), error="less: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _less_equal_scalar(m: Math, x: Element, y: Element) -> Element:
    return x <= y


less_equal = define(Op(
    name="less_equal",
    doc="`x <= y`; false where one is NaN.",
    kind="elementwise",
    type=_rule("less_equal", require_number, boolean), numpy=np.less_equal, vjp=DISCRETE,
    scalar=_less_equal_scalar, onnx="LessOrEqual",
    samples=[
        case(f32(4, 7), f32(4, 7)), case(i32(N), i32(N)), case(u32(9), u32(9)),
        case(bf16(3), bf16(3)), case(f16(3), f16(3)),
    ],
    rejects=[
        *_unequal("less_equal"),
        reject(boolean(3), boolean(3), error="less_equal: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _greater_scalar(m: Math, x: Element, y: Element) -> Element:
    return x > y


greater = define(Op(
    name="greater",
    doc="`x > y`; false where one is NaN.",
    kind="elementwise",
    type=_rule("greater", require_number, boolean), numpy=np.greater, vjp=DISCRETE,
    scalar=_greater_scalar, onnx="Greater",
    samples=[
        case(f32(4, 7), f32(4, 7)), case(i32(N), i32(N)), case(u32(9), u32(9)),
        case(bf16(3), bf16(3)), case(f16(3), f16(3)),
    ],
    rejects=[
        *_unequal("greater"),
        reject(boolean(3), boolean(3), error="greater: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _greater_equal_scalar(m: Math, x: Element, y: Element) -> Element:
    return x >= y


greater_equal = define(Op(
    name="greater_equal",
    doc="`x >= y`; false where one is NaN.",
    kind="elementwise",
    type=_rule("greater_equal", require_number, boolean), numpy=np.greater_equal, vjp=DISCRETE,
    scalar=_greater_equal_scalar, onnx="GreaterOrEqual",
    samples=[
        case(f32(4, 7), f32(4, 7)), case(i32(N), i32(N)), case(u32(9), u32(9)),
        case(bf16(3), bf16(3)), case(f16(3), f16(3)),
    ],
    rejects=[
        *_unequal("greater_equal"),
        reject(boolean(3), boolean(3),
               error="greater_equal: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _select_type(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    require_bool("select", condition=condition)
    require_same("select", x, y)
    if condition.shape != x.shape:
        raise ShapeError(f"select: operands must have one shape, got {condition} and {x}")
    return x


def _select_vjp(
    g: Value, condition: Value, x: Value, y: Value, *, out: Value
) -> tuple[None, Value, Value]:
    zero = full(g.shape, 0, g.dtype)
    return None, select(condition, g, zero), select(condition, zero, g)


def _select_scalar(m: Math, condition: Element, x: Element, y: Element) -> Element:
    return m.select(condition, x, y)


select = define(Op(
    name="select",
    doc="`x` where `condition`, else `y`.",
    kind="elementwise",
    type=_select_type, numpy=np.where, vjp=_select_vjp,
    scalar=_select_scalar, onnx="Where",
    samples=[
        case(boolean(4, 7), f32(4, 7), f32(4, 7)), case(boolean(N), i32(N), i32(N)),
        case(boolean(5), bf16(5), bf16(5)), case(boolean(5), boolean(5), boolean(5)),
    ],
    rejects=[
        reject(f32(3), f32(3), f32(3), error="select: operand condition must be bool, got f32[3]"),
        reject(boolean(3), f32(3), i32(3),
               error="select: operands must have one dtype, got f32[3] and i32[3]"),
        reject(boolean(2), f32(3), f32(3),
               error="select: operands must have one shape, got bool[2] and f32[3]"),
    ],
))  # fmt: skip


def _cast_type(x: TensorType, *, dtype: DType) -> TensorType:
    if not isinstance(dtype, DType):
        raise DTypeError(f"cast: dtype must be one of the IR's, got {dtype!r}")
    return x.with_dtype(dtype)


def _cast_numpy(x: np.ndarray, *, dtype: DType) -> np.ndarray:
    return x != 0 if dtype.is_bool else x.astype(dtype.numpy)


def _cast_vjp(g: Value, x: Value, *, out: Value, dtype: DType) -> tuple[Value | None]:
    return (cast(g, dtype=x.dtype) if x.dtype.is_float else None,)


def _cast_scalar(m: Math, x: Element, *, dtype: DType) -> Element:
    return m.cast(x, dtype)


cast = define(Op(
    name="cast",
    doc="""`x` as `dtype`: rounded to nearest even among floats, cut toward zero from float to
    integer (undefined out of its range), wrapped around among integers, `x != 0` as bool.""",
    kind="elementwise",
    type=_cast_type, numpy=_cast_numpy, vjp=_cast_vjp,
    scalar=_cast_scalar, onnx=CODE,
    samples=[
        case(f32(4, 7), dtype=f64), case(f32(N), dtype=f32), case(f64(5), dtype=f32),
        case(f32(5), dtype=bf16), case(f32(5), dtype=f16), case(bf16(5), dtype=f32),
        case(f32(9), dtype=i32, domain=(-9.0, 9.0)), case(i32(9), dtype=f32),
        case(i32(9), dtype=u8, integers=(0, 300)), case(u32(5), dtype=f32),
        case(boolean(5), dtype=f32), case(f32(5), dtype=boolean), case(i64(5), dtype=i32),
        case(i32(5), dtype=boolean),
    ],
    rejects=[reject(f32(3), dtype="f32", error="cast: dtype must be one of the IR's, got 'f32'")],
))  # fmt: skip
