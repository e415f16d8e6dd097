"""Windows whose place is computed: Slice, and for replacing them Concat."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.graph import Node, Value
from ....ir.types import Shape, Size, i64
from ..lowering import Lowering, Tensor, lowering
from ..window import INT_MAX


def _start(ctx: Lowering, start: Value, size: Size, whole: Size) -> str:
    """Where a window begins, moved inside, as an i64 vector of one element."""
    e = ctx.e
    at = e.unsqueeze(e.cast(ctx.full(start), i64), [0])
    last = ctx.size(whole - size)
    return e.op("Min", e.op("Max", at, e.ints(0)), last)


def _window(
    ctx: Lowering, t: Tensor, sizes: Shape, starts: Sequence[Value]
) -> list[tuple[int, str, str]]:
    """For each axis of the ONNX tensor that a window does not cover: the axis, start and end."""
    found = []
    for i, a in enumerate(t.order):
        if sizes[a] != t.type.shape[a]:
            start = _start(ctx, starts[a], sizes[a], t.type.shape[a])
            found.append((i, start, ctx.e.op("Add", start, ctx.size(sizes[a]))))
    return found


@lowering("dynamic_slice")
def _dynamic_slice(ctx: Lowering, node: Node) -> Tensor:
    x, *starts = node.inputs
    e, t = ctx.e, ctx.whole(x)
    window = _window(ctx, t, node.attrs["sizes"], starts)
    if not window:
        return ctx.held(t.name, node.output.type, t.order)
    axes, low, high = zip(*window, strict=True)
    ends = [e.op("Concat", *names, axis=0) if len(names) > 1 else names[0] for names in (low, high)]
    name = e.op("Slice", t.name, *ends, e.ints(*axes))
    return ctx.held(name, node.output.type, t.order)


@lowering("dynamic_update")
def _dynamic_update(ctx: Lowering, node: Node) -> Tensor:
    x, update, *starts = node.inputs
    t = ctx.whole(x)
    name = ctx.full(update, t.order)
    if 0 in update.shape:
        return t
    window = _window(ctx, t, update.shape, starts)
    return ctx.held(_replaced(ctx, t.name, name, window), node.output.type, t.order)


def _replaced(ctx: Lowering, x: str, update: str, window: list[tuple[int, str, str]]) -> str:
    """Along the first axis of the window what stands before it, the window, what comes after."""
    if not window:
        return update
    (axis, start, end), *others = window
    e, at = ctx.e, ctx.e.ints(window[0][0])
    inside = update
    if others:
        inside = _replaced(ctx, e.op("Slice", x, start, end, at), update, others)
    before = e.op("Slice", x, e.ints(0), start, at)
    after = e.op("Slice", x, end, e.ints(INT_MAX), at)
    return e.op("Concat", before, inside, after, axis=axis)
