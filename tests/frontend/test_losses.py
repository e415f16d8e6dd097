"""Losses against real Keras on JAX: values, gradients, reductions, names, refusals."""

from __future__ import annotations

import jax
import keras
import numpy as np
import pytest

from hornfels.frontend import losses
from hornfels.frontend.trace import Trace
from hornfels.ir.errors import ArgumentError, ShapeError
from hornfels.ir.evaluate import evaluate
from hornfels.ir.types import f32, symbol

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (6, 5)).astype(np.float32)
PROBABILITIES = (np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)).astype(np.float32)
ONE_HOT = np.eye(5, dtype=np.float32)[[0, 4, 2, 2, 1, 3]]
CLASSES = ONE_HOT.argmax(1).astype(np.int32)
BITS = (RNG.random((6, 5)) > 0.5).astype(np.float32)
UNIT = RNG.random((6, 5)).astype(np.float32)
EDGES = np.array([[0, 1, 0, 1, 0.5]] * 6, np.float32)  # where clipping acts
WEIGHTS = np.array([0.5, 2, 1, 0, 3, 1], np.float32)
IMAGES = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
IMAGE_CLASSES = RNG.integers(0, 5, (2, 3, 4)).astype(np.int32)

CASES = [
    ("MeanSquaredError", {}, BITS, LOGITS),
    ("MeanAbsoluteError", {}, BITS, LOGITS),
    ("CategoricalCrossentropy", {}, ONE_HOT, PROBABILITIES),
    ("CategoricalCrossentropy", {}, ONE_HOT, UNIT),  # not normalized
    ("CategoricalCrossentropy", {}, ONE_HOT, EDGES),
    ("CategoricalCrossentropy", {"from_logits": True}, ONE_HOT, LOGITS),
    ("CategoricalCrossentropy", {"label_smoothing": 0.2}, ONE_HOT, PROBABILITIES),
    ("CategoricalCrossentropy", {"from_logits": True, "label_smoothing": 0.1}, ONE_HOT, LOGITS),
    ("CategoricalCrossentropy", {"axis": 1, "from_logits": True},
     np.moveaxis(np.eye(5, dtype=np.float32)[IMAGE_CLASSES], -1, 1), np.moveaxis(IMAGES, -1, 1)),
    ("SparseCategoricalCrossentropy", {}, CLASSES, PROBABILITIES),
    ("SparseCategoricalCrossentropy", {}, CLASSES[:, None], PROBABILITIES),
    ("SparseCategoricalCrossentropy", {}, CLASSES.astype(np.float32), PROBABILITIES),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, CLASSES, LOGITS),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, CLASSES.astype(np.int64), 40 * LOGITS),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, IMAGE_CLASSES, IMAGES),
    ("SparseCategoricalCrossentropy", {"ignore_class": 2, "reduction": "sum"}, CLASSES,
     PROBABILITIES),
    ("BinaryCrossentropy", {}, BITS, UNIT),
    ("BinaryCrossentropy", {}, BITS, EDGES),
    ("BinaryCrossentropy", {"from_logits": True}, BITS, 20 * LOGITS),
    ("BinaryCrossentropy", {"label_smoothing": 0.3}, BITS, UNIT),
    ("BinaryCrossentropy", {}, BITS[:, :1], UNIT[:, :1]),
    ("BinaryCrossentropy", {}, BITS[:, 0], UNIT[:, :1]),
]  # fmt: skip


def pair(name, arguments):
    return getattr(losses, name)(**arguments), getattr(keras.losses, name)(**arguments)


@pytest.mark.parametrize(("name", "arguments", "true", "predicted"), CASES)
def test_values_equal_keras(name, arguments, true, predicted):
    ours, theirs = pair(name, arguments)
    value = ours(true, predicted)
    assert isinstance(value, np.ndarray)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, theirs(true, predicted), rtol=5e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "arguments", "true", "predicted"), CASES)
def test_gradients_equal_jax(name, arguments, true, predicted, differentiate):
    ours, theirs = pair(name, arguments)
    if predicted is EDGES:
        predicted = EDGES * 0.998 + 0.001  # off the kinks
    _, (gradient,) = differentiate(lambda p: ours(true, p), [predicted])
    wanted = jax.grad(lambda p: theirs(true, p))(predicted)
    np.testing.assert_allclose(gradient, wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [None, WEIGHTS, WEIGHTS[:, None]], ids=["none", "n", "n1"])
@pytest.mark.parametrize(
    "reduction", ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None]
)
@pytest.mark.parametrize(
    ("name", "true", "predicted"),
    [("CategoricalCrossentropy", ONE_HOT, PROBABILITIES), ("MeanSquaredError", BITS, UNIT),
     ("SparseCategoricalCrossentropy", CLASSES, PROBABILITIES)],
)  # fmt: skip
def test_reductions_and_weights_equal_keras(name, true, predicted, reduction, weight):
    ours, theirs = pair(name, {"reduction": reduction})
    value = ours(true, predicted, sample_weight=weight)
    wanted = theirs(true, predicted, sample_weight=weight)
    assert value.shape == wanted.shape
    np.testing.assert_allclose(value, wanted, rtol=5e-6)


def test_weights_of_single_pixels():
    ours, theirs = pair("SparseCategoricalCrossentropy", {"from_logits": True})
    weight = RNG.random((2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(
        ours(IMAGE_CLASSES, IMAGES, weight), theirs(IMAGE_CLASSES, IMAGES, weight), rtol=5e-6
    )


def test_all_weights_zero_with_their_mean_is_zero():
    ours, theirs = pair("MeanSquaredError", {"reduction": "mean_with_sample_weight"})
    zero = np.zeros(6, np.float32)
    assert float(ours(BITS, UNIT, zero)) == float(theirs(BITS, UNIT, zero)) == 0.0


@pytest.mark.parametrize(
    ("name", "true", "predicted"),
    [("mean_squared_error", BITS, UNIT), ("mean_absolute_error", BITS, UNIT),
     ("categorical_crossentropy", ONE_HOT, PROBABILITIES),
     ("sparse_categorical_crossentropy", CLASSES, PROBABILITIES),
     ("binary_crossentropy", BITS, UNIT)],
)  # fmt: skip
def test_functions_equal_keras(name, true, predicted):
    ours = getattr(losses, name)(true, predicted)
    theirs = getattr(keras.losses, name)(true, predicted)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=5e-6)


def test_integer_labels_are_no_trouble_for_the_others():
    for name in ("MeanSquaredError", "BinaryCrossentropy", "CategoricalCrossentropy"):
        ours, theirs = pair(name, {})
        true = ONE_HOT.astype(np.uint8)
        np.testing.assert_allclose(
            ours(true, PROBABILITIES), theirs(true, PROBABILITIES), rtol=5e-6
        )


def test_a_loss_traces_with_a_symbolic_batch():
    n = symbol("N")
    loss = losses.CategoricalCrossentropy()
    with Trace("loss") as trace:
        y, p, w = trace.input("y", f32(n, 5)), trace.input("p", f32(n, 5)), trace.input("w", f32(n))
        graph = trace.finish({"loss": loss(y, p, w)})
    for rows in (1, 3, 6):
        feed = {"y": ONE_HOT[:rows], "p": PROBABILITIES[:rows], "w": WEIGHTS[:rows]}
        ours = evaluate(graph, feed).outputs["loss"]
        wanted = keras.losses.CategoricalCrossentropy()(*feed.values())
        np.testing.assert_allclose(ours, wanted, rtol=5e-6)


def test_a_custom_loss_is_a_subclass_or_a_function():
    from hornfels.frontend import ops

    class Cubed(losses.Loss):
        def call(self, y_true, y_pred):
            return ops.mean(ops.abs(y_true - y_pred) ** 3, axis=-1)

    wanted = (np.abs(BITS - UNIT) ** 3).mean()
    assert float(Cubed()(BITS, UNIT)) == pytest.approx(wanted, rel=1e-5)
    assert Cubed().name.startswith("cubed")
    wrapped = losses.resolve(lambda t, p: ops.mean(ops.abs(t - p) ** 3, axis=-1), (6, 5), (6, 5))
    assert float(wrapped(BITS, UNIT)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["mse", "MSE", "mae", "MAE", "bce", "BCE", "mean_squared_error",
    "categorical_crossentropy", "sparse_categorical_crossentropy", "MeanSquaredError",
    "CategoricalCrossentropy", "BinaryCrossentropy"])  # fmt: skip
def test_names_mean_what_they_mean_in_keras(name):
    ours, theirs = losses.get(name), keras.losses.get(name)
    assert isinstance(ours, losses.Loss) == isinstance(theirs, keras.losses.Loss)
    same = ours.name == theirs.name if hasattr(ours, "name") else ours.__name__ == theirs.__name__
    assert same


@pytest.mark.parametrize(
    ("true_shape", "predicted_shape", "wanted"),
    [((8, 1), (8, 1), "binary_crossentropy"), ((8,), (8, 1), "binary_crossentropy"),
     ((8,), (8, 10), "sparse_categorical_crossentropy"),
     ((8, 1), (8, 10), "sparse_categorical_crossentropy"),
     ((8, 10), (8, 10), "categorical_crossentropy")],
)  # fmt: skip
def test_crossentropy_is_chosen_by_the_shapes(true_shape, predicted_shape, wanted):
    assert losses.resolve("crossentropy", true_shape, predicted_shape).name == wanted


def test_configurations_read_each_other():
    for name, arguments in (("CategoricalCrossentropy", {"label_smoothing": 0.1}),
                            ("SparseCategoricalCrossentropy", {"from_logits": True}),
                            ("MeanSquaredError", {"reduction": "sum"})):  # fmt: skip
        ours, theirs = pair(name, arguments)
        written = losses.serialize(ours)
        wanted = keras.losses.serialize(theirs)
        wanted["config"] = written["config"] | wanted["config"]  # Keras forgets `axis` of one
        assert written == wanted
        assert losses.deserialize(written).get_config() == ours.get_config()
    assert losses.serialize(losses.mean_squared_error) == "mean_squared_error"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: losses.get("categorical_crosentropy"), ArgumentError,
         r"loss: the name must be one of .*mean_squared_error.*; got 'categorical_crosentropy'"
         r"\n  hint: did you mean 'categorical_crossentropy'\?"),
        (lambda: losses.MeanSquaredError(reduction="max"), ArgumentError,
         "reduction must be one of sum_over_batch_size, .* got 'max'"),
        (lambda: losses.CategoricalCrossentropy()(CLASSES, PROBABILITIES), ShapeError,
         r"categorical_crossentropy: y_true and y_pred must have the same shape, got "
         r"f32\[6\] and f32\[6,5\]\n(.|\n)*hint: for integer labels use sparse"),
        (lambda: losses.SparseCategoricalCrossentropy()(ONE_HOT, PROBABILITIES), ShapeError,
         r"must be class numbers of shape \[6\] for y_pred f32\[6,5\], got i32\[6,5\]"),
        (lambda: losses.MeanSquaredError()(BITS[:, :3], UNIT), ShapeError,
         r"got f32\[6,3\] and f32\[6,5\]"),
        (lambda: losses.MeanSquaredError()(BITS, UNIT, np.ones(4, np.float32)), ShapeError,
         r"sample_weight must broadcast to the losses \[6\], got f32\[4\]"),
        (lambda: losses.BinaryCrossentropy(label_smoothing=2)(BITS, UNIT), ArgumentError,
         r"label_smoothing must be in \[0, 1\], got 2"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
