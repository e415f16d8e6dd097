"""What the models look like: names, metadata, and the operators that a person would write."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import training_graphs
from onnx_run import run_graph, session_of

from hornfels.codegen.onnx import lower
from hornfels.codegen.onnx.bake import bake
from hornfels.codegen.onnx.emit import KERNELS, PROTO
from hornfels.codegen.onnx.prepare import prepare
from hornfels.ir import Builder, Graph, Value, constant, evaluate, sugar, symbol
from hornfels.ir.errors import LoweringError
from hornfels.ir.op import get
from hornfels.ir.types import bf16, boolean, f16, f32, f64, i32, i64, u32

N = symbol("N")


def operators(graph: Graph) -> list[str]:
    return [node.op_type for node in lower(graph).graph.node]


def inference(kind: str, logits: bool = False) -> Graph:
    """An MLP or CNN with a softmax behind it."""
    with Builder(kind) as b:
        net = training_graphs.Network(b, f32)
        if kind == "mlp":
            h = net.dense(b.input("x", f32(N, 20)), 16, "a", "relu")
        else:
            x = b.input("x", f32(N, 14, 14, 1))
            h = get("max_pool")(net.relu(net.conv(x, 4, "a")), **training_graphs.WINDOW)
            h = get("max_pool")(net.relu(net.conv(h, 8, "b")), **training_graphs.WINDOW)
            h = h.reshape((N, -1))
        y = net.dense(h, 10, "head")
        return b.finish({"output": y if logits else training_graphs.softmax(y)})


def weights(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {v.name: rng.normal(size=v.shape).astype(np.float32) * 0.2 for v in graph.state}


def test_an_mlp_is_written_as_by_hand():
    assert operators(prepare(inference("mlp"))) == ["Gemm", "Relu", "Gemm", "Softmax"]


def test_a_cnn_is_written_as_by_hand():
    graph = prepare(inference("cnn"))
    baked, variables = bake(graph, weights(graph))
    model = lower(baked, constant_names=variables)
    assert [n.op_type for n in model.graph.node] == [
        "Transpose", "Conv", "Relu", "MaxPool", "Conv", "Relu", "MaxPool", "Reshape", "Gemm",
        "Softmax",
    ]  # fmt: skip
    names = {i.name for i in model.graph.initializer}
    assert names >= {"a/kernel/T", "a/bias", "head/kernel/NCHW", "head/bias"}
    arrays = weights(graph)
    x = {"x": np.random.default_rng(1).normal(size=(3, 14, 14, 1)).astype(np.float32)}
    expected = evaluate(graph, x | arrays).outputs["output"]
    np.testing.assert_allclose(run_graph(baked, x)["output"], expected, rtol=1e-5, atol=1e-6)


def test_a_training_step_has_few_transposes():
    """Of images: input, flatten and back, one a kernel gradient; the others are of kernels."""
    model = lower(prepare(training_graphs.cnn(f32, size=14, filters=4, rate=0.0)))
    count = Counter(n.op_type for n in model.graph.node)
    assert count["Transpose"] <= 10
    assert count["Expand"] == 0


def test_symbols_names_and_metadata():
    graph = prepare(training_graphs.mlp(f32, units=8, features=5))
    model = lower(graph)
    assert {o.version for o in model.opset_import} == {21}
    assert model.ir_version == 10
    x = next(i for i in model.graph.input if i.name == "x")
    assert [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] == ["N", 5]
    metadata = {p.key: p.value for p in model.metadata_props}
    assert metadata["hornfels.kind"] == "train"
    pairs = json.loads(metadata["hornfels.updates"])
    assert pairs["dense_0/kernel"] == "new/dense_0/kernel"
    names = {i.name for i in model.graph.input}, {o.name for o in model.graph.output}
    assert pairs.keys() <= names[0]
    assert set(pairs.values()) <= names[1]
    assert any(n.name.startswith("node:dense_0/") for n in model.graph.node)


def test_one_session_serves_every_batch_size():
    graph = prepare(inference("cnn"))
    arrays = weights(graph)
    session = session_of(lower(graph))
    for batch in (1, 3, 8):
        x = np.random.default_rng(batch).normal(size=(batch, 14, 14, 1)).astype(np.float32)
        (found,) = session.run(None, {"x": x, **arrays})
        expected = evaluate(graph, {"x": x, **arrays}).outputs["output"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_sizes_that_depend_on_compound_symbols():
    with Builder("compound") as b:
        x = b.input("x", f32(2 * N + 3, 2))
        rows = get("iota")(shape=(N, 4), axis=0, dtype=i32)
        y = get("pad")(x, low=(N, 0), high=(-1, 0), interior=(0, 0), value=1.0)
        graph = b.finish({"rows": rows, "y": y, "n": get("dimension_size")(x, axis=0)})
    arrays = {"x": np.arange(14, dtype=np.float32).reshape(7, 2)}
    bound = evaluate(graph.specialize({"N": 2}), arrays).outputs
    session = session_of(lower(graph))
    found = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, arrays), strict=True)
    )
    for name, array in bound.items():
        np.testing.assert_array_equal(found[name], array)


def test_outputs_that_are_inputs_constants_or_the_same_twice():
    with Builder("awkward") as b:
        x = b.input("x", f32(3))
        s = b.variable("s", f32(3))
        y = x + s
        graph = b.finish(
            {"x_again": x, "one": constant(1.0), "y": y, "same": y, "held": s},
            [(s, x)],
        )
    arrays = {"x": np.ones(3, np.float32), "s": np.arange(3, dtype=np.float32)}
    expected, found = evaluate(graph, arrays), run_graph(graph, arrays)
    for name, array in {**expected.outputs, "new/s": expected.updates["s"]}.items():
        np.testing.assert_array_equal(found[name], array)


# --- patterns --------------------------------------------------------------------------------


def one_input(build, type=None) -> Graph:
    with Builder("pattern") as b:
        return b.finish({"y": build(b.input("x", type or f32(N, 6)))})


def log_softmax(x: Value) -> Value:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - get("log")(get("exp")(shifted).sum(-1, keepdims=True))


def almost_softmax(x: Value) -> Value:
    """Divided by the sum along another axis than the maximum's."""
    e = get("exp")(x - x.max(-1, keepdims=True))
    return e / e.sum(0, keepdims=True)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (training_graphs.softmax, ["Softmax"]),
        (log_softmax, ["LogSoftmax"]),
        (lambda x: x.mean(1), ["ReduceMean"]),
        (lambda x: x.mean(1, keepdims=True), ["ReduceMean", "Reshape"]),
        (lambda x: x.sum(1) / 7.0, ["ReduceSum", "Div"]),
        (almost_softmax, ["ReduceMax", "Unsqueeze", "Sub", "Exp", "ReduceSum", "Div"]),
    ],
)
def test_patterns(build, expected):
    graph = one_input(build)
    assert operators(graph) == expected
    x = {"x": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)}
    np.testing.assert_allclose(
        run_graph(graph, x)["y"], evaluate(graph, x).outputs["y"], rtol=2e-6, atol=1e-6
    )


@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_a_bias_of_one_number(bias):
    with Builder("number") as b:
        x, w = b.input("x", f32(N, 4)), b.input("w", f32(4, 3))
        graph = b.finish({"y": x @ w + bias})
    assert operators(graph) == ["Gemm"]
    arrays = {"x": np.ones((2, 4), np.float32), "w": np.ones((4, 3), np.float32)}
    np.testing.assert_array_equal(run_graph(graph, arrays)["y"], np.full((2, 3), 4 + bias))


def test_a_product_that_something_else_reads_keeps_its_bias_apart():
    with Builder("two_readers") as b:
        x, w, c = b.input("x", f32(N, 4)), b.input("w", f32(4, 3)), b.input("c", f32(3))
        product = x @ w
        graph = b.finish({"y": product + c, "z": product * 2.0})
    assert sorted(operators(graph)) == ["Add", "MatMul", "Mul"]


def test_one_kernel_in_two_layouts_stays_two_initializers():
    with Builder("layouts") as b:
        x = b.input("x", f32(N, 5, 5, 3))
        w = b.variable("w", f32(3, 3, 3, 3))
        attrs = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "groups": 1,
                 "input_dilation": (1, 1), "kernel_dilation": (1, 1)}  # fmt: skip
        y = get("conv")(x, w, **attrs) + get("conv")(x, sugar.transpose(w), **attrs)
        graph = b.finish({"y": y})
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(3, 3, 3, 3)).astype(np.float32)}
    x = {"x": rng.normal(size=(2, 5, 5, 3)).astype(np.float32)}
    baked, _ = bake(graph, arrays)
    expected = evaluate(graph, {**x, **arrays}).outputs["y"]
    np.testing.assert_allclose(run_graph(baked, x)["y"], expected, rtol=1e-5, atol=1e-5)


def test_transposes_of_a_product_become_flags():
    with Builder("flags") as b:
        x, w = b.input("x", f32(4, N)), b.input("w", f32(3, 4))
        graph = b.finish({"y": x.T @ w.T})
    assert operators(graph) == ["Gemm"]


# --- element types ---------------------------------------------------------------------------


def test_what_the_runtime_lacks_is_refused_with_a_cure():
    with Builder("refused") as b, b.scope("pool"):
        x = b.input("x", i64(N, 4, 4, 1))
        with pytest.raises(LoweringError) as caught:
            lower(b.finish({"y": get("reverse")(get("sign")(x), axes=(1,)), "z": _odd(x)}))
    assert "layer 'pool'" in str(caught.value)
    assert "hint:" in str(caught.value)


def _odd(x: Value) -> Value:
    """A size that no input shows."""
    return sugar.full((symbol("M"),), 1.0, f32)


def test_kernels_that_the_table_claims_exist():
    """`KERNELS` is what the installed runtime registers."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    spelled = {
        "f64": "double", "f32": "float", "f16": "float16", "bf16": "bfloat16", "i64": "int64",
        "i32": "int32", "i16": "int16", "i8": "int8", "u32": "uint32", "u8": "uint8",
        "bool": "bool",
    }  # fmt: skip
    assert spelled.keys() == PROTO.keys()
    registered: dict[str, set[str]] = {}
    for kernel in native.get_all_opkernel_def():
        low, high = kernel.version_range
        if kernel.provider == "CPUExecutionProvider" and not kernel.domain and low <= 21 <= high:
            constraints = kernel.type_constraints
            operand = constraints.get("T") or constraints.get("T1") or []
            registered.setdefault(kernel.op_name, set()).update(operand)
    for op, types in KERNELS.items():
        assert {f"tensor({spelled[t]})" for t in types} <= registered[op], op


@pytest.mark.parametrize("dtype", [f16, bf16])
def test_halves_accumulate_in_f32(dtype):
    graph = one_input(lambda x: x @ x.T, dtype(64, 64))
    x = (np.random.default_rng(0).normal(size=(64, 64))).astype(dtype.numpy)
    expected = evaluate(graph, {"x": x}).outputs["y"].astype(np.float64)
    found = run_graph(graph, {"x": x})["y"].astype(np.float64)
    assert (found != expected).mean() < 0.01


def test_erf_in_f64_is_exact_to_rounding():
    x = np.concatenate([np.linspace(-7, 7, 4001), [0.0, 1e-300, 1e-9, np.inf, -np.inf, np.nan]])
    graph = one_input(get("erf"), f64(x.size))
    expected = evaluate(graph, {"x": x}).outputs["y"]
    np.testing.assert_allclose(run_graph(graph, {"x": x})["y"], expected, rtol=2e-15, atol=0)


@pytest.mark.parametrize("name", ["expm1", "log1p"])
def test_small_and_special_arguments(name):
    x = np.array([0.0, 1e-30, -1e-9, 1e-5, 0.3, 50.0, np.inf, -1.0, np.nan], np.float64)
    graph = one_input(get(name), f64(x.size))
    expected = evaluate(graph, {"x": x}).outputs["y"]
    np.testing.assert_allclose(run_graph(graph, {"x": x})["y"], expected, rtol=4e-16, atol=0)


def test_integer_division_by_zero_does_not_kill_the_process():
    with Builder("division") as b:
        x, y = b.input("x", i32(5)), b.input("y", i32(5))
        graph = b.finish({"q": get("div")(x, y), "r": get("remainder")(x, y)})
    low = np.iinfo(np.int32).min
    arrays = {"x": np.array([7, -7, low, low, 5], np.int32),
              "y": np.array([0, 2, -1, 0, -2], np.int32)}  # fmt: skip
    expected, found = evaluate(graph, arrays).outputs, run_graph(graph, arrays)
    np.testing.assert_array_equal(found["q"], expected["q"])
    np.testing.assert_array_equal(found["r"], expected["r"])


def test_random_bits_are_the_published_ones():
    """The known answers of Random123 for Threefry2x32-20, counter (0, 0)."""
    with Builder("bits") as b:
        graph = b.finish({"y": get("rng_bits")(b.input("key", u32(2)), shape=(1,))})
    assert run_graph(graph, {"key": np.zeros(2, np.uint32)})["y"][0] == 0x6B200159


def test_choice_between_truth_values():
    with Builder("choice") as b:
        c, x, y = (b.input(name, boolean(N)) for name in "cxy")
        graph = b.finish({"z": get("select")(c, x, y)})
    bits = np.arange(8)
    arrays = {name: (bits >> i & 1).astype(bool) for i, name in enumerate("cxy")}
    np.testing.assert_array_equal(
        run_graph(graph, arrays)["z"], np.where(arrays["c"], arrays["x"], arrays["y"])
    )


@pytest.mark.parametrize("name", ["scatter_add", "scatter"])
def test_updates_of_one_place_do_not_race(name):
    """On two threads; ONNX Runtime's ScatterND loses updates."""
    rows, columns = 2000, 512
    attrs = {} if name == "scatter_add" else {"combine": "set"}
    with Builder("race") as b:
        operands = [b.input("x", f32(2, columns)), b.input("at", i32(rows)),
                    b.input("u", f32(rows, columns))]  # fmt: skip
        graph = b.finish({"y": get(name)(*operands, axis=0, **attrs)})
    numbers = np.repeat(np.arange(1.0, rows + 1, dtype=np.float32)[:, None], columns, 1)
    arrays = {"x": np.zeros((2, columns), np.float32), "at": np.zeros(rows, np.int32), "u": numbers}
    expected = evaluate(graph, arrays).outputs["y"]
    session = session_of(lower(graph), threads=2)
    for _ in range(3):
        np.testing.assert_array_equal(session.run(None, arrays)[0], expected)


def test_a_pool_whose_padding_fills_its_windows_has_a_gradient():
    """MaxUnpool refuses it (found by the fuzzer)."""
    attrs = {"window": (1, 3), "strides": (3, 3), "padding": ((0, 0), (1, 2))}
    with Builder("padded") as b:
        x, dy = b.input("x", f32(2, 1, 1, 1)), b.input("dy", f32(2, 1, 1, 1))
        graph = b.finish({"dx": get("max_pool_grad")(x, dy, **attrs)})
    arrays = {"x": np.ones((2, 1, 1, 1), np.float32), "dy": np.full((2, 1, 1, 1), 3, np.float32)}
    np.testing.assert_array_equal(run_graph(graph, arrays)["dx"], arrays["dy"])


def test_sums_of_integers_wrap_around():
    with Builder("sums") as b:
        x, flags = b.input("x", i32(N, 3)), b.input("flags", boolean(N, 3))
        small = sugar.cast(flags, i32)
        graph = b.finish({"wrapped": x.sum(0), "product": sugar.reduce("reduce_prod", x, 0),
                          "small": small.sum()})  # fmt: skip
    assert "ReduceSum" in operators(graph)  # of the flags, which cannot overflow
    for size in (0, 1, 7):
        arrays = {"x": np.full((size, 3), 2**30 + 3, np.int32), "flags": np.ones((size, 3), bool)}
        expected = evaluate(graph, arrays).outputs
        found = run_graph(graph, arrays)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("dtype", [f32, f64, u32])
def test_products_of_nothing_are_zero(dtype):
    """ONNX Runtime leaves parts of them unwritten, or fails (found by the fuzzer)."""
    with Builder("nothing") as b:
        x, y = b.input("x", dtype(1, 2, 0, 3)), b.input("y", dtype(1, 2, 0, 1))
        product = get("matmul")(x, y, transpose_a=True, transpose_b=False)
        graph = b.finish({"product": product, "more": product + b.input("z", dtype(1, 2, 3, 1))})
    arrays = {v.name: np.ones(v.shape, dtype.numpy) for v in graph.inputs}
    found = run_graph(graph, arrays)
    assert not found["product"].any()
    assert (found["more"] == 1).all()


@pytest.mark.parametrize("name", ["mul", "div"])
def test_factors_of_products_in_f64_are_not_rounded(name):
    """ONNX Runtime makes them attributes of the MatMul, which are f32 (found by the fuzzer)."""
    with Builder("scaled") as b:
        x, y = b.input("x", f64(N, 3)), b.input("y", f64(3, 5))
        by = constant(1 / 24, f64)
        before = get(name)(x, by.broadcast_to(x.shape)) @ y
        after = get(name)(x @ y, by.broadcast_to((N, 5)))
        graph = b.finish({"before": before, "after": after})
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(4, 3)), "y": rng.normal(size=(3, 5))}
    expected = evaluate(graph, arrays).outputs
    for key, array in run_graph(graph, arrays).items():
        np.testing.assert_allclose(array, expected[key], 1e-14, 1e-14)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_input_gradient_of_a_kernel_that_padding_exceeds(groups):
    """A rotated kernel would need negative padding (found by the fuzzer)."""
    attrs = {"input_shape": (2, 5, 4), "strides": (1,), "padding": ((0, 1),), "groups": groups,
             "input_dilation": (1,), "kernel_dilation": (1,)}  # fmt: skip
    with Builder("padded") as b:
        operands = [b.input("dy", f32(2, 6, 4)), b.input("w", f32(1, 4 // groups, 4))]
        graph = b.finish({"dx": get("conv_input_grad")(*operands, **attrs)})
    rng = np.random.default_rng(0)
    arrays = {v.name: rng.normal(size=v.shape).astype(np.float32) for v in graph.inputs}
    expected = evaluate(graph, arrays).outputs["dx"]
    np.testing.assert_allclose(run_graph(graph, arrays)["dx"], expected, 1e-5, 1e-6)
