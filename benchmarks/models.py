"""The five benchmark models, each written once over any namespace that speaks Keras.

`BENCH_MODELS["cnn"].build(keras)` and `BENCH_MODELS["cnn"].build(hornfels)` give the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CLASSES = 10


@dataclass(frozen=True)
class BenchModel:
    """A model to measure.

    Parameters
    ----------
    name
        Its name on the command line.
    input_shape
        Shape of one sample.
    needs
        Names of the layer classes that it uses.
    define
        Builds it from a namespace that has `Sequential`, `Model` and `layers`.
    forward_flops
        Floating-point operations of the matrix products and convolutions of one sample going
        forward; a multiply-add counts as two.
    unneeded_flops
        Those of the products on the input itself: training needs no gradient of the input.
    """

    name: str
    input_shape: tuple[int, ...]
    needs: tuple[str, ...]
    define: Callable[[Any], Any]
    forward_flops: int
    unneeded_flops: int

    @property
    def train_flops(self) -> int:
        """Forward, gradient of the weights and gradient of the activations, for one sample."""
        return 3 * self.forward_flops - self.unneeded_flops

    def missing_layers(self, namespace: Any) -> list[str]:
        """The layer classes that this model uses and `namespace.layers` does not have."""
        return [name for name in self.needs if not hasattr(namespace.layers, name)]

    def build(self, namespace: Any) -> Any:
        """The model, compiled with Adam, categorical cross-entropy and accuracy.

        Raises
        ------
        LookupError
            `namespace.layers` lacks a layer that the model uses.
        """
        missing = self.missing_layers(namespace)
        if missing:
            raise LookupError(
                f"model '{self.name}' needs {', '.join(f'layers.{name}' for name in missing)}, "
                f"which {namespace.__name__} does not have"
            )
        model = self.define(namespace)
        model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
        return model


def _dense_flops(inputs: int, outputs: int) -> int:
    return 2 * inputs * outputs


def _conv_flops(side: int, kernel: int, inputs: int, outputs: int) -> int:
    """A square convolution with `side` x `side` output pixels."""
    return side * side * _dense_flops(kernel * kernel * inputs, outputs)


def _mlp(namespace: Any) -> Any:
    layers = namespace.layers
    return namespace.Sequential(
        [
            layers.Input((784,)),
            layers.Dense(512, activation="relu"),
            layers.Dense(512, activation="relu"),
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


def _resnet(namespace: Any) -> Any:
    layers = namespace.layers

    def normalized_conv(x: Any, filters: int, kernel: int, strides: int = 1) -> Any:
        conv = layers.Conv2D(filters, kernel, strides=strides, padding="same", use_bias=False)
        return layers.BatchNormalization()(conv(x))

    inputs = layers.Input((32, 32, 3))
    x = layers.ReLU()(normalized_conv(inputs, 16, 3))
    channels = 16
    for filters, strides in RESNET_BLOCKS:
        branch = layers.ReLU()(normalized_conv(x, filters, 3, strides))
        branch = normalized_conv(branch, filters, 3)
        if (filters, strides) != (channels, 1):
            x = normalized_conv(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([x, branch]))
        channels = filters
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    return namespace.Model(inputs, outputs)


def _resnet_flops() -> int:
    side, channels = 32, 16
    total = _conv_flops(side, 3, 3, channels)
    for filters, strides in RESNET_BLOCKS:
        side //= strides
        total += _conv_flops(side, 3, channels, filters) + _conv_flops(side, 3, filters, filters)
        if (filters, strides) != (channels, 1):
            total += _conv_flops(side, 1, channels, filters)
        channels = filters
    return total + _dense_flops(channels, CLASSES)


def _lstm(namespace: Any) -> Any:
    layers = namespace.layers
    return namespace.Sequential(
        [layers.Input((64, 32)), layers.LSTM(128), layers.Dense(CLASSES, activation="softmax")]
    )


def _transformer(namespace: Any) -> Any:
    layers = namespace.layers
    inputs = layers.Input((64, 128))
    x = inputs
    for _ in range(2):
        h = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 32)(h, h)])
        h = layers.Dense(512, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(128)(h)])
    x = layers.GlobalAveragePooling1D()(x)
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    return namespace.Model(inputs, outputs)


def _transformer_flops() -> int:
    tokens, width, hidden = 64, 128, 512
    projections = 4 * tokens * _dense_flops(width, width)
    scores_and_mix = 2 * tokens * _dense_flops(width, tokens)
    mlp = 2 * tokens * _dense_flops(width, hidden)
    return 2 * (projections + scores_and_mix + mlp) + _dense_flops(width, CLASSES)


_MODELS = (
    BenchModel(
        name="mlp",
        input_shape=(784,),
        needs=("Dense",),
        define=_mlp,
        forward_flops=_dense_flops(784, 512) + _dense_flops(512, 512) + _dense_flops(512, CLASSES),
        unneeded_flops=_dense_flops(784, 512),
    ),
    BenchModel(
        name="cnn",
        input_shape=(28, 28, 1),
        needs=("Conv2D", "MaxPooling2D", "Flatten", "Dropout", "Dense"),
        define=_cnn,
        forward_flops=_conv_flops(26, 3, 1, 32)
        + _conv_flops(11, 3, 32, 64)
        + _dense_flops(1600, CLASSES),
        unneeded_flops=_conv_flops(26, 3, 1, 32),
    ),
    BenchModel(
        name="resnet",
        input_shape=(32, 32, 3),
        needs=("Conv2D", "BatchNormalization", "ReLU", "Add", "GlobalAveragePooling2D", "Dense"),
        define=_resnet,
        forward_flops=_resnet_flops(),
        unneeded_flops=_conv_flops(32, 3, 3, 16),
    ),
    BenchModel(
        name="lstm",
        input_shape=(64, 32),
        needs=("LSTM", "Dense"),
        define=_lstm,
        forward_flops=64 * _dense_flops(32 + 128, 4 * 128) + _dense_flops(128, CLASSES),
        unneeded_flops=64 * _dense_flops(32, 4 * 128),
    ),
    BenchModel(
        name="transformer",
        input_shape=(64, 128),
        needs=(
            *("LayerNormalization", "MultiHeadAttention", "Add"),
            *("GlobalAveragePooling1D", "Dense"),
        ),
        define=_transformer,
        forward_flops=_transformer_flops(),
        unneeded_flops=0,  # the layer norm before the first product has weights of its own
    ),
)

BENCH_MODELS: dict[str, BenchModel] = {model.name: model for model in _MODELS}
