"""Layers that bring their inputs to mean 0 and variance 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.errors import ArgumentError, ShapeError
from ...ir.types import as_dtype, f32, promote
from .. import ops
from .core import fixed_size, number, positive
from .input_spec import InputSpec
from .layer import Layer
from .weights import WeightedLayer


def _wide_dtype(layer: Layer) -> Any:
    """Moments of half-precision inputs are computed in f32."""
    return promote(as_dtype(layer.compute_dtype), f32)


def _axis(layer: Layer, axis: Any, rank: int) -> int:
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise ShapeError(f"layer {layer.name!r}: the input of rank {rank} has no axis {axis!r}")
    return axis % rank


class _ScaledLayer(WeightedLayer):
    """A normalization followed by `* gamma + beta`, both optional and learned."""

    center: bool
    scale: bool

    def _make_scaling(self, shape: Sequence[int]) -> None:
        self.gamma = self._make_weight("gamma", shape) if self.scale else None
        self.beta = self._make_weight("beta", shape) if self.center else None

    def _scaling_config(self, *names: str) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in (*names, "epsilon", "center", "scale")}
        return {**Layer.get_config(self), **own, **self._weights_config("gamma", "beta")}


class BatchNormalization(_ScaledLayer):
    """Subtracts the mean over the batch and divides by the deviation, channel by channel.

    In training the batch's own moments are used, and moving averages of them are kept:
    `moving = moving * momentum + batch * (1 - momentum)`. Otherwise the averages are used.

    Parameters
    ----------
    axis : int
        Where the channels are.
    momentum : float
    epsilon : float
        Added to the variance.
    center, scale : bool
        Whether there are weights `beta`, added, and `gamma`, multiplied.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer
    beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint : optional

    Notes
    -----
    Weights: `gamma`, `beta`, `moving_mean`, `moving_variance`, each of the size of the axis.
    Ioffe and Szegedy, 2015.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: Any = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if renorm or synchronized:
            raise ArgumentError(
                f"layer {self.name!r}: renorm and synchronized must be False, "
                f"got {renorm} and {synchronized}"
            )
        self.axis = int(axis)
        self.momentum = number(self, "momentum", momentum)
        self.epsilon = number(self, "epsilon", epsilon)
        self.center = center
        self.scale = scale
        self._describe_weight("gamma", gamma_initializer, gamma_regularizer, gamma_constraint)
        self._describe_weight("beta", beta_initializer, beta_regularizer, beta_constraint)
        self._describe_weight("moving_mean", moving_mean_initializer)
        self._describe_weight("moving_variance", moving_variance_initializer)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        _axis(self, self.axis, len(input_shape))
        size = fixed_size(self, input_shape, self.axis)
        self._make_scaling((size,))
        self.moving_mean = self._make_weight("moving_mean", (size,), trainable=False)
        self.moving_variance = self._make_weight("moving_variance", (size,), trainable=False)
        self.input_spec = InputSpec(ndim=len(input_shape), axes={self.axis: size})

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        x = ops.cast(inputs, _wide_dtype(self))
        if training and self.trainable:
            mean, variance = self._moments(x, mask)
            self._average(self.moving_mean, mean)
            self._average(self.moving_variance, variance)
        else:
            mean, variance = (
                ops.cast(v, x.dtype) for v in (self.moving_mean, self.moving_variance)
            )
        weights = {"offset": self.beta, "scale": self.gamma}
        weights = {k: None if w is None else ops.cast(w, x.dtype) for k, w in weights.items()}
        y = ops.batch_normalization(x, mean, variance, self.axis, epsilon=self.epsilon, **weights)
        return ops.cast(y, self.compute_dtype)

    def _moments(self, x: Any, mask: Any) -> tuple[Any, Any]:
        """Mean and variance of each channel, over the elements that the mask keeps."""
        rank = len(x.shape)
        axes = [a for a in range(rank) if a != self.axis % rank]
        if mask is None:
            return ops.moments(x, axes)
        kept = ops.cast(mask, x.dtype)
        kept = ops.reshape(kept, (*kept.shape, *(1,) * (rank - len(kept.shape))))
        kept = ops.broadcast_to(kept, x.shape)
        count = ops.add(ops.sum(kept, axes, keepdims=True), 1e-7)
        mean = ops.divide(ops.sum(ops.multiply(x, kept), axes, keepdims=True), count)
        square = ops.multiply(ops.square(ops.subtract(x, mean)), kept)
        variance = ops.divide(ops.sum(square, axes, keepdims=True), count)
        return ops.squeeze(mean, axes), ops.squeeze(variance, axes)

    def _average(self, moving: Any, batch: Any) -> None:
        old = ops.cast(moving, batch.dtype)
        new = ops.add(ops.multiply(old, self.momentum), ops.multiply(batch, 1.0 - self.momentum))
        moving.assign(ops.cast(new, moving.type.dtype))

    def get_config(self) -> dict[str, Any]:
        moving = self._weights_config("moving_mean", "moving_variance")
        moving = {k: v for k, v in moving.items() if k.endswith("initializer")}
        own = {"momentum": self.momentum, "synchronized": False}
        return {**self._scaling_config("axis"), **moving, **own}


class LayerNormalization(_ScaledLayer):
    """Subtracts the mean of each sample over `axis` and divides by the deviation.

    Parameters
    ----------
    axis : int or sequence of int
    epsilon : float
        Added to the variance.
    center, scale : bool
        Whether there are weights `beta`, added, and `gamma`, multiplied.
    beta_initializer, gamma_initializer
    beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint : optional

    Notes
    -----
    Weights: `gamma`, `beta`, of the sizes of the axes. Ba, Kiros and Hinton, 2016.
    """

    def __init__(
        self,
        axis: Any = -1,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("rms_scaling", False):
            raise ArgumentError(
                "LayerNormalization: rms_scaling must be False, got True",
                hint="use RMSNormalization",
            )
        super().__init__(**kwargs)
        self.axis = axis if isinstance(axis, int) else list(axis)
        self.epsilon = number(self, "epsilon", epsilon)
        self.center = center
        self.scale = scale
        self._describe_weight("gamma", gamma_initializer, gamma_regularizer, gamma_constraint)
        self._describe_weight("beta", beta_initializer, beta_regularizer, beta_constraint)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        axes = [self.axis] if isinstance(self.axis, int) else self.axis
        self._axes = sorted(_axis(self, a, len(input_shape)) for a in axes)
        shape = [fixed_size(self, input_shape, a - len(input_shape)) for a in self._axes]
        self._make_scaling(shape)
        sizes = dict(zip(self._axes, shape, strict=True))
        self.input_spec = InputSpec(ndim=len(input_shape), axes=sizes)

    def call(self, inputs: Any) -> Any:
        y = ops.layer_normalization(ops.cast(inputs, _wide_dtype(self)), self.gamma, self.beta,
                                    self._axes, self.epsilon)  # fmt: skip
        return ops.cast(y, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return self._scaling_config("axis")


class RMSNormalization(WeightedLayer):
    """Divides by the root of the mean square over `axis`, times a weight `scale`."""

    def __init__(self, axis: Any = -1, epsilon: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.epsilon = number(self, "epsilon", epsilon)

    def build(self, input_shape: Any) -> None:
        axes = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        rank = len(input_shape)
        shape = [fixed_size(self, input_shape, _axis(self, a, rank) - rank) for a in axes]
        self.scale = self.add_weight(shape=tuple(shape), initializer="ones", name="scale")

    def call(self, inputs: Any) -> Any:
        return ops.rms_normalization(inputs, self.scale, self.axis, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis, "epsilon": self.epsilon}


class UnitNormalization(Layer):
    """Divides by the Euclidean length over `axis`."""

    def __init__(self, axis: Any = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        square = ops.sum(ops.square(inputs), axis=self.axis, keepdims=True)
        return ops.multiply(inputs, ops.rsqrt(ops.maximum(square, 1e-12)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


class GroupNormalization(_ScaledLayer):
    """Layer normalization within each of `groups` groups of channels; Wu and He, 2018.

    Parameters
    ----------
    groups : int
        -1 makes every channel a group of its own.
    axis : int
        Where the channels are.
    epsilon, center, scale, beta_*, gamma_*
        As for `BatchNormalization`.
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.groups = groups if groups == -1 else positive(self, "groups", groups)
        self.axis = int(axis)
        self.epsilon = number(self, "epsilon", epsilon)
        self.center = center
        self.scale = scale
        self._describe_weight("gamma", gamma_initializer, gamma_regularizer, gamma_constraint)
        self._describe_weight("beta", beta_initializer, beta_regularizer, beta_constraint)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        _axis(self, self.axis, len(input_shape))
        channels = fixed_size(self, input_shape, self.axis)
        self.groups = channels if self.groups == -1 else self.groups
        if channels % self.groups:
            raise ShapeError(
                f"layer {self.name!r}: the input's channels must be a multiple of groups "
                f"({self.groups}), got {channels}"
            )
        self._make_scaling((channels,))
        self.input_spec = InputSpec(ndim=len(input_shape), axes={self.axis: channels})

    def call(self, inputs: Any) -> Any:
        x = ops.moveaxis(ops.cast(inputs, _wide_dtype(self)), self.axis, -1)
        channels, spatial = x.shape[-1], range(1, len(x.shape) - 1)
        grouped = ops.reshape(x, (*x.shape[:-1], self.groups, channels // self.groups))
        axes = [*spatial, len(x.shape)]
        mean, variance = ops.moments(grouped, axes, keepdims=True)
        centred = ops.subtract(grouped, mean)
        y = ops.multiply(centred, ops.rsqrt(ops.add(variance, self.epsilon)))
        y = ops.reshape(y, x.shape)
        if self.gamma is not None:
            y = ops.multiply(y, ops.cast(self.gamma, x.dtype))
        if self.beta is not None:
            y = ops.add(y, ops.cast(self.beta, x.dtype))
        return ops.cast(ops.moveaxis(y, -1, self.axis), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return self._scaling_config("groups", "axis")
