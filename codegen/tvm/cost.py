"""When a kernel is worth several threads: one estimate and one threshold for all memory loops."""

from __future__ import annotations

from collections.abc import Iterable

from ...ir.graph import Graph, Node
from ...passes.fusion import cost
from .target import Machine

PARALLEL_NANOSECONDS = 25_000
"""Serial time from which on a kernel is split over threads. Starting and joining TVM's spinning
threads takes 3 to 10 microseconds on an idle machine and far more on a busy one."""

_NANOSECONDS_PER_BYTE = 0.08  # of one core that streams through its second-level cache
_NANOSECONDS_PER_OPERATION = 0.05  # one vector operation over 16 lanes at 2 GHz, with its waits


def serial_nanoseconds(elements: int, nodes: Iterable[Node], nbytes: int) -> float:
    """Roughly how long one core takes for `nodes` over so many elements and bytes."""
    operations = elements * sum(cost(node) for node in nodes)
    return max(operations * _NANOSECONDS_PER_OPERATION, nbytes * _NANOSECONDS_PER_BYTE)


def traffic(body: Graph) -> int:
    """Bytes of the operands and results of a kernel."""
    return sum(v.type.nbytes for v in (*body.inputs, *body.outputs))


def tasks_for(nanoseconds: float, machine: Machine) -> int:
    """Tasks that work of so much serial time is split over; 1 where it is small."""
    return machine.cores if nanoseconds >= PARALLEL_NANOSECONDS else 1
