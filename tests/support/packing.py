"""What a packing of buffers is measured by."""

from __future__ import annotations

from collections.abc import Iterable

from hornfels.passes.memory import Buffer
from hornfels.passes.plan import align


def lower_bound(buffers: Iterable[Buffer]) -> int:
    """The most bytes in use at any time: no packing can need less."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        changes[buffer.start] = changes.get(buffer.start, 0) + align(buffer.nbytes)
        changes[buffer.end + 1] = changes.get(buffer.end + 1, 0) - align(buffer.nbytes)
    used = peak = 0
    for time in sorted(changes):
        used += changes[time]
        peak = max(peak, used)
    return peak
