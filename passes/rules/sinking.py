"""Rules that move reshapes behind elementwise ops, so that these stay in the shape of a kernel.

A dense layer over `[N, T, K]` multiplies `[N*T, K]` and reshapes; its bias and activation should
be the product's epilogue, and the reshape of what they give costs nothing.
"""

from __future__ import annotations

from ...ir.graph import Value
from ...ir.op import get
from ...ir.rewrite import Rule
from ...ir.sugar import full
from ...ir.types import Shape, Size, size_of
from .shape import BINARY, UNARY, again, broadcast_of, not_a_number

Ints = tuple[int, ...]


def kept_axes(before: Shape, after: Shape) -> dict[int, int]:
    """Axes of `after` that a reshape from `before` leaves alone, and which they were."""
    starts: dict[tuple[Size, Size], int] = {}
    for axis, size in enumerate(before):
        starts.setdefault((size_of(before[:axis]), size), axis)
    found = {axis: starts.get((size_of(after[:axis]), size)) for axis, size in enumerate(after)}
    return {axis: old for axis, old in found.items() if old is not None}


def _fits(x: Value, b: Value, s: Shape, a: Ints) -> bool | str:
    """Whether a broadcast of `b` to the reshaped `x` is a broadcast to `x` as well."""
    if not_a_number(b) is not True:
        return True
    kept = kept_axes(x.shape, s)
    varying = [axis for i, axis in enumerate(a) if b.shape[i] != 1]
    if len(varying) != len(a):
        return "the broadcast operand has axes of size 1"
    return all(axis in kept for axis in a) or "the reshape changes an axis that is broadcast to"


def _unreshaped(x: Value, b: Value, s: Shape, a: Ints) -> Value:
    kept = kept_axes(x.shape, s)
    return broadcast_of(b, x.shape, tuple(kept[axis] for axis in a))


def _reshaped(value: Value, out: Value) -> Value:
    return get("reshape")(value, shape=out.shape)


def _like(x: Value, y: Value) -> bool | str:
    return x.shape == y.shape or f"{x.type} and {y.type} differ in shape"


def _changes(x: Value, s: Shape) -> bool | str:
    return x.shape != s or "it is no reshape"


def _number(x: Value, c: object, dtype_of: Value) -> Value:
    return full(x.shape, c, dtype_of.dtype)


SINKING = (
    Rule("unary-of-reshape", lambda p, x, s: p.any(UNARY, p.reshape(x, shape=s)),
         where=_changes,
         replace=lambda x, out: _reshaped(again(out, x), out), keeps_inner=True),
    Rule("binary-of-reshapes",
         lambda p, x, y, s: p.any(BINARY, p.reshape(x, shape=s), p.reshape(y, shape=s)),
         where=_like,
         replace=lambda x, y, out: _reshaped(again(out, x, y), out), keeps_inner=True),
    Rule("reshape-and-broadcast",
         lambda p, x, b, s, a: p.any(BINARY, p.reshape(x, shape=s),
                                     p.broadcast(b, shape=s, axes=a)),
         where=_fits,
         replace=lambda x, b, s, a, out: _reshaped(
             again(out, x, _unreshaped(x, b, s, a)), out), keeps_inner=True),
    Rule("broadcast-and-reshape",
         lambda p, x, b, s, a: p.any(BINARY, p.broadcast(b, shape=s, axes=a),
                                     p.reshape(x, shape=s)),
         where=_fits,
         replace=lambda x, b, s, a, out: _reshaped(
             again(out, _unreshaped(x, b, s, a), x), out), keeps_inner=True),
    Rule("select-of-reshapes",
         lambda p, c, x, y, s: p.select(p.reshape(c, shape=s), p.reshape(x, shape=s),
                                        p.reshape(y, shape=s)),
         where=lambda c, x, y: _like(c, x) if _like(c, x) is not True else _like(x, y),
         replace=lambda c, x, y, out: _reshaped(again(out, c, x, y), out), keeps_inner=True),
    Rule("select-of-reshape-and-number",
         lambda p, c, x, k, s: p.select(p.reshape(c, shape=s), p.reshape(x, shape=s), p.const(k)),
         where=lambda c, x: _like(c, x),
         replace=lambda c, x, k, out: _reshaped(again(out, c, x, _number(x, k, out)), out),
         keeps_inner=True),
    Rule("select-of-number-and-reshape",
         lambda p, c, x, k, s: p.select(p.reshape(c, shape=s), p.const(k), p.reshape(x, shape=s)),
         where=lambda c, x: _like(c, x),
         replace=lambda c, x, k, out: _reshaped(again(out, c, _number(x, k, out), x), out),
         keeps_inner=True),
)  # fmt: skip
