"""Rules about matrix products and convolutions."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Value
from ...ir.op import get
from ...ir.rewrite import Rule
from ...ir.types import Dim

Ints = tuple[int, ...]


def _flags(out: Value) -> tuple[bool, bool]:
    assert out.node is not None
    attrs = out.node.attrs
    return bool(attrs.get("transpose_a", False)), bool(attrs.get("transpose_b", False))


def _matmul(a: Value, b: Value, transpose_a: bool, transpose_b: bool) -> Value:
    return get("matmul")(a, b, transpose_a=transpose_a, transpose_b=transpose_b)


def _swaps_last(q: Ints) -> bool | str:
    rank = len(q)
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    return q == swapped or f"the permutation {q} does more than swap the last two axes"


def _flip_a(a: Value, b: Value, out: Value) -> Value:
    transpose_a, transpose_b = _flags(out)
    return _matmul(a, b, not transpose_a, transpose_b)


def _flip_b(a: Value, b: Value, out: Value) -> Value:
    transpose_a, transpose_b = _flags(out)
    return _matmul(a, b, transpose_a, not transpose_b)


def _transposed(a: Value, b: Value, ta: bool, tb: bool) -> Value:
    """`(op(a) op(b))^T = op(b)^T op(a)^T`"""
    return _matmul(b, a, not tb, not ta)


def _zero_padding(low: Ints, high: Ints, interior: Ints, value: float) -> bool | str:
    """Whether a pad can become the padding of a convolution."""
    if value != 0:
        return f"it pads with {value}"
    if any(isinstance(width, Dim) for width in (*low, *high)):
        return "it depends on an open size"
    if any(interior) or min((*low, *high)) < 0:
        return "it pads between elements or crops"
    outer = (low[0], high[0], low[-1], high[-1])
    return not any(outer) or "it pads the batch or the channels"


def _undilated(out: Value) -> bool | str:
    assert out.node is not None
    dilation = out.node.attrs["input_dilation"]
    return all(d == 1 for d in dilation) or "the convolution dilates its input"


def _padded(op: str, x: Value, other: Value, low: Ints, high: Ints, out: Value) -> Value:
    assert out.node is not None
    attrs: dict[str, Any] = dict(out.node.attrs)
    added = zip(low[1:-1], high[1:-1], attrs["padding"], strict=True)
    attrs["padding"] = tuple((a + p[0], b + p[1]) for a, b, p in added)
    return get(op)(x, other, **attrs)


def _may_pad(a: Ints, b: Ints, i: Ints, v: float, out: Value) -> bool | str:
    verdict = _zero_padding(a, b, i, v)
    return _undilated(out) if verdict is True else verdict


CONTRACTION = (
    Rule("matmul-transposed-a",
         lambda p, a, b, q: p.matmul(p.transpose(a, permutation=q), b),
         where=lambda q: _swaps_last(q), replace=_flip_a, keeps_inner=True),
    Rule("matmul-transposed-b",
         lambda p, a, b, q: p.matmul(a, p.transpose(b, permutation=q)),
         where=lambda q: _swaps_last(q), replace=_flip_b, keeps_inner=True),
    Rule("transposed-matmul",
         lambda p, a, b, q, ta, tb: p.transpose(
             p.matmul(a, b, transpose_a=ta, transpose_b=tb), permutation=q),
         where=lambda q: _swaps_last(q), replace=_transposed),
    Rule("pad-conv",
         lambda p, x, w, a, b, i, v: p.conv(p.pad(x, low=a, high=b, interior=i, value=v), w),
         where=_may_pad,
         replace=lambda x, w, a, b, out: _padded("conv", x, w, a, b, out), keeps_inner=True),
    Rule("pad-conv-kernel-grad",
         lambda p, x, g, a, b, i, v: p.conv_kernel_grad(
             p.pad(x, low=a, high=b, interior=i, value=v), g),
         where=_may_pad,
         replace=lambda x, g, a, b, out: _padded("conv_kernel_grad", x, g, a, b, out),
         keeps_inner=True),
)  # fmt: skip
