"""Arithmetic on one element, written once for every code generator.

An elementwise op's `scalar(m, *elements, **attrs)` is straight-line arithmetic over a math
namespace `m`: the native backend, the C export and the fusion of both emit code through their
`m`, and `NumpyMath` below runs it on arrays, for tests. There are no branches: `m.select`
chooses between two numbers that are both computed, so everything vectorizes.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from .types import DType, f32, f64

Element = Any
"""One number of a code generator's own kind. It has Python's operators: `+ - * /` (`/` on floats
only), unary `-`, `< <= > >=` giving a truth value, and on integers `& | ^ << >>`."""


class Math(Protocol):
    """What a code generator offers to `scalar` functions.

    Attributes
    ----------
    dtype : DType
        The dtype of the op's last operand: of what is compared, chosen, computed with or cast.
    """

    dtype: DType

    def const(self, value: float, dtype: DType | None = None) -> Element:
        """A number, of `dtype` if given, else of `self.dtype`."""

    def cast(self, x: Element, dtype: DType) -> Element:
        """Conversion; float to integer cuts the fraction off, anything to bool is `x != 0`."""

    def bitcast(self, x: Element, dtype: DType) -> Element:
        """The same bits as another dtype of the same size."""

    def select(self, condition: Element, x: Element, y: Element) -> Element:
        """`x` if `condition` else `y`; both are computed."""

    def equal(self, x: Element, y: Element) -> Element:
        """`x == y`; false for NaN."""

    def not_equal(self, x: Element, y: Element) -> Element:
        """`x != y`; true for NaN."""

    def logical_and(self, x: Element, y: Element) -> Element:
        """Of truth values."""

    def logical_or(self, x: Element, y: Element) -> Element:
        """Of truth values."""

    def logical_not(self, x: Element) -> Element:
        """Of a truth value."""

    def bit_not(self, x: Element) -> Element:
        """All bits of an integer flipped."""

    def truncated_div(self, x: Element, y: Element) -> Element:
        """Integer division toward zero, as in C; `y` is never 0 or -1."""

    def truncated_mod(self, x: Element, y: Element) -> Element:
        """Integer remainder with the sign of `x`, as in C; `y` is never 0 or -1."""

    def abs(self, x: Element) -> Element: ...

    def sqrt(self, x: Element) -> Element: ...

    def floor(self, x: Element) -> Element: ...

    def ceil(self, x: Element) -> Element: ...

    def round(self, x: Element) -> Element:
        """To the nearest integer, halves to the even one."""

    def is_nan(self, x: Element) -> Element: ...

    def exp(self, x: Element) -> Element:
        """The C library's, as all that follow: used for f64, and by what has no polynomial."""

    def expm1(self, x: Element) -> Element: ...

    def log(self, x: Element) -> Element: ...

    def log1p(self, x: Element) -> Element: ...

    def tanh(self, x: Element) -> Element: ...

    def erf(self, x: Element) -> Element: ...

    def sin(self, x: Element) -> Element: ...

    def cos(self, x: Element) -> Element: ...

    def pow(self, x: Element, y: Element) -> Element: ...

    def fmod(self, x: Element, y: Element) -> Element:
        """Remainder of floats with the sign of `x`."""


def exp(m: Math, x: Element) -> Element:
    return m.exp(x)


def expm1(m: Math, x: Element) -> Element:
    return m.expm1(x)


def log(m: Math, x: Element) -> Element:
    return m.log(x)


def log1p(m: Math, x: Element) -> Element:
    return m.log1p(x)


def tanh(m: Math, x: Element) -> Element:
    return m.tanh(x)


def sigmoid(m: Math, x: Element) -> Element:
    return m.const(1.0) / (m.const(1.0) + m.exp(-x))


def erf(m: Math, x: Element) -> Element:
    return m.erf(x)
