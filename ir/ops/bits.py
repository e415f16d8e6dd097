"""The bits of numbers."""

from __future__ import annotations

import numpy as np

from ..errors import DTypeError
from ..op import CODE, Op, case, define, reject
from ..scalar import Element, Math
from ..types import DType, TensorType, f16, f32, f64, i8, i16, i32, i64, u8, u32
from .common import DISCRETE, N


def _bitcast_type(x: TensorType, *, dtype: DType) -> TensorType:
    if not isinstance(dtype, DType):
        raise DTypeError(f"bitcast: dtype must be one of the IR's, got {dtype!r}")
    if x.dtype.is_bool or dtype.is_bool or x.dtype.bits != dtype.bits:
        raise DTypeError(f"bitcast: dtype must be a number of as many bits, got {x} to {dtype}")
    if x.dtype.bits == 16 and {x.dtype, dtype} != {i16}:
        raise DTypeError(f"bitcast: numbers of 16 bits are computed as f32, got {x} to {dtype}")
    return x.with_dtype(dtype)


def _bitcast_numpy(x: np.ndarray, *, dtype: DType) -> np.ndarray:
    return np.ascontiguousarray(x).view(dtype.numpy).reshape(x.shape)


def _bitcast_scalar(m: Math, x: Element, *, dtype: DType) -> Element:
    return m.bitcast(x, dtype)


bitcast = define(Op(
    name="bitcast",
    doc="The bits of `x` read as another dtype of the same width: 8, 32 or 64.",
    kind="elementwise",
    type=_bitcast_type, numpy=_bitcast_numpy, vjp=DISCRETE,
    scalar=_bitcast_scalar,
    onnx=CODE,
    samples=[
        case(f32(4, 7), dtype=i32), case(f32(N), dtype=u32), case(i32(5), dtype=f32),
        case(u32(3), dtype=i32), case(f64(5), dtype=i64), case(i64(3), dtype=f64),
        case(i8(9), dtype=u8),
    ],
    rejects=[
        reject(f32(3), dtype=i64,
               error="bitcast: dtype must be a number of as many bits, got f32[3] to i64"),
        reject(f16(3), dtype=i16,
               error="bitcast: numbers of 16 bits are computed as f32, got f16[3] to i16"),
    ],
))  # fmt: skip
