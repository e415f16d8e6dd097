"""Models and runs that the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = 50


def optimizer(name: str, k: Any) -> Any:
    """How a model is trained.

    Adam divides by the size of a gradient, so where that is nearly zero it multiplies rounding
    errors, and behind batch normalization some are. Small steps keep two f32 runs from parting
    where a relu's operand is zero up to rounding.
    """
    return k.optimizers.SGD(0.002) if name == "resnet" else k.optimizers.Adam()


def mlp(k: Any) -> Any:
    """Two hidden layers; `k` is hornfels or keras."""
    return k.Sequential(
        [
            k.Input((64,)),
            k.layers.Dense(48, activation="relu"),
            k.layers.Dense(32, activation="tanh"),
            k.layers.Dense(10, activation="softmax"),
        ]
    )


def cnn(k: Any, dropout: float = 0.0) -> Any:
    """The MNIST CNN in small."""
    layers = [
        k.Input((8, 8, 1)),
        k.layers.Conv2D(8, 3, padding="same", activation="relu"),
        k.layers.MaxPooling2D(2),
        k.layers.Conv2D(16, 3, activation="relu"),
        k.layers.Flatten(),
    ]
    if dropout:
        layers.append(k.layers.Dropout(dropout, seed=7))
    return k.Sequential([*layers, k.layers.Dense(10, activation="softmax")])


def resnet(k: Any) -> Any:
    """Three residual blocks with batch normalization, one of them with strides."""
    inputs = k.Input((8, 8, 1))
    x = k.layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = k.layers.BatchNormalization()(x)
    x = k.layers.ReLU()(x)
    for filters, strides in ((8, 1), (16, 2), (16, 1)):
        shortcut = x
        y = k.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        y = k.layers.BatchNormalization()(y)
        y = k.layers.ReLU()(y)
        y = k.layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
        y = k.layers.BatchNormalization()(y)
        if strides != 1:
            shortcut = k.layers.Conv2D(filters, 1, strides=strides, use_bias=False)(x)
            shortcut = k.layers.BatchNormalization()(shortcut)
        x = k.layers.ReLU()(k.layers.add([shortcut, y]))
    x = k.layers.GlobalAveragePooling2D()(x)
    return k.Model(inputs, k.layers.Dense(10, activation="softmax")(x))


def batches(
    images: np.ndarray, labels: np.ndarray, flat: bool, dtype: str, size: int = 32
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`STEPS` batches of digits, images in [0, 1], labels one-hot."""
    x = (images / 16).astype(dtype).reshape(-1, 64) if flat else (
        (images / 16).astype(dtype)[..., None])  # fmt: skip
    y = np.eye(10, dtype=dtype)[labels]
    rows = np.random.default_rng(0).integers(0, len(x), (STEPS, size))
    return [(x[r], y[r]) for r in rows]


def losses(train_on_batch: Callable[..., Any], data: list[Any]) -> np.ndarray:
    """The loss of each step by itself."""
    return np.array([float(np.ravel(train_on_batch(x, y))[0]) for x, y in data])


def relative(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Relative differences, step by step."""
    return np.abs(found - expected) / np.abs(expected)
