"""Windows whose place is computed: reading and replacing them."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import zeros_like
from ..types import Shape, TensorType, boolean, f32, i32, i64, u32
from .common import N, linear, require_integer, require_length, require_same_dtype


def _require_window(op: str, x: TensorType, sizes: Shape, starts: tuple[TensorType, ...]) -> None:
    """Refuse windows that do not fit into `x`, and starts other than an integer for each axis."""
    require_length(op, x.ndim, starts=starts)
    require_length(op, x.ndim, sizes=sizes)
    for start in starts:
        require_integer(op, start=start)
        if start.ndim:
            raise ShapeError(f"{op}: operand start must be a scalar, got {start}")
    for size, whole in zip(sizes, x.shape, strict=True):
        if isinstance(size, int) and isinstance(whole, int):
            fits = 0 <= size <= whole
        else:  # a number may exceed a symbol, and a symbol a number
            fits = size == whole or (isinstance(size, int) and size in (0, 1))
        if not fits:
            raise ShapeError(f"{op}: a window must fit into {x}, got sizes {list(sizes)}")


def _window(shape: tuple[int, ...], sizes: tuple[int, ...], starts: tuple[np.ndarray, ...]) -> (
    tuple[slice, ...]
):  # fmt: skip
    """The part of an array that a window covers; it is moved inside."""
    inside = (
        min(max(int(start), 0), whole - size)
        for start, size, whole in zip(starts, sizes, shape, strict=True)
    )
    return tuple(slice(start, start + size) for start, size in zip(inside, sizes, strict=True))


def _slice_type(x: TensorType, *starts: TensorType, sizes: Shape) -> TensorType:
    _require_window("dynamic_slice", x, sizes, starts)
    return x.with_shape(sizes)


def _slice_numpy(x: np.ndarray, *starts: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    return x[_window(x.shape, sizes, starts)]


def _slice_vjp(
    g: Value, x: Value, *starts: Value, out: Value, sizes: Shape
) -> tuple[Value | None, ...]:
    return (dynamic_update(zeros_like(x), g, *starts), *(None for _ in starts))


dynamic_slice = define(Op(
    name="dynamic_slice",
    doc="""The window of `x` of `sizes` that begins at `starts`, one integer scalar for each axis.
    A start that would leave `x` is moved to the nearest at which the window lies inside.""",
    kind="index",
    type=_slice_type, numpy=_slice_numpy, vjp=_slice_vjp,
    jvp=linear("dynamic_slice"),
    onnx=CODE,
    samples=[
        case(f32(5, 7), i32(), i32(), sizes=(2, 3), integers=(0, 4)),
        case(f32(N, 7), i32(), i32(), sizes=(N, 3), integers=(-9, 10)),
        case(f32(9, N, 2), i32(), i32(), i32(), sizes=(1, N, 2), integers=(2, 12)),
        case(i32(9), i64(), sizes=(4,), integers=(3, 5)),
        case(boolean(9), u32(), sizes=(4,), integers=(3, 5)), case(f32(), sizes=()),
        case(f32(5), i32(), sizes=(0,)), case(f32(0, 3), i32(), i32(), sizes=(0, 1)),
        case(f32(1, 1), i32(), i32(), sizes=(1, 1)),
    ],
    rejects=[
        reject(f32(5, 7), i32(), sizes=(2, 3),
               error="dynamic_slice: starts must have 2 entries, got (i32[],)"),
        reject(f32(5), i32(), sizes=(6,),
               error="dynamic_slice: a window must fit into f32[5], got sizes [6]"),
        reject(f32(N), i32(), sizes=(3,),
               error="dynamic_slice: a window must fit into f32[N], got sizes [3]"),
        reject(f32(5), f32(), sizes=(2,),
               error="dynamic_slice: operand start must be an integer, got f32[]"),
        reject(f32(5), i32(1), sizes=(2,),
               error="dynamic_slice: operand start must be a scalar, got i32[1]"),
        reject(f32(5), i32(), sizes=(2, 2),
               error="dynamic_slice: sizes must have 1 entries, got (2, 2)"),
    ],
))  # fmt: skip


def _update_type(x: TensorType, update: TensorType, *starts: TensorType) -> TensorType:
    require_same_dtype("dynamic_update", x, update)
    _require_window("dynamic_update", x, update.shape, starts)
    return x


def _update_numpy(x: np.ndarray, update: np.ndarray, *starts: np.ndarray) -> np.ndarray:
    result = np.array(x)
    result[_window(x.shape, update.shape, starts)] = update
    return result


def _update_vjp(
    g: Value, x: Value, update: Value, *starts: Value, out: Value
) -> tuple[Value | None, ...]:
    kept = dynamic_update(g, zeros_like(update), *starts)
    replaced = dynamic_slice(g, *starts, sizes=update.shape)
    return (kept, replaced, *(None for _ in starts))


dynamic_update = define(Op(
    name="dynamic_update",
    doc="""`x` with the window that begins at `starts` replaced by `update`. A start that would
    leave `x` is moved to the nearest at which the window lies inside.""",
    kind="index",
    type=_update_type, numpy=_update_numpy, vjp=_update_vjp,
    jvp=linear("dynamic_update"),
    onnx=CODE,
    samples=[
        case(f32(5, 7), f32(2, 3), i32(), i32(), integers=(0, 4)),
        case(f32(N, 7), f32(N, 3), i32(), i32(), integers=(-9, 10)),
        case(f32(9, N, 2), f32(1, N, 2), i32(), i32(), i32(), integers=(2, 12)),
        case(i32(9), i32(4), i64(), integers=(3, 5)),
        case(boolean(9), boolean(4), u32(), integers=(3, 5)), case(f32(), f32()),
        case(f32(5), f32(0), i32()), case(f32(0, 3), f32(0, 1), i32(), i32()),
        case(f32(1, 1), f32(1, 1), i32(), i32()),
    ],
    rejects=[
        reject(f32(5, 7), f32(2, 3), i32(),
               error="dynamic_update: starts must have 2 entries, got (i32[],)"),
        reject(f32(5), f32(6), i32(),
               error="dynamic_update: a window must fit into f32[5], got sizes [6]"),
        reject(f32(5), i32(2), i32(),
               error="dynamic_update: operands must have one dtype, got f32[5] and i32[2]"),
        reject(f32(5), f32(2, 2), i32(),
               error="dynamic_update: sizes must have 1 entries, got (2, 2)"),
    ],
))  # fmt: skip
