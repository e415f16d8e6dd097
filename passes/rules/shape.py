"""Rules about moving elements: broadcast, reshape, transpose, slice, pad, reverse, concat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.errors import VerifyError
from ...ir.graph import Value
from ...ir.op import get
from ...ir.pattern import number_of
from ...ir.rewrite import Rule
from ...ir.sugar import full
from ...ir.types import Shape, Size
from .algebra import power_of_two

Ints = tuple[int, ...]

UNARY = (
    "neg", "abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "sin", "cos", "tanh",
    "sigmoid", "erf", "floor", "ceil", "round", "relu", "is_finite", "logical_not", "bit_not",
    "cast",
)  # fmt: skip
BINARY = (
    "add", "sub", "mul", "div", "pow", "remainder", "maximum", "minimum", "logical_and",
    "logical_or", "bit_and", "bit_or", "bit_xor", "shift_left", "shift_right", "equal",
    "not_equal", "less", "less_equal", "greater", "greater_equal",
)  # fmt: skip


def reshaped(x: Value, shape: Shape) -> Value:
    """`x` in another shape; itself if it has that."""
    return x if x.shape == shape else get("reshape")(x, shape=shape)


def broadcast_of(x: Value, shape: Shape, axes: Ints) -> Value:
    return get("broadcast")(x, shape=shape, axes=axes)


def again(out: Value, *operands: Value) -> Value:
    """The op of `out` on other operands."""
    assert out.node is not None
    return get(out.node.op.name)(*operands, **out.node.attrs)


def _spread_number(out: Value) -> bool | str:
    """Whether `out` is a number that is not yet one broadcast of one scalar constant."""
    assert out.node is not None
    source = out.node.inputs[0]
    if out.node.op.name == "broadcast" and source.is_constant and source.shape == ():
        return "it is a plain broadcast of a scalar already"
    return out.type.size != 1 or "a single element is folded instead"


def _repeats_nothing(x: Value, shape: Shape, axes: Ints) -> bool | str:
    kept = all(x.shape[i] == shape[a] for i, a in enumerate(axes))
    added = [shape[a] for a in range(len(shape)) if a not in axes]
    return (kept and all(d == 1 for d in added)) or "it repeats elements"


def _has_ones(x: Value) -> bool | str:
    return any(d == 1 for d in x.shape) or f"{x.type} has no axis of size 1"


def _drop_ones(x: Value, shape: Shape, axes: Ints) -> Value:
    kept = [i for i, d in enumerate(x.shape) if d != 1]
    squeezed = reshaped(x, tuple(x.shape[i] for i in kept))
    return broadcast_of(squeezed, shape, tuple(axes[i] for i in kept))


def _broadcast_transposed(x: Value, axes: Ints, q: Ints, out: Value) -> Value:
    """`transpose(broadcast(x))` as a broadcast, of a transposed `x` if the order changes."""
    targets = [q.index(a) for a in axes]
    order = sorted(range(len(axes)), key=targets.__getitem__)
    if order != list(range(len(axes))):
        x = get("transpose")(x, permutation=tuple(order))
    return broadcast_of(x, out.shape, tuple(sorted(targets)))


def _moves_only_ones(x: Value, q: Ints) -> bool | str:
    moved = [a for a in q if x.shape[a] != 1]
    return moved == sorted(moved) or "it changes the order of elements"


def _is_whole(x: Value, starts: Ints, limits: Shape, strides: Ints) -> bool | str:
    whole = limits == x.shape and not any(starts) and all(s == 1 for s in strides)
    return whole or "it leaves elements out"


def _static_slices(a: Shape, b: Shape) -> bool | str:
    fixed = all(isinstance(d, int) for d in (*a, *b))
    return fixed or "a bound is symbolic"


def _slice_slice(x: Value, s1: Ints, t1: Ints, s2: Ints, e2: Ints, t2: Ints, out: Value) -> Value:
    starts = tuple(a + b * t for a, b, t in zip(s1, s2, t1, strict=True))
    strides = tuple(a * b for a, b in zip(t1, t2, strict=True))
    limits = tuple(
        start + (int(d) - 1) * stride + 1 if int(d) else start
        for start, d, stride in zip(starts, out.shape, strides, strict=True)
    )
    return get("slice")(x, starts=starts, limits=limits, strides=strides)


def _no_padding(low: Ints, high: Ints, interior: Ints) -> bool | str:
    return not any((*low, *high, *interior)) or "it adds or drops elements"


def _pads_with_itself(c: Any, value: float) -> bool | str:
    return bool(c == value) or f"it pads {c} with {value}"


def _same_shape(x: Value, y: Value) -> bool | str:
    return x.shape == y.shape or f"{x.type} and {y.type} differ in shape"


def not_a_number(x: Value) -> bool | str:
    return number_of(x) is None or "the operand is a number, which is folded instead"


def _scales(c: Value, k: Any, out: Value) -> bool | str:
    """Whether a product with `c` may be scaled by a small power of two by scaling `c`."""
    if out.dtype.bits < 32:
        return f"{out.dtype} overflows easily"
    return not_a_number(c) if not_a_number(c) is not True else power_of_two(k, out.dtype, 16)


def _expands(x: Value, out: Value) -> bool | str:
    fewer: Size = x.type.size
    return fewer != out.type.size or "the broadcast repeats nothing"


def _whole_halves(
    x: Value, starts: Sequence[Ints], limits: Sequence[Shape], strides: Sequence[Ints], axis: int
) -> bool | str:
    """Whether two slices of `x` that are joined along `axis` give `x` again."""
    if any(t != 1 for steps in strides for t in steps):
        return "a slice has strides"
    for a in range(x.ndim):
        first, last = starts[0][a], limits[1][a]
        if first != 0 or last != x.shape[a]:
            return "the slices leave elements out"
        joined = limits[0][a] == starts[1][a] if a == axis else (
            limits[0][a] == x.shape[a] and starts[1][a] == 0)  # fmt: skip
        if not joined:
            return "the slices do not meet"
    return True


_TILES = 16


def _tiles(out: Value) -> list[Value] | str:
    """The pads that `out` adds up, in order along the axis that they fill side by side."""
    found: list[Value] = []
    pending = [out]
    while pending:
        node = pending.pop().node
        if node is not None and node.op.name == "add" and len(pending) + len(found) < _TILES:
            pending += node.inputs
        elif node is None or node.op.name != "pad":
            return "not all that it adds are pads"
        else:
            found.append(node.output)
    if not out.type.is_static or any(not _is_tile(v) for v in found):
        return "a pad is not one with zeros along one axis"
    axes = {axis for v in found for axis in _padded_axes(v)}
    if len(axes) != 1:
        return "they are padded along several axes"
    (axis,) = axes
    found.sort(key=lambda v: _low(v, axis))
    ends = [_low(v, axis) + v.node.inputs[0].shape[axis] for v in found if v.node]
    if [_low(v, axis) for v in found] != [0, *ends[:-1]] or ends[-1] != out.shape[axis]:
        return "they leave elements out or overlap"
    return found


def _is_tile(v: Value) -> bool:
    assert v.node is not None
    attrs = v.node.attrs
    return attrs["value"] == 0 and not any(attrs["interior"]) and len(_padded_axes(v)) == 1


def _padded_axes(v: Value) -> list[int]:
    assert v.node is not None
    pairs = zip(v.node.attrs["low"], v.node.attrs["high"], strict=True)
    return [axis for axis, pair in enumerate(pairs) if any(pair)]


def _low(v: Value, axis: int) -> int:
    assert v.node is not None
    return int(v.node.attrs["low"][axis])


def _may_join(out: Value) -> bool | str:
    tiles = _tiles(out)
    return tiles if isinstance(tiles, str) else True


def _join(out: Value) -> Value:
    tiles = _tiles(out)
    if isinstance(tiles, str):
        raise VerifyError(f"concat of what is added: {tiles}")
    (axis,) = _padded_axes(tiles[0])
    return get("concat")(*(v.node.inputs[0] for v in tiles if v.node), axis=axis)


NUMBERS = (
    Rule("number-moved",
         lambda p, c: p.any(("broadcast", "reshape", "transpose", "slice", "reverse"), p.const(c)),
         where=_spread_number,
         replace=lambda c, out: full(out.shape, c, out.dtype), keeps_inner=True),
    Rule("number-padded", lambda p, c, v: p.pad(p.const(c), value=v),
         where=lambda c, v: _pads_with_itself(c, v),
         replace=lambda c, out: full(out.shape, c, out.dtype), keeps_inner=True),
)  # fmt: skip

BROADCASTS = (
    Rule("broadcast-nothing", lambda p, x, s, a: p.broadcast(x, shape=s, axes=a),
         where=lambda x, s, a: _repeats_nothing(x, s, a), replace=lambda x, s: reshaped(x, s)),
    Rule("broadcast-drop-ones", lambda p, x, s, a: p.broadcast(x, shape=s, axes=a),
         where=lambda x: _has_ones(x), replace=lambda x, s, a: _drop_ones(x, s, a)),
    Rule("broadcast-broadcast",
         lambda p, x, s1, a1, s2, a2: p.broadcast(p.broadcast(x, shape=s1, axes=a1),
                                                  shape=s2, axes=a2),
         replace=lambda x, a1, s2, a2: broadcast_of(x, s2, tuple(a2[i] for i in a1)),
         keeps_inner=True),
    Rule("unary-of-broadcast",
         lambda p, x, s, a: p.any(UNARY, p.broadcast(x, shape=s, axes=a)),
         where=lambda x, out: _expands(x, out) if not_a_number(x) is True else not_a_number(x),
         replace=lambda x, s, a, out: broadcast_of(again(out, x), s, a), keeps_inner=True),
    Rule("binary-of-broadcasts",
         lambda p, x, y, s, a: p.any(BINARY, p.broadcast(x, shape=s, axes=a),
                                     p.broadcast(y, shape=s, axes=a)),
         where=_same_shape,
         replace=lambda x, y, s, a, out: broadcast_of(again(out, x, y), s, a), keeps_inner=True),
    Rule("broadcast-and-number",
         lambda p, x, s, a, c: p.any(BINARY, p.broadcast(x, shape=s, axes=a), p.const(c)),
         where=not_a_number,
         replace=lambda x, s, a, c, out: broadcast_of(
             again(out, x, full(x.shape, c, x.dtype)), s, a), keeps_inner=True),
    Rule("number-and-broadcast",
         lambda p, x, s, a, c: p.any(BINARY, p.const(c), p.broadcast(x, shape=s, axes=a)),
         where=not_a_number,
         replace=lambda x, s, a, c, out: broadcast_of(
             again(out, full(x.shape, c, x.dtype), x), s, a), keeps_inner=True),
)  # fmt: skip

FACTORS = (
    Rule("scale-factor",
         lambda p, x, c, s, a, k: p.mul(p.mul(x, p.broadcast(c, shape=s, axes=a)), p.const(k)),
         where=lambda c, k, out: _scales(c, k, out),
         replace=lambda x, c, s, a, k: get("mul")(
             x, broadcast_of(get("mul")(c, full(c.shape, k, c.dtype)), s, a))),
)  # fmt: skip

RESHAPES = (
    Rule("reshape-same", lambda p, x, s: p.reshape(x, shape=s),
         where=lambda x, s: x.shape == s or "the shape changes", replace=lambda x: x),
    Rule("reshape-reshape", lambda p, x, s: p.reshape(p.reshape(x), shape=s),
         replace=lambda x, s: reshaped(x, s), keeps_inner=True),
    Rule("transpose-ones", lambda p, x, q: p.transpose(x, permutation=q),
         where=lambda x, q: _moves_only_ones(x, q), replace=lambda x, out: reshaped(x, out.shape)),
    Rule("transpose-transpose",
         lambda p, x, q, r: p.transpose(p.transpose(x, permutation=q), permutation=r),
         replace=lambda x, q, r: get("transpose")(x, permutation=tuple(q[a] for a in r)),
         keeps_inner=True),
    Rule("transpose-broadcast",
         lambda p, x, a, q: p.transpose(p.broadcast(x, axes=a), permutation=q),
         replace=lambda x, a, q, out: _broadcast_transposed(x, a, q, out), keeps_inner=True),
)  # fmt: skip

SLICES = (
    Rule("slice-all", lambda p, x, s, e, t: p.slice(x, starts=s, limits=e, strides=t),
         where=lambda x, s, e, t: _is_whole(x, s, e, t), replace=lambda x: x),
    Rule("slice-slice",
         lambda p, x, s1, e1, t1, s2, e2, t2: p.slice(
             p.slice(x, starts=s1, limits=e1, strides=t1), starts=s2, limits=e2, strides=t2),
         where=lambda e1, e2: _static_slices(e1, e2), replace=_slice_slice, keeps_inner=True),
    Rule("pad-nothing", lambda p, x, a, b, i: p.pad(x, low=a, high=b, interior=i),
         where=lambda a, b, i: _no_padding(a, b, i), replace=lambda x: x),
    Rule("reverse-reverse", lambda p, x, a: p.reverse(p.reverse(x, axes=a), axes=a),
         replace=lambda x: x, keeps_inner=True),
    Rule("concat-one", lambda p, x: p.concat(x), replace=lambda x: x),
    Rule("concat-slices",
         lambda p, x, s1, e1, t1, s2, e2, t2, a: p.concat(
             p.slice(x, starts=s1, limits=e1, strides=t1),
             p.slice(x, starts=s2, limits=e2, strides=t2), axis=a),
         where=lambda x, s1, e1, t1, s2, e2, t2, a: _whole_halves(
             x, (s1, s2), (e1, e2), (t1, t2), a),
         replace=lambda x: x, keeps_inner=True),
    Rule("sum-of-pads", lambda p, x, y: p.add(x, p.pad(y)),
         where=lambda out: _may_join(out), replace=lambda out: _join(out), keeps_inner=True),
)  # fmt: skip

SHAPE = (*NUMBERS, *BROADCASTS, *FACTORS, *RESHAPES, *SLICES)
