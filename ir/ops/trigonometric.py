"""Angles: trigonometric and hyperbolic functions and their inverses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .. import elementary
from ..graph import Value
from ..op import CODE, Op, Reason, case, define, reject
from ..sugar import unary
from ..types import TensorType, bf16, f16, f32, f64, i32
from .common import N, require_float, require_same


def exactly(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """An oracle that computes in f64 and rounds once."""

    def oracle(*operands: np.ndarray) -> np.ndarray:
        wide = function(*(x.astype(np.float64) for x in operands))
        return np.asarray(wide).astype(operands[0].dtype, copy=False)

    return oracle


def unary_float(
    name: str,
    doc: str,
    exact: Callable[..., np.ndarray],
    vjp: Callable[..., Sequence[Value]],
    *,
    onnx: str | Reason,
    domain: tuple[float, float],
) -> Op:
    """Declare a function of one float whose scalar stands in `elementary` by the op's name."""

    def rule(x: TensorType) -> TensorType:
        require_float(name, x=x)
        return x

    types = (f32(4, 7), f32(N, 3), f32(), f16(5), bf16(5), f64(6), f32(0, 2))
    return define(Op(
        name=name,
        doc=doc,
        kind="elementwise",
        type=rule, numpy=exactly(exact), vjp=vjp,
        scalar=getattr(elementary, name), onnx=onnx,
        samples=[case(x, domain=domain) for x in types],
        rejects=[reject(i32(3), error=f"{name}: operand x must be floating point, got i32[3]")],
    ))  # fmt: skip


# --- trigonometric ---------------------------------------------------------------------------


def _tan_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * (1 + out * out),)


tan = unary_float("tan", "The tangent of `x` radians.", np.tan, _tan_vjp,
                  onnx="Tan", domain=(-1.4, 1.4))  # fmt: skip


def _asin_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * unary("rsqrt", (1 - x) * (1 + x)),)


asin = unary_float("asin", "The angle from -pi/2 to pi/2 whose sine is `x`; NaN beyond 1 and -1.",
                   np.arcsin, _asin_vjp, onnx="Asin", domain=(-0.95, 0.95))  # fmt: skip


def _acos_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (-g * unary("rsqrt", (1 - x) * (1 + x)),)


acos = unary_float("acos", "The angle from 0 to pi whose cosine is `x`; NaN beyond 1 and -1.",
                   np.arccos, _acos_vjp, onnx="Acos", domain=(-0.95, 0.95))  # fmt: skip


def _atan_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g / (1 + x * x),)


atan = unary_float("atan", "The angle from -pi/2 to pi/2 whose tangent is `x`.",
                   np.arctan, _atan_vjp, onnx="Atan", domain=(-4.0, 4.0))  # fmt: skip


def _atan2_type(y: TensorType, x: TensorType) -> TensorType:
    require_float("atan2", y=y, x=x)
    require_same("atan2", y, x)
    return y


def _atan2_vjp(g: Value, y: Value, x: Value, *, out: Value) -> tuple[Value, Value]:
    share = g / (x * x + y * y)
    return share * x, -share * y


atan2 = define(Op(
    name="atan2",
    doc="""The angle from -pi to pi of the point with the abscissa `x` and the ordinate `y`, which
    comes first; zeros have signs.""",
    kind="elementwise",
    type=_atan2_type, numpy=exactly(np.arctan2), vjp=_atan2_vjp,
    scalar=elementary.atan2, onnx=CODE,
    samples=[
        case(f32(4, 7), f32(4, 7)), case(f32(N, 3), f32(N, 3)), case(f16(5), f16(5)),
        case(bf16(5), bf16(5)), case(f64(6), f64(6)), case(f32(0, 2), f32(0, 2)),
    ],
    rejects=[
        reject(i32(3), i32(3), error="atan2: operand y must be floating point, got i32[3]"),
        reject(f32(3), f32(4), error="atan2: operands must have one shape, got f32[3] and f32[4]"),
    ],
))  # fmt: skip


# --- hyperbolic ------------------------------------------------------------------------------


def _sinh_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * cosh(x),)


sinh = unary_float("sinh", "The hyperbolic sine.", np.sinh, _sinh_vjp,
                   onnx="Sinh", domain=(-4.0, 4.0))  # fmt: skip


def _cosh_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * sinh(x),)


cosh = unary_float("cosh", "The hyperbolic cosine.", np.cosh, _cosh_vjp,
                   onnx="Cosh", domain=(-4.0, 4.0))  # fmt: skip


def _asinh_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * unary("rsqrt", x * x + 1),)


asinh = unary_float("asinh", "The number whose hyperbolic sine is `x`.", np.arcsinh, _asinh_vjp,
                    onnx="Asinh", domain=(-4.0, 4.0))  # fmt: skip


def _acosh_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * unary("rsqrt", (x - 1) * (x + 1)),)


acosh = unary_float("acosh", "The number from 0 up whose hyperbolic cosine is `x`; NaN below 1.",
                    np.arccosh, _acosh_vjp, onnx="Acosh", domain=(1.1, 5.0))  # fmt: skip


def _atanh_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g / ((1 - x) * (1 + x)),)


atanh = unary_float("atanh", "The number whose hyperbolic tangent is `x`; NaN beyond 1 and -1.",
                    np.arctanh, _atanh_vjp, onnx="Atanh", domain=(-0.95, 0.95))  # fmt: skip
