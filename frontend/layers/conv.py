"""Convolutions of one, two and three spatial axes."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ArgumentError, ShapeError
from .. import activations, ops, regularizers
from ..config import standardize_data_format
from .core import fixed_size, positive
from .input_spec import InputSpec
from .layer import Layer
from .weights import WeightedLayer


def per_axis(layer: Layer, name: str, value: Any, rank: int) -> tuple[int, ...]:
    """One positive int for each spatial axis, from one int or so many."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * rank
    if len(values) != rank or any(not isinstance(v, int) or v < 1 for v in values):
        raise ArgumentError(
            f"layer {layer.name!r}: {name} must be a positive int or {rank} of them, got {value!r}"
        )
    return values


class _Convolution(WeightedLayer):
    """What all convolutions share: window, strides, padding, dilation, activation, bias."""

    rank = 0
    paddings: tuple[str, ...] = ("valid", "same")

    def _set_window(
        self, kernel_size: Any, strides: Any, padding: str, data_format: Any, dilation_rate: Any
    ) -> None:
        self.kernel_size = per_axis(self, "kernel_size", kernel_size, self.rank)
        self.strides = per_axis(self, "strides", strides, self.rank)
        self.dilation_rate = per_axis(self, "dilation_rate", dilation_rate, self.rank)
        self.padding = str(padding).lower()
        if self.padding not in self.paddings:
            raise ArgumentError(
                f"layer {self.name!r}: padding must be one of {', '.join(self.paddings)}, "
                f"got {padding!r}"
            )
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ArgumentError(
                f"layer {self.name!r}: strides and dilation_rate must not both exceed 1, "
                f"got {self.strides} and {self.dilation_rate}"
            )
        self.data_format = standardize_data_format(data_format)
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def _channels(self, input_shape: Any) -> int:
        axis = 1 if self.data_format == "channels_first" else -1
        channels = fixed_size(self, input_shape, axis)
        self.input_spec = InputSpec(ndim=self.rank + 2, axes={axis: channels})
        return channels

    def _finish(self, x: Any) -> Any:
        """Add the bias and activate."""
        if self.bias is not None:
            bias = self.bias
            if self.data_format == "channels_first":
                bias = ops.reshape(bias, (-1, *(1,) * self.rank))
            x = ops.add(x, bias)
        return self.activation(x)

    def _window_config(self) -> dict[str, Any]:
        names = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "use_bias")
        return {
            **{name: getattr(self, name) for name in names},
            "activation": activations.serialize(self.activation),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
        }


class BaseConv(_Convolution):
    """A convolution; subclasses fix the number of spatial axes, `rank`.

    Parameters
    ----------
    filters : int
        The number of output channels.
    kernel_size, strides, dilation_rate : int or one for each spatial axis
    padding : str
        `valid`, `same`, or `causal` for one spatial axis.
    data_format : str, optional
        `channels_last` or `channels_first`.
    groups : int
        The channels are split into so many groups, convolved apart.
    activation : str or callable, optional
    use_bias : bool
    kernel_initializer, bias_initializer : str or callable
    kernel_regularizer, bias_regularizer, activity_regularizer : str or callable, optional
    kernel_constraint, bias_constraint : str or callable, optional
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters = positive(self, "filters", filters)
        self.groups = positive(self, "groups", groups)
        if self.filters % self.groups:
            raise ArgumentError(
                f"layer {self.name!r}: filters must be a multiple of groups, "
                f"got {filters} and {groups}"
            )
        self._set_window(kernel_size, strides, padding, data_format, dilation_rate)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self._describe_weight("kernel", kernel_initializer, kernel_regularizer, kernel_constraint)
        self._describe_weight("bias", bias_initializer, bias_regularizer, bias_constraint)

    def build(self, input_shape: Any) -> None:
        channels = self._channels(input_shape)
        if channels % self.groups:
            raise ShapeError(
                f"layer {self.name!r}: the input's channels must be a multiple of groups "
                f"({self.groups}), got {channels}"
            )
        shape = (*self.kernel_size, channels // self.groups, self.filters)
        self.kernel = self._make_weight("kernel", shape)
        self.bias = self._make_weight("bias", (self.filters,)) if self.use_bias else None

    def call(self, inputs: Any) -> Any:
        return self._finish(self.convolution_op(inputs, self.kernel))

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """The convolution without bias and activation."""
        return ops.conv(inputs, kernel, self.strides, self.padding, self.data_format,
                        self.dilation_rate)  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        own = {"filters": self.filters, "groups": self.groups}
        weights = self._weights_config("kernel", "bias")
        return {**super().get_config(), **own, **self._window_config(), **weights}


class Conv1D(BaseConv):
    """Convolution of `(batch, steps, channels)`; arguments as for `Conv2D`."""

    rank = 1
    paddings = ("valid", "same", "causal")


class Conv2D(BaseConv):
    __doc__ = BaseConv.__doc__
    rank = 2


class Conv3D(BaseConv):
    """Convolution of volumes; arguments as for `Conv2D`."""

    rank = 3


class BaseDepthwiseConv(_Convolution):
    """Every channel convolved with `depth_multiplier` filters of its own.

    Parameters
    ----------
    kernel_size, strides, padding, data_format, dilation_rate
        As for `Conv2D`.
    depth_multiplier : int
    activation, use_bias
        As for `Conv2D`.
    depthwise_initializer, depthwise_regularizer, depthwise_constraint
        For the weight `kernel` of shape `(*kernel_size, channels, depth_multiplier)`.
    bias_initializer, bias_regularizer, bias_constraint, activity_regularizer
        As for `Conv2D`.
    """

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.depth_multiplier = positive(self, "depth_multiplier", depth_multiplier)
        self._set_window(kernel_size, strides, padding, data_format, dilation_rate)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self._describe_weight("depthwise", depthwise_initializer, depthwise_regularizer,
                              depthwise_constraint)  # fmt: skip
        self._describe_weight("bias", bias_initializer, bias_regularizer, bias_constraint)

    def build(self, input_shape: Any) -> None:
        channels = self._channels(input_shape)
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        self.kernel = self._make_weight("depthwise", shape, called="kernel")
        wide = channels * self.depth_multiplier
        self.bias = self._make_weight("bias", (wide,)) if self.use_bias else None

    def call(self, inputs: Any) -> Any:
        x = ops.depthwise_conv(inputs, self.kernel, self.strides, self.padding, self.data_format,
                               self.dilation_rate)  # fmt: skip
        return self._finish(x)

    def get_config(self) -> dict[str, Any]:
        own = {"depth_multiplier": self.depth_multiplier}
        weights = self._weights_config("depthwise", "bias")
        return {**super().get_config(), **own, **self._window_config(), **weights}


class DepthwiseConv1D(BaseDepthwiseConv):
    """Depthwise convolution of `(batch, steps, channels)`; arguments as for `DepthwiseConv2D`."""

    rank = 1


class DepthwiseConv2D(BaseDepthwiseConv):
    __doc__ = BaseDepthwiseConv.__doc__
    rank = 2


class BaseSeparableConv(_Convolution):
    """A depthwise convolution, then one of window 1 that mixes the channels.

    Parameters
    ----------
    filters, kernel_size, strides, padding, data_format, dilation_rate
        As for `Conv2D`.
    depth_multiplier : int
    activation, use_bias
        As for `Conv2D`.
    depthwise_initializer, pointwise_initializer, bias_initializer : str or callable
        For `depthwise_kernel`, `pointwise_kernel` and `bias`; regularizers and constraints alike.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters = positive(self, "filters", filters)
        self.depth_multiplier = positive(self, "depth_multiplier", depth_multiplier)
        self._set_window(kernel_size, strides, padding, data_format, dilation_rate)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self._describe_weight("depthwise", depthwise_initializer, depthwise_regularizer,
                              depthwise_constraint)  # fmt: skip
        self._describe_weight("pointwise", pointwise_initializer, pointwise_regularizer,
                              pointwise_constraint)  # fmt: skip
        self._describe_weight("bias", bias_initializer, bias_regularizer, bias_constraint)

    def build(self, input_shape: Any) -> None:
        channels = self._channels(input_shape)
        wide = channels * self.depth_multiplier
        depthwise = (*self.kernel_size, channels, self.depth_multiplier)
        pointwise = (*(1,) * self.rank, wide, self.filters)
        self.depthwise_kernel = self._make_weight("depthwise", depthwise, called="depthwise_kernel")
        self.pointwise_kernel = self._make_weight("pointwise", pointwise, called="pointwise_kernel")
        self.bias = self._make_weight("bias", (self.filters,)) if self.use_bias else None

    def call(self, inputs: Any) -> Any:
        x = ops.separable_conv(inputs, self.depthwise_kernel, self.pointwise_kernel, self.strides,
                               self.padding, self.data_format, self.dilation_rate)  # fmt: skip
        return self._finish(x)

    def get_config(self) -> dict[str, Any]:
        own = {"filters": self.filters, "depth_multiplier": self.depth_multiplier}
        weights = self._weights_config("depthwise", "pointwise", "bias")
        return {**super().get_config(), **own, **self._window_config(), **weights}


class SeparableConv1D(BaseSeparableConv):
    """Separable convolution of `(batch, steps, channels)`; see `SeparableConv2D`."""

    rank = 1


class SeparableConv2D(BaseSeparableConv):
    __doc__ = BaseSeparableConv.__doc__
    rank = 2


Convolution1D, Convolution2D, Convolution3D = Conv1D, Conv2D, Conv3D
SeparableConvolution1D, SeparableConvolution2D = SeparableConv1D, SeparableConv2D
