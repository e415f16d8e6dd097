"""Unary elementwise operations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .. import elementary, scalar
from ..graph import Value
from ..op import CODE, Case, Op, case, define, reject
from ..scalar import Element, Math
from ..sugar import select
from ..types import TensorType, bf16, boolean, f16, f32, i8, i32, u8, u32
from .common import (
    DISCRETE,
    N,
    require_bool,
    require_float,
    require_integer,
    require_number,
    widen,
)


def _rule(op: str, require: Callable[..., None]) -> Callable[[TensorType], TensorType]:
    """The type rule of a unary op: the operand's own type, if `require` accepts it."""

    def rule(x: TensorType) -> TensorType:
        require(op, x=x)
        return x

    return rule


def _floats(low: float, high: float) -> list[Case]:
    """Samples of every dtype that differ in the rules, drawn from a range."""
    types = (f32(4, 7), f32(N, 3), f32(), f16(5), bf16(5))
    return [case(x, domain=(low, high)) for x in types]


# --- sign and rounding -----------------------------------------------------------------------


def _neg_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (-g,)


def _neg_scalar(m: Math, x: Element) -> Element:
    return -x


neg = define(Op(
    name="neg",
    doc="`-x`; unsigned integers wrap around.",
    kind="elementwise",
    type=_rule("neg", require_number), numpy=np.negative, vjp=_neg_vjp,
    scalar=_neg_scalar, onnx="Neg",
    samples=[*_floats(-2.0, 2.0), case(i32(6))],
    rejects=[reject(boolean(3), error="neg: operand x must be a number, got bool[3]")],
))  # fmt: skip


def _abs_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * sign(x),)


def _abs_scalar(m: Math, x: Element) -> Element:
    return m.abs(x)


abs_ = define(Op(
    name="abs",
    doc="`|x|`; the gradient at 0 is 0.",
    kind="elementwise",
    type=_rule("abs", require_number), numpy=np.abs, vjp=_abs_vjp,
    scalar=_abs_scalar, onnx="Abs",
    samples=[*_floats(-2.0, 2.0), case(i32(6))],
    rejects=[reject(boolean(3), error="abs: operand x must be a number, got bool[3]")],
))  # fmt: skip


def _no_vjp(g: Value, x: Value, *, out: Value) -> tuple[None]:
    return (None,)


def _sign_scalar(m: Math, x: Element) -> Element:
    negative = x if m.dtype.kind == "uint" else m.select(x < 0, -1, x)
    return m.select(x > 0, 1, negative)


sign = define(Op(
    name="sign",
    doc="1, 0 or -1; NaN stays NaN. The gradient is 0 everywhere.",
    kind="elementwise",
    type=_rule("sign", require_number), numpy=np.sign, vjp=_no_vjp,
    scalar=_sign_scalar, onnx="Sign",
    samples=[*_floats(-2.0, 2.0), case(i32(6))],
    rejects=[reject(boolean(3), error="sign: operand x must be a number, got bool[3]")],
))  # fmt: skip


def _floor_scalar(m: Math, x: Element) -> Element:
    return m.floor(x)


floor = define(Op(
    name="floor",
    doc="The largest integer that is not above `x`. The gradient is 0 everywhere.",
    kind="elementwise",
    type=_rule("floor", require_float), numpy=np.floor, vjp=_no_vjp,
    scalar=_floor_scalar, onnx="Floor",
    samples=_floats(-9.0, 9.0),
    rejects=[reject(i32(3), error="floor: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _ceil_scalar(m: Math, x: Element) -> Element:
    return m.ceil(x)


ceil = define(Op(
    name="ceil",
    doc="The smallest integer that is not below `x`. The gradient is 0 everywhere.",
    kind="elementwise",
    type=_rule("ceil", require_float), numpy=np.ceil, vjp=_no_vjp,
    scalar=_ceil_scalar, onnx="Ceil",
    samples=_floats(-9.0, 9.0),
    rejects=[reject(i32(3), error="ceil: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _round_scalar(m: Math, x: Element) -> Element:
    return m.round(x)


round_ = define(Op(
    name="round",
    doc="The nearest integer, halves to the even one. The gradient is 0 everywhere.",
    kind="elementwise",
    type=_rule("round", require_float), numpy=np.rint, vjp=_no_vjp,
    scalar=_round_scalar, onnx="Round",
    samples=_floats(-9.0, 9.0),
    rejects=[reject(i32(3), error="round: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _relu_numpy(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(x, np.zeros((), x.dtype)))


def _relu_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (select(out > 0, g, 0),)


def _relu_scalar(m: Math, x: Element) -> Element:
    return m.maximum(x, 0)


relu = define(Op(
    name="relu",
    doc="The larger of `x` and 0; the gradient at 0 is 0.",
    kind="elementwise",
    type=_rule("relu", require_number), numpy=_relu_numpy, vjp=_relu_vjp,
    scalar=_relu_scalar, onnx="Relu",
    samples=[*_floats(-2.0, 2.0), case(i32(6))],
    rejects=[reject(boolean(3), error="relu: operand x must be a number, got bool[3]")],
))  # fmt: skip


def _identity_numpy(x: np.ndarray) -> np.ndarray:
    return x


def _identity_scalar(m: Math, x: Element) -> Element:
    return x


def _any_type(x: TensorType) -> TensorType:
    return x


stop_gradient = define(Op(
    name="stop_gradient",
    doc="`x`, through which no gradient flows.",
    kind="elementwise",
    type=_any_type, numpy=_identity_numpy, vjp=_no_vjp,
    scalar=_identity_scalar, onnx="Identity",
    samples=[case(f32(4, 7)), case(i32(N, 3)), case(bf16(5)), case(boolean(2))],
))  # fmt: skip


# --- exponentials, roots, waves --------------------------------------------------------------


def _exp_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * out,)


exp = define(Op(
    name="exp",
    doc="`e ** x`.",
    kind="elementwise",
    type=_rule("exp", require_float), numpy=np.exp, vjp=_exp_vjp,
    scalar=scalar.exp, onnx="Exp",
    samples=_floats(-8.0, 8.0),
    rejects=[reject(i32(3), error="exp: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _expm1_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * (out + 1),)


expm1 = define(Op(
    name="expm1",
    doc="`e ** x - 1`, exact near 0.",
    kind="elementwise",
    type=_rule("expm1", require_float), numpy=np.expm1, vjp=_expm1_vjp,
    scalar=scalar.expm1, onnx=CODE,
    samples=_floats(-3.0, 3.0),
    rejects=[reject(i32(3), error="expm1: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _log_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g / x,)


log = define(Op(
    name="log",
    doc="The natural logarithm; -inf at 0, NaN below.",
    kind="elementwise",
    type=_rule("log", require_float), numpy=np.log, vjp=_log_vjp,
    scalar=scalar.log, onnx="Log",
    samples=_floats(0.1, 9.0),
    rejects=[reject(i32(3), error="log: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _log1p_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g / (x + 1),)


log1p = define(Op(
    name="log1p",
    doc="`log(1 + x)`, exact near 0.",
    kind="elementwise",
    type=_rule("log1p", require_float), numpy=np.log1p, vjp=_log1p_vjp,
    scalar=scalar.log1p, onnx=CODE,
    samples=_floats(-0.9, 5.0),
    rejects=[reject(i32(3), error="log1p: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _sqrt_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * 0.5 / out,)


def _sqrt_scalar(m: Math, x: Element) -> Element:
    return m.sqrt(x)


sqrt = define(Op(
    name="sqrt",
    doc="The square root; NaN below 0.",
    kind="elementwise",
    type=_rule("sqrt", require_float), numpy=np.sqrt, vjp=_sqrt_vjp,
    scalar=_sqrt_scalar, onnx="Sqrt",
    samples=_floats(0.1, 9.0),
    rejects=[reject(i32(3), error="sqrt: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _rsqrt_numpy(x: np.ndarray) -> np.ndarray:
    wide = widen(x)
    return np.asarray(1 / np.sqrt(wide)).astype(x.dtype, copy=False)


def _rsqrt_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * -0.5 * out / x,)


def _rsqrt_scalar(m: Math, x: Element) -> Element:
    return m.const(1) / m.sqrt(x)


rsqrt = define(Op(
    name="rsqrt",
    doc="`1 / sqrt(x)`.",
    kind="elementwise",
    type=_rule("rsqrt", require_float), numpy=_rsqrt_numpy, vjp=_rsqrt_vjp,
    scalar=_rsqrt_scalar, onnx=CODE,
    samples=_floats(0.1, 9.0),
    rejects=[reject(i32(3), error="rsqrt: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _sin_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * cos(x),)


sin = define(Op(
    name="sin",
    doc="The sine of `x` radians.",
    kind="elementwise",
    type=_rule("sin", require_float), numpy=np.sin, vjp=_sin_vjp,
    scalar=elementary.sin, onnx="Sin",
    samples=_floats(-7.0, 7.0),
    rejects=[reject(i32(3), error="sin: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _cos_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (-g * sin(x),)


cos = define(Op(
    name="cos",
    doc="The cosine of `x` radians.",
    kind="elementwise",
    type=_rule("cos", require_float), numpy=np.cos, vjp=_cos_vjp,
    scalar=elementary.cos, onnx="Cos",
    samples=_floats(-7.0, 7.0),
    rejects=[reject(i32(3), error="cos: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _tanh_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * (1 - out * out),)


tanh = define(Op(
    name="tanh",
    doc="The hyperbolic tangent.",
    kind="elementwise",
    type=_rule("tanh", require_float), numpy=np.tanh, vjp=_tanh_vjp,
    scalar=scalar.tanh, onnx="Tanh",
    samples=_floats(-4.0, 4.0),
    rejects=[reject(i32(3), error="tanh: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _sigmoid_numpy(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-widen(x)))).astype(x.dtype, copy=False)


def _sigmoid_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * out * (1 - out),)


sigmoid = define(Op(
    name="sigmoid",
    doc="`1 / (1 + exp(-x))`.",
    kind="elementwise",
    type=_rule("sigmoid", require_float), numpy=_sigmoid_numpy, vjp=_sigmoid_vjp,
    scalar=scalar.sigmoid, onnx="Sigmoid",
    samples=_floats(-8.0, 8.0),
    rejects=[reject(i32(3), error="sigmoid: operand x must be floating point, got i32[3]")],
))  # fmt: skip


_erf = np.frompyfunc(math.erf, 1, 1)


def _erf_numpy(x: np.ndarray) -> np.ndarray:
    return np.asarray(_erf(x.astype(np.float64)), np.float64).astype(x.dtype, copy=False)


def _erf_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * (2 / math.sqrt(math.pi)) * exp(-x * x),)


erf = define(Op(
    name="erf",
    doc="The error function: `2 / sqrt(pi)` times the integral of `exp(-t * t)` from 0 to `x`.",
    kind="elementwise",
    type=_rule("erf", require_float), numpy=_erf_numpy, vjp=_erf_vjp,
    scalar=scalar.erf, onnx="Erf",
    samples=_floats(-3.0, 3.0),
    rejects=[reject(i32(3), error="erf: operand x must be floating point, got i32[3]")],
))  # fmt: skip


# --- truth values and bits -------------------------------------------------------------------


def _is_finite_type(x: TensorType) -> TensorType:
    require_float("is_finite", x=x)
    return x.with_dtype(boolean)


def _is_finite_scalar(m: Math, x: Element) -> Element:
    return m.abs(x) < math.inf


is_finite = define(Op(
    name="is_finite",
    doc="Whether `x` is neither infinite nor NaN.",
    kind="elementwise",
    type=_is_finite_type, numpy=np.isfinite, vjp=DISCRETE,
    scalar=_is_finite_scalar, onnx=CODE,
    samples=[case(f32(4, 7)), case(f16(N, 3)), case(bf16(2))],
    rejects=[reject(i32(3), error="is_finite: operand x must be floating point, got i32[3]")],
))  # fmt: skip


def _logical_not_scalar(m: Math, x: Element) -> Element:
    return ~x


logical_not = define(Op(
    name="logical_not",
    doc="True where `x` is false.",
    kind="elementwise",
    type=_rule("logical_not", require_bool), numpy=np.logical_not, vjp=DISCRETE,
    scalar=_logical_not_scalar, onnx="Not",
    samples=[case(boolean(4, 7)), case(boolean(N))],
    rejects=[reject(f32(3), error="logical_not: operand x must be bool, got f32[3]")],
))  # fmt: skip


def _bit_not_scalar(m: Math, x: Element) -> Element:
    return ~x


bit_not = define(Op(
    name="bit_not",
    doc="All bits of `x` flipped.",
    kind="elementwise",
    type=_rule("bit_not", require_integer), numpy=np.bitwise_not, vjp=DISCRETE,
    scalar=_bit_not_scalar, onnx="BitwiseNot",
    samples=[case(u32(4, 7)), case(i32(N)), case(u8(3)), case(i8(3))],
    rejects=[reject(f32(3), error="bit_not: operand x must be an integer, got f32[3]")],
))  # fmt: skip
