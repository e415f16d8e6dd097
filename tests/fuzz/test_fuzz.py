"""The fuzzer: random graphs agree, and it finds, shrinks and writes down what does not."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hornfels.__main__ import main
from hornfels.fuzz.arrays import arrays_for
from hornfels.fuzz.campaign import Campaign, Options, read_replay
from hornfels.fuzz.check import check
from hornfels.fuzz.generate import STEPS, Recipe, generate
from hornfels.fuzz.numerics import Undefined, expect
from hornfels.fuzz.shrink import shrink, weight
from hornfels.fuzz.slopes import slope_error
from hornfels.fuzz.variants import Variant, lacks, ops_of, variants_for
from hornfels.fuzz.worker import Task, Worker
from hornfels.ir import REGISTRY, evaluate, parse, verify
from hornfels.ir.op import Reason
from hornfels.runtime.blocks import Arena
from hornfels.runtime.tvm_backend import TvmState

SEEDS = range(30)
"""What every test run checks; `hornfels fuzz` does more."""


# --- random graphs ---------------------------------------------------------------------------


def test_all_backends_agree_on_random_training_steps(tmp_path):
    said: list[str] = []
    campaign = Campaign(Options(out=tmp_path, shrink_seconds=0), said.append)
    campaign.run(SEEDS)
    assert not campaign.found, "\n".join(said)
    statistics = campaign.statistics
    assert statistics.graphs == len(SEEDS)
    assert statistics.runs > 8 * len(SEEDS), statistics.skipped
    sharpness = statistics.sharpness
    assert sharpness.compared > 0.95 * sharpness.elements
    assert sharpness.sharp > 0.8 * sharpness.elements


def test_a_seed_gives_one_graph():
    for seed in (3, 4, 5):
        assert str(generate(seed)) == str(generate(seed))
    assert len({str(generate(seed)) for seed in range(20)}) == 20


def test_graphs_use_every_op_and_awkward_sizes():
    seen: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    dtypes: Counter[str] = Counter()
    updates = 0
    for seed in range(700):
        graph = generate(seed, Recipe(nodes=(2, 8)))
        verify(graph)
        seen.update(ops_of(graph))
        values = [*graph.parameters, *(v for n in graph.nodes for v in n.outputs)]
        sizes.update(int(d) for v in values for d in v.shape)
        dtypes.update({v.dtype.name for v in values})
        updates += bool(graph.updates)
    assert set(REGISTRY) - set(seen) == set()
    assert sizes[0] > 100
    assert sizes[1] > 1000
    assert set(dtypes) == {"f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u32", "u8",
                           "bool"}  # fmt: skip
    assert updates > 300


def test_graphs_read_back():
    for seed in range(60):
        graph = generate(seed)
        assert str(parse(str(graph))) == str(graph)


# --- numbers ---------------------------------------------------------------------------------

CANCELS = parse("""
graph g(%x: f32[8], %y: f32[8]) {
  %0: f32[8] = add(%x, %y)
  %1: f32[8] = sub(%0, %y)
  %2: f32[8] = exp(%x)
  return cancels=%1, plain=%2
}
""")


def test_limits_follow_the_conditioning():
    arrays = {"x": np.full(8, 1e-3, np.float32), "y": np.full(8, 100, np.float32)}
    expected = expect(CANCELS, arrays, 1)
    (limits,), (exact,) = expected.limits, expected.exact
    assert np.all(limits["plain"] < 1e-4 * exact["plain"])
    assert np.all(limits["cancels"] > 1e-3 * exact["cancels"])  # half of the digits are gone
    assert np.all(limits["cancels"] < 1e-3)
    double = expected.exact[0]["plain"].astype(np.float64)
    assert np.all(np.abs(double - np.exp(1e-3)) < limits["plain"])


@pytest.mark.parametrize(("factor", "agrees"), [(1 + 1e-6, True), (1.01, False), (0.99, False)])
def test_one_per_cent_is_seen_and_rounding_is_not(factor, agrees):
    arrays = arrays_for(CANCELS, 1)
    expected = expect(CANCELS, arrays, 1)
    found = [{n: (a * factor).astype(a.dtype) for n, a in r.items()} for r in expected.exact]
    found[0]["cancels"] = expected.exact[0]["cancels"]
    assert (expected.compare(found) is None) == agrees


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0])
def test_one_wrong_element_is_seen(wrong):
    expected = expect(CANCELS, arrays_for(CANCELS, 1), 1)
    found = [dict(r) for r in expected.exact]
    found[0]["plain"] = found[0]["plain"].copy()
    found[0]["plain"][5] = wrong
    difference = expected.compare(found)
    assert difference is not None
    assert "at [5]" in difference.text
    assert difference.name == "plain"


def test_wrong_types_integers_and_late_steps_are_seen():
    graph = parse("""
graph g(%x: i64[3]; %s: i64[3]) {
  %0: i64[3] = add(%x, %s)
  return y=%s; %s=%0
}""")
    expected = expect(graph, {"x": np.full(3, 1 << 60), "s": np.arange(3)}, 3)
    found = [dict(r) for r in expected.exact]
    assert expected.compare(found) is None
    found[2]["y"] = found[2]["y"] + 1  # beyond what f64 tells apart
    assert expected.compare(found).step == 2
    found[2]["y"] = expected.exact[2]["y"].astype(np.int32)
    assert "is i32[3], not i64[3]" in expected.compare(found).text


PREPARED = parse("""
graph g(%x: f32[2,4]; %w: f32[4,4], %s: f32[4]) {
  %0: f32[4] = exp(%s)
  %1: f32[4,4] = broadcast[shape=(4, 4), axes=(1,)](%0)
  %2: f32[4,4] = mul(%w, %1)
  %3: f32[2,4] = matmul[transpose_a=False, transpose_b=False](%x, %2)
  return y=%3
}""")


@pytest.mark.parametrize(("fault", "step"), [("stale", 2), ("lost", 1)])
def test_what_is_kept_of_the_weights_is_looked_at(monkeypatch, fault, step):
    """One program uses old values after the weights changed, another finds others than it kept."""
    variant = Variant("tvm")
    assert not check(PREPARED, 1, [variant], STEPS).failures
    put = Arena.put

    def lost(arena, claim, byte):
        put(arena, claim, byte)
        if not byte:
            arena._block.bytes[claim.kept_at + 1 : claim.kept_at + claim.kept_bytes] = 0

    if fault == "stale":
        monkeypatch.setattr(TvmState, "changed_since", lambda state, clock, names: False)
    else:
        monkeypatch.setattr(Arena, "put", lost)
    (failure,) = check(PREPARED, 1, [variant], STEPS).failures
    assert failure.kind == "value"
    assert f"of step {step} " in failure.text


def test_what_rounding_decides_is_not_compared():
    graph = parse("""
graph g(%x: f32[2]) {
  %0: f32[2] = sin(%x)
  %1: f32[2] = cos(%x)
  %2: f32[2] = mul(%0, %0)
  %3: f32[2] = mul(%1, %1)
  %4: f32[2] = add(%2, %3)
  %5: f32[2] = floor(%4)
  return y=%5, z=%4
}""")
    expected = expect(graph, {"x": np.array([0.3, 2.0], np.float32)}, 1)
    assert np.all(expected.limits[0]["y"] >= 1)  # 0.99999 or 1: who knows
    assert np.all(expected.limits[0]["z"] < 1e-4)
    assert expected.sharpness.sharp == 2


@pytest.mark.parametrize(
    "node", ["cast[dtype=i32](%x)", "shift_left(%i, %i)", "shift_right(%i, %i)"]
)
def test_undefined_graphs_are_not_compared(node):
    dtype = "i32"
    graph = parse(f"graph g(%x: f32[2], %i: i32[2]) {{\n %0: {dtype}[2] = {node}\n return y=%0\n}}")
    arrays = {"x": np.array([1.0, 1e12], np.float32), "i": np.array([40, 2], np.int32)}
    with pytest.raises(Undefined):
        expect(graph, arrays, 1)


# --- variants --------------------------------------------------------------------------------


def test_every_backend_runs_with_all_passes_with_none_and_with_some():
    variants = variants_for(3)
    assert len(variants) == 11
    for backend in ("plan", "onnx", "tvm"):
        passes = [v.passes for v in variants if v.backend == backend]
        assert passes[:2] == ["all", "none"]
        assert len(passes) == 3
    assert len({variants_for(seed)[-1].passes for seed in range(20)}) > 10


def test_an_op_that_a_backend_lacks_is_named(monkeypatch):
    op = replace(REGISTRY["exp"], tvm=Reason("no"))
    text = "graph g(%x: f32[2]) {\n %0: f32[2] = exp(%x)\n return y=%0\n}"
    assert lacks(parse(text), "tvm") == lacks(parse(text), "onnx") == ""
    monkeypatch.setitem(REGISTRY, "exp", op)
    graph = parse(text)
    assert lacks(graph, "tvm") == "exp"
    verdict = check(graph, 0, [Variant("tvm"), Variant("plan")], 1)
    assert verdict.skipped == {"tvm": "exp"}
    assert verdict.ran == 1


# --- faults ----------------------------------------------------------------------------------

PLANTED = """
import numpy as np
from dataclasses import replace
from hornfels.fuzz import variants, worker
sound = variants.optimize
def wrong(graph):
    from hornfels.ir.op import get
    return sound(graph).rebuild(
        lambda node, inputs: [get("mul")(*inputs)] if node.op.name == "add" else None)
variants.optimize = wrong
{more}
worker.serve()
"""


def faulty(more: str = "") -> list[str]:
    return [sys.executable, "-P", "-c", PLANTED.replace("{more}", more)]


def test_a_fault_is_found_shrunk_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr("hornfels.fuzz.campaign.Worker", lambda timeout: Worker(timeout, faulty()))
    said: list[str] = []
    options = Options(("eager",), tmp_path, Recipe(ops=("add", "sin", "neg", "reduce_sum")))
    campaign = Campaign(options, said.append)
    campaign.run(range(2))
    assert campaign.found
    found = campaign.found[0]
    assert found.failure.kind == "value"
    assert ops_of(found.small) == {"add"}
    assert len(found.small.nodes) == 1
    assert found.small.outputs[0].type.size == 1
    assert "failed" in str(campaign.statistics)
    (path,) = [p for p in tmp_path.glob("*.ir") if "original" not in p.name][:1]
    text = path.read_text()
    assert read_replay(text) == {"seed": found.seed, "steps": 1, "backend": "eager",
                                 "passes": found.failure.variant.passes}  # fmt: skip
    graph = parse(text)
    again = check(graph, found.seed, [found.failure.variant], 1)
    assert not again.failures  # nothing is planted here
    assert evaluate(graph, arrays_for(graph, found.seed)).outputs


def test_a_crash_and_a_hang_are_failures_and_the_next_graph_runs():
    task = Task("graph g(%x: f32[2]) {\n return y=%x\n}", 0, (Variant("plan"),), 1)
    dies = "import os, signal\nvariants.make_plan = lambda g: os.kill(os.getpid(), signal.SIGSEGV)"
    with Worker(60, faulty(dies)) as worker:
        for _ in range(2):
            (failure,) = worker.run(task).failures
            assert failure.kind == "crash"
            assert failure.variant == Variant("plan")
            assert "SIGSEGV" in failure.text
            assert "Fatal Python error" in failure.detail
    hangs = "import time\nvariants.make_plan = lambda g: time.sleep(60)"
    with Worker(5, faulty(hangs)) as worker:
        (failure,) = worker.run(task).failures
        assert (failure.kind, failure.text) == ("timeout", "ran for more than 5 s")


def test_shrinking_keeps_what_fails():
    def fails(candidate, steps):
        verify(candidate)
        return any(n.op.name == "pad" and max(n.attrs["high"]) > 0 for n in candidate.nodes)

    graph = next(g for g in map(generate, range(300)) if fails(g, 3) and len(g.nodes) > 60)
    result = shrink(graph, 3, fails, 60)
    assert result.steps == 1
    assert [n.op.name for n in result.graph.nodes] == ["pad"]
    assert sum(result.graph.nodes[0].attrs["high"]) == 1
    assert weight(result.graph) < weight(graph)
    assert fails(result.graph, 1)


# --- gradients -------------------------------------------------------------------------------

FORWARD = Recipe(train=0.0, wide=True)


def contradictions(seeds: range) -> list[int]:
    return [seed for seed in seeds if slope_error(generate(seed, FORWARD), seed)]


def test_gradients_of_random_programs_agree_with_differences():
    assert contradictions(range(150)) == []


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("mul", 40), ("sigmoid", 40), ("broadcast", 40), ("concat", 120), ("reduce_max", 120)],
)
def test_a_gradient_that_is_one_per_cent_off_is_found(monkeypatch, name, seeds):
    op = REGISTRY[name]
    sound = op.vjp

    def wrong(*operands, **attrs):
        return tuple(g if g is None else g * 1.01 for g in sound(*operands, **attrs))

    monkeypatch.setitem(op.__dict__, "vjp", wrong)
    assert contradictions(range(seeds))


# --- the command -----------------------------------------------------------------------------


def test_the_command(capsys, tmp_path):
    assert main(["fuzz", "--seeds", "2:4", "--backends", "eager,plan"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"2 graphs of \d+ nodes, 10 runs .* 0 failed", said)
    path = tmp_path / "g.ir"
    path.write_text(f"# a graph\n{CANCELS}\n")
    assert main(["fuzz", "--replay", str(path), "--backends", "plan"]) == 0
    assert "3 runs agree, 0 fail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "a"], "--seeds must be A:B or a number, got 'a'"),
        (["--seeds", "1", "--backends", "cuda"], "backend must be one of eager, plan, onnx, tvm"),
        (["--replay", "none.ir"], "there is no file none.ir"),
    ],
)
def test_refusals(arguments, message, capsys):
    assert main(["fuzz", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
