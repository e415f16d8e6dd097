"""Order: sorting, ranking, searching in what is sorted, what is there at all."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, DTypeError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import boolean, i32, u8
from ..operation import operation
from .core import operand, tensor

# --- sorting ---------------------------------------------------------------------------------


def sorted_along(x: Value, axis: int) -> Value:
    """`x` sorted along an axis counted from the front; bools as numbers."""
    if x.dtype.is_bool:
        return sugar.cast(sorted_along(sugar.cast(x, u8), axis), boolean)
    return primitive("sort")(x, axis=axis, descending=False)


def order_along(x: Value, axis: int, descending: bool = False) -> Value:
    """The positions along an axis in the order of their elements; equal ones keep theirs."""
    x = sugar.cast(x, u8) if x.dtype.is_bool else x
    return primitive("argsort")(x, axis=axis, descending=descending)


def _axis(name: str, x: Any, axis: int | None) -> tuple[Value, int]:
    """The operand and the axis counted from the front; None is the flat operand's."""
    x = tensor(x)
    if axis is None:
        return sugar.reshape(x, (x.type.size,)), 0
    return x, sugar.normalize_axis(name, axis, x.ndim)


@operation
def sort(x: Any, axis: int | None = -1) -> Any:
    """The elements in ascending order along `axis`, NaN last; of the flat tensor if it is None."""
    return sorted_along(*_axis("sort", x, axis))


@operation
def argsort(x: Any, axis: int | None = -1) -> Any:
    """The positions of the elements in ascending order, as int32; equal ones keep theirs."""
    return order_along(*_axis("argsort", x, axis))


@operation
def argpartition(x: Any, kth: int, axis: int | None = -1) -> Any:
    """Positions such that smaller elements than the `kth` smallest come before it.

    The order of the others is not specified; here they are sorted.
    """
    x, axis = _axis("argpartition", x, axis)
    if not -int(x.shape[axis]) <= kth < int(x.shape[axis]):
        raise ShapeError(f"argpartition: kth must be a position on axis {axis}, got {kth}")
    return order_along(x, axis)


@operation
def top_k(x: Any, k: int, sorted: bool = True) -> Any:
    """The `k` largest elements along the last axis, the largest first, and their positions.

    Returns
    -------
    tuple of tensors
        Values, and positions as int32. They are sorted whether asked for or not.
    """
    x = tensor(x)
    if x.dtype.is_bool:
        values, positions = primitive("top_k").all(sugar.cast(x, u8), k=k)
        return sugar.cast(values, boolean), positions
    return primitive("top_k").all(x, k=k)


@operation
def in_top_k(targets: Any, predictions: Any, k: int) -> Any:
    """Whether the target's prediction is one of the `k` largest; equal ones are all in.

    Parameters
    ----------
    targets : tensor of integers, shape `(batch,)`
    predictions : tensor, shape `(batch, classes)`
    """
    targets, predictions = tensor(targets), tensor(predictions)
    predictions = sugar.cast(predictions, u8) if predictions.dtype.is_bool else predictions
    chosen = primitive("take_along")(
        predictions, sugar.reshape(targets, (*targets.shape, 1)), axis=predictions.ndim - 1
    )
    if predictions.dtype.is_float:
        chosen = sugar.select(sugar.binary("not_equal", chosen, chosen), -np.inf, chosen)
    above = sugar.cast(predictions > chosen, i32)
    return sugar.reduce("reduce_sum", above, -1) < k


# --- searching -------------------------------------------------------------------------------


@operation
def searchsorted(sorted_sequence: Any, values: Any, side: str = "left") -> Any:
    """Where each value would have to be inserted to keep an ascending vector sorted.

    Parameters
    ----------
    side : str
        `left`: before elements that are equal; `right`: after them.

    Returns
    -------
    tensor of int32, of the shape of `values`
    """
    row, wanted = sugar.common(tensor(sorted_sequence), operand(values))
    if row.ndim != 1:
        raise ShapeError(f"searchsorted: sorted_sequence must be a vector, got {row.type}",
                         hint="ops.vectorized_map runs it on several")  # fmt: skip
    return search(row, wanted, side)


def search(row: Value, wanted: Value, side: str) -> Value:
    """`searchsorted` on Values of one dtype: bisection, as many steps as the length has bits."""
    if side not in ("left", "right"):
        raise ArgumentError(f"searchsorted: side must be 'left' or 'right', got {side!r}")
    if row.dtype.is_bool:
        row, wanted = sugar.cast(row, u8), sugar.cast(wanted, u8)
    size = int(row.shape[0])
    found = sugar.full(wanted.shape, 0, i32)
    step = 1 << size.bit_length() >> 1
    while step:
        candidate = found + step
        at = primitive("gather")(row, candidate - 1, axis=0)
        before = _precedes(at, wanted, side) & (candidate <= size)
        found = sugar.select(before, candidate, found)
        step >>= 1
    return found


def _precedes(at: Value, wanted: Value, side: str) -> Value:
    """Whether `wanted` belongs after an element; NaN counts as the largest."""
    before = at < wanted if side == "left" else at <= wanted
    if not at.dtype.is_float:
        return before
    nan = sugar.binary("not_equal", wanted, wanted)
    return before | (nan if side == "right" else nan & sugar.binary("equal", at, at))


@operation
def digitize(x: Any, bins: Any) -> Any:
    """The number of the bin that each element falls in.

    Bin i reaches from `bins[i - 1]`, which belongs to it, to `bins[i]`; descending bins hold
    their upper end in place of the lower.
    """
    x, edges = sugar.common(tensor(x), tensor(bins))
    if x.dtype.is_bool:
        x, edges = sugar.cast(x, u8), sugar.cast(edges, u8)
    if edges.ndim != 1:
        raise ShapeError(f"digitize: bins must be a vector, got {edges.type}")
    count = int(edges.shape[0])
    if count == 0:
        return sugar.full(x.shape, 0, i32)
    rising = search(edges, x, "right")
    falling = count - search(edges[::-1], x, "left")
    return sugar.select(edges[-1] >= edges[0], rising, falling)


@operation
def isin(x1: Any, x2: Any, assume_unique: bool = False, invert: bool = False) -> Any:
    """Where an element of `x1` is one of `x2`; with `invert`, where it is none."""
    x, among = sugar.common(tensor(x1), tensor(x2))
    among = sugar.reshape(among, (among.type.size,))
    equal = sugar.binary("equal", sugar.reshape(x, (*x.shape, 1)), among)
    found = sugar.reduce("reduce_any", equal, -1)
    return sugar.unary("logical_not", found) if invert else found


# --- what is there ---------------------------------------------------------------------------


@operation
def nonzero(x: Any) -> Any:
    """The positions of the elements that are not zero, one vector of int32 for each axis.

    Raises
    ------
    DTypeError
        If `x` is traced: how many there are, and so the shape, is known only when it runs.
    """
    array = known("nonzero", tensor(x), "where(x, a, b) with both values, or count_nonzero")
    return tuple(constant(axis, i32) for axis in np.nonzero(array))


def known(op: str, x: Value, instead: str) -> np.ndarray:
    """The numbers of an operand that decide about the shape of the result."""
    if x.constant is None:
        raise DTypeError(
            f"{op}: the shape of the result depends on the numbers of {x.type}, which are not "
            "known while a graph is made",
            hint=f"use {instead}",
        )
    return x.constant


@operation
def unique(
    x: Any, sorted: bool = True, return_index: bool = False, return_inverse: bool = False,
    return_counts: bool = False, axis: int | None = None, size: int | None = None,
    fill_value: Any = None,
) -> Any:  # fmt: skip
    """The elements, or the slices along `axis`, that differ, in ascending order.

    Parameters
    ----------
    sorted : bool
        They are sorted whether asked for or not.
    return_index, return_inverse, return_counts : bool
        Return further: where each is found first, which of them each element is, how often
        each occurs; as int32.
    axis : int, optional
        None looks at the flat tensor.
    size : int, optional
        How many to return: further ones are dropped, missing ones are `fill_value`. It must be
        given while a graph is made, since the shape would depend on the numbers otherwise.
    fill_value : number, optional
        The smallest element by default.
    """
    x = tensor(x)
    shape = x.shape
    rows, along = _axis("unique", x, axis)
    order = [along, *(i for i in range(rows.ndim) if i != along)]
    rows = sugar.transpose(rows, order)
    values, first, inverse, counts = _distinct(rows, size)
    if fill_value is not None:
        there = primitive("iota")(shape=counts.shape, axis=0, dtype=i32) < _total(inverse)
        there = sugar.reshape(there, (-1, *(1,) * (rows.ndim - 1)))
        values = sugar.select(there, values, sugar.value(fill_value, values.dtype))
    values = sugar.transpose(values, [order.index(i) for i in range(rows.ndim)])
    inverse = sugar.reshape(inverse, shape) if axis is None else inverse
    wanted = ((return_index, first), (return_inverse, inverse), (return_counts, counts))
    results = [values, *(v for asked, v in wanted if asked)]
    return results[0] if len(results) == 1 else tuple(results)


def _total(inverse: Value) -> Value:
    """How many differ."""
    return sugar.reduce("reduce_max", inverse, 0) + 1


def _distinct(rows: Value, size: int | None) -> tuple[Value, Value, Value, Value]:
    """Values, first positions, inverse and counts of the slices along axis 0."""
    length = int(rows.shape[0])
    if length == 0:
        if size:
            raise ShapeError(f"unique: {rows.type} has nothing to fill {size} places with")
        nothing = sugar.full((0,), 0, i32)
        return rows, nothing, nothing, nothing
    order = _lexicographic(rows)
    ranked = primitive("gather")(rows, order, axis=0)
    changed = sugar.binary("not_equal", ranked[1:], ranked[:-1])
    if rows.ndim > 1:
        changed = sugar.reduce("reduce_any", changed, tuple(range(1, rows.ndim)))
    starts = primitive("concat")(sugar.full((1,), True, boolean), changed, axis=0)
    number = primitive("cumsum")(sugar.cast(starts, i32), axis=0, reverse=False) - 1
    if size is None:
        instead = "unique with size=, the largest number that there can be"
        size = int(known("unique", number, instead)[-1]) + 1
    scatter = primitive("scatter")
    inverse = scatter(sugar.full((length,), 0, i32), order, number, axis=0, combine="set")
    first = scatter(sugar.full((size,), length, i32), number, order, axis=0, combine="min")
    counts = _counts(number, size)
    first = sugar.select(sugar.binary("equal", first, length), order[0], first)
    return primitive("gather")(rows, first, axis=0), first, inverse, counts


def _counts(number: Value, size: int) -> Value:
    """How often each of `size` numbers occurs; larger ones are not counted."""
    inside = sugar.cast(number < size, i32)
    if size == 0:
        return sugar.full((0,), 0, i32)
    return primitive("scatter_add")(sugar.full((size,), 0, i32), number, inside, axis=0)


def _lexicographic(rows: Value) -> Value:
    """The order of slices by their first element, then by their second, and so on."""
    length = rows.shape[0]
    columns = sugar.reshape(rows, (length, -1)) if rows.ndim > 1 else rows[:, None]
    order: Value | None = None
    for i in reversed(range(int(columns.shape[1]))):  # each sort keeps the order of the last
        column = columns[:, i]
        if order is not None:
            column = primitive("gather")(column, order, axis=0)
        step = order_along(column, 0)
        order = step if order is None else primitive("gather")(order, step, axis=0)
    if order is None:
        return cast(Value, primitive("iota")(shape=(length,), axis=0, dtype=i32))
    return order


__all__ = [
    "argpartition", "argsort", "digitize", "in_top_k", "isin", "nonzero", "searchsorted", "sort",
    "top_k", "unique",
]  # fmt: skip
