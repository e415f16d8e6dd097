"""Larger models, as they are used: images of 224x224, text, and wide perceptrons."""

from __future__ import annotations

from typing import Any

from .bench_model import CLASSES, BenchModel
from .small_models import transformer

IMAGENET = 1000
TOKENS, VOCABULARY = 200, 20_000


def _channels_to_classes(namespace: Any, inputs: Any, x: Any, classes: int) -> Any:
    layers = namespace.layers
    x = layers.GlobalAveragePooling2D()(x)
    return namespace.Model(inputs, layers.Dense(classes, activation="softmax")(x))


def _convolved(
    layers: Any, x: Any, filters: int, kernel: int, strides: int = 1, activation: str | None = None
) -> Any:
    """A convolution without bias, normalized and activated."""
    conv = layers.Conv2D(filters, kernel, strides=strides, padding="same", use_bias=False)
    x = layers.BatchNormalization()(conv(x))
    return layers.Activation(activation)(x) if activation else x


# Expansion, channels, repetitions, first stride (Sandler et al. 2018, table 2).
MOBILENET_BLOCKS = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


def _mobilenet(
    namespace: Any, side: int = 224, blocks: Any = MOBILENET_BLOCKS, last: int = 1280
) -> Any:
    """MobileNetV2 of width 1."""
    layers = namespace.layers
    inputs = layers.Input((side, side, 3))
    x = _convolved(layers, inputs, 32, 3, 2, "relu6")
    channels = 32
    for expansion, filters, count, first in blocks:
        for i in range(count):
            strides = 1 if i else first
            y = x
            if expansion > 1:
                y = _convolved(layers, y, expansion * channels, 1, 1, "relu6")
            depthwise = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)
            y = layers.Activation("relu6")(layers.BatchNormalization()(depthwise(y)))
            y = _convolved(layers, y, filters, 1)
            x = layers.Add()([x, y]) if strides == 1 and filters == channels else y
            channels = filters
    x = _convolved(layers, x, last, 1, 1, "relu6")
    return _channels_to_classes(namespace, inputs, x, IMAGENET)


def _resnet50(namespace: Any, side: int = 224, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> Any:
    """ResNet-50, the stride in the 3x3 convolution (He et al. 2015)."""
    layers = namespace.layers
    inputs = layers.Input((side, side, 3))
    x = layers.MaxPooling2D(3, 2, padding="same")(_convolved(layers, inputs, 64, 7, 2, "relu"))
    for stage, count in enumerate(blocks):
        filters = 64 * 2**stage
        for i in range(count):
            strides = 2 if stage and not i else 1
            y = _convolved(layers, x, filters, 1, 1, "relu")
            y = _convolved(layers, y, filters, 3, strides, "relu")
            y = _convolved(layers, y, 4 * filters, 1)
            shortcut = x if i else _convolved(layers, x, 4 * filters, 1, strides)
            x = layers.Activation("relu")(layers.Add()([shortcut, y]))
    return _channels_to_classes(namespace, inputs, x, IMAGENET)


# Expansion, kernel, channels, repetitions, first stride (Tan and Le 2019, table 1).
EFFICIENTNET_BLOCKS = (
    *((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2)),
    *((6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1)),
)


def _efficientnet(
    namespace: Any, side: int = 224, blocks: Any = EFFICIENTNET_BLOCKS, last: int = 1280
) -> Any:
    """EfficientNet-B0, without dropout, so that all engines compute the same."""
    layers = namespace.layers
    inputs = layers.Input((side, side, 3))
    x = _convolved(layers, inputs, 32, 3, 2, "silu")
    channels = 32
    for expansion, kernel, filters, count, first in blocks:
        for i in range(count):
            strides, wide = 1 if i else first, expansion * channels
            y = _convolved(layers, x, wide, 1, 1, "silu") if expansion > 1 else x
            depthwise = layers.DepthwiseConv2D(
                kernel, strides=strides, padding="same", use_bias=False
            )
            y = layers.Activation("silu")(layers.BatchNormalization()(depthwise(y)))
            gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
            gate = layers.Conv2D(max(1, channels // 4), 1, activation="silu")(gate)
            gate = layers.Conv2D(wide, 1, activation="sigmoid")(gate)
            y = _convolved(layers, layers.Multiply()([y, gate]), filters, 1)
            x = layers.Add()([x, y]) if strides == 1 and filters == channels else y
            channels = filters
    x = _convolved(layers, x, last, 1, 1, "silu")
    return _channels_to_classes(namespace, inputs, x, IMAGENET)


def _unet(namespace: Any, side: int = 128, width: int = 32, depth: int = 4) -> Any:
    """Two convolutions at each level, down and up again, with what was there joined on."""
    layers = namespace.layers

    def twice(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return x

    x = inputs = layers.Input((side, side, 3))
    levels = []
    for level in range(depth):
        x = twice(x, width * 2**level)
        levels.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = twice(x, width * 2**depth)
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(width * 2**level, 2, strides=2, padding="same")(x)
        x = twice(layers.Concatenate()([levels[level], x]), width * 2**level)
    outputs = layers.Conv2D(CLASSES, 1, activation="softmax")(x)
    return namespace.Model(inputs, outputs)


def _gru_text(
    namespace: Any, tokens: int = TOKENS, vocabulary: int = VOCABULARY, width: int = 128
) -> Any:
    layers = namespace.layers
    return namespace.Sequential(
        [
            layers.Input((tokens,), dtype="int32"),
            layers.Embedding(vocabulary, width),
            layers.GRU(width),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def _transformer6(namespace: Any, tokens: int = 128, width: int = 256, depth: int = 6) -> Any:
    return transformer(namespace, tokens, width, 8, depth)


AUTOENCODER_INPUT = 784


def _autoencoder(namespace: Any, width: int = 4096, code: int = 64) -> Any:
    layers = namespace.layers
    hidden = [layers.Dense(w, activation="relu") for w in (width, width, code, width, width)]
    output = layers.Dense(AUTOENCODER_INPUT, activation="sigmoid")
    return namespace.Sequential([layers.Input((AUTOENCODER_INPUT,)), *hidden, output])


_IMAGE = (224, 224, 3)
LARGE_MODELS = (
    BenchModel(
        "mobilenetv2", _IMAGE, _mobilenet, classes=IMAGENET, batch_size=8, predict_batch=1,
        small={"side": 32, "blocks": ((6, 32, 1, 1),), "last": 48},
    ),
    BenchModel(
        "resnet50", _IMAGE, _resnet50, classes=IMAGENET, batch_size=8, predict_batch=1,
        small={"side": 32, "blocks": (1,)},
    ),
    BenchModel(
        "efficientnetb0", _IMAGE, _efficientnet, classes=IMAGENET, batch_size=8, predict_batch=1,
        small={"side": 32, "blocks": ((6, 5, 32, 1, 1),), "last": 48},
    ),
    BenchModel(
        "unet", (128, 128, 3), _unet, "pixels", batch_size=8, predict_batch=1,
        small={"side": 8, "width": 4, "depth": 1},
    ),
    BenchModel(
        "gru-text", (TOKENS,), _gru_text, vocabulary=VOCABULARY, batch_size=32, predict_batch=1,
        small={"tokens": 12, "width": 16},
    ),
    BenchModel(
        "transformer6", (128, 256), _transformer6, batch_size=32, predict_batch=1,
        small={"tokens": 9, "width": 32, "depth": 1},
    ),
    BenchModel(
        "autoencoder", (AUTOENCODER_INPUT,), _autoencoder, "input", predict_batch=1,
        small={"width": 96, "code": 8},
    ),
)  # fmt: skip
