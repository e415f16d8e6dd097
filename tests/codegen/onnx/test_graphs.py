"""Whole graphs, random ones and training steps, in ONNX Runtime against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import training_graphs
from onnx_run import run_graph
from random_graphs import random_graph

from hornfels.codegen.onnx import lower
from hornfels.codegen.onnx.prepare import ReluAfterPool, prepare
from hornfels.ir import Builder, Graph, evaluate, gradients, symbol
from hornfels.ir.op import get
from hornfels.ir.types import f32, f64, u32

BATCH = 6


def arrays_for(graph: Graph, seed: int, batch: int = BATCH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for v in graph.parameters:
        shape = tuple(int(d) for d in v.type.substitute({"N": batch}).shape)
        if v.name == "y":
            found[v.name] = np.eye(10, dtype=v.dtype.numpy)[rng.integers(0, 10, batch)]
        elif v.dtype == u32:
            found[v.name] = rng.integers(0, 2**32, shape, dtype=np.uint32)
        elif v.dtype.is_integer or v.name.endswith(("/v", "variance", "count")):
            found[v.name] = np.ones(shape, v.dtype.numpy)
        else:
            found[v.name] = (0.3 * rng.normal(size=shape)).astype(v.dtype.numpy)
    return found


def differences(graph: Graph, arrays: dict[str, np.ndarray]) -> float:
    """The largest relative difference over outputs and updates."""
    expected = evaluate(graph, arrays)
    named = expected.outputs | {f"new/{k}": v for k, v in expected.updates.items()}
    found = run_graph(prepare(graph), arrays)
    assert found.keys() == named.keys()
    worst = 0.0
    for name, array in named.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        if array.size and array.dtype.kind == "f":
            scale = np.abs(array).max() + 1e-6
            worst = max(worst, float(np.abs(found[name] - array).max() / scale))
        else:
            np.testing.assert_array_equal(found[name], array)
    return worst


@pytest.mark.parametrize("seed", range(25))
def test_random_graph(seed):
    graph = random_graph(seed)
    assert differences(graph, arrays_for(graph, seed)) < 1e-9


@pytest.mark.parametrize("seed", range(25, 35))
def test_random_graph_in_f32(seed):
    graph = random_graph(seed, dtype=f32)
    assert differences(graph, arrays_for(graph, seed)) < 5e-3  # some cancel badly


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_training_step_in_f64(name):
    options = {"units": 16, "features": 20} if name == "mlp" else {"size": 12, "filters": 4}
    graph = getattr(training_graphs, name)(f64, **options)
    assert differences(graph, arrays_for(graph, 3)) < 1e-11


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_training_step_in_f32(name):
    options = {"units": 16, "features": 20} if name == "mlp" else {"size": 12, "filters": 4}
    graph = getattr(training_graphs, name)(f32, **options)
    assert differences(graph, arrays_for(graph, 3)) < 2e-4


def test_the_comparison_notices_a_wrong_gradient(monkeypatch):
    graph = training_graphs.mlp(f64, units=8, features=5)
    arrays = arrays_for(graph, 0)
    wrong = {**arrays, "dense_0/kernel": arrays["dense_0/kernel"] * 1.001}
    expected, found = evaluate(graph, arrays), run_graph(graph, wrong)
    gap = np.abs(found["new/dense_1/kernel/m"] - expected.updates["dense_1/kernel/m"]).max()
    assert gap > 1e-7


# --- relu and max_pool -----------------------------------------------------------------------


def _relu_pool(spy: bool) -> Graph:
    n = symbol("N")
    with Builder("relu_pool") as b:
        x, w = b.input("x", f64(n, 6, 5, 2)), b.input("w", f64(n, 3, 2, 2))
        y = get("relu")(x)
        pooled = get("max_pool")(y, **training_graphs.WINDOW)
        (dx,) = gradients((pooled * w).sum(), [x])
        outputs = {"pooled": pooled, "dx": dx}
        return b.finish({**outputs, "y": y} if spy else outputs)


def test_relu_moves_behind_the_pool():
    graph = prepare(_relu_pool(spy=False))
    order = [n.op.name for n in graph.nodes if n.op.name in ("relu", "max_pool")]
    assert order == ["max_pool", "relu"]
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=(3, 6, 5, 2)))  # with ties, and windows of zeros
    x[0] = -1.0
    assert differences(_relu_pool(spy=False), {"x": x, "w": rng.normal(size=(3, 3, 2, 2))}) == 0


def test_relu_stays_where_something_else_reads_it():
    optimized = prepare(_relu_pool(spy=True))
    assert ReluAfterPool().run(optimized) is optimized


def test_positions_of_maxima_only_in_training_steps():
    step = lower(prepare(_relu_pool(spy=False)))
    pools = [n for n in step.graph.node if n.op_type == "MaxPool"]
    assert [len(p.output) for p in pools] == [2]
    with Builder("inference") as b:
        x = b.input("x", f32(symbol("N"), 6, 5, 2))
        graph = b.finish({"y": get("max_pool")(x, **training_graphs.WINDOW)})
    (pool,) = (n for n in lower(graph).graph.node if n.op_type == "MaxPool")
    assert len(pool.output) == 1
