"""Order along an axis, by TopK.

TopK takes equal elements by their index, in both directions, as the IR wants it; what it does with
NaN is not defined. So numbers are compared as keys that contain no NaN: wider floats, in which
there is room for another number between the largest finite one and infinity.
"""

from __future__ import annotations

import numpy as np

from ....ir.graph import Node
from ....ir.types import boolean, f32, f64, i32, i64
from ..lowering import Lowering, Tensor, lowering


@lowering("sort", "argsort")
def _sort(ctx: Lowering, node: Node) -> Tensor:
    (x,), axis, out = node.inputs, node.attrs["axis"], node.output
    t = ctx.whole(x)
    if 0 in x.shape:
        return Tensor(ctx.e.const(0, out.dtype), out.type, (), ())
    count, at = ctx.size(x.shape[axis]), t.order.index(axis)
    values, places = _first(ctx, t.name, count, at, node.attrs["descending"])
    name = values if node.op.name == "sort" else ctx.e.cast(places, i32)
    return ctx.held(name, out.type, t.order)


@lowering("top_k")
def _top_k(ctx: Lowering, node: Node) -> tuple[Tensor, Tensor]:
    (x,), k = node.inputs, node.attrs["k"]
    found = node.outputs
    if 0 in found[0].shape:
        empty = [Tensor(ctx.e.const(0, v.dtype), v.type, (), ()) for v in found]
        return empty[0], empty[1]
    t = ctx.whole(x)
    values, places = _first(ctx, t.name, ctx.e.ints(k), t.order.index(x.ndim - 1), True)
    return (
        ctx.held(values, found[0].type, t.order),
        ctx.held(ctx.e.cast(places, i32), found[1].type, t.order),
    )


def _first(ctx: Lowering, x: str, count: str, axis: int, descending: bool) -> tuple[str, str]:
    """The first `count` elements in order, and their positions."""
    e = ctx.e
    attrs = {"axis": axis, "largest": int(descending)}
    dtype = e.dtypes[x]
    if not dtype.is_float:
        values, places = e.multi("TopK", [x, count], (None, i64), attrs)
        return values, places
    if dtype == f64:
        places = _doubles(ctx, x, count, attrs)
    else:
        _, places = e.multi("TopK", [_key(ctx, x), count], (None, i64), attrs)
    return e.op("GatherElements", x, places, axis=axis), places


def _key(ctx: Lowering, x: str) -> str:
    """f32, f16 and bf16 as wider floats in the same order: NaN infinite, infinity large."""
    e = ctx.e
    wide = f64 if e.dtypes[x] == f32 else f32
    large = e.const(1e300 if wide == f64 else np.finfo(np.float32).max, wide)
    is_nan = e.op("IsNaN", x, dtype=boolean)
    return e.where(is_nan, e.const(np.inf, wide), e.op("Min", e.cast(x, wide), large))


def _doubles(ctx: Lowering, x: str, count: str, attrs: dict[str, int]) -> str:
    """Positions of f64, for which there is no wider type: by number, then by whether it is one."""
    e, axis = ctx.e, attrs["axis"]
    is_nan = e.op("IsNaN", x, dtype=boolean)
    numbers = e.where(is_nan, e.const(np.inf, f64), x)
    everything = e.shape_of(x, axis)
    _, by_number = e.multi("TopK", [numbers, everything], (None, i64), attrs)
    flags = e.op("GatherElements", e.cast(is_nan, i32), by_number, axis=axis)
    _, by_flag = e.multi("TopK", [flags, count], (None, i64), attrs)
    return e.op("GatherElements", by_number, by_flag, axis=axis)
