"""The defaults of `keras.config`: read, set, refused."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.frontend import config, dtype_policy, initializers, layers
from hornfels.ir.errors import ArgumentError


@pytest.fixture(autouse=True)
def restored():
    before = config.floatx(), config.epsilon(), config.image_data_format()
    yield
    config.set_floatx(before[0])
    config.set_epsilon(before[1])
    config.set_image_data_format(before[2])


def test_defaults_are_those_of_keras():
    assert config.floatx() == "float32"
    assert config.epsilon() == 1e-7
    assert config.image_data_format() == "channels_last"


def test_floatx_is_the_dtype_of_weights_and_results():
    config.set_floatx("float64")
    assert initializers.Ones()((2,)).dtype == np.float64
    layer = layers.Dense(2)
    assert layer(np.ones((1, 3), np.float32)).dtype == np.float64
    assert layer.kernel.dtype == "float64"


def test_the_layout_of_images_is_the_default_of_layers():
    config.set_image_data_format("channels_first")
    assert layers.Conv2D(4, 3)(np.ones((1, 2, 5, 5), np.float32)).shape == (1, 4, 3, 3)
    assert layers.GlobalMaxPooling2D()(np.ones((1, 2, 5, 5), np.float32)).shape == (1, 2)
    assert config.standardize_data_format("Channels_Last") == "channels_last"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: config.set_floatx("float8"), "one of bfloat16, .*, got 'float8'"),
        (lambda: config.set_epsilon(0), "must be > 0, got 0"),
        (lambda: config.set_image_data_format("NHWC"), "one of channels_last, channels_first, got"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_the_dtype_policy_of_layers_that_name_none(monkeypatch):
    monkeypatch.setattr(dtype_policy, "_default", [])
    config.set_dtype_policy("mixed_bfloat16")
    assert config.dtype_policy().compute_dtype == "bfloat16"
    assert (layers.Dense(2).variable_dtype, layers.Dense(2).compute_dtype) == (
        "float32", "bfloat16"
    )  # fmt: skip
