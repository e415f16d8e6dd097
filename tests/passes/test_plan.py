"""Plan: what it says about itself."""

from __future__ import annotations

import pytest

from hornfels.ir import parse
from hornfels.passes.pipeline import make_plan
from hornfels.passes.plan import Slot, align

TEXT = """graph g(%x: f32[8,8], %w: f32[8,8]; %s: f32[8,8]) {
  %0: f32[8,8] = matmul[transpose_a=False, transpose_b=False](%x, %w)
  %1: f32[8,8] = add(%s, %0)
  %2: f32[8,8] = matmul[transpose_a=False, transpose_b=False](%0, %w)
  return y=%2; %s=%1
}"""


@pytest.mark.parametrize(("nbytes", "aligned"), [(0, 0), (1, 64), (64, 64), (65, 128)])
def test_align(nbytes, aligned):
    assert align(nbytes) == aligned


def test_kernels_are_listed_once():
    plan = make_plan(parse(TEXT))
    assert [call.kernel.root for call in plan.calls].count("matmul") == 2
    assert [kernel.root for kernel in plan.kernels].count("matmul") == 1


def test_root_node():
    plan = make_plan(parse(TEXT))
    roots = {k.root: k.root_node and k.root_node.op.name for k in plan.kernels}
    assert roots == {"matmul": "matmul", "pointwise": None}


def test_in_place_names_the_positions():
    plan = make_plan(parse(TEXT))
    (call,) = [c for c in plan.calls if c.kernel.root == "pointwise"]
    ((output, operand),) = plan.in_place(call)
    assert call.outputs[output] is plan.graph.updates[0][1]
    assert call.inputs[operand] is plan.graph.state[0]


def test_the_text_shows_calls_slots_and_sizes():
    text = str(make_plan(parse(TEXT)))
    assert text.splitlines()[0] == "plan g: 3 calls of 2 kernels, arena 256 bytes, 0 copies"
    assert "matmul [matmul]: f32[8,8] input[0], f32[8,8] input[1] -> f32[8,8] arena+0" in text


def test_slots_print():
    assert str(Slot("arena", 0, 128, 4)) == "arena+128 (4 bytes)"
    assert str(Slot("state", 3, 0, 4)) == "state[3] (4 bytes)"
