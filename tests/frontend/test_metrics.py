"""Metrics against real Keras on JAX over several batches."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from hornfels.frontend import metrics
from hornfels.frontend.trace import Trace
from hornfels.ir.errors import ArgumentError, ShapeError
from hornfels.ir.evaluate import evaluate
from hornfels.ir.types import f32, symbol

RNG = np.random.default_rng(0)


def batches(kind, count=3):
    for size in (8, 8, 5)[:count]:
        scores = RNG.random((size, 4)).astype(np.float32)
        classes = RNG.integers(0, 4, size).astype(np.int32)
        weight = RNG.random(size).astype(np.float32)
        unit = RNG.random((size, 1), np.float32)
        yield {
            "one_hot": (np.eye(4, dtype=np.float32)[classes], scores, weight),
            "sparse": (classes, scores, weight),
            "sparse1": (classes[:, None], scores, weight),
            "binary": ((scores[:, :1] > 0.4).astype(np.float32), unit, weight),
            "binary0": (classes // 2, unit, weight),
            "equal": (classes.astype(np.float32), np.floor(4 * unit[:, 0]), weight),
            "real": (RNG.normal(size=(size, 4)).astype(np.float32), scores, weight),
            "pixels": (RNG.integers(0, 4, (size, 3, 2)).astype(np.int32),
                       RNG.random((size, 3, 2, 4), np.float32),
                       RNG.random((size, 3, 2), np.float32)),
        }[kind]  # fmt: skip


CASES = [
    ("Accuracy", {}, "equal"), ("CategoricalAccuracy", {}, "one_hot"),
    ("SparseCategoricalAccuracy", {}, "sparse"), ("SparseCategoricalAccuracy", {}, "sparse1"),
    ("SparseCategoricalAccuracy", {}, "pixels"), ("BinaryAccuracy", {}, "binary"),
    ("BinaryAccuracy", {"threshold": 0.7}, "binary"), ("BinaryAccuracy", {}, "binary0"),
    ("MeanSquaredError", {}, "real"), ("MeanAbsoluteError", {}, "real"),
    ("RootMeanSquaredError", {}, "real"), ("BinaryCrossentropy", {}, "binary"),
    ("CategoricalCrossentropy", {}, "one_hot"), ("SparseCategoricalCrossentropy", {}, "sparse"),
    ("SparseCategoricalCrossentropy", {}, "pixels"),
]  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_results_equal_keras(name, arguments, kind, weighted):
    ours, theirs = getattr(metrics, name)(**arguments), getattr(keras.metrics, name)(**arguments)
    assert ours.name == theirs.name
    for true, predicted, weight in batches(kind):
        weight = weight if weighted else None
        ours.update_state(true, predicted, sample_weight=weight)
        theirs.update_state(true, predicted, sample_weight=weight)
        np.testing.assert_allclose(ours.result(), theirs.result(), rtol=1e-5)
    for a, b in zip(ours.variables, theirs.variables, strict=True):
        assert a.path.split("/")[-1] == b.path.split("/")[-1]
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5)
    ours.reset_state()
    assert all((v.numpy() == 0).all() for v in ours.variables)
    assert float(ours.result()) == 0.0


@pytest.mark.parametrize("name", ["Mean", "Sum"])
@pytest.mark.parametrize(
    ("values", "weight"),
    [([1, 3, 5, 7], None), ([1, 3, 5, 7], [1, 1, 0, 0]), (3.0, None),
     ([[1.0, 2.0], [3.0, 5.0]], None), ([[1.0, 2.0], [3.0, 5.0]], [0.5, 1.0]),
     ([[1.0, 2.0], [3.0, 5.0]], [[1.0, 0.0], [0.5, 1.0]])],
)  # fmt: skip
def test_reductions_equal_keras(name, values, weight):
    ours, theirs = getattr(metrics, name)(), getattr(keras.metrics, name)()
    for _ in range(2):
        result = ours(values, sample_weight=weight)
    theirs.update_state(values, sample_weight=weight)
    theirs.update_state(values, sample_weight=weight)
    np.testing.assert_allclose(result, theirs.result(), rtol=1e-6)


def test_a_metric_traces_with_a_symbolic_batch():
    n, metric = symbol("N"), metrics.CategoricalAccuracy()
    with Trace("metric") as trace:
        metric.update_state(trace.input("y", f32(n, 4)), trace.input("p", f32(n, 4)))
        graph = trace.finish({"accuracy": metric.result()})
    assert {v.name for v in graph.state} == {"categorical_accuracy/total",
                                             "categorical_accuracy/count"}  # fmt: skip
    state = {v.name: np.float32(0) for v in graph.state}
    theirs = keras.metrics.CategoricalAccuracy()
    for true, predicted, _ in batches("one_hot"):
        run = evaluate(graph, {"y": true, "p": predicted, **state})
        state = run.updates
        theirs.update_state(true, predicted)
        np.testing.assert_allclose(run.outputs["accuracy"], theirs.result(), rtol=1e-6)
    assert float(metric.total.numpy()) == 0.0  # tracing does not run


def test_a_custom_metric_written_the_keras_way():
    from hornfels.frontend import ops

    class Positives(metrics.Metric):
        def __init__(self, name="positives", **kwargs):
            super().__init__(name=name, **kwargs)
            self.found = self.add_variable(shape=(), initializer="zeros", name="found")

        def update_state(self, y_true, y_pred, sample_weight=None):
            both = ops.logical_and(ops.equal(y_true, 1), ops.greater(y_pred, 0.5))
            self.found.assign(self.found + ops.sum(ops.cast(both, self.dtype)))

        def result(self):
            return self.found.value

    metric = Positives()
    assert [v.path for v in metric.variables] == ["positives/found"]
    metric.update_state(np.array([1, 1, 0]), np.array([0.9, 0.1, 0.9], np.float32))
    assert float(metric.result()) == 1.0


@pytest.mark.parametrize(
    ("true_shape", "predicted_shape", "wanted"),
    [((8, 1), (8, 1), metrics.BinaryAccuracy), ((8,), (8, 1), metrics.BinaryAccuracy),
     ((8,), (8, 10), metrics.SparseCategoricalAccuracy),
     ((8, 1), (8, 10), metrics.SparseCategoricalAccuracy),
     ((8, 10), (8, 10), metrics.CategoricalAccuracy),
     ((8, 4, 4), (8, 4, 4, 3), metrics.SparseCategoricalAccuracy)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_accuracy_is_chosen_by_the_shapes(name, true_shape, predicted_shape, wanted):
    metric = metrics.resolve(name, true_shape, predicted_shape)
    assert type(metric) is wanted
    assert metric.name == name


def test_metrics_are_named_as_asked_for():
    assert metrics.resolve("mse", (8, 3), (8, 3)).name == "mse"
    assert type(metrics.resolve("mse", (8, 3), (8, 3))) is metrics.MeanSquaredError
    own = metrics.MeanSquaredError(name="distance")
    assert metrics.resolve(own, (8, 3), (8, 3)) is own

    def spread(y_true, y_pred):
        return abs(y_true - y_pred)

    metric = metrics.resolve(spread, (2,), (2,))
    assert metric.name == "spread"
    metric.update_state(np.array([1.0, 2.0], np.float32), np.array([0.0, 4.0], np.float32))
    assert float(metric.result()) == 1.5


def test_configurations():
    for name in ("Mean", "Sum", "CategoricalAccuracy", "BinaryAccuracy", "MeanSquaredError",
                 "CategoricalCrossentropy"):  # fmt: skip
        metric = getattr(metrics, name)(name="own")
        read = metrics.deserialize(metrics.serialize(metric))
        assert type(read) is type(metric)
        assert read.get_config() == metric.get_config()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.get("acuracy"), ArgumentError,
         r"metric: the name must be one of .*mean_squared_error.*got 'acuracy'\n.*'accuracy'"),
        (lambda: metrics.CategoricalAccuracy()(np.zeros(3, np.int32), np.zeros((3, 4), np.float32)),
         ShapeError, r"labels must be one-hot.*f32\[3,4\], got i32\[3\]"),
        (lambda: metrics.SparseCategoricalAccuracy()(np.zeros(2, np.int32),
                                                     np.zeros((3, 4), np.float32)),
         ShapeError, r"got i32\[2\] and i32\[3\]"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
