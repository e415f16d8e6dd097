"""Order along an axis: sort, argsort, top_k. NaN counts as the largest; equal elements keep
their order, and -0.0 equals 0.0."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import zeros_like
from ..types import TensorType, bf16, boolean, f16, f32, i8, i32, u8
from .common import (
    DISCRETE,
    N,
    require_axis,
    require_fixed,
    require_number,
    require_rank,
    widen,
)
from .gather import scatter_add_along, take_along


def _rule(op: str) -> Callable[..., TensorType]:
    def rule(x: TensorType, *, axis: int, descending: bool) -> TensorType:
        require_number(op, x=x)
        require_axis(op, axis, x)
        return x.with_dtype(i32) if op == "argsort" else x

    return rule


def _order(x: np.ndarray, axis: int, descending: bool) -> np.ndarray:
    """The positions that `x` is read at to be in order."""
    wide = widen(x)
    if not descending:
        return np.argsort(wide, axis=axis, kind="stable")
    last_first = np.argsort(np.flip(wide, axis), axis=axis, kind="stable")
    return np.asarray(x.shape[axis] - 1 - np.flip(last_first, axis))


def _sort_numpy(x: np.ndarray, *, axis: int, descending: bool) -> np.ndarray:
    return np.take_along_axis(x, _order(x, axis, descending), axis)


def _argsort_numpy(x: np.ndarray, *, axis: int, descending: bool) -> np.ndarray:
    return _order(x, axis, descending).astype(np.int32)


def _sort_vjp(g: Value, x: Value, *, out: Value, axis: int, descending: bool) -> tuple[Value]:
    order = argsort(x, axis=axis, descending=descending)
    return (scatter_add_along(zeros_like(x), order, g, axis=axis),)


def _sort_jvp(
    tangents: Sequence[Value | None], x: Value, *, out: Value, axis: int, descending: bool
) -> list[Value | None]:
    order = argsort(x, axis=axis, descending=descending)
    return [None if t is None else take_along(t, order, axis=axis) for t in tangents]


argsort = define(Op(
    name="argsort",
    doc="""The positions along `axis` at which `x` must be read to be sorted. Equal elements keep
    their order; NaN counts as the largest: last if ascending, first if `descending`.""",
    kind="opaque",
    type=_rule("argsort"), numpy=_argsort_numpy, vjp=DISCRETE,
    onnx=CODE,
    samples=[
        case(f32(4, 7), axis=1, descending=False), case(f32(N, 5), axis=1, descending=True),
        case(f32(9, 3), axis=0, descending=False), case(f32(2, N, 3), axis=1, descending=True),
        case(i32(40), axis=0, descending=True), case(u8(3, 17), axis=1, descending=False),
        case(bf16(2, 33), axis=1, descending=False), case(f16(N, 1), axis=1, descending=False),
        case(f32(0, 3), axis=1, descending=False), case(f32(3, 0), axis=1, descending=False),
        case(i32(2, 300), axis=1, descending=False),
    ],
    rejects=[
        reject(f32(3), axis=1, descending=False,
               error="argsort: axis must be in [0, 1), got 1 for f32[3]"),
        reject(boolean(3), axis=0, descending=False,
               error="argsort: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip

sort = define(Op(
    name="sort",
    doc="""`x` in order along `axis`. NaN counts as the largest: last if ascending, first if
    `descending`.""",
    kind="opaque",
    type=_rule("sort"), numpy=_sort_numpy, vjp=_sort_vjp, jvp=_sort_jvp,
    onnx=CODE,
    samples=[
        case(f32(4, 7), axis=1, descending=False, distinct=True),
        case(f32(N, 5), axis=1, descending=True, distinct=True),
        case(f32(9, 3), axis=0, descending=False, distinct=True),
        case(f32(2, N, 3), axis=1, descending=False, distinct=True),
        case(i32(40), axis=0, descending=True), case(i8(3, 17), axis=1, descending=False),
        case(bf16(2, 33), axis=1, descending=False), case(f16(N, 1), axis=1, descending=False),
        case(f32(0, 3), axis=1, descending=False), case(f32(3, 0), axis=1, descending=False),
        case(f32(2, 300), axis=1, descending=True, distinct=True),
    ],
    rejects=[
        reject(f32(3), axis=1, descending=False,
               error="sort: axis must be in [0, 1), got 1 for f32[3]"),
        reject(boolean(3), axis=0, descending=False,
               error="sort: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _top_k_type(x: TensorType, *, k: int) -> tuple[TensorType, TensorType]:
    require_number("top_k", x=x)
    require_rank("top_k", "x", x, 1)
    require_fixed("top_k", "x", x, (x.ndim - 1,))
    size = int(x.shape[-1])
    if not 0 <= k <= size:
        raise ShapeError(f"top_k: k must be in [0, {size}], got {k} for {x}")
    values = x.with_shape((*x.shape[:-1], k))
    return values, values.with_dtype(i32)


def _top_k_numpy(x: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = _order(x, x.ndim - 1, descending=True)[..., :k]
    return np.take_along_axis(x, order, -1), order.astype(np.int32)


def _top_k_vjp(
    g: tuple[Value | None, None], x: Value, *, out: tuple[Value, Value], k: int
) -> tuple[Value | None]:
    if g[0] is None or k == 0:
        return (None,)
    return (scatter_add_along(zeros_like(x), out[1], g[0], axis=x.ndim - 1),)


def _top_k_jvp(
    tangents: Sequence[Value | None], x: Value, *, out: tuple[Value, Value], k: int
) -> list[Value | None]:
    (t,) = tangents
    return [None if t is None else take_along(t, out[1], axis=x.ndim - 1), None]


top_k = define(Op(
    name="top_k",
    doc="""The `k` largest elements along the last axis, the largest first, and their positions.
    Of equal ones the first comes first; NaN counts as the largest.""",
    kind="opaque",
    type=_top_k_type, numpy=_top_k_numpy, vjp=_top_k_vjp, jvp=_top_k_jvp,
    onnx=CODE,
    samples=[
        case(f32(4, 7), k=3, distinct=True), case(f32(N, 5), k=1, distinct=True),
        case(f32(2, 3, 6), k=6, distinct=True), case(f32(2, 100), k=50, distinct=True),
        case(i32(40), k=5), case(u8(3, 17), k=4), case(bf16(2, 33), k=9), case(f16(1), k=1),
        case(f32(0, 3), k=2), case(f32(2, 3), k=0), case(i32(2, 0), k=0),
    ],
    rejects=[
        reject(f32(2, 3), k=4, error="top_k: k must be in [0, 3], got 4 for f32[2,3]"),
        reject(f32(), k=0, error="top_k: operand x must have rank 1 or more, got f32[]"),
        reject(boolean(3), k=1, error="top_k: operand x must be a number, got bool[3]"),
        reject(f32(2, N), k=1,
               error="top_k: operand x must have a fixed size along axis 1, got f32[2,N]"),
    ],
))  # fmt: skip
