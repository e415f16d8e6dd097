"""Joining tensors and splitting them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Size
from ..operation import operation
from .core import operand, tensor


def _tensors(name: str, xs: Any) -> list[Value]:
    """The tensors of a sequence, or the slices of one tensor along its first axis."""
    if isinstance(xs, Iterable) and not hasattr(xs, "shape"):
        found = [tensor(x) for x in xs]
    else:
        whole = tensor(xs)
        found = [whole[i] for i in range(int(whole.shape[0]))] if whole.ndim else []
    if not found:
        raise ArgumentError(f"{name}: there must be at least one tensor, got {xs!r:.60}")
    return found


@operation
def concatenate(xs: Any, axis: int = 0) -> Any:
    """Tensors one after the other along `axis`."""
    values = _tensors("concatenate", xs)
    if axis is None:
        values, axis = [sugar.reshape(x, (-1,)) for x in values], 0
    values = sugar.common(*values)
    axis = sugar.normalize_axis("concatenate", axis, values[0].ndim)
    return values[0] if len(values) == 1 else primitive("concat")(*values, axis=axis)


@operation
def stack(x: Any, axis: int = 0) -> Any:
    """Tensors of one shape side by side along a new `axis`."""
    values = sugar.common(*_tensors("stack", x))
    first = values[0]
    if any(v.shape != first.shape for v in values):
        listed = ", ".join(str(v.type) for v in values)
        raise ShapeError(f"stack: shapes must be equal, got {listed}")
    axis = sugar.normalize_axis("stack", axis, first.ndim + 1)
    shape = (*first.shape[:axis], 1, *first.shape[axis:])
    rows = [sugar.reshape(v, shape) for v in values]
    return rows[0] if len(rows) == 1 else primitive("concat")(*rows, axis=axis)


@operation
def split(x: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    """Equal parts along `axis`, or parts that begin at the given positions."""
    return _split("split", tensor(x), indices_or_sections, axis, equal=True)


@operation
def array_split(x: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    """Parts along `axis` as equal as can be, the larger ones first, or at given positions."""
    return _split("array_split", tensor(x), indices_or_sections, axis, equal=False)


@operation
def hsplit(x: Any, indices_or_sections: Any) -> Any:
    """Parts from left to right: along axis 1, or 0 of a vector."""
    x = tensor(x)
    return _split("hsplit", x, indices_or_sections, 0 if x.ndim == 1 else 1, equal=True)


@operation
def vsplit(x: Any, indices_or_sections: Any) -> Any:
    """Parts from top to bottom: along axis 0."""
    return _split("vsplit", tensor(x), indices_or_sections, 0, equal=True)


@operation
def dsplit(x: Any, indices_or_sections: Any) -> Any:
    """Parts along the depth: axis 2."""
    return _split("dsplit", tensor(x), indices_or_sections, 2, equal=True)


def _split(name: str, x: Value, at: Any, axis: int, equal: bool) -> list[Value]:
    axis = sugar.normalize_axis(name, axis, x.ndim)
    size = x.shape[axis]
    if isinstance(at, int | np.integer):
        bounds = _even_bounds(name, x, int(at), axis, equal)
    else:
        positions = [int(i) for i in at]
        if isinstance(size, int):
            positions = [slice(i, None).indices(size)[0] for i in positions]
        bounds = [0, *positions, size]
    before = (slice(None),) * axis
    pairs = itertools.pairwise(bounds)
    return [x[(*before, slice(a, _not_before(a, b)))] for a, b in pairs]


def _not_before(start: Size, stop: Size) -> Size:
    return max(start, stop) if isinstance(start, int) and isinstance(stop, int) else stop


def _even_bounds(name: str, x: Value, parts: int, axis: int, equal: bool) -> list[Size]:
    size = int(x.shape[axis])
    if parts < 1 or (equal and size % parts):
        raise ShapeError(
            f"{name}: {parts} equal parts must fit size {size} of axis {axis}, got {x.type}"
        )
    larger = size % parts
    return [size // parts * i + min(i, larger) for i in range(parts + 1)]


@operation
def vstack(xs: Any) -> Any:
    """Tensors one below the other."""
    rows = _tensors("vstack", xs)
    return _joined([sugar.reshape(x, (1, -1)) if x.ndim < 2 else x for x in rows], 0)


@operation
def hstack(xs: Any) -> Any:
    """Tensors next to each other: along axis 1, or 0 if they have one axis."""
    columns = _tensors("hstack", xs)
    columns = [sugar.reshape(x, (1,)) if x.ndim == 0 else x for x in columns]
    return _joined(columns, 0 if columns[0].ndim == 1 else 1)


@operation
def dstack(xs: Any) -> Any:
    """Tensors behind each other: along axis 2, with vectors as rows."""
    layers = []
    for x in _tensors("dstack", xs):
        x = sugar.reshape(x, (1, -1)) if x.ndim < 2 else x
        layers.append(sugar.reshape(x, (*x.shape, 1)) if x.ndim == 2 else x)
    return _joined(layers, 2)


@operation
def append(x1: Any, x2: Any, axis: int | None = None) -> Any:
    """`x2` after `x1` along `axis`; both flat by default."""
    parts = list(sugar.common(operand(x1), operand(x2)))
    if axis is None:
        return _joined([sugar.reshape(x, (x.type.size,)) for x in parts], 0)
    return _joined(parts, sugar.normalize_axis("append", axis, parts[0].ndim))


def _joined(xs: list[Value], axis: int) -> Value:
    values = sugar.common(*xs)
    return values[0] if len(values) == 1 else primitive("concat")(*values, axis=axis)


__all__ = [
    "append", "array_split", "concatenate", "dsplit", "dstack", "hsplit", "hstack", "split",
    "stack", "vsplit", "vstack",
]  # fmt: skip
