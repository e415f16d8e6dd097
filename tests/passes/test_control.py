"""Control flow in plans: what bodies carry lies in place, slices are windows, wrong plans show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from packing import lower_bound
from random_graphs import assert_same, random_arrays
from random_regions import random_regions

from hornfels.ir import Builder, Graph, Value, constant, evaluate, sugar
from hornfels.ir.errors import VerifyError
from hornfels.ir.op import get
from hornfels.ir.types import TensorType, boolean, f32, i32
from hornfels.passes import memory
from hornfels.passes.interpret import run_plan
from hornfels.passes.pipeline import PIPELINE, make_plan, optimize, stage_text
from hornfels.passes.plan import ALIGNMENT, Plan, RegionCall, align


def body(name: str, types: dict[str, TensorType], results) -> Graph:
    """A graph of what `results` makes of the inputs."""
    with Builder(name) as b:
        found = results(*(b.input(k, t) for k, t in types.items()))
        return b.finish({f"r{i}": v for i, v in enumerate(found)})


def planned(graph: Graph) -> Plan:
    """The plan, after a check that it computes the same."""
    plan = make_plan(graph)
    check(plan)
    return plan


def check(plan: Plan, seed: int = 0) -> None:
    arrays = random_arrays(plan.graph, seed)
    assert_same(run_plan(plan, arrays), evaluate(plan.graph, arrays), 1e-6, 1e-6)


def regions(plan: Plan) -> list[RegionCall]:
    return [call for call in plan.calls if isinstance(call, RegionCall)]


def scanned(
    step, size: int = 16, length: int = 5, *, outer=None, reverse: bool = False
) -> tuple[Plan, RegionCall]:
    """The plan of `c, y... = scan(s, xs, w)` with `c` the new state and the rest the outputs."""
    types = {"c": f32(size), "x": f32(size), "w": f32(size)}
    with Builder("g") as b:
        s, w = b.variable("s", f32(size)), b.input("w", f32(size))
        xs = b.input("xs", f32(length, size))
        start, xs, w = outer(s, xs, w) if outer else (s, xs, w)
        last, *ys = get("scan").all(
            start, xs, w, body=body("step", types, step), carry=1, stacked=1, length=length,
            reverse=reverse,
        )  # fmt: skip
        outputs = {f"y{i}": y for i, y in enumerate(ys)} or {"last": last}
        plan = planned(b.finish(outputs, [(s, last)]))
    (call,) = regions(plan)
    return plan, call


# --- carries ---------------------------------------------------------------------------------


def test_a_carry_that_begins_as_state_stays_in_its_block():
    plan, call = scanned(lambda c, x, w: (get("tanh")(c * w + x), c * x))
    assert plan.slots[call.outputs[0]].place == "state[0]"
    inner = call.bodies["body"].plan
    assert inner.slots[inner.graph.updates[0][1]].place == "state[0]"
    assert not plan.copies
    assert not inner.copies
    assert not plan.arena_bytes


def test_a_state_that_is_shared_too_is_copied_into_the_carry():
    plan, call = scanned(
        lambda c, x, w: (c + x * w, x), outer=lambda s, xs, w: (s, xs, s.reshape(4, 4).reshape(16))
    )
    assert plan.slots[call.outputs[0]] != plan.slots[call.inputs[0]]
    assert plan.copies


def test_what_a_carry_begins_as_shares_its_memory_if_nobody_reads_it_later():
    def outer(s, xs, w):
        return get("exp")(s), xs, w

    plan, call = scanned(lambda c, x, w: (c * w + x, c), outer=outer)
    assert plan.slots[call.outputs[0]] == plan.slots[call.inputs[0]]
    assert plan.arena_bytes == 0  # in the state's block from the begin


def test_an_old_carry_that_is_stacked_costs_one_copy():
    _, call = scanned(lambda c, x, w: (get("tanh")(c * w + x), c))
    inner = call.bodies["body"].plan
    assert [(c.source.place, c.target.place) for c in inner.first] == [("state[0]", "output[0]")]
    assert not inner.copies
    assert len(inner.calls) == 1


def test_swapped_carries():
    types = {"a": f32(3), "b": f32(3), "x": f32(3)}
    step = body("step", types, lambda a, b, x: (b, a + x, a))
    with Builder("g") as b:
        a, c, xs = b.input("a", f32(3)), b.input("b", f32(3)), b.input("xs", f32(4, 3))
        found = get("scan").all(a, c, xs, body=step, carry=2, stacked=1, length=4, reverse=True)
        planned(b.finish({f"y{i}": v for i, v in enumerate(found)}))


def test_one_value_begins_two_carries():
    step = body("step", {"a": f32(16), "b": f32(16)}, lambda a, b: (a + b, a * b))
    with Builder("g") as b:
        start = get("tanh")(b.input("x", f32(16)))
        found = get("scan").all(start, start, body=step, carry=2, stacked=0, length=3)
        plan = planned(b.finish({f"y{i}": v for i, v in enumerate(found)}))
    (call,) = regions(plan)
    assert len({plan.slots[v] for v in (*call.inputs, *call.outputs[:2])}) == 3


# --- slices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "copies"), [(16, 0), (32, 0), (3, 1), (17, 1), (0, 0)])
def test_slices_off_the_alignment_are_copied(size, copies):
    _, call = scanned(lambda c, x, w: (c + x * w, c * x), size)
    step = call.bodies["body"]
    assert len(step.before) == len(step.after) == copies


def test_a_slice_that_is_only_copied_lies_where_it_is():
    _, call = scanned(lambda c, x, w: (c * w, x), 3)
    step = call.bodies["body"]
    assert not step.before
    assert not step.after
    assert len(step.plan.first) == 1


@pytest.mark.parametrize("length", [0, 1, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_any_number_of_steps(length, reverse):
    _, call = scanned(lambda c, x, w: (c * w + x, c - x), 3, length, reverse=reverse)
    assert len(call.steps) == length
    backwards = " backwards" if reverse else ""
    assert str(call) == f"scan [{length} steps{backwards}]"


# --- memory ----------------------------------------------------------------------------------


def test_the_arena_of_a_body_lies_in_the_frame():
    def step(c, x, w):
        return c + x, get("reverse")(sugar.reduce("reduce_sum", c * w, (0,)) + x * w, axes=(0,))

    plan, call = scanned(step)
    inner = call.bodies["body"].plan
    assert inner.arena_bytes
    assert plan.slots[call.outputs[-1]].nbytes == inner.arena_bytes == plan.arena_bytes


def product(x: Value, y: Value) -> Value:
    return get("matmul")(x, y, transpose_a=False, transpose_b=False)


def recurrent(length: int = 6, batch: int = 4, units: int = 16) -> Graph:
    """Two recurrent layers of the same weights, the second backwards."""
    matrix = f32(units, units)
    types = {"h": f32(batch, units), "x": f32(batch, units), "w": matrix}

    def step(h, x, w):
        new = get("tanh")(product(h, w) + product(x, w))
        return new, product(new, w)

    with Builder("g") as b:
        w, xs = b.variable("w", matrix), b.input("xs", f32(length, batch, units))
        start = sugar.full((batch, units), 0.0, f32)
        _, ys = get("scan").all(start, xs, w, body=body("step", types, step), carry=1, stacked=1,
                                length=length)  # fmt: skip
        _, zs = get("scan").all(start, ys, w, body=body("step", types, step), carry=1, stacked=1,
                                length=length, reverse=True)  # fmt: skip
        return b.finish({"y": zs}, [(w, w * 0.5)])


def test_the_arena_is_the_least_that_holds_what_is_in_use(monkeypatch):
    seen = []
    real = memory.pack
    monkeypatch.setattr(memory, "pack", lambda b: seen.append(list(b)) or real(seen[-1]))
    plan = planned(optimize(recurrent()))
    assert plan.arena_bytes == min(map(lower_bound, seen[-2:]))
    ends = [s.offset + align(s.nbytes) for s in plan.slots.values() if s.space == "arena"]
    assert plan.arena_bytes == max(ends)


def test_a_layer_writes_over_the_sequence_that_it_reads():
    in_the_loop = [each for each in PIPELINE if each.name != "vectorize"]  # or xs are x @ w
    plan = planned(optimize(recurrent(), in_the_loop))
    first, second = regions(plan)
    assert second.carries == ((0, 0), (1, 1))
    assert plan.slots[first.outputs[1]] == plan.slots[second.outputs[1]]
    assert plan.slots[second.outputs[1]].place == "output[0]"


def doubled(step) -> RegionCall:
    """A scan of 16 numbers in 5 steps over a sequence that nothing else reads."""
    return scanned(step, outer=lambda s, xs, w: (s, get("exp")(xs), w))[1]


def test_a_sequence_is_kept_if_writing_over_it_would_take_copies():
    def backwards(c, x, w):
        return c * x, get("reverse")(x, axes=(0,))

    assert doubled(lambda c, x, w: (c * x, x * 2.0)).carries == ((0, 0), (1, 1))
    assert doubled(backwards).carries == ((0, 0),)


def test_a_sequence_that_is_read_later_is_kept():
    types = {"c": f32(16), "x": f32(16)}
    with Builder("g") as b:
        c, xs = b.input("c", f32(16)), get("exp")(b.input("xs", f32(4, 16)))
        step = body("step", types, lambda c, x: (c + x, c * x))
        last, ys = get("scan").all(c, xs, body=step, carry=1, stacked=1, length=4)
        plan = planned(b.finish({"ys": get("reverse")(ys, axes=(0,)), "z": xs * last.sum(0)}))
    assert regions(plan)[0].carries == ((0, 0),)


def test_bodies_share_kernels():
    plan = planned(optimize(recurrent()))
    first, second = regions(plan)
    kernels = [c.bodies["body"].plan.kernels for c in (first, second)]
    assert kernels[0] == kernels[1]
    assert len(plan.kernels) == len(set(plan.kernels))
    assert sum(1 for _ in plan.kernel_calls()) > len(plan.kernels)


def test_constants_of_bodies_are_constants_of_the_plan():
    table = np.arange(16, dtype=np.float32)
    inner = body("inner", {"c": f32(16)}, lambda c: (c + constant(table),))

    def step(c, x, w):
        (new,) = get("scan").all(c, body=inner, carry=1, stacked=0, length=2)
        return new * 0.5 + x, new * constant(table)

    plan, call = scanned(step)
    assert [a.tolist() for a in plan.constants] == [table.tolist()] * len(plan.constants)
    assert plan.constants
    assert len(call.inputs) == len(call.node.inputs) + len(plan.constants)


# --- while and cond --------------------------------------------------------------------------


def collatz() -> Graph:
    """Halve or triple, in a branch in a loop."""
    types = {"n": i32(), "steps": i32()}
    halve = body("then", {"n": i32()}, lambda n: (n >> constant(1, i32),))
    triple = body("otherwise", {"n": i32()}, lambda n: (n * 3 + 1,))

    def step(n, steps):
        even = get("equal")(n & constant(1, i32), constant(0, i32))
        return get("cond")(even, n, then=halve, otherwise=triple), steps + 1

    with Builder("g") as b:
        found = get("while").all(
            b.input("n", i32()), constant(0, i32), carry=2, body=body("body", types, step),
            condition=body("condition", types, lambda n, steps: (n > constant(1, i32),)),
        )  # fmt: skip
        return b.finish({"n": found[0], "steps": found[1]})


@pytest.mark.parametrize(("start", "steps"), [(1, 0), (6, 8), (27, 111)])
def test_a_branch_in_a_loop(start, steps):
    plan = make_plan(collatz())
    found = run_plan(plan, {"n": np.array(start, np.int32)}).outputs
    assert (found["n"], found["steps"]) == (1, steps)


def test_a_branch_that_keeps_a_state_costs_nothing():
    types = {"s": f32(16), "x": f32(16)}
    with Builder("g") as b:
        s, x, go = b.variable("s", f32(16)), b.input("x", f32(16)), b.input("go", boolean())
        new = get("cond")(go, s, x, then=body("then", types, lambda s, x: (s + x,)),
                          otherwise=body("otherwise", types, lambda s, x: (s,)))  # fmt: skip
        plan = planned(b.finish({"x": x * 2.0}, [(s, new)]))
    (call,) = regions(plan)
    assert call.carries == ((0, 1),)
    assert plan.slots[call.outputs[0]].place == "state[0]"
    assert not plan.copies
    assert not plan.arena_bytes
    assert not call.bodies["otherwise"].plan.calls
    assert len(call.bodies["then"].plan.calls) == 1


def test_branches_that_return_the_same_operand_twice_and_swap():
    types = {"a": f32(3), "b": f32(3)}
    with Builder("g") as b:
        a, c, go = b.input("a", f32(3)), b.input("b", f32(3)), b.input("go", boolean())
        found = get("cond").all(
            go, a, c, then=body("then", types, lambda a, b: (a, b, a)),
            otherwise=body("otherwise", types, lambda a, b: (b, a, a * b)),
        )  # fmt: skip
        graph = b.finish({f"y{i}": v for i, v in enumerate(found)})
    for go_ahead in (False, True):
        plan = make_plan(graph)
        arrays = {**random_arrays(graph), "go": np.array(go_ahead)}
        assert_same(run_plan(plan, arrays), evaluate(graph, arrays))


# --- text ------------------------------------------------------------------------------------


def test_the_text_shows_bodies_and_where_their_blocks_lie():
    plan, _ = scanned(lambda c, x, w: (get("tanh")(c * w + x), c * x), 3, 4, reverse=True)
    assert (
        str(plan)
        == """\
plan g: 1 calls of 1 kernels, arena 128 bytes, 0 copies
  scan [4 steps backwards]: f32[3] state[0], f32[4,3] input[1], f32[3] input[0] -> \
f32[3] state[0], f32[4,3] output[0], u8[128] arena+0
    body: state[0] is result 0, input[0] is frame+0, input[1] is operand 2, \
output[0] is frame+64, arena+0 is frame+128
      first copy operand 1 at 12 bytes a step -> frame+0
      plan step: 1 calls of 1 kernels, arena 0 bytes, 0 copies
        pointwise_mul_add_tanh [pointwise]: f32[3] state[0], f32[3] input[0], f32[3] input[1] -> \
f32[3] output[0], f32[3] state[0]
      last copy frame+64 -> result 1 at 12 bytes a step"""
    )


def test_the_stage_of_the_plan_shows_the_kernels_of_bodies():
    assert "tanh" in stage_text(recurrent(), "plan")


# --- wrong plans are seen --------------------------------------------------------------------


def test_sharing_what_is_read_in_every_step_is_caught(monkeypatch):
    monkeypatch.setattr(memory._Storages, "may_overwrite", lambda self, output, operand: True)
    with pytest.raises((AssertionError, VerifyError)):
        scanned(
            lambda c, x, w: (c + x * w, x),
            outer=lambda s, xs, w: (s, xs, s.reshape(4, 4).reshape(16)),
        )


def test_outputs_over_operands_are_caught():
    plan, call = scanned(lambda c, x, w: (c + x * w, c * x))
    frame = plan.slots[call.inputs[1]]
    for output in call.outputs[:2]:
        wrong = dataclasses.replace(plan, slots={**plan.slots, output: frame})
        with pytest.raises(VerifyError, match=r"scan writes input\[1\] .* over input\[1\]"):
            run_plan(wrong, random_arrays(plan.graph))


def test_windows_outside_of_what_they_show_are_caught():
    plan, call = scanned(lambda c, x, w: (c + x * w, c * x))
    step = call.bodies["body"]
    key = ("input", 0)
    for window, message in (
        (dataclasses.replace(step.blocks[key], stride=128), "must lie in operand|bytes must lie"),
        (dataclasses.replace(step.blocks[key], stride=4), f"multiple of {ALIGNMENT}"),
    ):
        wrong = dataclasses.replace(step, blocks={**step.blocks, key: window})
        again = dataclasses.replace(call, bodies={"body": wrong})
        with pytest.raises(VerifyError, match=message):
            run_plan(dataclasses.replace(plan, calls=(again,)), random_arrays(plan.graph))


def test_a_frame_that_is_too_small_is_caught():
    plan, call = scanned(lambda c, x, w: (c + x * w, c * x), 3)
    frame = call.outputs[-1]
    small = dataclasses.replace(plan.slots[frame], nbytes=64)
    wrong = dataclasses.replace(plan, slots={**plan.slots, frame: small})
    with pytest.raises(VerifyError, match="must lie in"):
        run_plan(wrong, random_arrays(plan.graph))


# --- random ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_random_control_flow_through_the_arena(seed):
    graph = random_regions(seed)
    arrays = random_arrays(graph, seed)
    expected = evaluate(graph, arrays)
    assert_same(run_plan(make_plan(graph), arrays), expected)
    optimized = optimize(graph)
    assert_same(run_plan(make_plan(optimized), arrays), expected, held=arrays)
