"""Batch and sequence length left open: one graph, specialized or on ONNX Runtime, at many sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

import hornfels as hf
from hornfels import layers, ops
from hornfels.ir import evaluate, parse
from hornfels.ir.errors import OpenSizeError, ShapeError

SIZES = ({"N": 2, "T": 5, "S": 3}, {"N": 3, "T": 8, "S": 8}, {"N": 1, "T": 4, "S": 6})
SEQUENCE = [(("N", "T", 4), "float32")]
IMAGE = [(("N", "T", "S", 3), "float32")]
TOKENS = [(("N", "T"), "int32")]
PAIR = [(("N", "T", 4), "float32"), (("N", "S", 4), "float32")]

_rng = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape).astype(np.float32)


TABLE, W3, W2D, WT = weights(7, 4), weights(3, 4, 5), weights(3, 3, 3, 4), weights(2, 4, 4)
GROUPED, DEPTHWISE = weights(3, 2, 6), weights(3, 4, 1)


def attend(q: Any, k: Any) -> Any:
    scores = ops.matmul(q, ops.transpose(k, (0, 2, 1))) / 2.0
    return ops.matmul(ops.softmax(scores, axis=-1), k)


def causal(x: Any) -> Any:
    size = ops.shape(x)[1]
    mask = ops.tril(ops.ones((size, size), "bool"))
    scores = ops.where(mask, ops.matmul(x, ops.transpose(x, (0, 2, 1))), -1e9)
    return ops.matmul(ops.softmax(scores, axis=-1), x)


def heads(x: Any) -> Any:
    n, t, _ = ops.shape(x)
    split = ops.transpose(ops.reshape(x, (n, t, 2, 2)), (0, 2, 1, 3))
    return ops.reshape(ops.transpose(split, (0, 2, 1, 3)), (n, -1, 4)) + ops.reshape(x, (-1, t, 4))


def positions(x: Any) -> Any:
    return x + ops.cast(ops.arange(ops.shape(x)[1]), "float32")[None, :, None] / 10.0


CASES: dict[str, tuple[Any, Any]] = {
    "softmax": (SEQUENCE, lambda x: ops.softmax(x, axis=1)),
    "logsumexp": (SEQUENCE, lambda x: ops.logsumexp(x, axis=1)),
    "mean": (SEQUENCE, lambda x: ops.mean(x, axis=1)),
    "variance": (SEQUENCE, lambda x: ops.var(x, axis=(0, 1))),
    "max": (SEQUENCE, lambda x: ops.max(x, axis=1)),
    "normalize": (SEQUENCE, lambda x: (x - ops.mean(x, axis=1, keepdims=True)) * 2.0),
    "attention": (PAIR, attend),
    "causal": (SEQUENCE, causal),
    "einsum": (PAIR, lambda a, b: ops.einsum("btc,bsc->bts", a, b)),
    "heads": (SEQUENCE, heads),
    "flat": (SEQUENCE, lambda x: ops.reshape(x, (-1, ops.shape(x)[1] * 4))),
    "concatenate": (PAIR, lambda a, b: ops.concatenate([a, b, a[:, :1]], axis=1)),
    "cumsum": (SEQUENCE, lambda x: ops.cumsum(x, axis=1)),
    "pad": (SEQUENCE, lambda x: ops.pad(x, ((0, 0), (2, 1), (0, 0)))),
    "shift": (SEQUENCE, lambda x: ops.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))),
    "last": (SEQUENCE, lambda x: x[:, -1]),
    "flip": (SEQUENCE, lambda x: x[:, ::-1]),
    "roll": (SEQUENCE, lambda x: ops.roll(x, 1, axis=1)),
    "stride": (SEQUENCE, lambda x: x[:, 1::2]),
    "positions": (SEQUENCE, positions),
    "tile": (SEQUENCE, lambda x: ops.tile(x, (1, 2, 1))),
    "outer": (SEQUENCE, lambda x: ops.expand_dims(x, 1) - ops.expand_dims(x, 2)),
    "sort": (SEQUENCE, lambda x: ops.sort(x, axis=1)),
    "embedding": (TOKENS, lambda i: ops.take(TABLE, i, axis=0)),
    "one_hot": (TOKENS, lambda i: ops.one_hot(i, 7)),
    "conv valid": (SEQUENCE, lambda x: ops.conv(x, W3, padding="valid")),
    "conv same": (SEQUENCE, lambda x: ops.conv(x, W3, padding="same")),
    "conv dilated": (SEQUENCE, lambda x: ops.conv(x, W3, padding="same", dilation_rate=2)),
    "conv strided": (SEQUENCE, lambda x: ops.conv(x, W3, strides=2, padding="valid")),
    "conv strided same": (SEQUENCE, lambda x: ops.conv(x, W3, strides=2, padding="same")),
    "groups": (SEQUENCE, lambda x: ops.conv(x, GROUPED * ops.mean(x), strides=2)),
    "depthwise": (SEQUENCE, lambda x: ops.depthwise_conv(
        x, DEPTHWISE * ops.mean(x), strides=2, padding="same")),
    "conv of kernel": (SEQUENCE, lambda x: ops.conv(x, ops.tanh(W3 * ops.mean(x)), strides=3)),
    "max_pool": (SEQUENCE, lambda x: ops.max_pool(x, 2, 2)),
    "max_pool same": (SEQUENCE, lambda x: ops.max_pool(x, 3, 2, padding="same")),
    "average_pool": (SEQUENCE, lambda x: ops.average_pool(x, 2, 2)),
    "average_pool same": (SEQUENCE, lambda x: ops.average_pool(x, 3, 1, padding="same")),
    "average_pool strided": (SEQUENCE, lambda x: ops.average_pool(x, 3, 2, padding="same")),
    "conv_transpose": (SEQUENCE, lambda x: ops.conv_transpose(x, WT, strides=2)),
    "image": (IMAGE, lambda x: ops.max_pool(
        ops.relu(ops.conv(x, W2D, strides=2, padding="same")), 2, 2, padding="same")),
    "scan": (SEQUENCE, lambda x: ops.scan(
        lambda c, a: (ops.tanh(c + a), c * a), x[:, 0], ops.transpose(x, (1, 0, 2)))[1]),
    "by size": (SEQUENCE, lambda x: x * 2.0 / ops.convert_to_tensor(ops.shape(x)[1])),
    "image mean": (IMAGE, lambda x: ops.mean(ops.conv(x, W2D), axis=(1, 2))),
}  # fmt: skip


def program(function: Any, specs: Any) -> Any:
    """The function and, of floating-point arguments, its gradient in a fixed direction."""
    if specs is TOKENS:
        return function

    def both(*xs: Any) -> Any:
        def loss(*xs: Any) -> Any:
            return ops.sum(ops.square(function(*xs)) / 2.0)

        return function(*xs), hf.grad(loss, tuple(range(len(specs))))(*xs)

    return both


def draw(specs: Any, sizes: dict[str, int]) -> list[np.ndarray]:
    shapes = [[sizes.get(d, d) for d in shape] for shape, _ in specs]
    rng = np.random.default_rng(sum(map(sum, shapes)))
    if specs is TOKENS:
        return [rng.integers(0, 7, shape).astype(np.int32) for shape in shapes]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def flat(nest: Any) -> list[np.ndarray]:
    if isinstance(nest, tuple):
        return [x for part in nest for x in flat(part)]
    return [nest]


@pytest.mark.parametrize("name", CASES)
def test_one_program_serves_every_size(name):
    """The graph of the specs, read back from text, and its ONNX model, against eager calls."""
    specs, function = CASES[name]
    both = program(function, specs)
    compiled = hf.compile(both, specs, backend="onnx")
    graph = parse(str(compiled.graph()))
    assert set(graph.symbols) >= {"N", "T"}
    for sizes in SIZES:
        arrays = draw(specs, sizes)
        expected = flat(both(*arrays))
        inputs = {v.name: a for v, a in zip(graph.inputs, arrays, strict=True)}
        specialized = list(evaluate(graph, inputs).outputs.values())
        for found, again, want in zip(flat(compiled(*arrays)), specialized, expected, strict=True):
            np.testing.assert_allclose(again, want, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-4)
    assert len(compiled._programs) == 1


@pytest.mark.parametrize(
    "name",
    [
        "conv of kernel",
        "groups",
        "depthwise",
        "conv_transpose",
        "max_pool same",
        "average_pool same",
    ],
)
def test_windows_in_f64_take_a_way_of_their_own(name):
    _, function = CASES[name]
    specs = [(SEQUENCE[0][0], "float64")]
    both = program(function, specs)
    compiled = hf.compile(both, specs, backend="onnx")
    for sizes in SIZES:
        (x,) = draw(specs, sizes)
        x = x.astype(np.float64)
        for found, want in zip(flat(compiled(x)), flat(both(x)), strict=True):
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-9)


def test_native_code_is_made_for_each_size():
    specs, function = CASES["conv strided same"]
    both = program(function, specs)
    compiled = hf.compile(both, specs, backend="tvm")
    for sizes in SIZES[:2]:
        arrays = draw(specs, sizes)
        for found, want in zip(flat(compiled(*arrays)), flat(both(*arrays)), strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


# --- models ----------------------------------------------------------------------------------


def convolutional() -> Any:
    return hf.Sequential(
        [
            layers.Input((None, 3)),
            layers.Conv1D(4, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv1D(4, 3, strides=2, padding="same"),
            layers.MaxPooling1D(2),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )


def attentive() -> Any:
    inputs = layers.Input((None, 3))
    x = layers.Dense(4)(inputs)
    y = attend(layers.Dense(4)(x), layers.Dense(4)(x))
    y = layers.LayerNormalization()(layers.Add()([x, y]))
    y = layers.Concatenate(axis=1)([y, layers.ZeroPadding1D(1)(x)])
    return hf.Model(inputs, layers.Dense(2)(ops.cumsum(y, axis=1)))


def image() -> Any:
    return hf.Sequential(
        [
            layers.Input((None, None, 3)),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            layers.AveragePooling2D(2, padding="same"),
            layers.UpSampling2D(2),
            layers.GlobalMaxPooling2D(),
            layers.Dense(2),
        ]
    )


@pytest.mark.parametrize("build", [convolutional, attentive, image])
def test_a_model_of_open_length_trains_and_is_exported_once(build, tmp_path):
    model = build()
    model.compile("sgd", "mse", backend="eager")
    fast = hf.compile(model, backend="onnx")
    rng = np.random.default_rng(0)
    rank = len(model.inputs[0].shape)
    for n, t in ((2, 6), (4, 9), (2, 6)):
        x = rng.standard_normal((n, *(t,) * (rank - 2), 3)).astype(np.float32)
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(fast.predict_on_batch(x), expected, rtol=1e-4, atol=1e-5)
        y = np.zeros_like(expected)
        before = [w.numpy() for w in model.weights]
        loss = fast.train_on_batch(x, y)
        found = [w.numpy() for w in model.weights]
        for w, array in zip(model.weights, before, strict=True):
            w.assign(array)
        assert model.train_on_batch(x, y) == pytest.approx(loss, rel=1e-4)
        for w, array in zip(model.weights, found, strict=True):
            np.testing.assert_allclose(w.numpy(), array, rtol=1e-3, atol=1e-5)
    kinds = [kind for kind, *_ in fast._steps]
    assert sorted(kinds) == ["predict", "train"]
    fast.export(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for n, t in ((1, 7), (3, 10)):
        x = rng.standard_normal((n, *(t,) * (rank - 2), 3)).astype(np.float32)
        (found,) = session.run(None, {"x": x})
        np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_weights_need_sizes_and_say_so():
    for layer in (layers.Dense(2), layers.Conv1D(2, 3)):
        with pytest.raises(
            ShapeError, match=rf"layer '{layer.name}': axis -1 (.|\n)*hint: weights"
        ):
            layer(layers.Input((4, None)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: ops.reshape(x, (int(ops.shape(x)[1]), -1)), "dimension T is symbolic and int"),
        (lambda x: ops.unstack(x, axis=1), "unstack: dimension T is symbolic"),
        (
            lambda x: ops.max_pool(x, 1, 2, padding="same"),
            "max_pool: padding 'same' with strides 2",
        ),
        (lambda x: ops.fft((x[:, :, 0], x[:, :, 1])), "fft: .* fixed size along axis"),
        (lambda x: x[:, ::-2], "indexing: .* needs a fixed size"),
        (lambda x: ops.stack([row for row in x]), "iteration needs a first axis of fixed size"),  # noqa: C416
        (lambda x: ops.conv(x, ops.transpose(x, (1, 2, 0))), "conv: .*dimension T is symbolic"),
    ],
)
def test_what_needs_a_fixed_size_is_named(function, message):
    with pytest.raises(OpenSizeError, match=message) as caught:
        hf.compile(function, SEQUENCE, backend="eager").graph()
    assert "in test_open_sizes.py:" in str(caught.value)
    assert "hint: give that" in str(caught.value)


def test_keys_of_dict_inputs_may_be_any_text():
    a, b = layers.Input((3,), name="a_b"), layers.Input((3,))
    model = hf.Model({"a b": a, "c/d:20:": b}, layers.Dense(1)(a + b))
    model.compile("sgd", "mse", backend="eager")
    x = {"a b": np.ones((2, 3), np.float32), "c/d:20:": np.zeros((2, 3), np.float32)}
    found = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, model(x), rtol=1e-6)
    assert model.train_on_batch(x, np.zeros((2, 1), np.float32)) >= 0
