"""What is not trained costs nothing: no gradients, and no activations kept for them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import hornfels as hf
from hornfels import layers
from hornfels.passes.pipeline import make_plan, optimize

BATCH = 16
CONTRACTIONS = ("conv", "conv_input_grad", "conv_kernel_grad", "matmul")


def build() -> hf.Sequential:
    return hf.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(16, 3, activation="relu", name="conv_a"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(16, 3, activation="tanh", name="conv_b"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, activation="relu", name="conv_c"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )


def compiled(model: hf.Sequential) -> hf.Sequential:
    model.compile("sgd", "sparse_categorical_crossentropy", backend="eager")
    return model


def cost(model: hf.Sequential, kind: str = "train") -> tuple[int, Counter]:
    """Bytes of temporary memory, and how often each contraction runs."""
    x, y = np.zeros((1, 16, 16, 3), np.float32), np.zeros(1, np.int32)
    graph = model.make_graph(kind, x, y) if kind == "train" else model.make_graph(kind, x)
    plan = make_plan(optimize(graph.specialize({"N": BATCH})))
    names = Counter(n.op.name for n in graph.nodes if n.op.name in CONTRACTIONS)
    return plan.arena_bytes, names


def test_a_frozen_backbone_costs_what_a_prediction_does():
    trained_bytes, trained = cost(compiled(build()))
    model = build()
    for layer in model.layers[:-1]:
        layer.trainable = False
    frozen_bytes, frozen = cost(compiled(model))
    predicted_bytes, predicted = cost(model, "predict")
    assert trained == {"conv": 3, "conv_input_grad": 2, "conv_kernel_grad": 3, "matmul": 3}
    assert predicted == {"conv": 3, "matmul": 1}
    assert frozen == {"conv": 3, "matmul": 2}  # the head's product, and its kernel's gradient
    activation = BATCH * 14 * 14 * 16 * 4  # what conv_a leaves
    assert trained_bytes > frozen_bytes + 2 * activation
    assert frozen_bytes < predicted_bytes + activation // 10


def test_a_frozen_middle_lets_gradients_through_and_keeps_no_activation():
    """Only its kernel's gradient reads what a linear layer was given."""

    def chain(frozen: bool) -> hf.Sequential:
        model = hf.Sequential(
            [layers.Input((64,)), *[layers.Dense(64, name=f"dense_{i}") for i in range(8)]]
        )
        for layer in model.layers[1:]:
            layer.trainable = not frozen
        model.compile("sgd", "mse", backend="eager")
        return model

    found = []
    for frozen in (False, True):
        graph = chain(frozen).make_graph("train", np.zeros((1, 64), np.float32),
                                         np.zeros((1, 64), np.float32))  # fmt: skip
        plan = make_plan(optimize(graph.specialize({"N": 256})))
        found.append((plan.arena_bytes, sum(n.op.name == "matmul" for n in graph.nodes)))
    (all_bytes, all_products), (few_bytes, few_products) = found
    assert (all_products, few_products) == (8 + 7 + 8, 8 + 7 + 1)
    activation = 256 * 64 * 4
    assert all_bytes >= 8 * activation
    assert few_bytes <= 3 * activation


@pytest.mark.parametrize("backend", ["eager", "tvm"])
def test_toggling_trainable_recompiles(backend):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 5)).astype(np.float32)
    y = rng.standard_normal((8, 2)).astype(np.float32)
    model = hf.Sequential(
        [layers.Input((5,)), layers.Dense(4, name="one"), layers.Dense(2, name="two")]
    )

    def moved() -> list[bool]:
        before = [w.numpy() for w in model.weights]
        model.train_on_batch(x, y)
        return [
            not np.array_equal(a, w.numpy()) for a, w in zip(before, model.weights, strict=True)
        ]

    one = model.get_layer("one")
    model.compile("sgd", "mse", backend=backend)
    assert moved() == [True] * 4
    one.trainable = False
    model.compile("sgd", "mse", backend=backend)
    assert moved() == [False, False, True, True]
    one.trainable = True
    model.compile("sgd", "mse", backend=backend)
    assert moved() == [True] * 4
    one.kernel.trainable = False  # one variable alone
    model.compile("sgd", "mse", backend=backend)
    assert moved() == [False, True, True, True]


def test_a_compiled_function_is_traced_again_when_trainable_changes():
    layer = layers.Dense(2)
    layer(np.zeros((1, 3), np.float32))
    traces = []

    @hf.compile(backend="eager")
    def count(x):
        traces.append(len(layer.trainable_variables))
        return hf.ops.sum(layer(x)) * len(layer.trainable_variables)

    x = np.zeros((1, 3), np.float32)
    count(x)
    count(x)
    layer.trainable = False
    count(x)
    assert traces == [2, 0]
