"""The benchmark of memory budgets."""

from __future__ import annotations

from hornfels.benchmarks import budget
from hornfels.benchmarks.models import BENCH_MODELS


def test_a_budget_is_kept_and_what_does_not_fit_is_said(capsys, monkeypatch):
    small = BENCH_MODELS["resnet"].sized(blocks=((16, 1),) * 3)
    monkeypatch.setitem(BENCH_MODELS, "resnet", small)
    budget.main(["--model", "resnet", "--batch-size", "4", "--shares", "0.8,0.01", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert printed.startswith("share 0.01: graph ")
    free, kept = [line.split("│")[1:-1] for line in printed.splitlines() if "%" in line]
    assert (free[0].strip(), free[2].strip(), free[4].strip()) == ("1.00", "100%", "1.00x")
    assert kept[0].strip() == "0.80"
    assert float(kept[2].strip(" %")) <= 80
