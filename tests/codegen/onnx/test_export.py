"""Exported files, used as a stranger would: stock ONNX Runtime, nothing of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import training_graphs

from hornfels.codegen.onnx import export
from hornfels.codegen.onnx.export import export_inference, export_train_step
from hornfels.ir import Builder, Graph, evaluate, symbol
from hornfels.ir.errors import ArgumentError
from hornfels.ir.op import get
from hornfels.ir.types import f32

N = symbol("N")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """ONNX Runtime warns of inputs with default values, on which the training file relies."""
    ort.set_default_logger_severity(3)
    yield
    ort.set_default_logger_severity(2)


def classifier() -> Graph:
    with Builder("classifier") as b:
        net = training_graphs.Network(b, f32)
        h = get("relu")(net.conv(b.input("x", f32(N, 8, 8, 1)), 4, "conv"))
        return b.finish({"output": training_graphs.softmax(net.dense(h.reshape((N, -1)), 10, "d"))})


def arrays_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        v.name: (rng.normal(size=v.shape) * 0.2 * v.name.endswith("kernel")).astype(v.dtype.numpy)
        for v in graph.state
    }


def test_inference(tmp_path):
    graph = classifier()
    arrays = arrays_of(graph)
    export_inference(graph, arrays, tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    session = ort.InferenceSession(tmp_path / "model.onnx")
    assert [i.name for i in session.get_inputs()] == ["x"]
    for batch in (1, 5):
        x = np.random.default_rng(batch).normal(size=(batch, 8, 8, 1)).astype(np.float32)
        (found,) = session.run(["output"], {"x": x})
        expected = evaluate(graph, {"x": x, **arrays}).outputs["output"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_training_step_trains_in_stock_onnxruntime(tmp_path):
    """The loop of the docstring, against the oracle."""
    graph = training_graphs.cnn(f32, size=12, filters=4)
    arrays = arrays_of(graph)
    path = str(tmp_path / "train.onnx")
    export_train_step(graph, arrays, path)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(16, 12, 12, 1)).astype(np.float32)
    y = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 16)]

    session = ort.InferenceSession(path)
    pairs = json.loads(session.get_modelmeta().custom_metadata_map["hornfels.updates"])
    state: dict[str, np.ndarray] = {}
    losses = []
    for _ in range(8):
        loss, *new = session.run(["loss", *pairs.values()], {"x": x, "y": y, **state})
        state = dict(zip(pairs, new, strict=True))
        losses.append(float(loss))

    expected, held = [], arrays
    for _ in range(8):
        result = evaluate(graph, {"x": x, "y": y, **held})
        held = held | result.updates
        expected.append(float(result.outputs["loss"]))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[-1] < losses[0]


def test_a_training_step_without_values_asks_for_all_of_them(tmp_path):
    graph = training_graphs.mlp(f32, units=8, features=5)
    export_train_step(graph, None, tmp_path / "train.onnx")
    session = ort.InferenceSession(tmp_path / "train.onnx")
    assert {i.name for i in session.get_inputs()} == {v.name for v in graph.parameters}


def test_normalization_is_folded_into_the_convolution(tmp_path):
    with Builder("normalized") as b:
        net = training_graphs.Network(b, f32)
        x = b.input("x", f32(N, 6, 6, 2))
        y = net.conv(x, 3, "conv")
        gamma, beta, mean, variance = (net.weight(k, 3) for k in ("gamma", "beta", "mean", "var"))
        y = (y - mean) * (get("rsqrt")(variance + 1e-3) * gamma) + beta
        graph = b.finish({"output": get("relu")(y)})
    rng = np.random.default_rng(0)
    arrays = {v.name: rng.uniform(0.5, 2, v.shape).astype(np.float32) for v in graph.state}
    export_inference(graph, arrays, tmp_path / "model.onnx")
    operators = [n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators == ["Transpose", "Conv", "Relu", "Transpose"]
    x = rng.normal(size=(2, 6, 6, 2)).astype(np.float32)
    (found,) = ort.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x})
    expected = evaluate(graph, {"x": x, **arrays}).outputs["output"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_refusals(tmp_path):
    graph = classifier()
    arrays = arrays_of(graph)
    step = training_graphs.mlp(f32, units=8, features=5)
    with pytest.raises(ArgumentError, match=r'updates state .*\n  hint: .*kind="train"'):
        export_inference(step, arrays_of(step), tmp_path / "model.onnx")
    missing = {k: v for k, v in arrays.items() if k != "d/bias"}
    with pytest.raises(ArgumentError, match=r"no array is given for d/bias: f32\[10\]"):
        export_inference(graph, missing, tmp_path / "model.onnx")
    wrong = arrays | {"d/bias": np.zeros(9, np.float32)}
    with pytest.raises(ArgumentError, match=r"d/bias must be f32\[10\], got f32\[9\]"):
        export_inference(graph, wrong, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(export.os, "replace", full_disk)
    graph = classifier()
    with pytest.raises(OSError, match="no space left"):
        export_inference(graph, arrays_of(graph), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
