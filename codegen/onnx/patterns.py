"""Patterns: compositions of the IR that ONNX has one operator for.

A pattern looks backwards from its last node and emits the operator in place of that node; the
nodes before it, no longer needed, are dropped when the model is finished. So an exported model
reads as a person would write it, and ONNX Runtime's own fusions (Conv + Relu, NCHWc) apply.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from ...ir.graph import Node, Value, is_among
from .emit import KERNELS
from .lowering import Lowering, Tensor, pattern, plain
from .ops.conv import convolution
from .ops.matmul import is_empty, product
from .ops.reduce import reduced


def _made_by(value: Value, *ops: str) -> Node | None:
    """The node that makes a value, if it is one of these ops."""
    return value.node if value.node is not None and value.node.op.name in ops else None


def _only_user(ctx: Lowering, value: Value, node: Node) -> bool:
    """Whether nothing else reads `value`, so that it need not exist."""
    return ctx.graph.users[value] == (node,) and not is_among(value, ctx.graph.results)


def _behind(value: Value, *ops: str) -> Value:
    """Look through nodes that only move or repeat numbers."""
    while (node := _made_by(value, *ops)) is not None:
        value = node.inputs[0]
    return value


_VIEWS = ("broadcast", "reshape", "stop_gradient")


@pattern("add")
def bias(ctx: Lowering, node: Node) -> Tensor | None:
    """`add(conv(x, w), broadcast(b))` -> Conv with a bias; with matmul -> Gemm."""
    for y, other in (node.inputs, node.inputs[::-1]):
        root = _made_by(y, "conv", "matmul")
        if root is None or not _only_user(ctx, y, node):
            continue
        vector = _bias_vector(ctx, other)
        if vector and root.op.name == "conv" and y.dtype.name in KERNELS["Conv"]:
            return convolution(ctx, root, vector)
        if not vector or root.op.name != "matmul" or is_empty(root):
            continue
        if y.dtype.name in KERNELS["Gemm"]:
            return product(ctx, root, vector)
    return None


def _bias_vector(ctx: Lowering, value: Value) -> str:
    """A value that differs along its last axis only, as a vector of that size; else ""."""
    t, last = ctx[value], value.ndim - 1
    size, number = value.shape[last], ctx.e.arrays.get(t.name)
    if not t.axes and number is not None and isinstance(size, int):
        return ctx.e.const(np.full(size, number.reshape(-1)[0]))
    if size == 1 or t.axes != {last}:
        return ""
    return ctx.e.squeeze(t.name, [i for i, a in enumerate(t.order) if a != last])


@pattern("div")
def softmax(ctx: Lowering, node: Node) -> Tensor | None:
    """`e / sum(e)` with `e = exp(x - max(x))` -> Softmax."""
    e, total = node.inputs
    exp, sum_ = _made_by(e, "exp"), _made_by(_behind(total, *_VIEWS), "reduce_sum")
    if exp is None or sum_ is None or sum_.inputs[0] is not e:
        return None
    if set(ctx.graph.users[e]) != {node, sum_} or is_among(e, ctx.graph.results):
        return None
    return _normalized(ctx, exp.inputs[0], sum_, total, "Softmax", node.output)


@pattern("sub")
def log_softmax(ctx: Lowering, node: Node) -> Tensor | None:
    """`s - log(sum(exp(s)))` with `s = x - max(x)` -> LogSoftmax."""
    shifted, spread = node.inputs
    log = _made_by(_behind(spread, *_VIEWS), "log")
    sum_ = log and _made_by(_behind(log.inputs[0], *_VIEWS), "reduce_sum")
    exp = sum_ and _made_by(sum_.inputs[0], "exp")
    if not sum_ or not exp or exp.inputs[0] is not shifted:
        return None
    return _normalized(ctx, shifted, sum_, spread, "LogSoftmax", node.output)


def _normalized(
    ctx: Lowering, shifted: Value, sum_: Node, spread: Value, op: str, out: Value
) -> Tensor | None:
    """Softmax or LogSoftmax of `x`, if `shifted` is `x - max(x)` along the axis summed over."""
    sub = _made_by(shifted, "sub")
    top = sub and _made_by(_behind(sub.inputs[1], *_VIEWS), "reduce_max")
    axes = sum_.attrs["axes"]
    if not sub or not top or len(axes) != 1 or top.attrs["axes"] != axes:
        return None
    x = sub.inputs[0]
    if _behind(top.inputs[0], "stop_gradient") is not _behind(x, "stop_gradient"):
        return None
    if any(
        axes[0] in ctx[v].axes or ctx[v].axes - set(range(x.ndim)) for v in (spread, sub.inputs[1])
    ):
        return None
    t = ctx.whole(x)
    name = ctx.e.op(op, t.name, axis=t.order.index(axes[0]))
    return ctx.held(name, out.type, t.order)


@pattern("div")
def mean(ctx: Lowering, node: Node) -> Tensor | None:
    """`sum(x) / constant` with the number of elements -> ReduceMean."""
    return _mean(ctx, node, lambda count: count)


@pattern("mul")
def scaled_sum(ctx: Lowering, node: Node) -> Tensor | None:
    """`sum(x) * constant` with the inverse of the number of elements -> ReduceMean."""
    return _mean(ctx, node, lambda count: 1 / count)


def _mean(ctx: Lowering, node: Node, factor: Callable[[float], float]) -> Tensor | None:
    total, divisor = node.inputs
    sum_ = _made_by(_behind(total, "reshape"), "reduce_sum")
    constant = _behind(divisor, *_VIEWS).constant
    if sum_ is None or constant is None or constant.size != 1 or not total.dtype.is_float:
        return None
    x, axes = sum_.inputs[0], sum_.attrs["axes"]
    sizes = [x.shape[a] for a in axes]
    if not all(isinstance(d, int) and d > 0 for d in sizes):
        return None
    expected = np.asarray(factor(float(prod(map(int, sizes)))), constant.dtype)
    if constant.reshape(()) != expected or total.type.size != sum_.output.type.size:
        return None
    if total is sum_.output:
        return reduced(ctx, ctx[x], axes, node.output.type, "ReduceMean")
    inner = reduced(ctx, ctx[x], axes, sum_.output.type, "ReduceMean")
    return plain(ctx.reshape(ctx.full(inner), total.shape), node.output.type)
