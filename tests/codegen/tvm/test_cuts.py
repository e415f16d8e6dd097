"""Loops that are cut where elements come from another operand."""

from __future__ import annotations

import pytest
from native_graph import arrays_for, check_graph, only_kernel

from hornfels.codegen.tvm.cuts import PARTS, Part
from hornfels.codegen.tvm.pointwise import cut_loops, loop_shape
from hornfels.ir import Builder, Graph, sugar
from hornfels.ir.op import get
from hornfels.ir.types import bf16, boolean, f16, f32, f64, i8

SHAPES = [
    ((3, 224), (3, 32)), ((5, 1), (5, 6)), ((2, 17), (2, 0), (2, 30)), ((1, 1), (1, 1), (1, 1)),
    ((64, 40), (64, 3), (64, 64), (64, 7)),
]  # fmt: skip


def concat(axis: int, dtype, *shapes: tuple[int, ...]) -> Graph:
    with Builder("concat") as b:
        xs = [b.input(f"x{i}", dtype(*shape)) for i, shape in enumerate(shapes)]
        return b.finish({"y": get("concat")(*xs, axis=axis)})


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("axis", [0, 1])
def test_concat(axis, shapes):
    graph = concat(axis, f32, *(shape if axis else shape[::-1] for shape in shapes))
    check_graph(graph, arrays_for(graph))


@pytest.mark.parametrize("dtype", [f64, f16, bf16, boolean, i8])
def test_concat_of_dtypes(dtype):
    graph = concat(1, dtype, (7, 33), (7, 20))
    check_graph(graph, arrays_for(graph))


def test_a_loop_is_cut_between_operands():
    body = only_kernel(concat(1, f32, (4, 224), (4, 32), (4, 8))).body
    shape = loop_shape(body)
    assert cut_loops(body, shape, 16) == [[Part(0, 4)], [Part(0, 224), Part(224, 32), Part(256, 8)]]


def padded(low, high, interior=(0, 0, 0), size=(3, 9, 20)) -> Graph:
    with Builder("pad") as b:
        x = b.input("x", f32(*size))
        y = get("pad")(x * 2.0, low=low, high=high, interior=interior, value=7)
        return b.finish({"y": y, "z": y[:, ::-1] + 1.0})


@pytest.mark.parametrize("low", [(0, 0, 0), (0, 1, 2), (2, 0, -3), (1, 20, 17), (0, -8, 0)])
@pytest.mark.parametrize("high", [(0, 0, 0), (0, 2, 1), (1, -1, 40)])
def test_pad(low, high):
    graph = padded(low, high)
    check_graph(graph, arrays_for(graph))


@pytest.mark.parametrize("size", [(3, 9, 20), (1, 1, 1), (2, 0, 3)])
def test_pad_between_elements(size):
    graph = padded((0, 1, 2), (1, 0, 3), (0, 2, 1), size)
    check_graph(graph, arrays_for(graph))


def test_the_inside_of_an_image_has_no_choice():
    with Builder("border") as b:
        x = b.input("x", f32(4, 28, 28, 3))
        border = (0, 2, 2, 0)
        graph = b.finish({"y": get("pad")(x, low=border, high=border, interior=(0,) * 4, value=0)})
    body = only_kernel(graph).body
    found = [len(own) for own in cut_loops(body, loop_shape(body), 16)]
    assert [count for count in found if count > 1] == [3, 3]
    check_graph(graph, arrays_for(graph))


def test_large_parts_are_split_over_threads():
    for axis in (0, 1):
        graph = concat(axis, f32, *(s if axis else s[::-1] for s in [(700, 600), (700, 33)]))
        check_graph(graph, arrays_for(graph))


def test_many_operands_stay_one_loop():
    shapes = [(3, 5)] * (PARTS + 1) + [(3, 2)]
    graph = concat(1, f32, *shapes)
    body = only_kernel(graph).body
    assert all(len(own) == 1 for own in cut_loops(body, loop_shape(body), 16))
    check_graph(graph, arrays_for(graph))


def test_costly_bodies_are_not_repeated():
    with Builder("costly") as b:
        x, y = b.input("x", f32(4, 40)), b.input("y", f32(4, 9))
        z = get("concat")(x, y, axis=1)
        for _ in range(6):
            z = sugar.unary("tanh", z)
        graph = b.finish({"z": z})
    body = only_kernel(graph).body
    assert all(len(own) == 1 for own in cut_loops(body, loop_shape(body), 16))
    check_graph(graph, arrays_for(graph))
