"""The memory plan: places, orders, state in place, and exact peak bytes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import training_graphs
from packing import lower_bound
from random_graphs import assert_same, random_arrays, random_graph

from hornfels.ir import evaluate, parse
from hornfels.ir.types import f64
from hornfels.passes import memory
from hornfels.passes.fusion import fuse
from hornfels.passes.interpret import run_plan
from hornfels.passes.memory import Buffer, pack
from hornfels.passes.pipeline import make_plan, optimize
from hornfels.passes.plan import ALIGNMENT, Plan, align


def planned(text: str) -> Plan:
    """The plan of a graph, after a check that it computes the same."""
    graph = parse(text)
    plan = make_plan(graph)
    check(plan)
    return plan


def check(plan: Plan, seed: int = 0) -> None:
    arrays = random_arrays(plan.graph, seed)
    assert_same(run_plan(plan, arrays), evaluate(plan.graph, arrays), 1e-6, 1e-6)


def slot_of(plan: Plan, output: int = 0) -> str:
    return str(plan.slots[plan.graph.outputs[output]]).split()[0]


# --- results ---------------------------------------------------------------------------------


def test_an_output_is_computed_in_its_block():
    plan = planned("graph g(%x: f32[4]) {\n%0: f32[4] = exp(%x)\nreturn y=%0\n}")
    assert slot_of(plan) == "output[0]"
    assert plan.arena_bytes == 0
    assert not plan.copies


def test_an_output_may_be_read_on():
    plan = planned("""graph g(%x: f32[4,4]) {
      %0: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%x, %x)
      %1: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%0, %x)
      return a=%0, b=%1
    }""")
    assert plan.arena_bytes == 0
    assert not plan.copies


@pytest.mark.parametrize(
    ("results", "copies"),
    [
        ("a=%0, b=%0", ["output[0] -> output[1]"]),  # the same value twice
        ("a=%x", ["input[0] -> output[0]"]),  # an input
        ("a=%s; %s=%0", ["state[0] -> output[0]"]),  # the state before
        ("a=%0; %s=%0", ["state[0] -> output[0]"]),  # and after
        ("a=%0; %s=%x", ["input[0] -> state[0]"]),
        ("a=%1", ["constant[0] -> output[0]"]),
        ("a=%2", ["constant[0] -> output[0]"]),  # a number
    ],
)
def test_results_that_lie_elsewhere_are_copied(results, copies):
    plan = planned(f"""graph g(%x: f32[4]; %s: f32[4]) {{
      %0: f32[4] = add(%x, %s)
      %1: f32[4] = constant[value=dense<f32[4]: 1.0 2.0 3.0 4.0>]()
      %2: f32[] = constant[value=dense<f32[]: 1.0>]()
      return {results}
    }}""")
    moves = [*plan.first, *plan.copies]
    found = [f"{c.source} -> {c.target}".replace(" (16 bytes)", "") for c in moves]
    assert [line.replace(" (4 bytes)", "") for line in found] == copies


def test_a_view_as_output_is_computed_in_its_block():
    plan = planned("""graph g(%x: f32[4]) {
      %0: f32[4] = exp(%x)
      %1: f32[2,2] = reshape[shape=(2, 2)](%0)
      return y=%1
    }""")
    assert not plan.copies
    plan = planned("""graph g(%x: f32[4]) {
      %0: f32[2,2] = reshape[shape=(2, 2)](%x)
      return y=%0
    }""")
    assert len(plan.first) == 1
    assert not plan.calls


# --- state -----------------------------------------------------------------------------------


def test_state_is_updated_in_place():
    plan = planned("""graph g(%x: f32[4]; %s: f32[4]) {
      %0: f32[4] = add(%s, %x)
      return y=%x; %s=%0
    }""")
    assert str(plan.slots[plan.graph.updates[0][1]]).startswith("state[0]")
    assert plan.arena_bytes == 0


def test_readers_of_the_old_state_run_before_the_update():
    plan = planned("""graph g(%x: f32[4,4]; %s: f32[4,4]) {
      %0: f32[4,4] = add(%s, %x)
      %1: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%s, %x)
      return y=%1; %s=%0
    }""")
    assert [call.kernel.root for call in plan.calls] == ["matmul", "pointwise"]
    assert len(plan.copies) == 0


def test_a_reader_that_needs_the_update_keeps_the_old_state():
    plan = planned("""graph g(%x: f32[4,4]; %s: f32[4,4]) {
      %0: f32[4,4] = add(%s, %x)
      %1: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%s, %0)
      return y=%1; %s=%0
    }""")
    assert [str(c.target).split()[0] for c in plan.copies] == ["state[0]"]


def test_swapped_states_go_through_the_arena():
    plan = planned("""graph g(%x: f32[4]; %s: f32[4], %t: f32[4]) {
      %0: f32[4] = exp(%x)
      return y=%0; %s=%t, %t=%s
    }""")
    assert plan.arena_bytes == 2 * align(16)
    assert len(plan.copies) == 4


def test_a_rotation_of_states_with_one_new_value():
    plan = planned("""graph g(%x: f32[4]; %s: f32[4], %t: f32[4], %u: f32[4]) {
      %0: f32[4] = add(%s, %x)
      return y=%t; %s=%0, %t=%s, %u=%t
    }""")
    assert len(plan.first + plan.copies) >= 3


def test_one_value_for_two_states():
    plan = planned("""graph g(%x: f32[4]; %s: f32[4], %t: f32[4]) {
      %0: f32[4] = add(%s, %x)
      return y=%x; %s=%0, %t=%0
    }""")
    assert len(plan.first) == len(plan.copies) == 1  # the input as output, the second state


def test_a_reduction_updates_state_from_its_result():
    plan = planned("""graph g(%x: f32[8,4]; %s: f32[4]) {
      %0: f32[4] = reduce_sum[axes=(0,)](%x)
      %1: f32[4] = sub(%s, %0)
      return y=%x; %s=%1
    }""")
    assert len(plan.calls) == 1
    assert plan.in_place(plan.calls[0]) == ((0, 1),)


# --- the arena -------------------------------------------------------------------------------


def test_a_chain_lies_in_one_place():
    step = "matmul[transpose_a=False, transpose_b=False]"
    plan = planned(f"""graph g(%x: f64[8,8]) {{
      %0: f64[8,8] = {step}(%x, %x)
      %1: f64[8,8] = transpose[permutation=(1, 0)](%0)
      %2: f64[8,8] = {step}(%0, %1)
      %3: f64[8,8] = {step}(%2, %x)
      %4: f64[8,8] = {step}(%3, %x)
      return y=%4
    }}""")
    assert plan.arena_bytes == 3 * 512  # %0, %1 and %2; then %3 over one of them


def test_a_pointwise_kernel_writes_over_what_it_reads_last():
    step = "matmul[transpose_a=False, transpose_b=False]"
    plan = planned(f"""graph g(%x: f32[8,8]) {{
      %0: f32[8,8] = {step}(%x, %x)
      %1: f32[8] = reduce_sum[axes=(0,)](%0)
      %2: f32[8,8] = broadcast[shape=(8, 8), axes=(0,)](%1)
      %3: f32[8,8] = sub(%0, %2)
      %4: f32[8,8] = {step}(%3, %x)
      return y=%4
    }}""")
    (call,) = [call for call in plan.calls if plan.in_place(call)]
    assert call.kernel.root == "pointwise"
    assert plan.arena_bytes == align(256) + align(32)


def test_a_row_kernel_writes_over_the_rows_that_it_has_read():
    step = "matmul[transpose_a=False, transpose_b=False]"
    plan = planned(f"""graph g(%x: f32[8,8]) {{
      %0: f32[8,8] = {step}(%x, %x)
      %1: f32[8] = reduce_sum[axes=(0,)](%0)
      %2: f32[8,8] = broadcast[shape=(8, 8), axes=(1,)](%1)
      %3: f32[8,8] = sub(%0, %2)
      %4: f32[8,8] = {step}(%3, %x)
      return y=%4
    }}""")
    (call,) = [call for call in plan.calls if plan.in_place(call)]
    assert call.kernel.root == "row"
    assert plan.arena_bytes == align(256)


def test_a_row_kernel_keeps_what_other_rows_read():
    """What lies across the rows is read, so none may be written before all are."""
    step = "matmul[transpose_a=False, transpose_b=False]"
    plan = planned(f"""graph g(%x: f32[8,8]) {{
      %0: f32[8,8] = {step}(%x, %x)
      %1: f32[8] = reduce_sum[axes=(0,)](%0)
      %2: f32[8,8] = broadcast[shape=(8, 8), axes=(1,)](%1)
      %3: f32[8,8] = transpose[permutation=(1, 0)](%0)
      %4: f32[8,8] = sub(%3, %2)
      %5: f32[8,8] = {step}(%4, %x)
      return y=%5
    }}""")
    (call,) = [call for call in plan.calls if call.kernel.root == "row"]
    assert not plan.in_place(call)


def test_a_part_of_a_batch_writes_over_its_own_operands_only():
    """Each part stores its result where its gradient lay, or where its state lies."""
    graph = parse("""graph g(%x: f32[16,16]; %v: f32[16,16], %w: f32[16,16]) {
      %0: f32[16,16] = matmul[transpose_a=False, transpose_b=False](%x, %x)
      %1: f32[16,16] = matmul[transpose_a=True, transpose_b=False](%x, %x)
      %2: f32[16,16] = add(%v, %0)
      %3: f32[16,16] = mul(%w, %1)
      %4: f32[16,16] = transpose[permutation=(1, 0)](%2)
      return y=%2, z=%3, t=%4; %v=%2, %w=%3
    }""")
    plan = memory.plan(graph, fuse(graph))
    check(plan)
    (call,) = [call for call in plan.calls if call.kernel.root == "batch"]
    storages = memory._Storages(graph, plan.calls)
    by_name = {str(v.node.op.name): v for v in call.outputs}
    products = {v.node.attrs["transpose_a"]: v for v in call.inputs if v.node is not None}
    assert storages.may_overwrite(by_name["add"], products[False])
    assert not storages.may_overwrite(by_name["add"], products[True])
    assert storages.may_overwrite(by_name["mul"], products[True])


def test_packing_gives_no_two_buffers_in_use_the_same_bytes():
    rng = np.random.default_rng(0)
    for _ in range(50):
        buffers = []
        for _ in range(40):
            start = int(rng.integers(0, 30))
            buffers.append(Buffer(int(rng.integers(0, 5000)), start, start + int(rng.integers(8))))
        total = pack(buffers)
        check_apart(buffers)
        ends = [b.offset + align(b.nbytes) for b in buffers]
        assert total == max(ends)
        assert all(b.offset % ALIGNMENT == 0 for b in buffers)
        assert lower_bound(buffers) <= total <= 1.25 * lower_bound(buffers)


def check_apart(buffers: Iterable[Buffer]) -> None:
    buffers = list(buffers)
    for i, a in enumerate(buffers):
        for b in buffers[i + 1 :]:
            apart = a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
            assert apart or not a.overlaps(b) or not a.nbytes or not b.nbytes


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_training_steps_need_little_more_than_the_bound(name, monkeypatch):
    seen = []
    real = memory.pack
    monkeypatch.setattr(memory, "pack", lambda b: seen.append(list(b)) or real(seen[-1]))
    graph = optimize(getattr(training_graphs, name)()).specialize({"N": 32})
    plan = make_plan(optimize(graph))
    assert plan.arena_bytes <= 1.02 * min(map(lower_bound, seen))
    copied = sum(c.source.nbytes for c in plan.copies)
    assert copied <= 0.01 * sum(v.type.nbytes for v in graph.state)


def test_peak_is_the_last_byte_that_is_used():
    plan = make_plan(optimize(training_graphs.cnn(f64, 12, 4).specialize({"N": 4})))
    ends = [s.offset + align(s.nbytes) for s in plan.slots.values() if s.space == "arena"]
    assert plan.arena_bytes == max(ends)


# --- wrong plans are seen --------------------------------------------------------------------


def test_writing_over_state_too_early_is_caught(monkeypatch):
    monkeypatch.setattr(memory._Homes, "_after", lambda self, call, users: set())
    with pytest.raises(AssertionError):
        test_a_reader_that_needs_the_update_keeps_the_old_state()


ELSEWHERE = """graph g(%x: f32[4]; %s: f32[4]) {
  %0: f32[4] = reverse[axes=(0,)](%s)
  %1: f32[4] = add(%0, %s)
  return y=%x; %s=%1
}"""


def test_state_that_is_read_elsewhere_than_it_is_written_is_not_in_place():
    plan = planned(ELSEWHERE)
    assert [str(c.target).split()[0] for c in plan.copies][-1] == "state[0]"


def test_writing_over_what_is_read_elsewhere_is_caught(monkeypatch):
    monkeypatch.setattr(memory._Storages, "may_overwrite", lambda self, output, operand: True)
    plan = make_plan(parse(ELSEWHERE))
    assert plan.in_place(plan.calls[0])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(plan)


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_through_the_arena(seed):
    graph = random_graph(seed + 1000, nodes=60)
    plan = memory.plan(graph, fuse(graph))
    check(plan, seed)
    assert all(s.offset % ALIGNMENT == 0 for s in plan.slots.values())
