"""The threads that parallel loops run on: one pool for each number of threads asked for.

The pool itself is LLVM IR, in `pool.ll`, which says how it works. A process normally has one; a
program that is compiled for another number of threads gets another. Idle workers sleep.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import llvmlite.binding as llvm

from . import jit
from .processor import Processor, host_processor

SPIN_SECONDS = 2e-5
"""How long a thread that waits only looks; then it lets others run on its processor meanwhile."""

WORKER_SECONDS = 1e-3
"""How long it does so before it sleeps if it is a worker: it bridges the serial kernels of a step
and what Python does between two steps, as waking up takes some 50 microseconds."""

CALLER_SECONDS = 5e-5
"""The same for a caller that waits for the last chunks: a worker that takes longer has lost its
processor, and gets the caller's if that sleeps."""

SLEEP_SECONDS = 2e-4
"""How long a caller sleeps before it looks whether a worker has lost its processor meanwhile."""

CHUNKS = 16
"""Chunks for each thread that a loop is cut in at most."""

_MOST_THREADS = 1024
_FAULTS = (4, 5, 6, 7, 8, 11)  # signals of a fault in the thread itself
_EXPORTS = (
    "hornfels_launch", "hornfels_run", "hornfels_forked", "hornfels_set_patience",
    "hornfels_spin", "hornfels_mode",
)  # fmt: skip


class Pool:
    """Threads and the functions that put them to work.

    Parameters
    ----------
    threads : int
        Threads that compute a loop, the calling one included.
    """

    def __init__(self, threads: int) -> None:
        self.threads = min(threads, _MOST_THREADS)
        code = pool_code(self.threads, host_processor(), llvm.get_process_triple())
        self._library = jit.link(_EXPORTS, code=code)
        jit.keep_forever(self._library)  # workers run in it until the process ends
        forked = ctypes.CFUNCTYPE(None)(self._library["hornfels_forked"])
        os.register_at_fork(after_in_child=forked)
        self.set_patience(SPIN_SECONDS, WORKER_SECONDS, CALLER_SECONDS)

    @property
    def launch(self) -> int:
        """Address of the function that runs a parallel loop, as TVM's kernels call it."""
        address: int = self._library["hornfels_launch"]
        return address

    @cached_property
    def run(self) -> Callable[[int, object, int, int], None]:
        """``run(entry, table, clear, set)``; other Python threads run meanwhile.

        The mode of floating-point arithmetic is ``mode & clear | set`` during the call.
        """
        kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
        return ctypes.CFUNCTYPE(None, *kinds)(self._library["hornfels_run"])

    def mode(self) -> int:
        """The mode of floating-point arithmetic of the calling thread."""
        mode: int = ctypes.CFUNCTYPE(ctypes.c_uint64)(self._library["hornfels_mode"])()
        return mode

    def set_patience(self, spin: float, worker: float, caller: float) -> None:
        """Set how many seconds a thread that waits looks, and then lets others run; see above."""
        set_patience = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(
            self._library["hornfels_set_patience"]
        )
        set_patience(int(spin / self._look_seconds), int(worker * 1e9), int(caller * 1e9))

    @cached_property
    def _look_seconds(self) -> float:
        """What one look takes, the best of some tries."""
        spin = ctypes.CFUNCTYPE(None, ctypes.c_int64)(self._library["hornfels_spin"])
        times = []
        for _ in range(5):
            start = time.perf_counter()
            spin(200)
            times.append(time.perf_counter() - start)
        return max(1e-9, min(times) / 200)


def pool_code(threads: int, processor: Processor, triple: str) -> str:
    """The LLVM IR of a pool.

    Parameters
    ----------
    threads : int
        The calling one included.
    processor : Processor
    triple : str
        LLVM's name of the platform.
    """
    blocked = (1 << 64) - 1 & ~sum(1 << signal - 1 for signal in _FAULTS)
    words = [blocked, *[(1 << 64) - 1] * 15]
    most = min(CHUNKS * threads, (1 << 16) - 1)
    numbers = {
        "triple": triple,
        "signals": ", ".join(f"i64 {word - (word >> 63 << 64)}" for word in words),
        "most_chunks": most,
        "most_chunks_less_one": most - 1,
        "workers": threads - 1,
        "futex": processor.futex,
        "sleep": int(SLEEP_SECONDS * 1e9),
    }
    code = Path(__file__).with_name("pool.ll").read_text()
    for name, value in numbers.items():
        code = code.replace(f"<{name}>", str(value))
    return code + processor.code


_lock = threading.Lock()
_pools: dict[int, Pool] = {}


def pool_of(threads: int) -> Pool:
    """The pool of so many threads, made at the first call."""
    with _lock:
        if threads not in _pools:
            _pools[threads] = Pool(threads)
        return _pools[threads]
