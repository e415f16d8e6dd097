"""Pooling over windows of the spatial axes of `[N, *spatial, C]`, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import full, select, zeros_like
from ..types import Shape, TensorType, bf16, boolean, f16, f32, i32
from .binary import equal
from .common import (
    N,
    linear,
    require_at_least,
    require_float,
    require_length,
    require_number,
    require_rank,
    require_same_dtype,
    widen,
)
from .conv import window_size
from .reduce import lowest
from .shape import pad, slice_

Ints = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]


def _geometry(
    rank: int, window: int, strides: int, padding: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """The attributes of a sample: the same along all spatial axes."""
    return {"window": (window,) * rank, "strides": (strides,) * rank, "padding": (padding,) * rank}


def _pooled(op: str, x: TensorType, window: Ints, strides: Ints, padding: Padding) -> TensorType:
    """The type of one number for each window of `x`."""
    require_rank(op, "x", x, 3)
    require_length(op, x.ndim - 2, window=window, strides=strides, padding=padding)
    require_at_least(op, 1, window=window, strides=strides)
    spatial = []
    for axis, (low, high) in enumerate(padding):
        if not (0 <= low < window[axis] and 0 <= high < window[axis]):
            raise ArgumentError(
                f"{op}: padding must be 0 or more and below the window, "
                f"got {tuple(padding)} for a window of {tuple(window)}"
            )
        size = x.shape[axis + 1]
        spatial.append(window_size(op, size, window[axis], strides[axis], low, high))
    return x.with_shape((x.shape[0], *spatial, x.shape[-1]))


def _pad_spatial(x: np.ndarray, padding: Padding, value: float) -> np.ndarray:
    return np.pad(x, [(0, 0), *padding, (0, 0)], constant_values=value)


def _unpad_spatial(x: np.ndarray, shape: Ints, padding: Padding) -> np.ndarray:
    middle = (slice(low, low + n) for n, (low, _) in zip(shape[1:-1], padding, strict=True))
    return x[(slice(None), *middle, slice(None))]


def _taps(window: Ints, strides: Ints, out: Ints) -> Iterator[tuple[slice, ...]]:
    """For each position in the window, in row-major order, the padded elements it meets."""
    for tap in np.ndindex(window):
        middle = (
            slice(t, t + (n - 1) * s + 1, s) for t, n, s in zip(tap, out, strides, strict=True)
        )
        yield (slice(None), *middle, slice(None))


def _out_sizes(x: np.ndarray, window: Ints, strides: Ints, padding: Padding) -> Ints:
    shape = _pooled("pool", TensorType(f32, x.shape), window, strides, padding).shape
    return tuple(int(d) for d in shape[1:-1])


def _max_type(x: TensorType, *, window: Ints, strides: Ints, padding: Padding) -> TensorType:
    require_number("max_pool", x=x)
    return _pooled("max_pool", x, window, strides, padding)


def _max_numpy(x: np.ndarray, *, window: Ints, strides: Ints, padding: Padding) -> np.ndarray:
    padded = _pad_spatial(x, padding, lowest(x))
    out = _out_sizes(x, window, strides, padding)
    result = np.full((x.shape[0], *out, x.shape[-1]), lowest(x), x.dtype)
    for tap in _taps(window, strides, out):
        result = np.maximum(result, padded[tap])
    return result


def _max_vjp(
    g: Value, x: Value, *, out: Value, window: Ints, strides: Ints, padding: Padding
) -> tuple[Value]:
    return (max_pool_grad(x, g, window=window, strides=strides, padding=padding),)


max_pool = define(Op(
    name="max_pool",
    doc="The largest element of each window of the spatial axes; padding never wins.",
    kind="window",
    type=_max_type, numpy=_max_numpy, vjp=_max_vjp,
    onnx=CODE,
    samples=[
        case(f32(N, 6, 6, 2), **_geometry(2, 2, 2), distinct=True),
        case(f32(2, 5, 7, 2), **_geometry(2, 3, 2, (1, 1)), distinct=True),
        case(f32(2, 7, 3), **_geometry(1, 2, 3, (0, 1)), distinct=True),
        case(f32(1, 4, 4, 4, 2), **_geometry(3, 2, 1), distinct=True),
        case(bf16(1, 4, 4, 2), **_geometry(2, 2, 2)), case(i32(1, 4, 4, 2), **_geometry(2, 3, 1)),
        case(i32(1, 3, 3, 2), **_geometry(2, 2, 2, (1, 0))),
    ],
    rejects=[
        reject(f32(2, 5), **_geometry(2, 2, 2),
               error="max_pool: operand x must have rank 3 or more, got f32[2,5]"),
        reject(boolean(2, 5, 5, 1), **_geometry(2, 2, 2),
               error="max_pool: operand x must be a number, got bool[2,5,5,1]"),
        reject(f32(2, 5, 5, 1), **_geometry(2, 6, 2),
               error="max_pool: the window must fit into the padded input, "
                     "got a window of 6 in 5 + 0 + 0"),
        reject(f32(2, 5, 5, 1), **_geometry(2, 2, 2, (2, 0)),
               error="max_pool: padding must be 0 or more and below the window, "
                     "got ((2, 0), (2, 0)) for a window of (2, 2)"),
        reject(f32(2, 5, 5, 1), **_geometry(1, 2, 2),
               error="max_pool: window must have 2 entries, got (2,)"),
        reject(f32(2, 5, 5, 1), **_geometry(2, 2, 0),
               error="max_pool: strides must be 1 or more, got (0, 0)"),
    ],
))  # fmt: skip


def _max_grad_type(
    x: TensorType, dy: TensorType, *, window: Ints, strides: Ints, padding: Padding
) -> TensorType:
    require_float("max_pool_grad", x=x, dy=dy)
    require_same_dtype("max_pool_grad", x, dy)
    expected = _pooled("max_pool_grad", x, window, strides, padding)
    if dy != expected:
        raise ShapeError(f"max_pool_grad: operand dy must be {expected}, got {dy}")
    return x


def _max_grad_numpy(
    x: np.ndarray, dy: np.ndarray, *, window: Ints, strides: Ints, padding: Padding
) -> np.ndarray:
    padded = _pad_spatial(x, padding, -math.inf)
    best = _max_numpy(x, window=window, strides=strides, padding=padding)
    total = np.zeros(padded.shape, widen(dy).dtype)
    free = np.ones(dy.shape, np.bool_)  # windows whose maximum has not been met yet
    for tap in _taps(window, strides, dy.shape[1:-1]):
        first = free & ((padded[tap] == best) | np.isnan(padded[tap]))
        total[tap] += np.where(first, dy, 0)
        free &= ~first
    return _unpad_spatial(total, x.shape, padding).astype(x.dtype, copy=False)


def _max_grad_vjp(
    g: Value, x: Value, dy: Value, *, out: Value, window: Ints, strides: Ints, padding: Padding
) -> tuple[None, Value]:
    """Reads `g` where each window has its first maximum; in `x` the op is piecewise constant."""
    low = (0, *(before for before, _ in padding), 0)
    high = (0, *(after for _, after in padding), 0)
    zeros = (0,) * x.ndim
    values = pad(x, low=low, high=high, interior=zeros, value=-math.inf)
    cotangents = pad(g, low=low, high=high, interior=zeros, value=0.0)
    best = max_pool(x, window=window, strides=strides, padding=padding)
    steps = (1, *strides, 1)
    total, free = zeros_like(dy), full(dy.shape, True, "bool")
    for tap in np.ndindex(window):
        starts = (0, *tap, 0)
        spans = zip(tap, dy.shape[1:-1], strides, strict=True)
        limits = (x.shape[0], *(t + (n - 1) * s + 1 for t, n, s in spans), x.shape[-1])
        seen = slice_(values, starts=starts, limits=limits, strides=steps)
        first = free & equal(seen, best)
        picked = slice_(cotangents, starts=starts, limits=limits, strides=steps)
        total = select(first, picked, total)
        free = free & ~first
    return None, total


max_pool_grad = define(Op(
    name="max_pool_grad",
    doc="""The cotangent of the input `x` of `max_pool`, from the cotangent `dy` of its result:
    each element of `dy` goes to the first maximum of its window in row-major order.""",
    kind="window",
    type=_max_grad_type, numpy=_max_grad_numpy, vjp=_max_grad_vjp,
    onnx=CODE,
    samples=[
        case(f32(N, 6, 6, 2), f32(N, 3, 3, 2), **_geometry(2, 2, 2), distinct=True),
        case(f32(2, 5, 7, 2), f32(2, 3, 4, 2), **_geometry(2, 3, 2, (1, 1)), distinct=True),
        case(f32(2, 7, 3), f32(2, 3, 3), **_geometry(1, 2, 3, (0, 1)), distinct=True),
        case(bf16(1, 4, 4, 2), bf16(1, 2, 2, 2), **_geometry(2, 2, 2)),
    ],
    rejects=[
        reject(f32(2, 6, 6, 2), f32(2, 3, 2, 2), **_geometry(2, 2, 2),
               error="max_pool_grad: operand dy must be f32[2,3,3,2], got f32[2,3,2,2]"),
        reject(i32(2, 6, 6, 2), i32(2, 3, 3, 2), **_geometry(2, 2, 2),
               error="max_pool_grad: operand x must be floating point, got i32[2,6,6,2]"),
    ],
))  # fmt: skip


def _counts(
    shape: Ints, out: Ints, window: Ints, strides: Ints, padding: Padding, include_padding: bool
) -> np.ndarray:
    """The number that each window's sum is divided by: `[1, *out, 1]`."""
    if include_padding:
        return np.full((1, *out, 1), math.prod(window))
    ones = np.pad(np.ones((1, *shape[1:-1], 1), np.int64), [(0, 0), *padding, (0, 0)])
    return np.asarray(sum(ones[tap] for tap in _taps(window, strides, out)))


def _avg_type(
    x: TensorType, *, window: Ints, strides: Ints, padding: Padding, include_padding: bool
) -> TensorType:
    require_float("avg_pool", x=x)
    return _pooled("avg_pool", x, window, strides, padding)


def _avg_numpy(
    x: np.ndarray, *, window: Ints, strides: Ints, padding: Padding, include_padding: bool
) -> np.ndarray:
    padded = _pad_spatial(widen(x), padding, 0.0)
    out = _out_sizes(x, window, strides, padding)
    total = np.zeros((x.shape[0], *out, x.shape[-1]), padded.dtype)
    for tap in _taps(window, strides, out):
        total += padded[tap]
    counts = _counts(x.shape, out, window, strides, padding, include_padding)
    return np.asarray(total / counts.astype(total.dtype)).astype(x.dtype, copy=False)


def _avg_vjp(
    g: Value, x: Value, *, out: Value, window: Ints, strides: Ints, padding: Padding,
    include_padding: bool,
) -> tuple[Value]:  # fmt: skip
    return (avg_pool_grad(g, input_shape=x.shape, window=window, strides=strides,
                          padding=padding, include_padding=include_padding),)  # fmt: skip


avg_pool = define(Op(
    name="avg_pool",
    doc="""The mean of each window of the spatial axes; padding counts as zeros if
    `include_padding`, else only the elements of `x` count.""",
    kind="window",
    type=_avg_type, numpy=_avg_numpy, vjp=_avg_vjp,
    jvp=linear("avg_pool"),
    onnx=CODE,
    samples=[
        case(f32(N, 6, 6, 2), **_geometry(2, 2, 2), include_padding=False),
        case(f32(2, 5, 7, 2), **_geometry(2, 3, 2, (1, 1)), include_padding=False),
        case(f32(2, 5, 7, 2), **_geometry(2, 3, 2, (1, 1)), include_padding=True),
        case(f32(2, 7, 3), **_geometry(1, 2, 3, (0, 1)), include_padding=False),
        case(bf16(1, 4, 4, 2), **_geometry(2, 2, 2), include_padding=True),
        case(f16(1, 4, 4, 2), **_geometry(2, 3, 1), include_padding=True),
    ],
    rejects=[
        reject(i32(2, 5, 5, 1), **_geometry(2, 2, 2), include_padding=False,
               error="avg_pool: operand x must be floating point, got i32[2,5,5,1]"),
        reject(f32(2, 5, 5, 1), **_geometry(2, 6, 2), include_padding=False,
               error="avg_pool: the window must fit into the padded input, "
                     "got a window of 6 in 5 + 0 + 0"),
    ],
))  # fmt: skip


def _avg_grad_type(
    dy: TensorType, *, input_shape: Shape, window: Ints, strides: Ints, padding: Padding,
    include_padding: bool,
) -> TensorType:  # fmt: skip
    require_float("avg_pool_grad", dy=dy)
    x = dy.with_shape(input_shape)
    expected = _pooled("avg_pool_grad", x, window, strides, padding)
    if dy != expected:
        raise ShapeError(f"avg_pool_grad: operand dy must be {expected}, got {dy}")
    return x


def _avg_grad_numpy(
    dy: np.ndarray, *, input_shape: Ints, window: Ints, strides: Ints, padding: Padding,
    include_padding: bool,
) -> np.ndarray:  # fmt: skip
    out = dy.shape[1:-1]
    counts = _counts(input_shape, out, window, strides, padding, include_padding)
    share = widen(dy) / counts.astype(widen(dy).dtype)
    total = _pad_spatial(np.zeros(input_shape, share.dtype), padding, 0.0)
    for tap in _taps(window, strides, out):
        total[tap] += share
    return _unpad_spatial(total, input_shape, padding).astype(dy.dtype, copy=False)


def _avg_grad_vjp(
    g: Value, dy: Value, *, out: Value, input_shape: Shape, window: Ints, strides: Ints,
    padding: Padding, include_padding: bool,
) -> tuple[Value]:  # fmt: skip
    return (avg_pool(g, window=window, strides=strides, padding=padding,
                     include_padding=include_padding),)  # fmt: skip


avg_pool_grad = define(Op(
    name="avg_pool_grad",
    doc="""The cotangent of the input, of `input_shape`, of `avg_pool`, from the cotangent `dy`
    of its result.""",
    kind="window",
    type=_avg_grad_type, numpy=_avg_grad_numpy, vjp=_avg_grad_vjp,
    jvp=linear("avg_pool_grad"),
    onnx=CODE,
    samples=[
        case(f32(N, 3, 3, 2), input_shape=(N, 6, 6, 2), **_geometry(2, 2, 2),
             include_padding=False),
        case(f32(2, 3, 4, 2), input_shape=(2, 5, 7, 2), **_geometry(2, 3, 2, (1, 1)),
             include_padding=False),
        case(f32(2, 3, 4, 2), input_shape=(2, 5, 7, 2), **_geometry(2, 3, 2, (1, 1)),
             include_padding=True),
        case(bf16(1, 2, 2, 2), input_shape=(1, 4, 4, 2), **_geometry(2, 3, 1),
             include_padding=True),
    ],
    rejects=[
        reject(f32(2, 3, 2, 2), input_shape=(2, 6, 6, 2), **_geometry(2, 2, 2),
               include_padding=False,
               error="avg_pool_grad: operand dy must be f32[2,3,3,2], got f32[2,3,2,2]"),
        reject(i32(2, 3, 3, 2), input_shape=(2, 6, 6, 2), **_geometry(2, 2, 2),
               include_padding=False,
               error="avg_pool_grad: operand dy must be floating point, got i32[2,3,3,2]"),
    ],
))  # fmt: skip
