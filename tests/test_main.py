"""The command line: what it prints, and that wrong input is refused in a line."""

from __future__ import annotations

import pytest

from hornfels import __main__
from hornfels.__main__ import main

MODEL = """
import hornfels as hf
model = hf.Sequential([hf.Input((4,)), hf.layers.Dense(3, activation="relu", name="head")])
def make(): return model
def broken(): raise OSError("no such luck")
def needs(size): return model
other = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["mine.py", "mine.py:make", "mine:model"])
def test_inspect_finds_models(folder, name, capsys):
    assert main(["inspect", name, "--batch-size", "2"]) == 0
    assert "f32[2,3] = relu(" in capsys.readouterr().out


def test_export_writes_a_file(folder, capsys):
    assert main(["export", "mine.py", "new/model.onnx"]) == 0
    assert capsys.readouterr().out.strip() == "new/model.onnx"
    assert (folder / "new" / "model.onnx").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "none.py"], "there is no file none.py"),
        (["inspect", "none_at_all:model"], "module 'none_at_all' cannot be loaded"),
        (["inspect", ":model"], "module '' cannot be loaded"),
        (["inspect", "syntax.py"], "syntax.py cannot be loaded: SyntaxError: invalid syntax"),
        (["inspect", "mine.py:broken"], "mine.py:broken cannot be loaded: OSError: no such luck"),
        (["inspect", "mine.py:broken"], "mine.py:5"),
        (["inspect", "mine.py:needs"], "missing 1 required positional argument"),
        (["inspect", "mine.py:other"], "mine.py:other must be a model, got int"),
        (["inspect", "mine.py:absent"], "mine.py has no attribute 'absent'"),
        (["inspect", "mine.py", "--kind", "train"], "call model.compile"),
        (["export", "mine.py", "mine.py/model.onnx"], "mine.py/model.onnx cannot be written"),
        (["opt", "mine.py", "-p", "nope"], "passes: 'nope' is no pass; there are cse, regions"),
    ],
)
def test_refusals(folder, arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("size", ["0", "-3", "many"])
def test_a_batch_size_is_positive(folder, size, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", "mine.py", f"--batch-size={size}"])
    assert "must be a positive integer" in capsys.readouterr().err


def test_interrupting_ends_quietly(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "load_model", interrupted)
    assert main(["inspect", "mine.py"]) == 130


@pytest.mark.parametrize(
    "arguments",
    [
        ["fuzz", "--minutes=-1"],
        ["fuzz", "--minutes=0"],
        ["fuzz", "--seeds=0", "--timeout=-3"],
        ["fuzz", "--seeds=0", "--threads=0"],
        ["bisect", "mine.py", "--steps=0"],
    ],
)
def test_a_fuzzer_that_would_try_nothing_does_not_start(folder, arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "must be" in capsys.readouterr().err


def test_errors_are_not_broken_into_lines(folder, capsys):
    main(["opt", "a" * 200])
    assert f"there is no file {'a' * 200}\n" in capsys.readouterr().err
