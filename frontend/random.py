"""Random numbers that are the same on every backend: all come from `rng_bits`.

Where the keys come from, and why no number comes twice, stands in `seeds.py`. The bits are equal
on all backends; numbers that are computed from them differ by rounding only. Samplers that
reject (`rejection.py`) compare such numbers, so that of a million elements one or so may be
another legal draw on another backend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..ir import sugar
from ..ir.errors import ArgumentError, DTypeError
from ..ir.graph import Value
from ..ir.op import get as _op
from ..ir.types import DType, Size, as_dtype, f32, i32, i64, u32
from .config import floatx
from .operation import operation
from .operators import is_number
from .ops.core import floating, tensor
from .rejection import beta_ratio, binomial_count, broadcast, gamma_logarithm
from .seeds import (
    SeedGenerator,
    bits,
    draw_key,
    fold_in,
    global_seed_generator,
    in_round,
    make_default_seed,
    set_random_seed,
    split,
)
from .uniform import positive_of_words, standard_normal, unit


def _float_dtype(name: str, dtype: Any) -> DType:
    found = as_dtype(dtype or floatx())
    if not found.is_float:
        raise DTypeError(
            f"{name}: dtype must be floating point, got {found}",
            hint="randint draws integers" if found.is_integer else "",
        )
    return found


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
    found = unit(draw_key(seed), tuple(shape), _float_dtype("uniform", dtype))
    if is_number(minval) and is_number(maxval) and (minval, maxval) == (0, 1):
        return found
    return found * (maxval - minval) + minval


@operation
def normal(
    shape: Sequence[Size],
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = None,
    seed: Any = None,
) -> Any:
    """Normally distributed numbers; arguments as for `uniform`."""
    dtype = _float_dtype("normal", dtype)
    return standard_normal(draw_key(seed), tuple(shape), dtype, math.inf) * stddev + mean


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
    return standard_normal(draw_key(seed), tuple(shape), dtype, 2.0) * stddev + mean


@operation
def randint(
    shape: Sequence[Size], minval: Any, maxval: Any, dtype: Any = "int32", seed: Any = None
) -> Any:
    """Integers in [minval, maxval); `minval` where that is empty.

    Each is made of 64 bits, so that none is likelier than another by more than one in 2**32.

    Parameters
    ----------
    shape : sequence of int
    minval, maxval : int or tensor
        In the range of int32.
    dtype : str
        An integer type.
    seed
        As for `uniform`.
    """
    found = as_dtype(dtype)
    if not found.is_integer:
        raise DTypeError(f"randint: dtype must be an integer type, got {found}")
    low, high = (_bound(x) for x in (minval, maxval))
    span = sugar.cast(sugar.cast(high - low, u32), i64)  # the difference wraps around
    span = sugar.select(high > low, span, 1)
    words = sugar.cast(bits(draw_key(seed), (2, *shape)), i64)
    carried = _remainder(words[0], span) * _remainder(sugar.value(1 << 32, i64), span)
    offset = _remainder(carried + _remainder(words[1], span), span)
    return sugar.cast(offset + sugar.cast(low, i64), found)


def _bound(x: Any) -> Value:
    if is_number(x) and not -(1 << 31) <= x < 1 << 31:
        raise ArgumentError(f"randint: minval and maxval must be in the range of int32, got {x}")
    return sugar.cast(tensor(x), i32)


def _remainder(x: Value, y: Value) -> Value:
    return sugar.binary("remainder", x, y)


@operation
def bernoulli(shape: Sequence[Size], probability: Any = 0.5, seed: Any = None) -> Any:
    """True with the given probability."""
    return unit(draw_key(seed), tuple(shape), f32) < probability


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
    logits = sugar.cast(logits, f32) if logits.dtype.bits < 32 else logits
    words = bits(draw_key(seed), (batch, num_samples, classes))
    gumbel = -sugar.unary("log", -sugar.unary("log", positive_of_words(words, logits.dtype)))
    scores = sugar.reshape(logits, (batch, 1, classes)) + gumbel
    return sugar.cast(_op("argmax")(scores, axis=2), as_dtype(dtype))


# --- gamma, beta, binomial -------------------------------------------------------------------


@operation
def gamma(shape: Sequence[Size], alpha: Any, dtype: Any = None, seed: Any = None) -> Any:
    """Gamma-distributed numbers with scale 1, differentiable by `alpha`.

    Parameters
    ----------
    shape : sequence of int
    alpha : float or tensor
        Positive; broadcast to `shape`.
    dtype, seed
        As for `uniform`.
    """
    dtype = _float_dtype("gamma", dtype)
    (alpha,) = broadcast("gamma", shape, _wide(dtype), alpha)
    return sugar.cast(sugar.unary("exp", gamma_logarithm(draw_key(seed), alpha)), dtype)


@operation
def beta(shape: Sequence[Size], alpha: Any, beta: Any, dtype: Any = None, seed: Any = None) -> Any:
    """Beta-distributed numbers in [0, 1], differentiable by the parameters.

    Parameters
    ----------
    shape : sequence of int
    alpha, beta : float or tensor
        Positive; broadcast to `shape`.
    dtype, seed
        As for `uniform`.
    """
    dtype = _float_dtype("beta", dtype)
    alpha, beta = broadcast("beta", shape, _wide(dtype), alpha, beta)
    return sugar.cast(beta_ratio(draw_key(seed), alpha, beta), dtype)


@operation
def binomial(
    shape: Sequence[Size], counts: Any, probabilities: Any, dtype: Any = None, seed: Any = None
) -> Any:
    """How many of `counts` trials succeed, in floating point.

    Parameters
    ----------
    shape : sequence of int
    counts : int or tensor
        Below 2**24 exact in float32.
    probabilities : float or tensor
        In [0, 1]; broadcast to `shape` as `counts` is.
    dtype, seed
        As for `uniform`.
    """
    dtype = _float_dtype("binomial", dtype)
    n, p = broadcast("binomial", shape, _wide(dtype), counts, probabilities)
    return sugar.cast(binomial_count(draw_key(seed), n, p), dtype)


def _wide(dtype: DType) -> DType:
    """The dtype that samplers compute in."""
    return f32 if dtype.bits < 32 else dtype


# --- order -----------------------------------------------------------------------------------


@operation
def shuffle(x: Any, axis: int = 0, seed: Any = None) -> Any:
    """`x` with its elements in random order along `axis`.

    Each line along the axis has an order of its own, as in Keras on JAX; `permutation` keeps
    slices together.
    """
    x = tensor(x)
    axis = sugar.normalize_axis("shuffle", axis, x.ndim)
    order = _random_order(draw_key(seed), x.shape, axis)
    return x if order is None else _op("take_along")(x, order, axis=axis)


@operation
def permutation(x: Any, axis: int = 0, seed: Any = None) -> Any:
    """The slices of `x` along `axis` in random order; for an int, of the numbers below it."""
    x = _op("iota")(shape=(x,), axis=0, dtype=i32) if is_number(x) else tensor(x)
    axis = sugar.normalize_axis("permutation", axis, x.ndim)
    order = _random_order(draw_key(seed), (x.shape[axis],), 0)
    return x if order is None else _op("gather")(x, order, axis=axis)


def _random_order(key: Value, shape: Sequence[Size], axis: int) -> Value | None:
    """Indices along an axis in random order; None where there is only one.

    Sorting by random words is fair as far as these differ; rounds of it make what equal ones
    leave unfair rarer than one order in the cube of the size.
    """
    size = shape[axis]
    if 0 in shape or size == 1:
        return None
    rounds = 2 if not isinstance(size, int) or size > 1 << 10 else 1
    order: Value | None = None
    for number in range(rounds):
        words = sugar.binary("shift_right", bits(in_round(key, number), shape),
                             sugar.value(1, u32))  # fmt: skip
        found = _op("argsort")(sugar.cast(words, i32), axis=axis, descending=False)
        order = found if order is None else _op("take_along")(order, found, axis=axis)
    return order


__all__ = [
    "SeedGenerator", "bernoulli", "beta", "binomial", "categorical", "dropout", "fold_in", "gamma",
    "global_seed_generator", "make_default_seed", "normal", "permutation", "randint",
    "set_random_seed", "shuffle", "split", "truncated_normal", "uniform",
]  # fmt: skip
