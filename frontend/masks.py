"""Masks: which steps of a tensor count; they go along with tensors from layer to layer.

`set_mask` notes a mask beside a tensor, be it an array, a traced or a symbolic one, and `mask_of`
finds it. Layers hand masks on, see `Layer.compute_mask`; losses and metrics leave out what is
masked.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..ir.builder import Builder, current
from ..ir.graph import Value
from .keras_tensor import KerasTensor

_of_values: weakref.WeakKeyDictionary[Builder, dict[Value, Any]] = weakref.WeakKeyDictionary()
_of_arrays: dict[int, Any] = {}
_ignored: ContextVar[bool] = ContextVar("hornfels_masks_ignored", default=False)


def mask_of(x: Any) -> Any:
    """The mask that was set beside a tensor, or None."""
    if _ignored.get():
        return None
    if isinstance(x, KerasTensor):
        return x.mask
    if isinstance(x, np.ndarray):
        return _of_arrays.get(id(x))
    if not isinstance(x, Value):
        return None
    builder = current()
    while builder is not None:
        mask = _of_values.get(builder, {}).get(x)
        if mask is not None:
            return mask
        builder = builder.outer
    return None


def set_mask(x: Any, mask: Any) -> None:
    """Note which steps of a tensor count: true where they do."""
    if mask is None:
        return
    if isinstance(x, KerasTensor):
        x.mask = mask
    elif isinstance(x, np.ndarray):
        _of_arrays[id(x)] = mask
        weakref.finalize(x, _of_arrays.pop, id(x), None)
    elif isinstance(x, Value):
        builder = current()
        assert builder is not None
        _of_values.setdefault(builder, {})[x] = mask


def with_mask_of(source: Any, x: Any, convert: Callable[[Any], Any] = lambda mask: mask) -> Any:
    """`x`, with the mask of the tensor that it was made from."""
    mask = mask_of(source)
    if mask is not None and x is not source:
        set_mask(x, convert(mask))
    return x


@contextmanager
def masks_ignored() -> Iterator[None]:
    """Inside, no tensor seems to have a mask."""
    token = _ignored.set(True)
    try:
        yield
    finally:
        _ignored.reset(token)
