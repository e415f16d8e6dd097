"""Models as data and back; what Keras writes, we read."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

import hornfels
from hornfels.errors import ArgumentError
from hornfels.models import clone_model, model_from_json

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras


def stack(k):
    return k.Sequential(
        [k.Input((8, 8, 1)), k.layers.Conv2D(3, 3, activation="relu"), k.layers.Flatten(),
         k.layers.Dropout(0.5), k.layers.Dense(2)], name="stack",
    )  # fmt: skip


def graph(k):
    a, b = k.Input((4,), name="a"), k.Input((4,), name="b")
    shared = k.layers.Dense(3, activation="tanh", name="shared")
    joined = k.layers.Concatenate()([shared(a), shared(b)])
    inner = k.Sequential([k.Input((6,)), k.layers.Dense(5)], name="inner")
    return k.Model([a, b], [k.layers.Dense(1)(inner(joined)), joined], name="graph")


def with_ops():
    x = hornfels.Input((6,), name="x")
    y = hornfels.ops.concatenate([x[:, 1:3] * 2, np.ones((1, 1), np.float32) - x], axis=-1)
    return hornfels.Model(x, hornfels.ops.sum(y, axis=-1, keepdims=True))


def random_inputs(model):
    rng = np.random.default_rng(0)
    found = [rng.normal(size=(3, *t.shape[1:])).astype(np.float32) for t in model.inputs]
    return found if len(found) > 1 else found[0]


def assert_same_function(model, other):
    other.set_weights(model.get_weights())
    x = random_inputs(model)
    for a, b in zip(hornfels.frontend.tree.flatten(model(x)),
                    hornfels.frontend.tree.flatten(other(x)), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("build", [lambda: stack(hornfels), lambda: graph(hornfels), with_ops])
def test_there_and_back(build):
    model = build()
    for again in (model_from_json(model.to_json()), clone_model(model),
                  type(model).from_config(model.get_config())):  # fmt: skip
        assert type(again) is type(model)
        assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
        assert not set(map(id, again.weights)) & set(map(id, model.weights))
        assert_same_function(model, again)


@pytest.mark.parametrize("build", [stack, graph])
def test_what_keras_writes_is_read(build):
    theirs = build(keras)
    ours = model_from_json(theirs.to_json())
    ours.set_weights(theirs.get_weights())
    x = random_inputs(ours)
    want = theirs(x)
    for a, b in zip(hornfels.frontend.tree.flatten(ours(x)),
                    want if isinstance(want, list) else [want], strict=True):  # fmt: skip
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [stack, graph])
def test_keras_reads_what_we_write(build):
    ours = build(hornfels)
    theirs = keras.models.model_from_json(ours.to_json())
    assert [w.shape for w in theirs.weights] == [w.shape for w in ours.weights]
    theirs.set_weights(ours.get_weights())
    x = random_inputs(ours)
    want = theirs(x)
    for a, b in zip(hornfels.frontend.tree.flatten(ours(x)),
                    want if isinstance(want, list) else [want], strict=True):  # fmt: skip
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-5, atol=1e-6)


class Scaled(hornfels.layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor


def test_custom_layers_need_to_be_named():
    model = hornfels.Sequential([hornfels.Input((4,)), Scaled(3)])
    text = model.to_json()
    with pytest.raises(ArgumentError, match="'Scaled'"):
        model_from_json(text)


def test_a_subclass_is_what_its_constructor_was_given():
    class Net(hornfels.Model):
        def __init__(self, units, name=None):
            super().__init__(name=name)
            self.units = units

        def call(self, x):
            return x

    config = Net(5, name="net").get_config()
    assert config["units"] == 5
    json.dumps(config)


@pytest.mark.parametrize("text", ["no json", '{"class_name": "Unknown", "config": {}}', "{}"])
def test_refused(text):
    with pytest.raises(ArgumentError):
        model_from_json(text)
