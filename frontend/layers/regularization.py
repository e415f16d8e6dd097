"""Layers that only act in training, and those that add a loss."""

from __future__ import annotations

import math
from typing import Any

from ...ir.errors import ArgumentError
from .. import ops, random, regularizers
from ..config import standardize_data_format
from .input_spec import InputSpec
from .layer import Layer


class _RandomLayer(Layer):
    """A layer that changes its inputs by chance in training, and not at all otherwise."""

    def __init__(self, seed: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = random.SeedGenerator(seed, name=self.name)
        self.supports_masking = True
        self.built = True


def _rate(layer: Layer, rate: Any) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise ArgumentError(f"layer {layer.name!r}: rate must be a number in [0, 1], got {rate!r}")
    return rate


class Dropout(_RandomLayer):
    """In training, sets a share `rate` of the inputs to 0 and divides the rest by `1 - rate`.

    Parameters
    ----------
    rate : float
        In [0, 1].
    noise_shape : sequence of int or None, optional
        The shape of the mask, which is broadcast; None entries mean the size of the inputs.
    seed : int, optional
    """

    def __init__(
        self, rate: float, noise_shape: Any = None, seed: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(seed, **kwargs)
        self.rate = _rate(self, rate)
        self.noise_shape = noise_shape

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0:
            return inputs
        return random.dropout(inputs, self.rate, self._mask_shape(inputs), self.seed_generator)

    def _mask_shape(self, inputs: Any) -> Any:
        return self.noise_shape

    def get_config(self) -> dict[str, Any]:
        own = {"rate": self.rate, "seed": self.seed, "noise_shape": self.noise_shape}
        return {**super().get_config(), **own}


class _SpatialDropout(Dropout):
    """Drops whole channels."""

    rank = 0

    def __init__(
        self, rate: float, seed: Any = None, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(rate, seed=seed, name=name, dtype=dtype)
        self.data_format = "channels_last"
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def _mask_shape(self, inputs: Any) -> Any:
        ones = (1,) * self.rank
        first = self.data_format == "channels_first"
        return (None, None, *ones) if first else (None, *ones, None)

    def get_config(self) -> dict[str, Any]:
        config = Layer.get_config(self)
        own = {"rate": self.rate, "seed": self.seed, "name": self.name, "dtype": config["dtype"]}
        return own if self.rank == 1 else {**own, "data_format": self.data_format}


class SpatialDropout1D(_SpatialDropout):
    """Dropout of whole channels of `(batch, steps, channels)`."""

    rank = 1


class SpatialDropout2D(_SpatialDropout):
    """Dropout of whole channels of images."""

    rank = 2

    def __init__(
        self,
        rate: float,
        data_format: str | None = None,
        seed: Any = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(rate, seed, name, dtype)
        self.data_format = standardize_data_format(data_format)


class SpatialDropout3D(SpatialDropout2D):
    """Dropout of whole channels of volumes."""

    rank = 3


class GaussianNoise(_RandomLayer):
    """In training, adds normal noise of the given standard deviation."""

    def __init__(self, stddev: float, seed: Any = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        if not 0 <= stddev <= 1:
            raise ArgumentError(f"layer {self.name!r}: stddev must be in [0, 1], got {stddev!r}")
        self.stddev = stddev

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.stddev == 0:
            return inputs
        noise = random.normal(inputs.shape, 0.0, self.stddev, inputs.dtype, self.seed_generator)
        return ops.add(inputs, noise)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stddev": self.stddev, "seed": self.seed}


class GaussianDropout(_RandomLayer):
    """In training, multiplies by normal noise of mean 1 and variance `rate / (1 - rate)`."""

    def __init__(self, rate: float, seed: Any = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.rate = _rate(self, rate)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0:
            return inputs
        stddev = math.sqrt(self.rate / (1.0 - self.rate))
        noise = random.normal(inputs.shape, 1.0, stddev, inputs.dtype, self.seed_generator)
        return ops.multiply(inputs, noise)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


class ActivityRegularization(Layer):
    """The inputs themselves; adds `l1 * sum(|x|) + l2 * sum(x^2)` to the loss."""

    def __init__(self, l1: float = 0.0, l2: float = 0.0, **kwargs: Any) -> None:
        super().__init__(activity_regularizer=regularizers.L1L2(l1=l1, l2=l2), **kwargs)
        self.l1 = l1
        self.l2 = l2
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        return inputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "l1": self.l1, "l2": self.l2}
