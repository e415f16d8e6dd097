"""What the samples cannot say about unary ops: gradients at kinks, oracles against JAX."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from hornfels.ir import REGISTRY, Builder, evaluate, gradients
from hornfels.ir.types import type_of


def gradient_at(name: str, *operands: np.ndarray) -> list[np.ndarray]:
    """Derivatives of the sum of an op's result; zeros where there is none."""
    with Builder() as b:
        values = [b.input(f"x{i}", type_of(x)) for i, x in enumerate(operands)]
        shares = gradients(REGISTRY[name](*values).sum(), values)
        graph = b.finish({f"g{i}": g for i, g in enumerate(shares) if g is not None})
    found = evaluate(graph, {f"x{i}": x for i, x in enumerate(operands)}).outputs
    return [found.get(f"g{i}", np.zeros_like(x)) for i, x in enumerate(operands)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("relu", [0, 0, 1]), ("abs", [-1, 0, 1]), ("sign", [0, 0, 0]), ("round", [0, 0, 0])],
)
def test_gradient_at_a_kink(name: str, expected: list[float]) -> None:
    (found,) = gradient_at(name, np.asarray([-2.0, 0.0, 2.0], np.float32))
    assert found.tolist() == expected


def test_relu_and_its_gradient_are_those_of_jax() -> None:
    x = np.asarray([-1.5, -0.0, 0.0, 1e-30, 3.0, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(REGISTRY["relu"].evaluate(x)[0], jax.nn.relu(x))
    np.testing.assert_array_equal(gradient_at("relu", x)[0], jax.vmap(jax.grad(jax.nn.relu))(x))
    assert np.isnan(REGISTRY["relu"].evaluate(np.asarray([np.nan], np.float32))[0][0])


JAX: dict[str, Any] = {
    "neg": jnp.negative, "abs": jnp.abs, "sign": jnp.sign, "floor": jnp.floor, "ceil": jnp.ceil,
    "round": jnp.round, "exp": jnp.exp, "expm1": jnp.expm1, "log": jnp.log, "log1p": jnp.log1p,
    "sqrt": jnp.sqrt, "rsqrt": jax.lax.rsqrt, "sin": jnp.sin, "cos": jnp.cos, "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid, "erf": jax.scipy.special.erf, "is_finite": jnp.isfinite,
}  # fmt: skip


@pytest.mark.parametrize("name", JAX)
def test_oracle_is_the_function_of_that_name(name: str) -> None:
    x = np.linspace(0.05, 4.05, 101).astype(np.float32)
    x = x if "log" in name or "sqrt" in name else np.concatenate([-x, x])
    np.testing.assert_allclose(REGISTRY[name].evaluate(x)[0], JAX[name](x), rtol=2e-6, atol=1e-7)


def test_rounding_of_halves_goes_to_the_even_number() -> None:
    x = np.asarray([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert REGISTRY["round"].evaluate(x)[0].tolist() == [-2, -2, 0, 0, 2, 2]


def test_bits_and_truth_values() -> None:
    assert REGISTRY["bit_not"].evaluate(np.asarray([5], np.uint8))[0].tolist() == [250]
    assert REGISTRY["bit_not"].evaluate(np.asarray([5], np.int8))[0].tolist() == [-6]
    assert REGISTRY["logical_not"].evaluate(np.asarray([True]))[0].tolist() == [False]
