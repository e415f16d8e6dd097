"""Outlining: what a group computes, what it reads and how, and which kernels are shared."""

from __future__ import annotations

from hornfels.ir import parse
from hornfels.passes.outline import Outliner, accesses, is_scalar_constant, members

GRAPH = parse("""graph g(%x: f32[4,3], %b: f32[3], %z: f32[4,3]) {
  %0: f32[3] = exp(%b)
  %1: f32[4,3] = broadcast[shape=(4, 3), axes=(1,)](%0)
  %2: f32[4,3] = add(%x, %1)
  %3: f32[12] = reshape[shape=(12,)](%2)
  %4: f32[12] = tanh(%3)
  %5: f32[4,3] = reverse[axes=(0,)](%z)
  %6: f32[4,3] = mul(%5, %z)
  %7: f32[] = constant[value=dense<f32[]: 2.0>]()
  %8: f32[4,3] = broadcast[shape=(4, 3), axes=()](%7)
  %9: f32[4,3] = mul(%2, %8)
  return a=%4, b=%6, c=%9
}""")
X, B, Z = GRAPH.inputs
VALUES = [node.output for node in GRAPH.nodes]


def test_members_stop_at_borders_but_not_at_the_outputs():
    assert [n.op.name for n in members([VALUES[4]], {VALUES[0]})] == [
        "broadcast", "add", "reshape", "tanh",
    ]  # fmt: skip
    both = members([VALUES[2], VALUES[4]], {VALUES[0], VALUES[2]})
    assert [n.op.name for n in both] == ["broadcast", "add", "reshape", "tanh"]


def test_accesses_tell_elements_in_place_from_others():
    found = dict(accesses([VALUES[4]], {VALUES[0]}))
    assert found == {X: True, VALUES[0]: False}  # a reshape keeps the order, a broadcast does not
    assert sorted(aligned for value, aligned in accesses([VALUES[6]], ()) if value is Z) == [
        False, True,
    ]  # fmt: skip


def test_numbers_are_not_accessed():
    assert is_scalar_constant(VALUES[7])
    assert {v for v, _ in accesses([VALUES[9]], {VALUES[2]})} == {VALUES[2]}


def test_a_call_has_parameters_for_what_it_reads():
    call = Outliner().call([VALUES[2], VALUES[9]], {VALUES[0], VALUES[2]}, "pointwise")
    assert call.inputs == (VALUES[0], X)
    assert call.outputs == (VALUES[2], VALUES[9])
    body = call.kernel.body
    assert [v.name for v in body.inputs] == ["p0", "p1"]
    assert body.output_names == ("r0", "r1")
    assert set(VALUES).isdisjoint(v for n in body.nodes for v in n.outputs)


def test_names_say_what_is_inside_and_differ():
    outliner = Outliner()
    first = outliner.call([VALUES[4]], {VALUES[0]}, "pointwise").kernel
    second = outliner.call([VALUES[4]], {VALUES[2]}, "pointwise").kernel
    assert first.name == "pointwise_add_tanh"
    assert second.name == "pointwise_tanh"
    third = outliner.call([VALUES[4]], {VALUES[0]}, "pointwise").kernel
    assert third is first


def test_constants_and_attributes_tell_kernels_apart():
    texts = [GRAPH_TEXT.format(value, axis) for value, axis in (("2.0", 0), ("3.0", 0), ("2.0", 1))]
    outliner = Outliner()
    kernels = {outliner.call(g.outputs, (), "pointwise").kernel for g in map(parse, texts)}
    assert len(kernels) == 3
    again = parse(texts[0])
    assert outliner.call(again.outputs, (), "pointwise").kernel in kernels


GRAPH_TEXT = """graph g(%x: f32[3,3]) {{
  %0: f32[] = constant[value=dense<f32[]: {0}>]()
  %1: f32[3,3] = broadcast[shape=(3, 3), axes=()](%0)
  %2: f32[3,3] = reverse[axes=({1},)](%x)
  %3: f32[3,3] = mul(%1, %2)
  return y=%3
}}"""
