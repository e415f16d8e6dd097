"""Pooling over windows and over all of the spatial axes."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ArgumentError
from .. import ops
from ..config import standardize_data_format
from .conv import per_axis
from .input_spec import InputSpec
from .layer import Layer


class BasePooling(Layer):
    """A reduction of every window; subclasses fix the number of spatial axes, `rank`.

    Parameters
    ----------
    pool_size : int or one for each spatial axis
        The window.
    strides : int or one for each spatial axis, optional
        The window's size by default.
    padding : str
        `valid` or `same`.
    data_format : str, optional
        `channels_last` or `channels_first`.
    """

    rank = 0

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.pool_size = per_axis(self, "pool_size", pool_size, self.rank)
        strides = self.pool_size if strides is None else strides
        self.strides = per_axis(self, "strides", strides, self.rank)
        self.padding = str(padding).lower()
        if self.padding not in ("valid", "same"):
            raise ArgumentError(
                f"layer {self.name!r}: padding must be one of valid, same, got {padding!r}"
            )
        self.data_format = standardize_data_format(data_format)
        self.input_spec = InputSpec(ndim=self.rank + 2)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        names = ("pool_size", "strides", "padding", "data_format")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class _MaxPooling(BasePooling):
    def call(self, inputs: Any) -> Any:
        return ops.max_pool(inputs, self.pool_size, self.strides, self.padding, self.data_format)


class _AveragePooling(BasePooling):
    def __init__(
        self,
        pool_size: Any,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)

    def call(self, inputs: Any) -> Any:
        return ops.average_pool(
            inputs, self.pool_size, self.strides, self.padding, self.data_format
        )


class MaxPooling1D(_MaxPooling):
    """The largest of every window of steps; arguments as for `MaxPooling2D`."""

    rank = 1


class MaxPooling2D(_MaxPooling):
    __doc__ = BasePooling.__doc__
    rank = 2


class MaxPooling3D(_MaxPooling):
    """The largest of every window of volumes; arguments as for `MaxPooling2D`."""

    rank = 3


class AveragePooling1D(_AveragePooling):
    """The mean of every window of steps; arguments as for `MaxPooling2D`."""

    rank = 1


class AveragePooling2D(_AveragePooling):
    """The mean of every window of images, padding not counted; see `MaxPooling2D`."""

    rank = 2


class AveragePooling3D(_AveragePooling):
    """The mean of every window of volumes; arguments as for `MaxPooling2D`."""

    rank = 3


class BaseGlobalPooling(Layer):
    """A reduction over all spatial axes.

    Parameters
    ----------
    data_format : str, optional
        `channels_last` or `channels_first`.
    keepdims : bool
        Whether the spatial axes stay, with size 1.
    """

    rank = 0

    def __init__(
        self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.data_format = standardize_data_format(data_format)
        self.keepdims = keepdims
        self.input_spec = InputSpec(ndim=self.rank + 2)
        self.built = True

    def _axes(self) -> tuple[int, ...]:
        start = 2 if self.data_format == "channels_first" else 1
        return tuple(range(start, start + self.rank))

    def get_config(self) -> dict[str, Any]:
        own = {"data_format": self.data_format, "keepdims": self.keepdims}
        return {**super().get_config(), **own}


class _GlobalMaxPooling(BaseGlobalPooling):
    def call(self, inputs: Any) -> Any:
        return ops.max(inputs, axis=self._axes(), keepdims=self.keepdims)


class _GlobalAveragePooling(BaseGlobalPooling):
    def call(self, inputs: Any) -> Any:
        return ops.mean(inputs, axis=self._axes(), keepdims=self.keepdims)


class GlobalMaxPooling1D(_GlobalMaxPooling):
    """The largest over all steps; arguments as for `GlobalAveragePooling2D`."""

    rank = 1


class GlobalMaxPooling2D(_GlobalMaxPooling):
    """The largest over each channel of an image; arguments as for `GlobalAveragePooling2D`."""

    rank = 2


class GlobalMaxPooling3D(_GlobalMaxPooling):
    """The largest over each channel of a volume; arguments as for `GlobalAveragePooling2D`."""

    rank = 3


class GlobalAveragePooling1D(_GlobalAveragePooling):
    """The mean over all steps, or over those that `mask` keeps; see `GlobalAveragePooling2D`."""

    rank = 1

    def __init__(
        self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(data_format, keepdims, **kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return None

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(inputs)
        (steps,) = self._axes()
        kept = ops.expand_dims(ops.cast(mask, inputs.dtype), 3 - steps)
        total = ops.sum(ops.multiply(inputs, kept), axis=steps, keepdims=self.keepdims)
        return ops.divide(total, ops.sum(kept, axis=steps, keepdims=self.keepdims))


class GlobalAveragePooling2D(_GlobalAveragePooling):
    __doc__ = BaseGlobalPooling.__doc__
    rank = 2


class GlobalAveragePooling3D(_GlobalAveragePooling):
    """The mean over each channel of a volume; arguments as for `GlobalAveragePooling2D`."""

    rank = 3


MaxPool1D, MaxPool2D, MaxPool3D = MaxPooling1D, MaxPooling2D, MaxPooling3D
AvgPool1D, AvgPool2D, AvgPool3D = AveragePooling1D, AveragePooling2D, AveragePooling3D
GlobalMaxPool1D, GlobalMaxPool2D, GlobalMaxPool3D = (
    GlobalMaxPooling1D, GlobalMaxPooling2D, GlobalMaxPooling3D,
)  # fmt: skip
GlobalAvgPool1D, GlobalAvgPool2D, GlobalAvgPool3D = (
    GlobalAveragePooling1D, GlobalAveragePooling2D, GlobalAveragePooling3D,
)  # fmt: skip
