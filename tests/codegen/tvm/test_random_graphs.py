"""Random graphs through the whole pipeline, natively: fusion, memory in place, kernels, entry."""

from __future__ import annotations

import pytest
from random_graphs import assert_same, random_arrays, random_graph

from hornfels.ir import evaluate
from hornfels.ir.evaluate import Evaluation
from hornfels.runtime.tvm_backend import TvmBackend


@pytest.mark.parametrize("seed", range(12))
def test_native_code_computes_what_the_oracle_does(seed):
    graph = random_graph(seed + 5000, nodes=25)
    arrays = random_arrays(graph, seed)
    backend = TvmBackend()
    executable, state = backend.compile(graph), backend.state()
    for value in graph.state:
        state.write(value.name, arrays[value.name])
    outputs = executable(state, {v.name: arrays[v.name] for v in graph.inputs})
    updates = {old.name: state.read(old.name) for old, _ in graph.updates}
    assert_same(Evaluation(outputs, updates), evaluate(graph, arrays), 1e-6, 1e-6)
