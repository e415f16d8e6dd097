"""Sorting and running totals against JAX: NaN, ties, zeros, directions, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from hornfels.ir import REGISTRY, Builder, evaluate, gradients
from hornfels.ir.types import type_of

SPECIAL = np.asarray(
    [[3.0, np.nan, -1.0, 3.0, np.inf, -np.inf, 0.0], [2.0, 2.0, -0.0, 0.0, 2.0, np.nan, -5.0]],
    np.float32,
)


def gradient_of(op: Callable[..., Any], x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The derivative of the weighted sum of what `op` makes of `x`."""
    with Builder() as b:
        v = b.input("x", type_of(x))
        (g,) = gradients((op(v) * weights).sum(), [v])
        assert g is not None
        graph = b.finish({"g": g})
    return evaluate(graph, {"x": x}).outputs["g"]


def weights_like(x: Any) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_order_is_that_of_jax(axis: int, descending: bool) -> None:
    attrs = {"axis": axis, "descending": descending}
    (values,) = REGISTRY["sort"].evaluate(SPECIAL, **attrs)
    np.testing.assert_array_equal(values, jnp.sort(SPECIAL, axis=axis, descending=descending))
    (order,) = REGISTRY["argsort"].evaluate(SPECIAL, **attrs)
    expected = jnp.argsort(SPECIAL, axis=axis, stable=True, descending=descending)
    np.testing.assert_array_equal(order, expected)


def test_unsigned_integers_descend_without_a_minus() -> None:
    x = np.asarray([0, 255, 3, 0, 128], np.uint8)
    (order,) = REGISTRY["argsort"].evaluate(x, axis=0, descending=True)
    assert order.tolist() == [1, 4, 2, 0, 3]


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_is_that_of_jax(k: int) -> None:
    x = SPECIAL + 0.0  # JAX puts 0.0 above -0.0 here, though not where it sorts
    values, indices = REGISTRY["top_k"].evaluate(x, k=k)
    expected = lax.top_k(x, k)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(indices, expected[1])


def test_gradients_of_order_go_to_where_the_elements_came_from() -> None:
    """Ties included: equal elements keep their order."""
    x = np.asarray([[2.0, 1.0, 2.0, 0.5, 1.0]], np.float32)
    w = weights_like(x)
    got = gradient_of(lambda v: REGISTRY["sort"](v, axis=1, descending=False), x, w)
    np.testing.assert_array_equal(got, jax.grad(lambda v: (jnp.sort(v, axis=1) * w).sum())(x))
    w = w[:, :3]
    got = gradient_of(lambda v: REGISTRY["top_k"].all(v, k=3)[0], x, w)
    np.testing.assert_array_equal(got, jax.grad(lambda v: (lax.top_k(v, 3)[0] * w).sum())(x))


# --- running totals --------------------------------------------------------------------------

TOTALS = {"cumsum": lax.cumsum, "cumprod": lax.cumprod, "cummax": lax.cummax, "cummin": lax.cummin}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", TOTALS)
def test_totals_and_gradients_are_those_of_jax(name: str, reverse: bool) -> None:
    """With zeros, alone and several in a line, and with elements that are equal to another."""
    x = np.asarray(
        [[1.5, 0.0, -2.0, 3.0, 0.5], [0.0, 2.0, 0.0, 1.0, -1.0], [2.0, 1.0, 2.0, -3.0, -3.0]],
        np.float32,
    )
    reference = TOTALS[name]
    (got,) = REGISTRY[name].evaluate(x, axis=1, reverse=reverse)
    np.testing.assert_allclose(got, reference(x, axis=1, reverse=reverse), rtol=1e-6)
    w = weights_like(x)
    found = gradient_of(lambda v: REGISTRY[name](v, axis=1, reverse=reverse), x, w)
    wanted = jax.grad(lambda v: (reference(v, axis=1, reverse=reverse) * w).sum())(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_nan_wins_running_extrema() -> None:
    x = np.asarray([1.0, np.nan, 3.0], np.float32)
    for name in ("cummax", "cummin"):
        (got,) = REGISTRY[name].evaluate(x, axis=0, reverse=False)
        np.testing.assert_array_equal(got, [1.0, np.nan, np.nan])


def test_integers_wrap_around() -> None:
    x = np.asarray([100, 100, 100], np.int8)
    assert REGISTRY["cumsum"].evaluate(x, axis=0, reverse=False)[0].tolist() == [100, -56, 44]
    assert REGISTRY["cumprod"].evaluate(x, axis=0, reverse=False)[0].tolist() == [100, 16, 64]


def test_recurrence_is_an_exponential_average() -> None:
    a, b = np.full((4,), 0.5, np.float32), np.asarray([1, 0, 0, 8], np.float32)
    (got,) = REGISTRY["linear_recurrence"].evaluate(a, b, axis=0, reverse=False)
    assert got.tolist() == [1.0, 0.5, 0.25, 8.125]
    (got,) = REGISTRY["linear_recurrence"].evaluate(a, b, axis=0, reverse=True)
    assert got.tolist() == [2.0, 2.0, 4.0, 8.0]
