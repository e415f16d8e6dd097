"""Recurrent layers and their cells against real Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import hornfels as hf
from hornfels.frontend import layers, tree
from hornfels.frontend.keras_tensor import KerasTensor
from hornfels.ir.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(0)
SEQUENCE = RNG.normal(size=(3, 5, 4)).astype(np.float32)
ROWS = RNG.normal(size=(2, 3, 6, 2)).astype(np.float32)
CLIPS = RNG.normal(size=(2, 3, 5, 4, 2)).astype(np.float32)
MASK = RNG.random((3, 5)) > 0.4
MASK[0, :2] = False

ALL = {
    "return_sequences": True, "go_backwards": True, "use_bias": False,
    "kernel_initializer": "he_normal", "recurrent_initializer": "glorot_uniform",
    "kernel_regularizer": "l2", "recurrent_regularizer": "l1", "kernel_constraint": "non_neg",
}  # fmt: skip
CASES = [
    ("SimpleRNN", {"units": 3, "activation": "relu", **ALL}), ("LSTM", {"units": 3, **ALL}),
    ("LSTM", {"units": 2, "activation": "relu", "recurrent_activation": "hard_sigmoid",
              "unit_forget_bias": False, "unroll": True}),
    ("GRU", {"units": 3, **ALL}), ("GRU", {"units": 2, "dropout": 0.3, "recurrent_dropout": 0.3}),
    ("GRU", {"units": 2, "reset_after": False, "go_backwards": True, "return_sequences": True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_layer_equals_keras(name, arguments, layer_oracle):
    layer_oracle(name, arguments, SEQUENCE).check()


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_gradients_with_masked_steps_are_those_of_keras(name, layer_oracle):
    arguments = {"units": 3, "return_sequences": True}
    layer_oracle(name, arguments, SEQUENCE, mask=MASK).check_call(2e-5, 2e-5)


@pytest.mark.parametrize("arguments", [
    {}, {"return_sequences": True, "zero_output_for_mask": True}, {"zero_output_for_mask": True},
    {"return_sequences": True, "go_backwards": True}, {"unroll": True, "return_state": True},
])  # fmt: skip
def test_masked_steps_are_left_out_as_in_keras(arguments):
    ours, theirs = both(lambda k: k.LSTM(3, **arguments), 3, 5, 4)
    check_equal(ours(SEQUENCE, mask=MASK), theirs(SEQUENCE, mask=MASK))
    states = [RNG.normal(size=(3, 3)).astype("float32") for _ in range(2)]
    given = {"mask": MASK, "initial_state": states}
    check_equal(ours(SEQUENCE, **given), theirs(SEQUENCE, **given))


CELLS = {
    "one": lambda k: k.LSTMCell(3),
    "several": lambda k: [k.LSTMCell(3), k.GRUCell(2), k.SimpleRNNCell(4)],
}


def both(make, *shape):
    """A layer of ours and one of Keras with the same weights."""
    ours, theirs = make(layers), make(keras.layers)
    ours.build(shape)
    theirs.build(shape)
    assert [w.path.split("/", 1)[1] for w in ours.weights] == [
        w.path.split("/", 1)[1] for w in theirs.weights
    ]
    ours.set_weights([np.asarray(w) for w in theirs.weights])
    return ours, theirs


def check_equal(ours, theirs):
    flat, wanted = (tree.flatten(x) for x in (ours, theirs))
    assert len(flat) == len(wanted)
    for a, b in zip(flat, wanted, strict=True):
        np.testing.assert_allclose(a, np.asarray(b), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("cell", "arguments"), [
    ("one", {}), ("one", {"go_backwards": True, "return_state": True}),
    ("several", {"return_sequences": True, "return_state": True}), ("several", {}),
])  # fmt: skip
def test_rnn_of_cells_equals_keras(cell, arguments):
    ours, theirs = both(lambda k: k.RNN(CELLS[cell](k), **arguments), 3, 5, 4)
    check_equal(ours(SEQUENCE), theirs(SEQUENCE))
    check_equal(ours(SEQUENCE, mask=MASK), theirs(SEQUENCE, mask=MASK))


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_states_given_and_returned(name):
    ours, theirs = both(lambda k: getattr(k, name)(3, return_state=True), 3, 5, 4)
    states = [RNG.normal(size=(3, 3)).astype("float32") for _ in ours.state_size]
    check_equal(ours(SEQUENCE, initial_state=states), theirs(SEQUENCE, initial_state=states))


@pytest.mark.parametrize("backend", ["eager", "tvm", "onnx"])
def test_stateful_layers_go_on_where_they_ended(backend):
    """Keras on JAX forgets the states of a compiled step; one long sequence tells."""
    x = hf.Input(batch_shape=(3, 5, 4))
    model = hf.Model(x, layers.LSTM(3, stateful=True, name="memory")(x))
    model.compile(backend=backend)
    layer = model.get_layer("memory")
    whole, _ = both(lambda k: k.LSTM(3, return_sequences=True), 3, 10, 4)
    whole.set_weights(layer.get_weights())
    wanted = whole(np.concatenate([SEQUENCE, SEQUENCE], axis=1))
    for step in (4, 9):
        np.testing.assert_allclose(model.predict_on_batch(SEQUENCE), wanted[:, step], atol=1e-5)
    layer.reset_state()
    np.testing.assert_allclose(model.predict_on_batch(SEQUENCE), wanted[:, 4], atol=1e-5)
    assert len(model.weights) == 3


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_dropout_is_one_for_all_steps(name):
    """With an identity in place of the recurrence, equal steps give equal differences."""
    layer = getattr(layers, name)(64, dropout=0.5, recurrent_dropout=0.2, return_sequences=True,
                                  seed=3)  # fmt: skip
    ones = np.ones((2, 3, 16), np.float32)
    plain, dropped = layer(ones), layer(ones, training=True)
    again = layer(ones, training=True)
    assert np.abs(plain - dropped).max() > 1e-2
    assert np.abs(again - dropped).max() > 1e-2
    layer.cell.recurrent_kernel.assign(np.zeros(layer.cell.recurrent_kernel.shape))
    steps = layer(ones, training=True)
    if name == "SimpleRNN":
        np.testing.assert_array_equal(steps[:, 0], steps[:, 2])
        zeros = (steps[:, 0] == 0).mean()
        assert zeros < 0.1


def test_dropout_of_all_cells_of_a_stack():
    stack = layers.RNN([layers.LSTMCell(4, dropout=0.5), layers.GRUCell(3, recurrent_dropout=0.5)])
    plain, dropped = stack(SEQUENCE), stack(SEQUENCE, training=True)
    assert np.abs(plain - dropped).max() > 1e-3
    assert all(cell._dropped is None for cell in stack.cell.cells)


@pytest.mark.parametrize("name", ["SimpleRNNCell", "LSTMCell", "GRUCell"])
def test_a_cell_by_itself(name):
    ours, theirs = both(lambda k: getattr(k, name)(3), 3, 4)
    sizes = ours.state_size if isinstance(ours.state_size, list) else [ours.state_size]
    states = [RNG.normal(size=(3, size)).astype("float32") for size in sizes]
    check_equal(ours(SEQUENCE[:, 0], states), theirs(SEQUENCE[:, 0], states))
    again = type(ours).from_config(ours.get_config())
    assert again.get_config() == ours.get_config()


class Moving(layers.Layer):
    """A cell of a user's, whose output is not its state."""

    state_size = 4
    output_size = 2

    def build(self, shape):
        self.mix = self.add_weight((4, 2), "glorot_uniform", name="mix")

    def call(self, inputs, states):
        average = 0.5 * states[0] + 0.5 * inputs
        return hf.ops.matmul(average, self.mix), [average]


def test_a_cell_of_a_user():
    layer = layers.RNN(Moving(), return_state=True)
    output, state = layer(SEQUENCE)
    wanted = np.zeros((3, 4), np.float32)
    for step in range(5):
        wanted = 0.5 * wanted + 0.5 * SEQUENCE[:, step]
    np.testing.assert_allclose(state, wanted, rtol=1e-5)
    np.testing.assert_allclose(output, wanted @ layer.cell.mix.numpy(), rtol=1e-4, atol=1e-6)
    assert layer(KerasTensor((None, None, 4)))[0].shape == (None, 2)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_dtypes(policy):
    cells = [layers.LSTMCell(3, dtype=policy), layers.GRUCell(2, dtype=policy)]
    both = layers.Bidirectional(layers.LSTM(3, dtype=policy, dropout=0.1), dtype=policy)
    images = layers.ConvLSTM2D(2, 2, dtype=policy)
    wanted = "bfloat16" if policy == "mixed_bfloat16" else "float64"
    for layer, x in (
        (layers.RNN(cells, dtype=policy), SEQUENCE), (both, SEQUENCE), (images, CLIPS)
    ):  # fmt: skip
        assert layer(x, training=True).dtype == wanted


def test_cells_in_a_configuration():
    layer = layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], return_sequences=True)
    layer(SEQUENCE)
    again = layers.deserialize(layers.serialize(layer))
    again(SEQUENCE)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(SEQUENCE), layer(SEQUENCE))
    theirs = keras.layers.deserialize(layers.serialize(layer))
    assert [type(cell).__name__ for cell in theirs.cell.cells] == ["LSTMCell", "GRUCell"]


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: layers.LSTM(0), ArgumentError, "units must be a positive int, got 0"),
    (lambda: layers.RNN(3), ArgumentError, "RNN: a cell must have `call`, got int"),
    (lambda: layers.GRU(2, use_cudnn=True), ArgumentError, "use_cudnn must be 'auto' or False"),
    (lambda: layers.GRU(2, use_cudnn="no"), ArgumentError, "use_cudnn must be 'auto', True or"),
    (lambda: layers.LSTM(2)(SEQUENCE[0]), ShapeError, "input must have rank 3"),
    (lambda: layers.LSTM(2, stateful=True)(KerasTensor((None, 5, 4))), ShapeError, "batch size"),
    (lambda: layers.LSTM(2, unroll=True)(KerasTensor((None, None, 4))), ShapeError, "to unroll"),
])  # fmt: skip
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(("name", "arguments", "inputs"), [
    ("ConvLSTM1D", {"strides": 2, "padding": "same", "use_bias": False}, ROWS),
    ("ConvLSTM2D", {"padding": "same", "go_backwards": True, "return_sequences": True,
                    "recurrent_activation": "hard_sigmoid", "dropout": 0.2}, CLIPS),
])  # fmt: skip
def test_convolutional_lstms_equal_keras(name, arguments, inputs, layer_oracle):
    layer_oracle(name, {"filters": 3, "kernel_size": 2, **arguments}, inputs).check()


def test_a_convolutional_lstm_over_volumes():
    volumes = RNG.normal(size=(1, 2, 3, 2, 3, 2)).astype(np.float32)
    ours, theirs = both(lambda k: k.ConvLSTM3D(2, 2, unit_forget_bias=False, padding="same"),
                        *volumes.shape)  # fmt: skip
    check_equal(ours(volumes), theirs(volumes))


def test_a_convolutional_lstm_drops_and_takes_images_with_channels_first():
    layer = layers.ConvLSTM2D(3, 2, dropout=0.5, recurrent_dropout=0.5, return_state=True)
    plain, dropped = layer(CLIPS), layer(CLIPS, training=True)
    assert np.abs(plain[0] - dropped[0]).max() > 1e-3
    first = layers.ConvLSTM2D(3, 2, data_format="channels_first", return_state=True)
    moved = np.moveaxis(CLIPS, -1, 2).copy()
    first(moved)
    first.set_weights(layer.get_weights())
    for a, b in zip(first(moved), plain, strict=True):
        np.testing.assert_allclose(np.moveaxis(a, 1, -1), b, rtol=1e-4, atol=1e-6)
    with pytest.raises(ShapeError, match="sizes of images must be known"):
        layers.ConvLSTM1D(2, 2)(KerasTensor((None, 3, None, 2)))
