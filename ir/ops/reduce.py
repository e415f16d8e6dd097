"""Reductions over axes, which are dropped."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import expand, full, reshape, select, transpose
from ..types import TensorType, bf16, boolean, f16, f32, i32, type_of, u32
from .binary import equal
from .common import (
    DISCRETE,
    N,
    linear,
    require_axes,
    require_axis,
    require_bool,
    require_fixed,
    require_number,
    widen,
)

Axes = tuple[int, ...]


def _drop(x: TensorType, axes: Axes) -> TensorType:
    return x.with_shape(d for i, d in enumerate(x.shape) if i not in axes)


def _number_rule(op: str) -> Callable[..., TensorType]:
    def rule(x: TensorType, *, axes: Axes) -> TensorType:
        require_number(op, x=x)
        require_axes(op, axes, x)
        return _drop(x, axes)

    return rule


def _bool_rule(op: str) -> Callable[..., TensorType]:
    def rule(x: TensorType, *, axes: Axes) -> TensorType:
        require_bool(op, x=x)
        require_axes(op, axes, x)
        return _drop(x, axes)

    return rule


def lowest(x: np.ndarray) -> int | float:
    """What a maximum starts from."""
    dtype = type_of(x[..., :0] if x.ndim else x).dtype
    return -math.inf if dtype.is_float else int(np.iinfo(x.dtype).min)


def highest(x: np.ndarray) -> int | float:
    """What a minimum starts from."""
    dtype = type_of(x[..., :0] if x.ndim else x).dtype
    return math.inf if dtype.is_float else int(np.iinfo(x.dtype).max)


def _sum_numpy(x: np.ndarray, *, axes: Axes) -> np.ndarray:
    wide = widen(x)
    return np.asarray(np.sum(wide, axis=axes, dtype=wide.dtype)).astype(x.dtype, copy=False)


def _sum_vjp(g: Value, x: Value, *, out: Value, axes: Axes) -> tuple[Value]:
    return (expand(g, axes, x.shape),)


reduce_sum = define(Op(
    name="reduce_sum",
    doc="The sum of the elements along `axes`; f16 and bf16 accumulate in f32.",
    kind="reduce",
    type=_number_rule("reduce_sum"), numpy=_sum_numpy, vjp=_sum_vjp,
    jvp=linear("reduce_sum"),
    onnx=CODE,
    samples=[
        case(f32(4, 5), axes=(1,)), case(f32(N, 3), axes=(0,)), case(f32(2, 3, 4), axes=(0, 2)),
        case(f32(3, 4), axes=(0, 1)), case(f16(200), axes=(0,), domain=(0.9, 1.1)),
        case(bf16(20, 3), axes=(0,)), case(i32(4, 5), axes=(0,)), case(f32(0, 3), axes=(0,)),
        case(f32(1, 3), axes=(0,)),
    ],
    rejects=[
        reject(f32(3), axes=(1,), error="reduce_sum: axis must be in [0, 1), got 1 for f32[3]"),
        reject(f32(3), axes=(), error="reduce_sum: axes must not be empty, got () for f32[3]"),
        reject(f32(3, 4), axes=(1, 0),
               error="reduce_sum: axes must be strictly increasing, got (1, 0)"),
        reject(boolean(3), axes=(0,), error="reduce_sum: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _prod_numpy(x: np.ndarray, *, axes: Axes) -> np.ndarray:
    wide = widen(x)
    return np.asarray(np.prod(wide, axis=axes, dtype=wide.dtype)).astype(x.dtype, copy=False)


def _product_of_others(rows: Value, size: int) -> Value:
    """For each element of `rows[m, size]` the product of the others in its row.

    A binary tree: going up, halves are multiplied; coming down, each half is multiplied by the
    other. There is no division, so zeros are exact and the result can be differentiated again.
    """
    from .shape import concat, pad

    length = 1 << (size - 1).bit_length()
    level = pad(rows, low=(0, 0), high=(0, length - size), interior=(0, 0), value=1.0)
    halves = []
    while level.shape[1] != 1:
        middle = level.shape[1] // 2
        halves.append((level[:, :middle], level[:, middle:]))
        level = halves[-1][0] * halves[-1][1]
    others = full(level.shape, 1, rows.dtype)
    for left, right in reversed(halves):
        others = concat(others * right, others * left, axis=1)
    return others[:, :size]


def _prod_vjp(g: Value, x: Value, *, out: Value, axes: Axes) -> tuple[Value]:
    require_fixed("gradient of reduce_prod", "x", x.type, axes)
    kept = tuple(i for i in range(x.ndim) if i not in axes)
    order = kept + axes
    moved = transpose(x, order)
    size = math.prod(int(x.shape[a]) for a in axes)
    if size == 0:
        return (x,)
    others = _product_of_others(reshape(moved, (g.type.size, size)), size)
    inverse = tuple(order.index(i) for i in range(x.ndim))
    return (transpose(reshape(others, moved.shape), inverse) * expand(g, axes, x.shape),)


reduce_prod = define(Op(
    name="reduce_prod",
    doc="The product of the elements along `axes`; f16 and bf16 accumulate in f32.",
    kind="reduce",
    type=_number_rule("reduce_prod"), numpy=_prod_numpy, vjp=_prod_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 5), axes=(1,)), case(f32(N, 3), axes=(1,)), case(f32(2, 3, 4), axes=(0, 2)),
        case(f32(3, 4), axes=(0, 1)), case(f16(200), axes=(0,), domain=(0.9, 1.1)),
        case(bf16(20, 3), axes=(0,)), case(i32(4, 5), axes=(0,)), case(f32(0, 3), axes=(0,)),
        case(f32(1, 3), axes=(0,)),
    ],
    rejects=[
        reject(f32(3), axes=(1,), error="reduce_prod: axis must be in [0, 1), got 1 for f32[3]"),
        reject(f32(3), axes=(), error="reduce_prod: axes must not be empty, got () for f32[3]"),
        reject(f32(3, 4), axes=(1, 0),
               error="reduce_prod: axes must be strictly increasing, got (1, 0)"),
        reject(boolean(3), axes=(0,), error="reduce_prod: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _extremum_vjp(g: Value, x: Value, *, out: Value, axes: Axes) -> tuple[Value]:
    """Elements that attain the extremum share the cotangent evenly."""
    hit = select(equal(x, expand(out, axes, x.shape)), full(x.shape, 1, x.dtype), 0)
    return (hit * expand(g / hit.sum(axes), axes, x.shape),)


def _max_numpy(x: np.ndarray, *, axes: Axes) -> np.ndarray:
    return np.asarray(np.max(x, axis=axes, initial=lowest(x)))


def _min_numpy(x: np.ndarray, *, axes: Axes) -> np.ndarray:
    return np.asarray(np.min(x, axis=axes, initial=highest(x)))


reduce_max = define(Op(
    name="reduce_max",
    doc="""The largest element along `axes`, NaN if one is NaN, the lowest number of nothing.
    Elements that tie share the gradient evenly.""",
    kind="reduce",
    type=_number_rule("reduce_max"), numpy=_max_numpy, vjp=_extremum_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 5), axes=(1,), distinct=True), case(f32(N, 3), axes=(0,), distinct=True),
        case(f32(2, 3, 4), axes=(0, 2), distinct=True), case(bf16(20), axes=(0,), distinct=True),
        case(i32(4, 5), axes=(0, 1)), case(u32(4), axes=(0,)), case(f32(0, 3), axes=(0,)),
        case(i32(0, 3), axes=(0,)), case(f16(0, 3), axes=(0,)), case(bf16(0, 3), axes=(0,)),
    ],
    rejects=[
        reject(f32(3), axes=(1,), error="reduce_max: axis must be in [0, 1), got 1 for f32[3]"),
        reject(f32(3), axes=(), error="reduce_max: axes must not be empty, got () for f32[3]"),
        reject(f32(3, 4), axes=(1, 0),
               error="reduce_max: axes must be strictly increasing, got (1, 0)"),
        reject(boolean(3), axes=(0,), error="reduce_max: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip

reduce_min = define(Op(
    name="reduce_min",
    doc="""The smallest element along `axes`, NaN if one is NaN, the highest number of nothing.
    Elements that tie share the gradient evenly.""",
    kind="reduce",
    type=_number_rule("reduce_min"), numpy=_min_numpy, vjp=_extremum_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 5), axes=(1,), distinct=True), case(f32(N, 3), axes=(0,), distinct=True),
        case(f32(2, 3, 4), axes=(0, 2), distinct=True), case(bf16(20), axes=(0,), distinct=True),
        case(i32(4, 5), axes=(0, 1)), case(u32(4), axes=(0,)), case(f32(0, 3), axes=(0,)),
        case(i32(0, 3), axes=(0,)), case(f16(0, 3), axes=(0,)), case(bf16(0, 3), axes=(0,)),
    ],
    rejects=[
        reject(f32(3), axes=(1,), error="reduce_min: axis must be in [0, 1), got 1 for f32[3]"),
        reject(f32(3), axes=(), error="reduce_min: axes must not be empty, got () for f32[3]"),
        reject(f32(3, 4), axes=(1, 0),
               error="reduce_min: axes must be strictly increasing, got (1, 0)"),
        reject(boolean(3), axes=(0,), error="reduce_min: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip


def _any_numpy(x: np.ndarray, *, axes: Axes) -> np.ndarray:
    return np.asarray(np.any(x, axis=axes))


def _all_numpy(x: np.ndarray, *, axes: Axes) -> np.ndarray:
    return np.asarray(np.all(x, axis=axes))


reduce_any = define(Op(
    name="reduce_any",
    doc="Whether an element along `axes` is true.",
    kind="reduce",
    type=_bool_rule("reduce_any"), numpy=_any_numpy, vjp=DISCRETE,
    onnx=CODE,
    samples=[
        case(boolean(4, 5), axes=(1,)), case(boolean(N, 2, 3), axes=(0, 2)),
        case(boolean(0, 3), axes=(0,)),
    ],
    rejects=[
        reject(f32(3), axes=(0,), error="reduce_any: operand x must be bool, got f32[3]"),
        reject(boolean(3), axes=(1,),
               error="reduce_any: axis must be in [0, 1), got 1 for bool[3]"),
    ],
))  # fmt: skip

reduce_all = define(Op(
    name="reduce_all",
    doc="Whether all elements along `axes` are true.",
    kind="reduce",
    type=_bool_rule("reduce_all"), numpy=_all_numpy, vjp=DISCRETE,
    onnx=CODE,
    samples=[
        case(boolean(4, 5), axes=(1,)), case(boolean(N, 2, 3), axes=(0, 2)),
        case(boolean(0, 3), axes=(0,)),
    ],
    rejects=[
        reject(f32(3), axes=(0,), error="reduce_all: operand x must be bool, got f32[3]"),
        reject(boolean(3), axes=(1,),
               error="reduce_all: axis must be in [0, 1), got 1 for bool[3]"),
    ],
))  # fmt: skip


def _position_rule(op: str) -> Callable[..., TensorType]:
    def rule(x: TensorType, *, axis: int) -> TensorType:
        require_number(op, x=x)
        require_axis(op, axis, x)
        if x.shape[axis] == 0:
            raise ShapeError(f"{op}: axis {axis} must not be empty, got {x}")
        return _drop(x, (axis,)).with_dtype(i32)

    return rule


def _argmax_numpy(x: np.ndarray, *, axis: int) -> np.ndarray:
    return np.asarray(np.argmax(x, axis=axis), np.int32)


def _argmin_numpy(x: np.ndarray, *, axis: int) -> np.ndarray:
    return np.asarray(np.argmin(x, axis=axis), np.int32)


argmax = define(Op(
    name="argmax",
    doc="The index along `axis` of the first largest element; NaN counts as largest.",
    kind="reduce",
    type=_position_rule("argmax"), numpy=_argmax_numpy, vjp=DISCRETE,
    onnx=CODE,
    samples=[
        case(f32(4, 5), axis=1, distinct=True), case(f32(N, 3), axis=1, distinct=True),
        case(f32(5, N), axis=0, distinct=True), case(i32(9), axis=0), case(bf16(2, 30), axis=1),
    ],
    rejects=[
        reject(f32(3), axis=1, error="argmax: axis must be in [0, 1), got 1 for f32[3]"),
        reject(f32(2, 0), axis=1, error="argmax: axis 1 must not be empty, got f32[2,0]"),
        reject(boolean(3), axis=0, error="argmax: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip

argmin = define(Op(
    name="argmin",
    doc="The index along `axis` of the first smallest element; NaN counts as smallest.",
    kind="reduce",
    type=_position_rule("argmin"), numpy=_argmin_numpy, vjp=DISCRETE,
    onnx=CODE,
    samples=[
        case(f32(4, 5), axis=1, distinct=True), case(f32(N, 3), axis=1, distinct=True),
        case(f32(5, N), axis=0, distinct=True), case(i32(9), axis=0), case(bf16(2, 30), axis=1),
    ],
    rejects=[
        reject(f32(3), axis=1, error="argmin: axis must be in [0, 1), got 1 for f32[3]"),
        reject(f32(2, 0), axis=1, error="argmin: axis 1 must not be empty, got f32[2,0]"),
        reject(boolean(3), axis=0, error="argmin: operand x must be a number, got bool[3]"),
    ],
))  # fmt: skip
