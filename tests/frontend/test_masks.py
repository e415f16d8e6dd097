"""Masks go along from layer to layer, into losses and metrics, as in Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import hornfels as hf
from hornfels.frontend import layers, losses, metrics
from hornfels.frontend.masks import mask_of, set_mask

RNG = np.random.default_rng(0)
TOKENS = np.array([[1, 2, 3, 0, 0], [4, 0, 5, 6, 0], [7, 8, 9, 1, 2]], np.int32)
SEQUENCE = RNG.normal(size=(3, 5, 4)).astype(np.float32)
SEQUENCE[0, 3:] = SEQUENCE[1, 1] = 0
LABELS = np.eye(3, dtype=np.float32)


def last_of_lstm(k):
    tokens = k.Input((5,), dtype="int32")
    x = k.layers.Embedding(10, 4, mask_zero=True)(tokens)
    x = k.layers.Dropout(0.0)(k.layers.Dense(4, activation="tanh")(x))
    return k.Model(tokens, k.layers.Dense(3, activation="softmax")(k.layers.LSTM(4)(x)))


def tagger(k):
    """Masked steps count neither in the loss nor in the accuracy."""
    x = k.Input((5, 4))
    y = k.layers.GRU(4, return_sequences=True)(k.layers.Masking()(x))
    return k.Model(x, k.layers.Dense(3, activation="softmax")(y))


def averaged(k):
    tokens = k.Input((None,), dtype="int32")
    x = k.layers.Embedding(10, 4, mask_zero=True)(tokens)
    both = k.layers.Concatenate()([x, k.layers.Activation("relu")(x)])
    x = k.layers.GlobalAveragePooling1D()(k.layers.LayerNormalization()(both))
    return k.Model(tokens, k.layers.Dense(3, activation="softmax")(x))


def directions(k):
    stack = [k.Input((5, 4)), k.layers.Masking(),
             k.layers.Bidirectional(k.layers.LSTM(3, return_sequences=True)),
             k.layers.TimeDistributed(k.layers.Dense(4)), k.layers.Bidirectional(k.layers.GRU(2)),
             k.layers.Dense(3, activation="softmax")]  # fmt: skip
    return k.Sequential(stack)


def attending(k):
    tokens = k.Input((5,), dtype="int32")
    x = k.layers.Embedding(10, 4, mask_zero=True)(tokens)
    y = k.layers.MultiHeadAttention(2, 2)(k.layers.Activation("linear")(x), x)
    return k.Model(tokens, k.layers.Dense(3, activation="softmax")(k.layers.GRU(3)(y)))


def nested(k):
    inner = k.Sequential([k.Input((5, 4)), k.layers.Dense(4), k.layers.SimpleRNN(3)])
    x = k.Input((5, 4))
    return k.Model(x, k.layers.Dense(3, activation="softmax")(inner(k.layers.Masking()(x))))


def batch_of(model):
    x = TOKENS if model in (last_of_lstm, averaged, attending) else SEQUENCE
    y = LABELS[[0, 2, 1]]
    return x, np.repeat(y[:, None], 5, 1) if model is tagger else y


MODELS = [last_of_lstm, tagger, averaged, directions, attending, nested]


def pair(model):
    ours, theirs = model(hf), model(keras)
    ours.set_weights([np.asarray(w) for w in theirs.weights])
    return ours, theirs


@pytest.mark.parametrize(
    ("model", "backend"),
    [(model, "tvm") for model in MODELS]
    + [(model, "onnx") for model in (tagger, directions, attending)]
    + [(model, "eager") for model in (last_of_lstm, averaged)],
)
@pytest.mark.filterwarnings("ignore:Layer .* does not support masking")  # Keras of its models
def test_training_with_masks_equals_keras(model, backend, keras_run):
    weights, wanted, predicted = keras_run(model)
    ours = model(hf)
    ours.set_weights(weights)
    ours.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], backend=backend)
    x, y = batch_of(model)
    np.testing.assert_allclose(ours.predict_on_batch(x), predicted, rtol=1e-5, atol=1e-6)
    found = [ours.train_on_batch(x, y) for _ in wanted]
    columns = 1 if model is tagger else 2  # Keras' step on JAX loses the mask before the metrics
    np.testing.assert_allclose(np.array(found)[:, :columns], np.array(wanted)[:, :columns],
                               rtol=2e-5)  # fmt: skip


@pytest.mark.parametrize("backend", ["eager", "tvm"])
def test_accuracy_of_the_steps_that_count(backend):
    model = tagger(hf)
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], backend=backend)
    x, y = batch_of(tagger)
    right = model.predict_on_batch(x).argmax(-1) == y.argmax(-1)
    kept = (x != 0).any(-1)
    _, accuracy = model.test_on_batch(x, y)
    np.testing.assert_allclose(accuracy, right[kept].mean(), rtol=1e-6)


@pytest.fixture(scope="module")
def keras_run():
    """Weights, three training steps and a prediction of a model in Keras, made once."""
    known = {}

    def run(model):
        if model not in known:
            theirs = model(keras)
            x, y = batch_of(model)
            weights = [np.asarray(w) for w in theirs.weights]
            predicted = theirs.predict_on_batch(x)
            theirs.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
            steps = [[float(v) for v in theirs.train_on_batch(x, y)] for _ in range(3)]
            theirs.reset_metrics()
            known[model] = weights, steps, predicted
        return known[model]

    return run


def test_arrays_symbolic_tensors_and_values_have_masks():
    embedding = layers.Embedding(10, 4, mask_zero=True)
    array, symbolic = embedding(TOKENS), embedding(hf.Input((5,), dtype="int32"))
    np.testing.assert_array_equal(mask_of(array), TOKENS != 0)
    assert (mask_of(symbolic).shape, mask_of(symbolic).dtype) == ((None, 5), "bool")
    np.testing.assert_array_equal(mask_of(layers.Dense(2)(array)), TOKENS != 0)
    assert mask_of(layers.LSTM(2)(array)) is None
    assert mask_of(np.array(array)) is None


def test_a_layer_that_takes_no_mask_warns_that_it_is_lost():
    array = layers.Embedding(10, 4, mask_zero=True)(TOKENS)
    with pytest.warns(UserWarning, match="layer 'flat' .Flatten. does not support masking"):
        assert mask_of(layers.Flatten(name="flat")(array)) is None


class Doubling(layers.Layer):
    """Of a user: two steps for each, and the mask alike; it reads the mask too."""

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else hf.ops.repeat(mask, 2, axis=1)

    def call(self, inputs, mask=None):
        kept = hf.ops.expand_dims(hf.ops.cast(mask, inputs.dtype), -1)
        return hf.ops.repeat(inputs * kept, 2, axis=1)


def test_a_layer_of_a_user_reads_and_makes_masks():
    doubled = Doubling()(layers.Masking()(SEQUENCE))
    np.testing.assert_array_equal(mask_of(doubled), np.repeat((SEQUENCE != 0).any(-1), 2, 1))
    given = Doubling()(SEQUENCE, mask=np.zeros((3, 5), bool))
    assert not given.any()


def test_merged_masks():
    a, b = layers.Masking()(SEQUENCE), layers.Masking()(SEQUENCE[::-1].copy())
    either = mask_of(a) | mask_of(b)
    np.testing.assert_array_equal(mask_of(layers.Add()([a, b])), either)
    assert mask_of(layers.Add()([a, np.array(b)])) is None
    both = mask_of(layers.Concatenate(axis=1)([a, np.array(b)]))
    np.testing.assert_array_equal(both, np.concatenate([mask_of(a), np.ones((3, 5), bool)], 1))


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_leave_masked_steps_out_as_in_keras(reduction, weighted):
    y, p = (RNG.random((3, 5, 2)).astype(np.float32) for _ in range(2))
    mask = TOKENS != 0
    weight = RNG.random((3, 5)).astype(np.float32) if weighted else None
    theirs = keras.ops.convert_to_tensor(p)
    theirs._keras_mask = keras.ops.convert_to_tensor(mask)
    wanted = keras.losses.MeanSquaredError(reduction)(y, theirs, weight)
    set_mask(p, mask)
    found = losses.MeanSquaredError(reduction)(y, p, weight)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_leave_masked_steps_out_as_in_keras(weighted):
    y, p = (RNG.random((3, 5, 2)).astype(np.float32) for _ in range(2))
    mask = TOKENS != 0
    weight = RNG.random((3, 5)).astype(np.float32) if weighted else None
    theirs, other = keras.ops.convert_to_tensor(p), keras.metrics.MeanSquaredError()
    theirs._keras_mask = keras.ops.convert_to_tensor(mask)
    other.update_state(y, theirs, weight)
    set_mask(p, mask)
    mine = metrics.MeanSquaredError()
    mine.update_state(y, p, weight)
    np.testing.assert_allclose(mine.result(), other.result(), rtol=1e-6)


def test_nothing_stays_of_masks_of_arrays_that_are_gone():
    from hornfels.frontend import masks

    before = len(masks._of_arrays)
    for _ in range(3):
        layers.Masking()(SEQUENCE)
    assert len(masks._of_arrays) <= before + 1
