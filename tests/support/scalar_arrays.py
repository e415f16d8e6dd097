"""The arithmetic of `ir/scalar.py` on arrays, as a compiler may round it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hornfels.ir.scalar import Element
from hornfels.ir.types import DType, as_dtype, bf16, f16, f32


class NumpyElement:
    """Arrays that behave as an `Element`.

    `factors` are what the array is the product of, if a sum with it may be contracted.
    """

    __slots__ = ("array", "factors", "m")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        m: NumpyMath,
        array: np.ndarray,
        factors: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.m, self.array, self.factors = m, array, factors

    def _of(self, other: Any) -> np.ndarray:
        if isinstance(other, NumpyElement):
            return other.array
        return np.asarray(other).astype(self.array.dtype)

    def _make(self, array: np.ndarray) -> NumpyElement:
        return NumpyElement(self.m, array)

    def __add__(self, other: Any) -> NumpyElement:
        if self.factors:
            return self._make(_fused(*self.factors, self._of(other)))
        if isinstance(other, NumpyElement) and other.factors:
            return self._make(_fused(*other.factors, self.array))
        return self._make(self.array + self._of(other))

    def __sub__(self, other: Any) -> NumpyElement:
        if self.factors:
            return self._make(_fused(*self.factors, -self._of(other)))
        if isinstance(other, NumpyElement) and other.factors:
            return self._make(_fused(-other.factors[0], other.factors[1], self.array))
        return self._make(self.array - self._of(other))

    def __mul__(self, other: Any) -> NumpyElement:
        x, y = self.array, self._of(other)
        contract = self.m.contract and x.dtype == np.float32
        return NumpyElement(self.m, x * y, (x, y) if contract else None)

    def __truediv__(self, other: Any) -> NumpyElement:
        x, y = self.array, self._of(other)
        if x.dtype.kind == "f":
            return self._make(x / y)
        quotient = x // y  # rounded down
        inexact = (y != 0) & (quotient * y != x) & ((x < 0) != (y < 0))
        return self._make(quotient + inexact.astype(x.dtype))

    def __mod__(self, other: Any) -> NumpyElement:
        return self._make(np.remainder(self.array, self._of(other)))

    def __neg__(self) -> NumpyElement:
        return self._make(-self.array)

    def __eq__(self, other: Any) -> NumpyElement:  # type: ignore[override]
        return self._make(self.array == self._of(other))

    def __ne__(self, other: Any) -> NumpyElement:  # type: ignore[override]
        return self._make(self.array != self._of(other))

    def __lt__(self, other: Any) -> NumpyElement:
        return self._make(self.array < self._of(other))

    def __le__(self, other: Any) -> NumpyElement:
        return self._make(self.array <= self._of(other))

    def __gt__(self, other: Any) -> NumpyElement:
        return self._make(self.array > self._of(other))

    def __ge__(self, other: Any) -> NumpyElement:
        return self._make(self.array >= self._of(other))

    def __and__(self, other: Any) -> NumpyElement:
        return self._make(self.array & self._of(other))

    def __or__(self, other: Any) -> NumpyElement:
        return self._make(self.array | self._of(other))

    def __xor__(self, other: Any) -> NumpyElement:
        return self._make(self.array ^ self._of(other))

    def __invert__(self) -> NumpyElement:
        return self._make(~self.array)

    def __lshift__(self, other: Any) -> NumpyElement:
        return self._make(self.array << self._of(other))

    def __rshift__(self, other: Any) -> NumpyElement:
        return self._make(self.array >> self._of(other))


def _fused(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """`x * y + z` of f32 rounded as if once: in f64 the product is exact."""
    wide = x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)
    return wide.astype(np.float32)


class NumpyMath:
    """The namespace `m` over arrays; `contract` fuses `a * b + c`, as a compiler may."""

    def __init__(self, dtype: DType, contract: bool = False) -> None:
        self.dtype = f32 if dtype.is_float and dtype.bits == 16 else dtype
        self.contract = contract

    def element(self, x: np.ndarray) -> NumpyElement:
        """An array as an element."""
        is_half = as_dtype(x.dtype) in (f16, bf16)
        return NumpyElement(self, x.astype(np.float32) if is_half else x)

    def _call(self, function: Callable[..., np.ndarray], *xs: Any) -> NumpyElement:
        return NumpyElement(self, function(*(x.array for x in xs)))

    def _constant(self, x: Any) -> NumpyElement:
        return x if isinstance(x, NumpyElement) else self.const(x)

    def const(self, value: float) -> NumpyElement:
        return NumpyElement(self, np.asarray([value]).astype(self.dtype.numpy))

    def cast(self, x: NumpyElement, dtype: DType) -> NumpyElement:
        return self.element(x.array != 0 if dtype.is_bool else x.array.astype(dtype.numpy))

    def bitcast(self, x: NumpyElement, dtype: DType) -> NumpyElement:
        return NumpyElement(self, x.array.view(dtype.numpy))

    def select(self, condition: NumpyElement, x: Any, y: Any) -> NumpyElement:
        return self._call(np.where, condition, self._constant(x), self._constant(y))

    def maximum(self, x: NumpyElement, y: Any) -> NumpyElement:
        return self._call(np.maximum, x, self._constant(y))

    def minimum(self, x: NumpyElement, y: Any) -> NumpyElement:
        return self._call(np.minimum, x, self._constant(y))

    def abs(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.abs, x)

    def sqrt(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.sqrt, x)

    def floor(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.floor, x)

    def ceil(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.ceil, x)

    def round(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.rint, x)

    def sin(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.sin, x)

    def cos(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.cos, x)

    def pow(self, x: NumpyElement, y: Any) -> NumpyElement:
        return self._call(np.power, x, self._constant(y))

    def exp(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.exp, x)

    def expm1(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.expm1, x)

    def log(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.log, x)

    def log1p(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.log1p, x)

    def tanh(self, x: NumpyElement) -> NumpyElement:
        return self._call(np.tanh, x)

    def erf(self, x: NumpyElement) -> NumpyElement:
        error_function = np.frompyfunc(math.erf, 1, 1)
        return self._call(lambda a: np.asarray(error_function(a)).astype(a.dtype), x)

    def library(self, name: str, *xs: NumpyElement) -> NumpyElement:
        return self._call(_LIBRARY[name], *xs)


def _complement(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(math.erfc, 1, 1)(x)).astype(x.dtype)


_LIBRARY: dict[str, Callable[..., np.ndarray]] = {
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "exp2": np.exp2, "log2": np.log2, "log10": np.log10, "cbrt": np.cbrt,
    "erfc": _complement,
}  # fmt: skip
"""NumPy's names of the C library's functions."""


def on_arrays(
    scalar: Callable[..., Element], *arrays: np.ndarray, contract: bool = False, **attrs: Any
) -> np.ndarray:
    """What a `scalar` function gives for each element of arrays of one shape.

    Parameters
    ----------
    scalar : callable
        `scalar(m, *elements, **attrs)`.
    contract : bool
        Whether `a * b + c` is rounded once.

    Returns
    -------
    ndarray
        f32 where the result is f16 or bf16: they are rounded where the op ends.
    """
    m = NumpyMath(as_dtype(arrays[-1].dtype), contract)
    elements = [m.element(np.ascontiguousarray(x).reshape(-1)) for x in arrays]
    with np.errstate(all="ignore"):
        result = scalar(m, *elements, **attrs)
    return np.asarray(result.array.reshape(arrays[-1].shape))
