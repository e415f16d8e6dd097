"""What is computed of weights alone comes first in a plan, and has memory of its own."""

from __future__ import annotations

import numpy as np
from random_graphs import assert_same

from hornfels.ir import evaluate
from hornfels.ir.text import parse
from hornfels.passes.interpret import run_plan
from hornfels.passes.memory import align
from hornfels.passes.pipeline import make_plan
from hornfels.passes.plan import ALIGNMENT, Plan

SCALED = """graph g(%x: f32[5,8]; %w: f32[8,8], %s: f32[8], %t: f32[8]) {
  %0: f32[8] = exp(%s)
  %1: f32[8] = add(%0, %t)
  %2: f32[8,8] = broadcast[shape=(8, 8), axes=(1,)](%1)
  %3: f32[8,8] = mul(%w, %2)
  %4: f32[5,8] = matmul[transpose_a=False, transpose_b=False](%x, %3)
  return y=%4
}"""


def checked(text: str, **arrays: np.ndarray) -> Plan:
    """The plan of a graph, which gives what the graph gives."""
    graph = parse(text)
    rng = np.random.default_rng(0)
    given = {v.name: rng.uniform(-1, 1, v.shape).astype(v.dtype.numpy) for v in graph.parameters}
    given |= arrays
    plan = make_plan(graph)
    assert_same(run_plan(plan, given), evaluate(graph, given), 1e-5, 1e-5)
    return plan


def roots(plan: Plan) -> list[str]:
    return [call.kernel.root for call in plan.calls]


def test_what_weights_alone_say_comes_first_and_stays():
    plan = checked(SCALED)
    assert roots(plan)[plan.preparing :] == ["matmul"]
    (kept,) = {s for s in plan.slots.values() if s.space == "prepared"}
    assert kept.nbytes == 8 * 8 * 4 == plan.prepared_bytes
    assert {("state", 0), ("state", 1), ("state", 2), ("prepared", 0)} <= plan.steady
    assert ("input", 0) not in plan.steady


def test_without_preparing_all_of_it_is_computed_in_each_run():
    plan = make_plan(parse(SCALED), prepare=False)
    assert (plan.preparing, plan.prepared_bytes, plan.steady) == (0, 0, frozenset())


def test_a_state_that_is_updated_prepares_nothing():
    plan = checked("""graph g(%x: f32[4]; %w: f32[4], %v: f32[4]) {
      %0: f32[4] = exp(%w)
      %1: f32[8,4] = broadcast[shape=(8, 4), axes=(1,)](%0)
      %2: f32[8,4] = tanh(%1)
      %3: f32[4] = reduce_sum[axes=(0,)](%2)
      %4: f32[4] = mul(%3, %x)
      %5: f32[4] = add(%w, %v)
      return y=%4; %w=%5
    }""")
    assert plan.preparing == 0
    assert {block for block in plan.steady if block[0] == "state"} == {("state", 1)}


def test_an_output_of_weights_alone_is_computed_each_time():
    """It lies in memory that is not the plan's; so does what is computed of it."""
    plan = checked("""graph g(%x: f32[4,4]; %w: f32[4,4]) {
      %0: f32[4,4] = exp(%w)
      %1: f32[16] = reshape[shape=(16,)](%0)
      %2: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%0, %w)
      %3: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%x, %2)
      return y=%3, e=%1
    }""")
    assert plan.preparing == 0


def test_a_view_of_what_is_kept_may_be_an_operand():
    plan = checked("""graph g(%x: f32[3,16]; %w: f32[4,4]) {
      %0: f32[4,4] = exp(%w)
      %1: f32[16,1] = reshape[shape=(16, 1)](%0)
      %2: f32[3,1] = matmul[transpose_a=False, transpose_b=False](%x, %1)
      return y=%2
    }""")
    assert plan.preparing == 1
    assert plan.prepared_bytes == align(64)


def test_nothing_is_written_over_what_is_kept():
    """A loop of steps begins in a copy; a pointwise kernel does not end in it."""
    plan = checked("""graph g(%x: f32[6,4]; %w: f32[4]) {
      %0: f32[4] = tanh(%w)
      %1: f32[4] = scan[carry=1, stacked=1, length=6](%0, %x) {
        body = graph step(%c: f32[4], %s: f32[4]) {
          %0: f32[4] = add(%c, %s)
          return c=%0
        }
      }
      %2: f32[6,4] = broadcast[shape=(6, 4), axes=(1,)](%0)
      %3: f32[6,4] = add(%x, %2)
      return y=%1, z=%3
    }""")
    assert plan.preparing == 1
    assert plan.prepared_bytes == ALIGNMENT


def test_what_grows_is_not_kept():
    """A comparison of positions is cheaper to compute than to read."""
    plan = checked("""graph g(%x: f32[32,32]; %w: f32[32]) {
      %0: f32[32,32] = broadcast[shape=(32, 32), axes=(1,)](%w)
      %1: f32[32,32] = broadcast[shape=(32, 32), axes=(0,)](%w)
      %2: f32[32,32] = maximum(%0, %1)
      %3: f32[32,32] = add(%2, %x)
      return y=%3
    }""")
    assert plan.prepared_bytes == 0


def test_a_plan_says_what_it_prepares():
    assert "  prepared 256 bytes" in str(make_plan(parse(SCALED))).splitlines()


def test_an_array_of_one_number_is_made_where_it_is_written_over():
    """Not kept, and not there while the activations are."""
    plan = checked("""graph g(%x: f32[64,8], %i: i32[64]; %w: f32[8,8], %t: f32[32,8]) {
      %0: f32[64,8] = matmul[transpose_a=False, transpose_b=False](%x, %w)
      %1: f32[64,8] = tanh(%0)
      %2: f32[64,8] = matmul[transpose_a=False, transpose_b=False](%1, %w)
      %3: f32[] = constant[value=dense<f32[]: 0.0>]()
      %4: f32[32,8] = broadcast[shape=(32, 8), axes=()](%3)
      %5: f32[32,8] = scatter_add[axis=0](%4, %i, %2)
      %6: f32[32,8] = add(%t, %5)
      return ; %t=%6
    }""", i=np.arange(64, dtype=np.int32) % 32)  # fmt: skip
    assert (plan.preparing, plan.prepared_bytes) == (0, 0)
    names = [call.kernel.root for call in plan.calls]
    assert names.index("scatter_add") == names.index("pointwise") + 1
    assert plan.in_place(plan.calls[names.index("scatter_add")])
    assert plan.arena_bytes == 2 * 64 * 8 * 4  # of the two products


def test_an_array_of_one_number_is_kept_with_what_is_computed_of_it():
    plan = checked("""graph g(%x: f32[5,8]; %w: f32[8,8]) {
      %0: f32[] = constant[value=dense<f32[]: 0.5>]()
      %1: f32[8,8] = broadcast[shape=(8, 8), axes=()](%0)
      %2: f32[8,8] = matmul[transpose_a=False, transpose_b=False](%w, %1)
      %3: f32[5,8] = matmul[transpose_a=False, transpose_b=False](%x, %2)
      return y=%3
    }""")
    assert plan.prepared_bytes == 8 * 8 * 4
    assert plan.preparing == len(plan.calls) - 1
