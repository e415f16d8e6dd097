"""Batching: each op of the registry on three examples against three runs."""

from __future__ import annotations

import conformance
import numpy as np
import pytest
from random_graphs import random_arrays
from random_regions import random_regions

from hornfels.ir import REGISTRY, Builder, Graph, evaluate, parse, verify
from hornfels.ir.batching import batch
from hornfels.ir.op import Case, Op
from hornfels.ir.types import TensorType

SIZE = 3
SAMPLES = [
    pytest.param(op, case, id=f"{op.name}-{i}")
    for op in REGISTRY.values()
    for i, case in enumerate(op.samples[:3])
    if case.types
]


def both(graph: Graph, many: list[bool], arrays: list[list[np.ndarray]]) -> Graph:
    """The batched graph, whose results are those of the examples one by one."""
    with Builder("batched") as b:
        arguments = [
            b.input(v.name, TensorType(v.dtype, (SIZE, *v.shape)) if m else v.type)
            for v, m in zip(graph.inputs, many, strict=True)
        ]
        outputs = batch(graph, arguments, many, SIZE)
        batched = verify(b.finish(dict(zip(graph.output_names, outputs, strict=True))))
    stacked = {
        v.name: np.stack(examples) if m else examples[0]
        for v, m, examples in zip(graph.inputs, many, zip(*arrays, strict=True), strict=True)
    }
    got = evaluate(batched, stacked).outputs
    for i, example in enumerate(arrays):
        named = {
            v.name: array if m else arrays[0][k]
            for k, (v, m, array) in enumerate(zip(graph.inputs, many, example, strict=True))
        }
        expected = evaluate(graph, named).outputs
        for name, array in expected.items():
            np.testing.assert_allclose(
                got[name][i].astype(np.float64), array.astype(np.float64), rtol=1e-5, atol=1e-5
            )
    return batched


def graph_of(op: Op, case: Case) -> Graph:
    attrs = {k: conformance.bound(v) for k, v in case.attrs.items()}
    with Builder("one") as b:
        types = [t.substitute(conformance.SIZES) for t in case.types]
        operands = [b.input(f"x{i}", t) for i, t in enumerate(types)]
        outputs = op.all(*operands, **attrs)
        return b.finish({f"y{i}": v for i, v in enumerate(outputs)})


def examples(op: Op, case: Case) -> list[list[np.ndarray]]:
    """Operands that are legal, and those with slices in another order."""
    first = conformance.draw(op, case)
    again = [np.roll(a, 1, axis=-1) if a.ndim and case.prepare is None else a for a in first]
    return [first, again, first]


@pytest.mark.parametrize(("op", "case"), SAMPLES)
def test_all_operands(op: Op, case: Case) -> None:
    both(graph_of(op, case), [True] * len(case.types), examples(op, case))


@pytest.mark.parametrize(("op", "case"), [p for p in SAMPLES if len(p.values[1].types) > 1])
def test_one_operand(op: Op, case: Case) -> None:
    for k in range(len(case.types)):
        many = [i == k for i in range(len(case.types))]
        both(graph_of(op, case), many, examples(op, case))


def ops_of(text: str, many: list[bool]) -> list[str]:
    """The ops of the batched graph."""
    graph = parse(text)
    rng = np.random.default_rng(0)
    arrays = [
        [rng.normal(size=tuple(map(int, v.shape))).astype(v.dtype.numpy) if v.dtype.is_float
         else np.array(rng.random() < 0.5) for v in graph.inputs]
        for _ in range(SIZE)
    ]  # fmt: skip
    return [node.op.name for node in both(graph, many, arrays).nodes]


def test_examples_with_one_weight_are_one_product():
    text = """graph g(%x: f32[5,3], %w: f32[3,4]) {
      %0: f32[5,3] = tanh(%x)
      %1: f32[5,4] = matmul(%0, %w)
      return y=%1
    }"""
    assert ops_of(text, [True, False]) == ["tanh", "reshape", "matmul", "reshape"]


def test_what_no_example_changes_is_computed_once():
    text = """graph g(%x: f32[3], %w: f32[3]) {
      %0: f32[3] = exp(%w)
      %1: f32[3] = mul(%x, %0)
      return y=%1
    }"""
    assert ops_of(text, [True, False]) == ["exp", "broadcast", "mul"]


COND = """graph g(%p: bool[], %x: f32[]) {
  %0: f32[] = cond(%p, %x) {
    then = graph then(%x: f32[]) {
      %0: f32[] = exp(%x)
      return y=%0
    }
    otherwise = graph otherwise(%x: f32[]) {
      %0: f32[] = neg(%x)
      return y=%0
    }
  }
  return y=%0
}"""
ENDLESS = COND.replace(
    "%0: f32[] = exp(%x)",
    """%0: f32[] = while[carry=1](%x) {
        condition = graph condition(%x: f32[]) {
          %0: f32[] = constant[value=dense<f32[]: 9.0>]()
          %1: bool[] = less(%x, %0)
          return go=%1
        }
        body = graph body(%x: f32[]) {
          %0: f32[] = constant[value=dense<f32[]: 1.0>]()
          %1: f32[] = add(%x, %0)
          return x=%1
        }
      }""",
)


def test_each_example_selects_its_branch():
    assert ops_of(COND, [True, True]) == ["exp", "neg", "select"]
    assert ops_of(COND, [False, True]) == ["cond"]


def test_a_branch_that_may_not_end_runs_only_where_it_is_chosen():
    assert ops_of(ENDLESS, [True, True]) == ["scan"]


@pytest.mark.parametrize("seed", range(8))
def test_random_programs(seed: int) -> None:
    graph = random_regions(seed, nodes=8)
    outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
    graph = Graph.make(graph.name, graph.parameters, (), outputs)
    rng = np.random.default_rng(seed)
    arrays = [[random_arrays(graph, k)[v.name] for v in graph.inputs] for k in range(SIZE)]
    both(graph, [bool(rng.random() < 0.7) for _ in graph.inputs], arrays)
