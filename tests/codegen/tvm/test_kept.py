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


@pytest.mark.parametrize("case", ["plain", "filtered, tails", "strides", "groups", "one tap"])
def test_gradients_of_images(backend, case):
    """As of a frozen layer in training."""
    x, w, attrs = CONVOLUTIONS[case]
    attrs = conv_attrs(**attrs)
    forward = one_op("conv", x, w, "f32", **attrs)
    given = tuple(int(d) for d in forward.outputs[0].shape)
    graph = one_op("conv_input_grad", given, w, "f32", input_shape=x, **attrs)
    agree(backend.compile(graph), backend, graph, {})


@pytest.mark.parametrize("case", ["plain", "filtered", "filtered, large weights", "strides"])
def test_packed_kernels_are_kept(backend, case):
    x, w, attrs = CONVOLUTIONS[case]
    executable = backend.compile(one_op("conv", x, w, "f32", **conv_attrs(**attrs)))
    assert executable.prepared_bytes >= 64 + 4 * np.prod(w)
    assert executable.plan.preparing == 0  # nothing of the graph itself
