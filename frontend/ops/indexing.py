"""Taking elements at positions, and padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, ShapeError
from ...ir.op import get as primitive
from ...ir.types import i32
from ..operation import operation
from .core import tensor


@operation
def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The slices of `x` at integer `indices` along `axis`; of the flat array by default.

    Negative indices count from the end.
    """
    x, indices = tensor(x), tensor(indices)
    x, axis = (sugar.reshape(x, (x.type.size,)), 0) if axis is None else (x, axis)
    axis = sugar.normalize_axis("take", axis, x.ndim)
    if indices.dtype.kind == "int" and isinstance(x.shape[axis], int):
        indices = sugar.select(indices < 0, indices + x.shape[axis], indices)
    return primitive("gather")(x, indices, axis=axis)


@operation
def take_along_axis(x: Any, indices: Any, axis: int | None = None) -> Any:
    """For each position of `indices` the element of `x` at that index along `axis`.

    Sizes outside of `axis` must be known, equal, or those of the batch.
    """
    x, indices = tensor(x), tensor(indices)
    if axis is None:
        flat = sugar.reshape(x, (x.type.size,))
        return primitive("gather")(flat, sugar.reshape(indices, (indices.type.size,)), axis=0)
    axis = sugar.normalize_axis("take_along_axis", axis, x.ndim)
    classes = int(x.shape[axis])
    chosen = sugar.select(indices < 0, indices + classes, indices)
    position = primitive("iota")(shape=(classes,), axis=0, dtype=indices.dtype)
    hit = sugar.binary("equal", chosen[..., None], position)  # one index against all positions
    rows = sugar.transpose(x, [*(i for i in range(x.ndim) if i != axis), axis])
    rows = sugar.reshape(rows, (*rows.shape[:axis], 1, *rows.shape[axis:]))
    return sugar.reduce("reduce_sum", sugar.select(hit, rows, 0), -1)


@operation
def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = None) -> Any:
    """`x` with `pad_width[i] = (before, after)` more elements along axis i.

    Parameters
    ----------
    mode : str
        `constant`, `reflect` or `symmetric`, `edge`.
    constant_values : float, optional
        0 by default; only with mode `constant`.
    """
    x = tensor(x)
    widths = _pad_widths(pad_width, x.ndim)
    if mode != "constant" and constant_values is not None:
        raise ArgumentError(f"pad: constant_values goes with mode 'constant', got {mode!r}")
    if mode == "constant":
        low, high = zip(*widths, strict=True) if widths else ((), ())
        value = 0.0 if constant_values is None else float(constant_values)
        return primitive("pad")(x, low=low, high=high, interior=(0,) * x.ndim, value=value)
    if mode not in ("reflect", "symmetric", "edge"):
        raise ArgumentError(f"pad: mode must be constant, reflect, symmetric or edge, got {mode!r}")
    for axis, width in enumerate(widths):
        if any(width):
            positions = np.pad(np.arange(int(x.shape[axis])), width, mode=mode)  # type: ignore[call-overload]
            x = primitive("gather")(x, constant(positions, i32), axis=axis)
    return x


def _pad_widths(pad_width: Any, rank: int) -> list[tuple[int, int]]:
    if isinstance(pad_width, int):
        return [(pad_width, pad_width)] * rank
    widths = [(w, w) if isinstance(w, int) else tuple(int(v) for v in w) for w in pad_width]
    if len(widths) == 2 and rank != 2 and all(isinstance(w, int) for w in pad_width):
        return [tuple(pad_width)] * rank
    widths = widths * rank if len(widths) == 1 else widths
    if len(widths) != rank or any(len(w) != 2 for w in widths):
        raise ShapeError(
            f"pad: pad_width must give a pair for each of {rank} axes, got {pad_width}"
        )
    return widths  # type: ignore[return-value]


__all__ = ["pad", "take", "take_along_axis"]
