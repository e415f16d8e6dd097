"""The measured search: it keeps what is faster, gives up in time, and changes no number."""

import time

import numpy as np
import pytest

import hornfels as hf
from hornfels import layers
from hornfels.codegen.tvm.lower import Choice, compile_plan
from hornfels.codegen.tvm.target import parse_target
from hornfels.ir import parse
from hornfels.ir.errors import ArgumentError, BackendError
from hornfels.passes.pipeline import make_plan
from hornfels.runtime import tune as search
from hornfels.runtime.tvm_backend import TvmExecutable, TvmState

PRODUCT = """graph product(%a: f32[37,65], %b: f32[65,70]) {
  %0: f32[37,70] = matmul(%a, %b)
  return y=%0
}"""


@pytest.fixture
def slow_by_default(monkeypatch):
    """Measurements in which fewer registers are always faster."""

    def nanoseconds(trial):
        return trial.choice.machine.vector_registers * 1000

    monkeypatch.setattr(search._Trial, "nanoseconds", nanoseconds)
    monkeypatch.setattr(search._Step, "nanoseconds", lambda step: 9 if step.choices else 10)


def test_what_is_faster_is_taken_and_computes_the_same(slow_by_default):
    plan, target = make_plan(parse(PRODUCT)), parse_target()
    choices = search.tune(plan, target, 60)
    (kernel,) = plan.kernels
    found = choices[kernel.name].machine
    assert found.vector_registers < target.machine.vector_registers
    rng = np.random.default_rng(0)
    inputs = {"a": rng.random((37, 65), np.float32), "b": rng.random((65, 70), np.float32)}
    tuned = TvmExecutable.of(compile_plan(plan, target, choices))
    y = tuned(TvmState(), inputs)["y"]
    np.testing.assert_allclose(y, inputs["a"] @ inputs["b"], rtol=1e-5)


def test_what_does_not_make_the_step_faster_is_dropped(slow_by_default, monkeypatch):
    """A kernel alone finds its operands in the cache."""
    monkeypatch.setattr(search._Step, "nanoseconds", lambda step: 10)
    assert search.tune(make_plan(parse(PRODUCT)), parse_target(), 60) == {}


def test_equal_times_change_nothing(monkeypatch):
    monkeypatch.setattr(search._Trial, "nanoseconds", lambda trial: 1000)
    assert search.tune(make_plan(parse(PRODUCT)), parse_target(), 60) == {}


def test_a_gain_that_comes_and_goes_is_noise(monkeypatch):
    calls = iter(range(10**6))
    monkeypatch.setattr(search._Trial, "nanoseconds", lambda trial: 1000 + 500 * (next(calls) % 3))
    assert search.tune(make_plan(parse(PRODUCT)), parse_target(), 60) == {}


def test_the_search_ends_in_time():
    plan, target = make_plan(parse(PRODUCT)), parse_target()
    begin = time.perf_counter()
    search.tune(plan, target, 0.0)
    assert time.perf_counter() - begin < 30.0


def test_code_that_is_the_same_is_not_measured_twice():
    plan, target = make_plan(parse(PRODUCT)), parse_target()
    (kernel,) = plan.kernels
    one = search._Search(kernel, target, Choice(target.machine), ())
    assert one.trial(one.default) is not None
    assert one.trial(one.default) is None


def test_models_that_are_tuned_train_as_others(slow_by_default):
    losses = []
    for seconds in (0, 5):
        hf.utils.set_random_seed(1)
        model = hf.Sequential([layers.Input((12,)), layers.Dense(40, "relu"), layers.Dense(3)])
        model.compile("sgd", "mse")
        fast = hf.compile(model, tune=seconds)
        x = np.linspace(0, 1, 96, dtype=np.float32).reshape(8, 12)
        losses.append([fast.train_on_batch(x, x[:, :3]) for _ in range(3)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_what_is_refused():
    model = hf.Sequential([layers.Input((2,)), layers.Dense(1)])
    with pytest.raises(ArgumentError, match="tune must be a number of seconds"):
        hf.compile(model, tune=-1)
    with pytest.raises(BackendError, match="no tuning"):
        hf.compile(model, backend="eager", tune=1)
