"""Matrix products."""

from __future__ import annotations

from typing import Any

from ....ir.graph import Node, Value
from ....ir.types import size_of
from ..lowering import Lowering, Tensor, lowering, plain


@lowering("matmul")
def _matmul(ctx: Lowering, node: Node) -> Tensor:
    if is_empty(node):
        return Tensor(ctx.e.const(0, node.output.dtype), node.output.type, (), ())
    return product(ctx, node, "")


def is_empty(node: Node) -> bool:
    """Whether nothing is summed up: ONNX Runtime 1.31, having fused a Transpose into the MatMul
    of a batch, leaves part of the result as it was in memory."""
    a = node.inputs[0]
    return a.shape[-2 if node.attrs.get("transpose_a", False) else -1] == 0


def product(ctx: Lowering, node: Node, bias: str) -> Tensor:
    """`a @ b`, plus an ONNX tensor that broadcasts to it."""
    a, b = node.inputs
    swap_a = bool(node.attrs.get("transpose_a", False))
    swap_b = bool(node.attrs.get("transpose_b", False))
    rank = a.ndim
    if rank == 2 and a.dtype.is_float:  # Gemm has no kernel for integers, and f64 would round
        flattened = None if swap_a or swap_b else _flattened(ctx, a, b)
        (left, flip_a), (right, flip_b) = flattened or (_stored(ctx, a), _stored(ctx, b))
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


def _flattened(ctx: Lowering, a: Value, b: Value) -> tuple[tuple[str, bool], ...] | None:
    """An image that is held in NCHW and flattened, times a constant: the constant is reordered.

    So the dense layer behind a convolutional part of a model needs no Transpose.
    """
    node, kernel = a.node, b.constant
    if node is None or node.op.name != "reshape" or kernel is None:
        return None
    x = node.inputs[0]
    t, sizes = ctx[x], x.shape[1:]
    if x.ndim < 3 or a.shape != (x.shape[0], size_of(sizes)) or len(t.axes) != x.ndim:
        return None
    if t.order[0] != 0 or t.order == tuple(range(x.ndim)):
        return None
    columns = kernel.shape[-1]
    order = [axis - 1 for axis in t.order[1:]]
    rows = kernel.reshape(*map(int, sizes), columns).transpose(*order, len(sizes))
    name = ctx.names.get(b, "")
    right = ctx.e.const(rows.reshape(-1, columns), name=f"{name}/NCHW" if name else "")
    return (ctx.reshape(t.name, a.shape), False), (right, False)
