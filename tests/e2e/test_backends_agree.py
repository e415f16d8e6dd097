"""The same model, data and seed, trained 50 steps on every backend, gives the same losses."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import training

import hornfels as hf

MODELS = {"mlp": training.mlp, "cnn": partial(training.cnn, dropout=0.5), "resnet": training.resnet}


def curves(name: str, digits, dtype: str) -> dict[str, np.ndarray]:
    """Losses by backend, all from the same weights."""
    build = MODELS[name]
    data = training.batches(*digits, flat=name == "mlp", dtype=dtype)
    weights, found = None, {}
    for backend in ("eager", "tvm", "onnx"):
        hf.utils.set_random_seed(1)
        model = build(hf)
        model.compile(
            optimizer=training.optimizer(name, hf),
            loss="categorical_crossentropy",
            metrics=["accuracy"],
        )
        weights = weights or model.get_weights()
        model.set_weights(weights)
        compiled = hf.compile(model, backend=backend)
        found[backend] = training.losses(compiled.train_on_batch, data)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_f32_losses_agree(name, digits):
    found = curves(name, digits, "float32")
    assert found["eager"][-5:].mean() < 0.97 * found["eager"][:5].mean(), "the model must learn"
    for backend in ("tvm", "onnx"):
        difference = training.relative(found[backend], found["eager"])
        assert difference[0] < 1e-5, backend
        assert difference.max() < 1e-3, backend


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("float64")
def test_f64_losses_agree(name, digits):
    found = curves(name, digits, "float64")
    for backend in ("tvm", "onnx"):
        assert training.relative(found[backend], found["eager"]).max() < 1e-9, backend


@pytest.fixture
def bfloat16():
    """Layers compute in bf16 on weights in f32."""
    hf.config.set_dtype_policy("mixed_bfloat16")
    yield
    hf.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("bfloat16")
def test_bf16_losses_agree(name, digits):
    """Sums differ in the last digits of f32, which rounding to bf16 mostly hides."""
    build, data = MODELS[name], training.batches(*digits, flat=name == "mlp", dtype="float32")
    weights, found = None, {}
    for backend in ("eager", "tvm"):
        hf.utils.set_random_seed(1)
        model = build(hf)
        model.compile(optimizer=training.optimizer(name, hf), loss="categorical_crossentropy")
        weights = weights or model.get_weights()
        model.set_weights(weights)
        found[backend] = training.losses(hf.compile(model, backend=backend).train_on_batch, data)
        assert model.layers[0].compute_dtype == "bfloat16"
        assert {w.dtype for w in model.get_weights()} == {np.dtype("float32")}
    assert found["tvm"][-5:].mean() < 0.97 * found["tvm"][:5].mean(), "the model must learn"
    difference = training.relative(found["tvm"], found["eager"])
    assert difference[0] < 1e-3
    assert difference.max() < 0.05


def test_the_comparison_notices_another_dropout_mask(digits):
    data = training.batches(*digits, flat=False, dtype="float32")
    found = []
    for seed in (7, 8):
        hf.utils.set_random_seed(1)
        model = training.cnn(hf, dropout=0.5)
        model.compile(optimizer="adam", loss="categorical_crossentropy")
        for layer in model.layers:
            if isinstance(layer, hf.layers.Dropout):
                layer.seed_generator.state.assign(np.array([seed, 0], np.uint32))
        found.append(training.losses(hf.compile(model, "eager").train_on_batch, data[:3]))
    assert training.relative(*found).max() > 1e-3
