"""Matrix products."""

from __future__ import annotations

from typing import Any

from ....ir.graph import Node, Value
from ..emit import kernel_dtype
from ..lowering import Lowering, Tensor, lowering, plain


@lowering("matmul")
def _matmul(ctx: Lowering, node: Node) -> Tensor:
    return product(ctx, node, "")


def product(ctx: Lowering, node: Node, bias: str) -> Tensor:
    """`a @ b`, plus an ONNX tensor that broadcasts to it."""
    a, b = node.inputs
    swap_a = bool(node.attrs.get("transpose_a", False))
    swap_b = bool(node.attrs.get("transpose_b", False))
    rank = a.ndim
    if rank == 2 and kernel_dtype("Gemm", a.dtype) is not None:
        left, flip_a = _stored(ctx, a)
        right, flip_b = _stored(ctx, b)
        operands = [left, right, bias] if bias else [left, right]
        swaps: dict[str, Any] = {"transA": int(swap_a != flip_a), "transB": int(swap_b != flip_b)}
        if not bias and not any(swaps.values()):
            return plain(ctx.e.op("MatMul", *operands), node.output.type)
        return plain(ctx.e.op("Gemm", *operands, **swaps), node.output.type)
    batch = tuple(range(rank - 2))
    rows = (rank - 2, rank - 1)
    left = ctx.full(a, batch + (rows[::-1] if swap_a else rows))
    right = ctx.full(b, batch + (rows[::-1] if swap_b else rows))
    name = ctx.e.op("MatMul", left, right)
    return plain(ctx.e.op("Add", name, bias) if bias else name, node.output.type)


def _stored(ctx: Lowering, x: Value) -> tuple[str, bool]:
    """A matrix as it is held, and whether that is its transpose."""
    t = ctx.whole(x)
    return t.name, t.order == (1, 0)
