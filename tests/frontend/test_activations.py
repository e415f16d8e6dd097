"""Activations against real Keras on JAX: values, gradients, names."""

from __future__ import annotations

import jax
import keras
import ml_dtypes
import numpy as np
import pytest

import hornfels
from hornfels import ops
from hornfels.frontend import activations
from hornfels.ir.errors import ArgumentError

X = np.array([[-40, -7.3, -3, -1.7, -1.1, -0.4], [0.3, 0.5, 1.1, 2.2, 3, 6.5]], np.float32)
CALLS = [
    ("relu", {}), ("relu", {"negative_slope": 0.1}), ("relu", {"max_value": 2.0}),
    ("relu", {"threshold": 0.7}), ("relu", {"threshold": 0.7, "negative_slope": 0.2}),
    ("relu", {"max_value": 5.0, "negative_slope": 0.3, "threshold": 0.6}),
    ("relu", {"max_value": 6}),
    ("softmax", {}), ("softmax", {"axis": 0}), ("sigmoid", {}), ("tanh", {}), ("gelu", {}),
    ("gelu", {"approximate": True}), ("silu", {}), ("swish", {}), ("elu", {}),
    ("elu", {"alpha": 2.0}),
    ("selu", {}), ("celu", {}), ("softplus", {}), ("softsign", {}), ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.5}), ("relu6", {}), ("hard_sigmoid", {}), ("hard_silu", {}),
    ("hard_swish", {}), ("exponential", {}), ("linear", {}), ("log_softmax", {}), ("mish", {}),
    ("log_sigmoid", {}), ("glu", {}), ("hard_shrink", {}), ("hard_tanh", {}), ("soft_shrink", {}),
    ("sparse_plus", {}), ("sparse_sigmoid", {}), ("squareplus", {}), ("tanh_shrink", {}),
    ("threshold", {"threshold": 0.4, "default_value": -3.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_values_equal_keras(name, arguments):
    ours = getattr(activations, name)(X, **arguments)
    theirs = np.asarray(getattr(keras.activations, name)(X, **arguments))
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_gradients_equal_jax(name, arguments, differentiate, weights_like):
    def theirs(x):
        y = getattr(keras.activations, name)(x, **arguments)
        return (y * weights_like(y)).sum()

    _, (ours,) = differentiate(lambda x: getattr(activations, name)(x, **arguments), [X])
    np.testing.assert_allclose(ours, jax.grad(theirs)(X), rtol=5e-5, atol=5e-6)


def test_every_name_of_keras_is_known():
    wanted = set(keras.activations.get.__globals__["ALL_OBJECTS_DICT"])
    assert wanted - set(activations.CATALOGUE.entries) <= {"sparsemax"}


def test_get_and_serialize():
    assert activations.get(None) is activations.linear
    assert activations.get("swish") is activations.silu
    own = lambda x: x  # noqa: E731
    assert activations.get(own) is own
    for name in ("relu", "softmax", "gelu", "linear", "tanh"):
        function = activations.get(name)
        assert activations.serialize(function) == name
        assert activations.deserialize(name) is function
    with pytest.raises(ArgumentError, match=r"activation: the name must be one of .*got 'rleu'"):
        activations.get("rleu")


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_half_precision_is_rounded_once(name):
    """Result and derivative are within half a unit in the last place, and a little."""
    x = np.linspace(-4, 4, 97).astype(ml_dtypes.bfloat16)
    wide = getattr(keras.activations, name)
    exact = wide(x.astype(np.float32)), jax.grad(lambda v: wide(v).sum())(x.astype(np.float32))
    own = getattr(activations, name)
    slope = hornfels.grad(lambda v: ops.sum(ops.cast(own(v), "float32")))(x)
    for ours, theirs in zip((np.asarray(own(x)), slope), exact, strict=True):
        assert ours.dtype == x.dtype
        np.testing.assert_allclose(ours.astype(np.float32), theirs, rtol=2**-8, atol=1e-6)
