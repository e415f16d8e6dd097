"""Convolution in f64, for which the runtime has no kernel: slices and matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....ir.graph import Node, Value
from ....ir.types import Shape, size_of
from ..lowering import Lowering, Tensor, plain
from ..window import INT_MAX, crop_spatial, dilate, pad_spatial, taps, untap

if TYPE_CHECKING:
    from .conv import Geometry


def _columns(ctx: Lowering, x: Value, g: Geometry) -> list[str]:
    """For each group what the output positions see: `[N * out, taps * channels]`."""
    e = ctx.e
    zero = e.const(0, x.dtype)
    name, _ = dilate(ctx, ctx.full(x), x.shape, (1, *g.input_dilation, 1), zero)
    padded = pad_spatial(ctx, name, g.padding, zero)
    channels = int(x.shape[-1]) // g.groups
    width = int(np.prod(g.kernel)) * channels
    columns = []
    for group in range(g.groups):
        part = _part(ctx, padded, g.rank + 1, group, g.groups, channels)
        seen = taps(ctx, part, g.output, g.kernel, g.strides, g.kernel_dilation)
        joined = e.op("Concat", *seen, axis=-1)
        columns.append(ctx.reshape(joined, (size_of((x.shape[0], *g.output)), width)))
    return columns


def _part(ctx: Lowering, name: str, axis: int, index: int, parts: int, size: int) -> str:
    """Elements [index * size, (index + 1) * size) along an axis."""
    if parts == 1:
        return name
    e = ctx.e
    return e.op("Slice", name, e.ints(index * size), e.ints((index + 1) * size), e.ints(axis))


def _kernel(ctx: Lowering, w: Value, group: int, g: Geometry) -> str:
    """One group's kernel as a matrix `[taps * channels, outputs]`."""
    size = int(w.shape[-1]) // g.groups
    part = _part(ctx, ctx.full(w), w.ndim - 1, group, g.groups, size)
    return ctx.reshape(part, (size_of(w.shape[:-1]), size))


def _join(ctx: Lowering, parts: list[str]) -> str:
    return ctx.e.op("Concat", *parts, axis=-1) if len(parts) > 1 else parts[0]


def conv_by_taps(ctx: Lowering, node: Node, g: Geometry, bias: str) -> Tensor:
    x, w = node.inputs
    products = [
        ctx.e.op("MatMul", columns, _kernel(ctx, w, group, g))
        for group, columns in enumerate(_columns(ctx, x, g))
    ]
    rows = _join(ctx, products)
    if bias:
        rows = ctx.e.op("Add", rows, bias)
    return plain(ctx.reshape(rows, node.output.shape), node.output.type)


def kernel_grad_by_taps(ctx: Lowering, node: Node, g: Geometry) -> Tensor:
    (x, dy), out = node.inputs, node.output
    size = int(dy.shape[-1]) // g.groups
    parts = []
    for group, columns in enumerate(_columns(ctx, x, g)):
        rows = _rows(ctx, dy, group, g)
        product = ctx.e.op("Gemm", columns, rows, transA=1)
        parts.append(ctx.reshape(product, (*out.shape[:-1], size)))
    return plain(_join(ctx, parts), out.type)


def _rows(ctx: Lowering, dy: Value, group: int, g: Geometry) -> str:
    """One group's outputs as `[N * out, outputs]`."""
    size = int(dy.shape[-1]) // g.groups
    part = _part(ctx, ctx.full(dy), dy.ndim - 1, group, g.groups, size)
    return ctx.reshape(part, (size_of(dy.shape[:-1]), size))


def input_grad_by_taps(ctx: Lowering, node: Node, g: Geometry) -> Tensor:
    (dy, w), out, e = node.inputs, node.output, ctx.e
    channels = int(w.shape[-2])
    padded = [lo + n + hi for n, (lo, hi) in zip(g.dilated_input, g.padding, strict=True)]
    shape: Shape = (dy.shape[0], *g.output, channels)
    groups = []
    for group in range(g.groups):
        columns = e.op("Gemm", _rows(ctx, dy, group, g), _kernel(ctx, w, group, g), transB=1)
        shares = [
            (tap, ctx.reshape(_part(ctx, columns, 1, i, 2, channels), shape))
            for i, tap in enumerate(np.ndindex(g.kernel))
        ]
        groups.append(untap(ctx, shares, shape, padded, g.strides, g.kernel_dilation))
    total = crop_spatial(ctx, _join(ctx, groups), [lo for lo, _ in g.padding], g.dilated_input)
    if set(g.input_dilation) != {1}:
        n = g.rank
        total = e.op("Slice", total, e.ints(*[0] * n), e.ints(*[INT_MAX] * n),
                     e.ints(*range(1, n + 1)), e.ints(*g.input_dilation))  # fmt: skip
    return plain(total, out.type)
