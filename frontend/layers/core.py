"""Dense, and the layers without weights that stand between others."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ...ir.errors import ArgumentError, ShapeError
from .. import activations, ops, regularizers
from ..masks import set_mask
from .input_spec import InputSpec
from .layer import Layer
from .weights import WeightedLayer


class Dense(WeightedLayer):
    """`activation(inputs @ kernel + bias)` over the last axis.

    Parameters
    ----------
    units : int
        The size of the last axis of the output.
    activation : str or callable, optional
    use_bias : bool
    kernel_initializer, bias_initializer : str or callable
    kernel_regularizer, bias_regularizer, activity_regularizer : str or callable, optional
    kernel_constraint, bias_constraint : str or callable, optional

    Examples
    --------
    >>> Dense(3)(np.ones((2, 5), np.float32)).shape
    (2, 3)
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        require_none(self, lora_rank=lora_rank, quantization_config=quantization_config)
        self.units = positive(self, "units", units)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self._describe_weight("kernel", kernel_initializer, kernel_regularizer, kernel_constraint)
        self._describe_weight("bias", bias_initializer, bias_regularizer, bias_constraint)
        self.input_spec = InputSpec(min_ndim=2)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        features = fixed_size(self, input_shape, -1)
        self.kernel = self._make_weight("kernel", (features, self.units))
        self.bias = self._make_weight("bias", (self.units,)) if self.use_bias else None
        self.input_spec = InputSpec(min_ndim=2, axes={-1: features})

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = ops.matmul(inputs, self.kernel)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return self.activation(x)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            **self._weights_config("kernel", "bias"),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
        }


def require_none(layer: Layer, **arguments: Any) -> None:
    """Refuse arguments of Keras that Hornfels has other ways for, or none."""
    for name, value in arguments.items():
        if value is not None:
            raise ArgumentError(f"layer {layer.name!r}: {name} must be None, got {value!r}")


def positive(layer: Layer, name: str, value: Any) -> int:
    """A positive int, or an error that names the layer."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ArgumentError(f"layer {layer.name!r}: {name} must be a positive int, got {value!r}")
    return value


def number(layer: Layer, name: str, value: Any) -> float:
    """A float, or an error that names the layer."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"layer {layer.name!r}: {name} must be a number, got {value!r}"
        ) from None


def fixed_size(layer: Layer, shape: Any, axis: int) -> int:
    """The size of an axis that weights depend on."""
    if len(shape) < abs(axis) or shape[axis] is None:
        raise ShapeError(
            f"layer {layer.name!r}: axis {axis} of the input must have a fixed size, "
            f"got shape {tuple(shape)}",
            hint="weights depend on it: give it to Input, or reduce or move that axis before",
        )
    return int(shape[axis])


class Activation(Layer):
    """An activation function as a layer."""

    def __init__(self, activation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activations.get(activation)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.activation(inputs)

    def get_config(self) -> dict[str, Any]:
        own = {"activation": activations.serialize(self.activation)}
        return {**super().get_config(), **own}


class Identity(Layer):
    """The inputs themselves."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        return inputs

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


class Masking(Layer):
    """The inputs, whose steps of nothing but `mask_value` are masked, and 0.

    Parameters
    ----------
    mask_value : float
    """

    def __init__(self, mask_value: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_value = mask_value
        self.supports_masking = True
        self.built = True

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return ops.any(ops.not_equal(inputs, self.mask_value), axis=-1)

    def call(self, inputs: Any) -> Any:
        mask = self.compute_mask(inputs)
        outputs = ops.where(ops.expand_dims(mask, -1), inputs, 0)
        set_mask(outputs, mask)
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mask_value": self.mask_value}


class Lambda(Layer):
    """A function as a layer.

    Parameters
    ----------
    function : callable
        Of the inputs, over `ops`; may also take `mask` and `training`.
    output_shape : ignored
        The shape is found by running the function on shapes.
    mask : callable or tensor, optional
        The mask of the output, or `mask(inputs, mask)` -> that mask.
    arguments : dict, optional
        Further keyword arguments of the function.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        output_shape: Any = None,
        mask: Any = None,
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.function = function
        self.mask = mask
        self.supports_masking = mask is not None
        self.arguments = dict(arguments or {})
        self.built = True

    def call(self, inputs: Any, mask: Any = None, training: bool | None = None) -> Any:
        takes = inspect.signature(self.function).parameters
        given = {"mask": mask, "training": training}
        given = {name: value for name, value in given.items() if name in takes}
        return self.function(inputs, **self.arguments, **given)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return self.mask(inputs, mask) if callable(self.mask) else self.mask


class Rescaling(Layer):
    """`inputs * scale + offset`.

    Parameters
    ----------
    scale, offset : float or sequence of float
        One number, or one for each channel.
    """

    def __init__(self, scale: Any, offset: Any = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.offset = offset
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = ops.cast(inputs, self.compute_dtype)
        scale, offset = (
            v if isinstance(v, int | float) else ops.convert_to_tensor(v, self.compute_dtype)
            for v in (self.scale, self.offset)
        )
        return ops.add(ops.multiply(x, scale), offset)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "offset": self.offset}
