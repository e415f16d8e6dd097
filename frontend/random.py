"""Random numbers that are the same on every backend: all come from `rng_bits`.

A key is two u32 words (seed, counter). A `SeedGenerator` holds one as a variable and counts up
with every draw, so a compiled training step carries its own randomness from step to step.
"""

from __future__ import annotations

import math
import random as _python_random
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import sugar
from ..ir.errors import ArgumentError, DTypeError
from ..ir.graph import Value
from ..ir.op import get as _op
from ..ir.types import DType, Size, as_dtype, bf16, f16, f32, i32, u32
from . import naming
from .config import floatx
from .operation import operation
from .ops.core import floating, tensor
from .variable import Variable

_MASK = 0xFFFFFFFF


class _Defaults:
    """Where seeds come from that nobody chose."""

    def __init__(self) -> None:
        self.seeds = np.random.default_rng()
        self.generator: SeedGenerator | None = None


_defaults = _Defaults()


def make_default_seed() -> int:
    """A seed for something that was given none; `set_random_seed` makes these repeatable."""
    return int(_defaults.seeds.integers(1, 10**9))


def set_random_seed(seed: int) -> None:
    """Make every later draw repeatable: ours, Python's `random` and NumPy's global generator.

    Parameters
    ----------
    seed : int
        In [0, 2**32).

    Raises
    ------
    ArgumentError
        If it is no such integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _MASK:
        raise ArgumentError(f"set_random_seed: seed must be an int in [0, 2**32), got {seed!r}")
    _python_random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - Keras seeds the global generator that users draw from
    _defaults.seeds = np.random.default_rng(seed)
    _defaults.generator = SeedGenerator(seed)


def global_seed_generator() -> SeedGenerator:
    """The generator of draws that name no seed."""
    if _defaults.generator is None:
        _defaults.generator = SeedGenerator()
    return _defaults.generator


class SeedGenerator:
    """A source of keys that never gives the same one twice.

    Parameters
    ----------
    seed : int, optional
        A random one by default.
    name : str, optional

    Attributes
    ----------
    state : Variable
        u32[2]: the seed and the number of keys given.
    """

    def __init__(self, seed: int | None = None, name: str | None = None, **kwargs: Any) -> None:
        if kwargs:
            raise ArgumentError(f"SeedGenerator: unknown arguments {', '.join(kwargs)}")
        if seed is None:
            seed = make_default_seed()
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise ArgumentError(f"SeedGenerator: seed must be an int, got {seed!r}")
        self.name = name or naming.auto_name("seed_generator")
        self._initial_seed = int(seed)
        start = np.array([self._initial_seed & _MASK, 0], np.uint32)
        with naming.name_scope(self.name):
            self.state = Variable(start, trainable=False, name="seed_generator_state")

    @property
    def seed(self) -> int:
        """The seed that this generator started from."""
        return self._initial_seed

    @operation
    def next(self, ordered: bool = True) -> Any:
        """The current key; the state counts up by one."""
        key = tensor(self.state)
        self.state.assign(sugar.binary("add", key, sugar.value(np.array([0, 1], np.uint32))))
        return key

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"seed": self._initial_seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SeedGenerator:
        return cls(**config)


def draw_key(seed: Any = None) -> Value:
    """The key for one draw: from a generator, from an int (always the same), or global."""
    if seed is None:
        seed = global_seed_generator()
    if isinstance(seed, SeedGenerator):
        return seed.next()
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        return sugar.value(np.array([int(seed) & _MASK, 0], np.uint32))
    key = tensor(seed)
    if key.type != u32(2):
        raise ArgumentError(
            f"random: seed must be an int, a SeedGenerator or a key u32[2], got {key.type}"
        )
    return key


def _bits(shape: Sequence[Size], seed: Any) -> Value:
    return _op("rng_bits")(draw_key(seed), shape=tuple(shape))


def _float_dtype(name: str, dtype: Any) -> DType:
    found = as_dtype(dtype or floatx())
    if not found.is_float:
        raise DTypeError(
            f"{name}: dtype must be floating point, got {found}",
            hint="randint draws integers" if found.is_integer else "",
        )
    return found


def _unit(shape: Sequence[Size], dtype: DType, seed: Any) -> Value:
    """Uniform numbers in [0, 1): the upper bits, as many as the dtype holds exactly."""
    precision = {f16: 11, bf16: 8}.get(dtype, 24)
    kept = sugar.binary("shift_right", _bits(shape, seed), sugar.value(32 - precision, u32))
    return sugar.cast(kept, dtype) * 2.0**-precision


@operation
def uniform(
    shape: Sequence[Size],
    minval: Any = 0.0,
    maxval: Any = 1.0,
    dtype: Any = None,
    seed: Any = None,
) -> Any:
    """Uniform numbers in [minval, maxval).

    Parameters
    ----------
    shape : sequence of int
    minval, maxval : float
    dtype : str, optional
        A floating-point type; `floatx()` by default.
    seed : int, SeedGenerator or key, optional
        An int gives the same numbers every time.

    Returns
    -------
    tensor
    """
    unit = _unit(shape, _float_dtype("uniform", dtype), seed)
    if (minval, maxval) == (0.0, 1.0):
        return unit
    return unit * (maxval - minval) + minval


def _erfinv(x: Value) -> Value:
    """The inverse of erf on (-1, 1); M. Giles, Approximating the erfinv function (2010)."""
    w = -sugar.unary("log1p", -(x * x))
    near = _polynomial(w - 2.5, (
        2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
        -0.00125372503, -0.00417768164, 0.246640727, 1.50140941))  # fmt: skip
    far = _polynomial(sugar.unary("sqrt", w) - 3.0, (
        -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
        -0.0076224613, 0.00943887047, 1.00167406, 2.83297682))  # fmt: skip
    return sugar.select(w < 5.0, near, far) * x


def _polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's scheme, highest power first."""
    total: Any = coefficients[0]
    for c in coefficients[1:]:
        total = x * total + c
    return total


def _standard_normal(shape: Sequence[Size], dtype: DType, seed: Any, limit: float) -> Value:
    """Normal numbers within `limit` standard deviations, by inverting the distribution."""
    wide = f32 if dtype.bits < 32 else dtype
    odd = _unit(shape, wide, seed) * 2.0 + (2.0**-24 - 1.0)  # exact, symmetric, never -1 or 1
    scale = math.erf(limit / math.sqrt(2)) if math.isfinite(limit) else 1.0
    return sugar.cast(_erfinv(odd * scale) * math.sqrt(2), dtype)


@operation
def normal(
    shape: Sequence[Size],
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = None,
    seed: Any = None,
) -> Any:
    """Normally distributed numbers; arguments as for `uniform`."""
    return _standard_normal(shape, _float_dtype("normal", dtype), seed, math.inf) * stddev + mean


@operation
def truncated_normal(
    shape: Sequence[Size],
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = None,
    seed: Any = None,
) -> Any:
    """Normally distributed numbers, none further than two `stddev` from `mean`."""
    dtype = _float_dtype("truncated_normal", dtype)
    return _standard_normal(shape, dtype, seed, 2.0) * stddev + mean


@operation
def randint(
    shape: Sequence[Size], minval: Any, maxval: Any, dtype: Any = "int32", seed: Any = None
) -> Any:
    """Integers in [minval, maxval), uniform up to `(maxval - minval) / 2**32`."""
    found = as_dtype(dtype)
    if not found.is_integer:
        raise DTypeError(f"randint: dtype must be an integer type, got {found}")
    span = sugar.cast(sugar.value(maxval, i32) - sugar.value(minval, i32), u32)
    offset = sugar.cast(sugar.binary("remainder", _bits(shape, seed), span), found)
    return offset + sugar.value(minval, found)


@operation
def bernoulli(shape: Sequence[Size], probability: Any = 0.5, seed: Any = None) -> Any:
    """True with the given probability."""
    return _unit(shape, f32, seed) < probability


@operation
def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
    """Set a share `rate` of the elements to 0 and scale the rest to keep the expected sum.

    Parameters
    ----------
    inputs : tensor
        Floating point.
    rate : float
        In [0, 1].
    noise_shape : sequence of int or None, optional
        The shape of the mask, which is broadcast; None entries mean the size of `inputs`.
    seed : int, SeedGenerator or key, optional
    """
    x = tensor(inputs)
    _check_rate("dropout", rate)
    if not x.dtype.is_float:
        raise DTypeError(f"dropout: inputs must be floating point, got {x.type}")
    if rate == 0:
        return x
    shape = x.shape
    if noise_shape is not None:
        noise_shape = tuple(noise_shape)
        if len(noise_shape) != x.ndim:
            raise ArgumentError(
                f"dropout: noise_shape must have {x.ndim} entries for {x.type}, got {noise_shape}"
            )
        shape = tuple(d if n is None else n for n, d in zip(noise_shape, x.shape, strict=True))
    kept = bernoulli(shape, 1.0 - rate, seed)
    scale = 1.0 / (1.0 - rate) if rate < 1 else 0.0
    return sugar.select(kept, x * scale, 0)


def _check_rate(name: str, rate: Any) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise ArgumentError(f"{name}: rate must be a number in [0, 1], got {rate!r}")


@operation
def categorical(logits: Any, num_samples: int, dtype: Any = "int32", seed: Any = None) -> Any:
    """Draw classes from unnormalized log probabilities `[batch, classes]`, by the Gumbel trick."""
    logits = floating(logits)
    if logits.ndim != 2:
        raise ArgumentError(f"categorical: logits must be f32[batch, classes], got {logits.type}")
    batch, classes = logits.shape
    unit = _unit((batch, num_samples, classes), logits.dtype, seed) + 2.0**-25
    gumbel = -sugar.unary("log", -sugar.unary("log", unit))
    scores = sugar.reshape(logits, (batch, 1, classes)) + gumbel
    return sugar.cast(_op("argmax")(scores, axis=2), as_dtype(dtype))
