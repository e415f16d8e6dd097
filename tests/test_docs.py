"""The documents: what they name exists, and the program in the README runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# A path below the root in backticks: a known folder, or a file at the root.
PATH = re.compile(r"`([A-Za-z_./*-]+(?:/|\.py|\.md|\.toml))`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
PLACES_OF_THE_READER = {"FILE.py", "train.py"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text()
    named = {name for name in PATH.findall(text) if name not in PLACES_OF_THE_READER}
    assert {name for name in named if not any(ROOT.glob(name))} == set()
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    assert {link for link in LINK.findall(prose) if not (page.parent / link).exists()} == set()


def test_a_wrong_name_would_be_seen():
    assert PATH.findall("see `ir/gone.py` and `codegen/nowhere/`, not `fit`") == [
        "ir/gone.py",
        "codegen/nowhere/",
    ]


def test_the_page_of_coverage_is_the_registry():
    script = runpy.run_path(str(ROOT / "docs" / "coverage.py"))
    written = (ROOT / "docs" / "coverage.md").read_text()
    assert written == script["page"](), "run: python docs/coverage.py"


def test_the_program_in_the_readme_runs(tmp_path, monkeypatch):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert "epochs=10" in program
    monkeypatch.chdir(tmp_path)
    exec(compile(program.replace("epochs=10", "epochs=1"), "README.md", "exec"), {})
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "train.onnx"}


def test_the_programs_of_the_tour_run(capsys):
    """Each says in a comment what it prints."""
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ir.md").read_text(), re.S)
    shown = []
    for program in programs:
        exec(compile(program, "ir.md", "exec"), {})
        shown += re.findall(r"print\(.*#\s*(.*)$", program, re.M)
    printed = capsys.readouterr().out.splitlines()
    assert len(programs) == 2
    arrays = re.compile(r"array\(([\d.]+), dtype=\w+\)")
    assert [arrays.sub(lambda m: f"{float(m[1]):g}", line) for line in printed] == shown


def test_the_programs_on_the_page_of_functions_run(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "functional-api.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(programs) > 6
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for program in programs:
        exec(compile(program, "functional-api.md", "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} == {"masked_mean.onnx"}
