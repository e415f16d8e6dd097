"""Reading elements at positions: by slices, by indices, by masks; and choosing among tensors."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, DTypeError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Dim, Size, boolean, i32, size_of
from ..operation import operation
from ..variable import Variable
from .core import operand, sizes, tensor

# --- at indices ------------------------------------------------------------------------------


def wrapped(indices: Value, size: Size) -> Value:
    """Indices with those that count from the end counted from the front."""
    if indices.dtype.kind != "int" or isinstance(size, Dim):
        return indices
    return sugar.select(indices < 0, indices + size, indices)


@operation
def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The slices of `x` at integer `indices` along `axis`; of the flat array by default.

    Negative indices count from the end; one that is out of range reads the nearest element.
    """
    x, indices = tensor(x), tensor(indices)
    indices = sugar.cast(indices, i32) if indices.dtype.is_bool else indices
    x, axis = (sugar.reshape(x, (x.type.size,)), 0) if axis is None else (x, axis)
    axis = sugar.normalize_axis("take", axis, x.ndim)
    return primitive("gather")(x, wrapped(indices, x.shape[axis]), axis=axis)


@operation
def take_along_axis(x: Any, indices: Any, axis: int | None = None) -> Any:
    """For each position of `indices` the element of `x` at that index along `axis`.

    Outside of `axis` the shapes broadcast; without one both are flat. Negative indices count
    from the end.
    """
    x, indices = tensor(x), tensor(indices)
    if axis is None:
        flat = sugar.reshape(x, (x.type.size,))
        at = wrapped(sugar.reshape(indices, (indices.type.size,)), flat.shape[0])
        return primitive("gather")(flat, at, axis=0)
    axis = sugar.normalize_axis("take_along_axis", axis, x.ndim)
    if indices.ndim != x.ndim:
        raise ShapeError(f"take_along_axis: ranks must be equal, got {x.type} and {indices.type}")
    rest = sugar.broadcast_shapes(
        *((*v.shape[:axis], 1, *v.shape[axis + 1 :]) for v in (x, indices)), name="take_along_axis"
    )
    at = wrapped(indices, x.shape[axis])
    x, at = (
        sugar.broadcast_to(v, (*rest[:axis], v.shape[axis], *rest[axis + 1 :])) for v in (x, at)
    )
    return primitive("take_along")(x, at, axis=axis)


@operation
def get_item(x: Any, key: Any) -> Any:
    """`x[key]`, as NumPy reads it.

    Parameters
    ----------
    key : int, slice, None, Ellipsis, tensor of integers or of bools, or a tuple of them
        Tensors of integers broadcast and are read together, element by element. A mask of bools
        selects where it is true; its numbers must be known, for they decide about the shape.
    """
    x = tensor(x)
    if isinstance(key, list) and any(
        k is None or k is ... or isinstance(k, builtins.slice) for k in key
    ):
        key = tuple(key)  # as it comes back from a configuration in JSON
    keys = list(key) if isinstance(key, tuple) else [key]
    keys = [k if _is_basic(k) else tensor(k) for k in keys]
    if all(_is_basic(k) or _is_known_scalar(k) for k in keys):
        return sugar.getitem(x, tuple(int(k) if isinstance(k, Value) else k for k in keys))
    return _at_tensors(x, _spelled_out(x, keys))


def _is_basic(k: Any) -> bool:
    if isinstance(k, bool | np.bool_ | list | np.ndarray | Value | Variable):
        return False
    return k is None or k is Ellipsis or isinstance(k, int | builtins.slice)


def _is_known_scalar(k: Value) -> bool:
    return k.ndim == 0 and k.dtype.is_integer and k.is_constant


def _spelled_out(x: Value, keys: list[Any]) -> list[Any]:
    """A slice, None or tensor of integers for each axis; masks as the positions they select."""
    found: list[Any] = []
    for k in keys:
        if isinstance(k, Value) and k.dtype.is_bool:
            if k.constant is None:
                raise DTypeError(
                    "indexing: how many elements a traced mask selects is not known",
                    hint="use ops.where(mask, x, other) or multiply by the mask",
                )
            found.extend(constant(axis, i32) for axis in np.nonzero(k.constant))
        else:
            found.append(k)
    used = sum(k is not None and k is not Ellipsis for k in found)
    if used > x.ndim:
        raise ShapeError(f"indexing: {used} indices are too many for {x.type}")
    at = next((i for i, k in enumerate(found) if k is Ellipsis), len(found))
    return [*found[:at], *[builtins.slice(None)] * (x.ndim - used), *found[at + 1 :]]


def _at_tensors(x: Value, keys: list[Any]) -> Value:
    """Slices first; then the axes that tensors (and ints beside them) read become one."""
    basic = tuple(builtins.slice(None) if isinstance(k, int | Value) else k for k in keys)
    x = sugar.getitem(x, basic)
    read = [i for i, k in enumerate(keys) if isinstance(k, int | Value)]
    together = read == list(range(read[0], read[-1] + 1))
    indices = [wrapped(_index(keys[i]), x.shape[i]) for i in read]
    shape = sugar.broadcast_shapes(*(v.shape for v in indices), name="indexing")
    flat = _row_major([sugar.broadcast_to(v, shape) for v in indices], [x.shape[i] for i in read])
    rest = [i for i in range(x.ndim) if i not in read]
    kept = tuple(x.shape[i] for i in rest)
    merged = sugar.reshape(
        sugar.transpose(x, read + rest), (size_of(x.shape[i] for i in read), *kept)
    )
    result = primitive("gather")(merged, flat, axis=0)
    before = read[0] if together else 0  # apart from each other, NumPy puts their axes first
    order = [*range(len(shape), len(shape) + before), *range(len(shape))]
    return sugar.transpose(result, [*order, *range(len(order), result.ndim)])


def _index(k: Any) -> Value:
    v = tensor(k)
    if not v.dtype.is_integer:
        raise DTypeError(f"indexing: indices must be integers, got {v.type}")
    return v if v.dtype.kind == "int" and v.dtype.bits >= 32 else sugar.cast(v, i32)


def _row_major(indices: Sequence[Value], shape: Sequence[Size]) -> Value:
    """The index in the flat array of indices along each axis, each kept within its axis."""
    flat: Value | None = None
    for v, size in zip(indices, shape, strict=True):
        if not isinstance(size, Dim):
            v = sugar.binary("minimum", sugar.binary("maximum", v, 0), size - 1)
        flat = v if flat is None else flat * size + v
    assert flat is not None
    return flat


@operation
def unravel_index(indices: Any, shape: Any) -> Any:
    """For positions in a flat array, those along each axis of `shape`."""
    rest = tensor(indices)
    wanted = [int(d) for d in sizes(shape)]
    total = int(np.prod(wanted, dtype=np.int64))
    rest = sugar.select(rest < 0, rest + total, rest) if rest.dtype.kind == "int" else rest
    rest = sugar.binary("minimum", sugar.binary("maximum", rest, 0), total - 1)
    found = []
    for size in reversed(wanted):
        found.append(sugar.binary("remainder", rest, size))
        rest = sugar.floor_divide(rest, size)
    return tuple(found[::-1])


# --- windows of computed position ------------------------------------------------------------


@operation
def slice(inputs: Any, start_indices: Any, shape: Any) -> Any:
    """The part of `inputs` of `shape` that begins at `start_indices`.

    Parameters
    ----------
    start_indices : sequence of int, or vector tensor
        One for each axis; one at which the part would leave `inputs` is moved back.
    shape : sequence of int
        -1 takes all that is left, if the start is known.
    """
    x, starts = tensor(inputs), _starts(start_indices)
    _require_all_axes("slice", x, len(starts), len(tuple(shape)))
    wanted = [
        x.shape[i] - int(starts[i]) if isinstance(d, int) and d == -1 else d
        for i, d in enumerate(sizes(shape))
    ]
    for d, n in zip(wanted, x.shape, strict=True):
        if isinstance(d, int) and isinstance(n, int) and not 0 <= d <= n:
            raise ShapeError(f"slice: shape must fit into {x.type}, got {list(wanted)}")
    fixed = all(isinstance(s, int) for s in starts)
    if fixed and all(isinstance(d, int) for d in (*wanted, *x.shape)):
        begin = [min(max(int(s), 0), int(n) - int(d))
                 for s, d, n in zip(starts, wanted, x.shape, strict=True)]  # fmt: skip
        parts = (builtins.slice(s, s + int(d)) for s, d in zip(begin, wanted, strict=True))
        return sugar.getitem(x, tuple(parts))
    return primitive("dynamic_slice")(x, *(_scalar(s) for s in starts), sizes=tuple(wanted))


@operation
def slice_update(inputs: Any, start_indices: Any, updates: Any) -> Any:
    """`inputs` with the part that begins at `start_indices` replaced by `updates`.

    A start at which the part would leave `inputs` is moved back.
    """
    x, starts = tensor(inputs), _starts(start_indices)
    update = tensor(updates, x.dtype)
    _require_all_axes("slice_update", x, len(starts), update.ndim)
    return primitive("dynamic_update")(x, update, *(_scalar(s) for s in starts))


def _starts(start_indices: Any) -> list[Any]:
    """Ints where they are known, else scalar Values."""
    if isinstance(start_indices, list | tuple):
        items = [s if isinstance(s, int | np.integer) else tensor(s) for s in start_indices]
    else:
        vector = tensor(start_indices)
        items = [vector[i] for i in range(int(vector.shape[0]))]
    return [int(s) if not isinstance(s, Value) or s.is_constant else s for s in items]


def _scalar(start: Any) -> Value:
    return sugar.value(start, i32) if isinstance(start, int) else sugar.reshape(start, ())


def _require_all_axes(op: str, x: Value, *counts: int) -> None:
    if any(n != x.ndim for n in counts):
        raise ShapeError(f"{op}: there must be a start and a size for each axis of {x.type}")


# --- choosing --------------------------------------------------------------------------------


@operation
def where(condition: Any, x1: Any = None, x2: Any = None) -> Any:
    """`x1` where the condition holds, `x2` elsewhere; without both, the positions where it holds.

    Raises
    ------
    DTypeError
        If `x1` and `x2` are not given and the condition is traced: how many positions there
        are is known only when it runs.
    """
    if (x1 is None) != (x2 is None):
        raise ArgumentError("where: x1 and x2 must be given both or neither")
    if x1 is None:
        from .sorting import nonzero

        return nonzero(condition)
    return sugar.select(tensor(condition, boolean), operand(x1), operand(x2))


@operation
def select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    """The choice of the first condition that holds, `default` where none does."""
    if len(condlist) != len(choicelist) or not len(condlist):
        raise ArgumentError(
            f"select: there must be a condition for each choice, got {len(condlist)} for "
            f"{len(choicelist)}"
        )
    *choices, result = sugar.common(*map(operand, choicelist), operand(default))
    for condition, choice in reversed(list(zip(condlist, choices, strict=True))):
        result = sugar.select(tensor(condition, boolean), choice, result)
    return result


__all__ = [
    "get_item", "select", "slice", "slice_update", "take", "take_along_axis", "unravel_index",
    "where",
]  # fmt: skip
