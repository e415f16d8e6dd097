"""Layers made of control flow, trained with Adam: the same losses as Keras on JAX."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import training

import hornfels as hf

STEPS = 12


def recurrent(k, reverse: bool, **options):
    """A layer whose cell runs once for each row of an image."""

    class Recurrent(k.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 16), initializer="zeros", name="kernel")
            self.recurrent = self.add_weight(shape=(16, 16), initializer="zeros", name="recurrent")

        def call(self, x):
            def step(carry, row):
                h, count = carry
                h = k.ops.tanh(k.ops.matmul(row, self.kernel) + k.ops.matmul(h, self.recurrent))
                h = k.ops.cond(k.ops.equal(count % 2, 0), lambda: h * 1.1, lambda: h)
                return (h, count + 1), k.ops.mean(h, axis=-1)

            start = (k.ops.zeros_like(k.ops.matmul(x[:, 0], self.kernel)), 0)
            (h, _), means = k.ops.scan(
                step, start, k.ops.transpose(x, (1, 0, 2)), reverse=reverse, **options
            )
            return k.ops.concatenate([h, k.ops.transpose(means)], axis=-1)

        def compute_output_shape(self, shape):
            return (shape[0], 16 + shape[1])

    inputs = k.Input((8, 8))
    return k.Model(inputs, k.layers.Dense(10, activation="softmax")(Recurrent()(inputs)))


def losses(k, model, weights, data) -> np.ndarray:
    model.set_weights(weights)
    model.compile(optimizer=k.optimizers.Adam(0.01), loss="categorical_crossentropy")
    return training.losses(model.train_on_batch, data)


@pytest.mark.parametrize(("reverse", "gradient"), [(False, "store"), (True, "recompute")])
def test_a_cell_in_a_scan_trains_as_in_keras(reverse, gradient, digits):
    data = [(x[..., 0], y) for x, y in training.batches(*digits, flat=False, dtype="float32")]
    data = data[:STEPS]
    theirs = recurrent(keras, reverse)
    rng = np.random.default_rng(5)
    weights = [(rng.normal(size=w.shape) * 0.3).astype(np.float32) for w in theirs.get_weights()]
    expected = losses(keras, theirs, weights, data)
    assert expected[-3:].mean() < 0.95 * expected[:3].mean(), "the cell must learn"
    ours = recurrent(hf, reverse, gradient=gradient)
    found = losses(hf, ours, weights, data)
    assert training.relative(found, expected).max() < 1e-3
    x = data[0][0]
    np.testing.assert_allclose(
        ours.predict(x, verbose=0), theirs.predict(x, verbose=0), rtol=1e-2, atol=1e-4
    )
