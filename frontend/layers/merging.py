"""Layers of several inputs, and the functions that call them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError, ShapeError
from .. import ops
from .layer import Layer


class Merge(Layer):
    """Base class: inputs of shapes that broadcast, merged element by element.

    Inputs of lower rank get axes of size 1 after the batch.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.built = True

    def _merge(self, inputs: list[Any]) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _merge")

    def _require_several(self, inputs: Any, exactly: int | None = None) -> list[Any]:
        count = len(inputs) if isinstance(inputs, list | tuple) else 1
        if not isinstance(inputs, list | tuple) or count < 1 or (exactly and count != exactly):
            wanted = f"exactly {exactly} inputs" if exactly else "a list of inputs"
            raise ArgumentError(f"layer {self.name!r}: needs {wanted}, got {count}")
        return list(inputs)

    def call(self, inputs: Any) -> Any:
        inputs = self._require_several(inputs)
        rank = max(len(x.shape) for x in inputs)
        inputs = [
            x if len(x.shape) == rank else ops.reshape(
                x, (x.shape[0], *(1,) * (rank - len(x.shape)), *x.shape[1:]))
            for x in inputs
        ]  # fmt: skip
        try:
            sugar.broadcast_shapes(*(x.shape for x in inputs))
        except ShapeError:
            shapes = ", ".join(str(x.type) for x in inputs)
            raise ShapeError(
                f"layer {self.name!r}: the inputs must have shapes that broadcast, got {shapes}"
            ) from None
        return self._merge(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Steps count that count in any of the inputs; all if one has no mask."""
        if mask is None or any(m is None for m in mask):
            return None
        return functools.reduce(ops.logical_or, mask)

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


class Add(Merge):
    """The sum of the inputs."""

    def _merge(self, inputs: list[Any]) -> Any:
        return functools.reduce(ops.add, inputs)


class Subtract(Merge):
    """The first of two inputs less the second."""

    def _merge(self, inputs: list[Any]) -> Any:
        a, b = self._require_several(inputs, 2)
        return ops.subtract(a, b)


class Multiply(Merge):
    """The product of the inputs."""

    def _merge(self, inputs: list[Any]) -> Any:
        return functools.reduce(ops.multiply, inputs)


class Average(Merge):
    """The mean of the inputs."""

    def _merge(self, inputs: list[Any]) -> Any:
        return ops.divide(functools.reduce(ops.add, inputs), len(inputs))


class Maximum(Merge):
    """The largest of the inputs."""

    def _merge(self, inputs: list[Any]) -> Any:
        return functools.reduce(ops.maximum, inputs)


class Minimum(Merge):
    """The smallest of the inputs."""

    def _merge(self, inputs: list[Any]) -> Any:
        return functools.reduce(ops.minimum, inputs)


class Concatenate(Merge):
    """The inputs one after another along `axis`; all other sizes must be equal."""

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, inputs: Any) -> Any:
        inputs = self._require_several(inputs)
        shapes = ", ".join(str(x.type) for x in inputs)
        rank = len(inputs[0].shape)
        if not -rank <= self.axis < rank:
            raise ShapeError(f"layer {self.name!r}: the inputs have no axis {self.axis}: {shapes}")
        axis = self.axis % rank
        rest = {(len(x.shape), *x.shape[:axis], *x.shape[axis + 1 :]) for x in inputs}
        if len(rest) > 1:
            raise ShapeError(
                f"layer {self.name!r}: the inputs must have equal sizes in all axes but "
                f"{self.axis}, got {shapes}"
            )
        return ops.concatenate(inputs, axis=axis)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The masks one after another; an input without one counts everywhere."""
        if mask is None or all(m is None for m in mask):
            return None
        masks = []
        for x, m in zip(inputs, mask, strict=True):
            wide = ops.ones_like(x, "bool") if m is None else m
            if wide.ndim < x.ndim:
                wide = ops.broadcast_to(ops.expand_dims(wide, -1), x.shape)
            masks.append(wide)
        return ops.any(ops.concatenate(masks, axis=self.axis), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


class Dot(Merge):
    """Products summed over one axis of each of two inputs, sample by sample.

    Parameters
    ----------
    axes : int or two ints
        The axis of both, or of each, counted with the batch as 0.
    normalize : bool
        Divide by the lengths along those axes: the cosine of the angle.
    """

    def __init__(self, axes: Any, normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        pair = [axes, axes] if isinstance(axes, int) else list(axes)
        if len(pair) != 2 or not all(isinstance(a, int) for a in pair) or 0 in pair:
            raise ArgumentError(
                f"layer {self.name!r}: axes must be one or two ints, not of the batch, got {axes!r}"
            )
        self.axes = axes
        self.normalize = normalize

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return None

    def call(self, inputs: Any) -> Any:
        inputs = self._require_several(inputs, 2)
        pair = [self.axes] * 2 if isinstance(self.axes, int) else self.axes
        moved = []
        for x, axis in zip(inputs, pair, strict=True):
            axis = sugar.normalize_axis(f"layer {self.name!r}", axis, len(x.shape))
            moved.append(ops.moveaxis(x, axis, -1))
        a, b = (ops.normalize(x, axis=-1) for x in moved) if self.normalize else moved
        if a.shape[-1] != b.shape[-1]:
            raise ShapeError(
                f"layer {self.name!r}: the summed axes must have equal sizes, "
                f"got {inputs[0].type} and {inputs[1].type} over axes {self.axes}"
            )
        batch, n, rows, columns = a.shape[0], a.shape[-1], a.shape[1:-1], b.shape[1:-1]
        product = ops.matmul(
            ops.reshape(a, (batch, _size(rows), n)),
            ops.transpose(ops.reshape(b, (batch, _size(columns), n)), (0, 2, 1)),
        )
        return ops.reshape(product, (batch, *(rows + columns or (1,))))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axes": self.axes, "normalize": self.normalize}


def _size(sizes: tuple[Any, ...]) -> Any:
    total: Any = 1
    for size in sizes:
        total = size * total
    return total


def _function(layer: type[Merge], name: str) -> Callable[..., Any]:
    def merge(inputs: Any, **kwargs: Any) -> Any:
        return layer(**kwargs)(inputs)

    merge.__name__ = merge.__qualname__ = name
    merge.__doc__ = f"`{layer.__name__}` of a list of tensors."
    return merge


add = _function(Add, "add")
subtract = _function(Subtract, "subtract")
multiply = _function(Multiply, "multiply")
average = _function(Average, "average")
maximum = _function(Maximum, "maximum")
minimum = _function(Minimum, "minimum")


def concatenate(inputs: Any, axis: int = -1, **kwargs: Any) -> Any:
    """`Concatenate` of a list of tensors."""
    return Concatenate(axis=axis, **kwargs)(inputs)


def dot(inputs: Any, axes: Any = -1, **kwargs: Any) -> Any:
    """`Dot` of two tensors."""
    return Dot(axes=axes, **kwargs)(inputs)
