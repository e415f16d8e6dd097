"""Pooling and its gradients, in NCHW."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ....ir.types import Dim, Shape, TensorType, f64, i64, size_of
from ..emit import KERNELS
from ..lowering import Lowering, Tensor, lowering, plain
from ..window import Ints, Padding, crop_spatial, fit, pad_spatial, taps, untap
from .conv import channels_first, flat


def _onnx_attrs(node: Node) -> dict[str, Any]:
    attrs = node.attrs
    return {"kernel_shape": attrs["window"], "strides": attrs["strides"],
            "pads": flat(attrs["padding"])}  # fmt: skip


def _is_wanted_by_gradient(ctx: Lowering, node: Node) -> bool:
    """Whether a max_pool_grad of the same windows will ask for the positions of the maxima."""
    return any(
        user.op.name == "max_pool_grad"
        and user.inputs[0] is node.inputs[0]
        and dict(user.attrs) == dict(node.attrs)
        for user in ctx.graph.users[node.inputs[0]]
    )


@lowering("max_pool")
def _max_pool(ctx: Lowering, node: Node) -> Tensor:
    """MaxPool; with positions only in a training step, for they make it six times slower."""
    x, out = node.inputs[0], node.output
    if x.dtype.is_integer and x.dtype.name not in KERNELS["MaxPool"]:
        return _max_pool_by_taps(ctx, node)
    order = channels_first(x.ndim)
    if _is_wanted_by_gradient(ctx, node):
        name, _ = _pool_with_positions(ctx, node)
    else:
        name = ctx.e.op("MaxPool", ctx.full(x, order), **_onnx_attrs(node))
    return ctx.held(name, out.type, order)


def _pool_with_positions(ctx: Lowering, node: Node) -> tuple[str, str]:
    """The maxima of each window, and where they are in the flat NCHW input."""
    x = node.inputs[0]
    operand = ctx.full(x, channels_first(x.ndim))
    pooled, positions = ctx.e.multi("MaxPool", [operand], (None, i64), _onnx_attrs(node))
    return pooled, positions


def _max_pool_by_taps(ctx: Lowering, node: Node) -> Tensor:
    x, out, e = node.inputs[0], node.output, ctx.e
    lowest = e.const(np.iinfo(x.dtype.numpy).min, x.dtype)
    padded = pad_spatial(ctx, ctx.full(x), node.attrs["padding"], lowest)
    window, strides = node.attrs["window"], node.attrs["strides"]
    seen = taps(ctx, padded, _spatial(out.shape), window, strides, (1,) * len(window))
    return plain(e.op("Max", *seen), out.type)


def _spatial(shape: Shape) -> Shape:
    return shape[1:-1]


@lowering("max_pool_grad")
def _max_pool_grad(ctx: Lowering, node: Node) -> Tensor:
    """MaxUnpool, or an accumulating scatter where windows overlap or the type is not f32."""
    (x, dy), out, e = node.inputs, node.output, ctx.e
    order = channels_first(x.ndim)
    _, positions = _pool_with_positions(ctx, node)
    incoming = ctx.full(dy, order)
    shape = tuple(x.shape[a] for a in order)
    window, strides = node.attrs["window"], node.attrs["strides"]
    apart = all(k <= s for k, s in zip(window, strides, strict=True))
    if apart and x.dtype != f64 and _is_unpooled(node):
        attrs = _onnx_attrs(node)
        name = e.op("MaxUnpool", incoming, positions, ctx.sizes(shape), **attrs)
        return ctx.held(name, out.type, order)
    wide = e.accumulator(x.dtype)
    zeros = e.op("Expand", e.const(0, wide), ctx.sizes((size_of(shape),)))
    flat_dy = e.op("Reshape", e.cast(incoming, wide), e.ints(-1))
    flat_at = e.op("Reshape", positions, e.ints(-1))
    total = e.op("ScatterElements", zeros, flat_at, flat_dy, axis=0, reduction="add")
    return ctx.held(ctx.reshape(e.cast(total, x.dtype), shape), out.type, order)


def _is_unpooled(node: Node) -> bool:
    """Whether MaxUnpool takes the sizes: it refuses windows that padding alone nearly fills, for
    the size that it would choose itself, though another one is given, is not positive."""
    spatial = zip(
        _spatial(node.inputs[1].shape), node.attrs["window"], node.attrs["strides"],
        node.attrs["padding"], strict=True,
    )  # fmt: skip
    sizes = ((1 if isinstance(n, Dim) else n, k, s, pair) for n, k, s, pair in spatial)
    return all((n - 1) * s - lo - hi + k > 0 for n, k, s, (lo, hi) in sizes)


@lowering("avg_pool")
def _avg_pool(ctx: Lowering, node: Node) -> Tensor:
    x, out, e = node.inputs[0], node.output, ctx.e
    if x.dtype == f64:
        return _avg_pool_by_taps(ctx, node)
    order = channels_first(x.ndim)
    include = int(node.attrs["include_padding"])
    name = e.op("AveragePool", ctx.full(x, order), count_include_pad=include, **_onnx_attrs(node))
    return ctx.held(name, out.type, order)


def _avg_pool_by_taps(ctx: Lowering, node: Node) -> Tensor:
    x, out, e = node.inputs[0], node.output, ctx.e
    window, strides = node.attrs["window"], node.attrs["strides"]
    padded = pad_spatial(ctx, ctx.full(x), node.attrs["padding"], e.const(0, x.dtype))
    seen = taps(ctx, padded, _spatial(out.shape), window, strides, (1,) * len(window))
    counts, _ = _divisor(ctx, node, x.shape, out.type)
    return plain(e.op("Div", e.op("Sum", *seen), counts), out.type)


def _divisor(ctx: Lowering, node: Node, x: Shape, y: TensorType) -> tuple[str, Shape]:
    """What each window's sum is divided by: one number, or `[*out, 1]`."""
    padded = any(map(any, node.attrs["padding"])) and not node.attrs["include_padding"]
    if padded and any(isinstance(d, Dim) for d in (*_spatial(x), *_spatial(y.shape))):
        return _open_counts(ctx, node, x, y), (*_spatial(y.shape), 1)
    counts = _counts(node, _spatial(x), _spatial(y.shape))  # type: ignore[arg-type]
    return ctx.e.const(counts, y.dtype), counts.shape


def _open_counts(ctx: Lowering, node: Node, x: Shape, y: TensorType) -> str:
    """The elements of each window as sums of ones, of sizes known when the model runs."""
    e, attrs = ctx.e, node.attrs
    window = attrs["window"]
    ones = e.op("Expand", e.const(1, y.dtype), ctx.sizes((1, *_spatial(x), 1)))
    padded = pad_spatial(ctx, ones, attrs["padding"], e.const(0, y.dtype))
    seen = taps(ctx, padded, _spatial(y.shape), window, attrs["strides"], (1,) * len(window))
    return e.squeeze(e.op("Sum", *seen), [0])


def _counts(node: Node, size: Ints, out: Ints) -> np.ndarray:
    """What each window's sum is divided by: one number, or `[*out, 1]`."""
    window, strides, padding = (node.attrs[k] for k in ("window", "strides", "padding"))
    if node.attrs["include_padding"] or not any(map(any, padding)):
        return np.asarray(np.prod(window), np.float64)
    counts = np.ones((*out, 1))
    for axis, (n, k, s, (low, _)) in enumerate(zip(size, window, strides, padding, strict=True)):
        starts = np.arange(out[axis]) * s - low
        met = np.minimum(starts + k, n) - np.maximum(starts, 0)
        counts = counts * met.reshape([-1 if a == axis else 1 for a in range(len(out) + 1)])
    return counts


@lowering("avg_pool_grad")
def _avg_pool_grad(ctx: Lowering, node: Node) -> Tensor:
    dy, out, e = node.inputs[0], node.output, ctx.e
    window, strides, padding = (node.attrs[k] for k in ("window", "strides", "padding"))
    counts, shape = _divisor(ctx, node, out.shape, dy.type)
    divisor = ctx.renamed(plain(counts, TensorType(dy.dtype, shape)), dy.type,
                          range(1, dy.ndim) if shape else ())  # fmt: skip
    share = ctx.pointwise(lambda a, b: e.op("Div", a, b), [ctx[dy], divisor], dy.type)
    if window == strides and not any(map(any, padding)):
        return _repeated(ctx, share, out, window)
    if dy.dtype == f64:
        return _avg_grad_by_taps(ctx, node, share)
    return _spread_by_conv(ctx, share, out, window, strides, padding)


def _repeated(ctx: Lowering, share: Tensor, out: Value, window: Ints) -> Tensor:
    """Windows side by side: each share is repeated over its window, the rest is zero."""
    e = ctx.e
    order = channels_first(out.ndim)
    sizes = [share.type.shape[a] for a in order]
    split, repeated, joined = list(sizes[:2]), list(sizes[:2]), list(sizes[:2])
    for n, k in zip(sizes[2:], window, strict=True):
        split, repeated, joined = [*split, n, 1], [*repeated, n, k], [*joined, n * k]
    name = ctx.reshape(ctx.full(share, order), tuple(split))
    name = ctx.reshape(e.op("Expand", name, ctx.sizes(tuple(repeated))), tuple(joined))
    rest = tuple(out.shape[a] - n for a, n in zip(order[2:], joined[2:], strict=True))
    return ctx.held(fit(ctx, name, rest), out.type, order)


def _spread_by_conv(
    ctx: Lowering, share: Tensor, out: Value, window: Ints, strides: Ints, padding: Padding
) -> Tensor:
    """Overlapping windows: a depthwise ConvTranspose with a kernel of ones."""
    e = ctx.e
    order = channels_first(out.ndim)
    channels = int(out.shape[-1])
    ones = e.const(np.ones((channels, 1, *window)), out.dtype)
    sizes = zip(
        _spatial(out.shape), _spatial(share.type.shape), window, strides, padding, strict=True
    )
    extra = [n + lo + hi - k - s * (m - 1) for n, m, k, s, (lo, hi) in sizes]
    attrs: dict[str, Any] = {"pads": flat(padding), "output_padding": extra}
    grow: Shape = ()
    if any(isinstance(d, Dim) for d in extra):  # then nothing is cut at the end, and it is fitted
        attrs = {"pads": (*(lo for lo, _ in padding), *[0] * len(window))}
        grow = tuple(d - hi for d, (_, hi) in zip(extra, padding, strict=True))
    name = e.op(
        "ConvTranspose", ctx.full(share, order), ones, kernel_shape=window, strides=strides,
        group=channels, **attrs,
    )  # fmt: skip
    return ctx.held(fit(ctx, name, grow), out.type, order)


def _avg_grad_by_taps(ctx: Lowering, node: Node, share: Tensor) -> Tensor:
    out = node.output
    window, strides, padding = (node.attrs[k] for k in ("window", "strides", "padding"))
    name, sizes = ctx.full(share), _spatial(out.shape)
    padded = [lo + n + hi for n, (lo, hi) in zip(sizes, padding, strict=True)]
    shares = [(tap, name) for tap in np.ndindex(window)]
    total = untap(ctx, shares, share.type.shape, padded, strides, (1,) * len(window))
    return plain(crop_spatial(ctx, total, [lo for lo, _ in padding], sizes), out.type)
