"""The five models that are measured by default."""

from __future__ import annotations

from typing import Any

from .bench_model import CLASSES, BenchModel


def _mlp(namespace: Any, width: int = 512) -> Any:
    layers = namespace.layers
    return namespace.Sequential(
        [
            layers.Input((784,)),
            layers.Dense(width, activation="relu"),
            layers.Dense(width, activation="relu"),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def _cnn(namespace: Any) -> Any:
    layers = namespace.layers
    return namespace.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


# Filters and stride of the residual blocks of ResNet-20 for 32x32 images (He et al. 2015).
RESNET_BLOCKS = (
    *((16, 1), (16, 1), (16, 1)),
    *((32, 2), (32, 1), (32, 1)),
    *((64, 2), (64, 1), (64, 1)),
)


def _resnet(namespace: Any, blocks: tuple[tuple[int, int], ...] = RESNET_BLOCKS) -> Any:
    layers = namespace.layers

    def normalized_conv(x: Any, filters: int, kernel: int, strides: int = 1) -> Any:
        conv = layers.Conv2D(filters, kernel, strides=strides, padding="same", use_bias=False)
        return layers.BatchNormalization()(conv(x))

    inputs = layers.Input((32, 32, 3))
    x = layers.ReLU()(normalized_conv(inputs, 16, 3))
    channels = 16
    for filters, strides in blocks:
        branch = layers.ReLU()(normalized_conv(x, filters, 3, strides))
        branch = normalized_conv(branch, filters, 3)
        if (filters, strides) != (channels, 1):
            x = normalized_conv(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([x, branch]))
        channels = filters
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    return namespace.Model(inputs, outputs)


def _lstm(namespace: Any) -> Any:
    layers = namespace.layers
    return namespace.Sequential(
        [layers.Input((64, 32)), layers.LSTM(128), layers.Dense(CLASSES, activation="softmax")]
    )


def transformer(
    namespace: Any, tokens: int = 64, width: int = 128, heads: int = 4, depth: int = 2
) -> Any:
    """Pre-norm blocks of attention and perceptron on tokens that are vectors, then the mean."""
    layers = namespace.layers
    inputs = layers.Input((tokens, width))
    x = inputs
    for _ in range(depth):
        h = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(h, h)])
        h = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(h)])
    x = layers.GlobalAveragePooling1D()(x)
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    return namespace.Model(inputs, outputs)


SMALL_MODELS = (
    BenchModel("mlp", (784,), _mlp),
    BenchModel("cnn", (28, 28, 1), _cnn),
    BenchModel("resnet", (32, 32, 3), _resnet),
    BenchModel("lstm", (64, 32), _lstm),
    BenchModel("transformer", (64, 128), transformer),
)
