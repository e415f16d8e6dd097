"""Conversion, dtype and shape: what everything else in `ops` is built from."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, DTypeError, HornfelsError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Dim, Size, as_dtype, boolean, i32, keras_name, u32
from .. import config
from ..keras_tensor import KerasTensor
from ..operation import operation
from ..operators import is_number
from ..variable import Variable

# --- helpers for bodies ----------------------------------------------------------------------


def tensor(x: Any, dtype: Any = None) -> Value:
    """`x` as a Value of the current builder.

    Arrays keep their dtype; Python numbers and lists of them take the default dtypes (the float
    of `config.floatx()`, int32, bool). Lists that hold Values are stacked.
    """
    if isinstance(x, Variable):
        x = x.value
    if isinstance(x, Value):
        return x if dtype is None else sugar.cast(x, dtype)
    if isinstance(x, np.ndarray | np.generic):
        return constant(np.asarray(x), dtype)
    if isinstance(x, Dim):
        return sugar.value(x, dtype)
    if isinstance(x, list | tuple) and any(_holds_tensor(item) for item in x):
        return _stacked([tensor(item, dtype) for item in x])
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"convert_to_tensor: got {type(x).__name__}, which is no array of numbers")
    if dtype is None:
        dtype = {"f": config.floatx(), "i": i32, "u": i32, "b": boolean}[array.dtype.kind]
    return constant(array, dtype)


def _holds_tensor(x: Any) -> bool:
    if isinstance(x, list | tuple):
        return any(map(_holds_tensor, x))
    return isinstance(x, Value | Variable | Dim | np.ndarray)


def _stacked(xs: list[Value]) -> Value:
    xs = list(sugar.common(*xs))
    if any(x.shape != xs[0].shape for x in xs):
        raise ShapeError(f"stack: shapes must be equal, got {', '.join(str(x.type) for x in xs)}")
    rows = [sugar.reshape(x, (1, *x.shape)) for x in xs]
    return rows[0] if len(rows) == 1 else primitive("concat")(*rows, axis=0)


def operand(x: Any) -> Any:
    """`x` for a binary op: Python numbers stay weak, the rest becomes a Value."""
    return x if is_number(x) else tensor(x)


def floating(x: Any) -> Value:
    """`x` as a floating-point Value; integers and bools take the default float dtype."""
    x = tensor(x)
    return x if x.dtype.is_float else sugar.cast(x, config.floatx())


def floats(*xs: Any) -> tuple[Value, ...]:
    """Operands promoted to one floating-point dtype, Python numbers giving way."""
    promoted = sugar.common(*map(operand, xs))
    return tuple(map(floating, promoted))


def countable(x: Value) -> Value:
    """Bools and short integers as 32-bit ones, which sums of them need, as in Keras."""
    if x.dtype.is_bool or (x.dtype.kind == "int" and x.dtype.bits < 32):
        return sugar.cast(x, i32)
    return sugar.cast(x, u32) if x.dtype.kind == "uint" else x


def sizes(shape: Any) -> tuple[Size, ...]:
    """A shape as users write it: an int, a sequence, an array."""
    items = (shape,) if isinstance(shape, int | Dim | np.integer) else shape
    try:
        return tuple(d if isinstance(d, Dim) else operator.index(d) for d in items)
    except TypeError as error:
        if isinstance(error, HornfelsError):  # a traced tensor says itself what it is not
            raise
        raise ArgumentError(
            f"a shape must be an integer or a sequence of integers, got {shape!r:.60}"
        ) from None


# --- public ----------------------------------------------------------------------------------


@operation
def convert_to_tensor(x: Any, dtype: Any = None, sparse: Any = None, ragged: Any = None) -> Any:
    """`x` as a tensor: an array outside of traces, a Value inside.

    Parameters
    ----------
    x : array, tensor, Variable, number or nested list of them
    dtype : str, optional
        The array's own by default; Python floats take `config.floatx()`, ints int32.
    """
    if sparse or ragged:
        raise DTypeError("convert_to_tensor: sparse and ragged tensors are not supported")
    return tensor(x, dtype)


@operation
def array(x: Any, dtype: Any = None) -> Any:
    """`x` as a tensor, as `convert_to_tensor` makes it."""
    return tensor(x, dtype)


def convert_to_numpy(x: Any) -> np.ndarray:
    """`x` as a NumPy array.

    Raises
    ------
    DTypeError
        If `x` is traced or symbolic: then its numbers are not known.
    """
    if isinstance(x, Variable):
        return x.numpy()
    return np.array(x)


@operation
def cast(x: Any, dtype: Any) -> Any:
    """`x` converted to `dtype`; to bool means `x != 0`."""
    return tensor(x, dtype)


@operation
def saturate_cast(x: Any, dtype: Any) -> Any:
    """`x` clipped to the range of `dtype`, then converted to it."""
    x, to = tensor(x), as_dtype(dtype)
    if to.is_integer:
        limits = np.iinfo(to.numpy)
        low, high = int(limits.min), int(limits.max)
        if x.dtype.is_integer:
            own = np.iinfo(x.dtype.numpy)
            low, high = max(low, int(own.min)), min(high, int(own.max))
        x = sugar.binary("minimum", sugar.binary("maximum", x, low), high)
    return sugar.cast(x, to)


def is_tensor(x: Any) -> bool:
    """Whether `x` is an array, a traced or a symbolic tensor."""
    return isinstance(x, Value | np.ndarray | KerasTensor)


def dtype(x: Any) -> str:
    """The dtype of `x` by its Keras name, such as `float32`."""
    found = getattr(x, "dtype", None)
    return keras_name(as_dtype(found if found is not None else np.asarray(x).dtype))


def standardize_dtype(dtype: Any) -> str:
    """A dtype given in any form by its Keras name; None is `config.floatx()`."""
    return config.floatx() if dtype is None else keras_name(as_dtype(dtype))


def shape(x: Any) -> tuple[Any, ...]:
    """The sizes of `x`: ints, a symbol where a trace leaves one open, None on symbolic tensors."""
    found = getattr(x, "shape", None)
    return tuple(np.shape(x) if found is None else found)


def ndim(x: Any) -> int:
    """The number of dimensions of `x`."""
    return len(shape(x))


@operation
def size(x: Any) -> Any:
    """The number of elements of `x` as an int32 scalar."""
    x = tensor(x)
    return sugar.count(x, range(x.ndim), i32)


@operation
def stop_gradient(variable: Any) -> Any:
    """`variable`, through which no gradient flows."""
    return sugar.unary("stop_gradient", tensor(variable))


@operation
def copy(x: Any) -> Any:
    """`x` itself; tensors never change, so no copy is made in a graph."""
    return tensor(x)


@operation
def unstack(x: Any, num: int | None = None, axis: int = 0) -> Any:
    """The slices of `x` along `axis`, which must have a known size."""
    x = tensor(x)
    axis = sugar.normalize_axis("unstack", axis, x.ndim)
    count = int(x.shape[axis])
    if num is not None and num != count:
        raise ShapeError(f"unstack: num must be the size of axis {axis}, {count}, got {num}")
    before = (slice(None),) * axis
    return [x[(*before, i)] for i in range(count)]


__all__ = [
    "array",
    "cast",
    "convert_to_numpy",
    "convert_to_tensor",
    "copy",
    "dtype",
    "is_tensor",
    "ndim",
    "saturate_cast",
    "shape",
    "size",
    "standardize_dtype",
    "stop_gradient",
    "unstack",
]
