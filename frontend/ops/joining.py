"""Joining tensors and splitting them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.errors import ShapeError
from ...ir.op import get as primitive
from ..operation import operation
from .core import tensor
from .shapes import ravel, reshape


@operation
def concatenate(xs: Any, axis: int = 0) -> Any:
    """Tensors one after the other along `axis`."""
    if axis is None:
        xs, axis = [sugar.reshape(tensor(x), (-1,)) for x in xs], 0
    values = sugar.common(*(tensor(x) for x in xs))
    axis = sugar.normalize_axis("concatenate", axis, values[0].ndim)
    return values[0] if len(values) == 1 else primitive("concat")(*values, axis=axis)


@operation
def stack(x: Any, axis: int = 0) -> Any:
    """Tensors of one shape side by side along a new `axis`."""
    values = sugar.common(*(tensor(item) for item in x))
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
    x = tensor(x)
    axis = sugar.normalize_axis("split", axis, x.ndim)
    size = x.shape[axis]
    if isinstance(indices_or_sections, int):
        parts = indices_or_sections
        if parts < 1 or int(size) % parts:
            raise ShapeError(
                f"split: {parts} equal parts must fit size {size} of axis {axis}, got {x.type}"
            )
        bounds = [int(size) // parts * i for i in range(parts)] + [size]
    else:
        bounds = [0, *(int(i) for i in indices_or_sections), size]
    before = (slice(None),) * axis
    return [x[(*before, slice(a, b))] for a, b in itertools.pairwise(bounds)]


def vstack(xs: Any) -> Any:
    """Tensors one below the other."""
    return concatenate([reshape(x, (1, -1)) if len(np.shape(x)) < 2 else x for x in xs], axis=0)


def hstack(xs: Any) -> Any:
    """Tensors next to each other: along axis 1, or 0 if they have one axis."""
    xs = [reshape(x, (1,)) if not len(np.shape(x)) else x for x in xs]
    return concatenate(xs, axis=0 if len(xs[0].shape) == 1 else 1)


def append(x1: Any, x2: Any, axis: int | None = None) -> Any:
    """`x2` after `x1` along `axis`; both flat by default."""
    if axis is None:
        return concatenate([ravel(x1), ravel(x2)], axis=0)
    return concatenate([x1, x2], axis=axis)


__all__ = [
    "append", "concatenate", "hstack", "split", "stack", "vstack",
]  # fmt: skip
