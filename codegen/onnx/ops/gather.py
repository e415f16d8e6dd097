"""Reading and accumulating at computed positions."""

from __future__ import annotations

from ....ir.graph import Node, Value
from ....ir.types import Size, i32, i64
from ..lowering import Lowering, Tensor, lowering, plain
from .scatter import accumulated, scattered


def _clamped(ctx: Lowering, name: str, size: Size) -> str:
    """Indices in [0, size), which ONNX demands, as i32 or i64."""
    e = ctx.e
    if e.dtypes[name] not in (i32, i64):
        name = e.cast(name, i64)
    dtype = e.dtypes[name]
    last = e.op("Sub", ctx.size(size), e.ints(1)) if not isinstance(size, int) else None
    high = e.const(size - 1, dtype) if last is None else e.squeeze(e.cast(last, dtype), [0])
    return e.op("Clip", name, e.const(0, dtype), high)


@lowering("gather")
def _gather(ctx: Lowering, node: Node) -> Tensor:
    (x, indices), axis = node.inputs, node.attrs["axis"]
    at = _clamped(ctx, ctx.full(indices), x.shape[axis])
    return plain(ctx.e.op("Gather", ctx.full(x), at, axis=axis), node.output.type)


@lowering("scatter_add")
def _scatter_add(ctx: Lowering, node: Node) -> Tensor:
    x, indices, _ = node.inputs
    at = _clamped(ctx, ctx.full(indices), x.shape[node.attrs["axis"]])
    return scattered(ctx, node, ctx.e.cast(at, i64), "add", is_inside="")


# --- one index for each element ----------------------------------------------------------------


def _is_empty(value: Value) -> bool:
    return 0 in value.shape


@lowering("take_along")
def _take_along(ctx: Lowering, node: Node) -> Tensor:
    (x, indices), axis, out = node.inputs, node.attrs["axis"], node.output
    if _is_empty(out):
        return Tensor(ctx.e.const(0, out.dtype), out.type, (), ())
    t = ctx.whole(x)
    at = _clamped(ctx, ctx.full(indices, t.order), x.shape[axis])
    name = ctx.e.op("GatherElements", t.name, at, axis=t.order.index(axis))
    return ctx.held(name, out.type, t.order)


@lowering("scatter_add_along")
def _scatter_add_along(ctx: Lowering, node: Node) -> Tensor:
    (x, indices, updates), axis, out = node.inputs, node.attrs["axis"], node.output
    if _is_empty(updates) or _is_empty(x):
        return ctx[x]
    t = ctx.whole(x)
    at = _clamped(ctx, ctx.full(indices, t.order), x.shape[axis])
    rows = ctx.full(updates, t.order)
    name = accumulated(ctx, t.name, at, rows, "add", t.order.index(axis))
    return ctx.held(name, out.type, t.order)
