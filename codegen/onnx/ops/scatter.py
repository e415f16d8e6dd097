"""Writing at computed positions.

All of it is ScatterElements, although ScatterND is ten times as fast: ONNX Runtime 1.31 runs
ScatterND on several threads without a lock, so that two updates of one place lose one another.
Found with `reduction="add"`, all indices equal and two threads: 40 of 40 sums were wrong; with
`reduction="none"` the last update did not always stay. ScatterElements runs on one thread. Flat
data and updates take it half the time that it needs along the first axis.
"""

from __future__ import annotations

from ....ir.graph import Node
from ....ir.types import boolean, f32, i64, size_of
from ..lowering import Lowering, Tensor, lowering
from .constant import count_to

_REDUCTIONS = {"set": "none", "max": "max", "min": "min", "prod": "mul", "add": "add"}


@lowering("scatter")
def _scatter(ctx: Lowering, node: Node) -> Tensor:
    x, indices, _ = node.inputs
    e = ctx.e
    at = e.cast(ctx.full(indices), i64)
    size = ctx.size(x.shape[node.attrs["axis"]])
    is_inside = e.op(
        "And",
        e.op("GreaterOrEqual", at, e.const(0, i64), dtype=boolean),
        e.op("Less", at, size if indices.ndim else e.squeeze(size, [0]), dtype=boolean),
    )
    return scattered(ctx, node, at, node.attrs["combine"], is_inside)


def accumulated(ctx: Lowering, data: str, at: str, rows: str, combine: str, axis: int) -> str:
    """ScatterElements, in a type in which it can reduce; sums and products of f16 run in f32."""
    e = ctx.e
    dtype = e.dtypes[data]
    if combine == "set":
        return e.op("ScatterElements", data, at, rows, axis=axis)
    wide = f32 if dtype.is_float and dtype.bits == 16 else dtype
    found = e.op(
        "ScatterElements", e.cast(data, wide), at, e.cast(rows, wide), axis=axis,
        reduction=_REDUCTIONS[combine],
    )  # fmt: skip
    return e.cast(found, dtype)


def scattered(ctx: Lowering, node: Node, at: str, combine: str, is_inside: str) -> Tensor:
    """Slices of the updates put at their indices along an axis of the data.

    Where `is_inside` is given and false, an update goes to an element behind the others, which is
    cut off at the end.
    """
    (x, indices, updates), axis, e = node.inputs, node.attrs["axis"], ctx.e
    if 0 in x.shape or 0 in updates.shape:
        return ctx[x]
    order = (axis, *(a for a in range(x.ndim) if a != axis))
    positions = tuple(range(axis, axis + indices.ndim))
    rest = tuple(a for a in range(updates.ndim) if a not in positions)
    data = e.op("Reshape", ctx.full(x, order), e.ints(-1))
    rows = e.op("Reshape", ctx.full(updates, positions + rest), e.ints(-1))
    places = _flat(ctx, node, at, is_inside)
    if is_inside:
        data = e.op("Concat", data, e.const([0], x.dtype), axis=0)
    name = accumulated(ctx, data, places, rows, combine, 0)
    if is_inside:
        name = e.op("Slice", name, e.ints(0), e.ints(-1), e.ints(0))
    return ctx.held(ctx.reshape(name, tuple(x.shape[a] for a in order)), node.output.type, order)


def _flat(ctx: Lowering, node: Node, at: str, is_inside: str) -> str:
    """The position of each element of the updates in the flat data."""
    x, axis, e = node.inputs[0], node.attrs["axis"], ctx.e
    width = size_of(d for a, d in enumerate(x.shape) if a != axis)
    column = e.op("Reshape", at, e.ints(-1, 1))
    columns = count_to(ctx, width)
    places = e.op("Add", e.op("Mul", column, ctx.size(width)), columns)
    if is_inside:
        kept = e.op("Reshape", is_inside, e.ints(-1, 1))
        places = e.where(kept, places, ctx.size(size_of(x.shape)))
    return e.op("Reshape", places, e.ints(-1))
