"""The benchmark's engine on made-up workers: order, medians, failures, tables."""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from hornfels.benchmarks.engines import ENGINES
from hornfels.benchmarks.models import BENCH_MODELS, SETS
from hornfels.ir.errors import ArgumentError
from hornfels.runtime import bench, bench_measure
from hornfels.runtime.bench_busy import busy_core, one_busy_core
from hornfels.runtime.bench_measure import (
    Measurement,
    Options,
    Report,
    Worker,
    WorkerError,
    measure,
)
from hornfels.runtime.bench_report import busy_of, facts_of, failures_of, markdown, rows_of, show

# Answers as the real worker does, and writes what it was asked to a file.
SCRIPT = """
import json, sys
name, log = sys.argv[1:]
speed = {"tvm": 0.001, "eager": 0.004}.get(name, 0.002)
for line in sys.stdin:
    request = json.loads(line)
    with open(log, "a") as file:
        print(name, request["do"], request.get("steps", ""), file=file)
    if name == "onnx" and request["do"] == "load":
        answer = {"error": "LookupError: no such layer"}
    elif name == "torch-eager" and request["do"] == "train":
        sys.exit("it broke")
    elif name == "torch-compile" and request["do"] == "train":
        answer = {"seconds": 0.01, "cpu_seconds": 0.01, "loss": float("nan"), "peak": 0.0}
    elif request["do"] == "load":
        answer = {"first": 1.5, "peak": 7e6, "versions": {name: "1.0"}, "notes": ["a note"]}
    else:
        seconds = speed * request["steps"]
        answer = {"seconds": seconds, "cpu_seconds": seconds, "loss": 2.3, "peak": 5e6}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def workers(tmp_path, monkeypatch):
    """Made-up workers for all engines; returns the log of what they were asked."""
    log = tmp_path / "log"
    command = lambda kind: [sys.executable, "-c", SCRIPT, kind.name, str(log)]  # noqa: E731
    monkeypatch.setattr(bench_measure, "worker_command", command)
    monkeypatch.setattr(bench_measure, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(bench_measure, "MATMUL_SIZE", 64)
    monkeypatch.setattr(bench.ENGINES["torch-eager"].__class__, "missing_modules", lambda _: [])
    return log


def parse(*arguments: str) -> Options:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.options_from(parser.parse_args(arguments))


def test_rounds_are_interleaved_and_rotate(workers):
    report = measure(
        Options(models=("mlp",), engines=("tvm", "eager"), rounds=2, round_seconds=0.01)
    )
    tvm, eager = report.measurements
    assert tvm.train == pytest.approx([0.001, 0.001])
    assert eager.predict == pytest.approx([0.004, 0.004])
    assert len(report.foreign_cores) == 8
    assert (tvm.first, tvm.notes, tvm.peak, tvm.load_peak) == (1.5, ["a note"], 5e6, 7e6)
    asked = [line.split() for line in workers.read_text().splitlines()]
    timed = [(name, do, int(steps)) for name, do, *(steps,) in asked[-8:]]
    assert timed == [
        *[("tvm", "train", 10), ("tvm", "predict", 10)],
        *[("eager", "train", 2), ("eager", "predict", 2)],
        *[("eager", "train", 2), ("eager", "predict", 2)],
        *[("tvm", "train", 10), ("tvm", "predict", 10)],
    ]


def test_a_failing_engine_is_reported_and_the_others_go_on(workers):
    engines = ("tvm", "onnx", "torch-eager", "torch-compile")
    report = measure(Options(models=("mlp", "cnn"), engines=engines, rounds=1, round_seconds=0.01))
    for model in ("mlp", "cnn"):
        lines = failures_of(report, model)
        assert lines[0] == "onnx: LookupError: no such layer"
        assert lines[1] == "torch-eager: its process ended with status 1: it broke"
        assert lines[2].startswith("torch-compile: the loss is nan")
        assert [row[0] for row in rows_of(report, model)] == ["tvm"]


def test_what_was_measured_is_told_after_every_model(workers):
    options = Options(models=("mlp", "cnn"), engines=("tvm",), rounds=1, round_seconds=0.01)
    told: list[tuple[tuple[str, ...], str]] = []
    measure(options, after_model=lambda report: told.append((report.models, markdown(report))))
    assert [models for models, _ in told] == [("mlp",), ("mlp", "cnn")]
    assert ["## cnn" in text for _, text in told] == [False, True]


def test_rounds_with_a_busy_core(workers):
    options = Options(models=("mlp",), engines=("tvm",), rounds=2, round_seconds=0.01, busy=True)
    report = measure(options)
    (tvm,) = report.measurements
    assert len(tvm.train) == len(tvm.busy_train) == len(tvm.busy_predict) == 2
    assert len(report.foreign_cores) == 4  # of the quiet rounds
    tvm.busy_train = [0.003, 0.0025]
    line = "tvm: with one core busy, 2.75 ms (2.75x) a training step, 1.00 ms (1.00x) a prediction"
    assert busy_of(report, "mlp") == [line]
    assert line in markdown(report)
    assert f"on core {busy_core()}" in markdown(report)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux pins processes to cores")
def test_a_busy_core_is_busy_while_the_block_runs():
    with one_busy_core():
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        (child,) = [int(c) for c in children if os.sched_getaffinity(int(c)) == {busy_core()}]
        before = _ticks(child)
        time.sleep(0.2)
        assert _ticks(child) > before
    assert not Path(f"/proc/{child}").exists()


def _ticks(process: int) -> int:
    """Processor time that a process has used, in Linux' units."""
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")")[-1].split()[11])


def test_a_worker_that_does_not_answer_is_stopped(monkeypatch):
    command = lambda _: [sys.executable, "-c", "import time; time.sleep(60)"]  # noqa: E731
    monkeypatch.setattr(bench_measure, "worker_command", command)
    worker = Worker(ENGINES["tvm"])
    with pytest.raises(WorkerError, match="no answer within 0 s; stopped"):
        worker.ask(0.1, do="load")


def test_what_is_not_installed_is_left_out(workers, monkeypatch):
    kind = bench.ENGINES["keras-tensorflow"].__class__
    monkeypatch.setattr(
        kind, "missing_modules", lambda kind: [m for m in kind.modules if m == "keras"]
    )
    report = measure(Options(models=("mlp",), engines=("tvm", "keras-jax"), rounds=1))
    assert [m.engine for m in report.measurements] == ["tvm"]
    assert "keras-jax: left out, keras not installed." in facts_of(report)


@pytest.fixture
def report() -> Report:
    options = Options(models=("mlp",), engines=("tvm", "torch-eager", "onnx"), batch_size=100)
    measurements = [
        Measurement(
            "tvm", "mlp", [0.002, 0.004, 0.003], [0.001], first=0.5, peak=12e6, load_peak=34e6
        ),
        Measurement("torch-eager", "mlp", [0.006, 0.006, 0.0061], [0.0015], first=0.25),
        Measurement("onnx", "mlp", error="it broke"),
    ]
    # A training step of 100 samples is 0.3213 GFLOP: 3 ms at 107.1 GFLOP/s.
    return Report(options, measurements, {"torch": "2"}, {}, [1e9, 107.1e9], 0.0, [0.1, 0.5, 0.2])


def test_the_table_has_medians_limits_and_ratios(report):
    assert rows_of(report, "mlp") == [
        ("tvm", "3.00 ±17%", "100%", "1.00x", "1.00 ±0%", "125%", "1.00x", "0.50", "12"),
        ("torch-eager", "6.00 ±0%", "50%", "2.00x", "1.50 ±0%", "83%", "1.50x", "0.25", "-"),
    ]


def test_terminal_and_markdown_say_the_same(report):
    stream = io.StringIO()
    show(report, Console(file=stream, width=80))
    printed, document = stream.getvalue(), markdown(report)
    for text in (
        "3.00 ±17%",
        "2.00x",
        "onnx: it broke",
        "built, compiled and first run: tvm 34 MB",
        "107 GFLOP/s",
        "torch 2",
        "0.321 GFLOP",
        "0.20 cores",
    ):
        assert text in printed
        assert text in document
    assert "…" not in printed, "the table must fit 80 columns"
    assert "| torch-eager | 6.00 ±0% | 50% | 2.00x |" in document


def test_batches_are_those_of_the_models():
    options = Options()
    assert options.batches_of(BENCH_MODELS["cnn"]) == (128, 128)
    assert options.batches_of(BENCH_MODELS["resnet50"]) == (8, 1)
    assert Options(batch_size=4).batches_of(BENCH_MODELS["resnet50"]) == (4, 1)


def test_options():
    assert parse() == Options()
    options = parse("--models", "cnn,mlp", "--backends", "tvm", "--peers", "none", "--rounds", "3")
    assert (options.models, options.engines, options.rounds) == (("cnn", "mlp"), ("tvm",), 3)
    assert parse("--models", "large,mlp,unet").models == (*SETS["large"], "mlp")
    assert parse("--policy", "mixed_bfloat16").policy == "mixed_bfloat16"
    assert parse("--busy").busy
    assert parse("--peers", "torch-eager").engines == ("eager", "onnx", "tvm", "torch-eager")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "vgg"), "--models must be of mlp, cnn, .*, small, large, all, got 'vgg'"),
        (("--peers", "tvm"), "--peers must be of keras-jax, .*, got 'tvm'"),
        (
            ("--backends", "torch-eager"),
            "--backends must be of eager, onnx, tvm, got 'torch-eager'",
        ),
        (("--rounds", "0"), "--rounds must be positive, got 0"),
        (("--batch-size", "-1"), "--batch-size must be positive, got -1"),
        (("--round-seconds", "nan"), "--round-seconds must be positive, got nan"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        parse(*arguments)
