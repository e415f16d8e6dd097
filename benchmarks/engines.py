"""The engines that are measured: Hornfels' backends and the peers, behind one small interface.

All do the same work: batches come as NumPy arrays, one a step; the state stays in the engine; a
training step includes the loss, all gradients and Adam; a prediction comes back as a NumPy array.
Where an engine has several ways to do that (Keras' `fit` and `train_on_batch`, compiled or not),
each is tried once and the fastest is measured.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bench_model import BenchModel
from .measuring import Batches, Engine, loss_of, versions_of
from .peer_engines import KerasEngine, TorchEngine

_COMPILERS: dict[str, tuple[str, ...]] = {
    "eager": (),
    "onnx": ("hornfels.runtime.onnx_backend", "onnxruntime"),
    "tvm": ("hornfels.codegen.tvm.lower",),
}
"""What our backends import when they compile first: code, which counts for no engine's memory."""


@dataclass
class HornfelsEngine:
    """`hornfels.compile(model, backend=...)`, one step a call."""

    backend: str
    _compiled: Any = None
    _data: Batches | None = None
    _asked: Batches | None = None

    def begin(self, policy: str) -> None:
        importlib.import_module("hornfels").config.set_dtype_policy(policy)
        for name in _COMPILERS[self.backend]:  # peers import theirs here too
            importlib.import_module(name)

    def load(self, model: BenchModel, data: Batches) -> float:
        hornfels = importlib.import_module("hornfels")
        start = time.perf_counter()
        built = model.build(hornfels)
        self._data, self._asked = data, data.of(model.predict_batch)
        self._compiled = hornfels.compile(built, backend=self.backend)
        self.train(1)
        first = time.perf_counter() - start
        self.predict(1)
        return first

    def train(self, steps: int) -> float:
        result: Any = np.nan
        for i in range(steps):
            result = self._compiled.train_on_batch(*self._data.batch(i))
        return loss_of(result)

    def predict(self, steps: int) -> None:
        for i in range(steps):
            self._compiled.predict_on_batch(self._asked.batch(i)[0])

    def versions(self) -> dict[str, str]:
        packages = {"tvm": ["apache-tvm"], "onnx": ["onnxruntime"]}.get(self.backend, ["numpy"])
        return versions_of("hornfels", *packages)

    def notes(self) -> list[str]:
        return []


@dataclass(frozen=True)
class EngineKind:
    """An engine that can be asked for by name, and the modules without which it cannot run."""

    name: str
    ours: bool
    modules: tuple[str, ...]
    make: Callable[[], Engine]

    def missing_modules(self) -> list[str]:
        """The modules that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]


ENGINES: dict[str, EngineKind] = {
    kind.name: kind
    for kind in (
        EngineKind("eager", True, (), lambda: HornfelsEngine("eager")),
        EngineKind("onnx", True, ("onnxruntime",), lambda: HornfelsEngine("onnx")),
        EngineKind("tvm", True, ("tvm",), lambda: HornfelsEngine("tvm")),
        EngineKind("keras-jax", False, ("keras", "jax"), lambda: KerasEngine("jax")),
        EngineKind(
            "keras-tensorflow", False, ("keras", "tensorflow"), lambda: KerasEngine("tensorflow")
        ),
        EngineKind("keras-torch", False, ("keras", "torch"), lambda: KerasEngine("torch")),
        EngineKind("torch-eager", False, ("torch",), lambda: TorchEngine(compiled=False)),
        EngineKind("torch-compile", False, ("torch",), lambda: TorchEngine(compiled=True)),
    )
}
