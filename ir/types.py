"""Element types, symbolic dimensions and tensor types.

A dimension is an int or a `Dim`, a polynomial with integer coefficients over named symbols
(`N`, `N*49`, `N*T + 1`) and quotients that are rounded down (`{T+1}//2`, what a convolution with
a stride of 2 leaves). `N` stands for the batch wherever the frontend traces one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from .errors import DTypeError, OpenSizeError, ShapeError

# --- element types ---------------------------------------------------------------------------


@dataclass(frozen=True)
class DType:
    """An element type; calling it with sizes gives a `TensorType`: `f32(4, 7)`."""

    name: str
    kind: str  # "float" | "int" | "uint" | "bool"
    bits: int

    @cached_property
    def numpy(self) -> np.dtype:
        """The NumPy dtype (bf16 is ml_dtypes')."""
        dtype: np.dtype = np.dtype(_NUMPY[self.name])
        return dtype

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_bool(self) -> bool:
        return self.kind == "bool"

    def __call__(self, *shape: Size) -> TensorType:
        return TensorType(self, tuple(shape))

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


_NUMPY: dict[str, Any] = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "i64": np.int64, "i32": np.int32, "i16": np.int16, "i8": np.int8,
    "u32": np.uint32, "u8": np.uint8, "bool": np.bool_,
}  # fmt: skip

f64 = DType("f64", "float", 64)
f32 = DType("f32", "float", 32)
f16 = DType("f16", "float", 16)
bf16 = DType("bf16", "float", 16)
i64 = DType("i64", "int", 64)
i32 = DType("i32", "int", 32)
i16 = DType("i16", "int", 16)
i8 = DType("i8", "int", 8)
u32 = DType("u32", "uint", 32)
u8 = DType("u8", "uint", 8)
boolean = DType("bool", "bool", 8)

DTYPES: dict[str, DType] = {
    d.name: d for d in (f64, f32, f16, bf16, i64, i32, i16, i8, u32, u8, boolean)
}
_KERAS_NAMES = {
    "float64": f64, "float32": f32, "float16": f16, "bfloat16": bf16, "int64": i64,
    "int32": i32, "int16": i16, "int8": i8, "uint32": u32, "uint8": u8, "bool": boolean,
    "float": f32, "int": i32,
}  # fmt: skip
_BY_NUMPY = {np.dtype(_NUMPY[name]): dtype for name, dtype in DTYPES.items()}


def as_dtype(dtype: object) -> DType:
    """Read a dtype given as ours, by name (`"f32"`, `"float32"`) or as NumPy's.

    Raises
    ------
    DTypeError
        If it is none of the eleven that the IR knows.
    """
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str):
        found = DTYPES.get(dtype) or _KERAS_NAMES.get(dtype)
        if found:
            return found
    try:
        return _BY_NUMPY[np.dtype(dtype)]  # type: ignore[call-overload]
    except (TypeError, KeyError):
        raise DTypeError(f"dtype must be one of {', '.join(_KERAS_NAMES)}, got {dtype!r}") from None


def keras_name(dtype: DType) -> str:
    """The name that Keras and NumPy use: `float32` for `f32`."""
    return next(name for name, d in _KERAS_NAMES.items() if d is dtype)


_RANK = {"bool": 0, "uint": 1, "int": 1, "float": 2}


def promote(a: DType, b: DType) -> DType:
    """The dtype of an operation between arrays of dtypes `a` and `b`, by JAX's lattice.

    Nothing widens to 64 bits that does not hold them already: as in Keras, u32 beside a signed
    integer of at most 32 bits gives i32.
    """
    if a == b:
        return a
    if _RANK[a.kind] != _RANK[b.kind]:
        return a if _RANK[a.kind] > _RANK[b.kind] else b
    if {a, b} == {f16, bf16}:
        return f32
    if a.kind == b.kind:
        return a if a.bits > b.bits else b
    unsigned, signed = (a, b) if a.kind == "uint" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    return {8: i16, 16: i32, 32: i32}[unsigned.bits]


# --- dimensions ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quotient:
    """`dividend // divisor`, rounded down: a factor that is no polynomial; made by `floor_div`."""

    dividend: Dim
    divisor: int

    def __str__(self) -> str:
        return f"{{{self.dividend}}}//{self.divisor}"


Factor = str | Quotient
Monomial = tuple[Factor, ...]  # sorted, repeated for powers; () is the constant term


@dataclass(frozen=True)
class Dim:
    """A polynomial over symbols and quotients; immutable, never a plain constant (see `_dim`)."""

    terms: tuple[tuple[Monomial, int], ...]

    @property
    def symbols(self) -> frozenset[str]:
        factors = {f for monomial, _ in self.terms for f in monomial}
        inner = [f.dividend.symbols for f in factors if isinstance(f, Quotient)]
        return frozenset({f for f in factors if isinstance(f, str)}.union(*inner))

    def __add__(self, other: Size) -> Size:
        if not isinstance(other, int | Dim):
            return NotImplemented
        total = dict(self.terms)
        for monomial, c in _terms(other):
            total[monomial] = total.get(monomial, 0) + c
        return _dim(total)

    __radd__ = __add__

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + (other * -1)

    def __rsub__(self, other: Size) -> Size:
        return (self * -1) + other

    def __mul__(self, other: Size) -> Size:
        if not isinstance(other, int | Dim):
            return NotImplemented
        total: dict[Monomial, int] = {}
        for m1, c1 in self.terms:
            for m2, c2 in _terms(other):
                monomial = tuple(sorted(m1 + m2, key=str))
                total[monomial] = total.get(monomial, 0) + c1 * c2
        return _dim(total)

    __rmul__ = __mul__

    def __floordiv__(self, other: Size) -> Size:
        return floor_div(self, other)

    def __rfloordiv__(self, other: int) -> Size:
        raise _needs_fixed(self, "//")

    def __mod__(self, other: Size) -> Size:
        return self - floor_div(self, other) * other

    def __truediv__(self, other: object) -> float:
        raise _needs_fixed(self, "/")

    __rtruediv__ = __truediv__

    def __pow__(self, other: object) -> Size:
        raise _needs_fixed(self, "**")

    __rpow__ = __pow__

    def __lt__(self, other: Size) -> bool:
        raise _needs_fixed(self, "<")

    __le__ = __gt__ = __ge__ = __lt__

    def __index__(self) -> int:
        raise _needs_fixed(self, "int()")

    __int__ = __index__

    def __float__(self) -> float:
        raise _needs_fixed(self, "float()")

    def __str__(self) -> str:
        parts = []
        for monomial, c in self.terms:
            factors = [str(c)] if abs(c) != 1 or not monomial else []
            factors += map(str, monomial)
            parts.append(("-" if c == -1 and monomial else "") + "*".join(factors))
        return "+".join(parts).replace("+-", "-")

    __repr__ = __str__


Size = int | Dim
Shape = tuple[Size, ...]


def _needs_fixed(dim: Dim, operation: str) -> ShapeError:
    from .builder import where

    return OpenSizeError(
        f"dimension {dim} is symbolic and {operation} needs a fixed size",
        where=where(),
        hint="give that dimension a size when the model or function is traced, or compute with "
             "ops.convert_to_tensor(size)",
    )  # fmt: skip


def _terms(size: Size) -> tuple[tuple[Monomial, int], ...]:
    return size.terms if isinstance(size, Dim) else (((), int(size)),)


def _dim(terms: Mapping[Monomial, int]) -> Size:
    """A polynomial in normal form: highest degree first; an int if no symbol is left."""
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return Dim(tuple(sorted(kept.items(), key=_rank_of_term)))


def _rank_of_term(term: tuple[Monomial, int]) -> tuple[int, tuple[str, ...]]:
    return (-len(term[0]), tuple(map(str, term[0])))


def symbol(name: str) -> Dim:
    """The dimension that consists of one symbol."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ShapeError(f"a symbol must be an identifier, got {name!r}")
    return Dim((((name,), 1),))


def exact_div(a: Size, b: Size) -> Size | None:
    """`a / b` if it is a polynomial with integer coefficients, else None; `b` may be a monomial."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    if a == b:
        return 1
    divisor = _terms(b)
    if len(divisor) != 1:
        return None
    (monomial, c), total = divisor[0], {}
    if c == 0:
        return None
    for m, k in _terms(a):
        rest = list(m)
        for s in monomial:
            if s not in rest:
                return None
            rest.remove(s)
        if k % c:
            return None
        total[tuple(rest)] = k // c
    return _dim(total)


def floor_div(a: Size, b: Size) -> Size:
    """`a // b`, rounded down; a quotient where it is no polynomial and `b` is a positive int.

    Equal quotients have one form: whole multiples come out, and a quotient of a quotient is one.

    >>> floor_div(2 * symbol("T") + 5, 2), floor_div(floor_div(symbol("T"), 2), 3)
    (T+2, {T}//6)
    """
    exact = exact_div(a, b)
    if exact is not None:
        return exact
    if isinstance(a, int) and isinstance(b, int) and b:
        return a // b
    if not isinstance(b, int) or b <= 0:
        raise _needs_fixed(b if isinstance(b, Dim) else symbol("size"), "//")
    whole = _dim({m: c // b for m, c in _terms(a)})
    rest = _dim({m: c % b for m, c in _terms(a)})
    if isinstance(rest, int):
        return whole + rest // b
    factors = [(m, c) for m, c in rest.terms if m]
    ((monomial, c), *more) = factors
    if not more and c == 1 and len(monomial) == 1 and isinstance(monomial[0], Quotient):
        inner = monomial[0]
        offset = rest - _dim({monomial: 1})
        return whole + floor_div(inner.dividend + offset * inner.divisor, inner.divisor * b)
    return whole + Dim((((Quotient(rest, b),), 1),))


def size_of(shape: Iterable[Size]) -> Size:
    """The number of elements of a shape."""
    return math.prod(shape)


def substitute(size: Size, bindings: Mapping[str, Size]) -> Size:
    """Replace symbols by sizes; symbols that are not named stay."""
    if isinstance(size, int):
        return size
    total: Size = 0
    for monomial, c in size.terms:
        term: Size = c
        for factor in monomial:
            if isinstance(factor, Quotient):
                term = term * floor_div(substitute(factor.dividend, bindings), factor.divisor)
            else:
                term = term * bindings.get(factor, symbol(factor))
        total = total + term
    return total


_TOKEN = re.compile(r"//|[+*{}-]|\w+")


def parse_size(text: str) -> Size:
    """Read a dimension as `str` prints it: `12`, `N`, `2*N*T+N-1`, `{T+1}//2`."""
    compact = text.replace(" ", "")
    tokens = _TOKEN.findall(compact)
    try:
        if "".join(tokens) != compact:
            raise ShapeError(text)
        tokens.append("")
        size = _parse_sum(tokens)
        if tokens != [""]:
            raise ShapeError(text)
        return size
    except (ValueError, IndexError):
        raise ShapeError(f"not a dimension: {text!r}") from None


def _parse_sum(tokens: list[str]) -> Size:
    """`term + term - term`, taken off the front of the tokens."""
    total: Size = 0
    sign = -1 if tokens[0] == "-" else 1
    if tokens[0] == "-":
        tokens.pop(0)
    while True:
        term: Size = sign * _parse_factor(tokens)
        while tokens[0] == "*":
            tokens.pop(0)
            term = term * _parse_factor(tokens)
        total = total + term
        if tokens[0] not in ("+", "-"):
            return total
        sign = 1 if tokens.pop(0) == "+" else -1


def _parse_factor(tokens: list[str]) -> Size:
    token = tokens.pop(0)
    if token == "{":
        dividend = _parse_sum(tokens)
        if [tokens.pop(0), tokens.pop(0)] != ["}", "//"]:
            raise ShapeError("a quotient is `{dividend}//divisor`")
        return floor_div(dividend, int(tokens.pop(0)))
    return int(token) if token.isdigit() else symbol(token)


# --- tensors ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorType:
    """A dtype and a shape; prints as `f32[N,10]`."""

    dtype: DType
    shape: Shape

    def __post_init__(self) -> None:
        if any(isinstance(d, int) and d < 0 for d in self.shape):
            raise ShapeError(f"sizes must not be negative, got {self}")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Size:
        """Number of elements."""
        return size_of(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes; raises `ShapeError` while a dimension is symbolic."""
        return int(self.size) * self.dtype.itemsize

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(s for d in self.shape if isinstance(d, Dim) for s in d.symbols)

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    def with_shape(self, shape: Iterable[Size]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def substitute(self, bindings: Mapping[str, Size]) -> TensorType:
        return self.with_shape(substitute(d, bindings) for d in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    __repr__ = __str__


def type_of(array: np.ndarray) -> TensorType:
    """The type of a NumPy array."""
    return TensorType(as_dtype(array.dtype), tuple(int(d) for d in array.shape))


def parse_type(text: str) -> TensorType:
    """Read a type as `str` prints it: `f32[N,10]`, `i32[]`."""
    found = re.fullmatch(r"\s*(\w+)\[([^\]]*)\]\s*", text)
    if not found or found[1] not in DTYPES:
        raise ShapeError(f"not a tensor type: {text!r}")
    sizes = [part for part in found[2].split(",") if part.strip()]
    return TensorType(DTYPES[found[1]], tuple(parse_size(part) for part in sizes))
