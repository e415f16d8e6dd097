"""What the samples cannot say about binary ops: ties, division by zero, powers, conversions."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from hornfels.ir import REGISTRY, Builder, evaluate, gradients
from hornfels.ir.types import DType, boolean, f16, f32, i32, type_of, u8


def gradient_at(name: str, x: list[float], y: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the sum of an op's result with respect to both operands."""
    operands = [np.asarray(v, np.float32) for v in (x, y)]
    with Builder() as b:
        values = [b.input(f"x{i}", type_of(v)) for i, v in enumerate(operands)]
        dx, dy = gradients(REGISTRY[name](*values).sum(), values)
        assert dx is not None
        assert dy is not None
        graph = b.finish({"dx": dx, "dy": dy})
    found = evaluate(graph, {f"x{i}": v for i, v in enumerate(operands)}).outputs
    return found["dx"], found["dy"]


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_get_half_a_gradient_each_as_in_jax(name: str) -> None:
    x, y = [1.0, 2.0, 3.0, 0.0], [2.0, 2.0, 1.0, -0.0]
    function = getattr(jnp, name)
    expected = jax.grad(lambda x, y: function(x, y).sum(), (0, 1))(jnp.array(x), jnp.array(y))
    for got, want in zip(gradient_at(name, x, y), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_gradient_of_pow_is_that_of_jax_and_finite_at_zero() -> None:
    x, y = [0.0, 0.0, 2.0, 0.0, -2.0, 3.0], [0.0, 1.0, 0.0, 2.0, 2.0, -1.5]
    want_x = jax.grad(lambda x: jnp.power(x, jnp.array(y)).sum())(jnp.array(x))
    dx, dy = gradient_at("pow", x, y)
    assert np.isnan(want_x[0])  # ours of the constant `x ** 0` is 0
    assert dx[0] == 0
    np.testing.assert_allclose(dx[1:], want_x[1:], rtol=1e-6)
    np.testing.assert_allclose(dy, [0, 0, np.log(2), 0, 0, 3**-1.5 * np.log(3)], rtol=1e-6)


def test_gradients_of_division_and_remainder() -> None:
    x, y = [7.0, -7.0, 7.0], [3.0, 3.0, -3.0]
    for name, function in (("div", jnp.divide), ("remainder", jnp.remainder)):
        _, pullback = jax.vjp(function, jnp.array(x), jnp.array(y))
        expected = pullback(jnp.ones(3))
        for got, want in zip(gradient_at(name, x, y), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)


def test_integer_division_rounds_toward_zero_and_never_traps() -> None:
    x = np.asarray([7, -7, 7, -7, 5, 0, -(2**31)], np.int32)
    y = np.asarray([2, 2, -2, -2, 0, 0, -1], np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert REGISTRY["div"].evaluate(x, y)[0].tolist() == [3, -3, -3, 3, 0, 0, -(2**31)]
        assert REGISTRY["remainder"].evaluate(x, y)[0].tolist() == [1, 1, -1, -1, 0, 0, 0]


def test_nan_wins_every_extremum() -> None:
    nan, one = np.asarray([np.nan], np.float32), np.asarray([1.0], np.float32)
    for name in ("maximum", "minimum"):
        for pair in ((nan, one), (one, nan)):
            assert np.isnan(REGISTRY[name].evaluate(*pair)[0][0])


@pytest.mark.parametrize(
    ("x", "dtype", "expected"),
    [
        (np.asarray([-1.7, 1.7, 0.4], np.float32), i32, [-1, 1, 0]),
        (np.asarray([256, -1], np.int32), u8, [0, 255]),
        (np.asarray([0.0, -0.5, np.nan], np.float32), boolean, [False, True, True]),
        (np.asarray([3, 0], np.int32), boolean, [True, False]),
        (np.asarray([True, False]), f32, [1.0, 0.0]),
        (np.asarray([2049.0], np.float32), f16, [2048.0]),
    ],
)
def test_conversions(x: np.ndarray, dtype: DType, expected: list[object]) -> None:
    (got,) = REGISTRY["cast"].evaluate(x, dtype=dtype)
    assert got.tolist() == expected
    assert got.dtype == dtype.numpy


def test_shifts_of_unsigned_and_signed_integers() -> None:
    one = np.asarray([1, 31], np.uint32)
    top = np.asarray([2**31, 2**31], np.uint32)
    assert REGISTRY["shift_right"].evaluate(top, one)[0].tolist() == [2**30, 1]
    assert REGISTRY["shift_left"].evaluate(one, one)[0].tolist() == [2, 31 << 31 & 0xFFFFFFFF]
    negative = np.asarray([-8], np.int32)
    assert REGISTRY["shift_right"].evaluate(negative, np.asarray([1], np.int32))[0] == [-4]
