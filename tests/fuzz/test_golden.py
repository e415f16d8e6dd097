"""What the fuzzer has found stays fixed: each file of golden/fuzz agrees on all backends."""

from __future__ import annotations

from pathlib import Path

import pytest

from hornfels.fuzz.campaign import read_replay
from hornfels.fuzz.command import replayed
from hornfels.fuzz.variants import BACKENDS
from hornfels.ir import parse, verify

FOLDER = Path(__file__).parents[1] / "golden" / "fuzz"
FILES = sorted(FOLDER.glob("*.ir"))


def test_there_are_goldens():
    assert FILES


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in FILES])
def test_all_backends_agree(path, worker):
    text = path.read_text()
    assert text.startswith("# "), "the first line says what was wrong"
    assert read_replay(text)["backend"] in BACKENDS
    verify(parse(text))
    verdict = replayed(worker, text, list(BACKENDS))
    assert not verdict.failures, verdict.failures
    assert verdict.ran
    assert not verdict.undefined
