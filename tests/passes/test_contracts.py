"""Contracts: each property is broken once and named, and wrong plans are found."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace

import pytest
import training_graphs
from random_graphs import random_graph

from hornfels.ir import parse
from hornfels.ir.errors import PassError, VerifyError
from hornfels.ir.graph import Graph
from hornfels.ir.settings import settings
from hornfels.passes import contracts, fusion
from hornfels.passes.contracts import CONTRACTS, check, check_plan
from hornfels.passes.pipeline import PASSES, PIPELINE, make_plan, optimize
from hornfels.passes.plan import Slot

BROKEN = {
    contracts.NO_EQUAL_NODES: ("""graph g(%x: f32[3]) {
        %0: f32[3] = exp(%x)
        %1: f32[3] = exp(%x)
        %2: f32[3] = sub(%0, %1)
        return y=%2
    }""", "exp: f32[3] is computed twice"),
    contracts.NO_DEAD_NODES: ("""graph g(%x: f32[3]) {
        %0: f32[3] = exp(%x)
        %1: f32[3] = neg(%x)
        return y=%1
    }""", "exp: f32[3] is computed and nothing needs it"),
    contracts.NO_CONSTANT_ARITHMETIC: ("""graph g(%x: f32[3]) {
        %0: f32[] = constant[value=dense<f32[]: 2.0>]()
        %1: f32[] = exp(%0)
        %2: f32[3] = broadcast[shape=(3,), axes=()](%1)
        %3: f32[3] = mul(%x, %2)
        return y=%3
    }""", "exp: f32[] is arithmetic of constants"),
    contracts.NO_MARKERS: ("""graph g(%x: f32[3]) {
        %0: f32[3] = stop_gradient(%x)
        return y=%0
    }""", "stop_gradient: f32[3] has no meaning after differentiation"),
    contracts.NO_IDLE_REGIONS: ("""graph g(%x: f32[3], %y: f32[3]) {
        %0, %1: f32[3], f32[4,3] = scan[carry=1, stacked=0, length=4](%x, %y) {
          body = graph step(%c: f32[3], %w: f32[3]) {
            %0: f32[3] = mul(%c, %w)
            return c=%0, y=%w
          }
        }
        return z=%0
    }""", "scan: f32[3], f32[4,3] computes or reads what nothing needs"),
    contracts.STATIC: ("""graph g(%x: f32[N]) {
        %0: f32[N] = exp(%x)
        return y=%0
    }""", "x: f32[N] has a symbolic size"),
}  # fmt: skip


@pytest.mark.parametrize("each", BROKEN, ids=str)
def test_a_broken_property_says_what_breaks_it(each):
    text, expected = BROKEN[each]
    assert each.violation(parse(text)) == expected


@pytest.mark.parametrize("each", BROKEN, ids=str)
def test_it_is_found_in_the_stage_that_promises_it(each):
    stage = next(name for name, promised in CONTRACTS.items() if each in promised)
    graph = parse(BROKEN[each][0])
    with pytest.raises(VerifyError, match=f"at {stage}: {each}: "):
        check(stage, graph)
    if not each.always:
        with settings(contracts=False):
            check(stage, graph)
        check(stage, graph, complete=False)


def test_bodies_of_control_flow_are_looked_into():
    graph = parse("""graph g(%x: f32[], %n: f32[3]) {
        %0, %1: f32[], f32[3] = scan[carry=1, stacked=1, length=3](%x, %n) {
          body = graph step(%c: f32[], %n: f32[]) {
            %0: f32[] = stop_gradient(%c)
            return c=%0, y=%n
          }
        }
        return y=%0, z=%1
    }""")
    with pytest.raises(VerifyError, match=r"in body of scan: .*: stop_gradient: f32"):
        check("simplify", graph)


def test_every_pass_of_the_pipeline_has_a_contract():
    assert {each.name for each in PIPELINE} <= CONTRACTS.keys()


@dataclass(frozen=True)
class Lazy:
    """Says that it removes dead nodes and does nothing."""

    name: str = "dce"

    def run(self, graph: Graph) -> Graph:
        return graph


def test_a_pass_that_does_not_keep_its_promise_is_named():
    graph = parse(BROKEN[contracts.NO_DEAD_NODES][0])
    with pytest.raises(PassError, match=r"pass dce failed on graph g after no pass: .*no-dead-"):
        optimize(graph, (Lazy(),))
    assert len(optimize(graph, (PASSES["dce"],)).nodes) == 1


@pytest.mark.parametrize("seed", range(6))
def test_plans_of_random_graphs_keep_the_contract(seed):
    check_plan(make_plan(optimize(random_graph(seed))))


def test_a_plan_that_overwrites_what_is_still_read_is_found():
    plan = make_plan(optimize(training_graphs.mlp().specialize({"N": 8})))
    arena = [v for call in plan.calls for v in call.outputs if plan.slots[v].space == "arena"]
    caught = 0
    for first, second in itertools.pairwise(arena):
        wrong = {**plan.slots, second: replace(plan.slots[second], offset=plan.slots[first].offset)}
        try:
            check_plan(replace(plan, slots=wrong))
        except VerifyError:
            caught += 1
    assert caught > len(arena) / 2


@pytest.mark.parametrize("offset", [8, 1 << 40])
def test_a_slot_outside_the_arena_or_unaligned_is_found(offset):
    plan = make_plan(optimize(training_graphs.mlp().specialize({"N": 8})))
    value = next(v for c in plan.calls for v in c.outputs if plan.slots[v].space == "arena")
    slots = {**plan.slots, value: Slot("arena", 0, offset, value.type.nbytes)}
    with pytest.raises(VerifyError, match="must lie aligned in the arena of"):
        check_plan(replace(plan, slots=slots))


INTERFACE = """graph g(%x: f32[3]; %w: f32[3]) {
  %0: f32[3] = mul(%x, %w)
  %1: f32[3] = tanh(%0)
  return y=%0, z=%1; %w=%1
}"""


@dataclass(frozen=True)
class Becomes:
    """Returns another graph altogether."""

    text: str
    name: str = "becomes"

    def run(self, graph: Graph) -> Graph:
        return parse(self.text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("y=%0, z=%1", "y=%0", r"outputs were (y: f32[3], z: f32[3]), now (y: f32[3])"),
        ("y=%0, z=%1", "z=%1, y=%0", "outputs were (y: f32[3], z: f32[3]), now (z"),
        ("z=%1", "a=%1", "now (y: f32[3], a: f32[3])"),
        ("f32[3]", "f32[2]", "inputs were (x: f32[3]), now (x: f32[2])"),
        ("%w", "%v", "state were (w: f32[3]), now (v: f32[3])"),
    ],
)
def test_a_pass_that_changes_what_callers_see_is_caught(old, new, message):
    changed = INTERFACE.replace(old, new)
    assert changed != INTERFACE
    with pytest.raises(PassError, match=f"pass becomes failed .*{re.escape(message)}"):
        optimize(parse(INTERFACE), (Becomes(changed),))


def test_a_pass_may_drop_an_update_that_changes_nothing_but_not_add_one():
    without = INTERFACE.replace("; %w=%1", "")
    optimize(parse(INTERFACE), (Becomes(without),))
    with pytest.raises(PassError, match="same-interface: w was not updated before"):
        optimize(parse(without), (Becomes(INTERFACE),))


def test_a_row_kernel_that_reads_results_of_other_rows_is_found(monkeypatch):
    monkeypatch.setattr(fusion, "agree", lambda *_: True)
    graph = parse("""graph g(%x: f32[8,8]) {
      %0: f32[8] = reduce_sum[axes=(1,)](%x)
      %1: f32[8,8] = broadcast[shape=(8, 8), axes=(1,)](%0)
      %2: f32[8,8] = sub(%x, %1)
      return y=%2
    }""")
    with pytest.raises(VerifyError, match="row_reduce_sum_sub reads results of other rows"):
        make_plan(graph)


def test_a_batch_that_writes_over_what_a_later_part_reads_is_found(monkeypatch):
    graph = parse("""graph g(%x: f32[16,16]; %v: f32[16,16], %w: f32[16,16]) {
      %0: f32[16,16] = matmul[transpose_a=False, transpose_b=False](%x, %x)
      %1: f32[16,16] = matmul[transpose_a=True, transpose_b=False](%x, %x)
      %2: f32[16,16] = add(%v, %0)
      %3: f32[16,16] = mul(%w, %1)
      return y=%x; %v=%2, %w=%3
    }""")
    plan = make_plan(graph)
    (batch,) = [call for call in plan.calls if call.kernel.root == "batch"]
    first, last = batch.outputs
    operands = [v for v in batch.inputs if v.node is not None]
    for output, operand in itertools.product((first, last), operands):
        own = output.node is not None and any(v is operand for v in output.node.inputs)
        slots = {**plan.slots, output: plan.slots[operand]}
        if own:
            check_plan(replace(plan, slots=slots, copies=()))
        else:
            with pytest.raises(VerifyError, match="which another part reads"):
                check_plan(replace(plan, slots=slots, copies=()))
