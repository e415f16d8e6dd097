"""Whole plans as native programs: random graphs against the oracle, memory, errors."""

from __future__ import annotations

import numpy as np
import pytest
from native import TARGET
from native_graph import arrays_for, check_graph, compiled, run_compiled, source
from random_graphs import RandomGraph

from hornfels.codegen.tvm.lower import lower_kernel
from hornfels.ir import Builder, evaluate, sugar
from hornfels.ir.errors import LoweringError
from hornfels.ir.op import get
from hornfels.ir.types import f32, f64, i32, u8
from hornfels.passes.fusion import fuse
from hornfels.passes.memory import plan
from hornfels.passes.pipeline import optimize
from hornfels.passes.plan import Kernel


def random_case(seed: int, dtype=f64):
    graph = RandomGraph(seed, dtype).build()
    rng = np.random.default_rng(seed)
    arrays = {
        v.name: rng.uniform(-1, 1, v.shape).astype(v.dtype.numpy)
        if v.dtype.is_float
        else rng.integers(0, 4, v.shape).astype(v.dtype.numpy)
        for v in graph.parameters
    }
    return graph, arrays


def check_random(graph, arrays, program):
    """Sums that cancel leave rounding errors, so the tolerance is absolute too."""
    got, expected = run_compiled(program, arrays), evaluate(graph, arrays)
    for name, array in (expected.outputs | expected.updates).items():
        found = (got.outputs | got.updates)[name]
        np.testing.assert_allclose(found, array, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs(seed):
    graph, arrays = random_case(seed)
    check_random(graph, arrays, compiled(graph))


@pytest.mark.parametrize("seed", range(12, 18))
def test_random_graphs_after_the_pipeline(seed):
    graph, arrays = random_case(seed)
    check_random(graph, arrays, compiled(optimize(graph)))


def test_epilogues_of_roots():
    """Short ones are written out, long ones go through arrays; some need the C library."""
    with Builder("epilogues") as b:
        x, w, bias = b.input("x", f32(37, 20)), b.input("w", f32(20, 50)), b.input("bias", f32(50))
        y = get("matmul")(x, w) + bias
        wide = b.input("image", f32(2, 9, 9, 3))
        kernel = b.input("kernel", f32(3, 3, 3, 19))
        image = get("conv")(
            wide, kernel, strides=(2, 1), padding=((1, 1), (0, 2)), input_dilation=(1, 1),
            kernel_dilation=(1, 1), groups=1,
        )  # fmt: skip
        gelu = image * (sugar.unary("erf", image * 0.7071) + 1.0) * 0.5
        graph = b.finish({
            "relu": sugar.unary("relu", y), "tanh": sugar.unary("tanh", y * 0.1),
            "sine": sugar.unary("sin", get("matmul")(x, w * 0.1)), "gelu": gelu * gelu - gelu,
        })  # fmt: skip
    check_graph(graph, arrays_for(graph), factor=20)


def test_epilogues_tell_nan_from_numbers():
    with Builder("nan") as b:
        x, w, bias = b.input("x", f32(5, 4)), b.input("w", f32(4, 40)), b.input("bias", f32(40))
        y = get("matmul")(x, w)
        graph = b.finish({
            "not_less": sugar.select(~(y < bias), y, 0.0), "unequal": y * 1.0,
            "different": sugar.select(sugar.binary("not_equal", y, y), 1.0, y),
        })  # fmt: skip
    arrays = arrays_for(graph)
    arrays["x"][2, 1] = np.nan
    arrays["bias"][7] = np.nan
    check_graph(graph, arrays, factor=10)


def test_arena_and_workspace_are_one_block():
    with Builder("sums") as b:
        x = b.input("x", f32(1 << 18))
        graph = b.finish({"y": x.sum()})
    program = compiled(graph)
    assert program.arena_bytes == program.plan.arena_bytes + program.workspace_bytes
    assert (program.workspace_bytes > 0) == (TARGET.machine.cores > 1)


def test_copies_of_parameters():
    with Builder("copies") as b:
        x, s, t = b.input("x", f32(70)), b.variable("s", f32(70)), b.variable("t", f32(70))
        graph = b.finish({"x": x, "s": s, "again": x}, [(s, t), (t, s)])
    check_graph(graph, arrays_for(graph))


def test_what_no_kernel_can_hold_is_refused():
    with Builder("refused") as b:
        x, i = b.input("x", f32(4)), b.input("i", i32(2))
        graph = b.finish({"y": get("scatter_add")(x, i, x[:2], axis=0) + 1.0})
    with pytest.raises(LoweringError, match="scatter_add: cannot be part of a fused kernel"):
        lower_kernel(Kernel("wrong", "pointwise", graph), TARGET.machine)


@pytest.mark.parametrize("shape", [(2**31,), (1 << 16, (1 << 15) + 1)])
def test_more_elements_than_an_index_counts_are_refused(shape):
    """Indices would begin again at negative numbers; what nobody stores may have more."""
    with Builder("large") as b:
        graph = b.finish({"y": get("reduce_max")(b.input("x", u8(*shape)), axes=(0,))})
    with pytest.raises(LoweringError, match=r"fewer than 2\*\*31 elements, got uint8\[2147"):
        compiled(graph)


def test_equal_kernels_are_compiled_once():
    with Builder("twice") as b:
        x, y = b.input("x", f32(30)), b.input("y", f32(30))
        graph = b.finish({"a": sugar.unary("exp", x), "b": sugar.unary("exp", y)})
    planned = plan(graph, fuse(graph))
    assert len(planned.kernels) <= len(planned.calls)
    assert source(planned).count("define dllexport") == 2  # a kernel and the entry
