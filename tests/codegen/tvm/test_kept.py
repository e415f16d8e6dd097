"""What kernels keep of weights: packed when these change, read in every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from native_graph import error, tolerance

from hornfels.ir import Builder, Graph, evaluate
from hornfels.ir.op import get
from hornfels.ir.types import TensorType, as_dtype
from hornfels.runtime.tvm_backend import TvmBackend, TvmExecutable


@pytest.fixture(scope="module")
def backend():
    return TvmBackend()


def random(rng: np.random.Generator, type: TensorType) -> np.ndarray:
    return rng.normal(size=[int(d) for d in type.shape]).astype(type.dtype.numpy)


def agree(
    executable: TvmExecutable, backend: TvmBackend, graph: Graph, arrays: Mapping[str, np.ndarray]
) -> None:
    """Two runs on a fresh state, and two after a weight was written, give what the oracle gives."""
    rng = np.random.default_rng(1)
    state, arrays = backend.state(), dict(arrays)
    for turn in range(4):
        if turn % 2 == 0:
            arrays["w"] = random(rng, graph.state[0].type)
            state.write("w", arrays["w"])
        for v in graph.inputs:
            arrays[v.name] = random(rng, v.type)
        found = executable(state, {v.name: arrays[v.name] for v in graph.inputs})["y"]
        expected = np.asarray(evaluate(graph, arrays).outputs["y"])
        assert error(found, expected) <= tolerance(expected, 4.0), f"in turn {turn}"


def one_op(op: str, x: tuple[int, ...], w: tuple[int, ...], name: str, **attrs: Any) -> Graph:
    """`y = op(x, w)` with weights that stay."""
    with Builder(op) as b:
        left = b.input("x", TensorType(as_dtype(name), x))
        right = b.variable("w", TensorType(as_dtype(name), w))
        y = get(op)(left, right, **attrs)
        return b.finish({"y": y})


def conv_attrs(rank: int = 2, **given: Any) -> dict[str, Any]:
    ones = (1,) * rank
    plain = {"strides": ones, "padding": ((0, 0),) * rank, "input_dilation": ones,
             "kernel_dilation": ones, "groups": 1}  # fmt: skip
    return plain | given


SAME = ((1, 1), (1, 1))
CONVOLUTIONS = {
    "plain": ((2, 7, 9, 3), (3, 3, 3, 5), {}),
    "filtered": ((1, 24, 20, 16), (3, 3, 16, 16), {"padding": SAME}),
    "filtered, tails": ((2, 13, 13, 17), (3, 3, 17, 35), {"padding": SAME}),
    "filtered, large weights": ((1, 8, 8, 128), (3, 3, 128, 256), {"padding": SAME}),
    "strides": ((1, 8, 8, 4), (3, 3, 4, 20), {"strides": (2, 2), "padding": ((0, 1), (1, 0))}),
    "many phases": ((1, 13, 12, 5), (4, 5, 5, 20), {"strides": (4, 3)}),
    "groups": ((2, 6, 5, 8), (3, 3, 2, 12), {"groups": 4, "padding": SAME}),
    "depthwise": ((2, 6, 5, 20), (3, 3, 1, 20), {"groups": 20, "padding": SAME}),
    "one tap": ((2, 9, 9, 24), (1, 1, 24, 40), {}),
    "one tap, strides": ((2, 9, 9, 24), (1, 1, 24, 40), {"strides": (2, 2)}),
    "as a product": ((5, 3, 4, 6), (3, 4, 6, 40), {}),
    "one pixel": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "no image": ((0, 4, 4, 3), (3, 3, 3, 5), {}),
    "no channel": ((2, 4, 4, 0), (3, 3, 0, 5), {}),
}


@pytest.mark.parametrize("name", ["f32", "bf16"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(backend, case, name):
    x, w, attrs = CONVOLUTIONS[case]
    graph = one_op("conv", x, w, name, **conv_attrs(**attrs))
    agree(backend.compile(graph), backend, graph, {})


@pytest.mark.parametrize("name", ["f64", "f16"])
def test_convolutions_of_other_numbers(backend, name):
    x, w, attrs = CONVOLUTIONS["filtered, tails"]
    graph = one_op("conv", x, w, name, **conv_attrs(**attrs))
    agree(backend.compile(graph), backend, graph, {})


@pytest.mark.parametrize(
    "case", ["plain", "filtered, tails", "strides", "many phases", "groups", "one tap"]
)
def test_gradients_of_images(backend, case):
    """As of a frozen layer in training."""
    x, w, attrs = CONVOLUTIONS[case]
    attrs = conv_attrs(**attrs)
    forward = one_op("conv", x, w, "f32", **attrs)
    given = tuple(int(d) for d in forward.outputs[0].shape)
    graph = one_op("conv_input_grad", given, w, "f32", input_shape=x, **attrs)
    agree(backend.compile(graph), backend, graph, {})


PRODUCTS = {
    "one row": ((1, 300), (300, 517), {}),
    "two rows": ((2, 530), (530, 515), {}),
    "a row and a large matrix": ((1, 530), (530, 515), {}),
    "few rows": ((5, 33), (33, 70), {}),
    "rows": ((37, 301), (301, 530), {}),
    "many rows": ((3000, 40), (40, 70), {}),
    "transposed": ((9, 50), (43, 50), {"transpose_b": True}),
    "both transposed": ((50, 9), (43, 50), {"transpose_a": True, "transpose_b": True}),
    "a row, transposed": ((1, 50), (43, 50), {"transpose_b": True}),
    "a column": ((6, 50), (50, 1), {}),
    "batches": ((3, 7, 20), (3, 20, 37), {}),
    "batches of batches": ((2, 3, 7, 20), (2, 3, 37, 20), {"transpose_b": True}),
    "a long sum": ((5, 5000), (5000, 20), {}),
    "one of each": ((1, 1), (1, 1), {}),
    "no terms": ((3, 0), (0, 4), {}),
    "no columns": ((3, 4), (4, 0), {}),
}


@pytest.mark.parametrize("name", ["f32", "bf16"])
@pytest.mark.parametrize("case", PRODUCTS)
def test_products(backend, case, name):
    x, w, attrs = PRODUCTS[case]
    graph = one_op("matmul", x, w, name, **{"transpose_a": False, "transpose_b": False, **attrs})
    agree(backend.compile(graph), backend, graph, {})


@pytest.mark.parametrize("name", ["f64", "f16"])
@pytest.mark.parametrize("case", ["rows", "transposed"])
def test_products_of_other_numbers(backend, case, name):
    x, w, attrs = PRODUCTS[case]
    graph = one_op("matmul", x, w, name, **{"transpose_a": False, "transpose_b": False, **attrs})
    agree(backend.compile(graph), backend, graph, {})


def test_several_calls_of_a_kernel_keep_their_own(backend):
    """Two products of equal sizes are one kernel, two operands two arrays, and one operand one."""
    with Builder("g") as b:
        x = b.input("x", TensorType(as_dtype("f32"), (9, 40)))
        w, v = (b.variable(name, TensorType(as_dtype("f32"), (40, 40))) for name in "wv")
        matmul = get("matmul")
        y = matmul(matmul(matmul(x, w, transpose_b=True), v, transpose_b=True), w, transpose_b=True)
        graph = b.finish({"y": y})
    executable = backend.compile(graph)
    assert len(executable.plan.kernels) == 1
    assert executable.prepared_bytes == 64 + 2 * 4 * 40 * 64  # panels of 32 columns
    state, rng = backend.state(), np.random.default_rng(0)
    for _ in range(2):
        arrays = {v.name: random(rng, v.type) for v in graph.parameters}
        state.write("w", arrays["w"])
        state.write("v", arrays["v"])
        found = executable(state, {"x": arrays["x"]})["y"]
        expected = np.asarray(evaluate(graph, arrays).outputs["y"])
        assert error(found, expected) <= tolerance(expected, 4.0)


def test_a_loop_keeps_what_each_step_reads(backend):
    f32 = as_dtype("f32")
    with Builder("step") as b:
        c, w = b.input("c", TensorType(f32, (5, 24))), b.input("w", TensorType(f32, (24, 24)))
        step = b.finish({"c": get("tanh")(get("matmul")(c, w, transpose_b=True))})
    with Builder("g") as b:
        x = b.input("x", TensorType(as_dtype("f32"), (5, 24)))
        w = b.variable("w", TensorType(as_dtype("f32"), (24, 24)))
        y = get("scan")(x, w, body=step, carry=1, stacked=0, length=3, reverse=False)
        graph = b.finish({"y": y})
    executable = backend.compile(graph)
    assert executable.prepared_bytes > 4 * 24 * 24
    agree(executable, backend, graph, {})


@pytest.mark.parametrize("case", ["plain", "filtered", "filtered, large weights", "strides"])
def test_packed_kernels_are_kept(backend, case):
    x, w, attrs = CONVOLUTIONS[case]
    executable = backend.compile(one_op("conv", x, w, "f32", **conv_attrs(**attrs)))
    assert executable.prepared_bytes >= 64 + 4 * np.prod(w)
    assert executable.plan.preparing == 0  # nothing of the graph itself
