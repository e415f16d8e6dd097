"""Blocks and windows of images: unfolded into rows, folded back, moved between depth and space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Size, i32
from .. import config
from ..operation import operation
from .convolution import channels_last, per_axis
from .core import floating, tensor

# --- windows ---------------------------------------------------------------------------------


def windows(
    x: Value, axes: Sequence[int], window: Sequence[int], strides: Sequence[int],
    dilation: Sequence[int],
) -> Value:  # fmt: skip
    """Each of `axes` replaced by two: the number of the window, and the place within it."""
    take = primitive("gather")
    for axis, k, s, d in sorted(zip(axes, window, strides, dilation, strict=True), reverse=True):
        size = int(x.shape[axis])
        count = (size - (k - 1) * d - 1) // s + 1
        if count < 1:
            raise ShapeError(f"windows of {(k - 1) * d + 1} must fit axis {axis}, got {x.type}")
        if k == s and d == 1:  # they lie side by side
            before = (slice(None),) * axis
            shape = (*x.shape[:axis], count, k, *x.shape[axis + 1 :])
            x = sugar.reshape(x[(*before, slice(0, count * k))], shape)
        else:
            positions = np.arange(count)[:, None] * s + np.arange(k) * d
            x = take(x, constant(positions, i32), axis=axis)
    return x


@operation
def unfold(x: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """The windows of images with channels first, each as a column (im2col).

    Parameters
    ----------
    x : tensor of shape `(batch, channels, height, width)`
    kernel_size, dilation, padding, stride : int or pair of ints
        Window, distance of its elements, zeros around the image, distance of windows.

    Returns
    -------
    tensor of shape `(batch, channels * window elements, windows)`
    """
    x = tensor(x)
    if x.ndim != 4:
        raise ShapeError(f"unfold: x must have rank 4, got {x.type}")
    window, dilation, pads, strides = _pairs("unfold", kernel_size, dilation, padding, stride)
    low = (0, 0, *pads)
    x = primitive("pad")(x, low=low, high=low, interior=(0,) * 4, value=0.0)
    found = windows(x, (2, 3), window, strides, dilation)
    found = sugar.transpose(found, (0, 1, 3, 5, 2, 4))
    batch, channels, kh, kw, rows, columns = found.shape
    return sugar.reshape(found, (batch, channels * kh * kw, rows * columns))


@operation
def fold(
    x: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
    stride: Any = 1,
) -> Any:  # fmt: skip
    """Columns of windows added up into images, where `unfold` took them from (col2im).

    Parameters
    ----------
    x : tensor of shape `(batch, channels * window elements, windows)`
    output_size : int or pair of ints
        Height and width of the images.
    kernel_size, dilation, padding, stride : int or pair of ints

    Returns
    -------
    tensor of shape `(batch, channels, height, width)`
    """
    x = tensor(x)
    if x.ndim != 3:
        raise ShapeError(f"fold: x must have rank 3, got {x.type}")
    window, dilation, pads, strides = _pairs("fold", kernel_size, dilation, padding, stride)
    (sizes,) = _pairs("fold", output_size)
    counts = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(sizes, pads, dilation, window, strides, strict=True)
    ]
    elements = window[0] * window[1]
    channels = x.shape[1] // elements
    if x.shape[2] != counts[0] * counts[1]:
        raise ShapeError(f"fold: {counts[0]} x {counts[1]} windows were expected, got {x.type}")
    x = sugar.reshape(x, (x.shape[0], channels, *window, *counts))
    total: Value | None = None
    for i in range(window[0]):
        for j in range(window[1]):
            placed = _spread(x[:, :, i, j], (i, j), sizes, counts, pads, strides, dilation)
            total = placed if total is None else total + placed
    assert total is not None
    return total


def _spread(
    x: Value, at: tuple[int, int], sizes: Sequence[int], counts: Sequence[int],
    pads: Sequence[int], strides: Sequence[int], dilation: Sequence[int],
) -> Value:  # fmt: skip
    """One element of every window at its place in the image."""
    low = [i * d - p for i, d, p in zip(at, dilation, pads, strict=True)]
    high = [size - start - (n - 1) * s - 1
            for size, start, n, s in zip(sizes, low, counts, strides, strict=True)]  # fmt: skip
    between = (0, 0, *(s - 1 for s in strides))
    return primitive("pad")(x, low=(0, 0, *low), high=(0, 0, *high), interior=between, value=0.0)


def _pairs(op: str, *values: Any) -> list[tuple[int, int]]:
    pairs = []
    for value in values:
        pair = (value, value) if isinstance(value, int) else tuple(int(v) for v in value)
        if len(pair) != 2:
            raise ArgumentError(f"{op}: an int or two are expected, got {value!r}")
        pairs.append(pair)
    return pairs


# --- depth and space -------------------------------------------------------------------------


@operation
def depth_to_space(x: Any, block_size: int, data_format: str = "channels_last") -> Any:
    """Channels moved into blocks of `block_size` by `block_size` pixels (pixel shuffle)."""
    x, b = _image("depth_to_space", x), block_size
    last = config.standardize_data_format(data_format) == "channels_last"
    n, h, w, c = x.shape if last else (x.shape[0], *x.shape[2:], x.shape[1])
    depth = _whole("depth_to_space", x, c, b * b)
    if last:
        x = sugar.transpose(sugar.reshape(x, (n, h, w, b, b, depth)), (0, 1, 3, 2, 4, 5))
        return sugar.reshape(x, (n, h * b, w * b, depth))
    x = sugar.transpose(sugar.reshape(x, (n, depth, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return sugar.reshape(x, (n, depth, h * b, w * b))


@operation
def space_to_depth(x: Any, block_size: int, data_format: str = "channels_last") -> Any:
    """Blocks of `block_size` by `block_size` pixels moved into channels (pixel unshuffle)."""
    x, b = _image("space_to_depth", x), block_size
    last = config.standardize_data_format(data_format) == "channels_last"
    n, h, w, c = x.shape if last else (x.shape[0], *x.shape[2:], x.shape[1])
    rows, columns = (_whole("space_to_depth", x, d, b) for d in (h, w))
    if last:
        x = sugar.transpose(sugar.reshape(x, (n, rows, b, columns, b, c)), (0, 1, 3, 2, 4, 5))
        return sugar.reshape(x, (n, rows, columns, c * b * b))
    x = sugar.transpose(sugar.reshape(x, (n, c, rows, b, columns, b)), (0, 1, 3, 5, 2, 4))
    return sugar.reshape(x, (n, c * b * b, rows, columns))


def _image(op: str, x: Any) -> Value:
    x = tensor(x)
    if x.ndim != 4:
        raise ShapeError(f"{op}: x must have rank 4, got {x.type}")
    return x


def _whole(op: str, x: Value, size: Size, parts: int) -> Size:
    if int(size) % parts:
        raise ShapeError(f"{op}: {parts} must divide {size}, got {x.type}")
    return int(size) // parts


# --- adaptive pooling ------------------------------------------------------------------------


@operation
def adaptive_average_pool(inputs: Any, output_size: Any, data_format: str | None = None) -> Any:
    """The means of `output_size` windows along each spatial axis, as equal as can be.

    Window i of an axis of n elements reaches from `floor(i n / m)` to `ceil((i + 1) n / m)`.
    """
    x = floating(inputs)
    sizes = per_axis("adaptive_average_pool", "output_size", output_size, x.ndim - 2)

    def run(x: Value) -> Value:
        for axis, count in enumerate(sizes, start=1):
            weights = np.zeros((int(x.shape[axis]), count))
            for i, (start, stop) in enumerate(_bounds(int(x.shape[axis]), count)):
                weights[start:stop, i] = 1 / (stop - start)
            order = [*(a for a in range(x.ndim) if a != axis), axis]
            found = sugar.matmul(sugar.transpose(x, order), constant(weights, x.dtype))
            x = sugar.transpose(found, [*range(axis), x.ndim - 1, *range(axis, x.ndim - 1)])
        return x

    return channels_last(x, data_format, run)


@operation
def adaptive_max_pool(inputs: Any, output_size: Any, data_format: str | None = None) -> Any:
    """The largest elements of `output_size` windows along each spatial axis.

    Window i of an axis of n elements reaches from `floor(i n / m)` to `ceil((i + 1) n / m)`.
    """
    x = tensor(inputs)
    sizes = per_axis("adaptive_max_pool", "output_size", output_size, x.ndim - 2)

    def run(x: Value) -> Value:
        for axis, count in enumerate(sizes, start=1):
            bounds = _bounds(int(x.shape[axis]), count)
            longest = max(stop - start for start, stop in bounds)
            positions = [[min(start + k, stop - 1) for k in range(longest)]
                         for start, stop in bounds]  # fmt: skip
            x = primitive("gather")(x, constant(np.array(positions), i32), axis=axis)
            x = sugar.reduce("reduce_any" if x.dtype.is_bool else "reduce_max", x, axis + 1)
        return x

    return channels_last(x, data_format, run)


def _bounds(size: int, count: int) -> list[tuple[int, int]]:
    """Where each window starts and ends."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


__all__ = [
    "adaptive_average_pool", "adaptive_max_pool", "depth_to_space", "fold", "space_to_depth",
    "unfold",
]  # fmt: skip
