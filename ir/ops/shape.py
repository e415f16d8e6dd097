"""Moving elements: broadcast, reshape, transpose, concat, slice, pad, reverse."""

from __future__ import annotations

import math

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..types import Shape, Size, TensorType, boolean, f32, i32
from .common import (
    N,
    linear,
    require_at_least,
    require_axes,
    require_axis,
    require_length,
    require_same_dtype,
)

Sizes = tuple[Size, ...]
Ints = tuple[int, ...]


def _broadcast_type(x: TensorType, *, shape: Shape, axes: Ints) -> TensorType:
    result = x.with_shape(shape)
    require_length("broadcast", x.ndim, axes=axes)
    if axes:
        require_axes("broadcast", axes, result)
    for size, axis in zip(x.shape, axes, strict=True):
        if size not in (1, shape[axis]):
            raise ShapeError(
                f"broadcast: sizes must be 1 or those of the result along axes {tuple(axes)}, "
                f"got {x} to {result}"
            )
    return result


def _broadcast_numpy(x: np.ndarray, *, shape: Ints, axes: Ints) -> np.ndarray:
    aligned = [1] * len(shape)
    for size, axis in zip(x.shape, axes, strict=True):
        aligned[axis] = size
    return np.broadcast_to(x.reshape(aligned), shape)


def _broadcast_vjp(g: Value, x: Value, *, out: Value, shape: Shape, axes: Ints) -> tuple[Value]:
    repeated = {
        axis
        for axis, size in enumerate(shape)
        if axis not in axes or x.shape[axes.index(axis)] != size
    }
    return (g.sum(tuple(sorted(repeated))).reshape(x.shape) if repeated else g.reshape(x.shape),)


broadcast = define(Op(
    name="broadcast",
    doc="""`x` repeated to `shape`: its axis i becomes axis `axes[i]`, where it has the size of
    the result or 1; along all other axes it repeats.""",
    kind="index",
    type=_broadcast_type, numpy=_broadcast_numpy, vjp=_broadcast_vjp,
    jvp=linear("broadcast"),
    onnx=CODE,
    samples=[
        case(f32(3), shape=(2, 3), axes=(1,)), case(f32(), shape=(2, N), axes=()),
        case(f32(2, 3), shape=(2, 4, 3), axes=(0, 2)), case(f32(1, 3), shape=(5, 3), axes=(0, 1)),
        case(f32(N, 1), shape=(N, 4, 7), axes=(0, 2)), case(i32(3), shape=(3, 2), axes=(0,)),
        case(f32(2, 3), shape=(2, 3), axes=(0, 1)),
    ],
    rejects=[
        reject(f32(3), shape=(2, 4), axes=(1,),
               error="broadcast: sizes must be 1 or those of the result along axes (1,), got "
                     "f32[3] to f32[2,4]"),
        reject(f32(3), shape=(2, 3), axes=(0, 1),
               error="broadcast: axes must have 1 entries, got (0, 1)"),
        reject(f32(3, 3), shape=(3, 3), axes=(1, 0),
               error="broadcast: axes must be strictly increasing, got (1, 0)"),
        reject(f32(3), shape=(3,), axes=(1,),
               error="broadcast: axis must be in [0, 1), got 1 for f32[3]"),
    ],
))  # fmt: skip


def _reshape_type(x: TensorType, *, shape: Shape) -> TensorType:
    result = x.with_shape(shape)
    if result.size != x.size:
        raise ShapeError(f"reshape: the number of elements must stay, got {x} to {result}")
    return result


def _reshape_numpy(x: np.ndarray, *, shape: Ints) -> np.ndarray:
    return x.reshape(shape)


def _reshape_vjp(g: Value, x: Value, *, out: Value, shape: Shape) -> tuple[Value]:
    return (g.reshape(x.shape),)


reshape = define(Op(
    name="reshape",
    doc="The elements of `x`, in row-major order, as `shape`.",
    kind="index",
    type=_reshape_type, numpy=_reshape_numpy, vjp=_reshape_vjp,
    jvp=linear("reshape"),
    onnx=CODE,
    samples=[
        case(f32(4, 6), shape=(8, 3)), case(f32(N, 2, 3), shape=(N, 6)),
        case(f32(N, 4), shape=(N * 4,)), case(f32(), shape=(1, 1)), case(i32(0, 3), shape=(3, 0)),
        case(boolean(4), shape=(2, 2)),
    ],
    rejects=[
        reject(f32(4, 6), shape=(5, 5),
               error="reshape: the number of elements must stay, got f32[4,6] to f32[5,5]"),
        reject(f32(N, 6), shape=(N, 5),
               error="reshape: the number of elements must stay, got f32[N,6] to f32[N,5]"),
    ],
))  # fmt: skip


def _transpose_type(x: TensorType, *, permutation: Ints) -> TensorType:
    if sorted(permutation) != list(range(x.ndim)):
        raise ShapeError(
            f"transpose: permutation must order the axes of {x}, got {tuple(permutation)}"
        )
    return x.with_shape(x.shape[axis] for axis in permutation)


def _transpose_numpy(x: np.ndarray, *, permutation: Ints) -> np.ndarray:
    return np.transpose(x, permutation)


def _transpose_vjp(g: Value, x: Value, *, out: Value, permutation: Ints) -> tuple[Value]:
    return (g.transpose(*(permutation.index(axis) for axis in range(x.ndim))),)


transpose = define(Op(
    name="transpose",
    doc="Axis i of the result is axis `permutation[i]` of `x`.",
    kind="index",
    type=_transpose_type, numpy=_transpose_numpy, vjp=_transpose_vjp,
    jvp=linear("transpose"),
    onnx=CODE,
    samples=[
        case(f32(2, 3, 4), permutation=(2, 0, 1)), case(f32(N, 3), permutation=(1, 0)),
        case(i32(2, 3), permutation=(0, 1)), case(f32(), permutation=()),
    ],
    rejects=[
        reject(f32(2, 3), permutation=(0, 0),
               error="transpose: permutation must order the axes of f32[2,3], got (0, 0)"),
    ],
))  # fmt: skip


def _concat_type(*xs: TensorType, axis: int) -> TensorType:
    if not xs:
        raise ArgumentError("concat: there must be an operand, got none")
    require_same_dtype("concat", *xs)
    require_axis("concat", axis, xs[0])
    total: Size = 0
    rest = xs[0].shape[:axis], xs[0].shape[axis + 1 :]
    for x in xs:
        if x.ndim != xs[0].ndim or (x.shape[:axis], x.shape[axis + 1 :]) != rest:
            listed = " and ".join(map(str, xs))
            raise ShapeError(f"concat: shapes must agree outside of axis {axis}, got {listed}")
        total = total + x.shape[axis]
    return xs[0].with_shape((*rest[0], total, *rest[1]))


def _concat_numpy(*xs: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate(xs, axis=axis)


def _concat_vjp(g: Value, *xs: Value, out: Value, axis: int) -> tuple[Value, ...]:
    shares = []
    start: Size = 0
    for x in xs:
        starts = tuple(start if i == axis else 0 for i in range(x.ndim))
        limits = tuple(start + x.shape[axis] if i == axis else d for i, d in enumerate(out.shape))
        shares.append(slice_(g, starts=starts, limits=limits, strides=(1,) * x.ndim))
        start = start + x.shape[axis]
    return tuple(shares)


concat = define(Op(
    name="concat",
    doc="The operands one after another along `axis`.",
    kind="index",
    type=_concat_type, numpy=_concat_numpy, vjp=_concat_vjp,
    jvp=linear("concat"),
    onnx=CODE,
    samples=[
        case(f32(2, 3), f32(2, 4), axis=1), case(f32(N, 3), f32(N, 3), f32(N, 1), axis=1),
        case(f32(N, 2), f32(3, 2), axis=0), case(i32(2), axis=0),
        case(f32(0, 2), f32(1, 2), axis=0),
    ],
    rejects=[
        reject(axis=0, error="concat: there must be an operand, got none"),
        reject(f32(2), i32(2), axis=0,
               error="concat: operands must have one dtype, got f32[2] and i32[2]"),
        reject(f32(2, 3), f32(3, 3), axis=1,
               error="concat: shapes must agree outside of axis 1, got f32[2,3] and f32[3,3]"),
        reject(f32(2), f32(2), axis=1, error="concat: axis must be in [0, 1), got 1 for f32[2]"),
    ],
))  # fmt: skip


def _slice_type(x: TensorType, *, starts: Sizes, limits: Sizes, strides: Ints) -> TensorType:
    require_length("slice", x.ndim, starts=starts, limits=limits, strides=strides)
    require_at_least("slice", 1, strides=strides)
    require_at_least("slice", 0, starts=starts)
    sizes = []
    for start, limit, stride, size in zip(starts, limits, strides, x.shape, strict=True):
        length, rest = limit - start, size - limit
        if (isinstance(length, int) and length < 0) or (isinstance(rest, int) and rest < 0):
            raise ShapeError(
                f"slice: 0 <= starts <= limits <= sizes must hold, "
                f"got starts={tuple(starts)}, limits={tuple(limits)} for {x}"
            )
        sizes.append((length + stride - 1) // stride)
    return x.with_shape(sizes)


def _slice_numpy(x: np.ndarray, *, starts: Ints, limits: Ints, strides: Ints) -> np.ndarray:
    return x[tuple(map(slice, starts, limits, strides))]


def _slice_vjp(
    g: Value, x: Value, *, out: Value, starts: Sizes, limits: Sizes, strides: Ints
) -> tuple[Value]:
    high = tuple(
        size - start - dilated(count, stride - 1)
        for size, start, count, stride in zip(x.shape, starts, g.shape, strides, strict=True)
    )
    interior = tuple(stride - 1 for stride in strides)
    return (pad(g, low=starts, high=high, interior=interior, value=0.0),)


slice_ = define(Op(
    name="slice",
    doc="Every `strides[i]`-th element of `x` from `starts[i]` up to, without, `limits[i]`.",
    kind="index",
    type=_slice_type, numpy=_slice_numpy, vjp=_slice_vjp,
    jvp=linear("slice"),
    onnx=CODE,
    samples=[
        case(f32(5, 7), starts=(1, 0), limits=(4, 7), strides=(1, 1)),
        case(f32(5, 7), starts=(0, 1), limits=(5, 6), strides=(2, 3)),
        case(f32(N, 7), starts=(0, 2), limits=(N, 4), strides=(1, 1)),
        case(f32(N, 2), starts=(N - 1, 0), limits=(N, 2), strides=(1, 1)),
        case(f32(4), starts=(2,), limits=(2,), strides=(1,)),
        case(f32(N, N * 4), starts=(0, 1), limits=(N, N * 4), strides=(1, 2)),
        case(i32(9), starts=(0,), limits=(9,), strides=(4,)),
        case(f32(N, 4), starts=(1, 0), limits=(N, 4), strides=(2, 3)),
    ],
    rejects=[
        reject(f32(5), starts=(0,), limits=(6,), strides=(1,),
               error="slice: 0 <= starts <= limits <= sizes must hold, got starts=(0,), "
                     "limits=(6,) for f32[5]"),
        reject(f32(5), starts=(3,), limits=(2,), strides=(1,),
               error="slice: 0 <= starts <= limits <= sizes must hold, got starts=(3,), "
                     "limits=(2,) for f32[5]"),
        reject(f32(5), starts=(-1,), limits=(2,), strides=(1,),
               error="slice: starts must be 0 or more, got (-1,)"),
        reject(f32(5), starts=(0,), limits=(5,), strides=(0,),
               error="slice: strides must be 1 or more, got (0,)"),
        reject(f32(5), starts=(0, 0), limits=(5,), strides=(1,),
               error="slice: starts must have 1 entries, got (0, 0)"),
    ],
))  # fmt: skip


def dilated(size: Size, interior: int) -> Size:
    """A size after `interior` elements are put between neighbours; a symbolic size is not 0."""
    if size == 0 or interior == 0:
        return size
    return (size - 1) * (interior + 1) + 1


def _pad_type(
    x: TensorType, *, low: Sizes, high: Sizes, interior: Ints, value: float
) -> TensorType:
    require_length("pad", x.ndim, low=low, high=high, interior=interior)
    require_at_least("pad", 0, interior=interior)
    sizes = [
        dilated(size, between) + before + after
        for size, before, after, between in zip(x.shape, low, high, interior, strict=True)
    ]
    if any(isinstance(size, int) and size < 0 for size in sizes):
        raise ShapeError(
            f"pad: no size may become negative, got low={tuple(low)}, high={tuple(high)} for {x}"
        )
    return x.with_shape(sizes)


def _pad_numpy(x: np.ndarray, *, low: Ints, high: Ints, interior: Ints, value: float) -> np.ndarray:
    sizes = [int(dilated(d, between)) for d, between in zip(x.shape, interior, strict=True)]
    spread = np.full(sizes, value, x.dtype)
    spread[tuple(slice(None, None, between + 1) for between in interior)] = x
    widths = [(max(before, 0), max(after, 0)) for before, after in zip(low, high, strict=True)]
    padded = np.pad(spread, widths, constant_values=np.asarray(value).astype(x.dtype))
    return padded[tuple(
        slice(max(-before, 0), size - max(-after, 0))
        for before, after, size in zip(low, high, padded.shape, strict=True)
    )]  # fmt: skip


def _pad_vjp(
    g: Value, x: Value, *, out: Value, low: Sizes, high: Sizes, interior: Ints, value: float
) -> tuple[Value]:
    zeros = (0,) * x.ndim
    spread = pad(
        g, low=tuple(-n for n in low), high=tuple(-n for n in high), interior=zeros, value=0.0
    )
    if interior == zeros:
        return (spread,)
    strides = tuple(between + 1 for between in interior)
    return (slice_(spread, starts=zeros, limits=spread.shape, strides=strides),)


def _pad_jvp(
    tangents: tuple[Value], x: Value, *, out: Value, low: Sizes, high: Sizes, interior: Ints,
    value: float,
) -> tuple[Value]:  # fmt: skip
    return (pad(tangents[0], low=low, high=high, interior=interior, value=0.0),)


pad = define(Op(
    name="pad",
    doc="""`x` with `interior[i]` times `value` between neighbours along axis i, then `low[i]`
    times before and `high[i]` times after; a negative `low` or `high` cuts elements off.""",
    kind="index",
    type=_pad_type, numpy=_pad_numpy, vjp=_pad_vjp,
    jvp=_pad_jvp,
    onnx=CODE,
    samples=[
        case(f32(3, 4), low=(1, 0), high=(0, 2), interior=(0, 0), value=0.5),
        case(f32(3, 4), low=(0, 1), high=(1, 0), interior=(2, 1), value=0.0),
        case(f32(5, 6), low=(-1, 2), high=(1, -2), interior=(0, 1), value=-1.0),
        case(f32(N, 3), low=(0, 1), high=(2, 1), interior=(0, 0), value=0.0),
        case(f32(0, 2), low=(1, 0), high=(1, 0), interior=(3, 0), value=2.0),
        case(i32(3), low=(1,), high=(1,), interior=(0,), value=7.0),
        case(f32(3), low=(0,), high=(1,), interior=(0,), value=-math.inf),
    ],
    rejects=[
        reject(f32(3), low=(-2,), high=(-2,), interior=(0,), value=0.0,
               error="pad: no size may become negative, got low=(-2,), high=(-2,) for f32[3]"),
        reject(f32(3), low=(0,), high=(0,), interior=(-1,), value=0.0,
               error="pad: interior must be 0 or more, got (-1,)"),
        reject(f32(3), low=(0, 0), high=(0,), interior=(0,), value=0.0,
               error="pad: low must have 1 entries, got (0, 0)"),
    ],
))  # fmt: skip


def _reverse_type(x: TensorType, *, axes: Ints) -> TensorType:
    require_axes("reverse", axes, x)
    return x


def _reverse_numpy(x: np.ndarray, *, axes: Ints) -> np.ndarray:
    return np.flip(x, axes)


def _reverse_vjp(g: Value, x: Value, *, out: Value, axes: Ints) -> tuple[Value]:
    return (reverse(g, axes=axes),)


reverse = define(Op(
    name="reverse",
    doc="The elements of `x` in opposite order along `axes`.",
    kind="index",
    type=_reverse_type, numpy=_reverse_numpy, vjp=_reverse_vjp,
    jvp=linear("reverse"),
    onnx=CODE,
    samples=[case(f32(3, 4), axes=(0,)), case(f32(N, 4, 2), axes=(1, 2)), case(i32(5), axes=(0,))],
    rejects=[
        reject(f32(3), axes=(1,), error="reverse: axis must be in [0, 1), got 1 for f32[3]"),
        reject(f32(3), axes=(), error="reverse: axes must not be empty, got () for f32[3]"),
    ],
))  # fmt: skip
