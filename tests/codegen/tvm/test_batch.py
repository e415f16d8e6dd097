"""Batches: updates of many small variables in one kernel, each where it lies."""

from __future__ import annotations

from native import TARGET, is_parallel
from native_graph import arrays_for, check_graph, compiled

from hornfels.codegen.tvm.lower import lower_kernel
from hornfels.ir import Builder, Graph, sugar
from hornfels.ir.types import bf16, f32, f64
from hornfels.passes.batches import parts_of
from hornfels.passes.fusion import BATCHED_ELEMENTS, fuse
from hornfels.passes.plan import BATCH

SHAPES = [(37,), (3, 3, 4, 16), (65, 10), (128,), (1,), (0, 3), (3, 1)]


def updates(*types) -> Graph:
    """Momentum for variables of these types, with the gradients as inputs."""
    with Builder("updates") as b:
        rate = b.input("rate", f32())
        found = []
        for i, t in enumerate(types):
            w, m, g = b.variable(f"w{i}", t), b.variable(f"m{i}", t), b.input(f"g{i}", t)
            moved = m * 0.9 + g
            step = sugar.cast(sugar.broadcast_to(rate, t.shape), t.dtype)
            found += [(m, moved), (w, w - moved * step)]
        return b.finish({}, found)


def test_variables_of_any_sizes_share_a_kernel():
    graph = updates(*(f32(*shape) for shape in SHAPES), bf16(40), f64(70, 3))
    calls = fuse(graph)
    assert [call.kernel.root for call in calls].count(BATCH) == 1
    (batch,) = [call for call in calls if call.kernel.root == BATCH]
    assert len(parts_of(batch.kernel.body)) == 7  # those of one element are a kernel of their own
    check_graph(graph, arrays_for(graph))


def test_every_variable_is_updated_where_it_lies():
    program = compiled(updates(f32(16, 16), f32(16, 16), f32(7)))
    (call,) = program.plan.calls
    assert len(program.plan.in_place(call)) == 6
    assert not program.plan.copies


def test_the_work_of_all_is_split_over_threads():
    """None of them would be worth it alone."""
    graph = updates(*[f32(150, 100)] * 12)
    (call,) = fuse(graph)
    found = is_parallel(lower_kernel(call.kernel, TARGET.machine))
    assert found == (TARGET.machine.cores > 1)
    check_graph(graph, arrays_for(graph))


def test_parts_that_move_elements():
    """A gradient that is turned, and one whose rows are no vectors."""
    with Builder("turned") as b:
        w, g = b.variable("w", f32(33, 20)), b.input("g", f32(20, 33))
        v, row = b.variable("v", f32(9, 21)), b.input("row", f32(21))
        graph = b.finish({}, [(w, w - sugar.transpose(g)),
                              (v, v * sugar.broadcast_to(row, (9, 21)))])  # fmt: skip
    (call,) = fuse(graph)
    assert call.kernel.root == BATCH
    check_graph(graph, arrays_for(graph))


def test_large_variables_stay_alone():
    calls = fuse(updates(f32(BATCHED_ELEMENTS + 1), f32(5), f32(6)))
    assert sorted(call.kernel.root for call in calls) == [BATCH, "pointwise"]


def test_what_waits_for_an_update_is_no_part_of_its_batch():
    with Builder("chain") as b:
        x = b.input("x", f32(8, 8))
        v, w = b.variable("v", f32(8, 8)), b.variable("w", f32(8))
        new = v + x
        graph = b.finish({}, [(v, new), (w, w + (new @ x)[0])])
    check_graph(graph, arrays_for(graph))
    assert BATCH not in {call.kernel.root for call in fuse(graph)}
