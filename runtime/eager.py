"""The eager backend: the NumPy oracle made usable, op by op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..ir import Graph, evaluate
from .executable import OPEN


class HostState:
    """State in ordinary NumPy arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name].copy()

    def write(self, name: str, array: np.ndarray) -> None:
        self.arrays[name] = np.array(array)

    def forget(self, name: str) -> None:
        self.arrays.pop(name, None)

    def names(self) -> Iterable[str]:
        return self.arrays


class EagerExecutable:
    """Evaluates the graph as it stands, one op after another."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.peak_bytes = 0  # NumPy allocates each result by itself; there is no arena

    def __call__(self, state: HostState, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = {v.name: state.arrays[v.name] for v in self.graph.state} | dict(inputs)
        result = evaluate(self.graph, arrays)
        state.arrays.update(result.updates)
        return {name: np.array(array) for name, array in result.outputs.items()}


class EagerBackend:
    """Backend `eager`: what users compare with, and what every other backend must equal."""

    name = "eager"
    symbolic = True

    def state(self) -> HostState:
        return HostState()

    def compile(self, graph: Graph, sizes: Mapping[str, int] = OPEN) -> EagerExecutable:
        return EagerExecutable(graph.specialize(sizes))
