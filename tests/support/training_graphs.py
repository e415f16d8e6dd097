"""Training steps written in the IR alone: what the passes see, without the frontend."""

from __future__ import annotations

import numpy as np

from hornfels.ir import Builder, Graph, Value, constant, gradients, sugar
from hornfels.ir.op import get
from hornfels.ir.types import DType, boolean, f32, i32, symbol, u32

WINDOW = {"window": (2, 2), "strides": (2, 2), "padding": ((0, 0), (0, 0))}


class Network:
    """Layers over a builder; `weights` collects the trainable state."""

    def __init__(self, builder: Builder, dtype: DType) -> None:
        self.builder = builder
        self.dtype = dtype
        self.weights: list[Value] = []
        self.updates: list[tuple[Value, Value]] = []

    def weight(self, name: str, *shape: int) -> Value:
        value = self.builder.variable(name, self.dtype(*shape))
        self.weights.append(value)
        return value

    def dense(self, x: Value, units: int, name: str, activation: str = "") -> Value:
        with self.builder.scope(name):
            y = x @ self.weight(f"{name}/kernel", int(x.shape[-1]), units)
            y = y + self.weight(f"{name}/bias", units)
            return get(activation)(y) if activation else y

    def conv(self, x: Value, filters: int, name: str, stride: int = 1, pad: int = 0,
             bias: bool = True, size: int = 3) -> Value:  # fmt: skip
        with self.builder.scope(name):
            w = self.weight(f"{name}/kernel", size, size, int(x.shape[-1]), filters)
            y = get("conv")(x, w, strides=(stride,) * 2, padding=((pad, pad),) * 2, groups=1,
                            input_dilation=(1, 1), kernel_dilation=(1, 1))  # fmt: skip
            return y + self.weight(f"{name}/bias", filters) if bias else y

    def relu(self, x: Value) -> Value:
        return get("relu")(x)

    def batch_norm(self, x: Value, name: str) -> Value:
        with self.builder.scope(name):
            c = int(x.shape[-1])
            gamma, beta = self.weight(f"{name}/gamma", c), self.weight(f"{name}/beta", c)
            axes = tuple(range(x.ndim - 1))
            mean = x.mean(axes)
            centered = x - mean
            variance = (centered * centered).mean(axes)
            for label, new in (("mean", mean), ("variance", variance)):
                held = self.builder.variable(f"{name}/moving_{label}", self.dtype(c))
                self.updates.append((held, held * 0.99 + get("stop_gradient")(new) * 0.01))
            return centered * get("rsqrt")(variance + 1e-3) * gamma + beta

    def dropout(self, x: Value, rate: float) -> Value:
        key = self.builder.variable("seed", u32(2))
        self.updates.append((key, key + constant(np.array([0, 1]), u32)))
        bits = get("rng_bits")(key, shape=x.shape)
        uniform = (bits >> constant(8, u32)).astype(self.dtype) * 2.0**-24
        return sugar.select(uniform < 1 - rate, x * (1 / (1 - rate)), 0.0)


def softmax(x: Value) -> Value:
    shifted = x - get("stop_gradient")(x.max(-1, keepdims=True))
    exponentials = get("exp")(shifted)
    return exponentials / exponentials.sum(-1, keepdims=True)


def cross_entropy(y: Value, probabilities: Value) -> Value:
    total = probabilities / probabilities.sum(-1, keepdims=True)
    clipped = get("minimum")(*_fit(get("maximum")(*_fit(total, 1e-7)), 1 - 1e-7))
    return -(y * get("log")(clipped)).sum(-1)


def _fit(x: Value, number: float) -> tuple[Value, Value]:
    return x, sugar.full(x.shape, number, x.dtype)


def adam(net: Network, loss: Value) -> None:
    iterations = net.builder.variable("iterations", i32())
    net.updates.append((iterations, iterations + 1))
    for w, g in zip(net.weights, gradients(loss, net.weights), strict=True):
        assert g is not None
        t = (iterations + 1).astype(net.dtype)
        rate = 0.001 * get("sqrt")(1 - 0.999**t) / (1 - 0.9**t)
        m = net.builder.variable(f"{w.name}/m", w.type)
        v = net.builder.variable(f"{w.name}/v", w.type)
        new_m = m + (g - m) * 0.1
        new_v = v + (g * g - v) * 0.001
        new_w = w - new_m * rate / (get("sqrt")(new_v) + 1e-7)
        net.updates += [(m, new_m), (v, new_v), (w, new_w)]


def _finish(net: Network, y: Value, logits: Value) -> Graph:
    probabilities = softmax(logits)
    losses = cross_entropy(y, probabilities)
    loss = losses.mean()
    adam(net, loss)
    hit = get("equal")(get("argmax")(y, axis=1), get("argmax")(probabilities, axis=1))
    assert hit.dtype == boolean
    total = net.builder.variable("accuracy/total", net.dtype())
    count = net.builder.variable("accuracy/count", net.dtype())
    new_total = total + hit.astype(net.dtype).sum()
    new_count = count + sugar.count(y, (0,), net.dtype)
    net.updates += [(total, new_total), (count, new_count)]
    outputs = {"loss": loss, "accuracy": new_total / new_count}
    return net.builder.finish(outputs, net.updates)


def mlp(dtype: DType = f32, units: int = 512, features: int = 784) -> Graph:
    """Two hidden layers, batch `N`."""
    n = symbol("N")
    with Builder("mlp_train") as builder:
        net = Network(builder, dtype)
        x, y = builder.input("x", dtype(n, features)), builder.input("y", dtype(n, 10))
        h = net.dense(x, units, "dense_0", "relu")
        h = net.dense(h, units, "dense_1", "relu")
        return _finish(net, y, net.dense(h, 10, "dense_2"))


def cnn(dtype: DType = f32, size: int = 28, filters: int = 32, rate: float = 0.5) -> Graph:
    """The MNIST CNN of the Keras tutorial, batch `N`."""
    n = symbol("N")
    with Builder("cnn_train") as builder:
        net = Network(builder, dtype)
        x, y = builder.input("x", dtype(n, size, size, 1)), builder.input("y", dtype(n, 10))
        h = get("max_pool")(net.relu(net.conv(x, filters, "conv_0")), **WINDOW)
        h = get("max_pool")(net.relu(net.conv(h, 2 * filters, "conv_1")), **WINDOW)
        h = net.dropout(h.reshape((n, -1)), rate)
        return _finish(net, y, net.dense(h, 10, "dense"))


def resnet(dtype: DType = f32, size: int = 8, filters: int = 8) -> Graph:
    """Two residual blocks with batch normalization, one of them with strides."""
    n = symbol("N")
    with Builder("resnet_train") as builder:
        net = Network(builder, dtype)
        x, y = builder.input("x", dtype(n, size, size, 3)), builder.input("y", dtype(n, 10))
        h = net.relu(net.batch_norm(net.conv(x, filters, "stem", pad=1, bias=False), "bn"))
        for block, stride in enumerate((1, 2)):
            width = filters * stride
            y1 = net.conv(h, width, f"b{block}/c0", stride, 1, bias=False)
            y1 = net.relu(net.batch_norm(y1, f"b{block}/bn0"))
            y2 = net.conv(y1, width, f"b{block}/c1", 1, 1, bias=False)
            y2 = net.batch_norm(y2, f"b{block}/bn1")
            if stride > 1:
                h = net.conv(h, width, f"b{block}/short", stride, bias=False, size=1)
            h = net.relu(y2 + h)
        return _finish(net, y, net.dense(h.mean((1, 2)), 10, "dense"))
