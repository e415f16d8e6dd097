"""Rules that put cheaper arithmetic in the place of dearer: powers, roots, sums of products.

What they change beyond the last bits of a rounding is refused: a square root for a power of 0.5
needs an operand that is known not to be negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.graph import Value
from ...ir.op import get
from ...ir.pattern import number_of
from ...ir.rewrite import Rule
from ...ir.types import Shape, size_of
from .algebra import equals, floating, like

Ints = tuple[int, ...]

_POSITIVE = frozenset({"exp", "abs", "sigmoid"})
_KEEPS_SIGN = frozenset({
    "broadcast", "reshape", "transpose", "slice", "reverse", "reduce_sum", "reduce_max",
    "reduce_min", "reduce_prod", "concat", "sqrt", "stop_gradient",
})  # fmt: skip
_DEPTH = 6


def is_nonnegative(x: Value, depth: int = _DEPTH) -> bool:
    """Whether no element is below zero, nor a negative zero, as far as a short look back tells."""
    if x.dtype.kind in ("uint", "bool"):
        return True
    number = number_of(x)
    if number is not None:
        return bool(number > 0)
    if x.node is None or not depth:
        return False
    name, operands = x.node.op.name, x.node.inputs
    if name in _POSITIVE or (name == "mul" and operands[0] is operands[1]):
        return x.dtype.is_float
    if name in _KEEPS_SIGN or name in ("add", "mul", "div", "maximum"):
        return x.dtype.is_float and all(is_nonnegative(v, depth - 1) for v in operands)
    return name == "cast" and x.dtype.is_float and is_nonnegative(operands[0], depth - 1)


def _not_negative(x: Value) -> bool | str:
    return is_nonnegative(x) or "the operand may be negative"


def _mul(x: Value, y: Value) -> Value:
    return get("mul")(x, y)


def _square(x: Value) -> Value:
    return _mul(x, x)


def _both(first: bool | str, second: bool | str) -> bool | str:
    return second if first is True else first


POWERS = (
    Rule("pow-zero", lambda p, x, c: p.pow(x, p.const(c)),
         where=lambda c: equals(c, 0), replace=lambda out: like(out, 1)),
    Rule("pow-three", lambda p, x, c: p.pow(x, p.const(c)),
         where=lambda c: equals(c, 3), replace=lambda x: _mul(_square(x), x)),
    Rule("pow-four", lambda p, x, c: p.pow(x, p.const(c)),
         where=lambda c: equals(c, 4), replace=lambda x: _square(_square(x))),
    Rule("pow-minus-one", lambda p, x, c: p.pow(x, p.const(c)),
         where=lambda c, out: _both(equals(c, -1), floating(out)),
         replace=lambda x, out: get("div")(like(out, 1), x)),
    Rule("pow-half", lambda p, x, c: p.pow(x, p.const(c)),
         where=lambda x, c: _both(equals(c, 0.5), _not_negative(x)),
         replace=lambda x: get("sqrt")(x)),
    Rule("pow-minus-half", lambda p, x, c: p.pow(x, p.const(c)),
         where=lambda x, c: _both(equals(c, -0.5), _not_negative(x)),
         replace=lambda x: get("rsqrt")(x)),
    Rule("reciprocal-of-sqrt", lambda p, x, c: p.div(p.const(c), p.sqrt(x)),
         where=lambda c: equals(c, 1), replace=lambda x: get("rsqrt")(x)),
)  # fmt: skip


def _unsigned_power(c: Any, out: Value) -> bool | str:
    """Whether a division of unsigned integers is by a power of two."""
    if out.dtype.kind != "uint":
        return f"{out.dtype} is not unsigned"
    return (int(c) > 0 and int(c) & (int(c) - 1) == 0) or f"the constant {c} is no power of two"


FUNCTIONS = (
    Rule("logistic",
         lambda p, x, a, b: p.div(p.const(a), p.add(p.const(b), p.exp(p.neg(x)))),
         where=lambda a, b: _both(equals(a, 1), equals(b, 1)), replace=lambda x: get("sigmoid")(x)),
    Rule("maximum-neg", lambda p, x: p.maximum(x, p.neg(x)),
         where=lambda out: out.dtype.kind in ("int", "float") or f"{out.dtype} has no sign",
         replace=lambda x: get("abs")(x), keeps_inner=True),
    Rule("div-shift", lambda p, x, c: p.div(x, p.const(c)),
         where=_unsigned_power,
         replace=lambda x, c, out: get("shift_right")(x, like(out, int(c).bit_length() - 1))),
    Rule("remainder-mask", lambda p, x, c: p.remainder(x, p.const(c)),
         where=_unsigned_power,
         replace=lambda x, c, out: get("bit_and")(x, like(out, int(c) - 1))),
)  # fmt: skip


# --- sums of products ------------------------------------------------------------------------


def _is_product(x: Value, y: Value, s: Shape, a: Ints, b: Ints, o: Ints) -> bool | str:
    """Whether `sum(broadcast(x) * broadcast(y))` is a matrix product."""
    for operand, axes in ((x, a), (y, b)):
        if operand.shape != tuple(s[axis] for axis in axes):
            return "an operand is repeated along one of its axes"
        if not set(o) <= set(axes):
            return "it sums along an axis that only one operand has"
        if len(axes) == len(s):
            return "an operand has all axes, so that the product repeats nothing"
    if set(a) | set(b) != set(range(len(s))):
        return "an axis is in neither operand"
    return x.dtype.is_float or f"{x.dtype} is not floating point"


def _arranged(x: Value, axes: Ints, groups: Sequence[Ints]) -> Value:
    """`x` with the axes of each group next to each other; all groups but the first as one axis."""
    order = [axes.index(axis) for group in groups for axis in group]
    if order != sorted(order):
        x = get("transpose")(x, permutation=tuple(order))
    batch, *rest = (tuple(x.shape[order.index(axes.index(axis))] for axis in g) for g in groups)
    shape = (*batch, *(size_of(sizes) for sizes in rest))
    return x if x.shape == shape else get("reshape")(x, shape=shape)


def _product(x: Value, y: Value, s: Shape, a: Ints, b: Ints, o: Ints) -> Value:
    batch = tuple(axis for axis in a if axis in b and axis not in o)
    rows = tuple(axis for axis in a if axis not in b)
    columns = tuple(axis for axis in b if axis not in a)
    left = _arranged(x, a, (batch, rows, o))
    right = _arranged(y, b, (batch, o, columns))
    out = get("matmul")(left, right, transpose_a=False, transpose_b=False)
    axes = (*batch, *rows, *columns)
    shape = tuple(s[axis] for axis in axes)
    out = out if out.shape == shape else get("reshape")(out, shape=shape)
    order = tuple(axes.index(axis) for axis in sorted(axes))
    return out if list(order) == sorted(order) else get("transpose")(out, permutation=order)


PRODUCTS = (
    Rule("sum-of-products",
         lambda p, x, y, s, a, b, o: p.reduce_sum(
             p.mul(p.broadcast(x, shape=s, axes=a), p.broadcast(y, shape=s, axes=b)), axes=o),
         where=_is_product, replace=_product),
)  # fmt: skip

STRENGTH = (*POWERS, *FUNCTIONS, *PRODUCTS)
