"""The benchmark of steps against batch, width, depth and cores, on made-up workers."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console

from hornfels.benchmarks import scaling
from hornfels.benchmarks.models import BENCH_MODELS
from hornfels.runtime import bench_measure

SCRIPT = """
import json, os, sys, time
name = sys.argv[1]
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "load":
        time.sleep(0.05)  # until the affinity is set
        if request["batch_size"] == 64 and name == "keras-jax":
            print(json.dumps({"error": "MemoryError: too large"}), flush=True)
            continue
        work = request["batch_size"] / len(os.sched_getaffinity(0))
        answer = {"first": 0.1, "versions": {}, "notes": []}
    else:
        answer = {"seconds": 1e-4 * work * request["steps"], "cpu_seconds": 0.0, "loss": 1.0}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def made_up(monkeypatch):
    command = lambda kind: [sys.executable, "-c", SCRIPT, kind.name]  # noqa: E731
    monkeypatch.setattr(bench_measure, "worker_command", command)


def test_a_page_and_diagrams(made_up, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    few = [s for s in scaling.all_series(2) if s.title in ("mlp: batch", "mlp: cores")]
    monkeypatch.setattr(scaling, "all_series", lambda _: few)
    scaling.main(["--folder", str(tmp_path), "--engines", "tvm,keras-jax"])
    page = (tmp_path / "SCALING.md").read_text()
    assert "## mlp: batch" in page
    assert f"| 64 | {1e-1 * 64 / scaling.cores():.3g} | - |" in page, "keras-jax failed there"
    assert f"| 1 | {1e-1 * 128:.3g} | {1e-1 * 128:.3g} |" in page, "one core was allowed"
    assert "## mlp: cores (batch 128)" in page
    assert "<svg" in (tmp_path / "scaling.svg").read_text()


def test_it_ends_when_the_time_is_over(made_up):
    series = [s for s in scaling.all_series(1) if s.title == "mlp: batch"]
    console = Console(quiet=True)
    assert scaling.measure(series, ["tvm"], -1.0, console) == {}


def test_sizes_change_the_arithmetic_alone():
    for one in scaling.all_series(4):
        model = BENCH_MODELS[one.model]
        work = [model.sized(**p.sizes).train_flops * p.batch_size for p in one.points]
        assert work == sorted(work)
        assert one.what == "cores" or work[0] < work[-1]
    whole = BENCH_MODELS["resnet"]
    assert whole.sized() is whole
