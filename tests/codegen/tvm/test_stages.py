"""Long pointwise bodies in two loops over a row."""

from __future__ import annotations

import pytest
from native import TARGET
from native_graph import arrays_for, check_graph

from hornfels.codegen.tvm.lower import lower_kernel
from hornfels.codegen.tvm.stages import passed_on
from hornfels.ir import Builder, Graph, sugar
from hornfels.ir.graph import is_among
from hornfels.ir.types import DType, bf16, f32, f64
from hornfels.passes.plan import Kernel


def cell(rows: int, units: int, dtype: DType = f32, *, training: bool = False) -> Graph:
    """The cell of an LSTM: four gates side by side and the old state."""
    with Builder("cell") as b:
        gates, c = b.input("gates", dtype(rows, 4 * units)), b.input("c", dtype(rows, units))
        parts = [gates[:, k * units : (k + 1) * units] for k in range(4)]
        i, f, o = (sugar.unary("sigmoid", parts[k]) for k in (0, 1, 3))
        g = sugar.unary("tanh", parts[2])
        new = f * c + i * g
        shown = sugar.unary("tanh", new)
        kept = {"i": i, "f": f, "g": g, "o": o, "t": shown} if training else {}
        return b.finish({"c": new, "h": o * shown, **kept})


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [f32, f64, bf16])
@pytest.mark.parametrize("shape", [(32, 128), (3, 37), (1, 5), (300, 48), (0, 16)])
def test_the_cell_of_an_lstm(shape: tuple[int, int], dtype: DType, training: bool) -> None:
    graph = cell(*shape, dtype, training=training)
    check_graph(graph, arrays_for(graph))


def test_the_cell_is_cut_at_its_state() -> None:
    graph = cell(32, 128)
    assert passed_on(graph, (32, 128)) == (graph.outputs[0],)
    assert passed_on(graph, (32, 1 << 20)) == ()  # does not stay in the cache
    training = cell(32, 128, training=True)
    assert set(passed_on(training, (32, 128))) == {*training.outputs[:1], *training.outputs[2:5]}
    text = str(lower_kernel(Kernel("cell", "pointwise", graph), TARGET.machine))
    assert text.count("for strip") == 2


def test_what_is_read_elsewhere_is_not_passed_on() -> None:
    with Builder("turned") as b:
        x = b.input("x", f32(16, 16))
        y = sugar.unary("tanh", sugar.unary("sigmoid", sugar.unary("tanh", x)))
        z = sugar.unary("sigmoid", sugar.unary("tanh", sugar.unary("sigmoid", y.T)))
        graph = b.finish({"z": z})
    assert not is_among(y, passed_on(graph, (16, 16)))
    check_graph(graph, arrays_for(graph))


def test_short_bodies_stay_one_loop() -> None:
    with Builder("short") as b:
        x = b.input("x", f32(16, 16))
        graph = b.finish({"y": sugar.unary("tanh", sugar.unary("sigmoid", x))})
    assert passed_on(graph, (16, 16)) == ()
