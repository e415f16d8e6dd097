"""Fourier transforms of pairs (real, imag), and of signals cut into sequences.

There are no complex tensors: a complex one is a tuple of its real and imaginary parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, DTypeError, OpenSizeError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import f32, f64, i32
from ..operation import operation
from .core import floating, tensor

Pair = tuple[Value, Value]


def _pair(name: str, x: Any) -> Pair:
    """The parts of a complex tensor."""
    if not isinstance(x, list | tuple) or len(x) != 2:
        raise ArgumentError(f"{name}: x must be a pair (real, imag) of tensors, got {x!r}")
    real, imag = (tensor(part) for part in x)
    for part in (real, imag):
        if not part.dtype.is_float:
            raise DTypeError(f"{name}: x must be floating point, got {part.type}")
    if real.shape != imag.shape:
        raise ShapeError(
            f"{name}: real and imag must have one shape, got {real.type} and {imag.type}"
        )
    real, imag = sugar.common(real, imag)
    return real, imag


def _transform(x: Pair, *, inverse: bool = False) -> Pair:
    real, imag = primitive("fft").all(*x, inverse=inverse)
    return real, imag


def _length(name: str, x: Value, axis: int = -1) -> int:
    size = x.shape[axis] if x.ndim >= -axis else None
    if not isinstance(size, int):
        raise OpenSizeError(
            f"{name}: x must have a fixed size along axis {axis}, got {x.type}",
            hint="give that dimension a size when the model or function is traced",
        )
    return size


def _resized(x: Value, size: int) -> Value:
    """`x` cut or filled up with zeros along its last axis."""
    missing = size - _length("fft", x)
    if missing <= 0:
        return x[..., :size]
    none = (0,) * x.ndim
    high = (*none[:-1], missing)
    return primitive("pad")(x, low=none, high=high, interior=none, value=0.0)


@operation
def fft(x: Any) -> Any:
    """The discrete Fourier transform along the last axis, which must have a known size.

    Parameters
    ----------
    x : (tensor, tensor)
        Real and imaginary part, f32 or f64.

    Returns
    -------
    (tensor, tensor)
    """
    return _transform(_pair("fft", x))


@operation
def fft2(x: Any) -> Any:
    """The discrete Fourier transform along the last two axes; as `fft`."""
    return _transform_2d(_pair("fft2", x), inverse=False)


@operation
def ifft2(x: Any) -> Any:
    """The inverse of `fft2`, which divides by the number of points."""
    return _transform_2d(_pair("ifft2", x), inverse=True)


def _transform_2d(x: Pair, *, inverse: bool) -> Pair:
    rank = x[0].ndim
    if rank < 2:
        raise ShapeError(f"fft2: x must have rank 2 or more, got {x[0].type}")
    swap = (*range(rank - 2), rank - 1, rank - 2)
    for _ in range(2):
        real, imag = _transform(x, inverse=inverse)
        x = sugar.transpose(real, swap), sugar.transpose(imag, swap)
    return x


@operation
def rfft(x: Any, fft_length: int | None = None) -> Any:
    """The Fourier transform of real numbers along the last axis: the bins 0 ... n // 2.

    Parameters
    ----------
    x : tensor
    fft_length : int, optional
        The n to which the last axis is cut or filled up with zeros.

    Returns
    -------
    (tensor, tensor)
        Real and imaginary part, with n // 2 + 1 bins.
    """
    return _rfft(floating(x), fft_length)


def _rfft(x: Value, fft_length: int | None) -> Pair:
    size = _length("rfft", x) if fft_length is None else int(fft_length)
    if size < 1:
        raise ArgumentError(f"rfft: fft_length must be 1 or more, got {size}")
    x = _resized(x, size)
    real, imag = _transform((x, sugar.zeros_like(x)))
    return real[..., : size // 2 + 1], imag[..., : size // 2 + 1]


@operation
def irfft(x: Any, fft_length: int | None = None) -> Any:
    """The inverse of `rfft`.

    Parameters
    ----------
    x : (tensor, tensor)
        Real and imaginary part of the bins 0, 1, ...
    fft_length : int, optional
        The n that `rfft` had; twice the number of bins less 2 by default. Bins above n // 2 are
        left out, missing ones are 0.
    """
    return _irfft(_pair("irfft", x), fft_length)


def _irfft(x: Pair, fft_length: int | None) -> Value:
    size = 2 * (_length("irfft", x[0]) - 1) if fft_length is None else int(fft_length)
    if size < 1:
        raise ArgumentError(f"irfft: fft_length must be 1 or more, got {size}")
    real, imag = (_resized(part, size // 2 + 1) for part in x)
    mirrored = [part[..., 1 : (size + 1) // 2][..., ::-1] for part in (real, -imag)]
    axis = real.ndim - 1
    whole = [
        primitive("concat")(part, other, axis=axis)
        for part, other in zip((real, imag), mirrored, strict=True)
    ]
    return _transform((whole[0], whole[1]), inverse=True)[0]


# --- sequences -------------------------------------------------------------------------------


@operation
def extract_sequences(x: Any, sequence_length: int, sequence_stride: int) -> Any:
    """Windows of `sequence_length` that slide over the last axis by `sequence_stride`.

    Returns
    -------
    tensor
        `[..., 1 + (n - sequence_length) // sequence_stride, sequence_length]`.
    """
    return _sequences(tensor(x), sequence_length, sequence_stride)


def _positions(count: int, length: int, stride: int) -> Value:
    """Where the elements of the windows lie: `[count, length]`."""
    shape = (count, length)
    first, offset = (primitive("iota")(shape=shape, axis=a, dtype=i32) for a in (0, 1))
    return first * stride + offset


def _sequences(x: Value, length: int, stride: int) -> Value:
    size = _length("extract_sequences", x)
    if not 0 < length <= size or stride < 1:
        raise ArgumentError(
            f"extract_sequences: sequence_length must be in [1, {size}] and sequence_stride "
            f"positive, got {length} and {stride}"
        )
    count = 1 + (size - length) // stride
    return primitive("gather")(x, _positions(count, length, stride), axis=x.ndim - 1)


def _overlapped(x: Value, stride: int) -> Value:
    """Add up windows `[..., count, length]` where they overlap."""
    count, length = _length("istft", x, -2), _length("istft", x)
    total = (count - 1) * stride + length
    zeros = sugar.full((*x.shape[:-2], total), 0, x.dtype)
    return primitive("scatter_add")(zeros, _positions(count, length, stride), x, axis=x.ndim - 2)


def _window(name: str, window: Any, length: int, fft_length: int, x: Value) -> Value:
    """The window of a sequence in the middle of zeros; ones everywhere for None."""
    before = (fft_length - length) // 2
    if window is None:
        return sugar.full((fft_length,), 1, x.dtype)
    if isinstance(window, str):
        if window not in ("hann", "hamming"):
            raise ArgumentError(f"{name}: window must be hann or hamming, got {window!r}")
        share = 0.5 if window == "hann" else 0.54
        turn = 2 * np.pi * np.arange(length) / length
        window = constant(share - (1 - share) * np.cos(turn), x.dtype)
    window = tensor(window, x.dtype)
    if window.shape != (length,):
        raise ArgumentError(f"{name}: window must have shape [{length}], got {window.type}")
    high = fft_length - length - before
    return primitive("pad")(window, low=(before,), high=(high,), interior=(0,), value=0.0)


def _check_lengths(name: str, sequence_length: int, sequence_stride: int, fft_length: int) -> None:
    if not 1 <= sequence_length <= fft_length or sequence_stride < 1:
        raise ArgumentError(
            f"{name}: sequence_length must be in [1, fft_length], sequence_stride positive, got "
            f"sequence_length={sequence_length}, sequence_stride={sequence_stride}, "
            f"fft_length={fft_length}"
        )


@operation
def stft(
    x: Any,
    sequence_length: int,
    sequence_stride: int,
    fft_length: int,
    window: Any = "hann",
    center: bool = True,
) -> Any:
    """The short-time Fourier transform: `rfft` of windows of the last axis.

    Parameters
    ----------
    x : tensor
        f32 or f64, `[..., n]` with known n.
    sequence_length, sequence_stride : int
        Length of the window function and distance from one window to the next.
    fft_length : int
        Points of each transform, `sequence_length` or more; zeros surround the window function.
    window : str or tensor, optional
        "hann", "hamming", weights of shape `[sequence_length]`, or None for ones.
    center : bool
        Mirror `fft_length // 2` points at both ends, so that window t is around t * stride.

    Returns
    -------
    (tensor, tensor)
        Real and imaginary part, `[..., windows, fft_length // 2 + 1]`.
    """
    x = tensor(x)
    if x.dtype not in (f32, f64):
        raise DTypeError(f"stft: x must be f32 or f64, got {x.type}")
    _check_lengths("stft", sequence_length, sequence_stride, fft_length)
    weights = _window("stft", window, sequence_length, fft_length, x)
    if center:
        half = fft_length // 2
        positions = np.pad(np.arange(_length("stft", x)), half, mode="reflect")
        x = primitive("gather")(x, constant(positions, i32), axis=x.ndim - 1)
    return _rfft(_sequences(x, fft_length, sequence_stride) * weights, None)


@operation
def istft(
    x: Any,
    sequence_length: int,
    sequence_stride: int,
    fft_length: int,
    length: int | None = None,
    window: Any = "hann",
    center: bool = True,
) -> Any:
    """The inverse of `stft`: windows are transformed back, weighted, added up where they overlap,
    and divided by the sum of the squared weights.

    Parameters
    ----------
    x : (tensor, tensor)
        Real and imaginary part, `[..., windows, fft_length // 2 + 1]`.
    sequence_length, sequence_stride, fft_length, window, center
        As for `stft`. Without a window the result is `fft_length / sequence_stride` times what
        it is with a window of ones, as in Keras.
    length : int, optional
        Points of the result; all by default.

    Returns
    -------
    tensor
        `[..., n]`.
    """
    real, imag = _pair("istft", x)
    if real.ndim < 2:
        raise ShapeError(f"istft: x must have rank 2 or more, got {real.type}")
    _check_lengths("istft", sequence_length, sequence_stride, fft_length)
    weights = _window("istft", window, sequence_length, fft_length, real)
    windows = _irfft((real, imag), fft_length) * weights
    squares = sugar.broadcast_to(weights * weights, windows.shape[-2:])
    total = _overlapped(squares, sequence_stride)
    signal = _overlapped(windows, sequence_stride)
    signal = signal / sugar.select(total > 1e-10, total, 1)
    if window is None:
        signal = signal * (fft_length / sequence_stride)
    first = fft_length // 2 if center else 0
    if length is not None:
        return signal[..., first : first + length]
    return signal[..., first : _length("istft", signal) - first]


__all__ = ["extract_sequences", "fft", "fft2", "ifft2", "irfft", "istft", "rfft", "stft"]
