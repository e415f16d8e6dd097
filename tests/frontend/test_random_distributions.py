"""Distributions of the random numbers against SciPy's, and their derivatives against JAX's."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from hornfels.errors import ArgumentError, DTypeError, ShapeError
from hornfels.frontend import random

SIZE = 20_000
LEVEL = 1e-4
"""Seeds are fixed, so that a test passes always or never."""


CONTINUOUS = {
    "uniform": (lambda **o: random.uniform((SIZE,), -2.0, 3.0, **o), stats.uniform(-2, 5)),
    "normal": (lambda **o: random.normal((SIZE,), 1.0, 2.0, **o), stats.norm(1, 2)),
    "truncated": (lambda **o: random.truncated_normal((SIZE,), **o), stats.truncnorm(-2, 2)),
    **{f"gamma-{a}": (lambda a=a, **o: random.gamma((SIZE,), a, **o), stats.gamma(a))
       for a in (0.3, 1.0, 2.5, 30.0, 1e5)},
    **{f"beta-{a}-{b}": (lambda a=a, b=b, **o: random.beta((SIZE,), a, b, **o), stats.beta(a, b))
       for a, b in ((0.7, 0.9), (1.0, 1.0), (2.0, 5.0), (200.0, 3.0))},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous(name, dtype):
    draw, distribution = CONTINUOUS[name]
    numbers = draw(dtype=dtype, seed=17)
    assert numbers.dtype == dtype
    assert numbers.shape == (SIZE,)
    assert stats.kstest(numbers.astype(np.float64), distribution.cdf).pvalue > LEVEL
    mean, variance = distribution.stats("mv")
    assert numbers.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / SIZE))
    assert numbers.var() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize(
    ("count", "probability"),
    [(1, 0.5), (5, 0.1), (20, 0.3), (20, 0.9), (40, 0.25), (1000, 0.02), (1000, 0.7), (10**6, 0.4)],
)
def test_binomial(count, probability):
    numbers = random.binomial((SIZE,), count, probability, seed=3)
    distribution = stats.binom(count, probability)
    edges = np.unique(distribution.ppf(np.linspace(0, 1, 30)[1:-1]))
    bins = np.concatenate([[-1], edges, [count]])
    expected = np.diff(distribution.cdf(bins)) * SIZE
    found, _ = np.histogram(numbers, bins=np.append(bins[:-1], count) + 0.5)
    kept = expected > 5
    share = expected[kept] * found[kept].sum() / expected[kept].sum()
    assert kept.sum() < 2 or stats.chisquare(found[kept], share).pvalue > LEVEL
    assert found[kept].sum() > 0.99 * SIZE
    assert (numbers == np.floor(numbers)).all()


@pytest.mark.parametrize(
    ("low", "high"), [(0, 3 << 29), (-(1 << 31), (1 << 31) - 1), (5, 105), (-3, -2), (4, 4)]
)
def test_randint_is_uniform_over_any_range(low, high):
    numbers = random.randint((SIZE,), low, high, dtype="int64", seed=21)
    assert numbers.dtype == np.int64
    assert numbers.min() >= low
    assert numbers.max() < max(high, low + 1)
    if high - low > 1:
        found, _ = np.histogram(numbers, np.linspace(low, high, 21))
        assert stats.chisquare(found).pvalue > LEVEL


def test_randint_takes_bounds_of_int32():
    with pytest.raises(ArgumentError, match="range of int32, got 1099511627776"):
        random.randint((3,), 0, 1 << 40, dtype="int64")
    bounds = np.array([1, 10, 100], np.int32)
    numbers = random.randint((500, 3), 0, bounds, seed=1)
    np.testing.assert_array_equal(numbers.max(0) < bounds, True)
    assert (numbers.max(0) > bounds // 2 - 1).all()


def test_parameters_at_the_edges():
    nan, inf = np.nan, np.inf
    alpha = np.array([-1, 0, inf, nan], np.float32)
    np.testing.assert_array_equal(random.gamma((4,), alpha, seed=1), [nan, 0, inf, nan])
    counts = np.array([-1, 0, 5, 5, nan, 5], np.float32)
    chances = np.array([0.5, 0.5, 0, 1, 0.5, 1.5], np.float32)
    found = random.binomial((6,), counts, chances, seed=1)
    np.testing.assert_array_equal(found, [nan, 0, 0, 5, nan, nan])
    assert random.gamma((0, 3), 2.0, seed=1).shape == (0, 3)


def test_parameters_broadcast_to_the_shape():
    alpha = np.array([[0.5], [50.0]], np.float32)
    numbers = random.gamma((2, 5000), alpha, seed=2)
    np.testing.assert_allclose(numbers.mean(1), [0.5, 50], rtol=0.05)
    assert random.beta((2, 3), alpha, 1.0, dtype="float16", seed=2).dtype == np.float16
    with pytest.raises(ShapeError, match="gamma: shapes must broadcast"):
        random.gamma((3, 5), alpha, seed=2)
    with pytest.raises(DTypeError, match="must be floating point, got i32"):
        random.binomial((3,), 5, 0.5, dtype="int32", seed=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gamma_is_differentiable_by_its_shape_parameter(dtype, differentiate):
    alpha = np.repeat([0.05, 0.5, 1.0, 1.5, 3.0, 30.0, 1000.0], 8).astype(dtype)
    name = np.dtype(dtype).name
    value, (slope,) = differentiate(
        lambda a: random.gamma(a.shape, a, dtype=name, seed=3) / (1 + 0.1 * (np.arange(56) % 17)),
        [alpha],
    )
    z = value * (1 + 0.1 * (np.arange(56) % 17))
    wanted = np.asarray(jax.lax.random_gamma_grad(alpha.astype(np.float32), z.astype(np.float32)))
    np.testing.assert_allclose(slope, wanted, rtol=2e-3, atol=1e-30)


def test_derivatives_of_beta_are_those_of_its_mean(differentiate):
    alpha, beta = np.full(SIZE, 1.5, np.float32), np.full(SIZE, 3.0, np.float32)
    weight = 1 + 0.1 * (np.arange(SIZE) % 17)
    _, (da, db) = differentiate(lambda a, b: random.beta((SIZE,), a, b, seed=8) / weight,
                                [alpha, beta])  # fmt: skip
    assert da.mean() == pytest.approx(3.0 / 4.5**2, rel=0.05)
    assert db.mean() == pytest.approx(-1.5 / 4.5**2, rel=0.05)


def test_shuffled_lines_have_orders_of_their_own():
    x = np.arange(60).reshape(6, 10)
    for axis in (0, 1, -1):
        found = random.shuffle(x, axis=axis, seed=4)
        np.testing.assert_array_equal(np.sort(found, axis), x)
        orders = np.argsort(found, axis).swapaxes(axis, -1)
        assert len({tuple(order) for order in orders.reshape(-1, x.shape[axis])}) > 4
    assert random.shuffle(np.zeros((0, 3)), seed=4).shape == (0, 3)


def test_permutation_keeps_slices_together_and_is_fair():
    x = np.arange(20).reshape(5, 4)
    found = random.permutation(x, seed=4)
    np.testing.assert_array_equal(found[np.argsort(found[:, 0])], x)
    np.testing.assert_array_equal(np.sort(random.permutation(3000, seed=4)), np.arange(3000))
    lines = np.broadcast_to(np.arange(4), (24_000, 4))
    orders = random.shuffle(lines, axis=1, seed=9) @ (4 ** np.arange(4))
    _, counts = np.unique(orders, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > LEVEL


def test_categorical_of_many_draws():
    logits = np.log(np.array([[0.05, 0.15, 0.8]], np.float32))
    counts = np.bincount(random.categorical(logits, SIZE, seed=2)[0], minlength=3)
    assert stats.chisquare(counts, SIZE * np.exp(logits[0].astype(np.float64))).pvalue > LEVEL
