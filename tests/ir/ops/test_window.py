"""Pooling against JAX's window reductions, ties, padding and symbolic batches."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from hornfels.ir import REGISTRY, Builder, gradients, symbol
from hornfels.ir.types import f32

N = symbol("N")


def geometry(
    rank: int, window: int, strides: int, padding: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    return {"window": (window,) * rank, "strides": (strides,) * rank, "padding": (padding,) * rank}


def over_windows(x: Any, start: float, combine: Any, attrs: dict[str, Any]) -> Any:
    window, strides = (1, *attrs["window"], 1), (1, *attrs["strides"], 1)
    padding = ((0, 0), *attrs["padding"], (0, 0))
    return lax.reduce_window(x, start, combine, window, strides, padding)


def jax_avg(x: Any, attrs: dict[str, Any], include_padding: bool) -> Any:
    total = over_windows(x, 0.0, lax.add, attrs)
    if include_padding:
        return total / np.prod(attrs["window"])
    return total / over_windows(jnp.ones_like(x), 0.0, lax.add, attrs)


GEOMETRIES = [  # rank, window, stride, padding
    (1, 2, 2, (0, 0)),
    (1, 3, 2, (1, 1)),
    (1, 2, 3, (0, 1)),
    (2, 2, 2, (0, 0)),
    (2, 3, 2, (0, 1)),
    (2, 3, 1, (1, 1)),
    (2, 2, 3, (0, 1)),
    (3, 2, 1, (0, 1)),
]


def image(rank: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, *(6, 7, 4)[:rank], 3)).astype(np.float32)


@pytest.mark.parametrize(("rank", "w", "s", "p"), GEOMETRIES)
def test_max_pool_is_that_of_jax(rank: int, w: int, s: int, p: tuple[int, int]) -> None:
    x, attrs = image(rank), geometry(rank, w, s, p)
    expected, pullback = jax.vjp(lambda x: over_windows(x, -np.inf, lax.max, attrs), x)
    (y,) = REGISTRY["max_pool"].evaluate(x, **attrs)
    np.testing.assert_array_equal(y, expected)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    (dx,) = REGISTRY["max_pool_grad"].evaluate(x, dy, **attrs)
    np.testing.assert_allclose(dx, pullback(dy)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("include_padding", [False, True])
@pytest.mark.parametrize(("rank", "w", "s", "p"), GEOMETRIES)
def test_avg_pool_is_that_of_jax(
    rank: int, w: int, s: int, p: tuple[int, int], include_padding: bool
) -> None:
    x, attrs = image(rank), geometry(rank, w, s, p)
    expected, pullback = jax.vjp(lambda x: jax_avg(x, attrs, include_padding), x)
    attrs |= {"include_padding": include_padding}
    (y,) = REGISTRY["avg_pool"].evaluate(x, **attrs)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    (dx,) = REGISTRY["avg_pool_grad"].evaluate(dy, input_shape=x.shape, **attrs)
    np.testing.assert_allclose(dx, pullback(dy)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", [(0, 0), (1, 1)])
def test_ties_give_the_gradient_to_the_first_maximum(padding: tuple[int, int]) -> None:
    """In row-major order of the window, as Keras on JAX; padding is never the first."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (2, 6, 6, 3)).astype(np.float32)
    attrs = geometry(2, 3, 2, padding)
    expected, pullback = jax.vjp(lambda x: over_windows(x, -np.inf, lax.max, attrs), x)
    dy = rng.standard_normal(expected.shape).astype(np.float32)
    (dx,) = REGISTRY["max_pool_grad"].evaluate(x, dy, **attrs)
    np.testing.assert_allclose(dx, pullback(dy)[0], rtol=1e-6, atol=1e-6)


def test_gradient_of_max_pool_grad_reads_the_first_maximum_of_ties() -> None:
    x = np.zeros((1, 4, 4, 1), np.float32)
    attrs = geometry(2, 2, 2)
    op = REGISTRY["max_pool_grad"]
    with Builder() as b:
        operand, dy = b.input("x", f32(N, 4, 4, 1)), b.input("dy", f32(N, 2, 2, 1))
        weights = b.input("w", f32(N, 4, 4, 1))
        (share,) = gradients((op(operand, dy, **attrs) * weights).sum(), [dy])
        assert share is not None
        graph = b.finish({"share": share})
    from hornfels.ir import evaluate

    w = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    arrays = {"x": x, "dy": np.ones((1, 2, 2, 1), np.float32), "w": w}
    np.testing.assert_array_equal(evaluate(graph, arrays).outputs["share"], w[:, ::2, ::2])


def test_nan_reaches_the_maximum_and_its_gradient() -> None:
    x = np.zeros((1, 4, 1), np.float32)
    x[0, 1, 0] = np.nan
    attrs = geometry(1, 2, 2)
    (y,) = REGISTRY["max_pool"].evaluate(x, **attrs)
    np.testing.assert_array_equal(y[0, :, 0], [np.nan, 0])
    (dx,) = REGISTRY["max_pool_grad"].evaluate(x, np.ones_like(y), **attrs)
    np.testing.assert_array_equal(dx[0, :, 0], [0, 1, 1, 0])


def test_padding_of_integers_never_wins() -> None:
    x = np.full((1, 2, 1), -7, np.int32)
    (y,) = REGISTRY["max_pool"].evaluate(x, **geometry(1, 2, 1, (1, 1)))
    assert y[0, :, 0].tolist() == [-7, -7, -7]
