"""Predictions between everything that may change a weight: native code against the oracle.

What a prediction keeps of the weights must never be older than they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import hornfels as hf
from hornfels.errors import HornfelsError

X = np.random.default_rng(0).normal(size=(6, 7, 7, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)


def network() -> hf.Sequential:
    hf.utils.set_random_seed(0)
    model = hf.Sequential(
        [
            hf.layers.Input((7, 7, 3)),
            hf.layers.Conv2D(17, 3, padding="same", use_bias=False),
            hf.layers.BatchNormalization(),
            hf.layers.Activation("relu"),
            hf.layers.Flatten(),
            hf.layers.Dense(40, activation="tanh"),
            hf.layers.Dense(4),
        ]
    )
    model.compile(hf.optimizers.SGD(0.01, momentum=0.5), "mse")
    return model


def refused(call: Callable[[], Any]) -> None:
    with pytest.raises(HornfelsError):
        call()


def actions(folder: str) -> dict[str, Callable[[Any, Any], Any]]:
    """What is done to a model and what it was compiled to."""

    def save_and_load(model: Any, compiled: Any) -> None:
        path = f"{folder}/{compiled.backend.name}.weights.h5"
        model.save_weights(path)
        model.set_weights([w + 1 for w in model.get_weights()])
        compiled.predict_on_batch(X)
        model.load_weights(path)

    def freeze(model: Any, compiled: Any) -> None:
        layer = model.layers[0]
        layer.trainable = not layer.trainable

    def assign(model: Any, compiled: Any) -> None:
        model.weights[0].assign(0.9 * model.weights[0].numpy())

    def add(model: Any, compiled: Any) -> None:
        model.weights[-1].assign_add(np.ones(4, np.float32))

    return {
        "train": lambda model, compiled: compiled.train_on_batch(X, Y),
        "fit": lambda model, compiled: compiled.fit(
            X, Y, batch_size=3, epochs=2, shuffle=False, verbose=0
        ),
        "evaluate": lambda model, compiled: compiled.evaluate(X, Y, verbose=0),
        "set_weights": lambda model, compiled: model.set_weights(
            [0.95 * w for w in model.get_weights()]
        ),
        "save and load": save_and_load,
        "freeze": freeze,
        "assign": assign,
        "add": add,
        "refused images": lambda model, compiled: refused(
            lambda: compiled.train_on_batch(X[:, :5], Y)
        ),
        "refused labels": lambda model, compiled: refused(
            lambda: compiled.train_on_batch(X, Y[:, :3])
        ),
        "nothing": lambda model, compiled: None,
    }


def test_predictions_follow_every_change(tmp_path):
    rng, known = np.random.default_rng(0), actions(str(tmp_path))
    models = [network(), network()]
    compiled = [hf.compile(m, backend=b) for m, b in zip(models, ("tvm", "eager"), strict=True)]
    done = [str(name) for _ in range(2) for name in rng.permutation(list(known))]
    for name in done:
        size = int(rng.choice([1, 6]))
        for model, each in zip(models, compiled, strict=True):
            known[name](model, each)
        found, expected = (each.predict_on_batch(X[:size]) for each in compiled)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3, err_msg=name)


def test_models_that_share_layers_see_each_other_train():
    """Each of three compiled models has the weights on a device of its own in turn."""
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=(5, n)).astype(np.float32) for n in (20, 3))
    first, last = hf.layers.Dense(33, activation="relu"), hf.layers.Dense(3)

    def users() -> Iterator[tuple[Any, float]]:
        for factor in (1.0, 2.0):
            inputs = hf.Input((20,))
            model = hf.Model(inputs, last(first(inputs)) * factor)
            model.compile("sgd", "mse")
            yield hf.compile(model, backend="tvm"), factor
            yield hf.compile(model, backend="tvm"), factor

    compiled = list(users())
    for step in range(12):
        compiled[step % 4][0].train_on_batch(x, y)
        if step % 3 == 0:
            first.set_weights([0.9 * w for w in first.get_weights()])
        (k, b), (w, c) = first.get_weights(), last.get_weights()
        expected = np.maximum(x @ k + b, 0) @ w + c
        for each, factor in compiled:
            found = each.predict_on_batch(x)
            np.testing.assert_allclose(found, factor * expected, rtol=1e-4, atol=1e-4)
