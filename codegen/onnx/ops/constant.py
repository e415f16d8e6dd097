"""Constants, counting and random bits."""

from __future__ import annotations

import numpy as np

from ....ir.graph import Node
from ....ir.types import Dim, Size, i32, i64, size_of, u32
from ..lowering import Lowering, Tensor, lowering, plain

_IOTA_LIMIT = 4096
"""Elements up to which counting is stored in the file, not computed."""


@lowering("constant")
def _constant(ctx: Lowering, node: Node) -> Tensor:
    array: np.ndarray = node.attrs["value"]
    out = node.output
    if out in ctx.names:  # a variable's value, kept as it is under its name
        return plain(ctx.e.const(array, name=ctx.names[out]), out.type)
    if array.size > 1 and _is_uniform(array):
        return Tensor(ctx.e.const(array.reshape(-1)[0]), out.type, (), ())
    layer = node.source.layer
    named = f"{layer}/constant" if layer and array.size > 1 else ""
    return plain(ctx.e.const(array, name=named), out.type)


def _is_uniform(array: np.ndarray) -> bool:
    """Whether all elements have the bits of the first."""
    raw = np.ascontiguousarray(array).reshape(-1)
    view = raw.view(f"V{raw.dtype.itemsize}") if raw.dtype.kind == "V" else raw
    bits = view.view(np.uint8).reshape(raw.size, -1)
    return bool((bits == bits[0]).all())


def count_to(ctx: Lowering, size: Size) -> str:
    """0, 1, ..., size - 1 as an i64 vector."""
    if isinstance(size, int) and size <= _IOTA_LIMIT:
        return ctx.e.const(np.arange(size, dtype=np.int64))
    limit = ctx.e.const(size, i64) if isinstance(size, int) else ctx.e.squeeze(ctx.size(size), [0])
    return ctx.e.op("Range", ctx.e.const(0, i64), limit, ctx.e.const(1, i64))


@lowering("iota")
def _iota(ctx: Lowering, node: Node) -> Tensor:
    axis, out = node.attrs["axis"], node.output
    size = out.shape[axis]
    if isinstance(size, int) and size <= _IOTA_LIMIT:
        name = ctx.e.const(np.arange(size).astype(out.dtype.numpy))
    else:
        name = ctx.e.cast(count_to(ctx, size), out.dtype)
    return Tensor(name, out.type, (axis,), (size,))


@lowering("dimension_size")
def _dimension_size(ctx: Lowering, node: Node) -> Tensor:
    size = node.inputs[0].shape[node.attrs["axis"]]
    if not isinstance(size, Dim):
        return plain(ctx.e.const(size, i32), node.output.type)
    return plain(ctx.e.squeeze(ctx.e.cast(ctx.size(size), i32), [0]), node.output.type)


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


@lowering("rng_bits")
def _rng_bits(ctx: Lowering, node: Node) -> Tensor:
    """Word 0 of Threefry2x32-20 in u32 arithmetic, counter (i, stream).

    i has no high word because an ONNX tensor of 2**32 elements does not fit anyway.
    """
    e, shape = ctx.e, node.output.shape
    key = ctx.full(node.inputs[0])
    k0 = e.op("Slice", key, e.ints(0), e.ints(1), e.ints(0))
    k1 = e.op("Slice", key, e.ints(1), e.ints(2), e.ints(0))
    parity = e.const(_PARITY, u32)
    keys = (k0, k1, e.op("BitwiseXor", e.op("BitwiseXor", k0, k1), parity))
    x0 = e.op("Add", e.cast(count_to(ctx, size_of(shape)), u32), k0)
    x1 = k1  # the same for all elements until the first addition to x0
    if node.inputs[0].shape[0] == 3:
        x1 = e.op("Add", k1, e.op("Slice", key, e.ints(2), e.ints(3), e.ints(0)))
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = e.op("Add", x0, x1)
            x1 = e.op("BitwiseXor", _rotated(ctx, x1, rotation), x0)
        x0 = e.op("Add", x0, keys[(group + 1) % 3])
        step = e.op("Add", keys[(group + 2) % 3], e.const(group + 1, u32))
        x1 = e.op("Add", x1, step)
    return plain(ctx.reshape(x0, shape), node.output.type)


def _rotated(ctx: Lowering, x: str, bits: int) -> str:
    """Rotate to the left. Mul and Add do what a shift and an Or would, with faster kernels."""
    e = ctx.e
    left = e.op("Mul", x, e.const(1 << bits, u32))
    right = e.op("BitShift", x, e.const(32 - bits, u32), direction="RIGHT")
    return e.op("Add", left, right)
