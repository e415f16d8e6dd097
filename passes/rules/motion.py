"""Rules that move transposes, reshapes and broadcasts towards the results.

There they meet and cancel, or become part of a product, and what they leave behind is computed on
fewer elements or in the order in which it lies in memory. A transpose that others use too stays:
moved, it would be made once for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.graph import Value
from ...ir.op import get
from ...ir.rewrite import Rule
from ...ir.types import Shape, size_of
from .algebra import like
from .reduction import REDUCTIONS
from .shape import BINARY, UNARY, again, broadcast_of, not_a_number, reshaped
from .sinking import kept_axes

Ints = tuple[int, ...]


def _transpose(x: Value, q: Sequence[int]) -> Value:
    return x if list(q) == sorted(q) else get("transpose")(x, permutation=tuple(q))


# --- transposes ------------------------------------------------------------------------------


def _untransposed(b: Value, s: Shape, a: Ints, q: Ints) -> Value:
    """A broadcast to a transposed shape as one to the shape from before."""
    targets = [q[axis] for axis in a]
    order = sorted(range(len(a)), key=targets.__getitem__)
    shape = tuple(s[q.index(axis)] for axis in range(len(q)))
    return broadcast_of(_transpose(b, order), shape, tuple(sorted(targets)))


def _reduce_first(x: Value, q: Ints, a: Ints, out: Value) -> Value:
    """`reduce(transpose(x))` as a reduction, and a transpose of what is left if one is needed."""
    assert out.node is not None
    reduced = get(out.node.op.name)(x, axes=tuple(sorted(q[axis] for axis in a)))
    kept = [axis for i, axis in enumerate(q) if i not in a]
    return _transpose(reduced, [sorted(kept).index(axis) for axis in kept])


def _back(q: Ints, *attributes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Attributes with an entry for each axis, for the operand of the transpose."""
    return [tuple(entries[q.index(axis)] for axis in range(len(q))) for entries in attributes]


def _slice_first(x: Value, q: Ints, s: Ints, e: Shape, t: Ints) -> Value:
    starts, limits, strides = _back(q, s, e, t)
    return _transpose(get("slice")(x, starts=starts, limits=limits, strides=strides), q)


def _pad_first(x: Value, q: Ints, a: Ints, b: Ints, i: Ints, v: float) -> Value:
    low, high, interior = _back(q, a, b, i)
    return _transpose(get("pad")(x, low=low, high=high, interior=interior, value=v), q)


TRANSPOSES = (
    Rule("unary-of-transpose", lambda p, x, q: p.any(UNARY, p.transpose(x, permutation=q)),
         replace=lambda x, q, out: _transpose(again(out, x), q)),
    Rule("binary-of-transposes",
         lambda p, x, y, q: p.any(BINARY, p.transpose(x, permutation=q),
                                  p.transpose(y, permutation=q)),
         replace=lambda x, y, q, out: _transpose(again(out, x, y), q)),
    Rule("transpose-and-number",
         lambda p, x, q, c: p.any(BINARY, p.transpose(x, permutation=q), p.const(c)),
         replace=lambda x, q, c, out: _transpose(again(out, x, like(x, c)), q)),
    Rule("number-and-transpose",
         lambda p, x, q, c: p.any(BINARY, p.const(c), p.transpose(x, permutation=q)),
         replace=lambda x, q, c, out: _transpose(again(out, like(x, c), x), q)),
    Rule("transpose-and-broadcast",
         lambda p, x, q, b, s, a: p.any(BINARY, p.transpose(x, permutation=q),
                                        p.broadcast(b, shape=s, axes=a)),
         where=lambda b: not_a_number(b),
         replace=lambda x, q, b, s, a, out: _transpose(
             again(out, x, _untransposed(b, s, a, q)), q)),
    Rule("broadcast-and-transpose",
         lambda p, x, q, b, s, a: p.any(BINARY, p.broadcast(b, shape=s, axes=a),
                                        p.transpose(x, permutation=q)),
         where=lambda b: not_a_number(b),
         replace=lambda x, q, b, s, a, out: _transpose(
             again(out, _untransposed(b, s, a, q), x), q)),
    Rule("select-of-transposes",
         lambda p, c, x, y, q: p.select(p.transpose(c, permutation=q),
                                        p.transpose(x, permutation=q),
                                        p.transpose(y, permutation=q)),
         replace=lambda c, x, y, q, out: _transpose(again(out, c, x, y), q)),
    Rule("reduce-of-transpose",
         lambda p, x, q, a: p.any(REDUCTIONS, p.transpose(x, permutation=q), axes=a),
         replace=_reduce_first),
    Rule("slice-of-transpose",
         lambda p, x, q, s, e, t: p.slice(p.transpose(x, permutation=q),
                                          starts=s, limits=e, strides=t),
         replace=_slice_first),
    Rule("pad-of-transpose",
         lambda p, x, q, a, b, i, v: p.pad(p.transpose(x, permutation=q),
                                           low=a, high=b, interior=i, value=v),
         replace=_pad_first),
    Rule("reverse-of-transpose",
         lambda p, x, q, a: p.reverse(p.transpose(x, permutation=q), axes=a),
         replace=lambda x, q, a: _transpose(
             get("reverse")(x, axes=tuple(sorted(q[axis] for axis in a))), q)),
)  # fmt: skip


# --- reshapes --------------------------------------------------------------------------------


def _groups(before: Shape, after: Shape) -> list[tuple[range, range]]:
    """Runs of axes that a reshape turns into each other, from first to last."""
    groups = []
    i = j = 0
    for end, count in enumerate((size_of(before[: k + 1]) for k in range(len(before))), 1):
        ends = [k for k in range(j, len(after) + 1) if size_of(after[:k]) == count]
        if ends and (ends[0] > j or end == len(before)):
            last = ends[-1] if end == len(before) else ends[0]
            groups.append((range(i, end), range(j, last)))
            i, j = end, last
    return groups


def _reduced_groups(x: Value, s: Shape, a: Ints) -> tuple[int, ...] | str:
    """The axes of `x` that a reduction of its reshape takes away whole."""
    if 0 in (*x.shape, *s):
        return "there are no elements"
    axes: list[int] = []
    for before, after in _groups(x.shape, s):
        inside = [axis in a for axis in after]
        if any(inside) and not all(inside):
            return "it reduces a part of what the reshape joins or splits"
        axes += before if any(inside) else ()
    return tuple(axes) or "the reshape makes the axes that are reduced"


def _may_reduce_first(x: Value, s: Shape, a: Ints) -> bool | str:
    if x.shape == s:
        return "it is no reshape"
    found = _reduced_groups(x, s, a)
    return found if isinstance(found, str) else True


def _reduce_unreshaped(x: Value, s: Shape, a: Ints, out: Value) -> Value:
    assert out.node is not None
    axes = _reduced_groups(x, s, a)
    return reshaped(get(out.node.op.name)(x, axes=axes), out.shape)


def _slices_kept(x: Value, s: Shape, b: Ints, e: Shape, t: Ints) -> bool | str:
    """Whether a slice of a reshape leaves the axes whole that the reshape makes."""
    kept = kept_axes(x.shape, s)
    cut = [axis for axis in range(len(s)) if b[axis] or e[axis] != s[axis] or t[axis] != 1]
    return all(axis in kept for axis in cut) or "it cuts an axis that the reshape makes"


def _slice_unreshaped(x: Value, s: Shape, b: Ints, e: Shape, t: Ints, out: Value) -> Value:
    starts, limits, strides = [0] * x.ndim, list(x.shape), [1] * x.ndim
    for axis, old in kept_axes(x.shape, s).items():
        starts[old], limits[old], strides[old] = b[axis], e[axis], t[axis]
    part = get("slice")(x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))
    return reshaped(part, out.shape)


RESHAPES = (
    Rule("reduce-of-reshape",
         lambda p, x, s, a: p.any(REDUCTIONS, p.reshape(x, shape=s), axes=a),
         where=_may_reduce_first, replace=_reduce_unreshaped, keeps_inner=True),
    Rule("slice-of-reshape",
         lambda p, x, s, b, e, t: p.slice(p.reshape(x, shape=s), starts=b, limits=e, strides=t),
         where=_slices_kept, replace=_slice_unreshaped, keeps_inner=True),
)  # fmt: skip


# --- broadcasts ------------------------------------------------------------------------------


def _varying(x: Value, s: Shape, a: Ints, over: Ints) -> Ints:
    """Axes of `x` that a reduction of its broadcast runs over, element by element."""
    return tuple(i for i, axis in enumerate(a) if axis in over and x.shape[i] == s[axis])


def _reduces_operand(x: Value, s: Shape, a: Ints, o: Ints) -> bool | str:
    if x.shape == tuple(s[axis] for axis in o):
        return "nothing of the operand would be left"
    return bool(_varying(x, s, a, o)) or "it reduces repeated elements alone"


def _reduce_operand(x: Value, s: Shape, a: Ints, o: Ints, out: Value) -> Value:
    """Reduce what varies before it is repeated; then what is repeated."""
    assert out.node is not None
    op, gone = get(out.node.op.name), _varying(x, s, a, o)
    left = [axis for axis in range(len(s)) if axis not in [a[i] for i in gone]]
    shape = tuple(s[axis] for axis in left)
    axes = tuple(left.index(axis) for i, axis in enumerate(a) if i not in gone)
    spread = broadcast_of(op(x, axes=gone), shape, axes)
    rest = tuple(i for i, axis in enumerate(left) if axis in o)
    return op(spread, axes=rest) if rest else spread


def _slice_operand(x: Value, s: Shape, a: Ints, b: Ints, e: Shape, t: Ints, out: Value) -> Value:
    """Cut what is repeated, then repeat it."""
    whole = [x.shape[i] != s[axis] for i, axis in enumerate(a)]
    part = get("slice")(
        x,
        starts=tuple(0 if w else b[axis] for w, axis in zip(whole, a, strict=True)),
        limits=tuple(1 if w else e[axis] for w, axis in zip(whole, a, strict=True)),
        strides=tuple(1 if w else t[axis] for w, axis in zip(whole, a, strict=True)),
    )
    return broadcast_of(part, out.shape, a)


def _shares_matrix(x: Value, w: Value, s: Shape, a: Ints, f: bool) -> bool | str:
    if a != (len(s) - 2, len(s) - 1) or w.shape != s[-2:]:
        return "the batch does not share one matrix"
    if len(s) == 2:
        return "there is no batch"
    return not f or "the first operand is transposed"


def _join_batch(x: Value, w: Value, g: bool, out: Value) -> Value:
    """A product of a batch with one matrix as one product of all rows."""
    rows = get("reshape")(x, shape=(size_of(x.shape[:-1]), x.shape[-1]))
    product = get("matmul")(rows, w, transpose_a=False, transpose_b=g)
    return reshaped(product, out.shape)


BROADCASTS = (
    Rule("select-of-broadcasts",
         lambda p, c, x, y, s, a: p.select(p.broadcast(c, shape=s, axes=a),
                                           p.broadcast(x, shape=s, axes=a),
                                           p.broadcast(y, shape=s, axes=a)),
         where=lambda c, x, y: c.shape == x.shape == y.shape or "the operands differ in shape",
         replace=lambda c, x, y, s, a, out: broadcast_of(again(out, c, x, y), s, a),
         keeps_inner=True),
    Rule("reduce-inside-broadcast",
         lambda p, x, s, a, o: p.any(REDUCTIONS, p.broadcast(x, shape=s, axes=a), axes=o),
         where=_reduces_operand, replace=_reduce_operand, keeps_inner=True),
    Rule("slice-of-broadcast",
         lambda p, x, s, a, b, e, t: p.slice(p.broadcast(x, shape=s, axes=a),
                                             starts=b, limits=e, strides=t),
         where=lambda x: not_a_number(x), replace=_slice_operand, keeps_inner=True),
    Rule("matmul-shared",
         lambda p, x, w, s, a, f, g: p.matmul(x, p.broadcast(w, shape=s, axes=a),
                                              transpose_a=f, transpose_b=g),
         where=_shares_matrix, replace=_join_batch, keeps_inner=True),
)  # fmt: skip

MOTION = (*TRANSPOSES, *RESHAPES, *BROADCASTS)
