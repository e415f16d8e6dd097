"""Einstein's summation."""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.types import Size, size_of
from ..operation import operation
from .core import tensor


@operation
def einsum(subscripts: str, *operands: Any) -> Any:
    """Einstein's summation over one or two operands, as transposes and one matrix product.

    >>> ops.einsum("bqd,bkd->bqk", query, key)
    """
    inputs, _, output = subscripts.replace(" ", "").partition("->")
    names = inputs.split(",")
    values = [tensor(x) for x in operands]
    if "." in subscripts or len(names) != len(values) or len(names) > 2:
        raise ArgumentError(
            f"einsum: one or two operands without '...' are supported, got {subscripts!r} "
            f"with {len(values)} operands"
        )
    if "->" not in subscripts:
        letters = inputs.replace(",", "")
        output = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    for name, value in zip(names, values, strict=True):
        if len(name) != value.ndim or len(set(name)) != len(name):
            raise ShapeError(f"einsum: {name!r} must name each axis of {value.type} once")
    if len(values) == 1:
        return _einsum_one(names[0], values[0], output)
    return _einsum_two(names, list(sugar.common(*values)), output)


def _einsum_one(name: str, x: Value, output: str) -> Value:
    x, name = _sum_out(x, name, output)
    return sugar.transpose(x, [name.index(c) for c in output])


def _sum_out(x: Value, name: str, needed: str) -> tuple[Value, str]:
    """Sum over the axes that nothing else names."""
    axes = tuple(i for i, c in enumerate(name) if c not in needed)
    if not axes:
        return x, name
    return sugar.reduce("reduce_sum", x, axes), "".join(c for c in name if c in needed)


def _einsum_two(names: list[str], values: list[Value], output: str) -> Value:
    a, left = _sum_out(values[0], names[0], names[1] + output)
    b, right = _sum_out(values[1], names[1], names[0] + output)
    batch = [c for c in left if c in right and c in output]
    inner_axes = [c for c in left if c in right and c not in output]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    size = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))

    def many(letters: list[str]) -> Size:
        return size_of(size[c] for c in letters)

    lead = tuple(size[c] for c in batch)
    a = sugar.transpose(a, [left.index(c) for c in batch + rows + inner_axes])
    b = sugar.transpose(b, [right.index(c) for c in batch + inner_axes + columns])
    product = sugar.matmul(
        sugar.reshape(a, (*lead, many(rows), many(inner_axes))),
        sugar.reshape(b, (*lead, many(inner_axes), many(columns))),
    )
    made = batch + rows + columns
    product = sugar.reshape(product, tuple(size[c] for c in made))
    return sugar.transpose(product, [made.index(c) for c in output])


__all__ = ["einsum"]
