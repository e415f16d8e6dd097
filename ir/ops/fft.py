"""Discrete Fourier transforms. The IR has no complex dtype: numbers come as two tensors."""

from __future__ import annotations

import numpy as np

from ..errors import DTypeError, ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import zeros_like
from ..types import TensorType, bf16, f32, f64, i32
from .common import N, require_fixed, require_rank, require_same


def _type(
    real: TensorType, imag: TensorType, *, inverse: bool = False
) -> tuple[TensorType, TensorType]:
    for name, x in (("real", real), ("imag", imag)):
        if x.dtype not in (f32, f64):
            raise DTypeError(f"fft: operand {name} must be f32 or f64, got {x}")
    require_same("fft", real, imag)
    require_rank("fft", "real", real, 1)
    require_fixed("fft", "real", real, (real.ndim - 1,))
    if real.shape[-1] == 0:
        raise ShapeError(f"fft: the last axis must not be empty, got {real}")
    return real, imag


def _numpy(
    real: np.ndarray, imag: np.ndarray, *, inverse: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    x = real.astype(np.float64) + 1j * imag.astype(np.float64)
    y = np.fft.ifft(x) if inverse else np.fft.fft(x)
    return y.real.astype(real.dtype), y.imag.astype(real.dtype)


def _vjp(
    g: tuple[Value | None, Value | None], real: Value, imag: Value, *,
    out: tuple[Value, Value], inverse: bool = False,
) -> tuple[Value, Value]:  # fmt: skip
    """The transform backwards, which divides by the size in one direction only."""
    count = float(int(real.shape[-1]))
    given = [zeros_like(v) if c is None else c for c, v in zip(g, out, strict=True)]
    a, b = fft.all(*given, inverse=not inverse)
    scale = 1.0 / count if inverse else count
    return a * scale, b * scale


fft = define(Op(
    name="fft",
    doc="""The discrete Fourier transform along the last axis of complex numbers given as real
    and imaginary parts: `y[k] = sum_j x[j] exp(-2 pi i j k / n)`; `inverse` is its inverse, with
    the sign of the exponent turned and divided by n. Any n has a fast algorithm.""",
    kind="opaque",
    type=_type, numpy=_numpy, vjp=_vjp,
    onnx=CODE,
    samples=[
        case(f32(8), f32(8)), case(f32(8), f32(8), inverse=True), case(f32(N, 12), f32(N, 12)),
        case(f32(2, 3, 15), f32(2, 3, 15), inverse=True), case(f32(2, 31), f32(2, 31)),
        case(f64(2, 16), f64(2, 16)), case(f32(3, 1), f32(3, 1)), case(f32(0, 4), f32(0, 4)),
        case(f32(2, 210), f32(2, 210)), case(f32(1, 2), f32(1, 2), inverse=True),
        case(f64(2, 94), f64(2, 94), inverse=True),
    ],
    rejects=[
        reject(f32(4), f32(5), error="fft: operands must have one shape, got f32[4] and f32[5]"),
        reject(f32(4), f64(4), error="fft: operands must have one dtype, got f32[4] and f64[4]"),
        reject(i32(4), i32(4), error="fft: operand real must be f32 or f64, got i32[4]"),
        reject(f32(4), bf16(4), error="fft: operand imag must be f32 or f64, got bf16[4]"),
        reject(f32(), f32(), error="fft: operand real must have rank 1 or more, got f32[]"),
        reject(f32(3, 0), f32(3, 0), error="fft: the last axis must not be empty, got f32[3,0]"),
        reject(f32(N), f32(N), error="fft: operand real must have a fixed size along axis 0, "
                                     "got f32[N]"),
    ],
))  # fmt: skip
