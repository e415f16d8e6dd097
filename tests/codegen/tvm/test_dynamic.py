"""Windows at computed places: fused with what stands around them, and written in place."""

from __future__ import annotations

import numpy as np
from native_graph import check_graph, compiled

from hornfels.ir import REGISTRY, Builder, Graph
from hornfels.ir.types import f32, i32, type_of

SLICE, UPDATE = REGISTRY["dynamic_slice"], REGISTRY["dynamic_update"]


def test_windows_of_computed_places_are_fused() -> None:
    """A slice of a sum, an update of a product: one kernel with what stands around it."""
    rng = np.random.default_rng(8)
    arrays = {"x": rng.standard_normal((33, 17)).astype(np.float32), "at": np.int32(40)}
    with Builder() as b:
        x, at = b.input("x", type_of(arrays["x"])), b.input("at", i32())
        part = SLICE(x * 2, at, at - 38, sizes=(4, 5))
        whole = UPDATE(x + 1, part * part, at - 45, at - 39)
        graph = b.finish({"part": part + 1, "whole": whole - 3})
    check_graph(graph, {k: np.asarray(v) for k, v in arrays.items()})


def updated_state(reads_itself: bool) -> Graph:
    """A state of which one row is replaced, by its own last row or by what comes in."""
    with Builder("update") as b:
        table, row = b.variable("table", f32(7, 5)), b.input("row", f32(1, 5))
        at, zero = b.input("at", i32()), b.input("zero", i32())
        new = SLICE(table, zero + 6, zero, sizes=(1, 5)) if reads_itself else row
        return b.finish({"seen": row * 2}, [(table, UPDATE(table, new + 1, at, zero))])


def test_a_window_is_written_over_the_state() -> None:
    rng = np.random.default_rng(9)
    for reads_itself in (False, True):
        graph = updated_state(reads_itself)
        for at in (0, 3, 6, 99):
            arrays = {
                "table": rng.standard_normal((7, 5)).astype(np.float32),
                "row": rng.standard_normal((1, 5)).astype(np.float32),
                "at": np.asarray(at, np.int32), "zero": np.asarray(0, np.int32),
            }  # fmt: skip
            check_graph(graph, arrays)
        plan = compiled(graph).plan
        places = [plan.slots[v].space for call in plan.calls for v in call.outputs]
        assert "state" in places
        assert not plan.copies


def test_two_windows_of_one_kernel() -> None:
    """Both are written after all that they read of the operands."""
    rng = np.random.default_rng(10)
    arrays = {k: rng.standard_normal((6, 4)).astype(np.float32) for k in "xy"}
    arrays["at"] = np.asarray(2, np.int32)
    with Builder() as b:
        x, y, at = (b.input(k, type_of(a)) for k, a in arrays.items())
        part = SLICE(x, at, at, sizes=(2, 2)) * SLICE(y, at, at, sizes=(2, 2))
        graph = b.finish({"x2": UPDATE(x, part, at, at), "y2": UPDATE(y, part, at - 1, at - 2)})
    check_graph(graph, arrays)


def test_an_empty_window_changes_nothing() -> None:
    arrays = {"x": np.ones((3, 2), np.float32), "u": np.ones((0, 2), np.float32)}
    arrays["at"] = np.asarray(1, np.int32)
    with Builder() as b:
        x, u, at = (b.input(k, type_of(a)) for k, a in arrays.items())
        graph = b.finish({"y": UPDATE(x, u, at, at)})
    check_graph(graph, arrays)
