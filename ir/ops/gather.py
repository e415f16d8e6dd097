"""Reading and accumulating at computed positions."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import zeros_like
from ..types import TensorType, bf16, boolean, f32, i32, i64, u32
from .common import (
    N,
    linear,
    require_axis,
    require_integer,
    require_number,
    require_same_dtype,
    widen,
)


def _gather_type(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    require_integer("gather", indices=indices)
    require_axis("gather", axis, x)
    if x.shape[axis] == 0:
        raise ShapeError(f"gather: axis {axis} must not be empty, got {x}")
    return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_numpy(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    return np.take(x, indices, axis=axis, mode="clip")


def _gather_vjp(g: Value, x: Value, indices: Value, *, out: Value, axis: int) -> tuple[Value, None]:
    return scatter_add(zeros_like(x), indices, g, axis=axis), None


gather = define(Op(
    name="gather",
    doc="""The slices of `x` along `axis` that `indices` name; the axes of `indices` take the
    place of `axis`. An index out of range is clamped to the nearest legal one.""",
    kind="index",
    type=_gather_type, numpy=_gather_numpy, vjp=_gather_vjp,
    jvp=linear("gather"),
    onnx=CODE,
    samples=[
        case(f32(5, 3), i32(4), axis=0), case(f32(2, 6, 3), i32(2, 2), axis=1, integers=(0, 6)),
        case(f32(7, 2), i32(N), axis=0, integers=(-3, 9)),
        case(i32(5), u32(3), axis=0, integers=(0, 5)),
        case(f32(N, 4), i64(), axis=1, integers=(0, 4)),
    ],
    rejects=[
        reject(f32(5), f32(2), axis=0,
               error="gather: operand indices must be an integer, got f32[2]"),
        reject(f32(5), i32(2), axis=1, error="gather: axis must be in [0, 1), got 1 for f32[5]"),
        reject(f32(0, 2), i32(2), axis=0, error="gather: axis 0 must not be empty, got f32[0,2]"),
    ],
))  # fmt: skip


def _scatter_add_type(
    x: TensorType, indices: TensorType, updates: TensorType, *, axis: int
) -> TensorType:
    require_number("scatter_add", x=x)
    require_same_dtype("scatter_add", x, updates)
    require_integer("scatter_add", indices=indices)
    require_axis("scatter_add", axis, x)
    if x.shape[axis] == 0:
        raise ShapeError(f"scatter_add: axis {axis} must not be empty, got {x}")
    expected = x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    if updates != expected:
        raise ShapeError(f"scatter_add: operand updates must be {expected}, got {updates}")
    return x


def _scatter_add_numpy(
    x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int
) -> np.ndarray:
    at = np.clip(indices, 0, max(x.shape[axis] - 1, 0)).reshape(-1)
    rows = updates.reshape(*x.shape[:axis], at.size, *x.shape[axis + 1 :])
    result = np.array(np.moveaxis(widen(x), axis, 0))
    np.add.at(result, at, np.moveaxis(widen(rows), axis, 0))
    return np.moveaxis(result, 0, axis).astype(x.dtype, copy=False)


def _scatter_add_vjp(
    g: Value, x: Value, indices: Value, updates: Value, *, out: Value, axis: int
) -> tuple[Value, None, Value]:
    return g, None, gather(g, indices, axis=axis)


scatter_add = define(Op(
    name="scatter_add",
    doc="""`x` with each slice of `updates` added at its index along `axis`; repeated indices
    add up, an index out of range is clamped. The gradient of `gather`.""",
    kind="opaque",
    type=_scatter_add_type, numpy=_scatter_add_numpy, vjp=_scatter_add_vjp,
    jvp=linear("scatter_add"),
    onnx=CODE,
    samples=[
        case(f32(5, 3), i32(4), f32(4, 3), axis=0, integers=(0, 5)),
        case(f32(2, 4), i32(6), f32(2, 6), axis=1, integers=(-2, 7)),
        case(f32(5, 3), i32(N), f32(N, 3), axis=0, integers=(0, 5)),
        case(f32(4, 3), i32(2, 3), f32(2, 3, 3), axis=0, integers=(0, 4)),
        case(i32(4), i32(9), i32(9), axis=0, integers=(0, 4)),
        case(bf16(4), i32(9), bf16(9), axis=0),
    ],
    rejects=[
        reject(f32(5), i32(2), f32(3), axis=0,
               error="scatter_add: operand updates must be f32[2], got f32[3]"),
        reject(f32(5), f32(2), f32(2), axis=0,
               error="scatter_add: operand indices must be an integer, got f32[2]"),
        reject(f32(5), i32(2), i32(2), axis=0,
               error="scatter_add: operands must have one dtype, got f32[5] and i32[2]"),
        reject(boolean(5), i32(2), boolean(2), axis=0,
               error="scatter_add: operand x must be a number, got bool[5]"),
    ],
))  # fmt: skip


# --- one index for each element ----------------------------------------------------------------


def _require_along(op: str, x: TensorType, indices: TensorType, axis: int) -> None:
    """Refuse indices that do not have the sizes of `x` along all axes but `axis`."""
    require_integer(op, indices=indices)
    require_axis(op, axis, x)
    sizes = (*x.shape[:axis], *x.shape[axis + 1 :])
    if indices.ndim != x.ndim or (*indices.shape[:axis], *indices.shape[axis + 1 :]) != sizes:
        raise ShapeError(
            f"{op}: operand indices must have the sizes of {x} but along axis {axis}, got {indices}"
        )
    if x.shape[axis] == 0 and indices.shape[axis] != 0:
        raise ShapeError(f"{op}: axis {axis} must not be empty, got {x}")


def _take_along_type(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    _require_along("take_along", x, indices, axis)
    return x.with_shape(indices.shape)


def _take_along_numpy(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    return np.take_along_axis(x, np.clip(indices, 0, max(x.shape[axis] - 1, 0)), axis)


def _take_along_vjp(
    g: Value, x: Value, indices: Value, *, out: Value, axis: int
) -> tuple[Value, None]:
    return scatter_add_along(zeros_like(x), indices, g, axis=axis), None


take_along = define(Op(
    name="take_along",
    doc="""Each element of the result is one of `x`: at its own position, but along `axis` at the
    index that `indices` has there. An index out of range is clamped to the nearest legal one.""",
    kind="index",
    type=_take_along_type, numpy=_take_along_numpy, vjp=_take_along_vjp,
    jvp=linear("take_along"),
    onnx=CODE,
    samples=[
        case(f32(4, 7), i32(4, 3), axis=1, integers=(0, 7)),
        case(f32(N, 5), i32(N, 5), axis=1, integers=(-3, 9)),
        case(f32(6, N, 2), i32(4, N, 2), axis=0, integers=(0, 6)),
        case(f32(2, 6, 3), i32(2, N, 3), axis=1, integers=(0, 6)),
        case(i32(9), u32(20), axis=0, integers=(0, 12)), case(boolean(5), i64(3), axis=0),
        case(f32(0, 3), i32(0, 2), axis=1), case(f32(2, 3), i32(2, 0), axis=1),
        case(f32(1, 1), i32(1, 1), axis=0), case(f32(2, 0), i32(2, 0), axis=1),
    ],
    rejects=[
        reject(f32(5), f32(2), axis=0,
               error="take_along: operand indices must be an integer, got f32[2]"),
        reject(f32(5, 2), i32(5, 3), axis=0,
               error="take_along: operand indices must have the sizes of f32[5,2] but along "
                     "axis 0, got i32[5,3]"),
        reject(f32(5, 2), i32(5), axis=1,
               error="take_along: operand indices must have the sizes of f32[5,2] but along "
                     "axis 1, got i32[5]"),
        reject(f32(5), i32(5), axis=1,
               error="take_along: axis must be in [0, 1), got 1 for f32[5]"),
        reject(f32(0), i32(5), axis=0, error="take_along: axis 0 must not be empty, got f32[0]"),
    ],
))  # fmt: skip


def _scatter_along_type(
    x: TensorType, indices: TensorType, updates: TensorType, *, axis: int
) -> TensorType:
    op = "scatter_add_along"
    require_number(op, x=x)
    require_same_dtype(op, x, updates)
    _require_along(op, x, indices, axis)
    if updates.shape != indices.shape:
        raise ShapeError(
            f"{op}: operand updates must be {x.with_shape(indices.shape)}, got {updates}"
        )
    return x


def _scatter_along_numpy(
    x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int
) -> np.ndarray:
    at: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    at[axis] = np.clip(indices, 0, max(x.shape[axis] - 1, 0))
    result = np.array(widen(x))
    np.add.at(result, tuple(at), widen(updates))
    return result.astype(x.dtype, copy=False)


def _scatter_along_vjp(
    g: Value, x: Value, indices: Value, updates: Value, *, out: Value, axis: int
) -> tuple[Value, None, Value]:
    return g, None, take_along(g, indices, axis=axis)


scatter_add_along = define(Op(
    name="scatter_add_along",
    doc="""`x` with each element of `updates` added at its own position, but along `axis` at the
    index that `indices` has there; repeated indices add up, an index out of range is clamped.
    The gradient of `take_along`.""",
    kind="opaque",
    type=_scatter_along_type, numpy=_scatter_along_numpy, vjp=_scatter_along_vjp,
    jvp=linear("scatter_add_along"),
    onnx=CODE,
    samples=[
        case(f32(4, 7), i32(4, 3), f32(4, 3), axis=1, integers=(0, 7)),
        case(f32(N, 5), i32(N, 8), f32(N, 8), axis=1, integers=(-3, 9)),
        case(f32(6, N, 2), i32(4, N, 2), f32(4, N, 2), axis=0, integers=(0, 6)),
        case(i32(9), u32(20), i32(20), axis=0, integers=(0, 12)),
        case(bf16(4), i64(9), bf16(9), axis=0),
        case(f32(0, 3), i32(0, 2), f32(0, 2), axis=1),
        case(f32(2, 3), i32(2, 0), f32(2, 0), axis=1),
        case(f32(1, 1), i32(1, 1), f32(1, 1), axis=0),
    ],
    rejects=[
        reject(f32(5), i32(2), f32(3), axis=0,
               error="scatter_add_along: operand updates must be f32[2], got f32[3]"),
        reject(f32(5), f32(2), f32(2), axis=0,
               error="scatter_add_along: operand indices must be an integer, got f32[2]"),
        reject(f32(5), i32(2), i32(2), axis=0,
               error="scatter_add_along: operands must have one dtype, got f32[5] and i32[2]"),
        reject(boolean(5), i32(2), boolean(2), axis=0,
               error="scatter_add_along: operand x must be a number, got bool[5]"),
    ],
))  # fmt: skip
