"""Gamma, beta and binomial numbers, which are proposed and rejected until they are right.

All elements are proposed at once, round after round, until the last one was accepted. A number of
a gamma distribution is differentiable by its shape parameter, implicitly: what keeps the
distribution's value at it constant (Figurnov, Mohamed, Mnih, Implicit reparameterization
gradients, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import sugar
from ..ir.builder import constant
from ..ir.graph import Value
from ..ir.op import get as _op
from ..ir.types import DType, Size, f64, i32
from .ops.autodiff import custom_gradient
from .ops.control import while_loop
from .ops.core import tensor
from .seeds import ROUNDS, bits, in_round
from .uniform import normal_of_words, positive_of_words


def _any(x: Value) -> Value:
    return sugar.reduce("reduce_any", x) if x.ndim else x


def _until_accepted(key: Value, propose: Any, done: Value, first: Value) -> Value:
    """Rounds of `propose(words) -> (accepted, value)` with two words an element, until `done`."""

    def step(number: Any, done: Any, value: Any) -> Any:
        words = bits(in_round(key, number), (2, *done.shape))
        accepted, proposed = propose(words[0], words[1])
        chosen = sugar.select(~done & accepted, proposed, value)
        return number + 1, done | accepted, chosen

    start = (sugar.value(1, i32), done, first)
    _, _, found = while_loop(
        lambda number, done, value: _any(~done), step, start, maximum_iterations=ROUNDS
    )
    return tensor(found)


# --- gamma -----------------------------------------------------------------------------------


def gamma_logarithm(key: Value, alpha: Value) -> Value:
    """Logarithms of gamma numbers with shape parameters `alpha` and scale 1.

    Below 1 the number for `alpha + 1` is multiplied by `u^(1 / alpha)`, which may be too small for
    anything but its logarithm. NaN for negative `alpha`.
    """

    @custom_gradient
    def draw(alpha: Any) -> Any:
        alpha = tensor(alpha)
        found = _marsaglia_tsang(key, alpha)
        return found, lambda upstream: upstream * _gamma_slope(alpha, found)

    return tensor(draw(alpha))


def _marsaglia_tsang(key: Value, alpha: Value) -> Value:
    """Marsaglia and Tsang, A simple method for generating gamma variables (2000): `d (1 + c x)^3`
    for normal x, accepted with a probability of 95 % and more."""
    dtype = alpha.dtype
    legal = (alpha > 0) & (alpha < math.inf)
    is_small = alpha < 1
    d = sugar.select(legal, sugar.select(is_small, alpha + 1, alpha), 1) - 1 / 3
    c = 1.0 / sugar.unary("sqrt", d * 9.0)

    def propose(words: Value, others: Value) -> tuple[Value, Value]:
        x, u = normal_of_words(words, dtype), positive_of_words(others, dtype)
        y = c * x
        inside = y > -1
        y = sugar.select(inside, y, 0)
        logarithm = sugar.unary("log1p", y)
        # 1 - v + log v for v = (1 + y)^3, without the terms that cancel
        bound = x * x * 0.5 + d * ((logarithm - y) * 3.0 - y * y * (y + 3.0))
        return inside & (sugar.unary("log", u) < bound), logarithm * 3.0

    found = _until_accepted(key, propose, ~legal, sugar.zeros_like(alpha))
    boost = sugar.unary("log", positive_of_words(bits(key, alpha.shape), dtype))
    found = found + sugar.unary("log", d)
    found = sugar.select(is_small, found + boost / sugar.select(legal, alpha, 1), found)
    edge = sugar.select(alpha >= 0, sugar.select(alpha > 0, math.inf, -math.inf), math.nan)
    return sugar.select(legal, found, sugar.cast(edge, dtype))


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def _gamma_slope(alpha: Value, logarithm: Value) -> Value:
    """The derivative of `log z` by `alpha`: minus the integral of `log t - psi(alpha)` over the
    density up to z, relative to the density at z.

    With `t = z e^-s` it is one over s from 0, or with `t = z e^s` its opposite over what lies
    above z; the side is taken on which the density falls, up to where it is next to nothing.
    """
    alpha, logarithm = (sugar.reshape(v, (*v.shape, 1)) for v in (alpha, logarithm))
    z = sugar.unary("exp", logarithm)
    is_lower = z <= alpha
    end = 40.0 if alpha.dtype == f64 else 20.0
    gap = sugar.unary("abs", alpha - z)
    low = end - gap * 2.0
    lower = (low + sugar.unary("sqrt", low * low + alpha * (8.0 * end))) / (alpha * 2.0)
    upper = 2.0 * end / (gap + sugar.unary("sqrt", gap * gap + z * (2.0 * end)))
    limit = sugar.select(is_lower, lower, upper)
    s = limit * constant((_NODES + 1) / 2, alpha.dtype)
    signed = sugar.select(is_lower, -s, s)
    fall = gap * s + z * (sugar.unary("expm1", signed) - signed)
    integrand = (logarithm + signed - digamma(alpha)) * sugar.unary("exp", -fall)
    total = sugar.reduce("reduce_sum", integrand * constant(_WEIGHTS / 2, alpha.dtype), -1)
    area = total * sugar.reshape(limit, limit.shape[:-1])
    return sugar.select(sugar.reshape(is_lower, area.shape), -area, area)


def digamma(x: Value) -> Value:
    """The derivative of the logarithm of the gamma function, for positive `x`: eight steps up,
    then Stirling's series."""
    shift: Any = 0.0
    for i in range(8):
        shift = 1.0 / (x + float(i)) + shift
    y = x + 8.0
    r = 1.0 / (y * y)
    series = r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240))))
    return sugar.unary("log", y) - 0.5 / y - series - shift


def beta_ratio(key: Value, alpha: Value, beta: Value) -> Value:
    """`x / (x + y)` for gamma numbers x and y, by their logarithms."""
    pair = _op("concat")(*(sugar.reshape(v, (1, *v.shape)) for v in (alpha, beta)), axis=0)
    drawn = gamma_logarithm(key, pair)
    return sugar.unary("sigmoid", drawn[0] - drawn[1])


# --- binomial --------------------------------------------------------------------------------


def binomial_count(key: Value, count: Value, probability: Value) -> Value:
    """Numbers of successes: by adding up probabilities where fewer than 10 are expected, else by
    rejection. NaN where `count` is negative or `probability` outside of [0, 1]."""
    count = sugar.unary("floor", count)
    legal = (count >= 0) & (count < math.inf) & (probability >= 0) & (probability <= 1)
    n = sugar.select(legal, count, 0)
    flipped = probability > 0.5
    p = sugar.select(legal, sugar.select(flipped, 1.0 - probability, probability), 0)
    is_large = n * p >= 10
    few = _binomial_by_sum(key, sugar.select(is_large, 0, n), p)
    many = _binomial_by_rejection(key, n, p, is_large)
    found = sugar.select(is_large, many, few)
    return sugar.select(legal, sugar.select(flipped, n - found, found), math.nan)


def _binomial_by_sum(key: Value, n: Value, p: Value) -> Value:
    """The first k at which the distribution exceeds a uniform number."""
    u = positive_of_words(bits(key, n.shape), n.dtype)
    odds = p / (1.0 - p)
    first = sugar.unary("exp", n * sugar.unary("log1p", -p))

    def below(k: Value, total: Value) -> Value:
        return (u >= total) & (k < n)

    def step(k: Any, density: Any, total: Any) -> Any:
        active = below(k, total)
        following = density * odds * (n - k) / (k + 1.0)
        return (
            sugar.select(active, k + 1.0, k),
            sugar.select(active, following, density),
            sugar.select(active, total + following, total),
        )

    start = (sugar.zeros_like(n), first, first)
    k, *_ = while_loop(
        lambda k, density, total: _any(below(k, total)), step, start, maximum_iterations=ROUNDS
    )
    return tensor(k)


def _stirling_rest(k: Value) -> Value:
    """`log k! - (k log k - k)`; from a table below 10."""
    exact = [math.lgamma(j + 1) - (j * math.log(j) if j else 0) + j for j in range(10)]
    large = sugar.binary("maximum", k, 10)
    r = 1.0 / large
    series = r * (1 / 12 - r * r * (1 / 360 - r * r * (1 / 1260)))
    series = series + sugar.unary("log", large * (2 * math.pi)) * 0.5
    place = sugar.cast(sugar.binary("minimum", sugar.binary("maximum", k, 0), 9), i32)
    return sugar.select(k < 10, _op("gather")(constant(exact, k.dtype), place, axis=0), series)


def _deviance(difference: Value, expected: Value) -> Value:
    """`x log(x / m) + m - x` for `x = m + difference`, without what cancels."""
    e = difference / expected
    inside = sugar.select(e > -1, e, 0)
    share = (inside + 1.0) * sugar.unary("log1p", inside) - inside
    return expected * sugar.select(e > -1, share, 1)


def _log_mass(k: Value, n: Value, p: Value) -> Value:
    """Logarithm of the probability of k successes, but for what does not depend on k; by
    Loader, Fast and accurate computation of binomial probabilities (2000)."""
    expected = n * p
    difference = k - expected
    deviance = _deviance(difference, expected) + _deviance(-difference, n - expected)
    return -(deviance + _stirling_rest(k) + _stirling_rest(n - k))


def _binomial_by_rejection(key: Value, n: Value, p: Value, wanted: Value) -> Value:
    """Hörmann, The generation of binomial random variates (1993), algorithm BTRS, for
    `n p >= 10` and `p <= 1/2`."""
    dtype = n.dtype
    n, p = sugar.select(wanted, n, 40), sugar.select(wanted, p, 0.5)
    deviation = sugar.unary("sqrt", n * p * (1.0 - p))
    b = deviation * 2.53 + 1.15
    a = b * 0.0248 + p * 0.01 - 0.0873
    alpha = (2.83 + 5.1 / b) * deviation
    mode = sugar.unary("floor", (n + 1.0) * p)
    top = _log_mass(mode, n, p)

    def propose(words: Value, others: Value) -> tuple[Value, Value]:
        u = positive_of_words(words, dtype) - 0.5
        v = positive_of_words(others, dtype)
        edge = 0.5 - sugar.unary("abs", u)
        k = sugar.unary("floor", (a * 2.0 / edge + b) * u + n * p + 0.5)
        inside = (k >= 0) & (k <= n)
        k = sugar.select(inside, k, mode)
        height = sugar.unary("log", v * alpha / (a / (edge * edge) + b))
        at_once = (edge >= 0.07) & (v <= 0.92 - 4.2 / b)
        return inside & (at_once | (height <= _log_mass(k, n, p) - top)), k

    return _until_accepted(key, propose, ~wanted, mode)


def broadcast(name: str, shape: Sequence[Size], dtype: DType, *parameters: Any) -> list[Value]:
    """Parameters in the shape of the result, in f32 or f64."""
    found = []
    for x in parameters:
        value = tensor(x, dtype)
        sugar.broadcast_shapes(tuple(shape), value.shape, name=name)
        found.append(sugar.broadcast_to(value, tuple(shape)))
    return found


__all__ = ["beta_ratio", "binomial_count", "broadcast", "digamma", "gamma_logarithm"]
