"""Powers and logarithms of other bases, the cube root, and the error function's relatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from ..graph import Value
from ..op import CODE
from ..sugar import unary
from .trigonometric import unary_float

_LN2, _LN10 = math.log(2), math.log(10)


def _elementwise(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    """A function of one Python float, on arrays."""

    def run(x: np.ndarray) -> np.ndarray:
        return np.asarray([function(v) for v in x.reshape(-1).tolist()], x.dtype).reshape(x.shape)

    return run


def _exp2_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * out * _LN2,)


exp2 = unary_float("exp2", "`2 ** x`, exact for whole numbers.", np.exp2, _exp2_vjp,
                   onnx=CODE, domain=(-8.0, 8.0))  # fmt: skip


def _log2_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g / (x * _LN2),)


log2 = unary_float("log2", "The logarithm to base 2; -inf at 0, NaN below.", np.log2, _log2_vjp,
                   onnx=CODE, domain=(0.1, 9.0))  # fmt: skip


def _log10_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g / (x * _LN10),)


log10 = unary_float("log10", "The logarithm to base 10; -inf at 0, NaN below.", np.log10,
                    _log10_vjp, onnx=CODE, domain=(0.1, 9.0))  # fmt: skip


def _cbrt_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g / (out * out * 3),)


cbrt = unary_float("cbrt", "The number whose third power is `x`; infinite gradient at 0.",
                   np.cbrt, _cbrt_vjp, onnx=CODE, domain=(0.1, 9.0))  # fmt: skip


def _erfc_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * (-2 / math.sqrt(math.pi)) * unary("exp", -x * x),)


erfc = unary_float("erfc", "`1 - erf(x)`, exact where `erf` is nearly 1.",
                   _elementwise(math.erfc), _erfc_vjp,
                   onnx=CODE, domain=(-3.0, 3.0))  # fmt: skip


def _inverse(x: float) -> float:
    """The inverse of `math.erf`, by Newton's method on the side where nothing cancels."""
    if not abs(x) < 1:
        return x * math.inf if abs(x) == 1 else math.nan
    y = NormalDist().inv_cdf((1 + abs(x)) / 2) / math.sqrt(2) if abs(x) > 1e-8 else 0.0
    for _ in range(4):
        missing = math.erf(y) - abs(x) if abs(x) < 0.5 else (1 - abs(x)) - math.erfc(y)
        y -= missing * math.exp(y * y) * math.sqrt(math.pi) / 2
    return math.copysign(y, x)


def _erf_inv_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    return (g * (math.sqrt(math.pi) / 2) * unary("exp", out * out),)


erf_inv = unary_float("erf_inv", "The inverse of `erf`; infinite at 1 and -1, NaN beyond.",
                      _elementwise(_inverse), _erf_inv_vjp,
                      onnx=CODE, domain=(-0.95, 0.95))  # fmt: skip
