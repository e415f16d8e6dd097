"""Layers that move elements: flatten, reshape, pad, crop, repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.errors import ArgumentError, ShapeError
from .. import ops
from ..config import standardize_data_format
from .input_spec import InputSpec
from .layer import Layer


class Flatten(Layer):
    """All axes after the batch in one; channels last, whatever the layout of the inputs."""

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = standardize_data_format(data_format)
        self.input_spec = InputSpec(min_ndim=1)
        self.built = True

    def call(self, inputs: Any) -> Any:
        x, rank = inputs, len(inputs.shape)
        if self.data_format == "channels_first" and rank > 2:
            x = ops.transpose(x, (0, *range(2, rank), 1))
        return ops.reshape(x, (x.shape[0], -1))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}


class Reshape(Layer):
    """The same elements in another shape; one size may be -1.

    Parameters
    ----------
    target_shape : sequence of int
        Without the batch.
    """

    def __init__(self, target_shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_shape = tuple(target_shape)
        if self.target_shape.count(-1) > 1:
            raise ArgumentError(
                f"layer {self.name!r}: only one size of target_shape may be -1, "
                f"got {self.target_shape}"
            )
        self.built = True

    def call(self, inputs: Any) -> Any:
        return ops.reshape(inputs, (inputs.shape[0], *self.target_shape))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "target_shape": self.target_shape}


class Permute(Layer):
    """The axes after the batch in another order; they count from 1."""

    def __init__(self, dims: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ArgumentError(
                f"layer {self.name!r}: dims must be a permutation of 1 to {len(self.dims)}, "
                f"got {self.dims}"
            )
        self.input_spec = InputSpec(ndim=len(self.dims) + 1)
        self.built = True

    def call(self, inputs: Any) -> Any:
        return ops.transpose(inputs, (0, *self.dims))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dims": self.dims}


class RepeatVector(Layer):
    """`(batch, features)` as `(batch, n, features)`."""

    def __init__(self, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(n, int):
            raise ArgumentError(f"layer {self.name!r}: n must be an int, got {n!r}")
        self.n = n
        self.input_spec = InputSpec(ndim=2)
        self.built = True

    def call(self, inputs: Any) -> Any:
        batch, features = inputs.shape
        return ops.broadcast_to(ops.expand_dims(inputs, 1), (batch, self.n, features))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "n": self.n}


def _pairs(layer: Layer, name: str, value: Any, rank: int) -> tuple[tuple[int, int], ...]:
    """(before, after) for each spatial axis, from an int, one int each or one pair each."""
    if isinstance(value, int):
        found: Any = ((value, value),) * rank
    elif rank == 1 and all(isinstance(v, int) for v in value):
        found = (tuple(value),)
    else:
        found = tuple((v, v) if isinstance(v, int) else tuple(v) for v in value)
    good = len(found) == rank and all(
        len(pair) == 2 and all(isinstance(v, int) and v >= 0 for v in pair) for pair in found
    )
    if not good:
        raise ArgumentError(
            f"layer {layer.name!r}: {name} must be an int >= 0, {rank} of them or {rank} pairs, "
            f"got {value!r}"
        )
    return found


class _Border(Layer):
    """What padding and cropping share: a pair of numbers for each spatial axis."""

    rank = 0
    argument = ""

    def __init__(self, border: Any, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = standardize_data_format(data_format)
        setattr(self, self.argument, _pairs(self, self.argument, border, self.rank))
        self.input_spec = InputSpec(ndim=self.rank + 2)
        self.built = True

    def _widths(self) -> list[tuple[int, int]]:
        """A pair for every axis of the inputs."""
        spatial = list(getattr(self, self.argument))
        first = self.data_format == "channels_first"
        return [(0, 0), (0, 0), *spatial] if first else [(0, 0), *spatial, (0, 0)]

    def get_config(self) -> dict[str, Any]:
        border = getattr(self, self.argument)
        own = {self.argument: border[0] if self.rank == 1 else border}
        layout = {"data_format": self.data_format}
        return {**super().get_config(), **own, **layout}


class _ZeroPadding(_Border):
    argument = "padding"

    def call(self, inputs: Any) -> Any:
        return ops.pad(inputs, self._widths())


class ZeroPadding1D(_ZeroPadding):
    """Zeros before and after `(batch, steps, features)`."""

    rank = 1

    def __init__(self, padding: Any = 1, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(padding, data_format, **kwargs)


class ZeroPadding2D(_ZeroPadding):
    """Zeros around images.

    Parameters
    ----------
    padding : int, two ints or two pairs
        For all sides, for each axis, or for each side.
    data_format : str, optional
    """

    rank = 2

    def __init__(
        self, padding: Any = (1, 1), data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(padding, data_format, **kwargs)


class ZeroPadding3D(_ZeroPadding):
    """Zeros around volumes."""

    rank = 3

    def __init__(
        self,
        padding: Any = ((1, 1), (1, 1), (1, 1)),
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(padding, data_format, **kwargs)


class _Cropping(_Border):
    argument = "cropping"

    def call(self, inputs: Any) -> Any:
        cut = []
        for axis, (before, after) in enumerate(self._widths()):
            size = inputs.shape[axis]
            if isinstance(size, int) and before + after >= size and (before or after):
                raise ShapeError(
                    f"layer {self.name!r}: cropping {before} and {after} leaves nothing of "
                    f"axis {axis} of the input, got shape {tuple(inputs.shape)}"
                )
            cut.append(slice(before, -after if after else None))
        return inputs[tuple(cut)]


class Cropping1D(_Cropping):
    """`(batch, steps, features)` without its first and last steps."""

    rank = 1

    def __init__(self, cropping: Any = (1, 1), **kwargs: Any) -> None:
        super().__init__(cropping, "channels_last", **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["data_format"]
        return config


class Cropping2D(_Cropping):
    """Images without their borders."""

    rank = 2

    def __init__(
        self, cropping: Any = ((0, 0), (0, 0)), data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(cropping, data_format, **kwargs)


class Cropping3D(_Cropping):
    """Volumes without their borders."""

    rank = 3

    def __init__(
        self,
        cropping: Any = ((1, 1), (1, 1), (1, 1)),
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(cropping, data_format, **kwargs)


class _UpSampling(Layer):
    """Every element of the spatial axes repeated."""

    rank = 0

    def __init__(self, size: Any, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = standardize_data_format(data_format)
        sizes = (size,) * self.rank if isinstance(size, int) else tuple(size)
        if len(sizes) != self.rank or any(not isinstance(s, int) or s < 1 for s in sizes):
            raise ArgumentError(
                f"layer {self.name!r}: size must be a positive int or {self.rank} of them, "
                f"got {size!r}"
            )
        self.size: Any = size if self.rank == 1 else sizes
        self._sizes = sizes
        self.input_spec = InputSpec(ndim=self.rank + 2)
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = inputs
        start = 2 if self.data_format == "channels_first" else 1
        for axis, times in enumerate(self._sizes, start):
            x = ops.repeat(x, times, axis=axis)
        return x

    def get_config(self) -> dict[str, Any]:
        layout = {} if self.rank == 1 else {"data_format": self.data_format}
        return {**super().get_config(), "size": self.size, **layout}


class UpSampling1D(_UpSampling):
    """Every step repeated `size` times."""

    rank = 1

    def __init__(self, size: int = 2, **kwargs: Any) -> None:
        super().__init__(size, "channels_last", **kwargs)


class UpSampling2D(_UpSampling):
    """Every pixel repeated; only `interpolation="nearest"`."""

    rank = 2

    def __init__(
        self,
        size: Any = (2, 2),
        data_format: str | None = None,
        interpolation: str = "nearest",
        **kwargs: Any,
    ) -> None:
        super().__init__(size, data_format, **kwargs)
        if interpolation != "nearest":
            raise ArgumentError(
                f"layer {self.name!r}: interpolation must be 'nearest', got {interpolation!r}"
            )
        self.interpolation = interpolation

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "interpolation": self.interpolation}


class UpSampling3D(_UpSampling):
    """Every element of a volume repeated."""

    rank = 3

    def __init__(
        self, size: Any = (2, 2, 2), data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(size, data_format, **kwargs)
