"""Rematerialization: the same numbers, bit by bit, in a smaller arena."""

import contextlib

import pytest
import training_graphs
from random_graphs import assert_same, random_arrays, random_graph

from hornfels.ir import evaluate, parse
from hornfels.ir.errors import MemoryBudgetError
from hornfels.ir.verify import verify
from hornfels.passes.interpret import run_plan
from hornfels.passes.pipeline import make_plan, optimize
from hornfels.passes.remat import rematerialize

# A chain whose backward half reads every activation, 4 KiB each.
CHAIN = """graph chain(%x: f32[32,32]; %w: f32[32,32]) {{
{forward}
  %g0: f32[32,32] = neg(%a{last})
{backward}
  return g=%g{last}
}}"""


def chain(length):
    forward, backward = [], []
    for i in range(length):
        source = f"%a{i - 1}" if i else "%x"
        forward += [f"%p{i}: f32[32,32] = matmul({source}, %w)", f"%a{i}: f32[32,32] = tanh(%p{i})"]
    for i in range(length):
        k = length - 1 - i
        backward += [
            f"%s{i}: f32[32,32] = mul(%g{i}, %a{k})",
            f"%g{i + 1}: f32[32,32] = matmul[transpose_b=True](%s{i}, %w)",
        ]
    text = CHAIN.format(forward="\n".join(forward), backward="\n".join(backward), last=length - 1)
    return parse(text.replace(f"return g=%g{length - 1}", f"return g=%g{length}"))


def fits(graph, share):
    """The graph in that share of its arena, checked against the oracle."""
    plan = make_plan(graph)
    budget = int(plan.arena_bytes * share)
    found = rematerialize(graph, budget, make_plan)
    verify(found)
    smaller = make_plan(found)
    assert smaller.arena_bytes <= budget
    arrays = random_arrays(graph, 1)
    expected = evaluate(graph, arrays)
    assert_same(evaluate(found, arrays), expected, 0, 0)
    assert_same(run_plan(smaller, arrays), expected, 1e-6, 1e-6)
    return found


def test_what_fits_stays_as_it_is():
    graph = chain(6)
    plan = make_plan(graph)
    assert rematerialize(graph, plan.arena_bytes, make_plan) is graph


@pytest.mark.parametrize("length", [8, 30])
def test_a_chain_of_products_is_computed_again(length):
    found = fits(chain(length), 0.5)
    counted = [n.op.name for n in found.nodes]
    assert 2 * length < counted.count("matmul") <= 3 * length
    assert "optimization_barrier" in counted


def test_a_long_chain_needs_no_deep_recursion():
    fits(chain(450), 0.9)


@pytest.mark.parametrize(
    ("network", "share"),
    [(training_graphs.resnet, 0.8), (training_graphs.resnet, 0.6)],
)
def test_training_steps_in_less_memory(network, share):
    fits(optimize(network().specialize({"N": 16})), share)


def test_cheap_values_are_dropped_first():
    graph = parse("""graph step(%x: f32[64,64]; %w: f32[64,64]) {
      %c: f32[64,64] = matmul(%x, %w)
      %r: f32[64,64] = relu(%c)
      %d: f32[64,64] = matmul(%r, %w)
      %e: f32[64,64] = matmul(%d, %w)
      %f: f32[64,64] = matmul(%e, %c)
      %h: f32[64,64] = matmul[transpose_a=True](%r, %f)
      return h=%h
    }""")
    found = fits(graph, 0.8)
    assert [n.op.name for n in found.nodes].count("matmul") == 5  # only relu runs twice
    assert [n.op.name for n in found.nodes].count("relu") == 2


def test_too_small_a_budget_says_what_was_reached():
    graph = chain(8)
    with pytest.raises(MemoryBudgetError, match="the temporary values need") as caught:
        rematerialize(graph, 100, make_plan)
    minimum = caught.value.minimum
    assert 3 * 4096 <= minimum < make_plan(graph).arena_bytes
    assert rematerialize(graph, minimum, make_plan) is not graph  # what it says is true


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_give_the_same_numbers(seed):
    graph = optimize(random_graph(seed))
    plan = make_plan(graph)
    found = graph
    with contextlib.suppress(MemoryBudgetError):
        found = rematerialize(graph, plan.arena_bytes * 3 // 4, make_plan)
    arrays = random_arrays(graph, seed)
    assert_same(run_plan(make_plan(found), arrays), evaluate(graph, arrays), 1e-9, 1e-9)


def test_a_barrier_keeps_the_second_computation_apart():
    graph = parse("""graph twice(%x: f32[32,32]; %w: f32[32,32]) {
      %a: f32[32,32] = tanh(%x)
      %b: f32[32,32] = matmul(%a, %w)
      %k: f32[32,32] = optimization_barrier(%x, %b)
      %c: f32[32,32] = tanh(%k)
      %d: f32[32,32] = matmul(%c, %b)
      return d=%d
    }""")
    plan = make_plan(optimize(graph))
    assert [call.kernel.root for call in plan.calls].count("pointwise") == 2
    order = [call.kernel.root for call in plan.calls]
    assert order == ["pointwise", "matmul", "pointwise", "matmul"]
    arrays = random_arrays(graph, 0)
    assert_same(run_plan(plan, arrays), evaluate(graph, arrays), 1e-6, 1e-6)
