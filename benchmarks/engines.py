"""The engines that are measured: Hornfels' backends and the peers, behind one small interface.

All do the same work: batches come as NumPy arrays, one a step; the state stays in the engine; a
training step includes the loss, all gradients and Adam; a prediction comes back as a NumPy array.
Where an engine has several ways to do that (Keras' `fit` and `train_on_batch`, compiled or not),
each is tried once and the fastest is measured.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .models import CLASSES, BenchModel

TRIAL_STEPS = 5

# Keras' `jit_compile` for each backend: the choice of Keras' authors, and the other one where
# there is one. JAX is always compiled.
_JIT_MODES: dict[str, dict[str, Any]] = {
    "jax": {"jit auto": "auto"},
    "tensorflow": {"jit auto": "auto", "jit off": False},
    "torch": {"jit auto": "auto", "jit on": True},
}


class Engine(Protocol):
    """What a worker asks of an engine."""

    def load(self, model: BenchModel, data: Batches) -> float:
        """Build and compile `model`, make a step of each kind, and choose the best way.

        Returns the seconds from the start of building to the end of the first training step.
        """

    def train(self, steps: int) -> float:
        """Make training steps and return the last loss."""

    def predict(self, steps: int) -> None:
        """Predict batches."""

    def versions(self) -> dict[str, str]:
        """The versions of the packages that do the work."""

    def notes(self) -> list[str]:
        """How the numbers are taken: the way that was chosen, and what did not work."""


@dataclass(frozen=True)
class Batches:
    """Made-up samples and one-hot labels; step `i` uses batch `i`, going round.

    Parameters
    ----------
    x, y
        Samples in `[0, 1)` and labels, of `count * batch_size` rows.
    batch_size
        Rows of a batch.
    """

    x: np.ndarray
    y: np.ndarray
    batch_size: int

    @classmethod
    def random(cls, model: BenchModel, batch_size: int, count: int) -> Batches:
        """The same batches for every engine."""
        rng = np.random.default_rng(0)
        rows = batch_size * count
        x = rng.random((rows, *model.input_shape), np.float32)
        y = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, rows)]
        return cls(x, y, batch_size)

    @property
    def count(self) -> int:
        """Number of different batches."""
        return len(self.x) // self.batch_size

    def rows(self, index: int) -> slice:
        """The rows of batch `index`, going round."""
        start = index % self.count * self.batch_size
        return slice(start, start + self.batch_size)

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `index`, going round; views of the whole."""
        return self.x[self.rows(index)], self.y[self.rows(index)]

    def first(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` batches as one array each."""
        rows = min(count, self.count) * self.batch_size
        return self.x[:rows], self.y[:rows]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fastest(ways: dict[str, Callable[[int], Any]]) -> str:
    """The name of the way that makes the same number of steps in the least time."""
    if len(ways) == 1:
        return next(iter(ways))
    seconds = {}
    for name, way in ways.items():
        way(2)
        start = time.perf_counter()
        way(TRIAL_STEPS)
        seconds[name] = time.perf_counter() - start
    return min(seconds, key=seconds.__getitem__)


@dataclass
class HornfelsEngine:
    """`hornfels.compile(model, backend=...)`, one step a call."""

    backend: str
    _compiled: Any = None
    _data: Batches | None = None

    def load(self, model: BenchModel, data: Batches) -> float:
        hornfels = importlib.import_module("hornfels")
        start = time.perf_counter()
        built = model.build(hornfels)
        self._data = data
        self._compiled = hornfels.compile(built, backend=self.backend)
        self.train(1)
        first = time.perf_counter() - start
        self.predict(1)
        return first

    def train(self, steps: int) -> float:
        result: Any = np.nan
        for i in range(steps):
            result = self._compiled.train_on_batch(*self._data.batch(i))
        return _loss_of(result)

    def predict(self, steps: int) -> None:
        for i in range(steps):
            self._compiled.predict_on_batch(self._data.batch(i)[0])

    def versions(self) -> dict[str, str]:
        packages = {"tvm": ["apache-tvm"], "onnx": ["onnxruntime"]}.get(self.backend, ["numpy"])
        return _versions("hornfels", *packages)

    def notes(self) -> list[str]:
        return []


@dataclass
class KerasEngine:
    """Keras on one of its backends. The backend must be chosen before Keras is imported."""

    backend: str
    _data: Batches | None = None
    _train: Callable[[int], Any] | None = None
    _predict: Callable[[int], Any] | None = None
    _notes: list[str] = field(default_factory=list)

    def load(self, model: BenchModel, data: Batches) -> float:
        os.environ["KERAS_BACKEND"] = self.backend
        keras = importlib.import_module("keras")
        if self.backend == "torch":
            importlib.import_module("torch").set_num_threads(cores())
        self._data = data
        self._notes = []
        train: dict[str, Callable[[int], Any]] = {}
        predict: dict[str, Callable[[int], Any]] = {}
        first: dict[str, float] = {}
        for name, mode in _JIT_MODES[self.backend].items():
            try:
                compiled, first[name] = self._compiled_model(keras, model, mode)
            except Exception as error:  # noqa: BLE001 - a peer may fail in any way; it is reported
                self._notes.append(f"{name} fails: {_first_line(error)}")
                continue
            train |= {f"{way}, {name}": run for way, run in self._train_ways(compiled).items()}
            predict |= {f"{way}, {name}": run for way, run in self._predict_ways(compiled).items()}
        if not train:
            raise RuntimeError("; ".join(self._notes))
        best_train, best_predict = fastest(train), fastest(predict)
        self._train, self._predict = train[best_train], predict[best_predict]
        self._notes += [f"train by {best_train}", f"predict by {best_predict}"]
        return first[best_train.split(", ")[1]]

    def _compiled_model(self, keras: Any, bench: BenchModel, mode: Any) -> tuple[Any, float]:
        """A model that has made its first steps, and the seconds to the first training step."""
        start = time.perf_counter()
        model = bench.build(keras)
        if mode != "auto":
            model.compile(
                optimizer="adam",
                loss="categorical_crossentropy",
                metrics=["accuracy"],
                jit_compile=mode,
            )
        train, *other_train = self._train_ways(model).values()
        train(1)
        first = time.perf_counter() - start
        for way in (*other_train, *self._predict_ways(model).values()):
            way(1)
        return model, first

    def _train_ways(self, model: Any) -> dict[str, Callable[[int], Any]]:
        data = self._data

        def fit(steps: int) -> float:
            x, y = data.first(steps)
            history = model.fit(
                x, y, batch_size=data.batch_size, epochs=1, shuffle=False, verbose=0
            )
            return history.history["loss"][-1]

        def train_on_batch(steps: int) -> float:
            result: Any = np.nan
            for i in range(steps):
                result = model.train_on_batch(*data.batch(i))
            return _loss_of(result)

        return {"fit": fit, "train_on_batch": train_on_batch}

    def _predict_ways(self, model: Any) -> dict[str, Callable[[int], Any]]:
        data = self._data

        def predict(steps: int) -> None:
            model.predict(data.first(steps)[0], batch_size=data.batch_size, verbose=0)

        def predict_on_batch(steps: int) -> None:
            for i in range(steps):
                model.predict_on_batch(data.batch(i)[0])

        return {"predict": predict, "predict_on_batch": predict_on_batch}

    def train(self, steps: int) -> float:
        return self._train(steps)

    def predict(self, steps: int) -> None:
        self._predict(steps)

    def versions(self) -> dict[str, str]:
        # TensorFlow's CPU build is a package of another name.
        return _versions("keras", self.backend, f"{self.backend}-cpu")

    def notes(self) -> list[str]:
        return self._notes


@dataclass
class TorchEngine:
    """Plain PyTorch, eager or through `torch.compile`, images in channels-last memory.

    The loss is taken from the logits and whole-number labels and no metric is kept, which is less
    work than the others do and PyTorch's usual way.
    """

    compiled: bool
    _data: Batches | None = None
    _step: Callable[..., Any] | None = None
    _forward: Callable[..., Any] | None = None
    _model: Any = None
    _labels: Any = None

    def load(self, model: BenchModel, data: Batches) -> float:
        torch = importlib.import_module("torch")
        from .torch_models import TORCH_MODELS

        torch.set_num_threads(cores())
        torch.manual_seed(0)
        start = time.perf_counter()
        self._data = data
        self._labels = torch.from_numpy(data.y.argmax(1))
        self._model = net = TORCH_MODELS[model.name]()
        if len(model.input_shape) == 3:
            net = net.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(net.parameters(), fused=True)

        def loss_of(x: Any, labels: Any) -> Any:
            return torch.nn.functional.cross_entropy(net(x), labels)

        loss_fn = torch.compile(loss_of) if self.compiled else loss_of

        def step(x: Any, labels: Any) -> Any:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_fn(x, labels)
            loss.backward()
            optimizer.step()
            return loss

        self._step = step
        self._forward = torch.compile(net) if self.compiled else net
        self.train(1)
        first = time.perf_counter() - start
        self.predict(1)
        return first

    def train(self, steps: int) -> float:
        torch = importlib.import_module("torch")
        self._model.train()
        loss: Any = None
        for i in range(steps):
            x, _ = self._data.batch(i)
            labels = self._labels[self._data.rows(i)]
            loss = self._step(_channels_last(torch, x), labels)
        return float(loss.detach())

    def predict(self, steps: int) -> None:
        torch = importlib.import_module("torch")
        self._model.eval()
        with torch.inference_mode():
            for i in range(steps):
                x, _ = self._data.batch(i)
                torch.softmax(self._forward(_channels_last(torch, x)), -1).numpy()

    def versions(self) -> dict[str, str]:
        return _versions("torch")

    def notes(self) -> list[str]:
        return []


def _channels_last(torch: Any, x: np.ndarray) -> Any:
    """A tensor over the same memory: `[N, H, W, C]` is `[N, C, H, W]` in channels-last order."""
    tensor = torch.from_numpy(x)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def _loss_of(result: Any) -> float:
    """The loss in what `train_on_batch` returns: a number, a list that it leads, or a dict."""
    if isinstance(result, dict):
        return float(result["loss"])
    return float(np.ravel(result)[0])


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:200]


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


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
