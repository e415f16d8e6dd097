"""Products for all steps of a loop at once: goldens, reasons to stay, recurrent networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_graphs import assert_same, random_arrays
from random_regions import random_regions
from recurrent import start, training_step

from hornfels.ir import Graph, Node, evaluate, parse, verify
from hornfels.ir.rewrite import Report
from hornfels.passes import vectorize
from hornfels.passes.pipeline import PIPELINE, make_plan, optimize
from hornfels.passes.regions import Regions
from hornfels.passes.vectorize import VECTORIZE_RULES

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vectorize"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.ir"))
PASS = Regions(products=True, name="vectorize")
SHORT = tuple(each for each in PIPELINE if each.name != "vectorize")


def golden(name: str) -> tuple[str, str]:
    before, after = (GOLDEN / f"{name}.ir").read_text().split("\n---\n")
    return before.strip(), after.strip()


def rewritten(text: str) -> tuple[Graph, Report]:
    """The graph after the pass, which computes the same."""
    graph = parse(text)
    after, report = PASS.rewrite(graph)
    verify(parse(str(after)))
    sized = [g.specialize({"N": 3}) for g in (graph, after)]
    arrays = random_arrays(sized[0], seed=1)
    expected, found = (evaluate(g, arrays) for g in sized)
    assert_same(found, expected, rtol=1e-5, atol=1e-5)
    return after, report


@pytest.mark.parametrize("name", NAMES)
def test_it_fires(name):
    before, after = golden(name)
    found, report = rewritten(before)
    assert str(found) == after
    assert any(name.startswith(rule) and report.fired[rule] for rule in VECTORIZE_RULES)
    assert str(PASS.run(found)) == after


def test_every_rule_has_a_golden():
    assert all(any(name.startswith(rule) for name in NAMES) for rule in VECTORIZE_RULES)


def changed(name: str, *changes: tuple[str, str]) -> str:
    """The first half of a golden, otherwise."""
    text = golden(name)[0]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


STAYS = {
    "few-operations": (
        changed("hoist-product", ("2,16]", "2,15]"), ("[16,4]", "[15,4]")),
        "hoist-product", "is stored for few operations",
    ),
    "many-rows": (
        changed("hoist-product", ("[2,", "[32,"), ("5,2,", "5,32,"), ("(2, 4)", "(32, 4)")),
        "hoist-product", "a step of f32[32,4] has rows enough",
    ),
    "small-matrix": (
        changed("turn-matrix", ("64", "63")), "turn-matrix", "",
    ),
    "reads-the-carry": (
        changed("hoist-product", ("matmul(%x, %w)", "matmul(%h, %w)"), ("2,16]", "2,4]"),
                ("[16,4]", "[4,4]")),
        "hoist-product", "",
    ),
    "recompute-ahead": (
        changed("hoist-product", ("length=5", 'length=5, gradient="recompute"')),
        "hoist-product", "",
    ),
    "recompute": (
        changed("sink-sum", ("reverse=True", 'reverse=True, gradient="recompute"')),
        "sink-sum", "",
    ),
    "running-sum-is-stacked": (
        changed("sink-sum-of-slices",
                ("return d=%0, a=%1\n    }", "return d=%0, a=%1, y=%1\n    }"),
                ("%0, %1: f32[4], f32[2,4] =", "%0, %1, %2: f32[4], f32[2,4], f32[5,2,4] ="),
                ("return d=%0, a=%1\n}", "return d=%0, a=%1, y=%2\n}")),
        "sink-sum", "",
    ),
    "sum-is-read": (
        changed("sink-sum-of-slices", ("tanh(%d)", "reduce_sum[axes=(0,)](%a)")),
        "sink-sum", "",
    ),
    "no-product": (
        changed("sink-sum-of-slices", ("add(%a, %x)", "add(%a, %1)"), ("%1: f32[2,4] = add",
                "%1: f32[2,4] = exp(%x)\n      %2: f32[2,4] = add"),
                ("a=%1\n    }", "a=%2\n    }")),
        "sink-sum", "a sum of exp f32[2,4] stays",
    ),
    "factor-is-larger": (
        changed("sink-product", ("[4,6]", "[4,2]"), ("[5,2,6]", "[5,2,2]"), ("2,6]", "2,2]"),
                ("(2, 6)", "(2, 2)"), ("f32[6]", "f32[2]")),
        "sink-product", "32 bytes a step would be stored for f32[2,2]",
    ),
    "product-is-needed-by-a-carry": (
        changed("sink-product", ("f32[4,6]", "f32[4,4]"), ("2,6]", "2,4]"), ("(2, 6)", "(2, 4)"),
                ("f32[6]", "f32[4]"), ("return h=%2", "return h=%5")),
        "sink-product", "",
    ),
    "padded-with-ones": (
        changed("sink-sum-scaled", ("transpose[permutation=(1, 0)](%2)",
                "pad[low=(0, 0), high=(1, -1), interior=(0, 0), value=1.0](%2)")),
        "sink-sum", "a sum of mul f32[4,3] stays",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_it_stays_away_and_says_why(case):
    text, rule, reason = STAYS[case]
    _, report = rewritten(text)
    assert not report.fired[rule]
    assert reason in str(report)


@pytest.mark.parametrize(("name", "rule"), [("hoist-product", "hoist-product"),
                                            ("sink-sum", "sink-sum")])  # fmt: skip
def test_memory_has_a_limit(name, rule, monkeypatch):
    monkeypatch.setattr(vectorize, "LIMIT", 0)
    large = changed(name, ("5", "1000")).replace("[1000,2,3]", "[1000,2,3]")
    _, report = rewritten(large)
    assert report.fired[rule] == 1  # no more than four times what is there
    monkeypatch.setattr(vectorize, "_limit", lambda loop: 100)
    _, report = rewritten(large)
    assert not report.fired[rule]
    assert "bytes for all steps, of 100" in str(report)


def test_many_terms_stay(monkeypatch):
    monkeypatch.setattr(vectorize, "TERMS", 2)
    _, report = rewritten(golden("sink-sum")[0])
    assert not report.fired["sink-sum"]


def test_any_length():
    """The number of steps may be open."""
    for text in (golden(name)[0] for name in NAMES):
        before = text.replace("[5,", "[N,").replace("length=5", "length=N")
        if before.count("N") == 1:
            continue  # no operand has that size
        _, report = rewritten(before)
        assert sum(report.fired.values()) == 1


# --- recurrent networks ----------------------------------------------------------------------


def scans(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op.name == "scan"]


def products(node: Node) -> int:
    return sum(n.op.name == "matmul" for n in node.regions["body"].nodes)


@pytest.mark.parametrize("kind", ["simple", "gru", "lstm"])
@pytest.mark.parametrize("reverse", [False, True])
def test_only_what_recurs_stays_in_the_loop(kind, reverse):
    """One product a step going forward, and one going back."""
    graph = training_step(kind, length=6, batch=5, units=7, features=32, reverse=reverse)
    before, after = optimize(graph, SHORT), optimize(graph)
    assert [products(node) for node in scans(before)] == [2, 3]
    assert [products(node) for node in scans(after)] == [1, 1]
    assert all(node.attrs["carry"] <= 2 for node in scans(after))
    arrays = random_arrays(graph, seed=4) | start(graph)
    expected = evaluate(graph, arrays)
    assert_same(evaluate(after, arrays), expected, rtol=1e-9, atol=1e-12)


def test_recomputing_keeps_its_memory():
    graph = training_step("lstm", length=6, gradient="recompute")
    forward, back = scans(optimize(graph))
    assert (products(forward), products(back)) == (2, 5)


def test_random_loops():
    for seed in range(12):
        graph = random_regions(seed, 25)
        arrays = random_arrays(graph, seed)
        after = PASS.run(graph)
        with np.errstate(all="ignore"):
            assert_same(evaluate(after, arrays), evaluate(graph, arrays), 1e-4, 1e-4, arrays)


def test_a_gradient_needs_no_more_memory_than_twice_what_it_did():
    graph = training_step("lstm", length=32, batch=16, units=32, features=32)
    before, after = (make_plan(optimize(graph, p)).arena_bytes for p in (SHORT, PIPELINE))
    assert after < 2 * before
