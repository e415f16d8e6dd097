"""The math namespace `m` of `ir/scalar.py` over TIR: one element, or one vector of them.

An `Element` is a bound variable or a constant, with the dtype of the IR. f16 and bf16 are
carried as float32, short integers as int32 (both are rounded where an op ends), bool as TIR's
bool; `load` and `store` translate between that and what lies in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx import op as top

from ...ir.types import DType, bf16, boolean, f16, f32, f64, i32, i64
from . import bfloat
from .emit import Buffer, Expr
from .index import Index
from .nest import Nest

_CARRIER = {
    "f64": "float64", "f32": "float32", "f16": "float32", "bf16": "float32",
    "i64": "int64", "i32": "int32", "i16": "int32", "i8": "int32",
    "u32": "uint32", "u8": "int32", "bool": "bool",
}  # fmt: skip
_STORAGE = {
    **_CARRIER, "f16": "float16", "bf16": "uint16", "bool": "uint8",
    "i16": "int16", "i8": "int8", "u8": "uint8",
}  # fmt: skip


def carrier(dtype: DType) -> str:
    """TVM's name of the type that elements of `dtype` are computed in."""
    return _CARRIER[dtype.name]


def storage(dtype: DType) -> str:
    """TVM's name of the type that elements of `dtype` have in memory."""
    return _STORAGE[dtype.name]


_SERIALS = itertools.count()


class Element:
    """One element: an expression that costs nothing to use again."""

    __slots__ = ("dtype", "exact", "expr", "factors", "level", "nest", "serial")
    __hash__ = object.__hash__

    def __init__(
        self, nest: Nest, dtype: DType, expr: Expr, level: int, serial: int | None = None
    ) -> None:
        self.nest, self.dtype, self.expr, self.level = nest, dtype, expr, level
        self.serial = next(_SERIALS) if serial is None else serial
        self.factors: tuple[Element, Element] | None = None
        self.exact: Element | None = None
        """What this was rounded from, to a shorter dtype."""

    def plain(self, dtype: DType | None = None) -> Element:
        """The same number, not to be contracted with a sum, seen as another dtype if given."""
        return Element(self.nest, dtype or self.dtype, self.expr, self.level, self.serial)

    @property
    def number(self) -> float | int | None:
        """The value of a constant, else None."""
        return self.expr.value if isinstance(self.expr, tirx.IntImm | tirx.FloatImm) else None

    @property
    def key(self) -> Any:
        """Equal for elements that are the same constant or the same variable."""
        value = self.number
        if value is None:
            return self.serial
        text = value.hex() if isinstance(value, float) else value
        return ("constant", str(self.expr.ty), text)

    def __add__(self, other: Any) -> Element:
        other = self._like(other)
        if self.factors:
            return fused(*self.factors, other)
        if other.factors:
            return fused(*other.factors, self)
        return _arithmetic("add", tirx.Add, self, other)

    def __sub__(self, other: Any) -> Element:
        other = self._like(other)
        if self.factors:
            return fused(*self.factors, -other)
        if other.factors:
            return fused(-other.factors[0], other.factors[1], self)
        return _arithmetic("sub", tirx.Sub, self, other)

    def __mul__(self, other: Any) -> Element:
        other = self._like(other)
        result = _arithmetic("mul", tirx.Mul, self, other).plain()
        if self.dtype == f32:
            result.factors = (self, other)
        return result

    def __truediv__(self, other: Any) -> Element:
        other = self._like(other)
        if self.dtype.is_float:
            return _apply("div", tirx.Div, self, other)
        return _quotient(self, other)

    def __mod__(self, other: Any) -> Element:
        """The remainder of the divisor's sign."""
        other = self._like(other)
        rest = _rest(self, other)
        if self.dtype.kind == "uint":
            return rest
        wrong = (rest != 0) & ((rest < 0) ^ (other < 0))
        return select(wrong, rest + other, rest)

    def __neg__(self) -> Element:
        if self.dtype.kind == "uint":
            return self._like(0) - self
        return (self * -1).plain()  # 0 - x would lose the sign of zero

    def __eq__(self, other: Any) -> Element:  # type: ignore[override]
        if self.dtype.is_bool:  # TVM compares vectors of bool as if they were floats
            return ~(self ^ other)
        other = self._like(other)
        if self.dtype.is_float and self.key == other.key:
            return _apply("is_number", _is_number, self, dtype=boolean)
        return _apply("eq", tirx.EQ, self, other, dtype=boolean)

    def __ne__(self, other: Any) -> Element:  # type: ignore[override]
        if self.dtype.is_integer:
            return _apply("ne", tirx.NE, self, self._like(other), dtype=boolean)
        return ~(self == other)  # TVM's NE is false for NaN

    def __lt__(self, other: Any) -> Element:
        return _apply("lt", tirx.LT, self, self._like(other), dtype=boolean)

    def __le__(self, other: Any) -> Element:
        return _apply("le", tirx.LE, self, self._like(other), dtype=boolean)

    def __gt__(self, other: Any) -> Element:
        return self._like(other) < self

    def __ge__(self, other: Any) -> Element:
        return self._like(other) <= self

    def __and__(self, other: Any) -> Element:
        make = tirx.And if self.dtype.is_bool else top.bitwise_and
        return _apply("and", make, self, self._like(other))

    def __or__(self, other: Any) -> Element:
        make = tirx.Or if self.dtype.is_bool else top.bitwise_or
        return _apply("or", make, self, self._like(other))

    def __xor__(self, other: Any) -> Element:
        if self.dtype.is_bool:
            return (self | other) & ~(self & other)
        return _apply("xor", top.bitwise_xor, self, self._like(other))

    def __invert__(self) -> Element:
        return _apply("not", _negation if self.dtype.is_bool else top.bitwise_not, self)

    def __lshift__(self, other: Any) -> Element:
        return _apply("shl", top.shift_left, self, self._like(other))

    def __rshift__(self, other: Any) -> Element:
        return _apply("shr", top.shift_right, self, self._like(other))

    def _like(self, other: Any) -> Element:
        return other if isinstance(other, Element) else constant(self.nest, self.dtype, other)


def constant(nest: Nest, dtype: DType, value: Any) -> Element:
    """A number of `dtype`."""
    name = carrier(dtype)
    if dtype.is_float:
        number = float(np.asarray(value).astype(dtype.numpy))
    elif dtype.is_bool:
        number = bool(value)
    else:
        number = int(np.asarray(value).astype(dtype.numpy))
    return Element(nest, dtype, _literal(number, name), 0)


def _literal(number: float | int | bool, name: str) -> Expr:
    if name == "bool":
        return tirx.IntImm("bool", int(number))
    return tirx.FloatImm(name, number) if name.startswith("float") else tirx.const(number, name)


def _bound(key: Any, nest: Nest, dtype: DType, level: int, make: Callable[[], Expr]) -> Element:
    """The element of an expression, from an open scope where an equal one was made before."""
    found = nest.find(key)
    if found is not None:
        return found
    expr = make()
    if not isinstance(expr, tirx.Var | tirx.IntImm | tirx.FloatImm):
        expr = _kept(nest, expr, level)
    element = Element(nest, dtype, expr, level)
    nest.remember(key, level, element)
    return element


def _kept(nest: Nest, expr: Expr, level: int) -> Expr:
    """An expression that costs nothing to use again. Truth values are kept as 1.0 and 0.0, for
    TVM cannot hold vectors of bool; LLVM takes both conversions away."""
    if str(expr.ty) != "bool":
        return nest.bind(expr, level)
    if nest.inline:
        return expr
    return tirx.NE(nest.bind(_as_float(expr), level), _ZERO)


_ONE, _ZERO = tirx.const(1.0, "float32"), tirx.const(0.0, "float32")


def _as_float(condition: Expr) -> Expr:
    return tirx.Select(condition, _ONE, _ZERO)


def _is_number(x: Expr) -> Expr:
    """``x == x``, which TVM would take for true: LLVM makes one comparison of this."""
    return tirx.LE(x, tirx.const(float("inf"), str(x.ty)))


def _negation(condition: Expr) -> Expr:
    """TVM would turn ``not a < b`` to ``b <= a``, which is another thing for NaN."""
    return tirx.EQ(_as_float(condition), _ZERO)


def _apply(name: str, make: Callable[..., Expr], *xs: Element, dtype: DType | None = None,
           extra: Any = None) -> Element:  # fmt: skip
    dtype = dtype or xs[0].dtype
    level = max(x.level for x in xs)
    key = (name, extra, dtype.name, *(x.key for x in xs))
    return _bound(key, xs[0].nest, dtype, level, lambda: make(*(x.expr for x in xs)))


def _arithmetic(name: str, make: Callable[..., Expr], x: Element, y: Element) -> Element:
    """Integers wrap around. TVM tells LLVM that sums of 32 bits and more never do, so those of
    32 bits are made in 64, of which LLVM keeps the lower half alone."""
    own = carrier(x.dtype)
    if own not in ("int32", "uint32"):
        return _apply(name, make, x, y)
    wide = "uint64" if own == "uint32" and name == "mul" else "int64"

    def wrapping(a: Expr, b: Expr) -> Expr:
        return tirx.Cast(own, make(tirx.Cast(wide, a), tirx.Cast(wide, b)))

    return _apply(name, wrapping, x, y)


def _quotient(x: Element, y: Element) -> Element:
    """Integer division toward zero, 0 for a divisor of 0.

    It must not trap, and a divisor or quotient that a select protects does not help: LLVM sees
    through it. Up to 32 bits f64 is exact; above, the divisor is made harmless by arithmetic.
    """
    if x.dtype.bits <= 32:
        wide = cast(x, f64) / cast(y, f64)
        return select(y == 0, x._like(0), cast(cast(wide, i64), x.dtype))
    flag = lambda c: _apply("cast", lambda e: _cast("int64", e), c, dtype=x.dtype)  # noqa: E731
    by_zero, by_minus_one = flag(y == 0), flag(y == -1) * 2
    quotient = _apply("truncdiv", tirx.truncdiv, x, y + by_zero + by_minus_one)
    return quotient * (x._like(1) - by_zero - by_minus_one)


def _rest(x: Element, y: Element) -> Element:
    """The remainder with the sign of `x`; 0 for a divisor of 0."""
    if x.dtype.is_float:
        return _library("fmod", x, y)
    return select(y == 0, x._like(0), x - _quotient(x, y) * y)


def fused(x: Element, y: Element, z: Element) -> Element:
    """``x * y + z`` rounded once, where the processor can; formulas may be contracted so."""
    return _apply("fma", _llvm("fma"), x, y, z)


def select(condition: Element, x: Element, y: Element) -> Element:
    """``x if condition else y``; both are computed."""
    if condition.number is not None:
        return x if condition.number else y
    if x.key == y.key:
        return x
    return _apply("select", tirx.Select, condition, x, y, dtype=x.dtype)


def cast(x: Element, dtype: DType) -> Element:
    """Convert: floats to integers toward zero, anything to bool by ``!= 0``."""
    if x.dtype == dtype:
        return x
    if dtype.is_bool:
        return x != 0
    source, target = carrier(x.dtype), carrier(dtype)
    if source == target:
        result = x.plain(dtype)
    else:
        result = _apply("cast", lambda e: _cast(target, e), x, dtype=dtype)
    return rounded(result)


def _cast(target: str, x: Expr) -> Expr:
    if str(x.ty) == "bool":  # see `_kept`
        return tirx.Select(x, _literal(1, target), _literal(0, target))
    return tirx.Cast(target, x)


def rounded(x: Element) -> Element:
    """What memory of the dtype can hold: f16 and bf16 are rounded, short integers wrap around."""
    if x.dtype == bf16:
        result = _apply("round", lambda e: _round_bf16(x.nest, x.level, e), x, extra="bf16")
    elif x.dtype == f16 or (x.dtype.is_integer and x.dtype.bits < 32):
        own, held = carrier(x.dtype), storage(x.dtype)
        result = _apply("round", lambda e: tirx.Cast(own, tirx.Cast(held, e)), x, extra=held)
    else:
        return x
    result.exact = x if x.dtype.is_float else None
    return result


def _round_bf16(nest: Nest, level: int, x: Expr) -> Expr:
    """To the nearest, of two such to the even one; NaN stays NaN."""
    vector = nest.in_vector(x, level)
    if vector is not None:
        return bfloat.widen(bfloat.narrow_lane(vector, nest.lanes_at(level)))
    word = tirx.const(16, "uint32")
    return tirx.reinterpret("float32", top.shift_left(bfloat.upper_half(x), word))


def load(buffer: Buffer, at: Sequence[Expr], dtype: DType) -> Expr:
    """Read an element as its carrier."""
    value = tirx.BufferLoad(buffer, list(at))
    if dtype.is_bool:
        return tirx.NE(value, tirx.const(0, "uint8"))
    if str(value.ty) == "uint16":  # bf16
        bits = top.shift_left(tirx.Cast("uint32", value), tirx.const(16, "uint32"))
        return tirx.reinterpret("float32", bits)
    return value if carrier(dtype) == str(value.ty) else tirx.Cast(carrier(dtype), value)


def store(buffer: Buffer, flat: Expr, value: Expr, dtype: DType) -> tirx.Stmt:
    """Write a carrier as an element."""
    if dtype == bf16:  # rounded before, so the lower half is zero
        bits = tirx.reinterpret("uint32", value)
        value = tirx.Cast("uint16", top.shift_right(bits, tirx.const(16, "uint32")))
    elif carrier(dtype) != storage(dtype):
        value = _cast(storage(dtype), value)
    return tirx.BufferStore(buffer, value, [flat])


class Math:
    """The namespace `m` for elements of one dtype; see `ir.scalar.Math`."""

    def __init__(self, nest: Nest, dtype: DType) -> None:
        self.nest = nest
        # Half-precision formulas are evaluated in f32 and rounded once, like NumPy's.
        self.dtype = f32 if dtype in (f16, bf16) else dtype

    def const(self, value: Any) -> Element:
        return constant(self.nest, self.dtype, value)

    def _element(self, value: Any) -> Element:
        return value if isinstance(value, Element) else self.const(value)

    def select(self, condition: Element, x: Any, y: Any) -> Element:
        return select(condition, self._element(x), self._element(y))

    def cast(self, x: Element, dtype: DType) -> Element:
        return cast(x, dtype)

    def bitcast(self, x: Element, dtype: DType) -> Element:
        target = carrier(dtype)
        return _apply("bits", lambda e: tirx.reinterpret(target, e), x, dtype=dtype)

    def maximum(self, x: Element, y: Any) -> Element:
        y = self._element(y)
        return _extremum(x, y, x < y)

    def minimum(self, x: Element, y: Any) -> Element:
        y = self._element(y)
        return _extremum(x, y, y < x)

    def abs(self, x: Element) -> Element:
        if x.dtype.is_float:
            return _apply("abs", _llvm("fabs"), x)
        return x if x.dtype.kind == "uint" else select(x < 0, -x, x)

    def sqrt(self, x: Element) -> Element:
        return _apply("sqrt", _llvm("sqrt"), x)

    def floor(self, x: Element) -> Element:
        return _apply("floor", _llvm("floor"), x)

    def ceil(self, x: Element) -> Element:
        return _apply("ceil", _llvm("ceil"), x)

    def round(self, x: Element) -> Element:
        return _apply("nearbyint", _llvm("nearbyint"), x)

    def exp(self, x: Element) -> Element:
        return _library("exp", x)

    def expm1(self, x: Element) -> Element:
        return _library("expm1", x)

    def log(self, x: Element) -> Element:
        return _library("log", x)

    def log1p(self, x: Element) -> Element:
        return _library("log1p", x)

    def tanh(self, x: Element) -> Element:
        return _library("tanh", x)

    def erf(self, x: Element) -> Element:
        return _library("erf", x)

    def sin(self, x: Element) -> Element:
        return _library("sin", x)

    def cos(self, x: Element) -> Element:
        return _library("cos", x)

    def pow(self, x: Element, y: Any) -> Element:
        return _library("pow", x, self._element(y))

    def library(self, name: str, *xs: Element) -> Element:
        return _library(name, *xs)


def _extremum(x: Element, y: Element, take_y: Element) -> Element:
    """``y if take_y else x``, which has x where x is NaN; a y that may be NaN needs a test."""
    if x.dtype.is_float and y.number is None:
        take_y = take_y | (y != y)
    return select(take_y, y, x)


def _llvm(name: str) -> Callable[..., Expr]:
    """An intrinsic of LLVM, named directly: TVM's pass that would lower its own ops is left out
    for kernels of this kind (see `emit.kernel`)."""

    def make(*xs: Expr) -> Expr:
        return tirx.call_llvm_pure_intrin(str(xs[0].ty), f"llvm.{name}", *xs)

    return make


def _library(name: str, *xs: Element) -> Element:
    """A call of the C library's function, which takes one element at a time."""
    symbol = name if xs[0].dtype == f64 else f"{name}f"
    nest, level = xs[0].nest, max(x.level for x in xs)

    def make(*es: Expr) -> Expr:
        arguments = [nest.in_memory(e, level) for e in es]
        return tirx.call_pure_extern(str(es[0].ty), symbol, *arguments)

    return _apply(name, make, *xs)


def position(nest: Nest, index: Index, dtype: DType) -> Element:
    """An index as an element of `dtype`."""
    key = ("position", index)
    return cast(_bound(key, nest, i32, index.level, index.expression), dtype)


def element(nest: Nest, key: Any, dtype: DType, level: int, make: Callable[[], Expr]) -> Element:
    """The element of an expression that `key` identifies while the scope at `level` is open."""
    return _bound(key, nest, dtype, level, make)


def read(nest: Nest, buffer: Buffer, at: Index, dtype: DType) -> Element:
    """What lies in memory now, at this point of the innermost scope."""
    expr = _kept(nest, load(buffer, [at.expression()], dtype), nest.level)
    return Element(nest, dtype, expr, nest.level)


def given(nest: Nest, value: Expr, dtype: DType) -> Element:
    """An expression of a template, in the dtype of its sums, as an element of `dtype`."""
    target = carrier(dtype)
    expr = value if str(value.ty) == target else _cast(target, value)
    return rounded(Element(nest, dtype, _kept(nest, expr, 0), 0))


def keep(buffer: Buffer, at: Index, value: Element) -> tirx.Stmt:
    """Write a carrier as it is, to a buffer of carriers."""
    return tirx.BufferStore(buffer, value.expr, [at.expression()])


def held(nest: Nest, buffer: Buffer, at: Index, dtype: DType) -> Element:
    """What `keep` wrote, read now."""
    expr = nest.bind(tirx.BufferLoad(buffer, [at.expression()]), nest.level)
    return Element(nest, dtype, expr, nest.level)
