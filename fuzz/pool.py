"""The values of a graph that grows at random, with their numbers, and ways to get more.

Every value is evaluated as it is made, so that a graph whose numbers overflow or become NaN is
noticed while there is still a choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from ..ir.builder import Builder, constant
from ..ir.graph import Source, Value, is_among
from ..ir.op import get
from ..ir.sugar import full
from ..ir.types import (
    DType,
    Shape,
    TensorType,
    bf16,
    boolean,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    u8,
    u32,
)
from .arrays import array_for

Item = TypeVar("Item")

SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 33)
SIZE_WEIGHTS = (0.05, 0.2, 0.2, 0.15, 0.12, 0.08, 0.05, 0.05, 0.04, 0.03, 0.03)
LARGEST = 2048
"""Elements of a value; larger ones are not kept."""

FLOATS = (f32, f64, f16, bf16)
FLOAT_WEIGHTS = (0.55, 0.2, 0.125, 0.125)
INTEGERS = (i32, u32, i64, i8, u8, i16)
INTEGER_WEIGHTS = (0.5, 0.2, 0.1, 0.08, 0.07, 0.05)


class Pool:
    """Values to choose from; use inside its `builder`.

    Parameters
    ----------
    rng : numpy.random.Generator
    seed : int
        Of the arrays of inputs and state.
    closed : bool
        Whether only values of the pool may be read: the body of control flow takes no more
        inputs than it was given.
    wide : bool
        Whether f64 is the only floating-point dtype.
    """

    def __init__(
        self, rng: np.random.Generator, seed: int, *, closed: bool = False, wide: bool = False
    ) -> None:
        self.rng = rng
        self.wide = wide
        self.seed = seed
        self.closed = closed
        self.builder = Builder("fuzz")
        self.values: list[Value] = []
        self.parameters: list[Value] = []
        self._arrays: dict[Value, np.ndarray] = {}

    # --- chance ------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def below(self, end: int) -> int:
        """A number from 0 up to, without, `end`."""
        return int(self.rng.integers(end))

    def between(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, items: Sequence[Item], weights: Sequence[float] | None = None) -> Item:
        if weights is None:
            return items[self.below(len(items))]
        total = sum(weights)
        return items[int(self.rng.choice(len(items), p=[w / total for w in weights]))]

    def size(self, least: int = 0) -> int:
        return max(least, self.pick(SIZES, SIZE_WEIGHTS))

    def shape(self, rank: int | None = None, least: int = 0) -> tuple[int, ...]:
        """A shape of a few elements."""
        rank = self.pick((0, 1, 2, 3, 4), (0.1, 0.25, 0.35, 0.2, 0.1)) if rank is None else rank
        sizes = [self.size(least) for _ in range(rank)]
        while math.prod(sizes) > 600:
            sizes[self.below(rank)] = self.between(1, 3)
        return tuple(sizes)

    def float_dtype(self) -> DType:
        return f64 if self.wide else self.pick(FLOATS, FLOAT_WEIGHTS)

    def dtype(self) -> DType:
        kind = self.pick(("float", "integer", "bool"), (0.75, 0.2, 0.05))
        if kind == "bool":
            return boolean
        return self.float_dtype() if kind == "float" else self.pick(INTEGERS, INTEGER_WEIGHTS)

    # --- values ------------------------------------------------------------------------------

    def add(self, value: Value) -> Value:
        """Put a value into the pool."""
        if not is_among(value, self.values):
            self.values.append(value)
        return value

    def given(self, value: Value, array: np.ndarray) -> Value:
        """A parameter of a body, with the numbers that it has in one step."""
        self._arrays[value] = array
        return self.add(value)

    def parameter(self, type: TensorType, *, trained: bool | None = None) -> Value:
        """A new input, or, where it may be, state to train."""
        if self.closed:
            return self.number(type)
        if trained is None:
            trained = type.dtype.is_float and self.chance(0.4)
        name = f"{'w' if trained else 'x'}{len(self.builder.inputs) + len(self.builder.state)}"
        make = self.builder.variable if trained else self.builder.input
        value = make(name, type)
        if trained:
            self.parameters.append(value)
        return self.given(value, array_for(name, type, self.seed))

    def number(self, type: TensorType) -> Value:
        """A constant: one repeated number, or some."""
        shape = tuple(int(d) for d in type.shape)
        if self.chance(0.6) or math.prod(shape) > 64:
            choices = (0, 1, 2, 3) if not type.dtype.is_float else (0.0, 1.0, -1.0, 2.0, 0.5, 0.1)
            return full(shape, type.dtype.numpy.type(self.pick(choices)), type.dtype)
        return constant(array_for("c", type, self.below(1 << 30)), type.dtype)

    def array(self, value: Value) -> np.ndarray:
        """The numbers of a value."""
        pending = [value]
        while pending:
            v = pending[-1]
            node = v.node
            if v in self._arrays or node is None:
                pending.pop()
                continue
            missing = [x for x in node.inputs if x not in self._arrays]
            if missing:
                pending += missing
                continue
            results = node.op.evaluate(*(self._arrays[x] for x in node.inputs), **node.attrs)
            self._arrays.update(zip(node.outputs, results, strict=True))
        return self._arrays[value]

    def emit(self, name: str, *operands: Value, **attrs: Any) -> Value:
        return get(name)(*operands, **attrs)

    # --- choosing ----------------------------------------------------------------------------

    def find(self, fits: Callable[[Value], bool]) -> Value | None:
        """A value of the pool that fits, later ones more likely; None if none does."""
        found = [v for v in self.values if fits(v)]
        if not found:
            return None
        return found[len(found) - 1 - int(len(found) * self.rng.random() ** 2)]

    def some(self, fits: Callable[[Value], bool], type: TensorType) -> Value:
        """A value that fits, or now and then a new one of `type`."""
        found = None if self.chance(0.12) else self.find(fits)
        return self.need(type) if found is None else found

    def need(self, type: TensorType, integers: tuple[int, int] | None = None) -> Value:
        """A value of exactly this type: one that there is, one made fit, or a new one."""
        way = self.pick(("have", "adapt", "number", "new"), (0.5, 0.2, 0.1, 0.2))
        found: Value | None = None
        if integers is not None and type.dtype.is_integer:
            return self._integers(type, integers)
        if way in ("have", "adapt"):
            found = self.find(lambda v: v.type == type)
        if way == "adapt" and self.chance(0.7):
            donor = self.find(lambda v: v.dtype.kind == type.dtype.kind)
            found = found if donor is None else self._adapt(donor, type)
        if way == "number":
            return self.number(type)
        return self.parameter(type) if found is None else found

    def _integers(self, type: TensorType, bounds: tuple[int, int]) -> Value:
        """Integers of a range: constants, or values of the pool made to fit."""
        low, end = bounds
        shape = tuple(int(d) for d in type.shape)
        if self.chance(0.5) or type.dtype.numpy.itemsize == 1:
            numbers = self.rng.integers(low, end, shape).astype(type.dtype.numpy)
            return constant(numbers, type.dtype)
        x = self.need(type)
        span = self.emit("remainder", x, full(shape, end - low, type.dtype))
        return self.emit("add", span, full(shape, low, type.dtype)) if low else span

    def _adapt(self, x: Value, type: TensorType) -> Value:
        """The elements of `x`, repeated or cut, as another type of the same kind."""
        if x.dtype != type.dtype:
            x = self.emit("cast", x, dtype=type.dtype)
        if x.shape == type.shape:
            return x
        wanted, held = math.prod(map(int, type.shape)), math.prod(map(int, x.shape))
        shape = tuple(int(d) for d in type.shape)
        if _repeats(x.shape, shape) and self.chance(0.7):
            axes = tuple(range(len(shape) - x.ndim, len(shape)))
            return self.emit("broadcast", x, shape=shape, axes=axes)
        flat = x.reshape((held,)) if x.ndim != 1 else x
        if held > wanted:
            flat = self.emit("slice", flat, starts=(0,), limits=(wanted,), strides=(1,))
        elif held < wanted:
            value = 0.0 if type.dtype.is_bool else 1.0
            flat = self.emit("pad", flat, low=(wanted - held,), high=(0,), interior=(0,),
                             value=value)  # fmt: skip
        return flat.reshape(shape) if flat.shape != shape else flat

    # --- taming ------------------------------------------------------------------------------

    def within(self, x: Value, low: float, high: float) -> Value:
        """`x` if its numbers lie in the range with some room, else squeezed into it."""
        array = self.array(x).astype(np.float64)
        with np.errstate(all="ignore"):
            if array.size == 0 or bool(np.all((array >= low) & (array <= high))):
                return x
        squeezed = self.emit("sigmoid", x)
        return squeezed * (0.9 * (high - low)) + (low + 0.05 * (high - low))

    def keep(self, value: Value) -> Value | None:
        """Put a result into the pool if its numbers are of use; squeeze large ones."""
        if math.prod(map(int, value.shape)) > LARGEST:
            return None
        array = self.array(value)
        if not value.dtype.is_float or array.size == 0:
            return self.add(value)
        with np.errstate(all="ignore"):
            numbers = np.abs(array.astype(np.float64))
            finite = bool(np.isfinite(numbers).all())
        if not finite:
            return self.add(value) if self.chance(0.05) else None
        if numbers.max() > 1e3 and self.chance(0.95):
            return self.add(self.emit("tanh", value * 1e-2)) if numbers.max() < 1e8 else None
        return self.add(value)

    def quiet(self) -> Any:
        """Nodes made inside carry no source, so that texts of graphs stay short."""
        return self.builder.at(Source())


def _repeats(shape: Shape, into: Shape) -> bool:
    """Whether `shape` broadcasts to `into` along its last axes."""
    if len(shape) > len(into):
        return False
    tail = into[len(into) - len(shape) :]
    return all(a in (1, b) for a, b in zip(shape, tail, strict=True))
