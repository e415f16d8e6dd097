"""Recurrent cells trained through a scan: the same losses on every backend, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import recurrent
import training

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
