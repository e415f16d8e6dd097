"""Convolutions and pooling against real Keras."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.frontend import layers
from hornfels.ir.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(0)
SEQUENCE = RNG.normal(size=(2, 9, 4)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 7, 8, 4)).astype(np.float32)
VOLUMES = RNG.normal(size=(2, 4, 5, 6, 2)).astype(np.float32)
FIRST = np.ascontiguousarray(np.moveaxis(IMAGES, -1, 1))

CASES = [
    ("Conv2D", {"filters": 3, "kernel_size": 3}, IMAGES),
    ("Conv2D", {"filters": 3, "kernel_size": (2, 3), "activation": "relu"}, IMAGES),
    ("Conv2D", {"filters": 3, "kernel_size": 3, "padding": "same", "use_bias": False}, IMAGES),
    ("Conv2D", {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"}, IMAGES),
    ("Conv2D", {"filters": 3, "kernel_size": 2, "strides": (2, 3)}, IMAGES),
    ("Conv2D", {"filters": 3, "kernel_size": 2, "dilation_rate": (1, 2),
                "padding": "same"}, IMAGES),
    ("Conv2D", {"filters": 6, "kernel_size": 3, "groups": 2}, IMAGES),
    ("Conv2D", {"filters": 3, "kernel_size": 3, "data_format": "channels_first",
                "padding": "same"}, FIRST),
    ("Conv1D", {"filters": 3, "kernel_size": 3}, SEQUENCE),
    ("Conv1D", {"filters": 3, "kernel_size": 3, "padding": "causal", "dilation_rate": 2}, SEQUENCE),
    ("Conv1D", {"filters": 3, "kernel_size": 4, "strides": 2, "padding": "same"}, SEQUENCE),
    ("Conv3D", {"filters": 3, "kernel_size": 2, "activation": "tanh"}, VOLUMES),
    ("Conv3D", {"filters": 3, "kernel_size": (1, 2, 3), "strides": 2, "padding": "same"}, VOLUMES),
    ("DepthwiseConv2D", {"kernel_size": 3}, IMAGES),
    ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2, "strides": 2,
                         "padding": "same", "activation": "relu"}, IMAGES),
    ("DepthwiseConv1D", {"kernel_size": 3, "padding": "same"}, SEQUENCE),
    ("SeparableConv2D", {"filters": 3, "kernel_size": 3, "depth_multiplier": 2,
                         "padding": "same"}, IMAGES),
    ("SeparableConv1D", {"filters": 3, "kernel_size": 3}, SEQUENCE),
    ("MaxPooling2D", {}, IMAGES), ("MaxPooling2D", {"pool_size": 3, "strides": 2}, IMAGES),
    ("MaxPooling2D", {"pool_size": (2, 3), "strides": 1, "padding": "same"}, IMAGES),
    ("MaxPooling2D", {"data_format": "channels_first"}, FIRST),
    ("MaxPooling1D", {}, SEQUENCE), ("MaxPooling3D", {}, VOLUMES),
    ("AveragePooling2D", {"pool_size": 2}, IMAGES),
    ("AveragePooling2D", {"pool_size": 3, "strides": 2, "padding": "same"}, IMAGES),
    ("AveragePooling1D", {"pool_size": 2, "strides": 1, "padding": "same"}, SEQUENCE),
    ("AveragePooling3D", {"pool_size": 2}, VOLUMES),
    ("GlobalAveragePooling2D", {}, IMAGES), ("GlobalAveragePooling2D", {"keepdims": True}, IMAGES),
    ("GlobalAveragePooling2D", {"data_format": "channels_first"}, FIRST),
    ("GlobalMaxPooling2D", {}, IMAGES), ("GlobalMaxPooling2D", {"keepdims": True}, IMAGES),
    ("GlobalAveragePooling1D", {}, SEQUENCE), ("GlobalMaxPooling1D", {}, SEQUENCE),
    ("GlobalAveragePooling3D", {}, VOLUMES), ("GlobalMaxPooling3D", {}, VOLUMES),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "inputs"), CASES)
def test_layer_equals_keras(name, arguments, inputs, layer_oracle):
    oracle = layer_oracle(name, arguments, inputs)
    oracle.check(atol=5e-5)


def test_global_average_with_a_mask(layer_oracle):
    mask = np.array([[True] * 4 + [False] * 5, [True] * 9])
    oracle = layer_oracle("GlobalAveragePooling1D", {}, SEQUENCE, mask=mask)
    oracle.check_call(1e-5, 1e-6)


def test_short_names_are_the_same_classes():
    assert layers.MaxPool2D is layers.MaxPooling2D
    assert layers.AvgPool2D is layers.AveragePooling2D
    assert layers.Convolution2D is layers.Conv2D
    assert layers.GlobalAvgPool2D is layers.GlobalAveragePooling2D


@pytest.mark.parametrize(
    ("layer", "inputs", "error", "message"),
    [
        (lambda: layers.Conv2D(3, 3, name="c"), SEQUENCE, ShapeError,
         r"layer 'c': input must have rank 4, got shape \(2, 9, 4\)"),
        (lambda: layers.Conv2D(3, (3, 3, 3), name="c"), None, ArgumentError,
         r"layer 'c': kernel_size must be a positive int or 2 of them, got \(3, 3, 3\)"),
        (lambda: layers.Conv2D(3, None, name="c"), None, ArgumentError,
         "layer 'c': kernel_size must be a positive int or 2 of them, got None"),
        (lambda: layers.Conv2D(3, 3, padding="full", name="c"), None, ArgumentError,
         "layer 'c': padding must be one of valid, same, got 'full'"),
        (lambda: layers.Conv2D(3, 3, padding="causal"), None, ArgumentError, "got 'causal'"),
        (lambda: layers.Conv2D(3, 3, groups=2), None, ArgumentError, "a multiple of groups"),
        (lambda: layers.Conv2D(3, 3, groups=3, name="c"), IMAGES, ShapeError,
         r"layer 'c': the input's channels must be a multiple of groups \(3\), got 4"),
        (lambda: layers.Conv2D(3, 3, strides=2, dilation_rate=2), None, ArgumentError, "not both"),
        (lambda: layers.Conv2D(3, 9, name="c"), IMAGES, ShapeError, "layer 'c'"),
        (lambda: layers.Conv2D(-1, 3, name="c"), None, ArgumentError, "'c': filters must be"),
        (lambda: layers.MaxPooling2D(0, name="p"), None, ArgumentError, "'p': pool_size must be"),
        (lambda: layers.MaxPooling2D(name="p"), SEQUENCE, ShapeError, "'p': input must have rank"),
        (lambda: layers.AveragePooling2D(2, padding="x"), None, ArgumentError, "got 'x'"),
        (lambda: layers.GlobalMaxPooling2D(data_format="last"), None, ArgumentError, "'last'"),
    ],
)  # fmt: skip
def test_refusals(layer, inputs, error, message):
    with pytest.raises(error, match=message):
        layer()(inputs)


def test_a_built_convolution_refuses_other_channels():
    layer = layers.Conv2D(3, 3, name="c")
    layer(IMAGES)
    with pytest.raises(ShapeError, match="layer 'c': axis -1 of the input must have size 4"):
        layer(IMAGES[..., :2])
