"""Results that lie the other way round than an operand: blocks that are transposed in registers."""

from __future__ import annotations

import pytest
from native_graph import arrays_for, check_graph, only_kernel

from hornfels.codegen.tvm.crossing import crossing_loop
from hornfels.ir import Builder, Graph
from hornfels.ir.op import get
from hornfels.ir.types import bf16, boolean, f16, f32, f64, i8, i64

SHAPES = [(16, 16), (17, 40), (100, 33), (1, 50), (50, 1), (0, 20), (31, 15), (130, 257)]


def turned(shape, permutation, dtype=f32) -> Graph:
    with Builder("turned") as b:
        x = b.input("x", dtype(*shape))
        return b.finish({"y": get("transpose")(x, permutation=permutation)})


@pytest.mark.parametrize("shape", SHAPES)
def test_transposes(shape):
    graph = turned(shape, (1, 0))
    check_graph(graph, arrays_for(graph))


@pytest.mark.parametrize("dtype", [f64, f16, bf16, boolean, i8, i64])
def test_transposes_of_dtypes(dtype):
    graph = turned((35, 50), (1, 0), dtype)
    check_graph(graph, arrays_for(graph))


@pytest.mark.parametrize("permutation", [(0, 2, 3, 1), (0, 3, 1, 2), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_images(permutation):
    graph = turned((2, 18, 5, 33), permutation)
    check_graph(graph, arrays_for(graph))


@pytest.mark.parametrize("rows", [16, 45, 700])
def test_what_is_computed_of_both_directions(rows):
    """One operand lies the way of the result, one the other way, one is read both ways."""
    with Builder("both") as b:
        x, y = b.input("x", f32(rows, 34)), b.input("y", f32(34, rows))
        z, bias = b.input("z", f32(34, 34)), b.input("bias", f32(34))
        graph = b.finish({"u": x.T * 2.0 + y, "v": z + z.T * bias})
    check_graph(graph, arrays_for(graph))


def test_parts_of_an_operand():
    """Where reading begins and how far apart neighbours lie need not fit a vector."""
    with Builder("parts") as b:
        x = b.input("x", f32(70, 83))
        graph = b.finish({"y": x[3:60, 5:].T, "z": x[::2, ::-1].T, "w": x[::3].T + 1.0})
    check_graph(graph, arrays_for(graph))


def test_which_loop_crosses():
    with Builder("crossing") as b:
        x, bias = b.input("x", f32(40, 50)), b.input("bias", f32(50))
        graph = b.finish({"y": x.T + 1.0})
        other = b.finish({"y": x + bias})
    assert crossing_loop(only_kernel(graph).body, (50, 40)) == 0
    assert crossing_loop(only_kernel(other).body, (40, 50)) is None
