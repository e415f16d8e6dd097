"""Index arithmetic: integer expressions over loop variables whose ranges are known.

An `Index` is a sum of terms with integer coefficients. Terms are loop variables, quotients,
remainders, clamped indices and loaded ones. Sums are kept in a normal form in which
``(i // 8) * 8 + i % 8`` is ``i`` and ``(8 * i + j) // 8`` is ``i`` (for ``0 <= j < 8``), so a
reshape that only merges or splits contiguous dimensions leaves no division in a loop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

from tvm import tirx

from .emit import Expr

Indices = tuple["Index", ...]


class Term:
    """One summand of an `Index` without its coefficient; its value lies in `low` ... `high`."""

    low: int
    high: int
    level: int  # depth of the innermost scope that its value changes in

    def expression(self) -> Expr:
        raise NotImplementedError


class Loop(Term):
    """A variable of TIR: of a loop, or bound to a number that is known when the code runs."""

    def __init__(self, variable: Expr, low: int, high: int, level: int) -> None:
        self.variable, self.low, self.high, self.level = variable, low, high, level

    def expression(self) -> Expr:
        return self.variable


class _Compound(Term):
    """A function of an index and numbers; equal where these are equal."""

    def __init__(self, base: Index, *numbers: int) -> None:
        self.base, self.numbers, self.level = base, numbers, base.level
        self.low, self.high = self.bounds()

    def bounds(self) -> tuple[int, int]:
        raise NotImplementedError

    @cached_property
    def _key(self) -> tuple[type, Index, tuple[int, ...]]:
        return type(self), self.base, self.numbers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Compound) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class Quotient(_Compound):
    """``base // divisor``, rounded down."""

    def bounds(self) -> tuple[int, int]:
        return self.base.low // self.numbers[0], self.base.high // self.numbers[0]

    def expression(self) -> Expr:
        divide = tirx.truncdiv if self.base.low >= 0 else tirx.floordiv
        return divide(self.base.expression(), _int(self.numbers[0]))


class Remainder(_Compound):
    """``base % divisor``, of the divisor's sign."""

    def bounds(self) -> tuple[int, int]:
        return 0, self.numbers[0] - 1

    def expression(self) -> Expr:
        divide = tirx.truncmod if self.base.low >= 0 else tirx.floormod
        return divide(self.base.expression(), _int(self.numbers[0]))


class Clamped(_Compound):
    """``min(max(base, low), high)``."""

    def bounds(self) -> tuple[int, int]:
        low, high = self.numbers
        return max(low, min(self.base.low, high)), min(high, max(self.base.high, low))

    def expression(self) -> Expr:
        low, high = self.numbers
        result = self.base.expression()
        if self.base.low < low:
            result = tirx.max(result, _int(low))
        if self.base.high > high:
            result = tirx.min(result, _int(high))
        return result


def _int(value: int) -> Expr:
    return tirx.IntImm("int32", value)


class Index:
    """``constant + sum(coefficient * term)``; immutable, with exact bounds of each term."""

    __slots__ = ("__dict__", "constant", "terms")

    def __init__(self, terms: Mapping[Term, int], constant: int = 0) -> None:
        self.terms = dict(terms)
        self.constant = constant

    @cached_property
    def _hash(self) -> int:
        return hash((frozenset(self.terms.items()), self.constant))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and (
            self is other or (self.constant == other.constant and self.terms == other.terms)
        )

    @cached_property
    def low(self) -> int:
        """No value is smaller."""
        return self.constant + sum(c * (t.low if c > 0 else t.high) for t, c in self.terms.items())

    @cached_property
    def high(self) -> int:
        """No value is larger."""
        return self.constant + sum(c * (t.high if c > 0 else t.low) for t, c in self.terms.items())

    @cached_property
    def level(self) -> int:
        """Depth of the innermost scope that it changes in; 0 for a constant."""
        return max((t.level for t in self.terms), default=0)

    @property
    def is_constant(self) -> bool:
        return not self.terms

    @cached_property
    def is_affine(self) -> bool:
        """Whether all terms are loop variables."""
        return all(isinstance(t, Loop) for t in self.terms)

    def coefficient(self, term: Term) -> int:
        """What the index grows by where `term` grows by 1 (in affine positions)."""
        return self.terms.get(term, 0)

    def mentions(self, term: Term) -> bool:
        """Whether the value depends on `term` at all."""
        return any(
            t is term or (isinstance(t, _Compound) and t.base.mentions(term)) for t in self.terms
        )

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.constant + other) if other else self
        if not other.terms:
            return self + other.constant
        if not self.terms:
            return other + self.constant
        total = dict(self.terms)
        for term, c in other.terms.items():
            total[term] = total.get(term, 0) + c
        return _normal(total, self.constant + other.constant)

    __radd__ = __add__

    def __sub__(self, other: Index | int) -> Index:
        return self + (other * -1)

    def __rsub__(self, other: int) -> Index:
        return self * -1 + other

    def __mul__(self, factor: int) -> Index:
        if factor == 1:
            return self
        if factor == 0:
            return ZERO
        return Index({t: c * factor for t, c in self.terms.items()}, self.constant * factor)

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> Index:
        return _divide(self, divisor)[0]

    def __mod__(self, divisor: int) -> Index:
        return _divide(self, divisor)[1]

    def clamp(self, low: int, high: int) -> Index:
        """The nearest index in `low` ... `high`."""
        if low <= self.low and self.high <= high:
            return self
        if self.is_constant:
            return number(min(max(self.constant, low), high))
        return Index({Clamped(self, low, high): 1})

    def expression(self) -> Expr:
        """The index as TIR, outermost loops first, so that a vector's lane is added last."""
        return self._expression

    @cached_property
    def _expression(self) -> Expr:
        result: Expr | None = None
        for term, c in sorted(self.terms.items(), key=lambda item: item[0].level):
            value = term.expression()
            value = value if c == 1 else value * _int(c)
            result = value if result is None else result + value
        if result is None:
            return _int(self.constant)
        return result + _int(self.constant) if self.constant else result

    def __repr__(self) -> str:
        return str(self.expression())


def number(value: int) -> Index:
    """A constant index."""
    return Index({}, value)


ZERO = number(0)


def of(term: Term) -> Index:
    """The index that is `term`."""
    return number(term.low) if term.low == term.high else Index({term: 1})


def _normal(terms: dict[Term, int], constant: int) -> Index:
    """Join ``c*k*(x // c) + k*(x % c)`` to ``k*x`` and drop what has cancelled."""
    terms = {t: c for t, c in terms.items() if c}
    for term, k in terms.items():
        if not isinstance(term, Remainder):
            continue
        divisor = term.numbers[0]
        quotient = term.base // divisor
        scaled = quotient * (divisor * k)
        if scaled.terms and all(terms.get(t) == c for t, c in scaled.terms.items()):
            rest = {t: c for t, c in terms.items() if t is not term and t not in scaled.terms}
            return _normal(rest, constant - scaled.constant) + term.base * k
    return Index(terms, constant)


def _divide(index: Index, divisor: int) -> tuple[Index, Index]:
    """Quotient (rounded down) and remainder."""
    if divisor == 1:
        return index, ZERO
    whole = Index(
        {t: c // divisor for t, c in index.terms.items() if c % divisor == 0},
        index.constant // divisor,
    )
    rest = Index({t: c for t, c in index.terms.items() if c % divisor}, index.constant % divisor)
    block = rest.low // divisor
    if block == rest.high // divisor:
        return whole + block, rest - block * divisor
    for unit in sorted({abs(c) for c in rest.terms.values()} | {_common(rest)}, reverse=True):
        if unit == 1 or divisor % unit:
            continue
        coarse = Index({t: c // unit for t, c in rest.terms.items() if c % unit == 0},
                       rest.constant // unit)  # fmt: skip
        fine = Index({t: c for t, c in rest.terms.items() if c % unit}, rest.constant % unit)
        if fine.low >= 0 and fine.high < unit and coarse.terms:
            quotient, remainder = _divide(coarse, divisor // unit)
            return whole + quotient, remainder * unit + fine
    return whole + Index({_quotient(rest, divisor): 1}), Index({Remainder(rest, divisor): 1})


def _common(index: Index) -> int:
    return math.gcd(*index.terms.values())


def _quotient(index: Index, divisor: int) -> Quotient:
    """``(x // a + k) // b`` is ``(x + k*a) // (a*b)``."""
    if len(index.terms) == 1:
        ((term, c),) = index.terms.items()
        if c == 1 and isinstance(term, Quotient):
            inner = term.numbers[0]
            return Quotient(term.base + index.constant * inner, inner * divisor)
    return Quotient(index, divisor)


def linearize(indices: Sequence[Index], shape: Sequence[int]) -> Index:
    """The row-major position of an element."""
    flat = ZERO
    for index, size in zip(indices, shape, strict=True):
        flat = flat * size + index
    return flat


def delinearize(flat: Index, shape: Sequence[int]) -> Indices:
    """The indices of the element at a row-major position."""
    indices: list[Index] = []
    rest = flat
    for size in reversed(shape[1:]):
        if size == 0:
            return (ZERO,) * len(shape)
        rest, remainder = _divide(rest, size) if size != 1 else (rest, ZERO)
        indices.append(remainder)
    if shape:
        indices.append(ZERO if shape[0] == 1 else rest)
    return tuple(reversed(indices))
