"""The benchmark of the first step."""

from __future__ import annotations

from pathlib import Path

from hornfels.benchmarks import startup


def test_a_warm_start_finds_what_a_start_before_it_stored(tmp_path):
    first, process = startup.start("mlp", startup.WARM, str(tmp_path))
    stored = [path for path in Path(tmp_path).rglob("*") if path.is_file()]
    assert stored
    assert 0 < first < process
    warm, _ = startup.start("mlp", startup.WARM, str(tmp_path))
    assert warm < first  # nothing is compiled


def test_the_table(monkeypatch, capsys):
    monkeypatch.setattr(startup, "start", lambda name, kind, folder: (len(kind), 9.0))
    startup.main(["--models", "cnn", "--rounds", "2"])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "cnn" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    kinds = startup.STARTS if len(cells) == 7 else (startup.COLD, startup.WARM)
    assert cells == ["cnn", *(f"{len(kind):.2f}" for kind in kinds), *["9.0"] * len(kinds)]
