"""Convolution and pooling of images and sequences.

The primitives want channels last; `data_format="channels_first"` is a transpose before and
after.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.errors import ArgumentError, OpenSizeError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Dim, Size, f64
from .. import config
from ..operation import operation
from .core import floating, tensor

Ints = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]


def per_axis(op: str, name: str, value: Any, rank: int) -> tuple[int, ...]:
    """One int for each spatial axis."""
    values = (value,) * rank if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != rank or any(v < 1 for v in values):
        raise ArgumentError(f"{op}: {name} must be a positive int or {rank} of them, got {value!r}")
    return values


def channels_last(x: Value, data_format: str | None, function: Callable[[Value], Value]) -> Value:
    """Run `function` on a tensor with channels last, whatever the layout of `x`."""
    if config.standardize_data_format(data_format) == "channels_last":
        return function(x)
    last = x.ndim - 1
    result = function(sugar.transpose(x, (0, *range(2, x.ndim), 1)))
    return sugar.transpose(result, (0, last, *range(1, last)))


def window_padding(
    op: str, padding: str, sizes: Sequence[Size], window: tuple[int, ...],
    strides: tuple[int, ...], dilation: tuple[int, ...],
) -> Padding:  # fmt: skip
    """`valid` adds nothing; `same` makes `ceil(size / stride)` windows, the odd one at the end."""
    padding = str(padding).lower()
    if padding == "valid":
        return ((0, 0),) * len(window)
    if padding != "same":
        raise ArgumentError(f"{op}: padding must be 'valid' or 'same', got {padding!r}")
    pairs = []
    for size, k, s, d in zip(sizes, window, strides, dilation, strict=True):
        reach = (k - 1) * d + 1
        if s == 1:
            total = reach - 1
        else:
            total = max((-(-int(size) // s) - 1) * s + reach - int(size), 0)
        pairs.append((total // 2, total - total // 2))
    return tuple(pairs)


def pad_open(
    op: str, x: Value, padding: str, window: Ints, strides: Ints, dilation: Ints, value: float
) -> tuple[Value, Padding]:
    """`x`, and the padding of its windows.

    What `same` adds to an axis of open size depends on that size if windows move by more than 1.
    Then all of it is put around `x`, and nothing is left to add.
    """
    spatial = x.shape[1:-1]
    moved = [isinstance(d, Dim) and s > 1 for d, s in zip(spatial, strides, strict=True)]
    if str(padding).lower() != "same" or not any(moved):
        return x, window_padding(op, padding, spatial, window, strides, dilation)
    low: list[Size] = [0] * x.ndim
    high: list[Size] = [0] * x.ndim
    for axis, (size, k, s, d) in enumerate(zip(spatial, window, strides, dilation, strict=True)):
        reach = (k - 1) * d + 1
        if isinstance(size, int) or s == 1:
            ((low[axis + 1], high[axis + 1]),) = window_padding(
                op, padding, [size], (k,), (s,), (d,)
            )
            continue
        if reach < s:
            raise OpenSizeError(
                f"{op}: padding 'same' with strides {s} beyond the window of {reach} needs a fixed "
                f"size along axis {axis + 1}, got {x.type}",
                hint="give that dimension a size, or pad and use 'valid'",
            )
        total = ((size + s - 1) // s - 1) * s + reach - size
        low[axis + 1] = total // 2
        high[axis + 1] = total - total // 2
    padded = primitive("pad")(
        x, low=tuple(low), high=tuple(high), interior=(0,) * x.ndim, value=value
    )
    return padded, ((0, 0),) * len(window)


def _require_image(op: str, x: Value) -> int:
    if x.ndim < 3:
        raise ShapeError(
            f"{op}: inputs must have a batch axis, spatial axes and channels, got {x.type}"
        )
    return x.ndim - 2


def _convolved(op: str, x: Value, w: Value, **geometry: Any) -> Value:
    """The primitive; integers are computed in float64, which holds their products exactly."""
    if x.dtype.is_float:
        return primitive(op)(x, w, **geometry)
    return sugar.cast(primitive(op)(sugar.cast(x, f64), sugar.cast(w, f64), **geometry), x.dtype)


@operation
def conv(
    inputs: Any, kernel: Any, strides: Any = 1, padding: str = "valid",
    data_format: str | None = None, dilation_rate: Any = 1,
) -> Any:  # fmt: skip
    """Convolution of any number of spatial axes, in as many groups as the channels ask for.

    Parameters
    ----------
    inputs : tensor of shape `(batch, *spatial, channels)`
        Or `(batch, channels, *spatial)` with `data_format="channels_first"`.
    kernel : tensor of shape `(*window, channels / groups, filters)`
        The inputs are converted to its dtype.
    strides, dilation_rate : int or one for each spatial axis
    padding : str
        `valid`, `same`, or `causal` for one spatial axis.
    """
    w = tensor(kernel)
    x = tensor(inputs, w.dtype)
    rank = _require_image("conv", x)
    if w.ndim != rank + 2:
        raise ShapeError(f"conv: kernel must have rank {rank + 2}, got {w.type}")
    strides = per_axis("conv", "strides", strides, rank)
    dilation = per_axis("conv", "dilation_rate", dilation_rate, rank)

    def run(x: Value) -> Value:
        channels, taken = int(x.shape[-1]), int(w.shape[-2])
        if channels % taken:
            raise ShapeError(
                f"conv: channels must be a multiple of the kernel's {taken}, got {x.type}"
            )
        window = tuple(int(d) for d in w.shape[:-2])
        if padding == "causal" and rank == 1:
            pads: Padding = (((window[0] - 1) * dilation[0], 0),)
        else:
            x, pads = pad_open("conv", x, padding, window, strides, dilation, 0.0)
        return _convolved(
            "conv", x, w, strides=strides, padding=pads, input_dilation=(1,) * rank,
            kernel_dilation=dilation, groups=channels // taken,
        )  # fmt: skip

    return channels_last(x, data_format, run)


@operation
def conv_transpose(
    inputs: Any, kernel: Any, strides: Any = 1, padding: str = "valid",
    output_padding: Any = None, data_format: str | None = None, dilation_rate: Any = 1,
) -> Any:  # fmt: skip
    """The transpose of a convolution: what its gradient does to its output.

    Parameters
    ----------
    inputs : tensor of shape `(batch, *spatial, channels)`
        Or `(batch, channels, *spatial)` with `data_format="channels_first"`.
    kernel : tensor of shape `(*window, filters, channels)`
    strides, dilation_rate : int or one for each spatial axis
    padding : str
        `valid` or `same`: sizes become `size * stride`, with `valid` more by what the window
        reaches over.
    output_padding : int or one for each spatial axis, optional
        Elements at the end of each axis, in place of those that `padding` gives.
    """
    x, w = sugar.common(tensor(inputs), tensor(kernel))
    rank = _require_image("conv_transpose", x)
    if w.ndim != rank + 2:
        raise ShapeError(f"conv_transpose: kernel must have rank {rank + 2}, got {w.type}")
    strides = per_axis("conv_transpose", "strides", strides, rank)
    dilation = per_axis("conv_transpose", "dilation_rate", dilation_rate, rank)
    extra = (output_padding,) * rank if isinstance(output_padding, int | None) else output_padding
    reach = [(int(k) - 1) * d + 1 for k, d in zip(w.shape[:-2], dilation, strict=True)]
    pads = tuple(
        _transposed_padding(padding, k, s, e) for k, s, e in zip(reach, strides, extra, strict=True)
    )

    def run(x: Value) -> Value:
        return _transposed(x, w, strides, dilation, reach, pads)

    return channels_last(x, data_format, run)


def _transposed(
    x: Value, w: Value, strides: Ints, dilation: Ints, reach: Ints, pads: Padding
) -> Value:
    """The gradient of a convolution that gives `x`; zeros follow where no window of it reaches.

    `pads` are the zeros around `x` with `strides - 1` zeros between its elements, over which the
    reversed window moves one by one to the same effect: `reach - 1` of them are no padding.
    """
    sizes = [
        ((size - 1) * s + 1 if size != 0 else 0) + low + high - r + 1
        for size, s, r, (low, high) in zip(x.shape[1:-1], strides, reach, pads, strict=True)
    ]
    whole = (x.shape[0], *sizes, w.shape[-2])
    if 0 in x.shape[1:-1]:
        return sugar.full(whole, 0, x.dtype)
    beyond = [
        max(0, high - (r - 1) - (s - 1))
        for s, r, (_, high) in zip(strides, reach, pads, strict=True)
    ]
    cut = zip(reach, pads, strict=True)
    result = _convolved(
        "conv_input_grad", x, w, strides=strides, input_dilation=(1,) * len(strides),
        kernel_dilation=dilation, groups=1,
        padding=tuple((r - 1 - low, max(0, r - 1 - high)) for r, (low, high) in cut),
        input_shape=(x.shape[0], *map(operator.sub, sizes, beyond), w.shape[-2]),
    )  # fmt: skip
    if not any(beyond):
        return result
    none = (0,) * x.ndim
    return primitive("pad")(result, low=none, high=(0, *beyond, 0), interior=none, value=0.0)


def _transposed_padding(
    padding: str, reach: int, stride: int, extra: int | None
) -> tuple[int, int]:
    """Zeros before and after the dilated input, of a window that reaches over `reach` elements."""
    padding = str(padding).lower()
    if padding == "valid":
        more = max(stride - reach, 0) if extra is None else extra
        return reach - 1, reach - 1 + more
    if padding != "same":
        raise ArgumentError(f"conv_transpose: padding must be 'valid' or 'same', got {padding!r}")
    total = stride + reach - 2 if extra is None else reach + reach % 2 - 2 + extra
    before = min(total - total // 2, reach - 1)
    return before, total - before


@operation
def depthwise_conv(
    inputs: Any, kernel: Any, strides: Any = 1, padding: str = "valid",
    data_format: str | None = None, dilation_rate: Any = 1,
) -> Any:  # fmt: skip
    """Every channel convolved with filters of its own; kernel `(*window, channels, multiplier)`."""
    w = tensor(kernel)
    grouped = sugar.reshape(w, (*w.shape[:-2], 1, w.shape[-2] * w.shape[-1]))
    return conv(inputs, grouped, strides, padding, data_format, dilation_rate)


@operation
def separable_conv(
    inputs: Any, depthwise_kernel: Any, pointwise_kernel: Any, strides: Any = 1,
    padding: str = "valid", data_format: str | None = None, dilation_rate: Any = 1,
) -> Any:  # fmt: skip
    """A depthwise convolution, then one of window 1 that mixes the channels."""
    x = depthwise_conv(inputs, depthwise_kernel, strides, padding, data_format, dilation_rate)
    return conv(x, pointwise_kernel, 1, "valid", data_format)


@operation
def max_pool(
    inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid",
    data_format: str | None = None,
) -> Any:  # fmt: skip
    """The largest element of each window of the spatial axes."""
    x = tensor(inputs)
    rank = _require_image("max_pool", x)
    window = per_axis("max_pool", "pool_size", pool_size, rank)
    strides = per_axis("max_pool", "strides", window if strides is None else strides, rank)

    def run(x: Value) -> Value:
        least = -math.inf if x.dtype.is_float else float(np.iinfo(x.dtype.numpy).min)
        x, pads = pad_open("max_pool", x, padding, window, strides, (1,) * rank, least)
        return primitive("max_pool")(x, window=window, strides=strides, padding=pads)

    return channels_last(x, data_format, run)


@operation
def average_pool(
    inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid",
    data_format: str | None = None,
) -> Any:  # fmt: skip
    """The mean of each window of the spatial axes; padding does not count."""
    x = floating(inputs)
    rank = _require_image("average_pool", x)
    window = per_axis("average_pool", "pool_size", pool_size, rank)
    strides = per_axis("average_pool", "strides", window if strides is None else strides, rank)

    def run(x: Value) -> Value:
        padded, pads = pad_open("average_pool", x, padding, window, strides, (1,) * rank, 0.0)
        pooled = primitive("avg_pool")(
            padded, window=window, strides=strides, padding=pads, include_padding=False
        )
        if padded is x:
            return pooled
        ones = sugar.full((1, *x.shape[1:-1], 1), 1, x.dtype)
        padded, _ = pad_open("average_pool", ones, padding, window, strides, (1,) * rank, 0.0)
        share = primitive("avg_pool")(
            padded, window=window, strides=strides, padding=pads, include_padding=False
        )
        return pooled / share

    return channels_last(x, data_format, run)


__all__ = ["average_pool", "conv", "conv_transpose", "depthwise_conv", "max_pool", "separable_conv"]
