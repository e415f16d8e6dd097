"""Reductions: ties, zeros, nothing to reduce, half precision; against JAX where it is subtle."""

from __future__ import annotations

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from jax import numpy as jnp

from hornfels.ir import REGISTRY, Builder, evaluate, gradients, symbol
from hornfels.ir.errors import ShapeError
from hornfels.ir.types import f32, f64, type_of

N = symbol("N")


def gradient_of(name: str, x: np.ndarray, weights: np.ndarray, axes: tuple[int, ...]) -> Any:
    """The gradient of the weighted sum of a reduction."""
    with Builder() as b:
        value, w = b.input("x", type_of(x)), b.input("w", type_of(weights))
        loss = REGISTRY[name](value, axes=axes) * w
        (share,) = gradients(loss.sum() if loss.ndim else loss, [value])
        assert share is not None
        graph = b.finish({"share": share})
    return evaluate(graph, {"x": x, "w": weights}).outputs["share"]


@pytest.mark.parametrize("name", ["reduce_max", "reduce_min"])
def test_ties_share_the_gradient_evenly_as_in_jax(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (4, 6)).astype(np.float32)
    w = rng.standard_normal(4).astype(np.float32)
    function = jnp.max if name == "reduce_max" else jnp.min
    expected = jax.grad(lambda x: (function(x, axis=1) * w).sum())(x)
    np.testing.assert_allclose(gradient_of(name, x, w, (1,)), expected, rtol=1e-6)


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
@pytest.mark.parametrize("axes", [(1,), (0,), (0, 1)])
def test_product_has_the_exact_gradient_at_zeros(zeros: int, axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(zeros)
    x = rng.uniform(0.5, 2, (3, 5)).astype(np.float32)
    x[0, :zeros] = 0
    w = rng.standard_normal(x.sum(axes).shape).astype(np.float32)
    expected = jax.grad(lambda x: (jnp.prod(x, axis=axes) * w).sum())(x)
    np.testing.assert_allclose(gradient_of("reduce_prod", x, w, axes), expected, rtol=1e-5)


def test_second_gradient_of_a_product_at_zeros() -> None:
    """Of `x y` at (0, 2): the mixed derivative is 1."""
    with Builder() as b:
        x = b.input("x", f64(2))
        (first,) = gradients(REGISTRY["reduce_prod"](x, axes=(0,)), [x])
        assert first is not None
        (second,) = gradients(first[0], [x])
        assert second is not None
        graph = b.finish({"first": first, "second": second})
    found = evaluate(graph, {"x": np.asarray([0.0, 2.0])}).outputs
    assert found["first"].tolist() == [2.0, 0.0]
    assert found["second"].tolist() == [0.0, 1.0]


def test_gradient_of_a_product_over_a_symbolic_axis_is_refused() -> None:
    with Builder():
        from hornfels.ir.graph import Value

        x = Value(f32(N, 2), name="x")
        product = REGISTRY["reduce_prod"](x, axes=(0,))
        with pytest.raises(
            ShapeError, match="gradient of reduce_prod: operand x must have a fixed"
        ):
            gradients(product.sum(), [x])


def test_reducing_nothing_gives_the_neutral_element() -> None:
    x = np.zeros((0, 2), np.float32)
    neutral = {"reduce_sum": 0, "reduce_prod": 1, "reduce_max": -np.inf, "reduce_min": np.inf}
    for name, value in neutral.items():
        (y,) = REGISTRY[name].evaluate(x, axes=(0,))
        assert y.tolist() == [value, value]
    integers = np.zeros((0, 1), np.int32)
    assert REGISTRY["reduce_max"].evaluate(integers, axes=(0,))[0].tolist() == [-(2**31)]
    assert REGISTRY["reduce_min"].evaluate(integers, axes=(0,))[0].tolist() == [2**31 - 1]
    truths = np.zeros((0, 1), np.bool_)
    assert REGISTRY["reduce_any"].evaluate(truths, axes=(0,))[0].tolist() == [False]
    assert REGISTRY["reduce_all"].evaluate(truths, axes=(0,))[0].tolist() == [True]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_accumulates_in_f32(dtype: Any) -> None:
    ones = np.ones(4096, dtype)
    (total,) = REGISTRY["reduce_sum"].evaluate(ones, axes=(0,))
    assert total.dtype == dtype
    assert float(total) == 4096  # in bf16 the sum would stop at 256, in f16 at 2048


def test_nan_and_first_occurrence() -> None:
    x = np.asarray([[1, 3, 3, 2], [0, np.nan, 5, np.nan]], np.float32)
    assert np.isnan(REGISTRY["reduce_max"].evaluate(x, axes=(1,))[0]).tolist() == [False, True]
    assert REGISTRY["argmax"].evaluate(x, axis=1)[0].tolist() == [1, 1]
    assert REGISTRY["argmin"].evaluate(x, axis=1)[0].tolist() == [0, 1]
    assert REGISTRY["argmax"].evaluate(x, axis=1)[0].dtype == np.int32
