"""Bidirectional and TimeDistributed against real Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from hornfels.frontend import layers, tree
from hornfels.frontend.keras_tensor import KerasTensor
from hornfels.ir.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(0)
SEQUENCE = RNG.normal(size=(3, 5, 4)).astype(np.float32)
CLIPS = RNG.normal(size=(2, 3, 6, 5, 2)).astype(np.float32)
MASK = RNG.random((3, 5)) > 0.3


def both(make, inputs):
    """A layer of ours and one of Keras with the same weights, and our symbolic outputs."""
    ours, theirs = make(layers), make(keras.layers)
    shape = (None, *inputs.shape[1:])
    mine = ours(KerasTensor(shape))
    other = theirs(keras.KerasTensor(shape))
    assert [t.shape for t in tree.leaves(mine)] == [t.shape for t in tree.leaves(other)]
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    ours.set_weights([np.asarray(w) for w in theirs.weights])
    return ours, theirs


def check_equal(ours, theirs):
    for a, b in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, np.asarray(b), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("mode", "arguments"), [
    ("concat", {"return_sequences": True}), ("sum", {}), ("mul", {"return_state": True}),
    ("ave", {"return_sequences": True}), (None, {"return_sequences": True, "return_state": True}),
])  # fmt: skip
def test_both_directions_equal_keras(mode, arguments):
    make = lambda k: k.Bidirectional(k.LSTM(3, name="one", **arguments), mode, name="both")  # noqa: E731
    ours, theirs = both(make, SEQUENCE)
    check_equal(ours(SEQUENCE), theirs(SEQUENCE))
    check_equal(ours(SEQUENCE, mask=MASK), theirs(SEQUENCE, mask=MASK))
    again = layers.deserialize(layers.serialize(ours))
    again(SEQUENCE)
    again.set_weights(ours.get_weights())
    check_equal(again(SEQUENCE), ours(SEQUENCE))
    assert isinstance(keras.layers.deserialize(layers.serialize(ours)), keras.layers.Bidirectional)


def test_another_layer_backwards_and_states_given():
    def make(k):
        backward = k.GRU(3, go_backwards=True, activation="relu", name="back")
        return k.Bidirectional(k.GRU(3, name="one"), backward_layer=backward, name="both")

    ours, theirs = both(make, SEQUENCE)
    states = [RNG.normal(size=(3, 3)).astype("float32") for _ in range(2)]
    check_equal(ours(SEQUENCE, initial_state=states), theirs(SEQUENCE, initial_state=states))


def test_given_weights_are_the_first_ones():
    layer = layers.Bidirectional(layers.SimpleRNN(2, use_bias=False))
    layer(SEQUENCE)
    weights = [RNG.normal(size=w.shape).astype("float32") for w in layer.weights]
    again = layers.Bidirectional(layers.SimpleRNN(2, use_bias=False), weights=weights)
    again(SEQUENCE)
    for a, b in zip(again.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("make", "inputs"), [
    (lambda k: k.TimeDistributed(k.Dense(3, name="d"), name="t"), SEQUENCE),
    (lambda k: k.TimeDistributed(k.Conv2D(3, 3, name="c", activation="relu"), name="t"), CLIPS),
    (lambda k: k.TimeDistributed(k.LSTM(3, name="l"), name="t"), CLIPS[..., 0]),
    (lambda k: k.TimeDistributed(k.BatchNormalization(name="b"), name="t"), SEQUENCE),
])  # fmt: skip
def test_each_step_equals_keras(make, inputs):
    ours, theirs = both(make, inputs)
    check_equal(ours(inputs), theirs(inputs))
    check_equal(ours(inputs, training=True), theirs(inputs, training=True))
    check_equal([w.numpy() for w in ours.weights], [np.asarray(w) for w in theirs.weights])
    assert type(keras.layers.deserialize(layers.serialize(ours))) is type(theirs)


def test_each_step_drops_other_elements():
    layer = layers.TimeDistributed(layers.Dropout(0.5, seed=2))
    dropped = layer(np.ones((2, 3, 64), np.float32), training=True)
    assert 0.3 < (dropped == 0).mean() < 0.7
    assert np.abs(dropped[:, 0] - dropped[:, 1]).max() > 0


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: layers.Bidirectional(3), ArgumentError, "layer must be a Layer, got 3"),
    (lambda: layers.Bidirectional(layers.LSTM(2), merge_mode="max"), ArgumentError, "merge_mode"),
    (lambda: layers.Bidirectional(layers.LSTM(2), backward_layer=layers.LSTM(2)), ArgumentError,
     "must differ in go_backwards"),
    (lambda: layers.TimeDistributed(layers.Dense(2))(SEQUENCE[0]), ShapeError, "rank >= 3"),
    (lambda: layers.TimeDistributed(layers.Dense(2))(SEQUENCE, mask=MASK[:, :2]), ShapeError,
     "mask must begin with"),
])  # fmt: skip
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()
