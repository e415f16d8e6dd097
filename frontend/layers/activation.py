"""Activations that are layers of their own."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ArgumentError
from .. import activations, ops
from .input_spec import InputSpec
from .layer import Layer
from .weights import WeightedLayer


class _Elementwise(Layer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.built = True

    def _not_negative(self, name: str, value: Any) -> Any:
        if value is None or value < 0:
            raise ArgumentError(f"layer {self.name!r}: {name} must be >= 0, got {value!r}")
        return value


class ReLU(_Elementwise):
    """`x` above `threshold`, `negative_slope * (x - threshold)` below, at most `max_value`."""

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_value = None if max_value is None else self._not_negative("max_value", max_value)
        self.negative_slope = self._not_negative("negative_slope", negative_slope)
        self.threshold = self._not_negative("threshold", threshold)

    def call(self, inputs: Any) -> Any:
        return activations.relu(inputs, self.negative_slope, self.max_value, self.threshold)

    def get_config(self) -> dict[str, Any]:
        own = {"max_value": self.max_value, "negative_slope": self.negative_slope,
               "threshold": self.threshold}  # fmt: skip
        return {**super().get_config(), **own}


class LeakyReLU(_Elementwise):
    """`x` where it is positive, `negative_slope * x` elsewhere."""

    def __init__(self, negative_slope: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.negative_slope = self._not_negative("negative_slope", negative_slope)

    def call(self, inputs: Any) -> Any:
        return activations.leaky_relu(inputs, negative_slope=self.negative_slope)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "negative_slope": self.negative_slope}


class ELU(_Elementwise):
    """`x` where it is positive, `alpha * (exp(x) - 1)` elsewhere."""

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def call(self, inputs: Any) -> Any:
        return activations.elu(inputs, alpha=self.alpha)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}


class PReLU(WeightedLayer):
    """`x` where it is positive, `alpha * x` elsewhere, with a learned `alpha`.

    Parameters
    ----------
    alpha_initializer, alpha_regularizer, alpha_constraint
    shared_axes : sequence of int, optional
        Axes along which `alpha` is one number; they count from 1.
    """

    def __init__(
        self,
        alpha_initializer: Any = "Zeros",
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._describe_weight("alpha", alpha_initializer, alpha_regularizer, alpha_constraint)
        self.shared_axes = [shared_axes] if isinstance(shared_axes, int) else shared_axes
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        shape = list(input_shape)[1:]
        for axis in self.shared_axes or ():
            shape[axis - 1] = 1
        self.alpha = self._make_weight("alpha", shape)
        sizes = {i: d for i, d in enumerate(shape, 1) if d != 1}
        self.input_spec = InputSpec(ndim=len(input_shape), axes=sizes)

    def call(self, inputs: Any) -> Any:
        below = ops.multiply(ops.relu(ops.negative(inputs)), self.alpha)
        return ops.subtract(ops.relu(inputs), below)

    def get_config(self) -> dict[str, Any]:
        shared = {"shared_axes": self.shared_axes}
        return {**super().get_config(), **self._weights_config("alpha"), **shared}


class Softmax(_Elementwise):
    """Exponentials divided by their sum along `axis`; where `mask` is false, 0."""

    def __init__(self, axis: Any = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if mask is not None:
            low = -3e4 if self.compute_dtype == "float16" else -1e9
            inputs = ops.add(inputs, ops.multiply(1.0 - ops.cast(mask, inputs.dtype), low))
        return ops.softmax(inputs, axis=self.axis)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
