"""How weights start, by Keras' definitions; always evaluated at once, on the host.

Numbers come from `random`, so one seed gives the same weights on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.builder import EagerBuilder
from ..ir.errors import ArgumentError, ShapeError
from ..ir.types import as_dtype
from . import random
from .config import floatx
from .identifiers import Catalogue

CATALOGUE = Catalogue("initializer", "keras.initializers")


class Initializer:
    """Base class: a callable from a shape to an array."""

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Initializer:
        return cls(**config)

    def clone(self) -> Initializer:
        """An initializer of the same arguments."""
        return self.from_config(self.get_config())


def _numpy_dtype(dtype: Any) -> np.dtype:
    return as_dtype(dtype or floatx()).numpy


@CATALOGUE.add("zero")
class Zeros(Initializer):
    """All 0."""

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        return np.zeros(tuple(shape), _numpy_dtype(dtype))


@CATALOGUE.add("one")
class Ones(Initializer):
    """All 1."""

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        return np.ones(tuple(shape), _numpy_dtype(dtype))


@CATALOGUE.add()
class Constant(Initializer):
    """All `value`, a number or an array that broadcasts to the shape."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        array = np.asarray(self.value).astype(_numpy_dtype(dtype))
        return np.broadcast_to(array, tuple(shape)).copy()

    def get_config(self) -> dict[str, Any]:
        value = self.value.tolist() if isinstance(self.value, np.ndarray) else self.value
        return {"value": value}


@CATALOGUE.add("IdentityInitializer")
class Identity(Initializer):
    """A matrix with `gain` on its diagonal and 0 elsewhere."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        if len(shape) != 2:
            raise ShapeError(f"identity: shape must have rank 2, got {list(shape)}")
        return np.asarray(self.gain * np.eye(*shape)).astype(_numpy_dtype(dtype))

    def get_config(self) -> dict[str, Any]:
        return {"gain": self.gain}


class RandomInitializer(Initializer):
    """Base class of those that draw; the same object draws the same numbers every time.

    Parameters
    ----------
    seed : int or SeedGenerator, optional
        A random int by default. A generator gives other numbers at every call.
    """

    def __init__(self, seed: Any = None) -> None:
        self._init_seed = seed
        if seed is None:
            seed = random.make_default_seed()
        elif isinstance(seed, dict):
            seed = random.SeedGenerator.from_config(seed.get("config", seed))
        elif isinstance(seed, bool) or not isinstance(seed, int | random.SeedGenerator):
            raise ArgumentError(
                f"{type(self).__name__}: seed must be an int or a SeedGenerator, got {seed!r}"
            )
        self.seed = seed

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        with EagerBuilder():  # at once, even while a model is being traced
            return np.asarray(self.draw(tuple(shape), as_dtype(dtype or floatx())))

    def draw(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """The numbers."""
        raise NotImplementedError(f"{type(self).__name__} must define draw or __call__")

    def get_config(self) -> dict[str, Any]:
        seed = self._init_seed
        if isinstance(seed, random.SeedGenerator):
            seed = {"class_name": "SeedGenerator", "config": seed.get_config()}
        return {"seed": seed}


@CATALOGUE.add("normal")
class RandomNormal(RandomInitializer):
    """Normal numbers."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: Any = None) -> None:
        super().__init__(seed)
        self.mean = mean
        self.stddev = stddev

    def draw(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return random.normal(shape, self.mean, self.stddev, dtype, self.seed)

    def get_config(self) -> dict[str, Any]:
        return {"mean": self.mean, "stddev": self.stddev, **super().get_config()}


@CATALOGUE.add()
class TruncatedNormal(RandomNormal):
    """Normal numbers, none further than two standard deviations from the mean."""

    def draw(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return random.truncated_normal(shape, self.mean, self.stddev, dtype, self.seed)


@CATALOGUE.add("uniform")
class RandomUniform(RandomInitializer):
    """Uniform numbers in [minval, maxval)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: Any = None) -> None:
        super().__init__(seed)
        self.minval = minval
        self.maxval = maxval

    def draw(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return random.uniform(shape, self.minval, self.maxval, dtype, self.seed)

    def get_config(self) -> dict[str, Any]:
        return {"minval": self.minval, "maxval": self.maxval, **super().get_config()}


_STD_OF_TRUNCATED = 0.87962566103423978  # of a standard normal cut at -2 and 2
_MODES = ("fan_in", "fan_out", "fan_avg")
_DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")


@CATALOGUE.add()
class VarianceScaling(RandomInitializer):
    """Random numbers of variance `scale / fan`.

    Parameters
    ----------
    scale : float
        Greater than 0.
    mode : str
        Which fan: `fan_in`, `fan_out` or `fan_avg`.
    distribution : str
        `truncated_normal`, `untruncated_normal` or `uniform`.
    seed : int or SeedGenerator, optional
    input_axes, output_axes : sequence of int, optional
        Which axes count as inputs and outputs; the last two by default, the rest is a window.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: Any = None,
        input_axes: Any = None,
        output_axes: Any = None,
    ) -> None:
        super().__init__(seed)
        if not scale > 0:
            raise ArgumentError(f"VarianceScaling: scale must be > 0, got {scale!r}")
        if str(mode).lower() not in _MODES:
            raise ArgumentError(
                f"VarianceScaling: mode must be one of {', '.join(_MODES)}, got {mode!r}"
            )
        distribution = str(distribution).lower()
        if distribution not in _DISTRIBUTIONS:
            raise ArgumentError(
                "VarianceScaling: distribution must be one of "
                f"{', '.join(_DISTRIBUTIONS)}, got {distribution!r}"
            )
        self.scale = scale
        self.mode = str(mode).lower()
        self.distribution = distribution
        self.input_axes = input_axes
        self.output_axes = output_axes

    def draw(self, shape: tuple[int, ...], dtype: Any) -> Any:
        fan_in, fan_out = compute_fans(shape, self.input_axes, self.output_axes)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        if self.distribution == "uniform":
            limit = math.sqrt(3.0 * variance)
            return random.uniform(shape, -limit, limit, dtype, self.seed)
        if self.distribution == "untruncated_normal":
            return random.normal(shape, 0.0, math.sqrt(variance), dtype, self.seed)
        stddev = math.sqrt(variance) / _STD_OF_TRUNCATED
        return random.truncated_normal(shape, 0.0, stddev, dtype, self.seed)

    def get_config(self) -> dict[str, Any]:
        return {
            "scale": self.scale, "mode": self.mode, "distribution": self.distribution,
            **super().get_config(),
            "input_axes": self.input_axes, "output_axes": self.output_axes,
        }  # fmt: skip


def compute_fans(
    shape: Sequence[int], input_axes: Any = None, output_axes: Any = None
) -> tuple[int, int]:
    """The numbers of inputs and outputs that one weight of this shape connects.

    >>> compute_fans((3, 3, 16, 32))
    (144, 288)
    """
    rank = len(shape)
    if input_axes is None and output_axes is None:
        if rank < 2:
            fan = int(shape[0]) if shape else 1
            return fan, fan
        inputs, outputs = (rank - 2,), (rank - 1,)
    else:
        inputs, outputs = _axes(input_axes, rank), _axes(output_axes, rank)
    size = lambda axes: math.prod(int(shape[a]) for a in axes)  # noqa: E731
    window = size(set(range(rank)) - set(inputs) - set(outputs))
    return size(inputs) * window, size(outputs) * window


def _axes(axes: Any, rank: int) -> tuple[int, ...]:
    if axes is None:
        raise ArgumentError("initializer: input_axes and output_axes must be given together")
    return tuple(a % rank for a in ([axes] if isinstance(axes, int) else axes))


class _Preset(VarianceScaling):
    """A `VarianceScaling` with a name; subclasses fix scale, mode and distribution."""

    preset: tuple[float, str, str]

    def __init__(self, seed: Any = None, input_axes: Any = None, output_axes: Any = None) -> None:
        super().__init__(*self.preset, seed, input_axes, output_axes)

    def get_config(self) -> dict[str, Any]:
        axes = {"input_axes": self.input_axes, "output_axes": self.output_axes}
        return {**RandomInitializer.get_config(self), **axes}


@CATALOGUE.add()
class GlorotUniform(_Preset):
    """Uniform of variance `2 / (fan_in + fan_out)`; Glorot and Bengio, 2010."""

    preset = (1.0, "fan_avg", "uniform")


@CATALOGUE.add()
class GlorotNormal(_Preset):
    """Truncated normal of variance `2 / (fan_in + fan_out)`; Glorot and Bengio, 2010."""

    preset = (1.0, "fan_avg", "truncated_normal")


@CATALOGUE.add()
class HeUniform(_Preset):
    """Uniform of variance `2 / fan_in`; He et al., 2015."""

    preset = (2.0, "fan_in", "uniform")


@CATALOGUE.add()
class HeNormal(_Preset):
    """Truncated normal of variance `2 / fan_in`; He et al., 2015."""

    preset = (2.0, "fan_in", "truncated_normal")


@CATALOGUE.add()
class LecunUniform(_Preset):
    """Uniform of variance `1 / fan_in`; Klambauer et al., 2017."""

    preset = (1.0, "fan_in", "uniform")


@CATALOGUE.add()
class LecunNormal(_Preset):
    """Truncated normal of variance `1 / fan_in`; Klambauer et al., 2017."""

    preset = (1.0, "fan_in", "truncated_normal")


@CATALOGUE.add("OrthogonalInitializer")
class Orthogonal(RandomInitializer):
    """Orthonormal rows or columns, whichever are fewer; Saxe et al., 2014.

    A shape of higher rank is seen as a matrix of `prod(shape[:-1])` rows.
    """

    def __init__(self, gain: float = 1.0, seed: Any = None) -> None:
        super().__init__(seed)
        self.gain = gain

    def draw(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if len(shape) < 2:
            raise ShapeError(f"orthogonal: shape must have rank 2 or more, got {list(shape)}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = (max(rows, columns), min(rows, columns))
        numbers = np.asarray(random.normal(tall, dtype="float32", seed=self.seed))
        q, r = np.linalg.qr(numbers.astype(np.float64))
        q *= np.sign(np.diag(r))  # without it the distribution is not uniform
        q = q.T if rows < columns else q
        return (self.gain * q.reshape(shape)).astype(dtype.numpy)

    def get_config(self) -> dict[str, Any]:
        return {"gain": self.gain, **super().get_config()}


zeros, ones, constant, identity = Zeros, Ones, Constant, Identity
random_normal, random_uniform, truncated_normal = RandomNormal, RandomUniform, TruncatedNormal
variance_scaling, orthogonal = VarianceScaling, Orthogonal
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal


def get(identifier: Any) -> Any:
    """An initializer from its name, config, class, an array (a constant) or itself."""
    if isinstance(identifier, np.ndarray):
        return Constant(identifier)
    return CATALOGUE.get(identifier)


serialize = CATALOGUE.serialize
deserialize = CATALOGUE.deserialize
