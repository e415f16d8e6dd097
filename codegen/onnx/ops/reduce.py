"""Reductions, run on a value in the order in which it is held."""

from __future__ import annotations

import numpy as np

from ....ir.graph import Node
from ....ir.types import TensorType, i64
from ..lowering import Lowering, Tensor, lowering

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
    return reduced(ctx, ctx[x], axes, out.type, _OPS[node.op.name])


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
