"""Where batches come from: arrays held in memory, or an iterable of ready batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..ir.errors import ArgumentError, ShapeError

Batch = dict[str, np.ndarray]  # arrays by the names of the graph's inputs, batch axis first


class Source(Protocol):
    """Gives the batches of an epoch."""

    def batches(self, shuffle: bool) -> Iterator[Batch]:
        """The batches, in a new random order if `shuffle` and if the source can."""

    def steps(self) -> int | None:
        """Number of batches; None if unknown."""

    def batch_sizes(self) -> tuple[int, ...]:
        """The sizes that will come, the usual one first; empty if unknown."""


@dataclass(frozen=True)
class Examples:
    """Arrays of equal length by the names of the graph's inputs.

    Attributes
    ----------
    arrays : mapping of str to array
        Each of shape `[size, ...]`.
    batch_size : int
    random : numpy.random.Generator
        Draws the orders.
    """

    arrays: Mapping[str, np.ndarray]
    batch_size: int
    random: np.random.Generator

    def __post_init__(self) -> None:
        size_of_batch(self.arrays)
        if not isinstance(self.batch_size, int | np.integer) or self.batch_size < 1:
            raise ArgumentError(f"batch_size must be a positive int, got {self.batch_size!r}")

    @property
    def size(self) -> int:
        """Number of examples."""
        return size_of_batch(self.arrays)

    def split(self, fraction: float) -> tuple[Examples, Examples]:
        """The examples before and in the last `fraction` (0 < fraction < 1), in order."""
        if not isinstance(fraction, float | np.floating) or not 0 < fraction < 1:
            raise ArgumentError(f"validation_split must be between 0 and 1, got {fraction}")
        at = int(self.size * (1 - fraction))
        if at in (0, self.size):
            raise ArgumentError(
                f"validation_split={fraction} of {self.size} examples leaves one side empty"
            )
        return self._rows(slice(0, at)), self._rows(slice(at, None))

    def batches(self, shuffle: bool) -> Iterator[Batch]:
        order = self.random.permutation(self.size) if shuffle else None
        for start in range(0, self.size, self.batch_size):
            rows = slice(start, start + self.batch_size)
            if order is None:
                yield {name: array[rows] for name, array in self.arrays.items()}
            else:  # a third faster than an index
                yield {name: array.take(order[rows], 0) for name, array in self.arrays.items()}

    def steps(self) -> int:
        return -(-self.size // self.batch_size)

    def batch_sizes(self) -> tuple[int, ...]:
        usual, last = min(self.batch_size, self.size), self.size % self.batch_size
        return (usual, last) if last and last != usual else (usual,)

    def _rows(self, rows: slice) -> Examples:
        taken = {name: array[rows] for name, array in self.arrays.items()}
        return Examples(taken, self.batch_size, self.random)


@dataclass(frozen=True)
class Stream:
    """Ready batches from an iterable: a generator, a list, or an object with `__getitem__`
    and `__len__` (as Keras' PyDataset).

    Attributes
    ----------
    iterable : iterable of x, (x,), (x, y) or (x, y, sample_weight)
    pack : callable
        `pack(x, y, sample_weight)` -> Batch.
    """

    iterable: Iterable[Any]
    pack: Callable[..., Batch]

    def batches(self, shuffle: bool) -> Iterator[Batch]:
        for item in self._items():
            parts = item if isinstance(item, tuple) else (item,)
            if not 1 <= len(parts) <= 3:
                raise ArgumentError(
                    f"a batch must be x, (x, y) or (x, y, sample_weight), got {len(parts)} parts"
                )
            yield self.pack(*parts)

    def _items(self) -> Iterator[Any]:
        if hasattr(self.iterable, "__getitem__") and hasattr(self.iterable, "__len__"):
            return (self.iterable[i] for i in range(len(self.iterable)))
        return iter(self.iterable)

    def steps(self) -> int | None:
        return len(self.iterable) if hasattr(self.iterable, "__len__") else None

    def batch_sizes(self) -> tuple[int, ...]:
        return ()


def is_stream(x: Any) -> bool:
    """Whether `x` gives batches by itself instead of holding all examples."""
    if isinstance(x, np.ndarray | list | tuple | dict) or hasattr(x, "__array__"):
        return False
    return hasattr(x, "__iter__") or (hasattr(x, "__getitem__") and hasattr(x, "__len__"))


def size_of_batch(arrays: Mapping[str, np.ndarray]) -> int:
    """The number of examples that all arrays share.

    Raises
    ------
    ShapeError
        If an array is a scalar, the numbers differ, or there is no example.
    """
    for name, array in arrays.items():
        if not array.ndim:
            raise ShapeError(f"{name} must have a batch dimension, got a scalar")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {n}" for name, n in lengths.items())
        raise ShapeError(f"all arrays must hold the same number of examples, got {listed}")
    size = next(iter(lengths.values()), 0)
    if not size:
        raise ShapeError("there must be at least one example, got none")
    return size


def weights_of_classes(y: np.ndarray, class_weight: Mapping[int, float]) -> np.ndarray:
    """One weight per example, from its class: labels `[N]`, `[N, 1]` or one-hot `[N, classes]`.

    Classes that the mapping does not name weigh 1.
    """
    if not isinstance(class_weight, Mapping):
        raise ArgumentError(
            f"class_weight must be a mapping of class to weight, got {class_weight!r}"
        )
    labels = y.argmax(-1) if y.ndim > 1 and y.shape[-1] > 1 else y.reshape(len(y))
    weights = np.ones(len(y), np.float32)
    for label, weight in class_weight.items():
        if not isinstance(weight, int | float | np.number):
            raise ArgumentError(f"class_weight of class {label} must be a number, got {weight!r}")
        weights[labels == label] = weight
    return weights
