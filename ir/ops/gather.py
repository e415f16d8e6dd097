"""Reading and accumulating at computed positions."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import zeros_like
from ..types import TensorType, f32, i32
from .common import require_axis, require_integer, require_number, require_same_dtype, widen


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
    onnx=CODE,
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
    at = np.clip(indices, 0, x.shape[axis] - 1).reshape(-1)
    rows = updates.reshape(*x.shape[:axis], at.size, *x.shape[axis + 1 :])
    result = np.array(np.moveaxis(widen(x), axis, 0))
    np.add.at(result, at, np.moveaxis(widen(rows), axis, 0))
    return np.moveaxis(result, 0, axis).astype(x.dtype)


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
    onnx=CODE,
))  # fmt: skip
