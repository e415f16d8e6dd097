"""Tensors from nothing or from sizes: constants, counting, random bits."""

from __future__ import annotations

import math

import numpy as np

from ..errors import DTypeError
from ..op import CODE, Op, Reason, case, define, reject
from ..types import DType, Shape, TensorType, bf16, boolean, f32, i32, type_of, u32
from .common import DISCRETE, N, require_axis

_NO_OPERANDS = Reason("it has no operands")


def _constant_type(*, value: np.ndarray) -> TensorType:
    if not isinstance(value, np.ndarray):
        raise DTypeError(f"constant: value must be a NumPy array, got {type(value).__name__}")
    return type_of(value)


def _constant_numpy(*, value: np.ndarray) -> np.ndarray:
    return value


constant = define(Op(
    name="constant",
    doc="The array `value`.",
    kind="constant",
    type=_constant_type, numpy=_constant_numpy, vjp=_NO_OPERANDS,
    onnx=CODE,
    samples=[
        case(value=np.arange(6, dtype=np.float32).reshape(2, 3)), case(value=np.asarray(True)),
        case(value=np.asarray([1.5, -2.0]).astype(bf16.numpy)),
        case(value=np.zeros((0, 3), np.int32)), case(value=np.asarray([np.inf, -np.inf, 0.1])),
    ],
    rejects=[reject(value=1.0, error="constant: value must be a NumPy array, got float")],
))  # fmt: skip


def _iota_type(*, shape: Shape, axis: int, dtype: DType) -> TensorType:
    result = TensorType(dtype, tuple(shape))
    if dtype.is_bool:
        raise DTypeError(f"iota: dtype must be a number, got {dtype}")
    require_axis("iota", axis, result)
    return result


def _iota_numpy(*, shape: tuple[int, ...], axis: int, dtype: DType) -> np.ndarray:
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    return np.broadcast_to(np.arange(shape[axis]).astype(dtype.numpy).reshape(along), shape)


iota = define(Op(
    name="iota",
    doc="Each element's index along `axis`: 0, 1, 2, ...",
    kind="index",
    type=_iota_type, numpy=_iota_numpy, vjp=_NO_OPERANDS,
    onnx=CODE,
    samples=[
        case(shape=(4, 3), axis=0, dtype=i32), case(shape=(4, 3), axis=1, dtype=f32),
        case(shape=(5,), axis=0, dtype=u32), case(shape=(2, 9), axis=1, dtype=bf16),
    ],
    rejects=[
        reject(shape=(4,), axis=1, dtype=f32,
               error="iota: axis must be in [0, 1), got 1 for f32[4]"),
        reject(shape=(4,), axis=0, dtype=boolean, error="iota: dtype must be a number, got bool"),
    ],
))  # fmt: skip


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_LOW_32 = np.uint64(0xFFFFFFFF)


def threefry(key: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """Threefry2x32 with 20 rounds, by the letter of the paper; u32 arithmetic wraps.

    Parameters
    ----------
    key : ndarray
        Two words, below 2**32.
    counters : ndarray
        Shape `[2, ...]`, words below 2**32.

    Returns
    -------
    ndarray
        The two words of each block, u32 of the shape of `counters`.

    References
    ----------
    Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    k0, k1 = np.asarray(key).astype(np.uint32)
    words = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = np.asarray(counters).astype(np.uint32)
    with np.errstate(over="ignore"):
        x0, x1 = x0 + words[0], x1 + words[1]
        for group in range(5):
            for rotation in _ROTATIONS[group % 2]:
                x0 = x0 + x1
                rotated = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
                x1 = rotated ^ x0
            x0 = x0 + words[(group + 1) % 3]
            x1 = x1 + (words[(group + 2) % 3] + np.uint32(group + 1))
    return np.stack([x0, x1])


def _rng_bits_type(key: TensorType, *, shape: Shape) -> TensorType:
    if key not in (u32(2), u32(3)):
        raise DTypeError(f"rng_bits: operand key must be u32[2] or u32[3], got {key}")
    return TensorType(u32, tuple(shape))


_BLOCK = 1 << 14  # counters at a time: what they need stays in the cache


def _rng_bits_numpy(key: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    bits = np.empty(size, np.uint32)
    stream = np.uint64(key[2]) if key.size > 2 else np.uint64(0)
    for start in range(0, size, _BLOCK):
        index = np.arange(start, min(start + _BLOCK, size), dtype=np.uint64)
        counters = np.stack([index & _LOW_32, (index >> np.uint64(32)) + stream])
        bits[start : start + _BLOCK] = threefry(key[:2], counters & _LOW_32)[0]
    return bits.reshape(shape)


rng_bits = define(Op(
    name="rng_bits",
    doc="""Random bits: the element of flat row-major index i is word 0 of Threefry2x32-20
    with the first two words of `key` and the counter (i modulo 2**32, i // 2**32); a third word
    of `key`, the stream, is added to word 1 of the counter.""",
    kind="index",
    type=_rng_bits_type, numpy=_rng_bits_numpy, vjp=DISCRETE,
    onnx=CODE,
    samples=[case(u32(2), shape=(3, 5)), case(u32(2), shape=()), case(u32(2), shape=(0, 2)),
             case(u32(3), shape=(4, 3))],
    rejects=[reject(u32(4), shape=(4,),
                    error="rng_bits: operand key must be u32[2] or u32[3], got u32[4]")],
))  # fmt: skip


def _dimension_size_type(x: TensorType, *, axis: int) -> TensorType:
    require_axis("dimension_size", axis, x)
    return i32()


def _dimension_size_numpy(x: np.ndarray, *, axis: int) -> np.ndarray:
    return np.asarray(x.shape[axis], dtype=np.int32)


dimension_size = define(Op(
    name="dimension_size",
    doc="The size of `x` along `axis` as a scalar; a constant once the size is fixed.",
    kind="index",
    type=_dimension_size_type, numpy=_dimension_size_numpy, vjp=DISCRETE,
    onnx=CODE,
    samples=[case(f32(N, 3), axis=0), case(f32(N, 3), axis=1), case(i32(2, 3, 4), axis=2)],
    rejects=[
        reject(f32(3), axis=1, error="dimension_size: axis must be in [0, 1), got 1 for f32[3]"),
    ],
))  # fmt: skip
