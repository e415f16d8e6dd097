"""compile on functions: specs, nests, state, caching, export, errors."""

from __future__ import annotations

import functools
import threading

import numpy as np
import onnxruntime
import pytest

import hornfels as hf
from hornfels import ops
from hornfels.ir.errors import (
    ArgumentError,
    BackendError,
    DTypeError,
    GradientError,
    OpenSizeError,
    ShapeError,
)

BACKENDS = ["eager", "tvm", "onnx"]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def counting(function):
    """The function, and a list that grows with each trace of it."""
    traces = []

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        traces.append(1)
        return function(*args, **kwargs)

    return wrapped, traces


# --- calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_nests_go_in_and_come_out(backend):
    @hf.compile(backend=backend)
    def f(pair, options, *rest, flag=True):
        a, b = pair
        total = a + b["b c"] if flag else a - b["b c"]
        return {"total": total, "rest": [r * 2 for r in rest], "none": None}, (a, 1.5)

    given = (X, {"b c": X + 1}), {"mode": "x"}, np.int32(4), X[0]
    found, (same, number) = f(*given)
    np.testing.assert_array_equal(found["total"], 2 * X + 1)
    assert found["rest"][0] == 8
    assert found["rest"][0].dtype == np.int32
    np.testing.assert_array_equal(found["rest"][1], 2 * X[0])
    assert found["none"] is None
    np.testing.assert_array_equal(same, X)
    assert number == np.float32(1.5)
    np.testing.assert_array_equal(f(*given, flag=False)[0]["total"], np.full((2, 3), -1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_open_sizes(backend):
    function, traces = counting(lambda x, y: ops.matmul(x, ops.transpose(y)) + ops.mean(x))
    specs = [((None, 3), "float32"), (("M", 3), "float32")]
    f = hf.compile(function, specs, backend=backend)
    for n, m in ((2, 5), (4, 1), (2, 5)):
        x, y = np.ones((n, 3), np.float32), np.full((m, 3), 2, np.float32)
        np.testing.assert_array_equal(f(x, y), np.full((n, m), 7))
    assert len(traces) == 1
    assert [str(v.type) for v in f.graph().inputs] == ["f32[N,3]", "f32[M,3]"]


def test_open_sizes_that_must_agree_are_one():
    f = hf.compile(lambda x, y: x + y, [((None, None), "float32")] * 2, backend="eager")
    np.testing.assert_array_equal(f(X, X), 2 * X)
    with pytest.raises(ShapeError, match=r"y must be f32\[N,x_1\], got f32\[1,3\]"):
        f(X, X[:1])


@pytest.mark.parametrize(
    "spec",
    [
        ((None, 3), "float32"),
        hf.InputSpec(dtype="float32", shape=(None, 3)),
        hf.InputSpec(dtype="float32", ndim=2, axes={-1: 3}),
        hf.KerasTensor((None, 3)),
        X,
    ],
    ids=["pair", "InputSpec", "axes", "KerasTensor", "array"],
)
def test_each_form_of_a_spec(spec):
    f = hf.compile(lambda x: x * 2, [spec], backend="eager")
    np.testing.assert_array_equal(f(X), 2 * X)
    np.testing.assert_array_equal(f([[0, 1, 2], [3, 4, 5]]), 2 * X)
    assert f(X.astype(np.float64)).dtype == np.float32
    assert hf.compile(lambda x: x * 2, spec, backend="eager")(X).shape == (2, 3)
    with pytest.raises(ShapeError, match="x must be"):
        f(X[:, :2])
    with pytest.raises(DTypeError, match="x must be"):
        hf.compile(lambda x: x, [((2, 3), "int32")], backend="eager")(X)


def test_specs_by_name_and_in_nests():
    f = hf.compile(
        lambda state, lr, mode: {"w": state["w"] * lr} if mode == "scale" else state,
        {"state": {"w": ((3,), "float32")}, "lr": ((), "float32"), "mode": "scale"},
        backend="eager",
    )
    found = f({"w": np.ones(3)}, 0.5, "scale")
    np.testing.assert_array_equal(found["w"], np.full(3, 0.5))
    with pytest.raises(ArgumentError, match=r"argument state must be a dict with 'w'"):
        f({"v": np.ones(3)}, 0.5, "scale")
    with pytest.raises(ArgumentError, match="argument mode must be 'scale' as in the specs"):
        f({"w": np.ones(3)}, 0.5, "other")
    with pytest.raises(ArgumentError, match="missing a required argument: 'lr'"):
        f({"w": np.ones(3)})


def test_a_call_of_the_same_types_is_traced_once():
    function, traces = counting(lambda x, scale=1.0: x * scale)
    f = hf.compile(function, backend="eager")
    for x in (X, X + 1, X[:1], X[:1] + 1):
        f(x)
    assert len(traces) == 2  # two shapes
    f(X, scale=2.0)
    f(X, scale=3.0)
    assert len(traces) == 3  # a number is a tensor
    f(X.astype(np.float64))
    assert len(traces) == 4
    g = hf.compile(function, backend="eager", static=["scale"])
    np.testing.assert_array_equal(g(X, scale=3), 3 * X)
    g(X, scale=2)
    assert len(traces) == 6  # a number is part of the program


def test_threads_share_a_compiled_function():
    f = hf.compile(lambda x: ops.tanh(x) * 2, backend="tvm")
    results = {}

    def work(i):
        results[i] = f(np.full((64,), i, np.float32))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, found in results.items():
        np.testing.assert_allclose(found, np.full(64, np.tanh(i) * 2), rtol=1e-6)


# --- state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_variables_are_state_that_stays_on_the_device(backend):
    w = hf.Variable(np.ones(3, np.float32), name="w")
    steps = hf.Variable(np.int32(0), trainable=False, name="steps")

    @hf.compile(backend=backend)
    def step(x, y, lr):
        loss, gradient = hf.value_and_grad(lambda w: ops.mean(ops.square(ops.matmul(x, w) - y)))(w)
        w.assign_sub(lr * gradient)
        steps.assign_add(1)
        return loss

    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 3)).astype(np.float32)
    target = np.array([1.0, -2.0, 0.5], np.float32)
    losses = [step(x, x @ target, 0.1) for _ in range(60)]
    assert w.residence is step.device
    assert losses[-1] < 1e-3 * losses[0]
    np.testing.assert_allclose(w.numpy(), target, atol=0.02)
    assert int(steps.numpy()) == 60
    w.assign(np.zeros(3, np.float32))
    assert step(x, x @ target, 0.0) == pytest.approx(np.mean((x @ target) ** 2), rel=1e-5)

    read = hf.compile(lambda: w * 2, backend=backend)  # another program, another device
    np.testing.assert_array_equal(read(), np.zeros(3))
    w.assign(target)
    np.testing.assert_array_equal(read(), 2 * target)


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_numbers_advance_and_are_the_same_everywhere(backend):
    generator = hf.random.SeedGenerator(7)
    draw = hf.compile(lambda: hf.random.uniform((4,), seed=generator), backend=backend)
    again = hf.random.SeedGenerator(7)
    for _ in range(3):
        np.testing.assert_array_equal(draw(), hf.random.uniform((4,), seed=again))
    assert not np.array_equal(draw(), draw())


def test_a_variable_as_an_argument_is_assigned_in_place():
    @hf.compile(backend="eager")
    def double(variable):
        variable.assign(variable * 2)

    w = hf.Variable(X, name="w")
    assert double(w) is None
    np.testing.assert_array_equal(w.numpy(), 2 * X)


def test_methods():
    class Counter:
        def __init__(self):
            self.count = hf.Variable(np.float32(0), trainable=False)

        @hf.compile(backend="eager")
        def add(self, x):
            self.count.assign_add(ops.sum(x))
            return self.count.value

    one, two = Counter(), Counter()
    assert one.add(X) == 15
    assert one.add(X) == 30
    assert two.add(X) == 15


def test_layers_and_models_inside():
    model = hf.Sequential([hf.Input((3,)), hf.layers.Dense(4, activation="relu")])
    score = hf.compile(lambda x: ops.sum(model(x), axis=-1), backend="tvm")
    np.testing.assert_allclose(score(X), model.predict(X, verbose=0).sum(-1), rtol=1e-5)
    layer = hf.layers.Dense(2)
    np.testing.assert_allclose(hf.compile(layer, [X], backend="eager")(X), layer(X), rtol=1e-6)


# --- with derivatives, within other programs -------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_derivatives(backend):
    def f(x):
        return ops.sum(ops.sin(x) * x)

    gradient = hf.compile(hf.grad(f), backend=backend)
    np.testing.assert_allclose(gradient(X), np.cos(X) * X + np.sin(X), rtol=1e-4, atol=1e-5)
    inner = hf.compile(f, backend=backend)  # a compiled function is differentiated as a plain one
    np.testing.assert_allclose(hf.grad(inner)(X), gradient(X), rtol=1e-4, atol=1e-5)

    @hf.compile(backend=backend)
    def both(x, v):
        y, pullback = hf.vjp(ops.tanh, x)
        return y, pullback(v)[0], hf.jvp(ops.tanh, (x,), (v,))[1]

    y, back, forward = both(X, X)
    np.testing.assert_allclose(y, np.tanh(X), rtol=1e-5)
    np.testing.assert_allclose(back, (1 - np.tanh(X) ** 2) * X, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(forward, back, rtol=1e-5)


def test_on_symbolic_tensors_it_is_the_plain_function():
    f = hf.compile(lambda x: ops.relu(x) + 1, backend="eager")
    inputs = hf.Input((3,))
    model = hf.Model(inputs, f(inputs))
    np.testing.assert_array_equal(model.predict(X, verbose=0), X + 1)


# --- graph and export ------------------------------------------------------------------------


def test_graph_and_export_of_a_function(tmp_path):
    w = hf.Variable(np.full(3, 2, np.float32), name="w")
    specs = [((None, 3), "float32"), {"a": ((None, "T"), "float32")}]
    f = hf.compile(lambda x, y: {"out": (x * w, ops.sum(y["a"]))}, specs, backend="onnx")
    graph = f.graph()
    assert [v.name for v in graph.inputs] == ["x", "y/a"]
    assert graph.output_names == ("output/out/0", "output/out/1")
    f.export(tmp_path / "f.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "f.onnx")
    assert [i.name for i in session.get_inputs()] == ["x", "y/a"]
    for n, t in ((1, 4), (2, 7)):
        x, a = np.ones((n, 3), np.float32), np.ones((n, t), np.float32)
        scaled, total = session.run(None, {"x": x, "y/a": a})
        np.testing.assert_array_equal(scaled, 2 * x)
        assert total == n * t


def test_export_of_a_function_with_updates(tmp_path):
    w = hf.Variable(np.zeros(3, np.float32), name="w")

    @hf.compile(backend="onnx")
    def step(x):
        w.assign_add(ops.sum(x, axis=0))
        return ops.sum(w)

    with pytest.raises(ArgumentError, match=r"step: was not called yet(.|\n)*example arguments"):
        step.export(tmp_path / "step.onnx")
    step.export(tmp_path / "step.onnx", X)
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    (total, new) = session.run(["output", "new/w"], {"x": X})
    assert total == 15
    np.testing.assert_array_equal(new, [3, 5, 7])
    np.testing.assert_array_equal(w.numpy(), np.zeros(3))  # tracing runs nothing


# --- errors ----------------------------------------------------------------------------------


def branches(x):
    if ops.sum(x) > 0:
        return x
    return -x


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (branches, DTypeError, r"bool\(\) of a traced tensor bool\[\](.|\n)*in test_function.py:\d+"
                               r"(.|\n)*hint: use ops.where or ops.cond"),
        (lambda x: list(range(ops.argmax(x))), DTypeError, "an index of a traced tensor"),
        (lambda x: "word", ArgumentError, "must return tensors or nests of them, got str"),
        (lambda x: {"a": [x, object()]}, ArgumentError, "got object as output/a/1"),
        (lambda x: np.exp(x), DTypeError, "numpy.exp of a traced tensor"),
        (lambda x: hf.grad(lambda y: y * 2)(x), GradientError, "a floating-point scalar"),
        (lambda x: x + np.ones((5,)), ShapeError, "shapes must broadcast"),
    ],
)  # fmt: skip
def test_errors_while_tracing(function, error, message):
    with pytest.raises(error, match=message):
        hf.compile(function, backend="eager")(X)


def test_errors_of_compile_itself():
    with pytest.raises(ArgumentError, match="has no argument 'y'"):
        hf.compile(lambda x: x, static=["y"])
    with pytest.raises(ArgumentError, match="too many positional arguments"):
        hf.compile(lambda x: x, [X, X])
    with pytest.raises(ArgumentError, match="must be hashable"):
        hf.compile(lambda x, y: x, backend="eager")(X, {1, 2})
    with pytest.raises(BackendError, match="backend must be one of"):
        hf.compile(lambda x: x, backend="cuda")
    with pytest.raises(ArgumentError, match="was not called yet"):
        hf.compile(lambda x: x, backend="eager").graph()
    with pytest.raises(ArgumentError, match="expected"):
        hf.compile(3)


def test_a_size_that_must_be_known_names_operation_and_line():
    f = hf.compile(lambda x: ops.fft((x, x)), [((None, None), "float32")], backend="eager")
    message = r"fft: .*x_1(.|\n)*in test_function.py:\d+(.|\n)*hint: give that dimension a size"
    with pytest.raises(OpenSizeError, match=message):
        f(X)
