"""Transposed convolutions of one, two and three spatial axes."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ArgumentError
from .. import activations, ops
from .conv import _Convolution
from .core import positive


class BaseConvTranspose(_Convolution):
    """The transpose of a convolution, which makes images larger by its strides.

    Parameters
    ----------
    filters : int
        The number of output channels.
    kernel_size, strides, dilation_rate : int or one for each spatial axis
    padding : str
        `same` makes sizes `size * stride`, `valid` more by what the window reaches over.
    output_padding : int or one for each spatial axis, optional
        Elements at the end of each axis, less than the stride, in place of those of `padding`.
    data_format : str, optional
        `channels_last` or `channels_first`.
    activation : str or callable, optional
    use_bias : bool
    kernel_initializer, bias_initializer : str or callable
    kernel_regularizer, bias_regularizer, activity_regularizer : str or callable, optional
    kernel_constraint, bias_constraint : str or callable, optional

    Notes
    -----
    Weights: `kernel` of shape `(*kernel_size, filters, channels)`, `bias` of shape `(filters,)`.
    """

    def _set_up(
        self, filters: int, kernel_size: Any, strides: Any, padding: str, output_padding: Any,
        data_format: Any, dilation_rate: Any, activation: Any, use_bias: bool, **weights: Any,
    ) -> None:  # fmt: skip
        self.filters = positive(self, "filters", filters)
        self._set_window(kernel_size, strides, padding, data_format, dilation_rate)
        self.output_padding = self._checked_output_padding(output_padding)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        for name in ("kernel", "bias"):
            parts = ("initializer", "regularizer", "constraint")
            self._describe_weight(name, *(weights[f"{name}_{part}"] for part in parts))

    def _checked_output_padding(self, given: Any) -> tuple[int, ...] | None:
        if given is None:
            return None
        values = tuple(given) if isinstance(given, list | tuple) else (given,) * self.rank
        fits = len(values) == self.rank and all(isinstance(v, int) for v in values)
        if not fits or any(not 0 <= v < s for v, s in zip(values, self.strides, strict=True)):
            raise ArgumentError(
                f"layer {self.name!r}: output_padding must be an int >= 0 or {self.rank} of them, "
                f"less than the strides {self.strides}, got {given!r}"
            )
        return values

    def build(self, input_shape: Any) -> None:
        channels = self._channels(input_shape)
        self.kernel = self._make_weight("kernel", (*self.kernel_size, self.filters, channels))
        self.bias = self._make_weight("bias", (self.filters,)) if self.use_bias else None

    def call(self, inputs: Any) -> Any:
        x = ops.conv_transpose(
            inputs, self.kernel, self.strides, self.padding, self.output_padding,
            self.data_format, self.dilation_rate,
        )  # fmt: skip
        return self._finish(x)

    def get_config(self) -> dict[str, Any]:
        own = {"filters": self.filters, "output_padding": self.output_padding}
        weights = self._weights_config("kernel", "bias")
        return {**super().get_config(), **own, **self._window_config(), **weights}


class Conv1DTranspose(BaseConvTranspose):
    """Transposed convolution of `(batch, steps, channels)`; see `Conv2DTranspose`."""

    rank = 1

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        output_padding: Any = None,
        data_format: str | None = None,
        dilation_rate: Any = 1,
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
        self._set_up(
            filters, kernel_size, strides, padding, output_padding, data_format, dilation_rate,
            activation, use_bias, kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer, kernel_constraint=kernel_constraint,
            bias_initializer=bias_initializer, bias_regularizer=bias_regularizer,
            bias_constraint=bias_constraint,
        )  # fmt: skip


class Conv2DTranspose(Conv1DTranspose):
    __doc__ = BaseConvTranspose.__doc__
    rank = 2


class Conv3DTranspose(BaseConvTranspose):
    """Transposed convolution of volumes; see `Conv2DTranspose`."""

    rank = 3

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        output_padding: Any = None,
        dilation_rate: Any = 1,
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
        self._set_up(
            filters, kernel_size, strides, padding, output_padding, data_format, dilation_rate,
            activation, use_bias, kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer, kernel_constraint=kernel_constraint,
            bias_initializer=bias_initializer, bias_regularizer=bias_regularizer,
            bias_constraint=bias_constraint,
        )  # fmt: skip


Convolution1DTranspose, Convolution2DTranspose = Conv1DTranspose, Conv2DTranspose
Convolution3DTranspose = Conv3DTranspose
