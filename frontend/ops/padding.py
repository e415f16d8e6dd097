"""Elements around tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import boolean, i32
from ..operation import operation
from .core import tensor
from .statistics import median

_BY_POSITION = ("edge", "reflect", "symmetric", "wrap")


@operation
def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = None) -> Any:
    """`x` with `pad_width[i] = (before, after)` more elements along axis i.

    Parameters
    ----------
    pad_width : int, pair of ints, or a pair for each axis
    mode : str
        `constant`, or `empty`, which is zeros. Elements of `x`: `edge`, `reflect` (the edge not
        repeated), `symmetric` (the edge repeated), `wrap` or `circular`. Of the whole axis:
        `maximum`, `minimum`, `mean`, `median`. `linear_ramp` falls to 0.
    constant_values : number or scalar tensor, optional
        0 by default; only with mode `constant`.
    """
    x = tensor(x)
    widths = _widths(pad_width, x.ndim)
    if mode != "constant" and constant_values is not None:
        raise ArgumentError(f"pad: constant_values goes with mode 'constant', got {mode!r}")
    mode = {"circular": "wrap", "empty": "constant"}.get(mode, mode)
    if mode == "constant":
        return _constant(x, widths, constant_values)
    if mode not in (*_BY_POSITION, *_BLOCKS):
        known = ", ".join(("constant", "empty", "circular", *_BY_POSITION, *_BLOCKS))
        raise ArgumentError(f"pad: mode must be one of {known}, got {mode!r}")
    for axis, (before, after) in enumerate(widths):
        if not before and not after:
            continue
        if mode in _BY_POSITION:
            size = np.arange(int(x.shape[axis]))
            positions = np.pad(size, (before, after), mode=mode)  # type: ignore[call-overload]
            x = primitive("gather")(x, constant(positions, i32), axis=axis)
        else:
            block = _BLOCKS[mode]
            parts = [block(x, axis, before, True), x, block(x, axis, after, False)]
            x = primitive("concat")(*(sugar.cast(p, x.dtype) for p in parts), axis=axis)
    return x


def _constant(x: Value, widths: list[tuple[int, int]], fill: Any) -> Value:
    low, high = zip(*widths, strict=True) if widths else ((), ())
    surround: dict[str, Any] = {"low": low, "high": high, "interior": (0,) * x.ndim}
    if fill is None or isinstance(fill, int | float):
        if x.dtype.is_bool:
            return sugar.cast(_constant(sugar.cast(x, i32), widths, int(bool(fill))), boolean)
        return primitive("pad")(x, **surround, value=float(fill or 0))
    inside = primitive("pad")(sugar.full(x.shape, 1, i32), **surround, value=0.0)
    padded = primitive("pad")(x, **surround, value=0.0)
    return sugar.select(inside > 0, padded, tensor(fill, x.dtype))


def _repeated(statistic: Callable[[Value, int], Value]) -> Callable[..., Value]:
    """Blocks of one number for each line along the axis."""

    def block(x: Value, axis: int, count: int, _before: bool) -> Value:
        shape = tuple(count if i == axis else d for i, d in enumerate(x.shape))
        return sugar.broadcast_to(statistic(x, axis), shape)

    return block


def _mean(x: Value, axis: int) -> Value:
    mean = sugar.mean(x, axis, keepdims=True)
    return mean if x.dtype.is_float else sugar.unary("round", mean)


def _median(x: Value, axis: int) -> Value:
    found: Value = median(x, axis, keepdims=True)
    return found if x.dtype.is_float else sugar.unary("round", found)


def _ramp(x: Value, axis: int, count: int, before: bool) -> Value:
    """From 0 to, without, the element at the edge."""
    size = int(x.shape[axis])
    edge = primitive("gather")(x, constant(np.array([0 if before else size - 1]), i32), axis=axis)
    share = np.arange(count) / max(count, 1)
    weight = (share if before else share[::-1]).reshape(
        [-1 if i == axis else 1 for i in range(x.ndim)]
    )
    if x.dtype.is_float:
        return edge * constant(weight, x.dtype)
    return sugar.unary("floor", sugar.cast(edge, "float32") * constant(weight, "float32"))


_BLOCKS: dict[str, Callable[..., Value]] = {
    "maximum": _repeated(lambda x, axis: sugar.reduce("reduce_max", x, axis, keepdims=True)),
    "minimum": _repeated(lambda x, axis: sugar.reduce("reduce_min", x, axis, keepdims=True)),
    "mean": _repeated(_mean),
    "median": _repeated(_median),
    "linear_ramp": _ramp,
}


def _widths(pad_width: Any, rank: int) -> list[tuple[int, int]]:
    """A pair for each axis, from what NumPy takes."""
    given = np.asarray(pad_width)
    try:
        pairs = np.broadcast_to(given, (rank, 2))
    except ValueError:
        raise ShapeError(
            f"pad: pad_width must give a pair for each of {rank} axes, got {pad_width}"
        ) from None
    return [(int(a), int(b)) for a, b in pairs]


__all__ = ["pad"]
