"""Small helpers that Keras programs use."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.errors import ArgumentError
from .naming import reset_names
from .random import set_random_seed


def to_categorical(x: Any, num_classes: int | None = None) -> Any:
    """Class numbers as one-hot rows.

    Parameters
    ----------
    x : array of integers of any shape
        A last axis of size 1 is dropped.
    num_classes : int, optional
        One more than the largest number by default.

    Returns
    -------
    array
        Of shape `(*x.shape, num_classes)` and the default float dtype; symbolic or traced if
        `x` is.

    Raises
    ------
    ArgumentError
        If a number is not in `[0, num_classes)`.
    """
    from . import ops
    from .config import floatx

    if not isinstance(x, np.ndarray | list | tuple | int | np.generic):
        if num_classes is None:
            raise ArgumentError("to_categorical: num_classes must be given for a tensor")
        return ops.one_hot(x, num_classes, dtype=floatx())
    numbers = np.asarray(x).astype(np.int64)
    if numbers.ndim > 1 and numbers.shape[-1] == 1:
        numbers = numbers[..., 0]
    largest = int(numbers.max(initial=-1))
    count = largest + 1 if num_classes is None else int(num_classes)
    if largest >= count or int(numbers.min(initial=0)) < 0:
        raise ArgumentError(
            f"to_categorical: class numbers must be in [0, {count}), "
            f"got {int(numbers.min())} to {largest}"
        )
    rows = np.zeros((numbers.size, count), floatx())
    rows[np.arange(numbers.size), numbers.ravel()] = 1
    return rows.reshape(*numbers.shape, count)


def normalize(x: Any, axis: int = -1, order: int = 2) -> np.ndarray:
    """An array divided by its norm along `axis`; zero rows stay zero."""
    array = np.asarray(x, dtype=np.float64 if np.asarray(x).dtype == np.float64 else np.float32)
    norms = np.atleast_1d(np.linalg.norm(array, order, axis, keepdims=True))
    return np.asarray(array / np.where(norms == 0, 1, norms))


def clear_session(free_memory: bool = True) -> None:
    """Count default names of layers from the start again."""
    reset_names()


__all__ = ["clear_session", "normalize", "set_random_seed", "to_categorical"]
