"""The ways to run a graph: on which backend, after which passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.evaluate import evaluate
from ..ir.graph import Graph
from ..ir.op import REGISTRY, Reason
from ..ir.settings import settings
from ..passes.interpret import run_plan
from ..passes.pipeline import PASSES, make_plan, optimize
from ..runtime.executable import make_backend
from .numerics import Arrays, rounds, steady, turned

BACKENDS = ("eager", "plan", "onnx", "tvm")
"""`eager` is the oracle on the optimized graph, `plan` the same on the fused and planned one."""


@dataclass(frozen=True)
class Variant:
    """A backend and the passes that run before it (a setting: `all`, `none` or names).

    `stop_after` and `rewrite_limit` are the settings of those names, which cut the passes short.
    """

    backend: str
    passes: str = "all"
    stop_after: str = ""
    rewrite_limit: int | None = None

    def __str__(self) -> str:
        return f"{self.backend} after {self.passes}"

    @property
    def settings(self) -> dict[str, Any]:
        """What `settings` must be for it."""
        return {"passes": self.passes, "stop_after": self.stop_after,
                "rewrite_limit": self.rewrite_limit}  # fmt: skip

    def run(self, graph: Graph, arrays: Mapping[str, np.ndarray], steps: int) -> list[Arrays]:
        """The results of some runs, as `rounds` has them."""
        weights = steady(graph)
        with settings(**self.settings):
            if self.backend == "eager":
                optimized = optimize(graph)
                return rounds(lambda at: _parts(evaluate(optimized, at)), arrays, steps, weights)
            if self.backend == "plan":
                plan = make_plan(optimize(graph))
                return rounds(lambda at: _parts(run_plan(plan, at)), arrays, steps, weights)
            return self._compiled(graph, arrays, steps)

    def _compiled(self, graph: Graph, arrays: Mapping[str, np.ndarray], steps: int) -> list[Arrays]:
        backend = make_backend(self.backend)
        executable, state = backend.compile(graph), backend.state()
        for v in graph.state:
            state.write(v.name, arrays[v.name])
        inputs = {v.name: arrays[v.name] for v in graph.inputs}
        found = []
        for step in range(steps):
            if 0 < step == steps - 1:
                for name in steady(graph):
                    state.write(name, turned(arrays[name]))
            outputs = executable(state, inputs)
            updates = {f"new/{old.name}": state.read(old.name) for old, _ in graph.updates}
            found.append(dict(outputs) | updates)
        return found


def _parts(result: object) -> tuple[Arrays, Arrays]:
    return result.outputs, result.updates  # type: ignore[attr-defined]


def variants_for(seed: int, backends: Sequence[str] = BACKENDS) -> list[Variant]:
    """With all passes, with none, and with some in some order; cheap backends first."""
    rng = np.random.default_rng([seed, 5])
    names = list(PASSES)
    some = [names[int(i)] for i in rng.integers(0, len(names), int(rng.integers(1, 5)))]
    choices = ["all", "none", ",".join(some)]
    return [
        Variant(backend, passes)
        for backend in backends
        for passes in choices
        if not (backend == "eager" and passes == "none")
    ]


def lacks(graph: Graph, backend: str) -> str:
    """An op of the graph that the backend states it does not have; empty if it has all."""
    facet = {"onnx": "onnx", "tvm": "tvm"}.get(backend)
    if facet is None:
        return ""
    for name in sorted(ops_of(graph)):
        if isinstance(getattr(REGISTRY[name], facet), Reason):
            return name
    return ""


def ops_of(graph: Graph) -> set[str]:
    """The ops of a graph and of the bodies in it."""
    found = set()
    for node in graph.nodes:
        found.add(node.op.name)
        for region in node.regions.values():
            found |= ops_of(region)
    return found
