"""Variable: an array with a name that layers, optimizers and metrics read and assign."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np

from ..ir.builder import Builder, constant, current, suspended
from ..ir.errors import ArgumentError, DTypeError, ShapeError
from ..ir.graph import Value
from ..ir.types import DType, TensorType, as_dtype, keras_name
from . import config, naming
from .operators import ArrayOperators
from .trace import Trace

_autocast: ContextVar[DType | None] = ContextVar("hornfels_autocast", default=None)


class _Changes:
    count = 0


def count_change() -> None:
    """Note that `trainable` of something changed: traces made before may be out of date."""
    _Changes.count += 1


def changes() -> int:
    """How often `trainable` of something changed."""
    return _Changes.count


_moves = threading.RLock()
"""Held by who moves an array, or reads or replaces one that moved.

One for all variables: a move is rare, and inside nothing else is waited for. The thread that has
it may ask again, since the collector may run a finalizer that assigns.
"""


def _forked() -> None:
    """Have a lock that no thread of the parent process holds."""
    global _moves
    _moves = threading.RLock()


os.register_at_fork(after_in_child=_forked)


class Residence(Protocol):
    """Where a variable's array lives while it is not in host memory: a session's device state."""

    def read(self, variable: Variable) -> np.ndarray:
        """A copy of the array."""

    def write(self, variable: Variable, array: np.ndarray) -> None:
        """Replace the array; it has the variable's shape and dtype."""


class Variable(ArrayOperators):
    """An array that outlives the call that made it.

    Outside of traces it holds an array. While a `Trace` records, reading it gives a state
    value of the graph and assigning to it records an update of that state.

    Parameters
    ----------
    initializer : array, callable or str
        The array; or `initializer(shape, dtype)`; or an initializer's name.
    shape : sequence of int, optional
        Needed with a callable or a name.
    dtype : str, optional
        The array's own dtype by default, the default float dtype for an initializer.
    trainable : bool
        Whether gradients are taken with respect to it.
    autocast : bool
        Whether mixed precision reads it in the computation's dtype.
    name : str, optional
        No `/` in it; its `path` is the open name scopes and the name.
    """

    def __init__(
        self,
        initializer: Any,
        shape: Sequence[int] | int | None = None,
        dtype: Any = None,
        trainable: bool = True,
        autocast: bool = True,
        aggregation: str | None = "none",
        synchronization: str | None = "auto",
        name: str | None = None,
        layout: Any = None,
        **kwargs: Any,
    ) -> None:
        if kwargs:
            raise ArgumentError(f"Variable: unknown arguments {', '.join(kwargs)}")
        name = name or naming.auto_name("variable")
        if not isinstance(name, str) or "/" in name:
            raise ArgumentError(f"Variable: name must be a string without '/', got {name!r}")
        scope = naming.current_path()
        self._name = name
        self._path = f"{scope}/{name}" if scope else name
        self._trainable = bool(trainable)
        self._autocast = bool(autocast)
        self.aggregation = aggregation or "none"
        self.synchronization = synchronization or "none"
        self.regularizer: Any = None
        self.constraint: Any = None
        self.overwrite_with_gradient = False
        self._residence: Residence | None = None
        array = self._initial_array(initializer, shape, dtype)
        self.type = TensorType(as_dtype(array.dtype), tuple(int(d) for d in array.shape))
        self._array: np.ndarray | None = _frozen(array)

    def _initial_array(self, initializer: Any, shape: Any, dtype: Any) -> np.ndarray:
        if isinstance(initializer, str):
            from . import initializers

            initializer = initializers.get(initializer)
        if not callable(initializer):
            return as_array(initializer, dtype)
        if shape is None:
            raise ArgumentError(f"Variable {self._path!r}: an initializer needs a shape, got none")
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not all(isinstance(d, int | np.integer) for d in shape):
            raise ShapeError(f"Variable {self._path!r}: all sizes must be known, got {shape}")
        wanted = as_dtype(dtype or config.floatx())
        with suspended():
            array = np.asarray(initializer(shape, dtype=keras_name(wanted)))
        if array.shape != shape:
            raise ShapeError(
                f"Variable {self._path!r}: initializer must return shape {shape}, got {array.shape}"
            )
        return array.astype(wanted.numpy, copy=False)

    # --- what it is --------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def path(self) -> str:
        """Name scopes and name, joined with `/`."""
        return self._path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape  # type: ignore[return-value]

    @property
    def ndim(self) -> int:
        return self.type.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.type.size)

    @property
    def dtype(self) -> str:
        """The dtype that reading gives: its own, or the computation's in mixed precision."""
        return keras_name(self._read_dtype())

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        count_change()

    def _read_dtype(self) -> DType:
        cast_to = _autocast.get()
        own = self.type.dtype
        return cast_to if cast_to and self._autocast and own.is_float else own

    # --- what it holds -----------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """A Value while a graph is built or an op runs, else the array (read-only)."""
        builder = current()
        if builder is None:
            return self.array
        return self.read(builder)

    def read(self, builder: Builder) -> Value:
        """The variable as a Value of `builder`."""
        if isinstance(builder, Trace):
            value = builder.read(self)
        elif builder.eager:
            value = constant(self.array)
        else:
            raise ArgumentError(
                f"Variable {self._path!r}: a plain Builder has no state", hint="use a Trace"
            )
        return value.astype(self._read_dtype())

    def __value__(self) -> Value:
        """What `ir.sugar` takes for the variable beside Values."""
        builder = current()
        assert builder is not None
        return self.read(builder)

    @property
    def residence(self) -> Residence | None:
        """Who holds the array; None while it is here, in the host's memory."""
        return self._residence

    def move_to(self, residence: Residence) -> None:
        """Give the array to `residence`, and leave it to it alone."""
        with _moves:
            residence.write(self, self.array)
            self._residence, self._array = residence, None  # in this order: others may be reading

    def move_home(self, residence: Residence) -> None:
        """Hold the array here again, if `residence` has it."""
        with _moves:
            if self._residence is residence:
                self._array = _frozen(residence.read(self))
                self._residence = None

    @property
    def array(self) -> np.ndarray:
        """The array itself, read-only, where it is in the host's memory; else a copy of it."""
        array = self._array
        if array is not None:
            return array
        with _moves:
            array, residence = self._array, self._residence
            if array is not None:  # it came home meanwhile
                return array
            assert residence is not None
            return residence.read(self)

    def numpy(self) -> np.ndarray:
        """A copy of the array, from the device if it lives there."""
        array = self.array
        return array if array.flags.owndata and array.flags.writeable else np.array(array)

    def assign(self, value: Any) -> Any:
        """Replace the array.

        Raises
        ------
        ShapeError
            If `value` is not of the variable's shape.
        """
        builder = current()
        if isinstance(builder, Trace):
            from .ops.core import tensor

            value = tensor(value, self.type.dtype)
            builder.assign(self, value)
            return value
        array = as_array(value, self.type.dtype)
        if array.shape != self.type.shape:
            raise ShapeError(f"assign: variable {self._path!r} is {self.type}, got {array.shape}")
        with _moves:
            residence = self._residence
            if residence is None:
                self._array = _frozen(array)
            else:
                residence.write(self, array)
        return value

    def assign_add(self, value: Any) -> Any:
        """Replace the array by its sum with `value`."""
        return self.assign(self.value + value)

    def assign_sub(self, value: Any) -> Any:
        """Replace the array by its difference with `value`."""
        return self.assign(self.value - value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError(f"len() of variable {self._path!r} of rank 0")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        return f"<Variable path={self._path}, {self.type}>"


def _frozen(array: np.ndarray) -> np.ndarray:
    """A read-only copy of its own: a graph may hold it without copying it again."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def as_array(value: Any, dtype: Any) -> np.ndarray:
    """An array of what a user passes; Python numbers take the default dtypes."""
    wanted = None if dtype is None else as_dtype(dtype).numpy
    if wanted is not None and type(value) is np.ndarray and value.dtype == wanted:
        return value
    if isinstance(value, Variable):
        value = value.array
    if isinstance(value, Value) and value.constant is None:
        raise DTypeError(
            f"a variable outside of this trace cannot hold the traced tensor {value.type}",
            hint="make variables in __init__ or build, and assign in call",
        )
    try:
        array = np.asarray(value)
        if wanted is not None:
            return array.astype(wanted, copy=False)
    except (ValueError, TypeError) as error:
        raise DTypeError(f"a variable takes arrays of numbers, got {value!r:.60}") from error
    if isinstance(value, np.ndarray | np.generic | Value):
        as_dtype(array.dtype)
        return array
    default = {"f": config.floatx(), "i": "int32"}.get(array.dtype.kind)
    return array.astype(as_dtype(default).numpy) if default else array


@contextmanager
def autocast(dtype: DType | None) -> Iterator[None]:
    """Inside, float variables are read in `dtype`; None reads them as they are."""
    token = _autocast.set(dtype)
    try:
        yield
    finally:
        _autocast.reset(token)
