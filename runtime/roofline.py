"""What this machine can do at best, measured: the roof that kernels are compared with.

Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model".
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..ir import Builder, Graph
from ..ir.types import f32
from ..passes.work import Work
from .executable import BackendOptions
from .tvm_backend import TvmBackend

_PRODUCT = 1024
"""Rows, columns and terms of the matrix product that stands for all arithmetic."""
_SECONDS = 0.15
_SIMPLE = 2
"""A multiply-add counts as two operations, and one simple operation takes as long."""


@dataclass(frozen=True)
class Roofline:
    """Best rates of all threads together.

    Attributes
    ----------
    flops : float
        Operations a second of large f32 matrix products.
    bandwidths : tuple of (int, float)
        Bytes of a working set, and the bytes a second that are read and written by a kernel
        that works on so many; the sets grow, the last one holds for all that is larger.
    """

    flops: float
    bandwidths: tuple[tuple[int, float], ...]

    def bandwidth(self, nbytes: int) -> float:
        """Bytes a second for a working set of `nbytes`."""
        for size, rate in self.bandwidths:
            if nbytes <= size:
                return rate
        return self.bandwidths[-1][1]

    def seconds(self, work: Work) -> float:
        """The least time that work can take."""
        arithmetic = (work.flops + _SIMPLE * work.operations) / self.flops
        return max(arithmetic, work.nbytes / self.bandwidth(work.nbytes))

    def bound(self, work: Work) -> str:
        """What the least time comes from: "arithmetic" or "memory"."""
        arithmetic = (work.flops + _SIMPLE * work.operations) / self.flops
        return "memory" if work.nbytes / self.bandwidth(work.nbytes) > arithmetic else "arithmetic"


@cache
def host_roofline(target: str = "cpu") -> Roofline:
    """Measure this machine, in about a second, with programs of our own.

    Parameters
    ----------
    target : str
        As for `hornfels.compile`.
    """
    backend = TvmBackend(BackendOptions(target))
    machine = backend.target.machine
    near = machine.l2 * machine.cores
    far = max(machine.l3, near)
    sizes = sorted({near, far, 4 * max(far, 16 << 20)})
    # A working set fills half of the cache that it is said to fit.
    rates = tuple((size, _copy_rate(backend, size // 2)) for size in sizes)
    return Roofline(2 * _PRODUCT**3 / _best(backend, _product()), rates)


def _product() -> Graph:
    with Builder("product") as builder:
        a, b = (builder.input(name, f32(_PRODUCT, _PRODUCT)) for name in "ab")
        return builder.finish({"y": a @ b})


def _copy_rate(backend: TvmBackend, nbytes: int) -> float:
    """Bytes a second of a kernel that reads and writes one array, in place."""
    elements = nbytes // f32(1).nbytes
    with Builder("scale") as builder:
        x = builder.variable("x", f32(elements))
        graph = builder.finish({}, [(x, x + 1.0)])
    return 2 * nbytes / _best(backend, graph)


def _best(backend: TvmBackend, graph: Graph) -> float:
    """Seconds of the only kernel of a graph: the least of many runs."""
    executable = backend.compile_timed(graph)
    inputs = {v.name: np.ones(v.shape, v.dtype.numpy) for v in graph.inputs}
    state = backend.state()
    for value in graph.state:
        state.write(value.name, np.ones(value.shape, value.dtype.numpy))
    end, best = time.perf_counter() + _SECONDS, np.inf
    while time.perf_counter() < end:
        executable(state, inputs)
        ((_, times),) = executable.times()
        best = min(best, float(times[0, 1] - times[0, 0]))
    return best / 1e9
