"""Number theory."""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.builder import Builder
from ...ir.errors import DTypeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ..operation import operation
from .core import operand


@operation
def gcd(x1: Any, x2: Any) -> Any:
    """The greatest common divisor of integers, element by element; `gcd(0, x)` is `|x|`."""
    return _divisor(*_sizes("gcd", x1, x2))


@operation
def lcm(x1: Any, x2: Any) -> Any:
    """The least common multiple of integers, element by element; 0 if one is 0."""
    a, b = _sizes("lcm", x1, x2)
    return primitive("div")(a, _divisor(a, b)) * b  # integers: 0 divided by 0 is 0


def _sizes(op: str, x1: Any, x2: Any) -> tuple[Value, Value]:
    """Absolute values of one dtype and shape."""
    a, b = sugar.common(operand(x1), operand(x2))
    if not a.dtype.is_integer:
        raise DTypeError(f"{op}: operands must be integers, got {a.type} and {b.type}")
    shape = sugar.broadcast_shapes(a.shape, b.shape, name=op)
    a, b = sugar.broadcast_to(a, shape), sugar.broadcast_to(b, shape)
    return (a, b) if a.dtype.kind == "uint" else (sugar.unary("abs", a), sugar.unary("abs", b))


def _divisor(a: Value, b: Value) -> Value:
    """Euclid's algorithm, as long as any remainder is left."""
    regions = {}
    for name in ("condition", "body"):
        with Builder(name) as builder:
            x, y = builder.input("x", a.type), builder.input("y", b.type)
            left = sugar.binary("not_equal", y, 0)
            if name == "condition":
                result = {"go": sugar.reduce("reduce_any", left)}
            else:
                rest = sugar.binary("remainder", x, sugar.select(left, y, 1))
                zero = sugar.zeros_like(y)
                result = {"x": sugar.select(left, y, x), "y": sugar.select(left, rest, zero)}
            regions[name] = builder.finish(result)
    return primitive("while").all(a, b, carry=2, **regions)[0]


def integer_power(base: Value, exponent: Value) -> Value:
    """`base ** exponent` by squaring, as many steps as the largest exponent has bits."""
    shape = sugar.broadcast_shapes(base.shape, exponent.shape, name="power")
    base, exponent = sugar.broadcast_to(base, shape), sugar.broadcast_to(exponent, shape)
    negative = exponent < 0
    left = sugar.select(negative, sugar.zeros_like(exponent), exponent)
    regions = {}
    for name in ("condition", "body"):
        with Builder(name) as builder:
            result, square, rest = (
                builder.input(n, base.type) for n in ("result", "square", "rest")
            )
            if name == "condition":
                found = {"go": sugar.reduce("reduce_any", rest > 0)}
            else:
                odd = sugar.binary("not_equal", rest & 1, 0)
                found = {"result": sugar.select(odd, result * square, result),
                         "square": square * square, "rest": rest >> 1}  # fmt: skip
            regions[name] = builder.finish(found)
    one = sugar.full(shape, 1, base.dtype)
    power = primitive("while").all(one, base, left, carry=3, **regions)[0]
    return sugar.select(negative, sugar.zeros_like(power), power)


__all__ = ["gcd", "lcm"]
