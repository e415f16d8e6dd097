"""Writing elements at positions, and reducing segments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.errors import ArgumentError, DTypeError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Size, boolean, i32, size_of
from ..operation import operation
from .core import sizes, tensor

_COMBINE = {None: "set", "max": "max", "min": "min", "mul": "prod"}


@operation
def scatter(indices: Any, values: Any, shape: Any) -> Any:
    """Zeros of `shape` with `values` added at `indices`.

    Parameters
    ----------
    indices : tensor of integers, shape `(..., k)`
        Each names an element, or a slice, by its position along the first k axes. One that is
        out of range writes nothing.
    values : tensor, shape `(..., *shape[k:])`
    """
    values = tensor(values)
    zeros = sugar.full(sizes(shape), 0, values.dtype)
    return _written(zeros, tensor(indices), values, "add")


@operation
def scatter_update(inputs: Any, indices: Any, updates: Any, reduction: str | None = None) -> Any:
    """`inputs` with `updates` written at `indices`.

    Parameters
    ----------
    indices : tensor of integers, shape `(..., k)`
        Each names an element, or a slice, by its position along the first k axes. One that is
        out of range writes nothing; of several that name one place, the last one stays.
    updates : tensor, shape `(..., *inputs.shape[k:])`
    reduction : str, optional
        `add`, `max`, `min` or `mul` combine with what is there.
    """
    if reduction not in (*_COMBINE, "add"):
        raise ArgumentError(
            f"scatter_update: reduction must be add, max, min, mul or None, got {reduction!r}"
        )
    x = tensor(inputs)
    return _written(x, tensor(indices), tensor(updates, x.dtype), reduction)


def _written(x: Value, indices: Value, updates: Value, reduction: str | None) -> Value:
    if indices.ndim < 1:
        raise ShapeError(f"scatter: indices must have rank 1 or more, got {indices.type}")
    depth = int(indices.shape[-1])
    if depth > x.ndim:
        raise ShapeError(f"scatter: indices must have {x.ndim} numbers at most, got {indices.type}")
    count = size_of(indices.shape[:-1])
    at = _places(sugar.reshape(indices, (count, depth)), x.shape[:depth])
    rest = x.shape[depth:]
    updates = sugar.broadcast_to(updates, (*indices.shape[:-1], *rest))
    updates = sugar.reshape(updates, (count, *rest))
    rows = sugar.reshape(x, (size_of(x.shape[:depth]), *rest))
    return sugar.reshape(combined(rows, at, updates, reduction), x.shape)


def _places(indices: Value, shape: Sequence[Size]) -> Value:
    """The row of each index in the flat array, -1 where it is out of range."""
    indices = sugar.cast(indices, i32)
    flat = sugar.full(indices.shape[:1], 0, i32)
    legal = sugar.full(indices.shape[:1], True, boolean)
    for axis, size in enumerate(shape):
        index = indices[:, axis]
        index = sugar.select(index < 0, index + size, index)
        legal = legal & (index >= 0) & (index < size)
        flat = flat * size + index
    return sugar.select(legal, flat, -1)


def combined(rows: Value, at: Value, updates: Value, reduction: str | None) -> Value:
    """`rows` with each of `updates` combined into the row `at` names; -1 names none."""
    if rows.shape[0] == 0:
        return rows
    if rows.dtype.is_bool:
        logical = {"add": "max", "mul": "min"}.get(reduction or "", reduction)
        numbers = combined(sugar.cast(rows, i32), at, sugar.cast(updates, i32), logical)
        return sugar.cast(numbers, boolean)
    if reduction != "add":
        return primitive("scatter")(rows, at, updates, axis=0, combine=_COMBINE[reduction])
    legal = sugar.reshape(at >= 0, (at.shape[0], *(1,) * (updates.ndim - 1)))
    kept = sugar.select(legal, updates, sugar.zeros_like(updates))  # it would be clamped
    return primitive("scatter_add")(rows, at, kept, axis=0)


# --- segments --------------------------------------------------------------------------------


@operation
def segment_sum(
    data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False
) -> Any:
    """Sums of the slices of `data` along axis 0 that have one id; 0 for an id that none has.

    Parameters
    ----------
    segment_ids : vector of integers
        One for each slice; one outside of `[0, num_segments)` does not count.
    num_segments : int, optional
        The largest id and one by default; it must be given while a graph is made.
    sorted : bool
        Whether the ids ascend; nothing depends on it.
    """
    return _segments("segment_sum", data, segment_ids, num_segments, "add", 0)


@operation
def segment_prod(
    data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False
) -> Any:
    """Products of the slices of `data` that have one id, as in `segment_sum`; 1 for no slice."""
    return _segments("segment_prod", data, segment_ids, num_segments, "mul", 1)


@operation
def segment_max(
    data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False
) -> Any:
    """Largest elements of the slices of `data` that have one id, as in `segment_sum`.

    An id that none has gets the least number of the dtype.
    """
    return _segments("segment_max", data, segment_ids, num_segments, "max", -math.inf)


@operation
def segment_min(
    data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False
) -> Any:
    """Smallest elements of the slices of `data` that have one id, as in `segment_sum`.

    An id that none has gets the largest number of the dtype.
    """
    return _segments("segment_min", data, segment_ids, num_segments, "min", math.inf)


def _segments(
    name: str, data: Any, segment_ids: Any, count: int | None, reduction: str, start: float
) -> Value:
    x, ids = tensor(data), sugar.cast(tensor(segment_ids), i32)
    if ids.ndim != 1 or x.ndim < 1 or x.shape[0] != ids.shape[0]:
        raise ShapeError(
            f"{name}: segment_ids must be a vector with an id for each slice, "
            f"got {ids.type} for {x.type}"
        )
    if count is None:
        if ids.constant is None:
            raise DTypeError(
                f"{name}: num_segments must be given while a graph is made: the shape of the "
                "result depends on the ids"
            )
        count = int(ids.constant.max()) + 1 if ids.constant.size else 0
    initial = sugar.full((count, *x.shape[1:]), _bounded(start, x), x.dtype)
    at = sugar.select((ids >= 0) & (ids < count), ids, -1)
    return combined(initial, at, x, reduction)


def _bounded(number: float, x: Value) -> Any:
    """Infinity as the largest number that the dtype has."""
    if math.isfinite(number) or x.dtype.is_float:
        return number
    if x.dtype.is_bool:
        return number > 0
    limits = np.iinfo(x.dtype.numpy)
    return limits.max if number > 0 else limits.min


__all__ = [
    "scatter", "scatter_update", "segment_max", "segment_min", "segment_prod", "segment_sum",
]  # fmt: skip
