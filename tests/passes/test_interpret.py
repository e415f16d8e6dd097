"""run_plan: a plan through its memory gives what the graph gives, and wrong plans show."""

from __future__ import annotations

import dataclasses

import pytest
from random_graphs import assert_same, random_arrays

from hornfels.ir import evaluate, parse
from hornfels.ir.errors import VerifyError
from hornfels.passes.interpret import run_plan
from hornfels.passes.pipeline import make_plan
from hornfels.passes.plan import Copy, Plan, Slot


def planned(text: str) -> Plan:
    """The plan of a graph, after a check that it computes the same."""
    plan = make_plan(parse(text))
    check(plan)
    return plan


def check(plan: Plan) -> None:
    arrays = random_arrays(plan.graph)
    assert_same(run_plan(plan, arrays), evaluate(plan.graph, arrays), 1e-6, 1e-6)


def moved(plan: Plan, value, slot: Slot) -> Plan:
    return dataclasses.replace(plan, slots={**plan.slots, value: slot})


TWO = """graph g(%x: f32[4,4]) {
  %0: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%x, %x)
  %1: f32[4,4] = transpose[permutation=(1, 0)](%0)
  %2: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%0, %1)
  %3: f32[4,4] = add(%2, %0)
  %4: f32[4] = reduce_sum[axes=(0,)](%3)
  return y=%4
}"""


def test_values_that_share_memory_while_both_are_needed_are_caught():
    plan = planned(TWO)
    in_arena = [v for v, s in plan.slots.items() if s.space == "arena"]
    caught = 0
    for value in in_arena:
        for other in in_arena:
            if plan.slots[value] != plan.slots[other]:
                try:
                    check(moved(plan, value, plan.slots[other]))
                except (AssertionError, VerifyError):
                    caught += 1
    assert caught


def test_a_slot_outside_of_the_arena_is_caught():
    plan = planned(TWO)
    value = next(v for v, s in plan.slots.items() if s.space == "arena")
    outside = Slot("arena", 0, plan.arena_bytes, 64)
    with pytest.raises(VerifyError, match="must lie aligned in its block"):
        check(moved(plan, value, outside))


def test_calls_in_another_order_are_caught():
    plan = planned(TWO)
    with pytest.raises(AssertionError):
        check(dataclasses.replace(plan, calls=plan.calls[::-1]))


def test_the_callers_arrays_are_not_written():
    plan = planned("""graph g(%x: f32[4]; %s: f32[4]) {
      %0: f32[4] = add(%s, %x)
      return y=%x; %s=%0
    }""")
    arrays = random_arrays(plan.graph)
    before = {name: array.copy() for name, array in arrays.items()}
    result = run_plan(plan, arrays)
    assert all((arrays[name] == before[name]).all() for name in arrays)
    assert (result.updates["s"] == before["s"] + before["x"]).all()


def test_an_output_over_an_operand_that_is_not_its_own_is_caught():
    plan = planned(TWO)
    call = plan.calls[0]
    with pytest.raises(VerifyError, match=r"writes .* over"):
        check(
            moved(plan, call.outputs[0], dataclasses.replace(plan.slots[call.inputs[0]], nbytes=8))
        )


def test_copies_run_last_and_in_order():
    plan = planned("graph g(%x: f32[4]) {\n%0: f32[4] = exp(%x)\nreturn y=%0, z=%0\n}")
    again = Copy(plan.slots[plan.graph.inputs[0]], Slot("output", 1, 0, 16))
    with pytest.raises(AssertionError):
        check(dataclasses.replace(plan, copies=(*plan.copies, again)))
