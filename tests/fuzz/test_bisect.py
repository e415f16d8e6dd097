"""The bisector names the pass and the rewrite that were planted to be wrong."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest

from hornfels.__main__ import main
from hornfels.fuzz.bisect import bisect, in_process, in_worker
from hornfels.fuzz.variants import Variant
from hornfels.fuzz.worker import Worker
from hornfels.ir import Graph, parse
from hornfels.ir.errors import PassError
from hornfels.ir.op import get
from hornfels.ir.rewrite import Rule
from hornfels.passes.pipeline import PASSES, optimize
from hornfels.passes.simplify import RULES, Simplify

TEXT = """
graph g(%x: f32[4], %w: f32[4]) {
  %0: f32[] = constant[value=dense<f32[]: 1.0>]()
  %1: f32[4] = broadcast[shape=(4,), axes=()](%0)
  %2: f32[4] = mul(%x, %1)
  %3: f32[4] = neg(%2)
  %4: f32[4] = neg(%3)
  %5: f32[4] = exp(%4)
  %6: f32[4] = sub(%5, %w)
  %7: f32[4] = sin(%w)
  %8: f32[4] = sin(%w)
  %9: f32[4] = add(%7, %8)
  %10: f32[4] = mul(%6, %9)
  return y=%10
}
"""
GRAPH = parse(TEXT)
SWAPPED = Rule("swapped-sub", lambda p, x, y: p.sub(x, y), replace=lambda x, y: get("add")(x, y))
NARROW = Rule("narrow-sin", lambda p, x: p.sin(x), replace=lambda x: x.reshape(2, 2))


def plant(monkeypatch, rules) -> None:
    monkeypatch.setitem(PASSES, "planted", Simplify((*RULES, *rules), "planted"))


@pytest.mark.parametrize("passes", ["planted", "cse,fold,planted,dce,simplify", "simplify,planted"])
def test_a_wrong_rule_is_named(monkeypatch, passes):
    plant(monkeypatch, [SWAPPED])
    variant = Variant("eager", passes)
    culprit = bisect(GRAPH, variant, in_process(GRAPH, 0, 1))
    assert culprit.failure.kind == "value"
    assert culprit.stage.endswith("_planted")
    assert culprit.rewrite.rule == "swapped-sub"
    assert culprit.rewrite.before.op.name == "sub"
    assert [v.node.op.name for v in culprit.rewrite.after] == ["add"]
    text = str(culprit)
    assert "by swapped-sub" in text
    assert "before   sub(exp(" in text
    assert "after    add(exp(" in text
    # one rewrite less is right, as the text says
    assert f"HORNFELS_REWRITE_LIMIT={culprit.number}" in text
    fewer = Variant("eager", passes, rewrite_limit=culprit.number - 1)
    assert in_process(GRAPH, 0, 1)(fewer) is None


def test_a_rule_that_raises_is_named(monkeypatch):
    plant(monkeypatch, [NARROW])
    culprit = bisect(GRAPH, Variant("eager", "cse,planted"), in_process(GRAPH, 0, 1))
    assert culprit.failure.kind == "error"
    assert culprit.stage == "02_planted"
    assert culprit.rewrite.rule == "narrow-sin"
    assert culprit.rewrite.before.op.name == "sin"


@dataclass(frozen=True)
class Drops:
    """Adds where it should multiply, in one go."""

    name: str = "drops"

    def run(self, graph: Graph) -> Graph:
        return graph.rebuild(
            lambda node, inputs: [get("add")(*inputs)] if node.op.name == "mul" else None
        )


@dataclass(frozen=True)
class Unordered:
    """Returns a graph whose nodes are not in order."""

    name: str = "unordered"

    def run(self, graph: Graph) -> Graph:
        return Graph(graph.name, graph.inputs, graph.state, graph.nodes[::-1], graph.outputs,
                     graph.output_names, graph.updates)  # fmt: skip


@pytest.mark.parametrize("wrong", [Drops(), Unordered()])
def test_a_wrong_pass_is_named(monkeypatch, wrong):
    monkeypatch.setitem(PASSES, wrong.name, wrong)
    variant = Variant("eager", f"cse,simplify,{wrong.name},fold,dce")
    culprit = bisect(GRAPH, variant, in_process(GRAPH, 0, 1))
    assert culprit.stage == f"03_{wrong.name}"
    assert culprit.rewrite is None
    assert "the pass does it as a whole" in str(culprit)


CRASHING = """
import os, signal
from hornfels.fuzz import variants, worker
from hornfels.ir.op import get
from hornfels.ir.rewrite import Rule
from hornfels.passes.pipeline import PASSES
from hornfels.passes.simplify import RULES, Simplify
rule = Rule("swapped-sub", lambda p, x, y: p.sub(x, y), replace=lambda x, y: get("add")(x, y))
PASSES["planted"] = Simplify((*RULES, rule), "planted")
sound = variants.optimize
def dies(graph):
    found = sound(graph)
    if all(node.op.name != "sub" for node in found.nodes):
        os.kill(os.getpid(), signal.SIGSEGV)
    return found
variants.optimize = dies
worker.serve()
"""


def test_a_rewrite_that_ends_the_process_is_named(monkeypatch):
    plant(monkeypatch, [SWAPPED])
    command = [sys.executable, "-P", "-c", CRASHING]
    with Worker(60, command) as worker:
        probe = in_worker(worker, GRAPH, 0, 1)
        culprit = bisect(GRAPH, Variant("eager", "cse,planted"), probe)
    assert culprit.failure.kind == "crash"
    assert "SIGSEGV" in culprit.failure.text
    assert culprit.stage == "02_planted"
    assert culprit.rewrite.rule == "swapped-sub"


def test_a_fault_of_the_backend_is_no_pass(monkeypatch):
    sound = Variant.run

    def wrong(self, graph, arrays, steps):
        return [{n: a * 1.01 for n, a in r.items()} for r in sound(self, graph, arrays, steps)]

    monkeypatch.setattr(Variant, "run", wrong)
    culprit = bisect(GRAPH, Variant("plan"), in_process(GRAPH, 0, 1))
    assert culprit.stage == ""
    assert "the backend plan does it" in str(culprit)


def test_nothing_is_found_where_nothing_is_wrong():
    assert bisect(GRAPH, Variant("plan"), in_process(GRAPH, 0, 1)) is None


def test_a_failing_pass_says_how_to_go_on(monkeypatch):
    plant(monkeypatch, [NARROW])
    with pytest.raises(PassError, match=r"in rule narrow-sin at sin") as caught:
        optimize(GRAPH, (PASSES["planted"],))
    assert "hornfels bisect" in str(caught.value)
    assert "-p planted" in str(caught.value)


# --- the command -----------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    path = tmp_path / "g.ir"
    path.write_text('# fuzz: {"seed": 3, "steps": 1, "backend": "plan", "passes": "cse"}\n' + TEXT)
    arrays = {"x": np.ones(4, np.float32), "w": np.zeros(4, np.float32)}
    np.savez(tmp_path / "a.npz", **arrays)
    assert main(["bisect", str(path), "--inputs", str(tmp_path / "a.npz")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "bisect: the graph does not fail on plan after cse" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.ir"], "there is no file none.ir"),
        (["g.ir", "--inputs", "g.ir"], "g.ir is no file of arrays"),
        (["open.ir"], "sizes must be fixed, the graph has N"),
    ],
)
def test_refusals(tmp_path, monkeypatch, arguments, message, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.ir").write_text(TEXT)
    (tmp_path / "open.ir").write_text("graph g(%x: f32[N]) {\n return y=%x\n}\n")
    assert main(["bisect", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
