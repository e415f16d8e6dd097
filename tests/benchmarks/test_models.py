"""The benchmark models: what they are, built with Keras, and what arithmetic they cost."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest

import hornfels as hf
from hornfels.benchmarks.bench_model import CLASSES
from hornfels.benchmarks.models import BENCH_MODELS, SETS

keras = pytest.importorskip("keras")

TRAINABLE = {
    "mlp": 669_706,
    "cnn": 34_826,
    "resnet": 272_474,
    "lstm": 83_722,
    "transformer": 397_834,
}


LARGE = {
    "mobilenetv2": 3_504_872,
    "resnet50": 25_557_032,
    "efficientnetb0": 5_288_548,
    "unet": 7_760_394,
    "gru-text": 2_560_000 + 98_304 + 768 + 1_290,
    "transformer6": 4_741_130,
    "autoencoder": 40_518_480,
}


def test_the_models_by_name():
    assert SETS["small"] == ("mlp", "cnn", "resnet", "lstm", "transformer")
    assert SETS["large"] == tuple(LARGE)
    assert SETS["all"] == tuple(BENCH_MODELS)


@pytest.mark.parametrize("name", LARGE)
def test_larger_models_learn_as_in_keras(name):
    """At small sizes, from the same weights; how they are compiled is tested elsewhere."""
    bench = BENCH_MODELS[name]
    theirs, ours = bench.build(keras, **bench.small), bench.build(hf, **bench.small)
    weights = [np.asarray(w) for w in theirs.weights]
    x, y = bench.samples(3, tuple(theirs.input_shape[1:]))
    wanted = [np.ravel(theirs.train_on_batch(x, y))[0] for _ in range(2)]
    ours.set_weights(weights)
    ours.compile(**bench.training, backend="eager")
    found = [np.ravel(ours.train_on_batch(x, y))[0] for _ in range(2)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [("mobilenetv2", 300.8e6), ("resnet50", 4089e6), ("efficientnetb0", 385.9e6)],
)
def test_the_arithmetic_of_known_networks(name, multiply_adds):
    """As torchvision counts it for its own."""
    assert BENCH_MODELS[name].forward_flops == pytest.approx(2 * multiply_adds, rel=2e-3)


@pytest.mark.parametrize("name", LARGE)
def test_torch_has_the_larger_models(name):
    pytest.importorskip("torch")
    from hornfels.benchmarks.torch_models import TORCH_MODELS

    weights = sum(p.numel() for p in TORCH_MODELS[name]().parameters())
    assert weights == LARGE[name]


def test_torch_computes_images_of_all_sizes():
    torch = pytest.importorskip("torch")
    from hornfels.benchmarks.torch_models import TORCH_MODELS

    with torch.no_grad():
        for name in ("mobilenetv2", "resnet50", "efficientnetb0"):
            assert TORCH_MODELS[name]().eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
        assert TORCH_MODELS["unet"]()(torch.zeros(1, 3, 32, 32)).shape == (1, CLASSES, 32, 32)


def test_labels_are_classes_pixels_or_the_input():
    x, y = BENCH_MODELS["unet"].samples(2, (4, 6, 3))
    assert (x.shape, y.shape) == ((2, 4, 6, 3), (2, 4, 6, CLASSES))
    x, y = BENCH_MODELS["gru-text"].samples(3)
    assert (x.dtype, x.shape, x.max() < 20_000, y.shape) == (np.int32, (3, 200), True, (3, CLASSES))
    x, y = BENCH_MODELS["autoencoder"].samples(2)
    assert x is y


@pytest.fixture(params=SETS["small"])
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


def test_a_way_that_takes_too_long_is_given_up():
    from hornfels.benchmarks.peer_engines import within

    start = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"not done within 0\.05 s"), within(0.05):
        time.sleep(5)
    assert time.perf_counter() - start < 2
    with within(None), within(5):
        pass


def test_a_namespace_without_a_layer_is_refused():
    poor = SimpleNamespace(__name__="poor", layers=SimpleNamespace(Dense=object))
    with pytest.raises(
        LookupError, match=r"model 'lstm' needs layers\.LSTM, which poor does not have"
    ):
        BENCH_MODELS["lstm"].build(poor)


def test_batches_go_round():
    from hornfels.benchmarks.measuring import Batches

    data = Batches.random(BENCH_MODELS["mlp"], batch_size=4, count=3)
    again = Batches.random(BENCH_MODELS["mlp"], batch_size=4, count=3)
    np.testing.assert_array_equal(data.x, again.x)
    assert data.of(None) is data
    assert data.of(1).count == 12
    assert (data.count, data.x.shape, data.y.shape) == (3, (12, 784), (12, CLASSES))
    np.testing.assert_array_equal(data.batch(4)[0], data.x[4:8])
    assert np.shares_memory(data.batch(1)[0], data.x)
    assert len(data.first(2)[0]) == 8
    assert (data.y.sum(1) == 1).all()
