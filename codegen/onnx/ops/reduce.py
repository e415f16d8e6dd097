"""Reductions, run on a value in the order in which it is held."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ....ir.graph import Node, Value
from ....ir.sugar import full
from ....ir.types import Dim, TensorType, i32, i64, size_of, u8, u32
from ..loops import scan
from ..lowering import Lowering, Tensor, compose, lowering

_OPS = {
    "reduce_sum": "ReduceSum", "reduce_prod": "ReduceProd", "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin", "reduce_any": "ReduceMax", "reduce_all": "ReduceMin",
}  # fmt: skip


@lowering(*_OPS)
def _reduce(ctx: Lowering, node: Node) -> Tensor:
    (x,), axes, out = node.inputs, node.attrs["axes"], node.output
    if any(x.shape[a] == 0 for a in axes):
        start = node.op.evaluate(np.zeros([0], x.dtype.numpy), axes=(0,))[0]
        return Tensor(ctx.e.const(start.astype(out.dtype.numpy)), out.type, (), ())
    if x.dtype.is_integer and node.op.name == "reduce_sum" and not _is_small(ctx, x, axes):
        return _wrapping_sum(ctx, x, axes, out.type)
    if x.dtype.is_integer and node.op.name == "reduce_prod":
        return compose(ctx, node, _product)[0]
    if x.dtype.is_bool and any(isinstance(x.shape[a], Dim) for a in axes):
        return _logic(ctx, node)
    return reduced(ctx, ctx[x], axes, out.type, _OPS[node.op.name])


def _logic(ctx: Lowering, node: Node) -> Tensor:
    """As numbers: with no element at all, ONNX Runtime refuses to reduce truth values."""
    t, out = ctx[node.inputs[0]], node.output
    numbers = replace(t, name=ctx.e.cast(t.name, u8), type=t.type.with_dtype(u8))
    wide = out.type.with_dtype(u8)
    found = reduced(ctx, numbers, node.attrs["axes"], wide, _OPS[node.op.name])
    return replace(found, name=ctx.e.cast(found.name, out.dtype), type=out.type)


def _is_small(ctx: Lowering, x: Value, axes: tuple[int, ...]) -> bool:
    """Whether a sum fits into i32, in which ReduceSum then computes exactly: it saturates."""
    node = x.node
    source = node.inputs[0].dtype if node is not None and node.op.name == "cast" else x.dtype
    if source.is_bool:
        return x.dtype.bits >= 32
    size = size_of(x.shape[a] for a in axes)
    if source.is_float or not isinstance(size, int) or x.dtype.bits < source.bits + 8:
        return False
    return bool(size < 2 ** (31 - source.bits))


def _wrapping_sum(ctx: Lowering, x: Value, axes: tuple[int, ...], type: TensorType) -> Tensor:
    """A product with ones: ONNX Runtime's MatMul of integers wraps around as it should."""
    t, e = ctx.whole(x), ctx.e
    kept = tuple(a for a in t.order if a not in axes)
    order = kept + tuple(a for a in t.order if a in axes)
    sizes = tuple(x.shape[a] for a in kept)
    count = size_of(x.shape[a] for a in axes)
    rows = ctx.reshape(ctx.full(t, order), (size_of(sizes), count))
    wide = x.dtype if x.dtype in (i64, u32) else i32
    ones = e.op("Expand", e.const(1, wide), ctx.sizes((count, 1)))
    total = e.op("MatMul", e.cast(rows, wide), ones)
    name = e.cast(ctx.reshape(total, sizes), type.dtype)
    return ctx.held(name, type, tuple(a - sum(b < a for b in axes) for a in kept))


def _product(x: Value, *, axes: tuple[int, ...]) -> Value:
    """A scan over the elements: ReduceProd of integers saturates."""
    kept = tuple(a for a in range(x.ndim) if a not in axes)
    sizes = tuple(x.shape[a] for a in kept)
    count = size_of(x.shape[a] for a in axes)
    xs = x.transpose(*axes, *kept).reshape((count, *sizes))
    return scan(lambda total, x: (total * x,), [full(sizes, 1, x.dtype)], [xs])[0]


def reduced(ctx: Lowering, t: Tensor, axes: tuple[int, ...], type: TensorType, op: str) -> Tensor:
    """Reduce over the value's `axes` without moving the ones that stay."""
    if not set(axes) <= t.axes:
        t = ctx.whole(t)
    positions = [i for i, a in enumerate(t.order) if a in axes]
    name = ctx.e.op(op, t.name, ctx.e.ints(*positions), keepdims=0)
    return _without(t, axes, name, type)


def _without(t: Tensor, axes: tuple[int, ...], name: str, type: TensorType) -> Tensor:
    kept = [i for i, a in enumerate(t.order) if a not in axes]
    order = tuple(t.order[i] - sum(a < t.order[i] for a in axes) for i in kept)
    return Tensor(name, type, order, tuple(t.shape[i] for i in kept))


@lowering("argmax", "argmin")
def _argmax(ctx: Lowering, node: Node) -> Tensor:
    axis, out = node.attrs["axis"], node.output
    t = ctx.whole(node.inputs[0])
    op = "ArgMax" if node.op.name == "argmax" else "ArgMin"
    position = ctx.e.op(op, t.name, dtype=i64, axis=t.order.index(axis), keepdims=0)
    return _without(t, (axis,), ctx.e.cast(position, out.dtype), out.type)
