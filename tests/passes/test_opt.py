"""`hornfels opt`: passes on text, from a file or standard input."""

from __future__ import annotations

import io
import re

import pytest

from hornfels.__main__ import main
from hornfels.ir import parse

TEXT = """
graph g(%x: f32[3]) {
  %0: f32[] = constant[value=dense<f32[]: 1.0>]()
  %1: f32[3] = broadcast[shape=(3,), axes=()](%0)
  %2: f32[3] = mul(%x, %1)
  %3: f32[3] = exp(%2)
  %4: f32[3] = exp(%2)
  %5: f32[3] = add(%3, %4)
  return y=%5
}
"""


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "g.ir"
    found.write_text(TEXT)
    return found


def ops(text: str) -> list[str]:
    return [node.op.name for node in parse(text).nodes]


def test_passes_run_in_the_order_given(path, capsys):
    assert main(["opt", str(path), "-p", "cse,dce"]) == 0
    assert ops(capsys.readouterr().out) == ["constant", "broadcast", "mul", "exp", "add"]
    assert main(["opt", str(path), "-p", "none"]) == 0
    assert ops(capsys.readouterr().out) == ops(TEXT)


def test_all_is_the_pipeline_and_standard_input_is_read(monkeypatch, capsys):
    for arguments in (["opt"], ["opt", "-", "--passes=all"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
        assert main(arguments) == 0
        assert ops(capsys.readouterr().out) == ["exp", "constant", "broadcast", "mul"]


def test_the_graph_between_the_passes(path, capsys):
    assert main(["opt", str(path), "-p", "simplify,cse", "--print-between"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^# (\w+)", out, re.M) == ["00_trace", "simplify", "cse"]
    graphs = [ops(part) for part in re.split(r"^# .*$", out, flags=re.M)[1:]]
    assert [g.count("exp") for g in graphs] == [2, 2, 1]


def test_verbose_says_what_rules_did(path, capsys):
    assert main(["opt", str(path), "-p", "simplify,cse,dce", "--verbose"]) == 0
    said = capsys.readouterr().err
    assert re.search(r"simplify: 6 -> 3 nodes, \d+ rewrites, \d\.\d{3} s", said)
    assert "1 x mul-one" in said
    assert re.search(r"cse: 3 -> 2 nodes, .* s\n  1 rewrites", said)


def test_output_goes_to_a_file(path, tmp_path, capsys):
    out = tmp_path / "new" / "out.ir"
    assert main(["opt", str(path), "-p", "simplify", "-o", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert "mul" not in ops(out.read_text())


def test_listing(capsys):
    assert main(["opt", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"cse +Merge equal nodes", line) for line in lines)
    assert lines[-1].startswith("all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "simplify,magic"], "passes: 'magic' is no pass; there are cse"),
        (["none.ir"], "there is no file none.ir"),
    ],
)
def test_refusals(path, arguments, message, capsys):
    given = arguments if arguments[0].endswith(".ir") else [str(path), *arguments]
    assert main(["opt", *given]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_text_that_is_no_graph(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("graph {"))
    assert main(["opt"]) == 2
    assert "line 1: expected `graph name(" in capsys.readouterr().err
