"""Sums of products: matrices, tensors."""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.errors import ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import boolean, i8, i32, size_of
from ..operation import operation
from .core import floats, operand, tensor


def product(a: Value, b: Value) -> Value:
    """A matrix product; of bools, whether any pair holds."""
    a, b = sugar.common(a, b)
    if not a.dtype.is_bool:
        return sugar.matmul(a, b)
    return sugar.cast(sugar.matmul(sugar.cast(a, i32), sugar.cast(b, i32)), boolean)


def _pair(x1: Any, x2: Any) -> tuple[Value, ...]:
    """Operands of one dtype, Python numbers giving way."""
    return sugar.common(operand(x1), operand(x2))


def times(a: Any, b: Any) -> Value:
    """An elementwise product; of bools, their and."""
    a, b = sugar.common(a, b)
    return sugar.binary("logical_and" if a.dtype.is_bool else "mul", a, b)


def widened(*xs: Value) -> list[Value]:
    """Operands of int8 as int32, in which Keras accumulates them; others as they are."""
    return [sugar.cast(x, i32) for x in xs] if {x.dtype for x in xs} == {i8} else list(xs)


@operation
def matmul(x1: Any, x2: Any) -> Any:
    """Matrix product over the last two axes; leading axes broadcast, int8 becomes int32."""
    return product(*widened(tensor(x1), tensor(x2)))


@operation
def dot(x1: Any, x2: Any) -> Any:
    """Sum of products over the last axis of `x1` and the second to last (or only) of `x2`."""
    a, b = _pair(x1, x2)
    if a.ndim == 0 or b.ndim == 0:
        return times(a, b)
    if b.ndim <= 2:
        return product(a, b)
    return _tensordot(a, b, [a.ndim - 1], [b.ndim - 2])


@operation
def inner(x1: Any, x2: Any) -> Any:
    """Sum of products over the last axes of both."""
    a, b = _pair(x1, x2)
    if a.ndim == 0 or b.ndim == 0:
        return times(a, b)
    return _tensordot(a, b, [a.ndim - 1], [b.ndim - 1])


@operation
def outer(x1: Any, x2: Any) -> Any:
    """Every product of an element of one and an element of the other."""
    a, b = _pair(x1, x2)
    return times(sugar.reshape(a, (a.type.size, 1)), sugar.reshape(b, (1, b.type.size)))


@operation
def tensordot(x1: Any, x2: Any, axes: Any = 2) -> Any:
    """Sum of products over pairs of axes: the last and first `axes`, or two lists of axes."""
    a, b = _pair(x1, x2)
    if isinstance(axes, int):
        return _tensordot(a, b, list(range(a.ndim - axes, a.ndim)), list(range(axes)))
    left, right = ([v] if isinstance(v, int) else list(v) for v in axes)
    return _tensordot(a, b, left, right)


def _tensordot(a: Value, b: Value, left: list[int], right: list[int]) -> Value:
    left = [sugar.normalize_axis("tensordot", i, a.ndim) for i in left]
    right = [sugar.normalize_axis("tensordot", i, b.ndim) for i in right]
    a_free = [i for i in range(a.ndim) if i not in left]
    b_free = [i for i in range(b.ndim) if i not in right]
    inner_size = size_of(a.shape[i] for i in left)
    shape = [a.shape[i] for i in a_free] + [b.shape[i] for i in b_free]
    rows = size_of(a.shape[i] for i in a_free)
    columns = size_of(b.shape[i] for i in b_free)
    a = sugar.reshape(sugar.transpose(a, a_free + left), (rows, inner_size))
    b = sugar.reshape(sugar.transpose(b, right + b_free), (inner_size, columns))
    return sugar.reshape(product(a, b), tuple(shape))


@operation
def vdot(x1: Any, x2: Any) -> Any:
    """Sum of the products of all elements of both, in row-major order."""
    a, b = (sugar.reshape(v, (v.type.size,)) for v in _pair(x1, x2))
    return product(a, b)


@operation
def kron(x1: Any, x2: Any) -> Any:
    """The Kronecker product: each element of `x1` times the whole of `x2`."""
    a, b = _pair(x1, x2)
    rank = max(a.ndim, b.ndim)
    left = (1,) * (rank - a.ndim) + a.shape
    right = (1,) * (rank - b.ndim) + b.shape
    a = sugar.reshape(a, tuple(d for size in left for d in (size, 1)))
    b = sugar.reshape(b, tuple(d for size in right for d in (1, size)))
    shape = tuple(m * n for m, n in zip(left, right, strict=True))
    return sugar.reshape(times(a, b), shape)


@operation
def cross(
    x1: Any, x2: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Any:
    """The cross product of vectors of 3 (or 2) components along an axis.

    Parameters
    ----------
    axisa, axisb, axisc : int
        Where the components of `x1`, `x2` and the result lie.
    axis : int, optional
        In place of all three.
    """
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = _components(tensor(x1), axisa), _components(tensor(x2), axisb)
    if len(a) == len(b) == 2:
        return times(a[0], b[1]) - times(a[1], b[0])
    a, b = ([*v, sugar.zeros_like(v[0])] if len(v) == 2 else v for v in (a, b))
    parts = [times(a[i], b[j]) - times(a[j], b[i]) for i, j in ((1, 2), (2, 0), (0, 1))]
    position = sugar.normalize_axis("cross", axisc, parts[0].ndim + 1)
    shape = (*parts[0].shape[:position], 1, *parts[0].shape[position:])
    return primitive("concat")(*(sugar.reshape(p, shape) for p in parts), axis=position)


def _components(x: Value, axis: int) -> list[Value]:
    axis = sugar.normalize_axis("cross", axis, x.ndim)
    if x.shape[axis] not in (2, 3):
        raise ShapeError(f"cross: vectors must have 2 or 3 components, got {x.type} on axis {axis}")
    before = (slice(None),) * axis
    return [x[(*before, i)] for i in range(int(x.shape[axis]))]


@operation
def cdist(x: Any, y: Any) -> Any:
    """The Euclidean distance of every row of `x` from every row of `y`."""
    a, b = floats(x, y)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"cdist: x and y must have rows of one size, got {a.type} and {b.type}")
    apart = a[..., :, None, :] - b[..., None, :, :]
    return sugar.unary("sqrt", sugar.reduce("reduce_sum", apart * apart, -1))


__all__ = ["cdist", "cross", "dot", "kron", "inner", "matmul", "outer", "tensordot", "vdot"]
