"""dce: what no result needs goes."""

from __future__ import annotations

from hornfels.ir import Graph, parse, verify
from hornfels.passes.dce import Dce

TEXT = """graph g(%x: f32[3]; %s: f32[3], %t: f32[3]) {
  %0: f32[3] = exp(%x)
  %1: f32[3] = neg(%x)
  %2: f32[3] = abs(%1)
  %3: f32[3] = add(%s, %x)
  return y=%0; %s=%3
}"""


def test_dead_nodes_go_and_parameters_stay():
    graph = parse(TEXT)
    after = verify(Dce().run(graph))
    assert [n.op.name for n in after.nodes] == ["exp", "add"]
    assert after.parameters == graph.parameters
    assert [old.name for old, _ in after.updates] == ["s"]


def test_an_update_that_changes_nothing_goes():
    graph = parse(TEXT)
    same = (graph.state[1], graph.state[1])
    graph = Graph(graph.name, graph.inputs, graph.state, graph.nodes, graph.outputs,
                  graph.output_names, (*graph.updates, same))  # fmt: skip
    assert [old.name for old, _ in Dce().run(graph).updates] == ["s"]


def test_the_input_is_not_changed():
    graph = parse(TEXT)
    Dce().run(graph)
    assert len(graph.nodes) == 4
