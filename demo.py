"""`hornfels demo`: train a small CNN on real digits, compare the backends, export to ONNX."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from . import layers
from .datasets import digits
from .frontend.models.sequential import Sequential
from .ir.errors import BackendError
from .ir.files import writing
from .passes.pipeline import make_plan, optimize
from .runtime.executable import BACKENDS
from .runtime.session import CompiledModel, compile

ROUNDS, STEPS, SETTLE_SECONDS = 5, 6, 0.1
"""Backends are timed in turn, some steps a round; between rounds their threads come to rest."""


def build_model() -> Sequential:
    """The demo CNN for 8x8 digits, compiled with Adam and categorical cross-entropy."""
    model = Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ],
        name="digits_cnn",
    )
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, then held-out ones: f32 `[n, 8, 8, 1]` in [0, 1], one-hot."""
    (x_train, y_train), (x_test, y_test) = digits.load_data()
    one_hot = np.eye(10, dtype=np.float32)
    images = [x.astype(np.float32)[..., None] / 16 for x in (x_train, x_test)]
    return images[0], one_hot[y_train], images[1], one_hot[y_test]


def run_demo(backend: str, epochs: int, batch_size: int, output: Path) -> None:
    """Run the demo.

    Parameters
    ----------
    backend : str
        What trains the model.
    epochs, batch_size : int
    output : Path
        Folder of the two ONNX files.
    """
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    console = Console()
    x_train, y_train, x_test, y_test = load_digits()
    model = build_model()
    model.summary()
    compiled = compile(model, backend=backend)
    start = time.perf_counter()
    compiled.fit(x_train, y_train, batch_size=batch_size, epochs=epochs)
    seconds = time.perf_counter() - start
    _, accuracy = compiled.evaluate(x_test, y_test, verbose=0)
    console.print(
        f"\nHeld-out accuracy: [bold]{accuracy:.2%}[/bold] of {len(x_test)} digits that training "
        f"did not see, after {seconds:.1f} s on backend {backend!r}.\n"
    )
    _show_sizes(console, compiled, batch_size)
    _show_times(console, x_train[:batch_size], y_train[:batch_size])
    _export(console, compiled, x_test, output)


def _show_sizes(console: Console, compiled: CompiledModel, batch_size: int) -> None:
    """The IR's size before and after optimization."""
    table = Table(title="The compiled steps", title_justify="left")
    for column in ("step", "nodes traced", "nodes optimized", "kernels", "arena KiB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for kind in ("predict", "train"):
        traced = compiled.graph(kind).specialize({"N": batch_size})
        optimized = optimize(traced)
        plan = make_plan(optimized)
        table.add_row(kind, str(len(traced.nodes)), str(len(optimized.nodes)),
                      str(len(plan.calls)), f"{plan.arena_bytes / 1024:.0f}")  # fmt: skip
    console.print(table)


def _show_times(console: Console, x: np.ndarray, y: np.ndarray) -> None:
    """Milliseconds of a training step on every backend, measured in turn."""
    models: dict[str, CompiledModel] = {}
    for name in BACKENDS:
        try:
            models[name] = compile(build_model(), backend=name)
        except BackendError as error:
            console.print(f"[yellow]{name} is left out: {error}")
            continue
        models[name].train_on_batch(x, y)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            time.sleep(SETTLE_SECONDS)
            seconds[name] += _seconds_of_steps(model, x, y)
    table = Table(title=f"A training step of {len(x)} digits (median of {ROUNDS * STEPS})",
                  title_justify="left")  # fmt: skip
    table.add_column("backend")
    table.add_column("milliseconds", justify="right")
    table.add_column("times eager's speed", justify="right")
    eager = statistics.median(seconds["eager"])
    for name, times in sorted(seconds.items(), key=lambda item: -statistics.median(item[1])):
        median = statistics.median(times)
        table.add_row(name, f"{1e3 * median:.2f}", f"{eager / median:.1f}")
    console.print(table)


def _seconds_of_steps(model: CompiledModel, x: np.ndarray, y: np.ndarray) -> list[float]:
    """Seconds of each step of a round; one more, to wake the threads, is not counted."""
    seconds = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        model.train_on_batch(x, y)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def _export(console: Console, compiled: CompiledModel, x: np.ndarray, folder: Path) -> None:
    """Write both ONNX files and compare our prediction with plain ONNX Runtime's."""
    inference, train = folder / "digits.onnx", folder / "digits_train.onnx"
    compiled.export(inference)
    compiled.export(train, kind="train")
    for path, what in ((inference, "inference"), (train, "one training step")):
        console.print(f"{path}: {what}, {path.stat().st_size / 1024:.0f} KiB")
    try:
        import onnxruntime
    except ImportError:
        console.print('[yellow]to run them: pip install "hornfels[cpu]"')
        return
    session = onnxruntime.InferenceSession(inference, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: x})
    ours = compiled.predict(x, batch_size=len(x), verbose=0)
    console.print(f"Largest difference between our prediction and plain ONNX Runtime's: "
                  f"{np.abs(ours - theirs).max():.1e}")  # fmt: skip
