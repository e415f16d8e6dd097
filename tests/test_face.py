"""What `import hornfels` gives, and what it costs."""

from __future__ import annotations

import importlib
import subprocess
import sys

import hornfels

HEAVY = ("tvm", "onnx", "onnxruntime", "keras", "jax", "torch", "h5py")


def test_importing_is_light():
    code = f"import sys, hornfels; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_everything_promised_is_there():
    for name in hornfels.__all__:
        assert getattr(hornfels, name) is not None


def test_modules_are_imported_as_those_of_keras():
    for name in ("activations", "backend", "callbacks", "config", "constraints", "datasets",
                 "errors", "initializers", "layers", "losses", "metrics", "models", "ops",
                 "optimizers", "random", "regularizers", "utils"):  # fmt: skip
        assert importlib.import_module(f"hornfels.{name}") is getattr(hornfels, name)


def test_the_imports_of_tutorials():
    from hornfels.callbacks import EarlyStopping
    from hornfels.datasets import mnist
    from hornfels.layers import Conv2D, Dense, Input
    from hornfels.losses import SparseCategoricalCrossentropy
    from hornfels.models import Model, Sequential
    from hornfels.optimizers import Adam
    from hornfels.utils import to_categorical

    assert Model is hornfels.Model
    assert Sequential is hornfels.Sequential
    assert Input is hornfels.Input
    assert all(map(callable, (EarlyStopping, Conv2D, Dense, SparseCategoricalCrossentropy, Adam,
                              to_categorical, mnist.load_data)))  # fmt: skip


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert hornfels.__version__ == hornfels.version() == version("hornfels")
