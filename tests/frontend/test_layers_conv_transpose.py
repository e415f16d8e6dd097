"""Transposed convolutions against real Keras."""

from __future__ import annotations

import numpy as np
import pytest

import hornfels as hf
from hornfels.frontend import layers, ops
from hornfels.ir.errors import ArgumentError

RNG = np.random.default_rng(0)
SEQUENCE = RNG.normal(size=(2, 6, 3)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)
VOLUMES = RNG.normal(size=(1, 3, 2, 4, 2)).astype(np.float32)
FIRST = IMAGES.transpose(0, 3, 1, 2).copy()

CASES = [
    ("Conv1DTranspose", {"filters": 4, "kernel_size": 3}, SEQUENCE),
    ("Conv1DTranspose", {"filters": 2, "kernel_size": 4, "strides": 3,
                         "padding": "same"}, SEQUENCE),
    ("Conv1DTranspose", {"filters": 2, "kernel_size": 3, "dilation_rate": 2}, SEQUENCE),
    ("Conv2DTranspose", {"filters": 4, "kernel_size": 2, "strides": 2}, IMAGES),
    ("Conv2DTranspose", {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same",
                         "activation": "relu", "use_bias": False}, IMAGES),
    ("Conv2DTranspose", {"filters": 2, "kernel_size": (3, 2), "strides": (2, 3),
                         "output_padding": (1, 2), "padding": "same"}, IMAGES),
    ("Conv2DTranspose", {"filters": 2, "kernel_size": 3, "strides": 2, "padding": "valid",
                         "output_padding": 1, "kernel_regularizer": "l2"}, IMAGES),
    ("Conv2DTranspose", {"filters": 2, "kernel_size": (1, 2), "strides": (3, 4)}, IMAGES),
    ("Conv3DTranspose", {"filters": 3, "kernel_size": 2, "strides": 2}, VOLUMES),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "inputs"), CASES)
def test_layer_equals_keras(name, arguments, inputs, layer_oracle):
    layer_oracle(name, arguments, inputs).check()


def test_channels_first_is_the_same_moved():
    arguments = {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"}
    last = layers.Conv2DTranspose(**arguments)
    first = layers.Conv2DTranspose(**arguments, data_format="channels_first")
    last(IMAGES), first(FIRST)
    first.set_weights([w + 0.5 for w in last.get_weights()])
    last.set_weights(first.get_weights())
    np.testing.assert_allclose(first(FIRST).transpose(0, 2, 3, 1), last(IMAGES), rtol=1e-5)


def test_no_zeros_are_multiplied_in_a_step():
    """With zeros between the elements of the input a step would take four times the products."""
    inputs = hf.Input((4, 5, 3))
    model = hf.Model(inputs, layers.Conv2DTranspose(2, 3, strides=2, padding="same")(inputs))
    model.compile("sgd", "mean_squared_error")
    nodes = hf.compile(model, "eager").graph("train").nodes
    dilations = [n.attrs["input_dilation"] for n in nodes if "input_dilation" in n.attrs]
    assert dilations == [(1, 1), (1, 1)]  # forward, and the kernel's gradient


@pytest.mark.parametrize("size", [0, 1])
def test_small_images(size):
    kernel = np.ones((3, 3, 1, 1), np.float32)
    result = np.asarray(ops.conv_transpose(np.ones((2, size, 3, 1), np.float32), kernel, 4))
    assert result.shape == (2, max(3, 4 * size), 12, 1)
    np.testing.assert_array_equal(result[:, :3, :3], size)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"filters": 0, "kernel_size": 3}, "filters must be a positive int"),
    ({"filters": 2, "kernel_size": 3, "output_padding": 1}, "output_padding must be an int >= 0"),
    ({"filters": 2, "kernel_size": 3, "strides": 2, "dilation_rate": 2}, "must not both exceed 1"),
    ({"filters": 2, "kernel_size": 3, "padding": "causal"}, "padding must be one of valid, same"),
])  # fmt: skip
def test_refusals(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        layers.Conv2DTranspose(**arguments)
