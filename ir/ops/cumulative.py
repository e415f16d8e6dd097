"""Running totals along an axis, and the recurrence that their gradients are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import full, select, zeros_like
from ..types import TensorType, bf16, boolean, f16, f32, i8, i32, u8
from .binary import equal
from .common import N, linear, require_axis, require_float, require_number, require_same, widen
from .shape import pad


def _rule(op: str) -> Callable[..., TensorType]:
    def rule(x: TensorType, *, axis: int, reverse: bool) -> TensorType:
        require_number(op, x=x)
        require_axis(op, axis, x)
        return x

    return rule


def _oracle(ufunc: np.ufunc) -> Callable[..., np.ndarray]:
    """The running application of a ufunc; f16 and bf16 accumulate in f32."""

    def run(x: np.ndarray, *, axis: int, reverse: bool) -> np.ndarray:
        wide = np.flip(widen(x), axis) if reverse else widen(x)
        totals = ufunc.accumulate(wide, axis=axis, dtype=wide.dtype)
        ordered = np.flip(totals, axis) if reverse else totals
        return np.asarray(ordered).astype(x.dtype, copy=False)

    return run


def shifted(x: Value, axis: int, reverse: bool, fill: float) -> Value:
    """What stands one step before each element, where steps run backwards if `reverse`."""
    low, high = [0] * x.ndim, [0] * x.ndim
    low[axis], high[axis] = (-1, 1) if reverse else (1, -1)
    zeros = (0,) * x.ndim
    return pad(x, low=tuple(low), high=tuple(high), interior=zeros, value=fill)


# --- linear recurrence -----------------------------------------------------------------------


def _recurrence_type(a: TensorType, b: TensorType, *, axis: int, reverse: bool) -> TensorType:
    require_float("linear_recurrence", a=a, b=b)
    require_same("linear_recurrence", a, b)
    require_axis("linear_recurrence", axis, a)
    return a


def _recurrence_numpy(a: np.ndarray, b: np.ndarray, *, axis: int, reverse: bool) -> np.ndarray:
    factors, terms = np.moveaxis(widen(a), axis, 0), np.moveaxis(widen(b), axis, 0)
    result = np.zeros_like(terms)
    total = np.zeros(terms.shape[1:], terms.dtype)
    steps = range(len(terms))
    for i in reversed(steps) if reverse else steps:
        total = factors[i] * total + terms[i]
        result[i] = total
    return np.moveaxis(result, 0, axis).astype(a.dtype, copy=False)


def _recurrence_vjp(
    g: Value, a: Value, b: Value, *, out: Value, axis: int, reverse: bool
) -> tuple[Value, Value]:
    later = shifted(a, axis, not reverse, 0.0)
    total = linear_recurrence(later, g, axis=axis, reverse=not reverse)
    return total * shifted(out, axis, reverse, 0.0), total


def _recurrence_jvp(
    tangents: Sequence[Value | None], a: Value, b: Value, *, out: Value, axis: int, reverse: bool
) -> list[Value]:
    da, db = tangents
    terms = zeros_like(b) if db is None else db
    if da is not None:
        terms = terms + da * shifted(out, axis, reverse, 0.0)
    return [linear_recurrence(a, terms, axis=axis, reverse=reverse)]


linear_recurrence = define(Op(
    name="linear_recurrence",
    doc="""`h[i] = a[i] * h[i - 1] + b[i]` along `axis`, starting from 0; `h[i + 1]` in place of
    `h[i - 1]` if `reverse`. f16 and bf16 accumulate in f32.""",
    kind="opaque",
    type=_recurrence_type, numpy=_recurrence_numpy, vjp=_recurrence_vjp,
    jvp=_recurrence_jvp,
    onnx=CODE,
    samples=[
        case(f32(4, 7), f32(4, 7), axis=1, reverse=False),
        case(f32(N, 3), f32(N, 3), axis=0, reverse=True),
        case(f32(2, N, 3), f32(2, N, 3), axis=1, reverse=False),
        case(bf16(9), bf16(9), axis=0, reverse=False, domain=(-1.0, 1.0)),
        case(f16(2, 5), f16(2, 5), axis=1, reverse=True, domain=(-1.0, 1.0)),
        case(f32(2, 0), f32(2, 0), axis=1, reverse=False),
        case(f32(1, 1), f32(1, 1), axis=1, reverse=True),
    ],
    rejects=[
        reject(i32(3), i32(3), axis=0, reverse=False,
               error="linear_recurrence: operand a must be floating point, got i32[3]"),
        reject(f32(3), f32(4), axis=0, reverse=False,
               error="linear_recurrence: operands must have one shape, got f32[3] and f32[4]"),
        reject(f32(3), f32(3), axis=1, reverse=False,
               error="linear_recurrence: axis must be in [0, 1), got 1 for f32[3]"),
    ],
))  # fmt: skip


# --- sums and products -----------------------------------------------------------------------


def _cumsum_vjp(g: Value, x: Value, *, out: Value, axis: int, reverse: bool) -> tuple[Value]:
    return (cumsum(g, axis=axis, reverse=not reverse),)


cumsum = define(Op(
    name="cumsum",
    doc="""The sum of each element and those before it along `axis`, or after it if `reverse`;
    integers wrap around, f16 and bf16 accumulate in f32.""",
    kind="opaque",
    type=_rule("cumsum"), numpy=_oracle(np.add), vjp=_cumsum_vjp,
    jvp=linear("cumsum"),
    onnx=CODE,
    samples=[
        case(f32(4, 7), axis=1, reverse=False), case(f32(N, 3), axis=0, reverse=True),
        case(f32(2, N, 3), axis=1, reverse=False), case(i32(9), axis=0, reverse=True),
        case(u8(40, 2), axis=0, reverse=False), case(bf16(2, 30), axis=1, reverse=False),
        case(f16(N, 1), axis=1, reverse=False), case(f32(2, 0), axis=1, reverse=False),
        case(f32(0, 3), axis=1, reverse=False),
    ],
    rejects=[
        reject(f32(3), axis=1, reverse=False,
               error="cumsum: axis must be in [0, 1), got 1 for f32[3]"),
        reject(boolean(3), axis=0, reverse=False,
               error="cumsum: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _cumprod_vjp(g: Value, x: Value, *, out: Value, axis: int, reverse: bool) -> tuple[Value]:
    """With p the product of what stands before an element, `p * (g + x' * (g' + ...))`, primes
    standing for the elements after it: no division, so zeros are exact."""
    before = shifted(out, axis, reverse, 1.0)
    later = shifted(x, axis, not reverse, 0.0)
    return (before * linear_recurrence(later, g, axis=axis, reverse=not reverse),)


cumprod = define(Op(
    name="cumprod",
    doc="""The product of each element and those before it along `axis`, or after it if `reverse`;
    integers wrap around, f16 and bf16 accumulate in f32.""",
    kind="opaque",
    type=_rule("cumprod"), numpy=_oracle(np.multiply), vjp=_cumprod_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 7), axis=1, reverse=False), case(f32(N, 3), axis=0, reverse=True),
        case(f32(2, N, 3), axis=1, reverse=False), case(i32(9), axis=0, reverse=True),
        case(u8(40, 2), axis=0, reverse=False), case(bf16(2, 12), axis=1, reverse=False),
        case(f16(N, 1), axis=1, reverse=False), case(f32(2, 0), axis=1, reverse=False),
        case(f32(5), axis=0, reverse=False, domain=(0.0, 0.0)),
    ],
    rejects=[
        reject(f32(3), axis=1, reverse=False,
               error="cumprod: axis must be in [0, 1), got 1 for f32[3]"),
        reject(boolean(3), axis=0, reverse=False,
               error="cumprod: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


# --- extrema ---------------------------------------------------------------------------------


def _extremum_vjp(g: Value, x: Value, *, out: Value, axis: int, reverse: bool) -> tuple[Value]:
    """A step is `maximum(total, x)`: x has a share of 1, 1/2 in a tie, or 0 in its result, and
    what flows into the result of a step goes on to the step before with the rest."""
    ones, zeros = full(x.shape, 1, x.dtype), zeros_like(x)
    is_first = equal(shifted(ones, axis, reverse, 0.0), zeros)
    stays = equal(shifted(out, axis, reverse, 0.0), out)
    step = select(stays, select(is_first, ones, 0.5), ones)
    share = select(equal(x, out), step, zeros)
    rest = shifted(1 - share, axis, not reverse, 0.0)
    return (share * linear_recurrence(rest, g, axis=axis, reverse=not reverse),)


_TIES = """Where an element equals the extremum before it, each gets half of the gradient, as in
    `maximum`."""

cummax = define(Op(
    name="cummax",
    doc=f"""The largest of each element and those before it along `axis`, or after it if
    `reverse`; NaN wins. {_TIES}""",
    kind="opaque",
    type=_rule("cummax"), numpy=_oracle(np.maximum), vjp=_extremum_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 7), axis=1, reverse=False, distinct=True),
        case(f32(N, 3), axis=0, reverse=True, distinct=True),
        case(f32(2, N, 3), axis=1, reverse=False, distinct=True),
        case(i32(9), axis=0, reverse=True), case(i8(40, 2), axis=0, reverse=False),
        case(bf16(2, 30), axis=1, reverse=False), case(f32(2, 0), axis=1, reverse=False),
        case(f32(1, 1), axis=1, reverse=False),
    ],
    rejects=[
        reject(f32(3), axis=1, reverse=False,
               error="cummax: axis must be in [0, 1), got 1 for f32[3]"),
        reject(boolean(3), axis=0, reverse=False,
               error="cummax: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip

cummin = define(Op(
    name="cummin",
    doc=f"""The smallest of each element and those before it along `axis`, or after it if
    `reverse`; NaN wins. {_TIES}""",
    kind="opaque",
    type=_rule("cummin"), numpy=_oracle(np.minimum), vjp=_extremum_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 7), axis=1, reverse=False, distinct=True),
        case(f32(N, 3), axis=0, reverse=True, distinct=True),
        case(f32(2, N, 3), axis=1, reverse=False, distinct=True),
        case(i32(9), axis=0, reverse=True), case(u8(40, 2), axis=0, reverse=False),
        case(f16(2, 30), axis=1, reverse=False), case(f32(2, 0), axis=1, reverse=False),
        case(f32(1, 1), axis=1, reverse=False),
    ],
    rejects=[
        reject(f32(3), axis=1, reverse=False,
               error="cummin: axis must be in [0, 1), got 1 for f32[3]"),
        reject(boolean(3), axis=0, reverse=False,
               error="cummin: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip
