"""`hornfels demo`, as users start it."""

from __future__ import annotations

import re
import subprocess
import sys

import onnx
import pytest


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "hornfels", "demo", "--epochs", "12", "--output", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert found.returncode == 0, found.stderr
    return folder, found.stdout


def test_it_trains_to_97_percent(demo):
    accuracy = float(re.search(r"Held-out accuracy: ([\d.]+)%", demo[1])[1])
    assert accuracy >= 97


def test_it_shows_all_that_it_promises(demo):
    output = demo[1]
    assert "conv2d (Conv2D)" in output
    assert "Epoch 12/12" in output
    for backend in ("eager", "onnx", "tvm"):
        assert re.search(rf"│ {backend} +│ +[\d.]+ │", output)
    assert re.search(r"│ train +│ +\d+ │ +\d+ │ +\d+ │", output)


def test_its_prediction_is_that_of_plain_onnxruntime(demo):
    difference = re.search(r"plain ONNX Runtime's: (\S+)", demo[1].replace("\n", " "))
    assert float(difference[1]) < 1e-5


def test_both_files_are_plain_onnx(demo):
    for name in ("digits.onnx", "digits_train.onnx"):
        model = onnx.load(demo[0] / name)
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
