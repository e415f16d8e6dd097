"""The benchmark models: what they are, built with Keras, and what arithmetic they cost."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from hornfels.benchmarks.models import BENCH_MODELS, CLASSES

keras = pytest.importorskip("keras")

TRAINABLE = {
    "mlp": 669_706,
    "cnn": 34_826,
    "resnet": 272_474,
    "lstm": 83_722,
    "transformer": 397_834,
}


def test_the_five_models_are_there():
    assert list(BENCH_MODELS) == ["mlp", "cnn", "resnet", "lstm", "transformer"]


@pytest.fixture(params=list(BENCH_MODELS))
def bench(request):
    return BENCH_MODELS[request.param]


def test_keras_builds_it(bench):
    model = bench.build(keras)
    assert model.input_shape == (None, *bench.input_shape)
    assert model.output_shape == (None, CLASSES)
    weights = sum(math.prod(w.shape) for w in model.trainable_weights)
    assert weights == TRAINABLE[bench.name]


def test_needs_are_the_layers_that_it_uses(bench):
    used = {type(layer).__name__ for layer in bench.build(keras).layers} - {"InputLayer"}
    assert set(bench.needs) == used


def forward_flops(layer) -> int:
    """Counted from a built Keras layer: its kernels, and how often each is applied."""
    match type(layer).__name__:
        case "Dense":
            times = math.prod(layer.output.shape[1:-1])
            return 2 * times * math.prod(layer.kernel.shape)
        case "Conv2D":
            times = math.prod(layer.output.shape[1:-1])
            return 2 * times * math.prod(layer.kernel.shape)
        case "LSTM":
            steps = layer.input.shape[1]
            kernels = (layer.cell.kernel, layer.cell.recurrent_kernel)
            return 2 * steps * sum(math.prod(k.shape) for k in kernels)
        case "MultiHeadAttention":
            tokens, width = layer.output.shape[1:]
            projections = sum(math.prod(w.shape) for w in layer.weights if len(w.shape) == 3)
            return 2 * tokens * projections + 2 * 2 * tokens * tokens * width
        case _:
            return 0


def test_flops_are_those_of_the_layers(bench):
    layers = bench.build(keras).layers
    assert bench.forward_flops == sum(map(forward_flops, layers))
    assert 2 * bench.forward_flops <= bench.train_flops <= 3 * bench.forward_flops


def test_torch_has_the_same_models(bench):
    torch = pytest.importorskip("torch")
    from hornfels.benchmarks.torch_models import TORCH_MODELS

    net = TORCH_MODELS[bench.name]()
    weights = sum(p.numel() for p in net.parameters())
    second_bias = 4 * 128 if bench.name == "lstm" else 0  # torch's LSTM has two biases
    assert weights - second_bias == TRAINABLE[bench.name]
    shape = bench.input_shape
    shape = (shape[-1], *shape[:-1]) if len(shape) == 3 else shape
    with torch.no_grad():
        assert net(torch.zeros(2, *shape)).shape == (2, CLASSES)


def test_a_namespace_without_a_layer_is_refused():
    poor = SimpleNamespace(__name__="poor", layers=SimpleNamespace(Dense=object))
    with pytest.raises(
        LookupError, match=r"model 'lstm' needs layers\.LSTM, which poor does not have"
    ):
        BENCH_MODELS["lstm"].build(poor)


def test_batches_go_round():
    from hornfels.benchmarks.engines import Batches

    data = Batches.random(BENCH_MODELS["mlp"], batch_size=4, count=3)
    again = Batches.random(BENCH_MODELS["mlp"], batch_size=4, count=3)
    np.testing.assert_array_equal(data.x, again.x)
    assert (data.count, data.x.shape, data.y.shape) == (3, (12, 784), (12, CLASSES))
    np.testing.assert_array_equal(data.batch(4)[0], data.x[4:8])
    assert np.shares_memory(data.batch(1)[0], data.x)
    assert len(data.first(2)[0]) == 8
    assert (data.y.sum(1) == 1).all()
