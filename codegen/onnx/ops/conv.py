"""Convolution and its gradients: ONNX's Conv and ConvTranspose, in NCHW.

The runtime has no kernels for the gradients. The input's gradient is a Conv with the rotated
kernel (ConvTranspose, which runs on one thread, where there are strides). The kernel's gradient
is a Conv of one rank more, with the batch as its channels:

    Conv(x as [1, N, C, H, W], dy as [O, N, 1, OH, OW]) -> [1, O, C, KH, KW]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ....ir.ops.shape import dilated
from ....ir.types import Dim, Shape, boolean, f64
from ..lowering import Lowering, Order, Tensor, lowering, plain
from ..window import INT_MIN, Ints, Padding, dilate, fit
from .control import branches
from .conv_taps import conv_by_taps, input_grad_by_taps, kernel_grad_by_taps


@dataclass(frozen=True)
class Geometry:
    """Sizes of one convolution `x * w -> y`, spatial axes only, and its attributes."""

    input: Shape
    kernel: Ints
    output: Shape
    strides: Ints
    padding: Padding
    input_dilation: Ints
    kernel_dilation: Ints
    groups: int

    @staticmethod
    def of(node: Node, x: Shape, w: Shape, y: Shape) -> Geometry:
        attrs = node.attrs
        return Geometry(
            x[1:-1], tuple(map(int, w[:-2])), y[1:-1],
            attrs["strides"], attrs["padding"], attrs["input_dilation"],
            attrs["kernel_dilation"], attrs["groups"],
        )  # fmt: skip

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @cached_property
    def dilated_input(self) -> Shape:
        pairs = zip(self.input, self.input_dilation, strict=True)
        return tuple(dilated(n, d - 1) for n, d in pairs)

    @property
    def is_open(self) -> bool:
        """Whether a size is known only when the model runs."""
        return any(isinstance(n, Dim) for n in (*self.input, *self.output))

    @cached_property
    def reach(self) -> Ints:
        """Size of the dilated kernel less 1."""
        pairs = zip(self.kernel, self.kernel_dilation, strict=True)
        return tuple(d * (k - 1) for k, d in pairs)

    @cached_property
    def unreached(self) -> Shape:
        """How many of the last rows no window reaches, because the stride passes them."""
        return tuple(
            n + lo + hi - r - 1 - s * (out - 1)
            for n, (lo, hi), r, s, out in zip(
                self.dilated_input, self.padding, self.reach, self.strides, self.output,
                strict=True,
            )
        )  # fmt: skip

    @property
    def onnx(self) -> dict[str, Any]:
        """The attributes of Conv and ConvTranspose."""
        return {
            "kernel_shape": self.kernel, "strides": self.strides, "group": self.groups,
            "dilations": self.kernel_dilation, "pads": flat(self.padding),
        }  # fmt: skip


def flat(padding: Padding) -> Ints:
    """ONNX's order of pads: all lows, then all highs."""
    return tuple(p[0] for p in padding) + tuple(p[1] for p in padding)


def channels_first(rank: int) -> Order:
    """N, C, *spatial as axes of `[N, *spatial, C]` of this rank."""
    return (0, rank - 1, *range(1, rank - 1))


def kernel_order(rank: int) -> Order:
    """O, I, *spatial as axes of a kernel `[*spatial, I, O]`."""
    return (rank - 1, rank - 2, *range(rank - 2))


def _is_sum_of_nothing(node: Node) -> bool:
    """Whether there is nothing to add up: with an empty batch ONNX Runtime's Conv never ends."""
    return node.output.type.is_static and any(0 in v.shape for v in (*node.inputs, node.output))


def _zeros(ctx: Lowering, node: Node) -> Tensor:
    out = node.output
    return plain(ctx.e.const(np.zeros(out.shape, out.dtype.numpy)), out.type)  # type: ignore[arg-type]


@lowering("conv")
def _conv(ctx: Lowering, node: Node) -> Tensor:
    return _zeros(ctx, node) if _is_sum_of_nothing(node) else convolution(ctx, node, "")


def convolution(ctx: Lowering, node: Node, bias: str) -> Tensor:
    """Conv, with a bias `[O]` if there is one."""
    (x, w), out = node.inputs, node.output
    g = Geometry.of(node, x.shape, w.shape, out.shape)
    if x.dtype == f64:
        return conv_by_taps(ctx, node, g, bias)
    operands = [_spread(ctx, x, g), ctx.full(w, kernel_order(w.ndim))]
    name = ctx.e.op("Conv", *operands, *([bias] if bias else []), **g.onnx)
    return ctx.held(name, out.type, channels_first(out.ndim))


def _spread(ctx: Lowering, x: Value, g: Geometry) -> str:
    """The input in NCHW, dilated."""
    order = channels_first(x.ndim)
    name = ctx.full(x, order)
    shape = tuple(x.shape[a] for a in order)
    return dilate(ctx, name, shape, (1, 1, *g.input_dilation), ctx.e.const(0, x.dtype))[0]


@lowering("conv_input_grad")
def _input_grad(ctx: Lowering, node: Node) -> Tensor:
    (dy, w), out = node.inputs, node.output
    if _is_sum_of_nothing(node):
        return _zeros(ctx, node)
    g = Geometry.of(node, out.shape, w.shape, dy.shape)
    if dy.dtype == f64:
        return input_grad_by_taps(ctx, node, g)
    order = channels_first(dy.ndim)
    incoming = ctx.full(dy, order)
    if _prefers_rotation(g):
        name = _rotated(ctx, incoming, w, g)
    else:
        kernel = ctx.full(w, kernel_order(w.ndim))
        if g.is_open:
            name = _transposed_open(ctx, incoming, kernel, g)
        else:
            name = ctx.e.op("ConvTranspose", incoming, kernel, output_padding=g.unreached, **g.onnx)
    if set(g.input_dilation) != {1}:
        n, axes = g.rank, tuple(range(2, 2 + g.rank))
        starts, ends = ctx.e.ints(*[0] * n), ctx.sizes(g.dilated_input)
        name = ctx.e.op("Slice", name, starts, ends, ctx.e.ints(*axes),
                        ctx.e.ints(*g.input_dilation))  # fmt: skip
    return ctx.held(name, out.type, order)


_MORE_WORK = 1.2
"""By how much more arithmetic a Conv may cost than the ConvTranspose it replaces."""


def _prefers_rotation(g: Geometry) -> bool:
    """Whether a Conv with the rotated kernel gives the input's gradient, and fast.

    Conv uses all threads and ConvTranspose hardly more than one, but where the input is much
    larger than the output ("valid" padding of a small image) Conv multiplies zeros instead.
    """
    if set(g.strides) != {1} or any(lo > r for (lo, _), r in zip(g.padding, g.reach, strict=True)):
        return False
    if g.is_open:  # then ConvTranspose would have to be padded
        return all(hi <= r for (_, hi), r in zip(g.padding, g.reach, strict=True))
    sizes = zip(g.dilated_input, g.padding, g.output, strict=True)
    if any(size + lo < out for size, (lo, _), out in sizes):  # the other padding would be negative
        return False
    return prod(g.dilated_input) <= _MORE_WORK * prod(g.output)


def _transposed_open(ctx: Lowering, incoming: str, kernel: str, g: Geometry) -> str:
    """ConvTranspose without what depends on sizes: nothing is cut at the end, then it is fitted."""
    lows = tuple(lo for lo, _ in g.padding)
    attrs = g.onnx | {"pads": (*lows, *[0] * g.rank)}
    name = ctx.e.op("ConvTranspose", incoming, kernel, **attrs)
    grow = tuple(u - hi for u, (_, hi) in zip(g.unreached, g.padding, strict=True))
    return fit(ctx, name, grow)


def _rotated(ctx: Lowering, incoming: str, w: Value, g: Geometry) -> str:
    """Full correlation with the kernel rotated by 180 degrees, its inputs and outputs swapped."""
    e, n = ctx.e, g.rank
    spatial = tuple(range(n))
    kernel = ctx.full(w, (n, n + 1, *spatial))  # I, O, *spatial
    if g.groups > 1:
        into, out = int(w.shape[-2]), int(w.shape[-1]) // g.groups
        split = ctx.reshape(kernel, (into, g.groups, out, *g.kernel))
        swapped = e.transpose(split, (1, 0, 2, *(a + 3 for a in spatial)))
        kernel = ctx.reshape(swapped, (g.groups * into, out, *g.kernel))
    if set(g.kernel) != {1}:
        last = e.ints(*[-1] * n)
        axes = e.ints(*(a + 2 for a in spatial))
        kernel = e.op("Slice", kernel, last, e.ints(*[INT_MIN] * n), axes, last)
    lows = [r - lo for (lo, _), r in zip(g.padding, g.reach, strict=True)]
    highs = [
        size + r - low - out
        for size, r, low, out in zip(g.dilated_input, g.reach, lows, g.output, strict=True)
    ]
    return e.op("Conv", incoming, kernel, kernel_shape=g.kernel, dilations=g.kernel_dilation,
                group=g.groups, pads=(*lows, *highs))  # fmt: skip


@lowering("conv_kernel_grad")
def _kernel_grad(ctx: Lowering, node: Node) -> Tensor:
    (x, dy), out = node.inputs, node.output
    if _is_sum_of_nothing(node):
        return _zeros(ctx, node)
    g = Geometry.of(node, x.shape, out.shape, dy.shape)
    if x.dtype == f64:
        return kernel_grad_by_taps(ctx, node, g)
    if g.groups == 1 or not isinstance(x.shape[0], Dim):
        return _kernel_grad_by_conv(ctx, node, g)
    # ONNX Runtime 1.31 never returns from a Conv of several groups without channels.
    some = ctx.e.op("Greater", ctx.size(x.shape[0]), ctx.e.ints(0), dtype=boolean)
    (found,) = branches(
        ctx, ctx.e.squeeze(some, [0]),
        lambda inner: (_kernel_grad_by_conv(inner, node, g),),
        lambda inner, _: (_zeros(inner, node),),
    )  # fmt: skip
    return found


def _kernel_grad_by_conv(ctx: Lowering, node: Node, g: Geometry) -> Tensor:
    (x, dy), out, e, n = node.inputs, node.output, ctx.e, g.rank
    image, ends = _reached(ctx, _spread(ctx, x, g), g)
    highs = [max(end, 0) for end in ends]
    lows = [lo for lo, _ in g.padding]
    if g.groups > 1:
        image = _groups_as_batch(ctx, image, x, g)
    else:
        image = e.unsqueeze(image, [0])
    window = ctx.full(dy, (n + 1, 0, *range(1, n + 1)))  # O, N, *spatial
    shape = {} if g.is_open else {"kernel_shape": (1, *g.output)}
    result = e.op(
        "Conv", image, e.unsqueeze(window, [2]), **shape, group=g.groups,
        strides=(1, *g.kernel_dilation), dilations=(1, *g.strides), pads=(0, *lows, 0, *highs),
    )  # fmt: skip
    return ctx.held(e.squeeze(result, [0]), out.type, kernel_order(out.ndim))


def _reached(ctx: Lowering, image: str, g: Geometry) -> tuple[str, Ints]:
    """Cut off the last rows that no window reaches, as far as they are not padding.

    With it comes the padding that is left at the ends, or less than 0 for what was cut; where it
    depends on an open size it is done here.
    """
    ends = [hi - u for (_, hi), u in zip(g.padding, g.unreached, strict=True)]
    cut = tuple(end if isinstance(end, Dim) or end < 0 else 0 for end in ends)
    left = tuple(0 if isinstance(end, Dim) else end for end in ends)
    return fit(ctx, image, cut), left


def _groups_as_batch(ctx: Lowering, image: str, x: Value, g: Geometry) -> str:
    """`[N, C, *spatial]` as `[1, groups * N, C / groups, *spatial]`."""
    n, channels = g.rank, int(x.shape[-1])
    ends = [hi - u for (_, hi), u in zip(g.padding, g.unreached, strict=True)]
    spatial = tuple(
        size + (end if isinstance(end, Dim) else min(end, 0))
        for size, end in zip(g.dilated_input, ends, strict=True)
    )
    split = ctx.reshape(image, (x.shape[0], g.groups, channels // g.groups, *spatial))
    swapped = ctx.e.transpose(split, (1, 0, *range(2, n + 3)))
    return ctx.reshape(swapped, (1, x.shape[0] * g.groups, channels // g.groups, *spatial))
