"""Dense, activations, reshaping and rescaling against real Keras."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.frontend import layers, regularizers
from hornfels.frontend.keras_tensor import KerasTensor
from hornfels.ir.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(5, 7)).astype(np.float32)
SEQUENCE = RNG.normal(size=(3, 4, 6)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 5, 6, 4)).astype(np.float32)
VOLUMES = RNG.normal(size=(2, 3, 4, 5, 2)).astype(np.float32)

CASES = [
    ("Dense", {"units": 3}, MATRIX), ("Dense", {"units": 4, "activation": "relu"}, SEQUENCE),
    ("Dense", {"units": 4, "activation": "softmax", "use_bias": False}, MATRIX),
    ("Dense", {"units": 2, "activation": "tanh"}, IMAGES),
    ("Dense", {"units": 2, "kernel_regularizer": "l2", "bias_constraint": "non_neg"}, MATRIX),
    ("Activation", {"activation": "gelu"}, MATRIX),
    ("Activation", {"activation": "softmax"}, IMAGES),
    ("Identity", {}, MATRIX), ("Flatten", {}, IMAGES), ("Flatten", {}, MATRIX),
    ("Flatten", {}, MATRIX[:, 0]), ("Flatten", {"data_format": "channels_first"}, IMAGES),
    ("Reshape", {"target_shape": (7, 1)}, MATRIX), ("Reshape", {"target_shape": (-1, 8)}, IMAGES),
    ("Permute", {"dims": (3, 1, 2)}, IMAGES), ("RepeatVector", {"n": 3}, MATRIX),
    ("Rescaling", {"scale": 1 / 255, "offset": -0.5}, IMAGES),
    ("Rescaling", {"scale": [1.0, 2.0, 3.0, 4.0], "offset": [0.0, 1.0, 0.0, 1.0]}, IMAGES),
    ("ReLU", {}, MATRIX),
    ("ReLU", {"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.2}, MATRIX),
    ("LeakyReLU", {}, MATRIX), ("LeakyReLU", {"negative_slope": 0.1}, MATRIX),
    ("ELU", {}, MATRIX), ("ELU", {"alpha": 0.5}, MATRIX), ("Softmax", {}, MATRIX),
    ("Softmax", {"axis": 1}, IMAGES), ("Softmax", {"axis": (1, 2)}, IMAGES),
    ("PReLU", {}, SEQUENCE),
    ("PReLU", {"shared_axes": [1, 2]}, IMAGES),
    ("ZeroPadding1D", {}, SEQUENCE), ("ZeroPadding1D", {"padding": (1, 2)}, SEQUENCE),
    ("ZeroPadding2D", {}, IMAGES), ("ZeroPadding2D", {"padding": 2}, IMAGES),
    ("ZeroPadding2D", {"padding": (1, 2)}, IMAGES),
    ("ZeroPadding2D", {"padding": ((0, 1), (2, 3))}, IMAGES),
    ("ZeroPadding2D", {"padding": ((0, 1), (2, 3)), "data_format": "channels_first"}, IMAGES),
    ("ZeroPadding3D", {}, VOLUMES), ("Cropping1D", {"cropping": (1, 2)}, SEQUENCE),
    ("Cropping2D", {"cropping": ((1, 0), (2, 1))}, IMAGES), ("Cropping2D", {"cropping": 1}, IMAGES),
    ("Cropping3D", {"cropping": ((1, 0), (1, 1), (0, 2))}, VOLUMES),
    ("UpSampling1D", {"size": 3}, SEQUENCE), ("UpSampling2D", {"size": (2, 3)}, IMAGES),
    ("UpSampling2D", {"data_format": "channels_first"}, IMAGES), ("UpSampling3D", {}, VOLUMES),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "inputs"), CASES)
def test_layer_equals_keras(name, arguments, inputs, layer_oracle):
    layer_oracle(name, arguments, inputs).check()


def test_softmax_with_a_mask(layer_oracle):
    mask = RNG.random((5, 7)) > 0.3
    layer_oracle("Softmax", {}, MATRIX, mask=mask).check_call(1e-5, 1e-6)


def test_rescaling_takes_bytes(layer_oracle):
    images = RNG.integers(0, 256, (2, 3, 3, 1)).astype(np.uint8)
    oracle = layer_oracle("Rescaling", {"scale": 1 / 255}, images)
    oracle.check_call(1e-6, 0)


def test_a_lambda_layer():
    layer = layers.Lambda(lambda x, factor: x * factor, arguments={"factor": 3.0})
    np.testing.assert_allclose(layer(MATRIX), 3 * MATRIX)
    assert layer(KerasTensor((None, 7))).shape == (None, 7)


def test_regularizers_make_losses():
    layer = layers.Dense(3, kernel_regularizer="l2", bias_regularizer=regularizers.L1(0.5),
                         activity_regularizer=regularizers.L1L2(0.1, 0.2))  # fmt: skip
    y = layer(MATRIX)
    layer.set_weights([layer.get_weights()[0], np.array([1.0, -2.0, 0.5])])
    kernel, bias = layer.get_weights()
    losses = sorted(float(loss) for loss in layer.losses)
    activity = (0.1 * np.abs(y).sum() + 0.2 * (y * y).sum()) / len(MATRIX)
    wanted = sorted([0.01 * (kernel**2).sum(), 0.5 * np.abs(bias).sum(), activity])
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "inputs", "error", "message"),
    [
        (lambda: layers.Dense(0, name="head"), None, ArgumentError,
         "layer 'head': units must be a positive int, got 0"),
        (lambda: layers.Dense(3, name="head"), MATRIX[0], ShapeError,
         r"layer 'head': input must have rank >= 2, got shape \(7,\)"),
        (lambda: layers.Dense(3, kernel_initializer="zeros_"), None, ArgumentError, "'zeros_'"),
        (lambda: layers.Dense(3, activation="rel"), None, ArgumentError, "did you mean 'relu'"),
        (lambda: layers.Dense(3, lr=1), None, ArgumentError, "Dense: unknown arguments lr"),
        (lambda: layers.Input((2.5,)), None, ArgumentError, "tuple of sizes and None"),
        (lambda: layers.Input("images"), None, ArgumentError, "tuple of sizes and None"),
        (lambda: layers.BatchNormalization(momentum="high", name="n"), None, ArgumentError,
         "layer 'n': momentum must be a number, got 'high'"),
        (lambda: layers.Reshape((4, 4), name="r"), MATRIX, ShapeError, "layer 'r'"),
        (lambda: layers.Reshape((-1, -1), name="r"), None, ArgumentError, "only one size"),
        (lambda: layers.Permute((1, 3)), None, ArgumentError, "permutation of 1 to 2"),
        (lambda: layers.RepeatVector(2, name="r"), IMAGES, ShapeError, "'r': input must have rank"),
        (lambda: layers.ZeroPadding2D((1, 2, 3), name="p"), None, ArgumentError,
         "layer 'p': padding must be an int >= 0, 2 of them or 2 pairs"),
        (lambda: layers.Cropping2D(3, name="c"), IMAGES, ShapeError, "layer 'c': cropping 3 and 3"),
        (lambda: layers.ReLU(max_value=-1, name="a"), None, ArgumentError, "'a': max_value"),
        (lambda: layers.UpSampling2D(interpolation="bicubic"), None, ArgumentError, "'nearest'"),
    ],
)  # fmt: skip
def test_refusals(layer, inputs, error, message):
    with pytest.raises(error, match=message):
        layer()(inputs)


def test_a_built_layer_refuses_other_features():
    layer = layers.Dense(3, name="head")
    layer(MATRIX)
    with pytest.raises(ShapeError, match=r"layer 'head': axis -1 of the input must have size 7, "
                                         r"got shape \(5, 4\)"):  # fmt: skip
        layer(MATRIX[:, :4])
    with pytest.raises(ShapeError, match="must have a fixed size"):
        layers.Dense(3)(KerasTensor((None, None)))
