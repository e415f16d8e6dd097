"""Images: colours, borders, patches, filters and how alike two are.

Images are `(batch, height, width, channels)` or a single one without the batch, or have the
channels before height and width with `data_format="channels_first"`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, DTypeError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Size, f32, f64
from .. import config
from ..operation import operation
from .convolution import per_axis, window_padding
from .core import floating, tensor
from .spatial import windows


def batched(
    op: str, images: Value, data_format: str | None, function: Callable[[Value], Value],
    spatial: int = 2,
) -> Value:  # fmt: skip
    """Run `function` on a batch with channels last, whatever the layout; back into that layout."""
    if images.ndim not in (spatial + 1, spatial + 2):
        raise ShapeError(
            f"{op}: images must have rank {spatial + 1} or {spatial + 2}, got {images.type}"
        )
    single = images.ndim == spatial + 1
    x = sugar.reshape(images, (1, *images.shape)) if single else images
    first = config.standardize_data_format(data_format) == "channels_first"
    last = spatial + 1
    x = sugar.transpose(x, (0, *range(2, last + 1), 1)) if first else x
    result = function(x)
    result = sugar.transpose(result, (0, last, *range(1, last))) if first else result
    return sugar.reshape(result, result.shape[1:]) if single else result


# --- colours ---------------------------------------------------------------------------------


@operation
def rgb_to_grayscale(images: Any, data_format: str | None = None) -> Any:
    """The luminance `0.2989 R + 0.587 G + 0.114 B` as a single channel."""
    x = tensor(images)
    channels = _channels("rgb_to_grayscale", x, data_format, (1, 3))

    def run(x: Value) -> Value:
        weights = constant(np.array([[0.2989], [0.5870], [0.1140]]), floating(x).dtype)
        return sugar.cast(sugar.matmul(floating(x), weights), x.dtype)

    return x if channels == 1 else batched("rgb_to_grayscale", x, data_format, run)


def _channels(op: str, x: Value, data_format: str | None, legal: Sequence[int]) -> int:
    if x.ndim not in (3, 4):
        raise ShapeError(f"{op}: images must have rank 3 or 4, got {x.type}")
    last = config.standardize_data_format(data_format) == "channels_last"
    channels = x.shape[-1 if last else -3]
    if channels not in legal:
        raise ShapeError(f"{op}: images must have {legal[-1]} channels, got {x.type}")
    return int(channels)


def _planes(op: str, images: Any, data_format: str | None, function: Callable[..., Any]) -> Value:
    """Run a function of three planes that returns three."""
    x = tensor(images)
    if not x.dtype.is_float:
        raise DTypeError(f"{op}: images must be floating point, got {x.type}")
    _channels(op, x, data_format, (3,))

    def run(x: Value) -> Value:
        found = function(*(x[..., i : i + 1] for i in range(3)))
        return primitive("concat")(*found, axis=3)

    return batched(op, x, data_format, run)


@operation
def rgb_to_hsv(images: Any, data_format: str | None = None) -> Any:
    """Red, green and blue in [0, 1] as hue, saturation and value in [0, 1]."""
    return _planes("rgb_to_hsv", images, data_format, _hsv)


def _hsv(red: Value, green: Value, blue: Value) -> tuple[Value, Value, Value]:
    least = float(ml_dtypes.finfo(red.dtype.numpy).eps)  # type: ignore[no-untyped-call]
    r, g, b = (sugar.select(sugar.unary("abs", c) < least, 0, c) for c in (red, green, blue))
    value = sugar.binary("maximum", sugar.binary("maximum", r, g), b)
    spread = value - sugar.binary("minimum", sugar.binary("minimum", r, g), b)
    saturation = sugar.select(value > 0, spread / sugar.select(value > 0, value, 1), 0)
    unit = 1 / (sugar.select(spread > 0, spread, 1) * 6)
    by_green, by_blue = unit * (b - r) + 2 / 6, unit * (r - g) + 4 / 6
    hue = sugar.select(sugar.binary("equal", value, g), by_green, by_blue)
    hue = sugar.select(sugar.binary("equal", value, r), unit * (g - b), hue)
    hue = sugar.select(spread > 0, hue, 0)
    return sugar.select(hue < 0, hue + 1, hue), saturation, value


@operation
def hsv_to_rgb(images: Any, data_format: str | None = None) -> Any:
    """Hue, saturation and value in [0, 1] as red, green and blue in [0, 1]."""
    return _planes("hsv_to_rgb", images, data_format, _rgb)


def _rgb(hue: Value, saturation: Value, value: Value) -> tuple[Value, ...]:
    turn = sugar.binary("remainder", hue, 1.0) * 6
    shares = (sugar.unary("abs", turn - 3) - 1, 2 - sugar.unary("abs", turn - 2),
              2 - sugar.unary("abs", turn - 4))  # fmt: skip
    return tuple(
        value * (1 - saturation + saturation * sugar.binary("minimum", sugar.unary("relu", s), 1.0))
        for s in shares
    )


# --- borders ---------------------------------------------------------------------------------


@operation
def pad_images(
    images: Any, top_padding: int | None = None, left_padding: int | None = None,
    bottom_padding: int | None = None, right_padding: int | None = None,
    target_height: int | None = None, target_width: int | None = None,
    data_format: str | None = None,
) -> Any:  # fmt: skip
    """Zeros around images; of top, bottom and target height two are given, and so for the width."""

    def run(x: Value) -> Value:
        top, bottom = _border(
            "pad_images", "height", top_padding, bottom_padding, target_height, x.shape[1], 1
        )
        left, right = _border(
            "pad_images", "width", left_padding, right_padding, target_width, x.shape[2], 1
        )
        return primitive("pad")(
            x, low=(0, top, left, 0), high=(0, bottom, right, 0), interior=(0,) * 4, value=0.0
        )

    return batched("pad_images", tensor(images), data_format, run)


@operation
def crop_images(
    images: Any, top_cropping: int | None = None, left_cropping: int | None = None,
    bottom_cropping: int | None = None, right_cropping: int | None = None,
    target_height: int | None = None, target_width: int | None = None,
    data_format: str | None = None,
) -> Any:  # fmt: skip
    """A part of images; of top, bottom and target height two are given, and so for the width."""

    def run(x: Value) -> Value:
        height, width = int(x.shape[1]), int(x.shape[2])
        top, bottom = _border(
            "crop_images", "height", top_cropping, bottom_cropping, target_height, height, -1
        )
        left, right = _border(
            "crop_images", "width", left_cropping, right_cropping, target_width, width, -1
        )
        return x[:, top : height - bottom, left : width - right]

    return batched("crop_images", tensor(images), data_format, run)


def _border(
    op: str, what: str, before: int | None, after: int | None, target: int | None, size: Size,
    sign: int,
) -> tuple[int, int]:  # fmt: skip
    """What is added (`sign` 1) or taken away (-1) at both ends of an axis."""
    if [before, after, target].count(None) != 1:
        raise ArgumentError(
            f"{op}: two of before, after and target {what} must be given, "
            f"got {before}, {after} and {target}"
        )
    total = None if target is None else sign * (target - int(size))
    if before is None:
        assert total is not None
        assert after is not None
        before = total - after
    if after is None:
        assert total is not None
        after = total - before
    if before < 0 or after < 0 or (sign < 0 and before + after > int(size)):
        raise ArgumentError(
            f"{op}: {what} must not be left by less than nothing, got {before} before and {after} "
            f"after {size}"
        )
    return int(before), int(after)


# --- patches ---------------------------------------------------------------------------------


@operation
def extract_patches(
    images: Any, size: Any, strides: Any = None, dilation_rate: Any = 1, padding: str = "valid",
    data_format: str | None = None,
) -> Any:  # fmt: skip
    """Each window of the images as the channels of one pixel.

    Parameters
    ----------
    size : int, or two ints; three for volumes
    strides : int or one for each axis, optional
        Side by side by default.
    dilation_rate : int or one for each axis
    padding : str
        `valid` or `same`.
    """
    spatial = 2 if isinstance(size, int) else len(size)
    if spatial not in (2, 3):
        raise ArgumentError(f"extract_patches: size must be an int, or 2 or 3 of them, got {size}")
    x = tensor(images)
    return _patches(x, size, strides, dilation_rate, padding, data_format, spatial)


@operation
def extract_patches_3d(
    volumes: Any, size: Any, strides: Any = None, dilation_rate: Any = 1, padding: str = "valid",
    data_format: str | None = None,
) -> Any:  # fmt: skip
    """Each window of volumes `(batch, depth, height, width, channels)` as channels of one voxel."""
    return _patches(tensor(volumes), size, strides, dilation_rate, padding, data_format, 3)


def _patches(
    x: Value, size: Any, strides: Any, dilation_rate: Any, padding: str,
    data_format: str | None, spatial: int,
) -> Value:  # fmt: skip
    window = per_axis("extract_patches", "size", size, spatial)
    steps = per_axis("extract_patches", "strides", strides or window, spatial)
    dilation = per_axis("extract_patches", "dilation_rate", dilation_rate, spatial)

    def run(x: Value) -> Value:
        pads = window_padding("extract_patches", padding, x.shape[1:-1], window, steps, dilation)
        low, high = zip((0, 0), *pads, (0, 0), strict=True)
        x = primitive("pad")(x, low=low, high=high, interior=(0,) * x.ndim, value=0.0)
        found = windows(x, range(1, spatial + 1), window, steps, dilation)
        counts, places = range(1, 2 * spatial, 2), range(2, 2 * spatial + 1, 2)
        found = sugar.transpose(found, (0, *counts, *places, found.ndim - 1))
        return sugar.reshape(found, (*found.shape[: spatial + 1], -1))

    return batched("extract_patches", x, data_format, run, spatial)


# --- filters ---------------------------------------------------------------------------------


def filtered(x: Value, kernel: Value, padding: str) -> Value:
    """Every channel of a batch with channels last convolved with one kernel."""
    channels = int(x.shape[-1])
    window = tuple(int(d) for d in kernel.shape)
    pads = window_padding("filter", padding, x.shape[1:-1], window, (1, 1), (1, 1))
    grouped = primitive("broadcast")(kernel, shape=(*window, 1, channels), axes=(0, 1))
    return primitive("conv")(
        x, grouped, strides=(1, 1), padding=pads, input_dilation=(1, 1), kernel_dilation=(1, 1),
        groups=channels,
    )  # fmt: skip


def bell(count: int, sigma: Value) -> Value:
    """`count` weights `exp(-(t / sigma)**2 / 2)` around the middle, of sum 1."""
    distance = constant(np.arange(count) - (count - 1) / 2, sigma.dtype) / sigma
    weights = sugar.unary("exp", distance * distance * -0.5)
    return weights / sugar.reduce("reduce_sum", weights)


@operation
def gaussian_blur(
    images: Any, kernel_size: Any = (3, 3), sigma: Any = (1.0, 1.0), data_format: str | None = None
) -> Any:
    """Images convolved with a Gaussian bell.

    Parameters
    ----------
    kernel_size : pair of ints
        Width and height of the window.
    sigma : pair of floats, or vector tensor
        Standard deviation along the width and the height, in pixels.
    """
    return blurred(floating(images), kernel_size, sigma, data_format)


def blurred(x: Value, kernel_size: Any, sigma: Any, data_format: str | None) -> Value:
    """`gaussian_blur` on a Value."""
    wide, high = per_axis("gaussian_blur", "kernel_size", kernel_size, 2)
    spread = tensor(sigma, x.dtype)
    columns, rows = bell(wide, spread[0]), bell(high, spread[1])
    kernel = sugar.reshape(rows, (-1, 1)) * columns
    return batched("gaussian_blur", x, data_format, lambda x: filtered(x, kernel, "same"))


@operation
def sobel_edges(images: Any, data_format: str | None = None) -> Any:
    """The slopes of a batch of images, `[down, right]` along a new last axis (Sobel's filters)."""
    x = floating(images)
    if x.ndim != 4:
        raise ShapeError(f"sobel_edges: images must have rank 4, got {x.type}")
    right = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    found = []
    for kernel in (right.T, right):
        weights = constant(kernel, x.dtype)
        edges = batched("sobel_edges", x, data_format, lambda x, w=weights: filtered(x, w, "same"))  # type: ignore[misc]
        found.append(sugar.reshape(edges, (*edges.shape, 1)))
    return primitive("concat")(*found, axis=4)


# --- comparison ------------------------------------------------------------------------------


@operation
def ssim(
    image1: Any, image2: Any, max_val: float = 1.0, filter_size: int = 11,
    filter_sigma: float = 1.5, k1: float = 0.01, k2: float = 0.03, data_format: str | None = None,
) -> Any:  # fmt: skip
    """The structural similarity of each pair of images: 1 for equal ones (Wang et al., 2004).

    Parameters
    ----------
    max_val : float
        The range of the pixels.
    filter_size, filter_sigma : int, float
        Window and standard deviation, in pixels, of the bell that weighs the neighbourhood.
    k1, k2 : float
        What keeps quotients of small numbers stable.
    """
    x, y = sugar.common(floating(image1), floating(image2))
    to = tensor(image1).dtype
    spread = sugar.value(filter_sigma, f64 if x.dtype == f64 else f32)
    weights = sugar.cast(bell(filter_size, spread), x.dtype)
    kernel = sugar.reshape(weights, (-1, 1)) * weights
    c1, c2 = (k1 * max_val) ** 2, (k2 * max_val) ** 2

    def local(z: Value) -> Value:
        return batched("ssim", z, data_format, lambda v: filtered(v, kernel, "valid"))

    mx, my = local(x), local(y)
    variance_x, variance_y = local(x * x) - mx * mx, local(y * y) - my * my
    together = local(x * y) - mx * my
    above = (mx * my * 2 + c1) * (together * 2 + c2)
    below = (mx * mx + my * my + c1) * (variance_x + variance_y + c2)
    result = sugar.mean(above / below, tuple(range(x.ndim - 3, x.ndim)))
    return sugar.cast(result, to)


__all__ = [
    "crop_images", "extract_patches", "extract_patches_3d", "gaussian_blur", "hsv_to_rgb",
    "pad_images", "rgb_to_grayscale", "rgb_to_hsv", "sobel_edges", "ssim",
]  # fmt: skip
