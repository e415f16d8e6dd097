"""Writing at computed positions, with a rule for what meets what was there."""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import cast, expand, full, reshape, select, zeros_like
from ..types import TensorType, bf16, boolean, f16, f32, i32, i64, u8, u32
from .binary import equal
from .common import (
    N,
    require_axis,
    require_integer,
    require_number,
    require_same_dtype,
    widen,
)
from .constant import dimension_size, iota
from .cumulative import linear_recurrence, shifted
from .gather import gather, scatter_add
from .sort import argsort

COMBINE = ("set", "max", "min", "prod")
"""What an update does to the element that it meets; for sums there is `scatter_add`."""

_UFUNCS = {"max": np.maximum, "min": np.minimum, "prod": np.multiply}


def _type(
    x: TensorType, indices: TensorType, updates: TensorType, *, axis: int, combine: str
) -> TensorType:
    if combine not in COMBINE:
        raise ArgumentError(f"scatter: combine must be one of {', '.join(COMBINE)}, got {combine}")
    if combine != "set":
        require_number("scatter", x=x)
    require_same_dtype("scatter", x, updates)
    require_integer("scatter", indices=indices)
    require_axis("scatter", axis, x)
    expected = x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    if updates != expected:
        raise ShapeError(f"scatter: operand updates must be {expected}, got {updates}")
    return x


def _numpy(
    x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int, combine: str
) -> np.ndarray:
    at = indices.reshape(-1)
    rows = updates.reshape(*x.shape[:axis], at.size, *x.shape[axis + 1 :])
    inside = (at >= 0) & (at < x.shape[axis])
    at, rows = at[inside], np.moveaxis(rows, axis, 0)[inside]
    result = np.array(np.moveaxis(widen(x), axis, 0))
    if combine == "set":
        for place, row in zip(at, rows, strict=True):
            result[place] = row
    else:
        _UFUNCS[combine].at(result, at, widen(rows))
    return np.moveaxis(result, 0, axis).astype(x.dtype, copy=False)


# --- gradients -------------------------------------------------------------------------------


def _rows(mask: Value, x: Value, axis: int) -> Value:
    """One truth value for each index as one for each element of the updates."""
    shape = (*x.shape[:axis], *mask.shape, *x.shape[axis + 1 :])
    dropped = (*range(axis), *range(axis + mask.ndim, len(shape)))
    return expand(mask, dropped, shape)


def _inside(x: Value, indices: Value, axis: int) -> Value:
    """Whether each index is in range."""
    near = cast(indices, i64) if indices.dtype.bits < 64 else indices
    size = cast(dimension_size(x, axis=axis), i64)
    return (near >= 0) & (near < size)


def _last_writer(x: Value, indices: Value, axis: int) -> Value:
    """Whether no later update goes to the same place; False for those out of range."""
    count = indices.type.size
    flat = reshape(indices, (count,))
    own = iota(shape=(count,), axis=0, dtype=i32)
    empty = full((x.shape[axis],), -1, i32)
    winners = scatter(empty, flat, own, axis=0, combine="set")
    return reshape(equal(gather(winners, flat, axis=0), own), indices.shape)


def _set_vjp(g: Value, x: Value, indices: Value, updates: Value, axis: int) -> tuple[Value, Value]:
    kept = scatter(g, indices, zeros_like(updates), axis=axis, combine="set")
    wins = _rows(_last_writer(x, indices, axis), x, axis)
    return kept, select(wins, gather(g, indices, axis=axis), 0)


def _extremum_vjp(
    g: Value, x: Value, indices: Value, updates: Value, out: Value, axis: int
) -> tuple[Value, Value]:
    """All that equal the extremum have the same share, as in XLA."""
    inside = _rows(_inside(x, indices, axis), x, axis)
    is_best = equal(updates, gather(out, indices, axis=axis)) & inside
    winners, kept = cast(is_best, g.dtype), cast(equal(x, out), g.dtype)
    share = g / scatter_add(kept, indices, winners, axis=axis)
    return share * kept, gather(share, indices, axis=axis) * winners


def _product_vjp(
    g: Value, x: Value, indices: Value, updates: Value, axis: int
) -> tuple[Value, Value]:
    """Each factor's share is the product of the others: of x, and of the other updates of its
    place. No division, so zeros are exact, and so is the gradient of this gradient."""
    all_updates = scatter(full(x.shape, 1, x.dtype), indices, updates, axis=axis, combine="prod")
    inside = _rows(_inside(x, indices, axis), x, axis)
    along = gather(g * x, indices, axis=axis)
    return g * all_updates, select(inside, along * _product_of_others(indices, updates, axis), 0)


def _product_of_others(indices: Value, updates: Value, axis: int) -> Value:
    """For each update the product of all others with the same index.

    Sorted by index, with `joined[k]` where k has the index of k - 1, the product of those before
    it is `p[k] = joined[k] * u[k - 1] * p[k - 1] + (1 - joined[k])`, likewise of those after it.
    """
    count = indices.type.size
    flat = reshape(indices, (count,))
    shape = (*updates.shape[:axis], count, *updates.shape[axis + indices.ndim :])
    order = argsort(flat, axis=0, descending=False)
    at = gather(flat, order, axis=0)
    rows = gather(reshape(updates, shape), order, axis=axis)
    ones = full((count,), 1, rows.dtype)
    has_before = cast(shifted(ones, 0, False, 0.0), boolean)
    joined = cast(equal(at, shifted(at, 0, False, 0.0)) & has_before, rows.dtype)
    sides = []
    for reverse in (False, True):
        link = shifted(joined, 0, True, 0.0) if reverse else joined
        link = expand(link, [i for i in range(len(shape)) if i != axis], shape)
        factor = select(cast(link, boolean), shifted(rows, axis, reverse, 0.0), 0)
        sides.append(linear_recurrence(factor, 1 - link, axis=axis, reverse=reverse))
    back = argsort(order, axis=0, descending=False)
    return reshape(gather(sides[0] * sides[1], back, axis=axis), updates.shape)


def _vjp(
    g: Value, x: Value, indices: Value, updates: Value, *, out: Value, axis: int, combine: str
) -> tuple[Value, None, Value]:
    if 0 in (x.shape[axis], *indices.shape):
        return g, None, zeros_like(updates)
    if combine == "set":
        dx, du = _set_vjp(g, x, indices, updates, axis)
    elif combine == "prod":
        dx, du = _product_vjp(g, x, indices, updates, axis)
    else:
        dx, du = _extremum_vjp(g, x, indices, updates, out, axis)
    return dx, None, du


scatter = define(Op(
    name="scatter",
    doc="""`x` with each slice of `updates` written at its index along `axis`. `combine` says how:
    "set" replaces, and of several updates of one place the last stays; "max", "min" and "prod"
    combine with what is there. An update with an index out of range is dropped. Sums are
    `scatter_add`'s.""",
    kind="opaque",
    type=_type, numpy=_numpy, vjp=_vjp,
    onnx=CODE,
    samples=[
        case(f32(5, 3), i32(4), f32(4, 3), axis=0, combine="set", integers=(0, 5)),
        case(f32(2, 4), i32(6), f32(2, 6), axis=1, combine="set", integers=(-2, 7)),
        case(f32(N, 4, 2), i32(3), f32(N, 3, 2), axis=1, combine="set", integers=(0, 4)),
        case(f32(5, 3), i32(N), f32(N, 3), axis=0, combine="max", integers=(-2, 7), distinct=True),
        case(f32(4, 3), i32(2, 3), f32(2, 3, 3), axis=0, combine="min", integers=(0, 4)),
        case(f32(4, 3), i32(9), f32(9, 3), axis=0, combine="prod", integers=(-1, 5)),
        case(boolean(9), i64(4), boolean(4), axis=0, combine="set"),
        case(i32(9), u32(14), i32(14), axis=0, combine="prod", integers=(0, 9)),
        case(u8(9), i32(14), u8(14), axis=0, combine="max", integers=(0, 9)),
        case(bf16(4), i32(9), bf16(9), axis=0, combine="prod"),
        case(f32(3), i32(9), f32(9), axis=0, combine="prod", domain=(0.0, 0.0), integers=(0, 3)),
        case(f32(2, 3), i32(2, 2), f32(2, 2, 2), axis=1, combine="prod", integers=(0, 2)),
        case(f16(4), i32(9), f16(9), axis=0, combine="max"),
        case(f32(0, 3), i32(2), f32(2, 3), axis=0, combine="set"),
        case(f32(2, 3), i32(0), f32(0, 3), axis=0, combine="max"),
        case(f32(1), i32(), f32(), axis=0, combine="min", integers=(0, 1)),
    ],
    rejects=[
        reject(f32(5), i32(2), f32(3), axis=0, combine="set",
               error="scatter: operand updates must be f32[2], got f32[3]"),
        reject(f32(5), f32(2), f32(2), axis=0, combine="set",
               error="scatter: operand indices must be an integer, got f32[2]"),
        reject(f32(5), i32(2), i32(2), axis=0, combine="set",
               error="scatter: operands must have one dtype, got f32[5] and i32[2]"),
        reject(boolean(5), i32(2), boolean(2), axis=0, combine="max",
               error="scatter: operand x must be a number, got bool[5]"),
        reject(f32(5), i32(2), f32(2), axis=0, combine="add",
               error="scatter: combine must be one of set, max, min, prod, got add"),
    ],
))  # fmt: skip
