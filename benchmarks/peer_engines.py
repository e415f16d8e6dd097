"""The peers: Keras on its backends, and plain PyTorch."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .bench_model import BenchModel
from .measuring import Batches, cores, first_line, loss_of, versions_of

TRIAL_STEPS = 5
COMPILE_SECONDS = 120
"""What another way of an engine may take to compile, where there is one that works."""

# Keras' `jit_compile` for each backend: the choice of Keras' authors, and the other one where
# there is one. JAX is always compiled.
_JIT_MODES: dict[str, dict[str, Any]] = {
    "jax": {"jit auto": "auto"},
    "tensorflow": {"jit auto": "auto", "jit off": False},
    "torch": {"jit auto": "auto", "jit on": True},
}


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


@contextlib.contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Raise `TimeoutError` inside when the time is over, where the system has alarms."""
    if seconds is None or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class KerasEngine:
    """Keras on one of its backends. The backend must be chosen before Keras is imported."""

    backend: str
    _data: Batches | None = None
    _asked: Batches | None = None
    _train: Callable[[int], Any] | None = None
    _predict: Callable[[int], Any] | None = None
    _notes: list[str] = field(default_factory=list)

    def begin(self, policy: str) -> None:
        os.environ["KERAS_BACKEND"] = self.backend
        importlib.import_module("keras").config.set_dtype_policy(policy)
        if self.backend == "torch":
            importlib.import_module("torch").set_num_threads(cores())

    def load(self, model: BenchModel, data: Batches) -> float:
        keras = importlib.import_module("keras")
        self._data, self._asked = data, data.of(model.predict_batch)
        self._notes = []
        train: dict[str, Callable[[int], Any]] = {}
        predict: dict[str, Callable[[int], Any]] = {}
        first: dict[str, float] = {}
        for name, mode in _JIT_MODES[self.backend].items():
            try:
                with within(COMPILE_SECONDS if train else None):
                    compiled, first[name] = self._compiled_model(keras, model, mode)
            except Exception as error:  # noqa: BLE001 - a peer may fail in any way; it is reported
                self._notes.append(f"{name} fails: {first_line(error)}")
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
            model.compile(**bench.training, jit_compile=mode)
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
            return loss_of(result)

        return {"fit": fit, "train_on_batch": train_on_batch}

    def _predict_ways(self, model: Any) -> dict[str, Callable[[int], Any]]:
        data = self._asked

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
        return versions_of("keras", self.backend, f"{self.backend}-cpu")

    def notes(self) -> list[str]:
        return self._notes


@dataclass
class TorchEngine:
    """Plain PyTorch, eager or through `torch.compile`, images in channels-last memory.

    The loss is taken from the logits and whole-number labels and no metric is kept, which is less
    work than the others do and PyTorch's usual way. Mixed precision is `torch.autocast`.
    """

    compiled: bool
    _data: Batches | None = None
    _asked: Batches | None = None
    _step: Callable[..., Any] | None = None
    _forward: Callable[..., Any] | None = None
    _net: Any = None
    _labels: Any = None
    _mixed: bool = False

    def begin(self, policy: str) -> None:
        torch = importlib.import_module("torch")
        importlib.import_module("hornfels.benchmarks.torch_models")
        torch.set_num_threads(cores())
        torch.manual_seed(0)
        if policy not in ("float32", "mixed_bfloat16"):
            raise ValueError(f"torch: no peer for the dtype policy {policy!r}")
        self._mixed = policy == "mixed_bfloat16"

    def load(self, model: BenchModel, data: Batches) -> float:
        torch = importlib.import_module("torch")
        from .torch_models import TORCH_MODELS

        start = time.perf_counter()
        self._data, self._asked = data, data.of(model.predict_batch)
        learns_input = model.target == "input"
        self._labels = torch.from_numpy(data.y if learns_input else data.y.argmax(-1))
        self._net = net = TORCH_MODELS[model.name]()
        if len(model.input_shape) == 3:
            net = net.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(net.parameters(), fused=True)
        functions = torch.nn.functional
        measure = functions.mse_loss if learns_input else functions.cross_entropy

        def loss_of_batch(x: Any, labels: Any) -> Any:
            return measure(net(x), labels)

        loss_fn = torch.compile(loss_of_batch) if self.compiled else loss_of_batch

        def step(x: Any, labels: Any) -> Any:
            optimizer.zero_grad(set_to_none=True)
            with self._precision():
                loss = loss_fn(x, labels)
            loss.backward()
            optimizer.step()
            return loss

        def forward(x: Any) -> Any:
            y = net(x)
            return y if learns_input else torch.softmax(y.float(), 1)

        self._step = step
        self._forward = torch.compile(forward) if self.compiled else forward
        self.train(1)
        first = time.perf_counter() - start
        self.predict(1)
        return first

    def _precision(self) -> Any:
        torch = importlib.import_module("torch")
        return torch.autocast("cpu", torch.bfloat16) if self._mixed else contextlib.nullcontext()

    def train(self, steps: int) -> float:
        torch = importlib.import_module("torch")
        self._net.train()
        loss: Any = None
        for i in range(steps):
            x, _ = self._data.batch(i)
            loss = self._step(_channels_last(torch, x), self._labels[self._data.rows(i)])
        return float(loss.detach())

    def predict(self, steps: int) -> None:
        torch = importlib.import_module("torch")
        self._net.eval()
        with torch.inference_mode(), self._precision():
            for i in range(steps):
                x, _ = self._asked.batch(i)
                self._forward(_channels_last(torch, x)).float().numpy()

    def versions(self) -> dict[str, str]:
        return versions_of("torch")

    def notes(self) -> list[str]:
        return []


def _channels_last(torch: Any, x: np.ndarray) -> Any:
    """A tensor over the same memory: `[N, H, W, C]` is `[N, C, H, W]` in channels-last order."""
    tensor = torch.from_numpy(x)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
