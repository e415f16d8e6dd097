"""The pipeline: verified after each pass, readable when it fails, dumped when asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import training_graphs
from random_graphs import assert_same, random_arrays, random_graph

from hornfels.ir import Graph, evaluate, parse
from hornfels.ir.errors import ArgumentError, PassError
from hornfels.ir.op import get
from hornfels.ir.rewrite import Rule
from hornfels.ir.settings import settings
from hornfels.ir.types import f64
from hornfels.passes.cse import Cse
from hornfels.passes.interpret import run_plan
from hornfels.passes.pipeline import PIPELINE, make_plan, optimize, optimize_with_records, stages
from hornfels.passes.simplify import Simplify

SMALL = {
    "mlp": lambda: training_graphs.mlp(f64, 16, 12),
    "cnn": lambda: training_graphs.cnn(f64, 12, 4),
    "resnet": lambda: training_graphs.resnet(f64, 6, 4),
}


@pytest.mark.parametrize("name", SMALL)
def test_training_steps_keep_their_numbers(name):
    graph = SMALL[name]()
    optimized = optimize_with_records(graph)
    assert len(optimized.graph.nodes) < 0.75 * len(graph.nodes)
    static = optimized.graph.specialize({"N": 6})
    arrays = random_arrays(static, 1)
    for array in arrays.values():
        np.absolute(array, out=array)  # moments and probabilities are not negative
    expected = evaluate(graph, arrays)
    assert_same(evaluate(optimized.graph, arrays), expected, 1e-9, 1e-12)
    assert_same(run_plan(make_plan(optimize(static)), arrays), expected, 1e-9, 1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_keep_their_numbers(seed):
    graph = random_graph(seed, nodes=35)
    arrays = random_arrays(graph, seed)
    optimized = optimize(graph)
    assert_same(run_plan(make_plan(optimized), arrays), evaluate(graph, arrays), held=arrays)


def test_a_second_run_changes_nothing():
    once = optimize_with_records(SMALL["cnn"]())
    assert sum(once.fired.values()) > 0
    twice = optimize_with_records(once.graph)
    assert not twice.fired
    assert str(twice.graph) == str(once.graph)


@dataclass(frozen=True)
class Breaks:
    """Returns a graph whose nodes are not in order."""

    name: str = "breaks"

    def run(self, graph: Graph) -> Graph:
        return Graph(graph.name, graph.inputs, graph.state, graph.nodes[::-1], graph.outputs,
                     graph.output_names, graph.updates)  # fmt: skip


def test_a_failing_pass_names_itself_and_those_before_and_saves_the_graph():
    graph = SMALL["mlp"]()
    with pytest.raises(
        PassError,
        match=r"pass breaks failed on graph mlp_train after "
        r"simplify, cse: .* is used before it is defined",
    ) as caught:
        optimize(graph, (Simplify(), Cse(), Breaks()))
    path = Path(re.search(r"is in (\S+)", str(caught.value))[1])
    assert str(parse(path.read_text())) == str(Cse().run(Simplify().run(graph)))


def test_rules_that_undo_each_other_are_stopped():
    around = Rule("around", lambda p, x: p.neg(x), replace=lambda x: get("neg")(x))
    text = "graph g(%x: f32[]) {\n %0: f32[] = neg(%x)\n return y=%0\n}"
    with pytest.raises(PassError, match="keep undoing each other"):
        optimize(parse(text), (Simplify((around,)),))


def test_dumps(tmp_path):
    optimize(SMALL["mlp"](), dump=tmp_path / "a")
    names = [path.name for path in sorted((tmp_path / "a").iterdir())]
    assert names[:3] == ["00_trace.ir", "01_cse.ir", "02_regions.ir"]
    assert len(names) == len(PIPELINE) + 1
    for path in (tmp_path / "a").iterdir():
        parse(path.read_text())
    with settings(dump=str(tmp_path / "b"), stop_after="simplify"):
        graph = SMALL["mlp"]()
        optimize(graph)
        optimize(graph)
    folders = sorted((tmp_path / "b").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert folder.name.startswith("mlp_train")
        assert [p.name for p in sorted(folder.iterdir())] == names[:4]


def test_stop_after_must_name_a_pass():
    with settings(stop_after="nonsense"), pytest.raises(ArgumentError, match="there are cse"):
        optimize(SMALL["mlp"]())


def test_a_rewrite_limit_stops_rewriting():
    graph = SMALL["mlp"]()
    with settings(rewrite_limit=2):
        fired = optimize_with_records(graph, (Simplify(),)).fired
    assert sum(fired.values()) == 2


def test_debug_reports(capsys):
    graph = SMALL["mlp"]()
    optimize(graph)
    assert capsys.readouterr().err == ""
    with settings(debug="passes,rules,kernels,memory"):
        make_plan(optimize(graph).specialize({"N": 4}))
    text = capsys.readouterr().err
    assert re.search(r"\[passes\] simplify: \d+ -> \d+ nodes, \d+ rewrites", text)
    assert "[rules] " in text
    assert "stop-gradient" in text
    assert "[kernels] graph matmul_add_relu(" in text
    assert re.search(r"\[memory\] plan mlp_train: \d+ calls", text)


def test_stages_show_every_graph():
    graph = SMALL["mlp"]()
    found = list(stages(graph))
    assert [s.name for s in found][:2] == ["00_trace", "01_cse"]
    assert found[0].graph is graph
    assert found[1].record.before == len(graph.nodes)
