"""Moving elements: most of it costs nothing, see `lowering.Tensor`."""

from __future__ import annotations

from ....ir.graph import Node
from ....ir.types import Dim, Shape, TensorType
from ..lowering import Lowering, Tensor, lowering, plain
from ..window import INT_MAX, INT_MIN, dilate


@lowering("broadcast")
def _broadcast(ctx: Lowering, node: Node) -> Tensor:
    return ctx.renamed(ctx[node.inputs[0]], node.output.type, node.attrs["axes"])


@lowering("transpose")
def _transpose(ctx: Lowering, node: Node) -> Tensor:
    permutation = node.attrs["permutation"]
    axes = [permutation.index(a) for a in range(len(permutation))]
    return ctx.renamed(ctx[node.inputs[0]], node.output.type, axes)


@lowering("reshape")
def _reshape(ctx: Lowering, node: Node) -> Tensor:
    t, type = ctx[node.inputs[0]], node.output.type
    if not t.axes:  # one repeated number
        return Tensor(ctx.e.squeeze(t.name, list(range(len(t.order)))), type, (), ())
    moved = _unit_axes_only(ctx, t, type)
    return moved or plain(ctx.reshape(ctx.full(t), type.shape), type)


def _unit_axes_only(ctx: Lowering, t: Tensor, type: TensorType) -> Tensor | None:
    """A reshape that only inserts or drops axes of size 1: the ONNX tensor stays in its order."""
    before = [a for a, size in enumerate(t.type.shape) if size != 1]
    after = [a for a, size in enumerate(type.shape) if size != 1]
    if [t.type.shape[a] for a in before] != [type.shape[a] for a in after]:
        return None
    dropped = [i for i, a in enumerate(t.order) if a not in before]
    kept = [i for i, a in enumerate(t.order) if a in before]
    name = ctx.e.squeeze(t.name, dropped)
    order = tuple(after[before.index(t.order[i])] for i in kept)
    return Tensor(name, type, order, tuple(t.shape[i] for i in kept))


@lowering("concat")
def _concat(ctx: Lowering, node: Node) -> Tensor:
    """Runs in the order in which the operands are held, if one is held in another than its own."""
    axis, out = node.attrs["axis"], node.output
    if len(node.inputs) == 1:
        return ctx[node.inputs[0]]
    order = next(
        (t.order for t in map(ctx.whole, node.inputs) if t.order != tuple(sorted(t.order))),
        tuple(range(out.ndim)),
    )
    operands = [ctx.full(v, order) for v in node.inputs]
    return ctx.held(ctx.e.op("Concat", *operands, axis=order.index(axis)), out.type, order)


@lowering("slice")
def _slice(ctx: Lowering, node: Node) -> Tensor:
    x, e, out = node.inputs[0], ctx.e, node.output
    starts, limits, strides = (node.attrs[k] for k in ("starts", "limits", "strides"))
    t = ctx.whole(x)
    cut = [
        i for i, a in enumerate(t.order)
        if (starts[a], limits[a], strides[a]) != (0, x.shape[a], 1)
    ]  # fmt: skip
    if not cut:
        return ctx.held(t.name, out.type, t.order)
    axes = [t.order[i] for i in cut]
    low = ctx.sizes(tuple(starts[a] for a in axes))
    high = ctx.sizes(tuple(INT_MAX if limits[a] == x.shape[a] else limits[a] for a in axes))
    steps = e.ints(*(strides[a] for a in axes))
    name = e.op("Slice", t.name, low, high, e.ints(*cut), steps)
    return ctx.held(name, out.type, t.order)


@lowering("pad")
def _pad(ctx: Lowering, node: Node) -> Tensor:
    out, e = node.output, ctx.e
    low, high, interior = (node.attrs[k] for k in ("low", "high", "interior"))
    t = ctx.whole(node.inputs[0])
    value = e.const(node.attrs["value"], out.dtype)
    steps = [interior[a] + 1 for a in t.order]
    name, shape = dilate(ctx, t.name, t.shape, steps, value)
    widths = (*(low[a] for a in t.order), *(high[a] for a in t.order))
    return ctx.held(_widen(ctx, name, shape, widths, value), out.type, t.order)


def _widen(ctx: Lowering, name: str, shape: Shape, widths: Shape, value: str) -> str:
    """Pad by (lows, highs), negative ones cut. Symbolic widths are left to the operator Pad."""
    rank, e = len(shape), ctx.e
    if any(isinstance(w, Dim) for w in widths):
        return e.op("Pad", name, ctx.sizes(widths), value)
    cut = [i for i in range(rank) if widths[i] < 0 or widths[rank + i] < 0]
    if cut:
        starts = [max(-int(widths[i]), 0) for i in cut]
        ends = [int(widths[rank + i]) if widths[rank + i] < 0 else INT_MAX for i in cut]
        name = e.op("Slice", name, e.ints(*starts), e.ints(*ends), e.ints(*cut))
    grown = [max(int(w), 0) for w in widths]
    return e.op("Pad", name, e.ints(*grown), value) if any(grown) else name


@lowering("reverse")
def _reverse(ctx: Lowering, node: Node) -> Tensor:
    t, e = ctx.whole(node.inputs[0]), ctx.e
    at = [t.order.index(a) for a in node.attrs["axes"]]
    last, end = e.ints(*[-1] * len(at)), e.ints(*[INT_MIN] * len(at))
    name = e.op("Slice", t.name, last, end, e.ints(*at), last)
    return ctx.held(name, node.output.type, t.order)
