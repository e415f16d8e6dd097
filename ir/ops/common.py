"""What the type rules of all families ask of their operands, and how they refuse.

Every message reads `op: what must hold, got what`, with types as the IR prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError, OpenSizeError, ShapeError
from ..graph import Value
from ..op import Reason, get
from ..sugar import zeros_like
from ..types import Dim, TensorType, f32, symbol

DISCRETE = Reason("the result is a truth value or an integer")
"""Why comparisons, bit operations and index arithmetic have no vjp."""

N = symbol("N")
"""The batch, as the frontend names it; the samples use it."""

FIXED_HINT = "give that dimension a size when the model or function is traced"


def _join(types: Iterable[TensorType]) -> str:
    return " and ".join(map(str, types))


def require_float(op: str, **operands: TensorType) -> None:
    """Refuse operands that are not floating point."""
    for name, x in operands.items():
        if not x.dtype.is_float:
            raise DTypeError(f"{op}: operand {name} must be floating point, got {x}")


def require_number(op: str, **operands: TensorType) -> None:
    """Refuse truth values."""
    for name, x in operands.items():
        if x.dtype.is_bool:
            raise DTypeError(f"{op}: operand {name} must be a number, got {x}")


def require_integer(op: str, **operands: TensorType) -> None:
    """Refuse operands that are neither signed nor unsigned integers."""
    for name, x in operands.items():
        if not x.dtype.is_integer:
            raise DTypeError(f"{op}: operand {name} must be an integer, got {x}")


def require_bool(op: str, **operands: TensorType) -> None:
    """Refuse operands that are not truth values."""
    for name, x in operands.items():
        if not x.dtype.is_bool:
            raise DTypeError(f"{op}: operand {name} must be bool, got {x}")


def require_same_dtype(op: str, *operands: TensorType) -> None:
    """Refuse operands of several dtypes."""
    if any(x.dtype != operands[0].dtype for x in operands):
        raise DTypeError(f"{op}: operands must have one dtype, got {_join(operands)}")


def require_same(op: str, *operands: TensorType) -> None:
    """Refuse operands of several dtypes or shapes."""
    require_same_dtype(op, *operands)
    if any(x.shape != operands[0].shape for x in operands):
        raise ShapeError(f"{op}: operands must have one shape, got {_join(operands)}")


def require_rank(op: str, name: str, x: TensorType, least: int) -> None:
    """Refuse an operand of fewer than `least` dimensions."""
    if x.ndim < least:
        raise ShapeError(f"{op}: operand {name} must have rank {least} or more, got {x}")


def require_axis(op: str, axis: int, x: TensorType) -> None:
    """Refuse an axis that `x` does not have; the IR has no negative axes."""
    if not 0 <= axis < x.ndim:
        raise ShapeError(f"{op}: axis must be in [0, {x.ndim}), got {axis} for {x}")


def require_axes(op: str, axes: Sequence[int], x: TensorType) -> None:
    """Refuse axes that are none, unsorted, repeated or not axes of `x`."""
    if not axes:
        raise ShapeError(f"{op}: axes must not be empty, got () for {x}")
    if list(axes) != sorted(set(axes)):
        raise ShapeError(f"{op}: axes must be strictly increasing, got {tuple(axes)}")
    for axis in axes:
        require_axis(op, axis, x)


def require_fixed(op: str, name: str, x: TensorType, axes: Iterable[int]) -> None:
    """Refuse symbolic sizes along `axes`."""
    symbolic = [a for a in axes if isinstance(x.shape[a], Dim)]
    if symbolic:
        raise OpenSizeError(
            f"{op}: operand {name} must have a fixed size along axis {symbolic[0]}, got {x}",
            hint=FIXED_HINT,
        )


def require_length(op: str, count: int, **attributes: Sequence[Any]) -> None:
    """Refuse attributes that do not have `count` entries."""
    for name, entries in attributes.items():
        if len(entries) != count:
            raise ArgumentError(f"{op}: {name} must have {count} entries, got {tuple(entries)}")


def require_at_least(op: str, least: int, **attributes: Sequence[Any]) -> None:
    """Refuse attributes with an entry below `least`; symbolic entries pass."""
    for name, entries in attributes.items():
        if any(not isinstance(e, Dim) and e < least for e in entries):
            raise ArgumentError(f"{op}: {name} must be {least} or more, got {tuple(entries)}")


def multilinear(op: str) -> Callable[..., list[Value]]:
    """The jvp of an op that is linear in each of its floating-point operands by itself.

    Its tangent is the sum of the op with one operand at a time replaced by its tangent.
    """

    def rule(tangents: Sequence[Value | None], *operands: Value, out: Value, **attrs: Any) -> Any:
        terms = [
            get(op)(*operands[:i], tangent, *operands[i + 1 :], **attrs)
            for i, tangent in enumerate(tangents)
            if tangent is not None
        ]
        return [reduce(add, terms)]

    return rule


def linear(op: str) -> Callable[..., list[Value]]:
    """The jvp of an op that is linear in its floating-point operands together."""

    def rule(tangents: Sequence[Value | None], *operands: Value, out: Value, **attrs: Any) -> Any:
        moved = [
            (zeros_like(x) if x.dtype.is_float else x) if t is None else t
            for t, x in zip(tangents, operands, strict=True)
        ]
        return [get(op)(*moved, **attrs)]

    return rule


def widen(x: np.ndarray) -> np.ndarray:
    """f16 and bf16 as f32, in which they accumulate; everything else as it is."""
    is_half = x.dtype.itemsize == 2 and x.dtype.kind not in "iu"
    return x.astype(f32.numpy) if is_half else x
