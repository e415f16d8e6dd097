"""cse: equal nodes become one, different ones do not."""

from __future__ import annotations

import pytest
from random_graphs import assert_same, random_arrays, random_graph

from hornfels.ir import evaluate, parse, verify
from hornfels.passes.cse import Cse


def names(text: str) -> list[str]:
    graph = parse(text)
    after = verify(Cse().run(graph))
    arrays = random_arrays(graph)
    assert_same(evaluate(after, arrays), evaluate(graph, arrays), 0, 0)
    return [node.op.name for node in after.nodes]


def test_equal_chains_become_one():
    assert names("""graph g(%x: f32[3]) {
      %0: f32[3] = exp(%x)
      %1: f32[3] = neg(%0)
      %2: f32[3] = exp(%x)
      %3: f32[3] = neg(%2)
      %4: f32[3] = add(%1, %3)
      return y=%4
    }""") == ["exp", "neg", "add"]


def test_commutative_operands_may_be_swapped_and_others_not():
    assert names("""graph g(%x: f32[3], %y: f32[3]) {
      %0: f32[3] = mul(%x, %y)
      %1: f32[3] = mul(%y, %x)
      %2: f32[3] = sub(%x, %y)
      %3: f32[3] = sub(%y, %x)
      %4: f32[3] = add(%0, %1)
      %5: f32[3] = add(%2, %3)
      return a=%4, b=%5
    }""") == ["mul", "add", "sub", "sub", "add"]


def test_attributes_tell_nodes_apart():
    assert names("""graph g(%x: f32[3,3]) {
      %0: f32[3] = reduce_sum[axes=(0,)](%x)
      %1: f32[3] = reduce_sum[axes=(1,)](%x)
      %2: f32[3] = add(%0, %1)
      return y=%2
    }""") == ["reduce_sum", "reduce_sum", "add"]


def test_constants_differ_by_bits_and_dtype():
    assert names("""graph g(%x: f32[]) {
      %0: f32[] = constant[value=dense<f32[]: 0.0>]()
      %1: f32[] = constant[value=dense<f32[]: -0.0>]()
      %2: f32[] = constant[value=dense<f32[]: 0.0>]()
      %3: f32[] = div(%x, %0)
      %4: f32[] = div(%x, %1)
      %5: f32[] = div(%x, %2)
      return a=%3, b=%4, c=%5
    }""") == ["constant", "div", "constant", "div"]


@pytest.mark.parametrize("seed", range(5))
def test_random_graphs_keep_their_numbers(seed):
    graph = random_graph(seed)
    after = verify(Cse().run(graph))
    assert len(after.nodes) < len(graph.nodes)
    arrays = random_arrays(graph, seed)
    assert_same(evaluate(after, arrays), evaluate(graph, arrays))
