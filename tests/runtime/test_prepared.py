"""What a step computes of its weights alone is computed when they change, and only then."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

import hornfels as hf
from hornfels import layers
from hornfels.ir.text import parse
from hornfels.runtime.executable import BackendOptions
from hornfels.runtime.tvm_backend import TvmBackend

SCALED = parse("""graph g(%x: f32[5,8]; %w: f32[8,8], %s: f32[8], %n: f32[]) {
  %0: f32[8] = exp(%s)
  %1: f32[8,8] = broadcast[shape=(8, 8), axes=(1,)](%0)
  %2: f32[8,8] = mul(%w, %1)
  %3: f32[5,8] = matmul[transpose_a=False, transpose_b=False](%x, %2)
  %4: f32[] = cos(%n)
  return y=%3; %n=%4
}""")
X = np.linspace(-1, 1, 40, dtype=np.float32).reshape(5, 8)


@pytest.fixture(scope="module")
def backend():
    return TvmBackend()


@pytest.fixture(scope="module")
def executable(backend):
    return backend.compile(SCALED)


def weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(8, 8)).astype(np.float32), "s": rng.normal(size=8) * 0.1,
            "n": np.zeros(())}  # fmt: skip


def state_of(backend, arrays):
    state = backend.state()
    for name, array in arrays.items():
        state.write(name, np.asarray(array, np.float32))
    return state


def right(arrays) -> np.ndarray:
    return X @ (arrays["w"] * np.exp(arrays["s"]))


def test_it_is_computed_once_for_weights_that_stay(backend, executable):
    arrays = weights(0)
    state = state_of(backend, arrays)
    executable(state, {"x": X})
    assert executable.prepared_bytes
    state.array("w")[...] = 0  # behind the state's back
    (found,) = executable(state, {"x": X}).values()
    np.testing.assert_allclose(found, right(arrays), rtol=1e-5, atol=1e-5)
    assert state.read("n") == np.cos(np.float32(1))  # the program itself writes that


def test_it_is_computed_again_when_a_weight_is_written(backend, executable):
    arrays = weights(1)
    state = state_of(backend, arrays)
    for seed in range(3):
        arrays |= {"s": weights(seed)["s"]}
        state.write("s", arrays["s"].astype(np.float32))
        for _ in range(2):
            found = executable(state, {"x": X})["y"]
            np.testing.assert_allclose(found, right(arrays), rtol=1e-5, atol=1e-5)


def test_it_is_computed_again_when_another_program_writes_a_weight(backend, executable):
    arrays = weights(2)
    state = state_of(backend, arrays)
    double = backend.compile(
        parse("""graph double(; %w: f32[8,8]) {
      %0: f32[8,8] = add(%w, %w)
      return ; %w=%0
    }""")
    )
    for scale in (1, 2, 4):
        found = executable(state, {"x": X})["y"]
        np.testing.assert_allclose(found, scale * right(arrays), rtol=1e-5, atol=1e-4)
        double(state, {})


def test_what_writes_other_state_changes_nothing(backend, executable):
    state = state_of(backend, weights(3))
    clock = state.clock
    state.touch(frozenset(("other", "n")))
    assert state.clock > clock
    assert not state.changed_since(clock, executable.face.reads)
    state.touch(frozenset(("other", "s")))
    assert state.changed_since(clock, executable.face.reads)


def test_each_state_has_its_own(backend, executable):
    """States that take turns, in one thread and in several."""
    failures = []

    def work(seed: int) -> None:
        arrays = weights(seed)
        state = state_of(backend, arrays)
        for _ in range(50):
            found = executable(state, {"x": X})["y"]
            if not np.allclose(found, right(arrays), rtol=1e-5, atol=1e-5):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_call_that_raises_prepares_nothing(backend, executable):
    arrays = weights(4)
    state = state_of(backend, arrays)
    executable(state, {"x": X})
    arrays |= {"w": weights(5)["w"]}
    state.write("w", arrays["w"])
    with pytest.raises(hf.errors.ShapeError):
        executable(state, {"x": X[1:]})
    found = executable(state, {"x": X})["y"]
    np.testing.assert_allclose(found, right(arrays), rtol=1e-5, atol=1e-5)


def test_it_counts_as_memory_and_is_given_up_first(backend, executable):
    """What does not fit a budget is computed in each run instead."""
    assert executable.peak_bytes >= executable.plan.arena_bytes + executable.prepared_bytes
    assert executable.prepared_bytes >= executable.plan.prepared_bytes > 0
    parameters = sum(v.type.nbytes for v in (*SCALED.inputs, *SCALED.state, *SCALED.outputs))
    everything = parameters + executable.peak_bytes
    roomy = TvmBackend(BackendOptions(memory_budget=everything)).compile(SCALED)
    tight = TvmBackend(BackendOptions(memory_budget=everything - 1)).compile(SCALED)
    assert (roomy.prepared_bytes, tight.prepared_bytes) == (executable.prepared_bytes, 0)
    arrays = weights(6)
    for each in (roomy, tight):
        found = each(state_of(backend, arrays), {"x": X})["y"]
        np.testing.assert_allclose(found, right(arrays), rtol=1e-5, atol=1e-5)


# --- models ----------------------------------------------------------------------------------


def network(policy: str = "float32") -> hf.Sequential:
    with_policy = {"dtype": policy}
    return hf.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(16, 3, padding="same", **with_policy),
            layers.BatchNormalization(momentum=0.5, **with_policy),
            layers.ReLU(**with_policy),
            layers.Conv2D(16, 3, use_bias=False, **with_policy),
            layers.BatchNormalization(**with_policy),
            layers.Flatten(),
            layers.Dense(24, activation="relu", **with_policy),
            layers.Dense(4, activation="softmax", **with_policy),
        ]
    )


def agrees(model: hf.Sequential, x: np.ndarray, tolerance: float) -> None:
    """Two predictions on native code are what the oracle predicts."""
    other = network(model.layers[0].dtype_policy.name)
    other.set_weights(model.get_weights())
    expected = hf.compile(other, backend="eager").predict_on_batch(x)
    for _ in range(2):
        np.testing.assert_allclose(np.asarray(model.predict_on_batch(x), np.float32),
                                   np.asarray(expected, np.float32), atol=tolerance)  # fmt: skip


@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 0.03)])
def test_predictions_follow_the_weights(policy, tolerance, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random((6, 8, 8, 3)).astype(np.float32)
    y = rng.integers(0, 4, 6)
    model = network(policy)
    model.compile("sgd", "sparse_categorical_crossentropy", backend="tvm")
    agrees(model, x, tolerance)
    model.layers[0].kernel.assign(rng.normal(size=(3, 3, 3, 16)) * 0.3)
    agrees(model, x, tolerance)
    for _ in range(2):  # batch normalization moves its averages
        model.train_on_batch(x, y)
        agrees(model, x, tolerance)
    model.set_weights([w + rng.normal(size=w.shape) * 0.05 * (w.ndim > 1)
                       for w in model.get_weights()])  # fmt: skip
    agrees(model, x[:1], tolerance)
    agrees(model, x, tolerance)
    path = tmp_path / "w.weights.h5"
    model.save_weights(path)
    model.train_on_batch(x, y)
    model.test_on_batch(x, y)
    agrees(model, x, tolerance)
    model.load_weights(path)
    agrees(model, x, tolerance)


SECOND = """
import sys, numpy as np, hornfels as hf
from hornfels import layers
model = hf.Sequential([layers.Input((20,)), layers.Dense(33, dtype="mixed_bfloat16")])
model.layers[0].kernel.assign(np.eye(20, 33) * float(sys.argv[1]))
fast = hf.compile(model)
for scale in (1.0, 3.0):
    model.layers[0].kernel.assign(np.eye(20, 33) * scale)
    print(float(np.asarray(fast.predict_on_batch(np.ones((4, 20), np.float32)), np.float32).sum()))
(step,) = fast._steps.values()
print(step.executable(4).prepared_bytes > 0)
"""


def test_a_later_process_prepares_for_itself(tmp_path):
    settings = {"HORNFELS_CACHE_DIR": str(tmp_path), "HORNFELS_CACHE_SIZE": "64M"}
    for first in ("5", "7"):
        run = subprocess.run(
            [sys.executable, "-P", "-c", SECOND, first], env={**_environment(), **settings},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert run.stdout.split() == ["80.0", "240.0", "True"]
    assert len(list(tmp_path.iterdir())) == 1


def _environment() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if not k.startswith("HORNFELS_")}
