"""Running totals: CumSum, and scans for what ONNX has no operator for.

Doubling (combining with the elements 1, 2, 4, ... steps before) would take fewer steps, but in
another order: of `0, 1e30, 1e30` it would make `0 * inf`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.op import get
from ....ir.sugar import cast, full, transpose
from ....ir.types import f32, i64
from ..lowering import Lowering, Tensor, composition, lowering


@lowering("cumsum")
def _cumsum(ctx: Lowering, node: Node) -> Tensor:
    t, e = ctx.whole(node.inputs[0]), ctx.e
    axis = e.const(t.order.index(node.attrs["axis"]), i64)
    name = e.op("CumSum", t.name, axis, reverse=int(node.attrs["reverse"]))
    return ctx.held(name, node.output.type, t.order)


@composition("cumprod")
def _cumprod(x: Value, *, axis: int, reverse: bool) -> Value:
    return _running(lambda total, x: total * x, 1, [x], axis, reverse)


@composition("cummax")
def _cummax(x: Value, *, axis: int, reverse: bool) -> Value:
    lowest = -np.inf if x.dtype.is_float else np.iinfo(x.dtype.numpy).min
    return _running(get("maximum"), lowest, [x], axis, reverse)


@composition("cummin")
def _cummin(x: Value, *, axis: int, reverse: bool) -> Value:
    highest = np.inf if x.dtype.is_float else np.iinfo(x.dtype.numpy).max
    return _running(get("minimum"), highest, [x], axis, reverse)


@composition("linear_recurrence")
def _linear_recurrence(a: Value, b: Value, *, axis: int, reverse: bool) -> Value:
    return _running(lambda total, a, b: a * total + b, 0, [a, b], axis, reverse)


def _running(
    step: Callable[..., Value], start: float, operands: list[Value], axis: int, reverse: bool
) -> Value:
    """`total = step(total, *elements)` along an axis; f16 and bf16 run in f32."""
    dtype = operands[0].dtype
    wide = f32 if dtype.is_float and dtype.bits == 16 else dtype
    order = (axis, *(a for a in range(operands[0].ndim) if a != axis))
    xs = [transpose(cast(x, wide), order) for x in operands]
    element = xs[0].type.with_shape(xs[0].shape[1:])
    with Builder("step") as b:
        total = b.input("total", element)
        new = step(total, *(b.input(f"x{i}", element) for i in range(len(xs))))
        body = b.finish({"total": new, "y": new})
    _, totals = get("scan").all(
        full(element.shape, start, wide), *xs, body=body, carry=1, stacked=len(xs),
        length=xs[0].shape[0], reverse=reverse,
    )  # fmt: skip
    return cast(transpose(totals, tuple(map(order.index, range(len(order))))), dtype)
