"""The progress display on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hornfels.ir.errors import ArgumentError
from hornfels.runtime.callbacks import CallbackList
from hornfels.runtime.progress import ProgressDisplay, format_logs


def shown(verbose: object, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, legacy_windows=False)
    display = ProgressDisplay(verbose, console)
    hooks = CallbackList([display], None, epochs=2, steps=3)
    hooks.on_train_begin()
    for epoch in range(2):
        hooks.on_epoch_begin(epoch)
        for batch in range(3):
            hooks.on_train_batch_end(batch, {"loss": 0.5})
        hooks.on_epoch_end(epoch, {"loss": 0.25, "accuracy": 0.0001})
    hooks.on_train_end()
    display.close()
    return file.getvalue()


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_plain_lines_where_there_is_no_terminal(verbose):
    lines = shown(verbose, terminal=False).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Epoch 1/2 - ")
    assert lines[1].endswith("ms/step - loss: 0.2500 - accuracy: 1.0000e-04")


def test_a_bar_on_a_terminal():
    text = shown("auto", terminal=True)
    assert "3/3" in text
    assert "loss: 0.2500" in text
    assert "\x1b[" in text


def test_silence():
    assert shown(0, terminal=True) == ""


def test_verbose_is_checked():
    with pytest.raises(ArgumentError, match="verbose"):
        ProgressDisplay(3)


def test_numbers_are_readable():
    assert format_logs({"loss": 12.34567, "lr": 1e-5, "zero": 0.0}) == (
        "loss: 12.3457 - lr: 1.0000e-05 - zero: 0.0000"
    )
