"""Convolution of any rank and its two gradients; each one's gradient is made of the others.

`x` is `[N, *spatial, C]`, the kernel `w` is `[*kernel, C / groups, O]`. The convolution is
linear in each of its operands, and with the inner product of tensors `<a, b>`::

    <g, conv(x, w)> = <conv_input_grad(g, w), x> = <conv_kernel_grad(x, g), w>
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..types import Shape, Size, TensorType, bf16, f16, f32, i32
from .common import (
    N,
    multilinear,
    require_at_least,
    require_fixed,
    require_float,
    require_length,
    require_rank,
    require_same_dtype,
    widen,
)
from .shape import dilated

Ints = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]


def _geometry(
    rank: int, *, strides: int = 1, padding: tuple[int, int] = (0, 0), input_dilation: int = 1,
    kernel_dilation: int = 1, groups: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """The attributes of a sample: the same along all spatial axes."""
    return {
        "strides": (strides,) * rank, "padding": (padding,) * rank,
        "input_dilation": (input_dilation,) * rank,
        "kernel_dilation": (kernel_dilation,) * rank, "groups": groups,
    }  # fmt: skip


def window_size(op: str, size: Size, window: int, stride: int, low: int, high: int) -> Size:
    """How many windows fit into a padded axis; an open size is taken to hold one."""
    if isinstance(size, int) and size + low + high < window:
        raise ShapeError(
            f"{op}: the window must fit into the padded input, got a window of {window} "
            f"in {size} + {low} + {high}"
        )
    return (size + low + high - window) // stride + 1


_ATTRIBUTES = ("strides", "padding", "input_dilation", "kernel_dilation", "groups")


def _check_attributes(op: str, rank: int, **attrs: Any) -> None:
    if sorted(attrs) != sorted(_ATTRIBUTES):
        listed = ", ".join(_ATTRIBUTES)
        raise ArgumentError(f"{op}: attributes must be {listed}, got {', '.join(sorted(attrs))}")
    _check_geometry(op, rank, **attrs)


def _check_geometry(
    op: str, rank: int, *, strides: Ints, padding: Padding, input_dilation: Ints,
    kernel_dilation: Ints, groups: int,
) -> None:  # fmt: skip
    steps: dict[str, Sequence[Any]] = {
        "strides": strides, "input_dilation": input_dilation, "kernel_dilation": kernel_dilation,
    }  # fmt: skip
    require_length(op, rank, padding=padding, **steps)
    require_at_least(op, 1, groups=(groups,), **steps)
    for pair in padding:
        require_length(op, 2, padding=pair)
        require_at_least(op, 0, padding=pair)


def _result(op: str, x: TensorType, w: TensorType, **attrs: Any) -> TensorType:
    """The type of the convolution that `op` is or is a gradient of."""
    require_rank(op, "x", x, 3)
    if w.ndim != x.ndim:
        raise ShapeError(f"{op}: operands must have one rank, got {x} and {w}")
    require_fixed(op, "x", x, (x.ndim - 1,))
    require_fixed(op, "w", w, range(w.ndim))
    _check_attributes(op, x.ndim - 2, **attrs)
    channels, groups = int(x.shape[-1]), attrs["groups"]
    if w.shape[-2] * groups != channels or w.shape[-1] % groups:
        raise ShapeError(
            f"{op}: the kernel must take channels / groups and give a multiple of groups, "
            f"got {w} with groups={groups} for {x}"
        )
    spatial = []
    for axis, (low, high) in enumerate(attrs["padding"]):
        size = dilated(x.shape[axis + 1], attrs["input_dilation"][axis] - 1)
        window = dilated(w.shape[axis], attrs["kernel_dilation"][axis] - 1)
        spatial.append(window_size(op, size, int(window), attrs["strides"][axis], low, high))
    return x.with_shape((x.shape[0], *spatial, w.shape[-1]))


def _dilate_and_pad(x: np.ndarray, padding: Padding, input_dilation: Ints) -> np.ndarray:
    spatial = x.shape[1:-1]
    sizes = [int(dilated(d, k - 1)) for d, k in zip(spatial, input_dilation, strict=True)]
    padded = [low + size + high for size, (low, high) in zip(sizes, padding, strict=True)]
    result = np.zeros((x.shape[0], *padded, x.shape[-1]), x.dtype)
    result[_inside(sizes, padding, input_dilation)] = x
    return result


def _inside(sizes: Sequence[int], padding: Padding, input_dilation: Ints) -> tuple[slice, ...]:
    """Where the elements of the input stand in the dilated and padded one."""
    middle = (
        slice(low, low + size, step)
        for size, (low, _), step in zip(sizes, padding, input_dilation, strict=True)
    )
    return (slice(None), *middle, slice(None))


def _tap(tap: Ints, out: Sequence[int], strides: Ints, dilation: Ints) -> tuple[slice, ...]:
    """The elements that kernel position `tap` meets, for all output positions."""
    middle = (
        slice(t * d, t * d + (n - 1) * s + 1, s)
        for t, n, s, d in zip(tap, out, strides, dilation, strict=True)
    )
    return (slice(None), *middle, slice(None))


def _columns(
    x: np.ndarray, kernel: Ints, out: Sequence[int], *, strides: Ints, padding: Padding,
    input_dilation: Ints, kernel_dilation: Ints, groups: int,
) -> np.ndarray:  # fmt: skip
    """What each output position sees: `[groups, N * out, taps * channels / groups]`."""
    padded = _dilate_and_pad(widen(x), padding, input_dilation)
    count, channels = x.shape[0] * math.prod(out), x.shape[-1] // groups
    taps = np.empty((groups, count, math.prod(kernel), channels), padded.dtype)
    for i, tap in enumerate(np.ndindex(kernel)):
        seen = padded[_tap(tap, out, strides, kernel_dilation)]
        taps[:, :, i] = seen.reshape(count, groups, channels).swapaxes(0, 1)
    return taps.reshape(groups, count, math.prod(kernel) * channels)


def _rows(y: np.ndarray, groups: int) -> np.ndarray:
    """`[..., O]` as `[groups, rows, O / groups]`."""
    rows = math.prod(y.shape[:-1])  # of no channels NumPy could not tell
    return widen(y).reshape(rows, groups, y.shape[-1] // groups).swapaxes(0, 1)


def _conv_type(x: TensorType, w: TensorType, **attrs: Any) -> TensorType:
    require_float("conv", x=x, w=w)
    require_same_dtype("conv", x, w)
    return _result("conv", x, w, **attrs)


def _conv_numpy(x: np.ndarray, w: np.ndarray, **attrs: Any) -> np.ndarray:
    groups = attrs["groups"]
    out = _out_sizes(x.shape, w.shape, **attrs)
    columns = _columns(x, w.shape[:-2], out, **attrs)
    product: np.ndarray = columns @ _rows(w, groups)
    return product.swapaxes(0, 1).reshape(x.shape[0], *out, w.shape[-1]).astype(x.dtype, copy=False)


def _out_sizes(x: Ints, w: Ints, **attrs: Any) -> Ints:
    """Spatial sizes of the convolution's result."""
    shape = _result("conv", TensorType(f32, x), TensorType(f32, w), **attrs).shape
    return tuple(int(d) for d in shape[1:-1])


def _flops(y: TensorType, w: TensorType) -> int:
    """Each result of the convolution is a sum over the taps and channels of its group."""
    outputs = int(w.shape[-1])
    return 2 * int(y.size) * int(w.size) // outputs if outputs else 0


def _conv_vjp(g: Value, x: Value, w: Value, *, out: Value, **attrs: Any) -> tuple[Value, Value]:
    return (
        conv_input_grad(g, w, input_shape=x.shape, **attrs),
        conv_kernel_grad(x, g, kernel_shape=w.shape, **attrs),
    )


conv = define(Op(
    name="conv",
    doc="""Convolution (cross-correlation) of `x` `[N, *spatial, C]` with the kernel `w`
    `[*kernel, C / groups, O]`: the input is dilated, then padded by `padding` pairs, and the
    dilated kernel moves by `strides`. Group i of the outputs sees group i of the channels.""",
    kind="contraction",
    type=_conv_type, numpy=_conv_numpy, vjp=_conv_vjp,
    jvp=multilinear("conv"),
    flops=lambda x, w, *, out, **attrs: _flops(out, w),
    onnx=CODE,
    samples=[
        case(f32(N, 5, 5, 2), f32(3, 3, 2, 4), **_geometry(2)),
        case(f32(2, 6, 5, 3), f32(3, 2, 3, 4), **_geometry(2, strides=2, padding=(1, 1))),
        case(f32(2, 7, 7, 4), f32(3, 3, 2, 6), **_geometry(2, kernel_dilation=2, groups=2)),
        case(f32(2, 4, 4, 2), f32(3, 3, 2, 3), **_geometry(2, input_dilation=2, padding=(2, 1))),
        case(f32(N, 9, 3), f32(4, 1, 6), **_geometry(1, strides=3, padding=(0, 2), groups=3)),
        case(f32(1, 4, 4, 4, 2), f32(2, 2, 2, 2, 3), **_geometry(3)),
        case(f32(2, 6, 6, 2), f32(2, 3, 2, 3), **_geometry(2, strides=4, padding=(1, 0),
                                                           input_dilation=3, kernel_dilation=2)),
        case(f16(1, 5, 5, 9), f16(3, 3, 9, 2), **_geometry(2)),
        case(bf16(1, 5, 5, 9), bf16(3, 3, 9, 2), **_geometry(2)),
        case(f32(2, 4, 4, 3), f32(3, 3, 3, 0), **_geometry(2)),
    ],
    rejects=[
        reject(i32(2, 5, 5, 2), i32(3, 3, 2, 4), **_geometry(2),
               error="conv: operand x must be floating point, got i32[2,5,5,2]"),
        reject(f32(2, 5, 5, 2), f32(3, 3, 3, 4), **_geometry(2),
               error="conv: the kernel must take channels / groups and give a multiple of "
                     "groups, got f32[3,3,3,4] with groups=1 for f32[2,5,5,2]"),
        reject(f32(2, 5, 5, 4), f32(3, 3, 2, 3), **_geometry(2, groups=2),
               error="conv: the kernel must take channels / groups and give a multiple of "
                     "groups, got f32[3,3,2,3] with groups=2 for f32[2,5,5,4]"),
        reject(f32(2, 2, 5, 2), f32(3, 3, 2, 4), **_geometry(2),
               error="conv: the window must fit into the padded input, "
                     "got a window of 3 in 2 + 0 + 0"),
        reject(f32(2, 5, 2), f32(3, 3, 2, 4), **_geometry(2),
               error="conv: operands must have one rank, got f32[2,5,2] and f32[3,3,2,4]"),
        reject(f32(2, 5, 5, N), f32(3, 3, 2, 4), **_geometry(2),
               error="conv: operand x must have a fixed size along axis 3, got f32[2,5,5,N]"),
        reject(f32(2, 5, 5, 2), f32(3, 3, 2, 4), strides=(1, 1), groups=1,
               error="conv: attributes must be strides, padding, input_dilation, "
                     "kernel_dilation, groups, got groups, strides"),
        reject(f32(2, 5, 5, 2), f32(3, 3, 2, 4), **_geometry(1),
               error="conv: padding must have 2 entries, got ((0, 0),)"),
        reject(f32(2, 5, 5, 2), f32(3, 3, 2, 4), **_geometry(2, padding=(-1, 0)),
               error="conv: padding must be 0 or more, got (-1, 0)"),
        reject(f32(2, 5, 5, 2), f32(3, 3, 2, 4), **_geometry(2, strides=0),
               error="conv: strides must be 1 or more, got (0, 0)"),
    ],
))  # fmt: skip


def _input_grad_type(
    dy: TensorType, w: TensorType, *, input_shape: Shape, **attrs: Any
) -> TensorType:
    require_float("conv_input_grad", dy=dy, w=w)
    require_same_dtype("conv_input_grad", dy, w)
    x = dy.with_shape(input_shape)
    expected = _result("conv_input_grad", x, w, **attrs)
    if dy != expected:
        raise ShapeError(f"conv_input_grad: operand dy must be {expected}, got {dy}")
    return x


def _input_grad_numpy(
    dy: np.ndarray, w: np.ndarray, *, input_shape: Ints, **attrs: Any
) -> np.ndarray:
    groups, out = attrs["groups"], dy.shape[1:-1]
    columns = _rows(dy, groups) @ _rows(w, groups).swapaxes(1, 2)
    taps = columns.reshape(groups, dy.shape[0], *out, math.prod(w.shape[:-2]), w.shape[-2])
    sizes = [
        int(dilated(d, k - 1))
        for d, k in zip(input_shape[1:-1], attrs["input_dilation"], strict=True)
    ]
    padded = [low + n + high for n, (low, high) in zip(sizes, attrs["padding"], strict=True)]
    total = np.zeros((input_shape[0], *padded, input_shape[-1]), columns.dtype)
    for i, tap in enumerate(np.ndindex(w.shape[:-2])):
        share = np.moveaxis(taps[..., i, :], 0, -2).reshape(*dy.shape[:-1], input_shape[-1])
        total[_tap(tap, out, attrs["strides"], attrs["kernel_dilation"])] += share
    inside = _inside(sizes, attrs["padding"], attrs["input_dilation"])
    return total[inside].astype(dy.dtype, copy=False)


def _input_grad_vjp(
    g: Value, dy: Value, w: Value, *, out: Value, input_shape: Shape, **attrs: Any
) -> tuple[Value, Value]:
    return conv(g, w, **attrs), conv_kernel_grad(g, dy, kernel_shape=w.shape, **attrs)


conv_input_grad = define(Op(
    name="conv_input_grad",
    doc="""The cotangent of the input of a `conv` with these attributes and an input of
    `input_shape`, from the cotangent `dy` of its result; also the transposed convolution.""",
    kind="contraction",
    type=_input_grad_type, numpy=_input_grad_numpy, vjp=_input_grad_vjp,
    jvp=multilinear("conv_input_grad"),
    flops=lambda dy, w, *, out, **attrs: _flops(dy, w),
    onnx=CODE,
    samples=[
        case(f32(N, 3, 3, 4), f32(3, 3, 2, 4), input_shape=(N, 5, 5, 2), **_geometry(2)),
        case(f32(2, 3, 3, 4), f32(3, 2, 3, 4), input_shape=(2, 6, 5, 3),
             **_geometry(2, strides=2, padding=(1, 1))),
        case(f32(2, 3, 3, 6), f32(3, 3, 2, 6), input_shape=(2, 7, 7, 4),
             **_geometry(2, kernel_dilation=2, groups=2)),
        case(f32(2, 8, 8, 3), f32(3, 3, 2, 3), input_shape=(2, 4, 4, 2),
             **_geometry(2, input_dilation=2, padding=(2, 1))),
        case(f32(N, 3, 6), f32(4, 1, 6), input_shape=(N, 9, 3),
             **_geometry(1, strides=3, padding=(0, 2), groups=3)),
        case(bf16(1, 3, 3, 2), bf16(3, 3, 9, 2), input_shape=(1, 5, 5, 9), **_geometry(2)),
    ],
    rejects=[
        reject(f32(2, 4, 3, 4), f32(3, 3, 2, 4), input_shape=(2, 5, 5, 2), **_geometry(2),
               error="conv_input_grad: operand dy must be f32[2,3,3,4], got f32[2,4,3,4]"),
        reject(f32(2, 3, 3, 4), f16(3, 3, 2, 4), input_shape=(2, 5, 5, 2), **_geometry(2),
               error="conv_input_grad: operands must have one dtype, "
                     "got f32[2,3,3,4] and f16[3,3,2,4]"),
    ],
))  # fmt: skip


def _kernel_grad_type(
    x: TensorType, dy: TensorType, *, kernel_shape: Shape, **attrs: Any
) -> TensorType:
    require_float("conv_kernel_grad", x=x, dy=dy)
    require_same_dtype("conv_kernel_grad", x, dy)
    w = x.with_shape(kernel_shape)
    expected = _result("conv_kernel_grad", x, w, **attrs)
    if dy != expected:
        raise ShapeError(f"conv_kernel_grad: operand dy must be {expected}, got {dy}")
    return w


def _kernel_grad_numpy(
    x: np.ndarray, dy: np.ndarray, *, kernel_shape: Ints, **attrs: Any
) -> np.ndarray:
    groups = attrs["groups"]
    columns = _columns(x, kernel_shape[:-2], dy.shape[1:-1], **attrs)
    product: np.ndarray = columns.swapaxes(1, 2) @ _rows(dy, groups)
    return product.swapaxes(0, 1).reshape(kernel_shape).astype(x.dtype, copy=False)


def _kernel_grad_vjp(
    g: Value, x: Value, dy: Value, *, out: Value, kernel_shape: Shape, **attrs: Any
) -> tuple[Value, Value]:
    return conv_input_grad(dy, g, input_shape=x.shape, **attrs), conv(x, g, **attrs)


conv_kernel_grad = define(Op(
    name="conv_kernel_grad",
    doc="""The cotangent of the kernel, of `kernel_shape`, of a `conv` of `x` with these
    attributes, from the cotangent `dy` of its result.""",
    kind="contraction",
    type=_kernel_grad_type, numpy=_kernel_grad_numpy, vjp=_kernel_grad_vjp,
    jvp=multilinear("conv_kernel_grad"),
    flops=lambda x, dy, *, out, **attrs: _flops(dy, out),
    onnx=CODE,
    samples=[
        case(f32(N, 5, 5, 2), f32(N, 3, 3, 4), kernel_shape=(3, 3, 2, 4), **_geometry(2)),
        case(f32(2, 6, 5, 3), f32(2, 3, 3, 4), kernel_shape=(3, 2, 3, 4),
             **_geometry(2, strides=2, padding=(1, 1))),
        case(f32(2, 7, 7, 4), f32(2, 3, 3, 6), kernel_shape=(3, 3, 2, 6),
             **_geometry(2, kernel_dilation=2, groups=2)),
        case(f32(2, 4, 4, 2), f32(2, 8, 8, 3), kernel_shape=(3, 3, 2, 3),
             **_geometry(2, input_dilation=2, padding=(2, 1))),
        case(f32(N, 9, 3), f32(N, 3, 6), kernel_shape=(4, 1, 6),
             **_geometry(1, strides=3, padding=(0, 2), groups=3)),
        case(bf16(1, 5, 5, 9), bf16(1, 3, 3, 2), kernel_shape=(3, 3, 9, 2), **_geometry(2)),
    ],
    rejects=[
        reject(f32(2, 5, 5, 2), f32(3, 3, 3, 4), kernel_shape=(3, 3, 2, 4), **_geometry(2),
               error="conv_kernel_grad: operand dy must be f32[2,3,3,4], got f32[3,3,3,4]"),
        reject(i32(2, 5, 5, 2), i32(2, 3, 3, 4), kernel_shape=(3, 3, 2, 4), **_geometry(2),
               error="conv_kernel_grad: operand x must be floating point, got i32[2,5,5,2]"),
    ],
))  # fmt: skip
