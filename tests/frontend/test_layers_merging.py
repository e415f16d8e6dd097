"""Merging, normalization and the random layers against real Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from hornfels.frontend import layers, random
from hornfels.frontend.keras_tensor import KerasTensor
from hornfels.frontend.trace import Trace
from hornfels.ir.errors import ArgumentError, ShapeError
from hornfels.ir.evaluate import evaluate
from hornfels.ir.types import f32, symbol

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(1, 2, shape).astype(np.float32)


MERGES = [
    ("Add", {}, [normal(3, 4), normal(3, 4), normal(3, 4)]),
    ("Add", {}, [normal(3, 4), normal(3, 2, 4)]), ("Add", {}, [normal(3, 5, 1), normal(3, 1, 4)]),
    ("Subtract", {}, [normal(3, 4), normal(3, 4)]),
    ("Multiply", {}, [normal(3, 4), normal(3, 4), normal(3, 1)]),
    ("Average", {}, [normal(3, 4), normal(3, 4)]), ("Maximum", {}, [normal(3, 4), normal(3, 4)]),
    ("Minimum", {}, [normal(3, 4), normal(3, 4), normal(3, 4)]),
    ("Concatenate", {}, [normal(3, 4), normal(3, 2)]),
    ("Concatenate", {"axis": 1}, [normal(3, 2, 4), normal(3, 5, 4)]),
    ("Dot", {"axes": 1}, [normal(3, 4), normal(3, 4)]),
    ("Dot", {"axes": (2, 1)}, [normal(3, 5, 4), normal(3, 4, 6)]),
    ("Dot", {"axes": -1, "normalize": True}, [normal(3, 4), normal(3, 4)]),
]  # fmt: skip
NORMALIZATIONS = [
    ("BatchNormalization", {}, normal(6, 5)),
    ("BatchNormalization", {"axis": 1, "momentum": 0.8, "epsilon": 0.1}, normal(4, 3, 5)),
    ("BatchNormalization", {"scale": False}, normal(3, 4, 5, 2)),
    ("BatchNormalization", {"center": False}, normal(3, 4, 5, 2)),
    ("LayerNormalization", {}, normal(3, 4, 5)),
    ("LayerNormalization", {"axis": [1, 2], "epsilon": 0.01}, normal(3, 4, 5)),
    ("LayerNormalization", {"axis": 1, "scale": False}, normal(3, 4, 5)),
    ("LayerNormalization", {"center": False}, normal(3, 4)),
    ("RMSNormalization", {}, normal(3, 4, 5)), ("UnitNormalization", {}, normal(3, 4, 5)),
    ("UnitNormalization", {"axis": (1, 2)}, normal(3, 4, 5)),
    ("GroupNormalization", {"groups": 2}, normal(3, 4, 5, 6)),
    ("GroupNormalization", {"groups": -1}, normal(3, 4, 5, 6)),
    ("GroupNormalization", {"groups": 3, "axis": 1}, normal(3, 6, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "inputs"), MERGES + NORMALIZATIONS)
def test_layer_equals_keras(name, arguments, inputs, layer_oracle):
    layer_oracle(name, arguments, inputs).check()


@pytest.mark.parametrize(("name", "arguments", "inputs"), NORMALIZATIONS[:4])
def test_batch_normalization_in_training_equals_keras(name, arguments, inputs, layer_oracle):
    oracle = layer_oracle(name, arguments, inputs, training=True)
    for _ in range(2):
        oracle.check_call(2e-5, 2e-5)  # the moving averages too


def test_batch_normalization_with_a_mask(layer_oracle):
    mask = np.array([[True, True, False], [True, False, False], [True] * 3, [False] * 3])
    oracle = layer_oracle("BatchNormalization", {}, normal(4, 3, 5), training=True, mask=mask)
    oracle.check_call(2e-5, 2e-5)


def test_frozen_batch_normalization_uses_its_averages():
    ours, theirs = layers.BatchNormalization(), keras.layers.BatchNormalization()
    x = normal(6, 3)
    ours(x), theirs(x)
    ours.trainable = theirs.trainable = False
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), rtol=1e-5)
    np.testing.assert_array_equal(ours.moving_mean.numpy(), np.zeros(3, np.float32))


def test_batch_normalization_traces_with_a_symbolic_batch():
    layer, reference = layers.BatchNormalization(name="bn"), keras.layers.BatchNormalization()
    layer.build((None, 3))
    n = symbol("N")
    with Trace("bn") as trace:
        graph = trace.finish({"y": layer(trace.input("x", f32(n, 3)), training=True)})
    for rows in (2, 5):
        x = normal(rows, 3)
        feed = {name: v.numpy() for name, v in trace.variables.items()}
        run = evaluate(graph, {"x": x, **feed})
        np.testing.assert_allclose(run.outputs["y"], reference(x, training=True),
                                   rtol=1e-4, atol=1e-5)  # fmt: skip
        assert set(run.updates) == {"bn/moving_mean", "bn/moving_variance"}
        for name, value in run.updates.items():
            trace.variables[name].assign(value)
    np.testing.assert_allclose(layer.moving_mean.numpy(), reference.moving_mean, rtol=1e-5)


def test_mixed_precision_keeps_moments_in_float32(layer_oracle):
    for name in ("BatchNormalization", "LayerNormalization"):
        ours = getattr(layers, name)(dtype="mixed_float16")
        theirs = getattr(keras.layers, name)(dtype="mixed_float16")
        x = (normal(64, 8) * 30 + 200).astype(np.float16)
        y = ours(x, **({"training": True} if name[0] == "B" else {}))
        z = theirs(x, **({"training": True} if name[0] == "B" else {}))
        assert y.dtype == np.float16
        np.testing.assert_allclose(y.astype(float), np.asarray(z, float), rtol=2e-2, atol=2e-2)


FUNCTIONS = ["add", "subtract", "multiply", "average", "maximum", "minimum", "concatenate"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_their_layers(name):
    a, b = normal(2, 3), normal(2, 3)
    wanted = getattr(keras.layers, name)([a, b])
    np.testing.assert_allclose(getattr(layers, name)([a, b]), wanted, rtol=1e-6)
    symbolic = getattr(layers, name)([KerasTensor((None, 3)), KerasTensor((None, 3))])
    assert symbolic.shape == (None, 6 if name == "concatenate" else 3)


def test_dot_function():
    a, b = normal(2, 3), normal(2, 3)
    np.testing.assert_allclose(
        layers.dot([a, b], axes=1), keras.layers.dot([a, b], axes=1), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (lambda: layers.Dropout(0.3, seed=1), (400, 50), (0.7, 1 / 0.7)),
        (lambda: layers.Dropout(0.3, noise_shape=(None, 1), seed=1), (2000, 5), (0.7, 1 / 0.7)),
        (lambda: layers.SpatialDropout1D(0.4, seed=1), (300, 7, 20), (0.6, 1 / 0.6)),
        (lambda: layers.SpatialDropout2D(0.4, seed=1), (300, 3, 3, 20), (0.6, 1 / 0.6)),
        (lambda: layers.SpatialDropout3D(0.4, seed=1), (300, 2, 2, 2, 20), (0.6, 1 / 0.6)),
    ],
)
def test_dropout_layers(layer, shape, expected):
    layer, x = layer(), np.ones(shape, np.float32)
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer(x, training=False), x)
    y = layer(x, training=True)
    assert (y != 0).mean() == pytest.approx(expected[0], abs=0.02)
    np.testing.assert_allclose(y[y != 0], expected[1], rtol=1e-6)
    assert not np.array_equal(y, layer(x, training=True))
    assert layer.weights == []
    assert [v.path for v in layer.variables] == [f"{layer.name}/seed_generator_state"]
    middle = tuple(range(1, x.ndim - 1))
    if middle:  # whole channels
        assert (y.min(middle) == y.max(middle)).all()


def test_dropout_is_the_mask_of_its_seed():
    x = normal(6, 5)
    y = layers.Dropout(0.5, seed=3)(x, training=True)
    kept = random.uniform((6, 5), seed=3) < 0.5
    np.testing.assert_allclose(y, np.where(kept, 2 * x, 0), rtol=1e-6)


def test_gaussian_layers():
    x = np.full((500, 40), 3.0, np.float32)
    noisy = layers.GaussianNoise(0.5, seed=1)
    np.testing.assert_array_equal(noisy(x), x)
    y = noisy(x, training=True) - x
    assert (y.mean(), y.std()) == pytest.approx((0, 0.5), abs=0.01)
    dropped = layers.GaussianDropout(0.2, seed=1)
    z = dropped(x, training=True) / x
    assert (z.mean(), z.std()) == pytest.approx((1, 0.5), abs=0.01)


def test_activity_regularization_adds_its_loss():
    layer, x = layers.ActivityRegularization(l1=0.5, l2=0.25), normal(4, 3)
    np.testing.assert_array_equal(layer(x), x)
    wanted = (0.5 * np.abs(x).sum() + 0.25 * (x * x).sum()) / 4
    assert float(layer.losses[0]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("layer", "inputs", "error", "message"),
    [
        (lambda: layers.Add(name="a"), normal(2, 3), ArgumentError, "'a': needs a list of inputs"),
        (lambda: layers.Add(name="a"), [normal(2, 3), normal(2, 4)], ShapeError,
         r"layer 'a': the inputs must have shapes that broadcast, got f32\[2,3\], f32\[2,4\]"),
        (lambda: layers.Subtract(name="s"), [normal(2, 3)] * 3, ArgumentError,
         "layer 's': needs exactly 2 inputs, got 3"),
        (lambda: layers.Concatenate(name="c"), [normal(2, 3), normal(4, 3)], ShapeError,
         r"layer 'c': the inputs must have equal sizes in all axes but -1, got f32\[2,3\]"),
        (lambda: layers.Concatenate(axis=4, name="c"), [normal(2, 3)] * 2, ShapeError, "no axis 4"),
        (lambda: layers.Dot(1, name="d"), [normal(2, 3), normal(2, 4)], ShapeError, "layer 'd'"),
        (lambda: layers.BatchNormalization(axis=3, name="b"), normal(2, 3), ShapeError,
         "layer 'b': the input of rank 2 has no axis 3"),
        (lambda: layers.BatchNormalization(renorm=True, name="b"), None, ArgumentError, "renorm"),
        (lambda: layers.LayerNormalization(axis=[1, 5], name="l"), normal(2, 3), ShapeError,
         "layer 'l': the input of rank 2 has no axis 5"),
        (lambda: layers.GroupNormalization(4, name="g"), normal(2, 6), ShapeError, "'g': the"),
        (lambda: layers.Dropout(1.5, name="d"), None, ArgumentError,
         r"layer 'd': rate must be a number in \[0, 1\], got 1.5"),
        (lambda: layers.GaussianNoise(2, name="n"), None, ArgumentError, "'n': stddev must be"),
    ],
)  # fmt: skip
def test_refusals(layer, inputs, error, message):
    with pytest.raises(error, match=message):
        layer()(inputs)
