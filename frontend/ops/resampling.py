"""Images of another size: resized, or scaled and moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import f64, i32
from .. import config
from ..operation import operation
from .core import floating, saturate_cast, tensor
from .images import batched

_LEAST_WEIGHT = 1000 * float(np.finfo(np.float32).eps)


def _triangle(x: Value) -> Value:
    return sugar.unary("relu", 1 - x)


def _cubic(x: Value) -> Value:
    """Keys' kernel with a = -0.5."""
    near = (x * 1.5 - 2.5) * x * x + 1
    far = ((x * -0.5 + 2.5) * x - 4) * x + 2
    return sugar.select(x >= 2, 0, sugar.select(x >= 1, far, near))


def _lanczos(radius: int) -> Callable[[Value], Value]:
    def kernel(x: Value) -> Value:
        tiny = x <= 1e-3
        safe = sugar.select(tiny, 1, x) * math.pi
        sines = sugar.unary("sin", safe) * sugar.unary("sin", safe / radius) * radius
        inside = sugar.select(tiny, 1, sines / (safe * safe))
        return sugar.select(x > radius, 0, inside)

    return kernel


_KERNELS: dict[str, Callable[[Value], Value]] = {
    "linear": _triangle, "bilinear": _triangle, "trilinear": _triangle, "cubic": _cubic,
    "bicubic": _cubic, "tricubic": _cubic, "lanczos3": _lanczos(3), "lanczos5": _lanczos(5),
}  # fmt: skip
_RESIZE = ("bilinear", "nearest", "lanczos3", "lanczos5", "bicubic")


def _weights(
    size: int, count: int, scale: Value, translation: Value, kernel: Callable[[Value], Value],
    antialias: bool,
) -> Value:  # fmt: skip
    """What each of `count` pixels takes of each of `size`: a matrix whose columns sum to 1."""
    inverse = 1 / scale
    place = (constant(np.arange(count) + 0.5, scale.dtype) - translation) * inverse - 0.5
    width = sugar.binary("maximum", inverse, 1.0) if antialias else sugar.value(1.0, scale.dtype)
    rows = constant(np.arange(size)[:, None], scale.dtype)
    weights = kernel(sugar.unary("abs", place - rows) / width)
    total = sugar.reduce("reduce_sum", weights, 0, keepdims=True)
    enough = sugar.unary("abs", total) > _LEAST_WEIGHT
    inside = (place >= -0.5) & (place <= size - 0.5)
    weights = weights / sugar.select(sugar.binary("equal", total, 0), 1, total)
    return sugar.select(enough & inside, weights, sugar.zeros_like(weights))


def _contracted(x: Value, weights: Value, axis: int) -> Value:
    """`x` times a matrix along an axis."""
    order = [*(i for i in range(x.ndim) if i != axis), axis]
    found = sugar.matmul(sugar.transpose(x, order), weights)
    return sugar.transpose(found, [order.index(i) for i in range(x.ndim)])


@operation
def scale_and_translate(
    images: Any, output_shape: Sequence[int], scale: Any, translation: Any,
    spatial_dims: Sequence[int], method: str, antialias: bool = True,
) -> Any:  # fmt: skip
    """Images enlarged by `scale`, then moved by `translation` pixels of the result.

    Parameters
    ----------
    output_shape : sequence of int
        The whole shape of the result.
    scale, translation : vector tensors
        One number for each of `spatial_dims`.
    method : str
        `linear`, `cubic`, `lanczos3` or `lanczos5`; `bilinear`, `bicubic`, ... mean the same.
    antialias : bool
        Whether shrinking averages over what a pixel covers.
    """
    if method not in _KERNELS:
        raise ArgumentError(
            f"scale_and_translate: method must be one of {', '.join(_KERNELS)}, got {method!r}"
        )
    x = floating(images)
    factors, moves = (
        sugar.cast(floating(v), f64) if x.dtype == f64 else floating(v)
        for v in (scale, translation)
    )
    if len(output_shape) != x.ndim or int(factors.shape[0]) != len(spatial_dims):
        raise ShapeError(
            f"scale_and_translate: output_shape {tuple(output_shape)} must have the rank of "
            f"{x.type}, scale {factors.type} a number for each of {tuple(spatial_dims)}"
        )
    for i, dim in enumerate(spatial_dims):
        axis = sugar.normalize_axis("scale_and_translate", dim, x.ndim)
        weights = _weights(int(x.shape[axis]), int(output_shape[axis]), factors[i], moves[i],
                           _KERNELS[method], antialias)  # fmt: skip
        x = _contracted(x, sugar.cast(weights, x.dtype), axis)
    return x


@operation
def resize(
    images: Any, size: Sequence[int], interpolation: str = "bilinear", antialias: bool = False,
    crop_to_aspect_ratio: bool = False, pad_to_aspect_ratio: bool = False,
    fill_mode: str = "constant", fill_value: float = 0.0, data_format: str | None = None,
) -> Any:  # fmt: skip
    """Images of another height and width.

    Parameters
    ----------
    size : pair of ints
        Height and width of the result.
    interpolation : str
        `nearest`, `bilinear`, `bicubic`, `lanczos3` or `lanczos5`.
    antialias : bool
        Whether shrinking averages over what a pixel covers.
    crop_to_aspect_ratio : bool
        Cut the longer side first, so that nothing is distorted.
    pad_to_aspect_ratio : bool
        Surround the shorter side with `fill_value` first instead.
    fill_mode : str
        `constant`.

    Returns
    -------
    tensor
        Of the dtype of `images`; integers are rounded and kept within their range.
    """
    if interpolation not in _RESIZE:
        raise ArgumentError(
            f"resize: interpolation must be one of {', '.join(_RESIZE)}, got {interpolation!r}"
        )
    if len(size) != 2 or min(size) < 1:
        raise ArgumentError(f"resize: size must be a positive height and width, got {size}")
    if crop_to_aspect_ratio and pad_to_aspect_ratio:
        raise ArgumentError("resize: either crop_to_aspect_ratio or pad_to_aspect_ratio")
    if fill_mode != "constant":
        raise ArgumentError(f"resize: fill_mode must be 'constant', got {fill_mode!r}")
    height, width = int(size[0]), int(size[1])

    def run(x: Value) -> Value:
        if crop_to_aspect_ratio:
            x = _cropped(x, height, width)
        if pad_to_aspect_ratio:
            x = _padded(x, height, width, fill_value)
        for axis, count in ((1, height), (2, width)):
            x = _resized(x, axis, count, interpolation, antialias)
        return x

    x = tensor(images)
    result = batched("resize", x, data_format, run)
    if result.dtype == x.dtype:
        return result
    return saturate_cast(sugar.unary("round", result) if x.dtype.is_integer else result, x.dtype)


def _resized(x: Value, axis: int, count: int, interpolation: str, antialias: bool) -> Value:
    size = int(x.shape[axis])
    if interpolation == "nearest":
        if size == count:
            return x
        place = np.floor((np.arange(count, dtype=np.float32) + np.float32(0.5)) * size / count)
        return primitive("gather")(x, constant(place, i32), axis=axis)
    x = floating(x)
    if size == count:
        return x
    wide = f64 if x.dtype == f64 else config.floatx()
    scale = sugar.value(count / size, wide)
    weights = _weights(
        size, count, scale, sugar.value(0.0, wide), _KERNELS[interpolation], antialias
    )
    return _contracted(x, sugar.cast(weights, x.dtype), axis)


def _cropped(x: Value, height: int, width: int) -> Value:
    """The middle part of the target's ratio."""
    rows, columns = int(x.shape[1]), int(x.shape[2])
    high = max(min(rows, int(columns * height / width)), 1)
    wide = max(min(columns, int(rows * width / height)), 1)
    top, left = (rows - high) // 2, (columns - wide) // 2
    return x[:, top : top + high, left : left + wide]


def _padded(x: Value, height: int, width: int, fill: float) -> Value:
    """The whole within an image of the target's ratio."""
    rows, columns = int(x.shape[1]), int(x.shape[2])
    top = (max(rows, int(columns * height / width)) - rows) // 2
    left = 0 if top > 0 else (max(columns, int(rows * width / height)) - columns) // 2
    around = (0, top, left, 0)
    return primitive("pad")(x, low=around, high=around, interior=(0,) * 4, value=float(fill))


__all__ = ["resize", "scale_and_translate"]
