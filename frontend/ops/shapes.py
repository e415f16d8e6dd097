"""Moving elements: shapes, axes, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import i32
from ..operation import operation
from .core import sizes, tensor

Axes = int | Sequence[int] | None


@operation
def reshape(x: Any, newshape: Any) -> Any:
    """The elements in row-major order in a new shape; one size may be -1."""
    x = tensor(x)
    wanted = list(newshape) if isinstance(newshape, list | tuple) else list(sizes(newshape))
    unknown = [i for i, d in enumerate(wanted) if d is None]
    for i in unknown:  # Keras reads None as the size of the operand, or as -1
        wanted[i] = x.shape[0] if i == 0 and len(unknown) == 1 and -1 in wanted else -1
    return sugar.reshape(x, sizes(wanted))


@operation
def ravel(x: Any) -> Any:
    """All elements in row-major order."""
    x = tensor(x)
    return sugar.reshape(x, (x.type.size,))


@operation
def transpose(x: Any, axes: Sequence[int] | None = None) -> Any:
    """Axes in the order `axes`; reversed by default."""
    return sugar.transpose(tensor(x), axes)


@operation
def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Two axes exchanged."""
    x = tensor(x)
    order = list(range(x.ndim))
    a, b = (sugar.normalize_axis("swapaxes", axis, x.ndim) for axis in (axis1, axis2))
    order[a], order[b] = b, a
    return sugar.transpose(x, order)


@operation
def moveaxis(x: Any, source: Any, destination: Any) -> Any:
    """Axes `source` moved to positions `destination`, the others keeping their order."""
    x = tensor(x)
    source, destination = (
        [sugar.normalize_axis("moveaxis", a, x.ndim) for a in ([v] if isinstance(v, int) else v)]
        for v in (source, destination)
    )
    order = [axis for axis in range(x.ndim) if axis not in source]
    for to, axis in sorted(zip(destination, source, strict=True)):
        order.insert(to, axis)
    return sugar.transpose(x, order)


@operation
def expand_dims(x: Any, axis: int | Sequence[int]) -> Any:
    """Axes of size 1 inserted so that they stand at `axis` in the result."""
    x = tensor(x)
    wanted = [axis] if isinstance(axis, int) else list(axis)
    rank = x.ndim + len(wanted)
    axes = sugar.normalize_axes("expand_dims", wanted, rank)
    rest = iter(x.shape)
    return sugar.reshape(x, tuple(1 if i in axes else next(rest) for i in range(rank)))


@operation
def squeeze(x: Any, axis: Axes = None) -> Any:
    """Axes of size 1 removed: all, or those given, which must be of size 1."""
    x = tensor(x)
    if axis is None:
        axes = tuple(i for i, d in enumerate(x.shape) if d == 1)
    else:
        axes = sugar.normalize_axes("squeeze", axis, x.ndim)
        if any(x.shape[a] != 1 for a in axes):
            raise ShapeError(f"squeeze: axes {axes} must have size 1, got {x.type}")
    return sugar.reshape(x, tuple(d for i, d in enumerate(x.shape) if i not in axes))


@operation
def broadcast_to(x: Any, shape: Any) -> Any:
    """`x` repeated to `shape`."""
    return sugar.broadcast_to(tensor(x), sizes(shape))


@operation
def flip(x: Any, axis: Axes = None) -> Any:
    """The elements in reverse order along `axis`."""
    x = tensor(x)
    axes = sugar.normalize_axes("flip", axis, x.ndim)
    return primitive("reverse")(x, axes=axes) if axes else x


@operation
def repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    """Every element `repeats` times in a row.

    Parameters
    ----------
    repeats : int or sequence of int
        One for each element along `axis`; their numbers must be known, for they decide about
        the shape.
    axis : int, optional
        None repeats the elements of the flat tensor.
    """
    x = tensor(x)
    x, axis = (sugar.reshape(x, (x.type.size,)), 0) if axis is None else (x, axis)
    axis = sugar.normalize_axis("repeat", axis, x.ndim)
    times = sugar.concrete(tensor(repeats), "repeat: the number of repeats")
    if times.ndim and times.size != 1:
        positions = np.repeat(np.arange(int(x.shape[axis])), times)
        return primitive("gather")(x, constant(positions, i32), axis=axis)
    count, shape = int(times.reshape(())), x.shape
    x = sugar.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    x = sugar.broadcast_to(x, (*shape[: axis + 1], count, *shape[axis + 1 :]))
    return sugar.reshape(x, (*shape[:axis], shape[axis] * count, *shape[axis + 1 :]))


@operation
def tile(x: Any, repeats: Any) -> Any:
    """`x` laid side by side `repeats[i]` times along axis i."""
    x = tensor(x)
    times = [repeats] if isinstance(repeats, int) else list(repeats)
    rank = max(x.ndim, len(times))
    times = [1] * (rank - len(times)) + times
    shape = (1,) * (rank - x.ndim) + x.shape
    paired = tuple(d for n, size in zip(times, shape, strict=True) for d in (n, size))
    x = sugar.reshape(x, tuple(d for size in shape for d in (1, size)))
    x = sugar.broadcast_to(x, paired)
    return sugar.reshape(x, tuple(n * d for n, d in zip(times, shape, strict=True)))


@operation
def roll(x: Any, shift: Any, axis: Any = None) -> Any:
    """Elements moved by `shift` along `axis`, re-entering at the other end."""
    x = tensor(x)
    if axis is None:
        flat = sugar.reshape(x, (x.type.size,))
        return sugar.reshape(_rolled(flat, int(shift), 0), x.shape)
    axes = [axis] if isinstance(axis, int) else list(axis)
    shifts = [shift] * len(axes) if isinstance(shift, int) else list(shift)
    for a, s in zip(axes, shifts, strict=True):
        x = _rolled(x, s, sugar.normalize_axis("roll", a, x.ndim))
    return x


def _rolled(x: Value, shift: int, axis: int) -> Value:
    size = x.shape[axis]
    if isinstance(size, int):  # an open size is taken to be larger than the shift
        shift = shift % size if size else 0
    if shift == 0:
        return x
    before, at = (slice(None),) * axis, size - shift if shift > 0 else -shift
    parts = x[(*before, slice(at, size))], x[(*before, slice(0, at))]
    return primitive("concat")(*parts, axis=axis)


@operation
def fliplr(x: Any) -> Any:
    """The columns in reverse order: axis 1."""
    x = tensor(x)
    return primitive("reverse")(x, axes=(sugar.normalize_axis("fliplr", 1, x.ndim),))


@operation
def flipud(x: Any) -> Any:
    """The rows in reverse order: axis 0."""
    x = tensor(x)
    return primitive("reverse")(x, axes=(sugar.normalize_axis("flipud", 0, x.ndim),))


@operation
def rot90(array: Any, k: int = 1, axes: Sequence[int] = (0, 1)) -> Any:
    """`array` turned by `k` times 90 degrees, from the first towards the second of `axes`."""
    x = tensor(array)
    if len(axes) != 2:
        raise ArgumentError(f"rot90: axes must be two, got {tuple(axes)}")
    a, b = (sugar.normalize_axis("rot90", axis, x.ndim) for axis in axes)
    if a == b:
        raise ShapeError(f"rot90: axes must differ, got {tuple(axes)}")
    reverse = primitive("reverse")
    order = list(range(x.ndim))
    order[a], order[b] = b, a
    turns = k % 4
    if turns == 1:
        return sugar.transpose(reverse(x, axes=(b,)), order)
    if turns == 2:
        return reverse(x, axes=tuple(sorted((a, b))))
    return x if turns == 0 else reverse(sugar.transpose(x, order), axes=(b,))


__all__ = [
    "broadcast_to", "expand_dims", "flip", "fliplr", "flipud", "moveaxis", "ravel", "repeat",
    "reshape", "roll", "rot90", "squeeze", "swapaxes", "tile", "transpose",
]  # fmt: skip
