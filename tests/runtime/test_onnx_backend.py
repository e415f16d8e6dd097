"""The ONNX backend: state in two buffers, errors that change nothing, any batch size."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import training_graphs

from hornfels.ir import Builder, Graph, constant, evaluate, symbol
from hornfels.ir.errors import ArgumentError, DTypeError, ShapeError
from hornfels.ir.op import get
from hornfels.ir.types import bf16, f32
from hornfels.runtime.eager import EagerBackend
from hornfels.runtime.executable import make_backend
from hornfels.runtime.onnx_backend import OnnxBackend, OnnxState


def loaded(backend, arrays):
    state = backend.state()
    for name, array in arrays.items():
        state.write(name, array)
    return state


def arrays_of(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        v.name: (rng.normal(size=v.shape) * 0.2 * v.name.endswith("kernel")).astype(v.dtype.numpy)
        for v in graph.state
    }


def batch(features: tuple[int, ...], size: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, *features)).astype(np.float32)
    return {"x": x, "y": np.eye(10, dtype=np.float32)[rng.integers(0, 10, size)]}


def test_training_equals_eager_with_a_smaller_last_batch():
    graph = training_graphs.cnn(f32, size=12, filters=4)
    arrays = arrays_of(graph)
    onnx, eager = OnnxBackend(), EagerBackend()
    states = loaded(onnx, arrays), loaded(eager, arrays)
    steps = onnx.compile(graph), eager.compile(graph)
    for i, size in enumerate((16, 16, 16, 7, 16)):
        data = batch((12, 12, 1), size, i)
        found, expected = (step(state, data) for step, state in zip(steps, states, strict=True))
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)
    for name in arrays:
        np.testing.assert_allclose(
            states[0].read(name), states[1].read(name), rtol=2e-3, atol=2e-5, err_msg=name
        )


def swap_and_count() -> Graph:
    with Builder("swap") as b:
        x = b.input("x", f32(3))
        p, q, k = (b.variable(name, f32(3)) for name in ("p", "q", "k"))
        return b.finish({"y": p + q * x}, [(p, q), (q, p), (k, k + constant(np.ones(3), f32))])


def test_state_that_swaps_and_state_that_stays():
    backend = make_backend("onnx")
    state = loaded(backend, {n: np.full(3, i, np.float32) for i, n in enumerate(("p", "q", "k"))})
    step = backend.compile(swap_and_count())
    x = np.full(3, 10, np.float32)
    values = [step(state, {"x": x})["y"][0] for _ in range(4)]
    assert values == [10.0, 1.0, 10.0, 1.0]
    assert [state.read(n)[0] for n in ("p", "q", "k")] == [0.0, 1.0, 6.0]


def test_writing_between_steps():
    backend = make_backend("onnx")
    state = loaded(backend, {n: np.zeros(3, np.float32) for n in ("p", "q", "k")})
    step = backend.compile(swap_and_count())
    data = {"x": np.zeros(3, np.float32)}
    step(state, data)
    array = np.full(3, 7, np.float32)
    state.write("p", array)
    array[:] = -1  # the state has its own copy
    assert step(state, data)["y"][0] == 7
    assert state.read("q")[0] == 7
    state.read("q")[:] = -1  # a copy as well
    assert state.read("q")[0] == 7
    assert set(state.names()) == {"p", "q", "k"}


def test_outputs_belong_to_the_caller():
    backend = make_backend("onnx")
    state = loaded(backend, {n: np.ones(3, np.float32) for n in ("p", "q", "k")})
    step = backend.compile(swap_and_count())
    first = step(state, {"x": np.ones(3, np.float32)})["y"]
    kept = first.copy()
    step(state, {"x": np.full(3, 5, np.float32)})
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({}, ArgumentError, r"input x: f32\[3\] is missing"),
        ({"x": np.zeros(4, np.float32)}, ShapeError, r"x must be f32\[3\], got f32\[4\]"),
        ({"x": np.zeros(3, np.float64)}, DTypeError, r"x must be f32\[3\], got f64\[3\]"),
    ],
)
def test_a_refused_input_leaves_the_state(inputs, error, message):
    backend = make_backend("onnx")
    arrays = {n: np.full(3, i, np.float32) for i, n in enumerate(("p", "q", "k"))}
    state = loaded(backend, arrays)
    with pytest.raises(error, match=message):
        backend.compile(swap_and_count())(state, inputs)
    for name, array in arrays.items():
        np.testing.assert_array_equal(state.read(name), array)


def test_sizes_of_one_symbol_must_agree():
    n = symbol("N")
    with Builder("rows") as b:
        x, z = b.input("x", f32(n, 2)), b.input("z", f32(2 * n, 2))
        graph = b.finish({"y": x.sum() + z.sum()})
    step = OnnxBackend().compile(graph)
    inputs = {"x": np.ones((4, 2), np.float32), "z": np.ones((3, 2), np.float32)}
    with pytest.raises(ShapeError, match=r"z must be f32\[8,2\], got f32\[3,2\]"):
        step(OnnxState(), inputs)


class _Failing:
    """A session whose run writes some outputs and then fails."""

    def __init__(self, session: object) -> None:
        self._session = session

    def io_binding(self) -> object:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: object) -> None:
        self._session.run_with_iobinding(binding)
        raise RuntimeError("out of memory")


def test_a_run_that_fails_leaves_the_state():
    backend = OnnxBackend()
    arrays = {n: np.full(3, i, np.float32) for i, n in enumerate(("p", "q", "k"))}
    state, step = loaded(backend, arrays), backend.compile(swap_and_count())
    sound, data = step._general._session, {"x": np.ones(3, np.float32)}
    step._general._session = _Failing(sound)
    with pytest.raises(RuntimeError, match="out of memory"):
        step(state, data)
    for name, array in arrays.items():
        np.testing.assert_array_equal(state.read(name), array)
    step._general._session = sound
    assert step(state, data)["y"][0] == 1


def test_inputs_in_any_memory():
    """Transposed, strided, read-only and unaligned arrays, and a scalar."""
    with Builder("memory") as b:
        x, k = b.input("x", f32(4, 6)), b.input("k", f32())
        graph = b.finish({"y": x + k})
    step, state = OnnxBackend().compile(graph), OnnxState()
    base = np.arange(24, dtype=np.float32)
    frozen = base.reshape(4, 6).copy()
    frozen.flags.writeable = False
    raw = np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 6)
    for x in (base.reshape(6, 4).T, np.repeat(base, 2)[::2].reshape(4, 6), frozen, raw):
        found = step(state, {"x": x, "k": np.float32(3)})["y"]
        np.testing.assert_array_equal(found, x + np.float32(3))


def _classifier() -> Graph:
    with Builder("classifier") as b:
        net = training_graphs.Network(b, f32)
        h = get("relu")(net.conv(b.input("x", f32(symbol("N"), 8, 8, 1)), 4, "conv"))
        return b.finish({"output": net.dense(h.reshape((symbol("N"), -1)), 10, "d")})


def test_predictions_follow_the_weights():
    """Weights are baked into a session; a change must show in the next run, every time."""
    graph = _classifier()
    arrays = arrays_of(graph)
    state, step = loaded(OnnxBackend(), arrays), OnnxBackend().compile(graph)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    for scale, runs in ((1.0, 4), (2.0, 1), (3.0, 1), (4.0, 5), (5.0, 2)):
        kernel = arrays["conv/kernel"] * np.float32(scale)
        state.write("conv/kernel", kernel)
        expected = evaluate(graph, {"x": x, **arrays, "conv/kernel": kernel}).outputs["output"]
        for _ in range(runs):
            found = step(state, {"x": x})["output"]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_sessions_with_weights_are_not_made_for_single_runs():
    graph = _classifier()
    arrays = arrays_of(graph)
    state, step = loaded(OnnxBackend(), arrays), OnnxBackend().compile(graph)
    x = {"x": np.zeros((1, 8, 8, 1), np.float32)}
    kinds = []
    for runs in (1, 1, 1, 4, 4):  # the number of runs between two changes
        state.write("d/bias", arrays["d/bias"])
        for _ in range(runs):
            step(state, x)
            current = step._baked is not None and step._baked[0] == step._last
            kinds.append("B" if current else "g")
    assert "".join(kinds) == "B" + "g" + "g" + "gggB" + "BBBB"


def test_bf16_state():
    with Builder("bf16") as b:
        x, w = b.input("x", bf16(3)), b.variable("w", bf16(3))
        graph = b.finish({"y": x * w}, [(w, w + x)])
    arrays = {n: np.array([1, 2, 3], bf16.numpy) for n in "xw"}
    state = loaded(OnnxBackend(), {"w": arrays["w"]})
    found = OnnxBackend().compile(graph)(state, {"x": arrays["x"]})
    expected = evaluate(graph, arrays)
    np.testing.assert_array_equal(found["y"], expected.outputs["y"])
    np.testing.assert_array_equal(state.read("w"), expected.updates["w"])


def run_alone(code: str) -> list[str]:
    """The lines that a fresh process prints."""
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_denormals_are_flushed_in_sessions_and_nowhere_else():
    """In a process of its own: the first session of a process decides."""
    code = (
        "import numpy as np\n"
        "from hornfels.ir import Builder\n"
        "from hornfels.ir.types import f32\n"
        "from hornfels.runtime.onnx_backend import OnnxBackend, OnnxState\n"
        "with Builder('tiny') as b:\n"
        "    graph = b.finish({'y': b.input('x', f32(1000)) * 0.5})\n"
        "tiny = np.full(1000, 1e-40, np.float32)\n"
        "found = OnnxBackend().compile(graph)(OnnxState(), {'x': tiny})['y']\n"
        "print(found.any(), (tiny * np.float32(0.5)).all())\n"
    )
    assert run_alone(code) == ["False True"]


def test_a_missing_runtime_says_what_to_install():
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from hornfels.ir.errors import BackendError\n"
        "for name in ('executable', 'onnx_backend'):\n"
        "    try:\n"
        "        module = __import__(f'hornfels.runtime.{name}', fromlist=['x'])\n"
        "        module.make_backend('onnx')\n"
        "    except BackendError as error:\n"
        "        print(error)\n"
    )
    line = 'backend "onnx" needs ONNX Runtime: pip install "hornfels[cpu]"'
    assert run_alone(code) == [line, line]
