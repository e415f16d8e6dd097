"""Python's garbage collector while graphs are made, which are many objects that stay."""

from __future__ import annotations

import gc
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
    before = gc.get_threshold()
    if 0 < before[0] < YOUNG:
        gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
