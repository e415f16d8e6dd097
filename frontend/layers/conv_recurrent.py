"""Recurrent layers over sequences of images, whose products are convolutions."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ShapeError
from .. import activations, ops
from ..config import standardize_data_format
from .conv import _Convolution
from .core import fixed_size, positive
from .input_spec import InputSpec
from .recurrent import WEIGHTS, _CellLayer, _of_cell
from .recurrent_cells import DropoutCell, forget_bias


class ConvLSTMCell(DropoutCell, _Convolution):
    """`LSTMCell` on images: convolutions take the place of its matrix products.

    Parameters
    ----------
    rank : int
        The number of spatial axes.
    filters : int
        The channels of the two states `h`, which is the output, and `c`.
    kernel_size, strides, padding, data_format, dilation_rate
        Of the convolution of the inputs; that of the state has padding `same`.
    """

    gates = 4

    def __init__(
        self, rank: int, filters: int, kernel_size: Any, strides: Any, padding: str,
        data_format: Any, dilation_rate: Any, activation: Any, recurrent_activation: Any,
        use_bias: bool, unit_forget_bias: bool, dropout: float, recurrent_dropout: float,
        seed: Any, weights: dict[str, Any], **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.rank = rank
        self.filters = positive(self, "filters", filters)
        self._set_window(kernel_size, strides, padding, data_format, dilation_rate)
        self.activation = activations.get(activation)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.use_bias = use_bias
        self.unit_forget_bias = unit_forget_bias
        for name in ("kernel", "recurrent", "bias"):
            parts = ("initializer", "regularizer", "constraint")
            self._describe_weight(name, *(weights[f"{name}_{part}"] for part in parts))
        self._set_dropout(dropout, recurrent_dropout, seed)
        self.state_size = [self.filters, self.filters]

    def _mask_count(self) -> int:
        return self.gates

    def build(self, inputs_shape: Any, states_shape: Any = None) -> None:
        first = self.data_format == "channels_first"
        sides = inputs_shape[2:] if first else inputs_shape[1:-1]
        if None in sides:
            raise ShapeError(
                f"layer {self.name!r}: the sizes of images must be known, "
                f"got inputs of shape {tuple(inputs_shape)}"
            )
        channels = fixed_size(self, inputs_shape, 1 if first else -1)
        wide = 4 * self.filters
        self.kernel = self._make_weight("kernel", (*self.kernel_size, channels, wide))
        recurrent = (*self.kernel_size, self.filters, wide)
        self.recurrent_kernel = self._make_weight("recurrent", recurrent, called="recurrent_kernel")
        self.bias = None
        if self.use_bias:
            start = forget_bias(self, self.filters) if self.unit_forget_bias else None
            self.bias = self.add_weight(
                shape=(wide,), initializer=start or self.bias_initializer, name="bias",
                regularizer=self.bias_regularizer, constraint=self.bias_constraint,
            )  # fmt: skip
        self._image = tuple(inputs_shape[1:])

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Zeros of the shape of the outputs."""
        image = ops.zeros((1, *self._image), self.compute_dtype)
        shape = self._convolved(image, self.kernel[..., : self.filters]).shape[1:]
        return [ops.zeros((batch_size, *shape), self.compute_dtype) for _ in range(2)]

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        h, c = states
        dropped = self._dropped_now(inputs, h, training)
        x = self._dropped_product(self._convolved, inputs, self.kernel, dropped.inputs)
        channels = 1 if self.data_format == "channels_first" else -1
        if self.bias is not None:
            ones = (1,) * self.rank
            shape = (-1, *ones) if channels == 1 else (*ones, -1)
            x = ops.add(x, ops.reshape(self.bias, shape))
        inner = self._dropped_product(self._kept_size, h, self.recurrent_kernel, dropped.state)
        i, f, g, o = ops.split(ops.add(x, inner), 4, axis=channels)
        i, f, o = (self.recurrent_activation(v) for v in (i, f, o))
        c = ops.add(ops.multiply(f, c), ops.multiply(i, self.activation(g)))
        h = ops.multiply(o, self.activation(c))
        return h, [h, c]

    def _convolved(self, x: Any, kernel: Any) -> Any:
        return ops.conv(x, kernel, self.strides, self.padding, self.data_format, self.dilation_rate)

    def _kept_size(self, x: Any, kernel: Any) -> Any:
        return ops.conv(x, kernel, 1, "same", self.data_format)

    def _dropped_product(self, product: Any, x: Any, kernel: Any, factors: Any) -> Any:
        """A convolution, with elements of `x` dropped for each gate."""
        if factors is None:
            return product(x, kernel)
        parts = zip(factors, ops.split(kernel, 4, axis=-1), strict=True)
        found = [product(ops.multiply(x, factor), part) for factor, part in parts]
        return ops.concatenate(found, axis=1 if self.data_format == "channels_first" else -1)

    def get_config(self) -> dict[str, Any]:
        names = ("filters", "unit_forget_bias", "dropout", "recurrent_dropout", "seed")
        window = self._window_config()
        del window["activity_regularizer"]
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            **window,
            "recurrent_activation": activations.serialize(self.recurrent_activation),
            **self._weights_config("kernel", "recurrent", "bias"),
        }


@_of_cell("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate",
          "activation", "recurrent_activation", "use_bias", "unit_forget_bias", "dropout",
          "recurrent_dropout", "seed", *WEIGHTS)  # fmt: skip
class ConvLSTM(_CellLayer):
    """A convolutional LSTM over sequences of images; subclasses fix the spatial axes, `rank`.

    Parameters
    ----------
    filters : int
        The channels of states and outputs.
    kernel_size, strides, dilation_rate : int or one for each spatial axis
    padding : str
        `valid` or `same`.
    data_format : str, optional
        `channels_last`: `(batch, steps, *spatial, channels)`, or `channels_first`.
    activation, recurrent_activation, use_bias, kernel_*, recurrent_*, bias_*, unit_forget_bias,
    dropout, recurrent_dropout, seed, return_sequences, return_state, go_backwards, stateful
        As for `LSTM`.

    Notes
    -----
    Shi et al., 2015.
    """

    rank = 0

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: Any = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        **kwargs: Any,
    ) -> None:
        weights = {
            "kernel_initializer": kernel_initializer, "kernel_regularizer": kernel_regularizer,
            "kernel_constraint": kernel_constraint,
            "recurrent_initializer": recurrent_initializer,
            "recurrent_regularizer": recurrent_regularizer,
            "recurrent_constraint": recurrent_constraint, "bias_initializer": bias_initializer,
            "bias_regularizer": bias_regularizer, "bias_constraint": bias_constraint,
        }  # fmt: skip
        cell = ConvLSTMCell(
            self.rank, filters, kernel_size, strides, padding, standardize_data_format(data_format),
            dilation_rate, activation, recurrent_activation, use_bias, unit_forget_bias, dropout,
            recurrent_dropout, seed, weights, dtype=kwargs.get("dtype"), name="conv_lstm_cell",
            trainable=kwargs.get("trainable", True),
        )  # fmt: skip
        super().__init__(
            cell, return_sequences, return_state, go_backwards, stateful,
            activity_regularizer=activity_regularizer, **kwargs,
        )  # fmt: skip
        self.input_spec = InputSpec(ndim=self.rank + 3)


class ConvLSTM1D(ConvLSTM):
    """Convolutional LSTM over sequences of rows; see `ConvLSTM2D`."""

    rank = 1


class ConvLSTM2D(ConvLSTM):
    __doc__ = ConvLSTM.__doc__
    rank = 2


class ConvLSTM3D(ConvLSTM):
    """Convolutional LSTM over sequences of volumes; see `ConvLSTM2D`."""

    rank = 3
