"""Python's garbage collector while graphs are made, which are many objects that stay."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 200_000
"""Objects that are made between two collections: tens of megabytes of garbage at most."""


@contextmanager
def rare_collection() -> Iterator[None]:
    """Inside, the collector looks for cycles rarely.

    By default it looks at all young objects after every 700 that are made, and often at all that
    there are, which takes a quarter of the time of tracing and rewriting a graph.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


_lock = threading.Lock()
_inside = 0
_before = gc.get_threshold()


def _enter() -> None:
    """The first thread inside notes the thresholds, which all threads share."""
    global _inside, _before
    with _lock:
        if not _inside:
            _before = gc.get_threshold()
            if 0 < _before[0] < YOUNG:
                gc.set_threshold(YOUNG, *_before[1:])
        _inside += 1


def _leave() -> None:
    """The last one brings them back."""
    global _inside
    with _lock:
        _inside = max(0, _inside - 1)
        if not _inside:
            gc.set_threshold(*_before)


def _forked() -> None:
    """None of the threads inside is in a child process, but perhaps the one that forked."""
    global _lock, _inside
    _lock = threading.Lock()
    if _inside:
        _inside = 0
        gc.set_threshold(*_before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
