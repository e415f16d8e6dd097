"""Sums of products: matrices, tensors."""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.graph import Value
from ...ir.types import size_of
from ..operation import operation
from .core import tensor


@operation
def matmul(x1: Any, x2: Any) -> Any:
    """Matrix product over the last two axes; leading axes broadcast."""
    return sugar.matmul(tensor(x1), tensor(x2))


@operation
def dot(x1: Any, x2: Any) -> Any:
    """Sum of products over the last axis of `x1` and the second to last (or only) of `x2`."""
    a, b = tensor(x1), tensor(x2)
    if a.ndim == 0 or b.ndim == 0:
        return sugar.binary("mul", a, b)
    if b.ndim <= 2:
        return sugar.matmul(a, b)
    return _tensordot(a, b, [a.ndim - 1], [b.ndim - 2])


@operation
def inner(x1: Any, x2: Any) -> Any:
    """Sum of products over the last axes of both."""
    a, b = tensor(x1), tensor(x2)
    if a.ndim == 0 or b.ndim == 0:
        return sugar.binary("mul", a, b)
    return _tensordot(a, b, [a.ndim - 1], [b.ndim - 1])


@operation
def outer(x1: Any, x2: Any) -> Any:
    """Every product of an element of one and an element of the other."""
    a, b = tensor(x1), tensor(x2)
    return sugar.binary("mul", sugar.reshape(a, (-1, 1)), sugar.reshape(b, (1, -1)))


@operation
def tensordot(x1: Any, x2: Any, axes: Any = 2) -> Any:
    """Sum of products over pairs of axes: the last and first `axes`, or two lists of axes."""
    a, b = tensor(x1), tensor(x2)
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
    return sugar.reshape(sugar.matmul(a, b), tuple(shape))


__all__ = ["dot", "inner", "matmul", "outer", "tensordot"]
