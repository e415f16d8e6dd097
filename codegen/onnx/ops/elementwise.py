"""Elementwise functions of one operand."""

from __future__ import annotations

import math

import numpy as np

from ....ir.graph import Node
from ....ir.types import boolean, f64, i64
from ..emit import Emitter
from ..lowering import Lowering, Tensor, lowering, pointwise


@pointwise("neg")
def _neg(e: Emitter, x: str, node: Node) -> str:
    unsigned = e.dtypes[x].kind == "uint"
    return e.op("Sub", e.like(0, x), x) if unsigned else e.op("Neg", x)


@pointwise("relu")
def _relu(e: Emitter, x: str, node: Node) -> str:
    return e.op("Relu", x) if e.dtypes[x].is_float else e.op("Max", x, e.like(0, x))


@lowering("stop_gradient", "optimization_barrier")  # nodes of ONNX have no order to keep
def _same(ctx: Lowering, node: Node) -> Tensor:
    return ctx[node.inputs[0]]


@pointwise("rsqrt")
def _rsqrt(e: Emitter, x: str, node: Node) -> str:
    return e.op("Reciprocal", e.op("Sqrt", x))


@pointwise("is_finite")
def _is_finite(e: Emitter, x: str, node: Node) -> str:
    if not e.dtypes[x].is_float:
        return e.op("Equal", x, x, dtype=boolean)
    strange = e.op("Or", e.op("IsNaN", x, dtype=boolean), e.op("IsInf", x, dtype=boolean))
    return e.logical_not(strange)


@pointwise("expm1")
def _expm1(e: Emitter, x: str, node: Node) -> str:
    """Kahan's `(u - 1) * x / log(u)` with `u = exp(x)`: exact to rounding near 0."""
    u = e.op("Exp", x)
    less_one = e.op("Sub", u, e.like(1, x))
    ratio = e.op("Div", e.op("Mul", less_one, x), e.op("Log", u))
    far = e.op("Greater", e.op("Abs", x), e.like(1, x), dtype=boolean)
    tiny = e.op("Equal", u, e.like(1, x), dtype=boolean)
    return e.where(tiny, x, e.where(far, less_one, ratio))


@pointwise("log1p")
def _log1p(e: Emitter, x: str, node: Node) -> str:
    """Kahan's `log(u) * x / (u - 1)` with `u = 1 + x`: exact to rounding near 0."""
    u = e.op("Add", x, e.like(1, x))
    log = e.op("Log", u)
    ratio = e.op("Div", e.op("Mul", log, x), e.op("Sub", u, e.like(1, x)))
    far = e.op("Greater", e.op("Abs", x), e.like(1, x), dtype=boolean)
    infinite = e.op("Equal", x, e.like(-1, x), dtype=boolean)
    tiny = e.op("Equal", u, e.like(1, x), dtype=boolean)
    plain_log = e.op("Or", far, infinite)
    return e.where(tiny, x, e.where(plain_log, log, ratio))


@pointwise("erf")
def _erf(e: Emitter, x: str, node: Node) -> str:
    return _erf64(e, x) if e.dtypes[x] == f64 else e.op("Erf", x)


_SPLIT = 1.25
_END = 6.0  # from here on erf is 1 in f64
_END_COMPLEMENT = 27.0  # and erfc is 0


def _erf64(e: Emitter, x: str) -> str:
    """erf in f64, for which the runtime has no kernel, to a few units in the last place.

    Up to 1.25 Taylor's series, beyond it `1 - exp(-x^2) * q(1/x)` with a Chebyshev series `q`
    that interpolates the C library's erfc.
    """
    size = e.op("Min", e.op("Abs", x), e.like(_END, x))
    square = e.op("Mul", size, size)
    inner = e.op("Mul", size, _taylor(e, e.op("Min", square, e.like(_SPLIT**2, x))))
    outer = e.op("Sub", e.like(1, x), _tail(e, size, _END, 25))
    near = e.op("Less", size, e.like(_SPLIT, x), dtype=boolean)
    signed = e.op("Mul", e.op("Sign", x), e.where(near, inner, outer))
    return e.where(e.op("IsNaN", x, dtype=boolean), x, signed)


@pointwise("erfc")
def _erfc(e: Emitter, x: str, node: Node) -> str:
    """In f64 for every dtype: from 1.25 on the tail, before it what erf leaves of 1."""
    wide = e.cast(x, f64)
    size = e.op("Min", wide, e.const(_END_COMPLEMENT, f64))
    near = e.op("Less", wide, e.const(_SPLIT, f64), dtype=boolean)
    rest = e.op("Sub", e.const(1, f64), _erf64(e, wide))
    tail = _tail(e, size, _END_COMPLEMENT, 48)
    found = e.where(near, rest, tail)
    return e.cast(e.where(e.op("IsNaN", wide, dtype=boolean), wide, found), node.output.dtype)


def _tail(e: Emitter, x: str, end: float, terms: int) -> str:
    """erfc of numbers from 1.25 to `end`."""
    inverse = e.op("Reciprocal", e.op("Max", x, e.like(_SPLIT, x)))
    series = _chebyshev(e, inverse, 1 / end, 1 / _SPLIT, terms)
    return e.op("Mul", e.op("Exp", e.op("Neg", e.op("Mul", x, x))), series)


def _taylor(e: Emitter, square: str) -> str:
    """`erf(x) / x` from `x^2`, by Horner's scheme."""
    terms = [
        2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(24)
    ]
    total = e.like(terms[-1], square)
    for term in terms[-2::-1]:
        total = e.op("Add", e.op("Mul", square, total), e.like(term, square))
    return total


def _scaled_erfc(t: float) -> float:
    """`erfc(1/t) * exp(1/t^2)`; the asymptotic series where erfc becomes too small."""
    if t > 1 / 26:
        return math.erfc(1 / t) * math.exp(1 / t**2)
    terms = (1, -1 / 2, 3 / 4, -15 / 8, 105 / 16, -945 / 32)
    return t / math.sqrt(math.pi) * sum(c * t ** (2 * k) for k, c in enumerate(terms))


def _chebyshev(e: Emitter, x: str, low: float, high: float, terms: int) -> str:
    """Clenshaw's sum of the series that interpolates `_scaled_erfc` on [low, high]."""
    nodes = (np.arange(terms) + 0.5) * math.pi / terms
    values = [_scaled_erfc((high + low) / 2 + (high - low) / 2 * math.cos(a)) for a in nodes]
    series = [math.fsum(values * np.cos(k * nodes)) * 2 / terms for k in range(terms)]
    scaled = e.op("Mul", x, e.like(2 / (high - low), x))
    t = e.op("Sub", scaled, e.like((high + low) / (high - low), x))
    twice = e.op("Add", t, t)
    newer, older = e.like(series[-1], x), e.like(0, x)
    for c in series[-2:0:-1]:
        step = e.op("Sub", e.op("Mul", twice, newer), older)
        newer, older = e.op("Add", step, e.like(c, x)), newer
    return e.op("Add", e.op("Sub", e.op("Mul", t, newer), older), e.like(series[0] / 2, x))


@pointwise("cast")
def _cast(e: Emitter, x: str, node: Node) -> str:
    source, target = e.dtypes[x], node.output.dtype
    if target.is_bool:
        return e.logical_not(e.op("Equal", x, e.like(0, x), dtype=boolean))
    if source.is_float and target.is_integer and target.bits < 32:
        x = e.cast(x, i64)  # narrow casts of large floats saturate or wrap by machine
    return e.cast(x, target)
