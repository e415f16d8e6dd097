"""The TVM backend: state in place, alignment, checks before the call, exact memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from hornfels.ir import Builder, evaluate, sugar
from hornfels.ir.errors import ArgumentError, DTypeError, LoweringError, ShapeError
from hornfels.ir.op import get
from hornfels.ir.types import f32, symbol
from hornfels.runtime.executable import BackendOptions, make_backend
from hornfels.runtime.tvm_backend import ALIGNMENT, TvmBackend, aligned, aligned_empty


@pytest.fixture(scope="module")
def backend():
    return TvmBackend()


def counter():
    """y = x @ w; w counts up by the mean of x."""
    with Builder("counter") as b:
        x, w = b.input("x", f32(5, 7)), b.variable("w", f32(7, 3))
        y = get("matmul")(x, w)
        return b.finish({"y": y, "total": y.sum()}, [(w, w + sugar.mean(x))])


@pytest.fixture(scope="module")
def executable(backend):
    return backend.compile(counter())


def make_state(backend):
    state = backend.state()
    state.write("w", np.arange(21, dtype=np.float32).reshape(7, 3))
    return state


X = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)


def test_it_is_the_backend_named_tvm():
    assert isinstance(make_backend("tvm"), TvmBackend)
    with pytest.raises(LoweringError, match="target"):
        make_backend("tvm", BackendOptions("toaster"))


def test_threads_share_an_executable(backend, executable):
    state, wrong = make_state(backend), []
    totals = {}
    for scale in (1.0, 2.0, 3.0):
        totals[scale] = evaluate(counter(), {"x": X * scale, "w": state.read("w")})

    def work(scale: float) -> None:
        own = make_state(backend)  # the first result depends on the scale alone
        for _ in range(200):
            own.write("w", state.read("w"))
            found = executable(own, {"x": X * np.float32(scale)})
            if not np.allclose(found["y"], totals[scale].outputs["y"], rtol=1e-5):
                wrong.append(scale)

    threads = [threading.Thread(target=work, args=(scale,)) for scale in totals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_runs_apply_updates_and_return_fresh_arrays(backend, executable):
    state = make_state(backend)
    arrays = {"x": X, "w": state.read("w")}
    results = []
    for _ in range(3):
        expected = evaluate(counter(), arrays)
        results.append(executable(state, {"x": X}))
        np.testing.assert_allclose(results[-1]["y"], expected.outputs["y"], rtol=1e-5)
        np.testing.assert_allclose(results[-1]["total"], expected.outputs["total"], rtol=1e-5)
        np.testing.assert_allclose(state.read("w"), expected.updates["w"], rtol=1e-6)
        arrays["w"] = state.read("w")
    assert not np.shares_memory(results[0]["y"], results[1]["y"])
    results[0]["y"][:] = 0
    assert results[1]["y"].any()


@pytest.mark.parametrize("offset", [1, 4, 32])
def test_unaligned_inputs_are_copied(backend, executable, offset):
    block = np.zeros(X.nbytes + 128, np.uint8)
    start = -block.ctypes.data % ALIGNMENT + offset
    view = block[start : start + X.nbytes].view(np.float32).reshape(X.shape)
    view[...] = X
    expected = executable(make_state(backend), {"x": X})["y"]
    np.testing.assert_array_equal(executable(make_state(backend), {"x": view})["y"], expected)


def test_strided_and_reversed_inputs(backend, executable):
    expected = executable(make_state(backend), {"x": X})["y"]
    wide = np.zeros((5, 14), np.float32)
    wide[:, ::2] = X
    for view in (wide[:, ::2], np.asfortranarray(X), X[::-1].copy()[::-1]):
        np.testing.assert_array_equal(executable(make_state(backend), {"x": view})["y"], expected)


def test_aligned_arrays_are_used_as_they_are():
    array = aligned_empty(f32(3, 5))
    assert array.ctypes.data % ALIGNMENT == 0
    assert aligned(array) is array
    assert aligned(array.T) is not array
    assert aligned_empty(f32(0, 5)).shape == (0, 5)


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ({}, ArgumentError, "input 'x' is missing"),
        ({"x": X[:4]}, ShapeError, r"x must be f32\[5,7\], got f32\[4,7\]"),
        ({"x": X.astype(np.float64)}, DTypeError, r"x must be f32\[5,7\], got f64\[5,7\]"),
    ],
)
def test_a_refused_run_changes_nothing(backend, executable, inputs, error, words):
    state = make_state(backend)
    before = state.read("w")
    with pytest.raises(error, match=words):
        executable(state, inputs)
    np.testing.assert_array_equal(state.read("w"), before)


def test_state_must_be_there_and_fit(backend, executable):
    with pytest.raises(ArgumentError, match="state 'w' is not on the device"):
        executable(backend.state(), {"x": X})
    state = backend.state()
    state.write("w", np.zeros((7, 4), np.float32))
    with pytest.raises(ShapeError, match="w must be"):
        executable(state, {"x": X})
    state.write("w", np.zeros((7, 3), np.float32))
    executable(state, {"x": X})


def test_state_is_read_as_a_copy_and_written_in_place(backend):
    state = make_state(backend)
    version, held = state.version, state.array("w")
    state.read("w")[:] = -9
    assert (state.array("w") >= 0).all()
    state.write("w", np.ones((7, 3), np.float32))
    assert state.array("w") is held
    assert state.version == version
    state.write("w", np.ones((2, 3), np.float32))
    assert state.version == version + 1
    assert list(state.names()) == ["w"]


def test_one_state_serves_two_executables(backend, executable):
    with Builder("reader") as b:
        w = b.variable("w", f32(7, 3))
        reader = backend.compile(b.finish({"double": w * 2.0}))
    state = make_state(backend)
    executable(state, {"x": X})
    np.testing.assert_array_equal(reader(state, {})["double"], 2 * state.read("w"))


def test_peak_bytes_are_what_is_allocated():
    backend = TvmBackend()  # with an arena of its own
    executable = backend.compile(counter())
    executable(make_state(backend), {"x": X})
    assert executable.peak_bytes == executable._arena.nbytes
    assert executable.peak_bytes >= executable.plan.arena_bytes


def test_symbolic_graphs_are_refused(backend):
    with Builder("symbolic") as b:
        graph = b.finish({"y": b.input("x", f32(symbol("N"), 3)) + 1.0})
    with pytest.raises(LoweringError, match="sizes must be fixed"):
        backend.compile(graph)


def test_constants_and_inputs_as_outputs(backend):
    with Builder("outputs") as b:
        x = b.input("x", f32(4))
        table = sugar.value(np.arange(4, dtype=np.float32))
        graph = b.finish({"x": x, "table": table, "sum": x + table})
    got = backend.compile(graph)(backend.state(), {"x": np.ones(4, np.float32)})
    np.testing.assert_array_equal(got["x"], np.ones(4))
    np.testing.assert_array_equal(got["table"], np.arange(4))
    np.testing.assert_array_equal(got["sum"], np.arange(4) + 1)
