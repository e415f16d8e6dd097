"""Matrix products."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..types import TensorType, bf16, boolean, f16, f32, i32
from .common import N, multilinear, require_number, require_rank, require_same_dtype, widen


def _type(
    a: TensorType, b: TensorType, *, transpose_a: bool = False, transpose_b: bool = False
) -> TensorType:
    require_number("matmul", a=a, b=b)
    require_same_dtype("matmul", a, b)
    require_rank("matmul", "a", a, 2)
    require_rank("matmul", "b", b, 2)
    if a.shape[:-2] != b.shape[:-2]:
        raise ShapeError(f"matmul: operands must have one batch shape, got {a} and {b}")
    rows, inner = a.shape[:-3:-1] if transpose_a else a.shape[-2:]
    inner_b, columns = b.shape[:-3:-1] if transpose_b else b.shape[-2:]
    if inner != inner_b:
        raise ShapeError(
            f"matmul: inner dimensions must agree, got {inner} of {a} and {inner_b} of {b}"
        )
    return a.with_shape((*a.shape[:-2], rows, columns))


def _numpy(
    a: np.ndarray, b: np.ndarray, *, transpose_a: bool = False, transpose_b: bool = False
) -> np.ndarray:
    left = a.swapaxes(-1, -2) if transpose_a else a
    right = b.swapaxes(-1, -2) if transpose_b else b
    return np.asarray(widen(left) @ widen(right)).astype(a.dtype, copy=False)


def _vjp(
    g: Value, a: Value, b: Value, *, out: Value,
    transpose_a: bool = False, transpose_b: bool = False,
) -> tuple[Value, Value]:  # fmt: skip
    if transpose_a:
        da = matmul(b, g, transpose_a=transpose_b, transpose_b=True)
    else:
        da = matmul(g, b, transpose_a=False, transpose_b=not transpose_b)
    if transpose_b:
        db = matmul(g, a, transpose_a=True, transpose_b=transpose_a)
    else:
        db = matmul(a, g, transpose_a=not transpose_a, transpose_b=False)
    return da, db


def _flops(
    a: TensorType, b: TensorType, *, out: TensorType,
    transpose_a: bool = False, transpose_b: bool = False,
) -> int:  # fmt: skip
    terms = a.shape[-2 if transpose_a else -1]
    return 2 * int(out.size) * int(terms)


matmul = define(Op(
    name="matmul",
    doc="""Matrix product over the last two axes; the axes before them are a batch and equal.
    `transpose_a` and `transpose_b` swap an operand's last two axes first.""",
    kind="contraction",
    type=_type, numpy=_numpy, vjp=_vjp,
    jvp=multilinear("matmul"),
    flops=_flops,
    onnx=CODE,
    samples=[
        case(f32(4, 5), f32(5, 3)), case(f32(N, 5), f32(5, 3)), case(f32(2, 4, 5), f32(2, 5, 3)),
        case(f32(5, 4), f32(5, 3), transpose_a=True), case(f32(4, 5), f32(3, 5), transpose_b=True),
        case(f32(5, 4), f32(3, 5), transpose_a=True, transpose_b=True),
        case(f32(N, 2, 5), f32(N, 3, 5), transpose_a=False, transpose_b=True),
        case(i32(3, 4), i32(4, 2)), case(f16(3, 40), f16(40, 2)), case(bf16(3, 40), bf16(40, 2)),
        case(f32(3, 0), f32(0, 2)),
    ],
    rejects=[
        reject(f32(4, 5), f32(4, 3),
               error="matmul: inner dimensions must agree, got 5 of f32[4,5] and 4 of f32[4,3]"),
        reject(f32(4, 5), f32(5), error="matmul: operand b must have rank 2 or more, got f32[5]"),
        reject(f32(2, 4, 5), f32(3, 5, 4),
               error="matmul: operands must have one batch shape, got f32[2,4,5] and f32[3,5,4]"),
        reject(f32(4, 5), i32(5, 3),
               error="matmul: operands must have one dtype, got f32[4,5] and i32[5,3]"),
        reject(boolean(4, 5), boolean(5, 3),
               error="matmul: operand a must be a number, got bool[4,5]"),
    ],
))  # fmt: skip
