"""When a kernel is worth several threads: one estimate and one threshold for all memory loops."""

from __future__ import annotations

from collections.abc import Iterable

from ...ir.graph import Graph, Node
from ...passes.stored import cost
from .target import Machine

PARALLEL_NANOSECONDS = 8_000
"""Serial time from which on a kernel is split over threads. Starting and joining them takes less
than a microsecond while they are awake, and what a thread does not find in its cache comes on top;
kernels of 3 microseconds gain half of what is possible."""

_PER_CACHED_BYTE = 0.03  # nanoseconds of one core whose operands lie in its second-level cache
_PER_STREAMED_BYTE = 0.06  # and farther away
_PER_OPERATION = 0.05  # nanoseconds an element: a vector operation on 16 lanes, with its waits


def serial_nanoseconds(
    elements: int, nodes: Iterable[Node], nbytes: int, machine: Machine
) -> float:
    """Roughly how long one core takes for `nodes` over so many elements and bytes."""
    operations = elements * sum(cost(node) for node in nodes)
    per_byte = _PER_CACHED_BYTE if nbytes <= machine.l2 else _PER_STREAMED_BYTE
    return max(operations * _PER_OPERATION, nbytes * per_byte)


def traffic(body: Graph) -> int:
    """Bytes of the operands and results of a kernel."""
    return sum(v.type.nbytes for v in (*body.inputs, *body.outputs))


def tasks_for(nanoseconds: float, machine: Machine) -> int:
    """Tasks that work of so much serial time is split over; 1 where it is small."""
    return machine.cores if nanoseconds >= PARALLEL_NANOSECONDS else 1
