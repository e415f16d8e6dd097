"""The programs of `examples/` run, and learn, on a small slice."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def as_mnist(images: np.ndarray) -> np.ndarray:
    """Digits of 8x8 pixels, 0 to 16, in MNIST's form: u8 `[n, 28, 28]`."""
    large = np.repeat(np.repeat(images * 15, 3, axis=1), 3, axis=2)
    return np.pad(large, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["mnist_sequential", "mnist_functional", "mnist_subclass"])
def test_example(name, digits, capsys):
    x, y = digits
    train, test = (as_mnist(x[:700]), y[:700]), (as_mnist(x[700:900]), y[700:900])
    history, scores = load(name).main(train, test, epochs=6)
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(history.history["val_accuracy"]) == 6
    assert history.history["loss"][-1] < 0.7 * history.history["loss"][0]
    assert scores[1] > 0.6, "a test accuracy far above chance"
    assert "Test accuracy" in capsys.readouterr().out


def test_only_the_import_line_differs_from_keras():
    for path in EXAMPLES.glob("mnist_*.py"):
        lines = path.read_text().splitlines()
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        assert imports == ["import hornfels as keras", "from hornfels import layers"]


def test_the_sequential_example_has_keras_weights(digits):
    import keras

    ours = load("mnist_sequential").build()
    source = (EXAMPLES / "mnist_sequential.py").read_text()
    namespace: dict = {}
    exec(source.replace("hornfels", "keras", 1).replace("hornfels", "keras"), namespace)
    with pytest.warns(UserWarning, match="input_shape"):  # Keras prefers an Input by now
        theirs = namespace["build"]()
    assert [w.shape for w in ours.get_weights()] == [w.shape for w in theirs.get_weights()]
    ours.set_weights(theirs.get_weights())
    x = as_mnist(digits[0][:8]).astype("float32")[..., None] / 255
    np.testing.assert_allclose(ours.predict(x, verbose=0), keras.ops.convert_to_numpy(theirs(x)),
                               rtol=1e-4, atol=1e-6)  # fmt: skip


def test_newton_s_method_converges_quadratically(capsys):
    norms, accuracy = load("newton_cg").main()
    assert norms[-1] < 1e-6 * norms[0]
    assert accuracy > 0.95
    assert "accuracy on new digits" in capsys.readouterr().out
