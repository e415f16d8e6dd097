"""Loops in chunks of rows: which rows are independent, and that chunks compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import assert_same, random_arrays
from random_regions import random_regions
from recurrent import start, training_step

from hornfels.ir import Graph, evaluate, parse
from hornfels.passes import chunks
from hornfels.passes.interpret import run_plan
from hornfels.passes.pipeline import make_plan, optimize
from hornfels.passes.plan import Plan, RegionCall

ROWS = 48  # two chunks of 24

SCAN = """graph g(%c: f32[{rows},16], %xs: f32[3,{rows},16], %ts: i32[3], %w: f32[16,16], %m: f32[{rows},16], %b: f32[16]) {{
  %0, %1: f32[{rows},16], {out} = scan[carry=1, stacked=2, length=3](%c, %xs, %ts, %w, %m, %b) {{
    body = graph step(%c: f32[{rows},16], %x: f32[{rows},16], %t: i32[], %w: f32[16,16], %m: f32[{rows},16], %b: f32[16]) {{
      {body}
    }}
  }}
  return last=%0, all=%1
}}"""  # noqa: E501


@pytest.fixture(autouse=True)
def _any_work(monkeypatch):
    monkeypatch.setattr(chunks, "WORTH", 0)


def scan(*lines: str, carry: str = "", result: str = "%c", rows: int = ROWS,
         out: str = "f32[3,R,16]") -> Graph:  # fmt: skip
    """A scan whose step gives `carry`, by default the last of these values, and `result`."""
    numbered = [f"%{i}: {line}".replace("R", str(rows)) for i, line in enumerate(lines)]
    body = "\n      ".join([*numbered, f"return a={carry or f'%{len(lines) - 1}'}, y={result}"])
    return parse(SCAN.format(body=body, rows=rows, out=out.replace("R", str(rows))))


CELL = ("f32[R,16] = matmul(%c, %w)", "f32[R,16] = add(%0, %x)", "f32[R,16] = tanh(%1)")
INDEPENDENT = {
    "cell": scan(*CELL),
    "a bias": scan("f32[R,16] = broadcast[shape=(R, 16), axes=(1,)](%b)",
                   "f32[R,16] = add(%c, %0)"),
    "one row for all": scan("f32[1,16] = reshape[shape=(1, 16)](%b)",
                            "f32[R,16] = broadcast[shape=(R, 16), axes=(0, 1)](%0)",
                            "f32[R,16] = add(%c, %1)"),
    "a mask of rows": scan("f32[R,16] = mul(%c, %m)", "f32[R,16] = add(%0, %x)"),
    "the number of the step": scan(
        "f32[] = cast[dtype=f32](%t)", "f32[R,16] = broadcast[shape=(R, 16), axes=()](%0)",
        "f32[R,16] = add(%c, %1)", "f32[R,16] = add(%2, %x)"),
    "columns moved": scan(
        "f32[R,6] = slice[starts=(0, 2), limits=(R, 8), strides=(1, 1)](%c)",
        "f32[R,16] = pad[low=(0, 4), high=(0, 6), interior=(0, 0), value=0.0](%0)",
        "f32[R,32] = concat[axis=1](%1, %x)", "f32[R,16,2] = reshape[shape=(R, 16, 2)](%2)",
        "f32[R,2,16] = transpose[permutation=(0, 2, 1)](%3)",
        "f32[R,2,16] = reverse[axes=(1,)](%4)", "f32[R,16] = reduce_max[axes=(1,)](%5)"),
    "a batch of products": scan(
        "f32[R,4,4] = reshape[shape=(R, 4, 4)](%c)", "f32[R,4,4] = reshape[shape=(R, 4, 4)](%x)",
        "f32[R,4,4] = matmul[transpose_a=True, transpose_b=False](%0, %1)",
        "f32[R,16] = reshape[shape=(R, 16)](%2)"),
}  # fmt: skip
DEPENDENT = {
    "a sum of rows": scan("f32[16] = reduce_sum[axes=(0,)](%c)",
                          "f32[R,16] = broadcast[shape=(R, 16), axes=(1,)](%0)"),
    "rows in another order": scan("f32[R,16] = reverse[axes=(0,)](%c)"),
    "rows cut off": scan(
        "f32[40,16] = slice[starts=(8, 0), limits=(R, 16), strides=(1, 1)](%c)",
        "f32[R,16] = pad[low=(8, 0), high=(0, 0), interior=(0, 0), value=0.0](%0)"),
    "rows of another axis": scan(
        "f32[16,R] = transpose[permutation=(1, 0)](%c)",
        "f32[R,16] = reshape[shape=(R, 16)](%0)"),
    "a product over rows": scan(
        "f32[16,16] = matmul[transpose_a=True, transpose_b=False](%c, %x)",
        "f32[R,16] = matmul(%c, %0)"),
    "rows needed whole too": scan(
        "f32[R,R] = matmul[transpose_a=False, transpose_b=True](%c, %m)",
        "f32[R,16] = matmul(%0, %m)", "f32[R,16] = mul(%1, %m)"),
    "no rows in a result": scan(*CELL, result="%b", out="f32[3,16]"),
    "parts that begin where kernels cannot read": scan(
        *CELL, "f32[R,3] = slice[starts=(0, 0), limits=(R, 3), strides=(1, 1)](%2)",
        carry="%2", result="%3", rows=50, out="f32[3,R,3]"),
}  # fmt: skip


def plan_of(graph: Graph) -> tuple[Plan, RegionCall]:
    """The plan, after a check that it computes the same."""
    plan = make_plan(graph)
    arrays = random_arrays(graph, 1)
    assert_same(run_plan(plan, arrays), evaluate(graph, arrays), 1e-5, 1e-5)
    (call,) = (call for call in plan.calls if isinstance(call, RegionCall))
    return plan, call


@pytest.mark.parametrize("case", INDEPENDENT)
def test_independent_rows(case):
    _, call = plan_of(INDEPENDENT[case])
    assert call.chunks == 2
    assert "in 2 chunks" in str(call)
    assert f"f32[{ROWS // 2},16]" in str(call.bodies["body"].plan.graph)


@pytest.mark.parametrize("case", DEPENDENT)
def test_dependent_rows(case):
    _, call = plan_of(DEPENDENT[case])
    assert call.chunks == 1


@pytest.mark.parametrize(("rows", "count"), [(128, 4), (256, 8), (96, 3), (34, 2), (50, 2),
                                             (31, 1), (14, 1), (127, 1)])  # fmt: skip
def test_how_many(rows, count):
    assert plan_of(scan(*CELL, rows=rows))[1].chunks == count


def test_little_work_is_not_worth_it(monkeypatch):
    monkeypatch.setattr(chunks, "WORTH", 1 << 21)
    assert plan_of(scan(*CELL))[1].chunks == 1


def test_large_matrices_are_read_once_a_step(monkeypatch):
    monkeypatch.setattr(chunks, "WHOLE", 1000)  # the matrix has 1024 bytes
    assert plan_of(scan(*CELL))[1].chunks == 1
    assert plan_of(INDEPENDENT["a mask of rows"])[1].chunks == 2


def test_every_chunk_has_a_frame():
    plan, call = plan_of(scan(*CELL[:2], "f32[R,16] = mul(%1, %1)", "f32[R,16] = matmul(%2, %w)"))
    frame = call.outputs[-1]
    (arena,) = (w for (space, _), w in call.bodies["body"].blocks.items() if space == "arena")
    assert plan.slots[frame].nbytes == call.chunks * arena.chunk
    assert arena.chunk >= call.bodies["body"].plan.arena_bytes > 0


def test_a_wrong_rule_gives_other_numbers(monkeypatch):
    graph = scan("f32[R,16] = reverse[axes=(0,)](%c)", "f32[R,16] = add(%0, %x)")
    monkeypatch.setitem(chunks._NEEDS, "reverse", lambda node: (True,))
    with pytest.raises(AssertionError):
        plan_of(graph)


@pytest.mark.parametrize("kind", ["simple", "gru", "lstm"])
def test_recurrent_networks(kind):
    graph = optimize(training_step(kind, length=4, batch=32, features=8, units=8))
    plan = make_plan(graph)
    calls = [call for call in plan.calls if isinstance(call, RegionCall)]
    assert [call.chunks for call in calls] == [2, 2]
    arrays = random_arrays(graph, 2) | start(graph)
    assert_same(run_plan(plan, arrays), evaluate(graph, arrays), 1e-9, 1e-12)


def test_random_loops(monkeypatch):
    """Whatever is in chunks computes the same; sizes of 2 and up may be."""
    monkeypatch.setattr(chunks, "FEWEST", 1)
    monkeypatch.setattr(chunks, "ALIGNMENT", 1)
    monkeypatch.setattr("hornfels.passes.interpret.ALIGNMENT", 1)
    seen = 0
    for seed in range(24):
        graph = optimize(random_regions(seed, 20))
        plan = make_plan(graph)
        seen += "chunks" in str(plan)
        arrays = random_arrays(graph, seed)
        with np.errstate(all="ignore"):
            assert_same(run_plan(plan, arrays), evaluate(graph, arrays), 1e-6, 1e-6)
    assert seen
