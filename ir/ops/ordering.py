"""Order: a value that is not to be used before others are there."""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..types import TensorType, bf16, f32, i32
from .common import N


def _type(*operands: TensorType) -> TensorType:
    if len(operands) < 2:
        raise ArgumentError(
            f"optimization_barrier: there must be x and a token, got {len(operands)} operands"
        )
    return operands[0]


def _numpy(*operands: np.ndarray) -> np.ndarray:
    return operands[0]


def _vjp(g: Value, *operands: Value, out: Value) -> tuple[Value | None, ...]:
    return (g, *[None] * (len(operands) - 1))


def _jvp(tangents: tuple[Value | None, ...], *operands: Value, out: Value) -> tuple[Value | None]:
    return (tangents[0],)


optimization_barrier = define(Op(
    name="optimization_barrier",
    doc="""`x`, the first operand, to be read only after the other operands, the tokens, have
    been computed. What is computed from it is not merged with what is computed from `x`, so that
    a value can be computed a second time rather than kept (`passes/remat.py`).""",
    kind="index",
    type=_type, numpy=_numpy, vjp=_vjp, jvp=_jvp,
    onnx=CODE,
    samples=[case(f32(4, 7), f32(3)), case(i32(N, 3), f32(2, 2), i32()), case(bf16(5), f32(1))],
    rejects=[reject(f32(3), error="optimization_barrier: there must be x and a token, "
                                  "got 1 operands")],
))  # fmt: skip
