"""Profiles: the calls that there are, times that are possible, rates that follow from both."""

import json
import math

import numpy as np
import pytest

import hornfels as hf
from hornfels import layers
from hornfels.ir import parse
from hornfels.ir.errors import ArgumentError, BackendError
from hornfels.passes.work import NO_WORK, Work
from hornfels.runtime.profile import KernelProfile, Profile, Span, profile, random_inputs
from hornfels.runtime.roofline import Roofline, host_roofline
from hornfels.runtime.tvm_backend import TvmBackend

ROOF = Roofline(100e9, ((1 << 20, 200e9), (1 << 25, 50e9), (1 << 27, 20e9)))


@pytest.mark.parametrize(
    ("work", "seconds", "bound"),
    [
        (Work(10**9, 0, 4096, 4096), 0.01, "arithmetic"),
        (Work(0, 10**9, 4096, 4096), 0.02, "arithmetic"),
        (Work(0, 10, 1 << 19, 1 << 19), 2**20 / 200e9, "memory"),
        (Work(0, 10, 1 << 20, 1), (2**20 + 1) / 50e9, "memory"),
        (Work(0, 10, 1 << 30, 0), 2**30 / 20e9, "memory"),
        (NO_WORK, 0.0, "arithmetic"),
    ],
)
def test_the_roof_is_the_slower_of_arithmetic_and_memory(work, seconds, bound):
    assert ROOF.seconds(work) == pytest.approx(seconds)
    assert ROOF.bound(work) == bound


def test_the_machine_is_measured_with_caches_that_are_faster_the_nearer_they_are():
    roof = host_roofline()
    assert 1e9 < roof.flops < 1e14
    sizes, rates = zip(*roof.bandwidths, strict=True)
    assert list(sizes) == sorted(sizes)
    assert 1e9 < rates[-1] < rates[0] < 1e13


@pytest.fixture(scope="module")
def model():
    model = hf.Sequential(
        [layers.Input((12,)), layers.Dense(16, activation="relu"), layers.Dense(3)]
    )
    model.compile(optimizer="adam", loss="mse")
    return model


def test_a_training_step(model, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((8, 12), np.float32), rng.random((8, 3), np.float32)
    fast = hf.compile(model)
    before = [w.numpy() for w in model.weights]
    found = fast.profile(x, y, steps=5)
    for old, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert found.steps == 5
    assert found.graph == f"{model.name}_train"
    assert sum(k.calls for k in found.kernels) == len(found.spans)
    assert {s.name for s in found.spans} == {k.name for k in found.kernels}
    assert all(0 < k.seconds <= found.seconds * 3 for k in found.kernels)
    assert [k.seconds for k in found.kernels] == sorted(k.seconds for k in found.kernels)[::-1]
    products = sum(k.work.flops for k in found.kernels)
    assert products == 2 * 8 * (12 * 16 + 16 * 3) * 3 - 2 * 8 * 12 * 16
    assert any("dense" in layer for k in found.kernels for layer in k.layers)
    begins = [s.begin for s in found.spans]
    assert begins[0] == 0
    assert begins == sorted(begins)
    assert all(a.begin + a.length <= b.begin for a, b in zip(found.spans, found.spans[1:],
                                                              strict=False))  # fmt: skip
    assert "ms a step" in str(found)


def test_predictions_and_their_layers(model):
    found = hf.compile(model).profile(np.zeros((4, 12), np.float32), kind="predict", steps=2)
    assert [k.root for k in found.kernels] == ["matmul", "matmul"]


def test_every_step_of_a_loop_is_a_call():
    graph = parse("""graph loop(%h: f32[16], %xs: f32[7,16]) {
      %0, %1: f32[16], f32[7,16] = scan[carry=1, stacked=1, length=7](%h, %xs) {
          body = graph step(%c: f32[16], %x: f32[16]) {
          %0: f32[16] = add(%c, %x)
          %1: f32[16] = tanh(%0)
          return c=%1, y=%0
        }
      }
      return y=%1
    }""")
    inputs = {"h": np.ones(16, np.float32), "xs": np.ones((7, 16), np.float32)}
    found = profile(TvmBackend(), graph, {}, inputs, steps=2)
    assert max(k.calls for k in found.kernels) == 7
    assert sum(k.calls for k in found.kernels) == len(found.spans)


def test_what_is_refused(model):
    x, y = np.zeros((4, 12), np.float32), np.zeros((4, 3), np.float32)
    with pytest.raises(BackendError, match='profile needs backend "tvm", got "eager"'):
        hf.compile(model, backend="eager").profile(x, y)
    with pytest.raises(ArgumentError, match="steps must be 1 or more, got 0"):
        hf.compile(model).profile(x, y, steps=0)


def small_profile():
    slow = KernelProfile("matmul", "matmul", ("a", "b"), 2, 4e-3, Work(10**8, 0, 64, 64), 1e-3,
                         "arithmetic")  # fmt: skip
    copy = KernelProfile("copy", "copy", (), 1, 1e-3, NO_WORK, 0.0, "")
    spans = (Span("matmul", "a", 0, 2_000_000), Span("copy", "", 2_000_000, 1_000_000),
             Span("matmul", "b", 3_000_000, 2_000_000))  # fmt: skip
    return Profile("train", 3, 5e-3, (slow, copy), spans, ROOF)


def test_rates_and_fractions():
    slow, copy = small_profile().kernels
    assert (slow.gflops, slow.fraction) == (pytest.approx(25.0), pytest.approx(0.25))
    assert math.isnan(copy.fraction)
    assert small_profile().roof == 1e-3


def test_the_table_shows_as_many_rows_as_asked_for():
    text = str(small_profile())
    assert "matmul" in text
    assert "a +1" in text
    assert "25%" in text
    assert small_profile().table(limit=1).row_count == 2  # and one that says how many more


def test_the_trace_holds_every_span(tmp_path):
    small_profile().save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    name, *spans = events
    assert name["args"] == {"name": "train"}
    assert [(e["name"], e["ph"], e["ts"], e["dur"]) for e in spans] == [
        ("matmul", "X", 0.0, 2000.0), ("copy", "X", 2000.0, 1000.0),
        ("matmul", "X", 3000.0, 2000.0),
    ]  # fmt: skip
    assert spans[2]["args"]["layer"] == "b"


def test_made_up_inputs_have_the_declared_types(model):
    inputs = random_inputs(model.declared_types("train"), 5)
    assert {n: (a.shape, a.dtype.name) for n, a in inputs.items()} == {
        "x": ((5, 12), "float32"), "y": ((5, 3), "float32"),
    }  # fmt: skip
