"""Stacks of layers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import hornfels
from hornfels import layers
from hornfels.errors import ArgumentError, ShapeError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras


def cnn(k, *first):
    return k.Sequential(
        [
            *first,
            k.layers.Conv2D(4, 3, activation="relu"),
            k.layers.MaxPooling2D(2),
            k.layers.BatchNormalization(),
            k.layers.Flatten(),
            k.layers.Dropout(0.5),
            k.layers.Dense(3, activation="softmax"),
        ]
    )


def test_as_in_keras():
    hornfels.utils.clear_session()
    keras.utils.clear_session()
    ours, theirs = (cnn(k, k.Input((8, 8, 2))) for k in (hornfels, keras))
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    assert (ours.name, ours.input_shape, ours.output_shape) == (
        theirs.name, theirs.input_shape, theirs.output_shape)  # fmt: skip
    ours.set_weights(theirs.get_weights())
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(ours(x), np.asarray(theirs(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "argument", [{"input_shape": (8, 8, 2)}, {"batch_input_shape": (None, 8, 8, 2)}]
)
def test_the_first_layer_may_tell_the_input_shape(argument):
    model = hornfels.Sequential([layers.Conv2D(4, 3, **argument), layers.Flatten()])
    assert model.built
    assert model.output_shape == (None, 144)
    assert len(model.layers) == 2


def test_input_dim():
    assert hornfels.Sequential([layers.Dense(4, input_dim=7)]).input_shape == (None, 7)


def test_building_waits_for_the_first_call():
    model = cnn(hornfels)
    assert not model.built
    assert model.weights == []
    assert model(np.ones((2, 8, 8, 2), np.float32)).shape == (2, 3)
    assert model.input_shape == (None, 8, 8, 2)
    assert len(model.weights) == 8
    assert model(np.ones((5, 8, 8, 2), np.float32)).shape == (5, 3)


def test_build_with_a_shape():
    model = cnn(hornfels)
    model.build((None, 8, 8, 2))
    assert model.output_shape == (None, 3)
    assert model.weights[0].path.startswith(f"{model.name}/conv2d")


def test_add_and_pop():
    model = hornfels.Sequential()
    model.add(layers.Input((4,)))
    model.add(layers.Dense(3))
    model.add(layers.Dense(2, name="top"))
    assert model.output_shape == (None, 2)
    kernel = model.layers[0].kernel
    before = model.trace_key()
    assert model.pop().name == "top"
    assert model.output_shape == (None, 3)
    assert model.trace_key() != before
    model.add(layers.Dense(5))
    assert model.output_shape == (None, 5)
    assert model.layers[0].kernel is kernel


def test_inside_of_other_models():
    inner = hornfels.Sequential([layers.Dense(3), layers.ReLU()], name="inner")
    x = hornfels.Input((4,))
    outer = hornfels.Model(x, layers.Dense(2)(inner(x)))
    assert [w.shape for w in outer.weights] == [(4, 3), (3,), (3, 2), (2,)]
    stack = hornfels.Sequential([inner, layers.Dense(1)])
    assert stack(np.ones((2, 4), np.float32)).shape == (2, 1)
    assert stack.weights[0] is inner.weights[0]


def test_a_built_model_first_tells_the_input_shape():
    inner = hornfels.Sequential([layers.Input((4,)), layers.Dense(3)])
    stack = hornfels.Sequential([inner, layers.Dense(1)])
    assert stack.output_shape == (None, 1)


def test_inputs_of_another_dtype_are_cast():
    model = hornfels.Sequential([layers.Input((2,)), layers.ReLU()])
    assert model(np.array([[1, 2]], np.uint8)).dtype == np.float32


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: hornfels.Sequential([3]), ArgumentError, "only layers can be added, got int"),
        (lambda: hornfels.Sequential([layers.ReLU(), layers.Input((3,))]), ArgumentError,
         "Input must be its first layer"),
        (lambda: hornfels.Sequential([layers.ReLU(name="a"), layers.Dense(1, name="a")]),
         ArgumentError, "the name 'a' is taken"),
        (lambda: hornfels.Sequential().pop(), ArgumentError, "no layer to take off"),
        (lambda: hornfels.Sequential().build((None, 3)), ArgumentError, "has no layers"),
        (lambda: hornfels.Sequential([layers.Input((3,)), layers.Conv2D(1, 3)]), ShapeError,
         "conv2d"),
        (lambda: cnn(hornfels).output_shape, ArgumentError, "has no outputs"),
    ],
)  # fmt: skip
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
