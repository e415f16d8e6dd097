"""50 training steps against real Keras on JAX from the same weights, without dropout."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import training

import hornfels as hf


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_losses_agree_with_keras(name, digits):
    build = getattr(training, name)
    data = training.batches(*digits, flat=name == "mlp", dtype="float32")
    keras.utils.set_random_seed(3)
    theirs = build(keras)
    ours = build(hf)
    ours.set_weights(theirs.get_weights())
    found = {}
    for label, k, model in (("keras", keras, theirs), ("tvm", hf, ours)):
        model.compile(optimizer=training.optimizer(name, k), loss="categorical_crossentropy")
        found[label] = training.losses(model.train_on_batch, data)
    assert training.relative(found["tvm"], found["keras"]).max() < 2e-3
    x = data[0][0]
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert mine.shape == other.shape
    np.testing.assert_allclose(
        ours.predict(x, verbose=0), theirs.predict(x, verbose=0), rtol=5e-2, atol=5e-3
    )
