"""Recurrent cells trained through a scan: the same losses on every backend, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import recurrent
import training

import hornfels as hf
from hornfels.ir import Graph
from hornfels.ir.types import f32, f64
from hornfels.runtime.executable import make_backend

STEPS = 20


def losses(backend: str, graph: Graph, data) -> np.ndarray:
    """The loss of each step, all from the same weights."""
    device = make_backend(backend)
    executable, state = device.compile(graph), device.state()
    for name, array in recurrent.start(graph).items():
        state.write(name, array)
    return np.array([float(executable(state, {"x": x, "y": y})["loss"]) for x, y in data])


def batches(digits, dtype: str):
    """Batches whose steps are the rows of the images."""
    data = training.batches(*digits, flat=False, dtype=dtype)[:STEPS]
    return [(np.ascontiguousarray(x[..., 0].transpose(1, 0, 2)), y) for x, y in data]


@pytest.mark.parametrize("kind", recurrent.GATES)
def test_f64_losses_agree(kind, digits):
    data = batches(digits, "float64")
    graph = recurrent.training_step(kind)
    expected = losses("eager", graph, data)
    assert expected[-5:].mean() < 0.99 * expected[:5].mean(), "the cell must learn"
    for backend in ("tvm", "onnx"):
        assert training.relative(losses(backend, graph, data), expected).max() < 1e-9, backend


def test_f32_losses_agree(digits):
    data = batches(digits, "float32")
    graph = recurrent.training_step("lstm", dtype=f32)
    expected = losses("eager", graph, data)
    for backend in ("tvm", "onnx"):
        assert training.relative(losses(backend, graph, data), expected).max() < 1e-3, backend


@pytest.mark.parametrize("reverse", [False, True])
def test_recomputing_gives_the_gradient_that_storing_does(digits, reverse):
    data = batches(digits, "float64")
    stored, recomputed = (
        losses("tvm", recurrent.training_step("gru", gradient=g, reverse=reverse, dtype=f64), data)
        for g in ("store", "recompute")
    )
    assert training.relative(recomputed, stored).max() < 1e-9


class Recurrent(hf.layers.Layer):
    """A gated cell over the rows of an image, written by a user; the last state comes out."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units

    def build(self, shape) -> None:
        self.kernel = self.add_weight((shape[-1], 2 * self.units), "glorot_uniform")
        self.recurrent = self.add_weight((self.units, 2 * self.units), "orthogonal")

    def call(self, x):
        ops = hf.ops

        def step(h, row):
            z = ops.matmul(row, self.kernel) + ops.matmul(h, self.recurrent)
            candidate, gate = ops.split(z, 2, axis=-1)
            gate = ops.sigmoid(gate)
            new = gate * h + (1 - gate) * ops.tanh(candidate)
            return new, ops.mean(new)

        start = ops.zeros((ops.shape(x)[0], self.units), x.dtype)
        last, _ = ops.scan(step, start, ops.transpose(x, (1, 0, 2)))
        return last


def test_a_layer_with_a_loop_of_its_own_trains_alike(digits):
    data = [(x[..., 0], y) for x, y in training.batches(*digits, flat=False, dtype="float32")]
    weights, found = None, {}
    for backend in ("eager", "tvm", "onnx"):
        hf.utils.set_random_seed(1)
        layers = [hf.Input((8, 8)), Recurrent(16), hf.layers.Dense(10, activation="softmax")]
        model = hf.Sequential(layers)
        model.compile(optimizer="adam", loss="categorical_crossentropy")
        weights = weights or model.get_weights()
        model.set_weights(weights)
        compiled = hf.compile(model, backend=backend)
        found[backend] = training.losses(compiled.train_on_batch, data[:STEPS])
    assert found["eager"][-5:].mean() < 0.99 * found["eager"][:5].mean()
    for backend in ("tvm", "onnx"):
        assert training.relative(found[backend], found["eager"]).max() < 1e-3, backend
