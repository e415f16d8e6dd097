"""Native code as bytes, and as a program that is loaded and runs."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.settings import current_settings
from . import jit
from .fork import renew_in_children
from .pool import pool_of
from .processor import host_processor

ENTRY = "hornfels_entry"
"""The function that runs a program; it gets the address of a table of base pointers."""

_LAUNCH = "__TVMBackendParallelLaunch"  # a variable of object code that has parallel loops


Table = ctypes.Array[ctypes.c_int64]
"""Base pointers as native code reads them."""


def make_table(pointers: Sequence[int]) -> Table:
    """A table that begins with these pointers, long enough for native code to be handed it."""
    return (ctypes.c_int64 * max(1, len(pointers)))(*pointers)


@dataclass(frozen=True)
class NativeCode:
    """Machine code of a program, which can be stored and loaded by a process of this machine.

    Parameters
    ----------
    objects : tuple of bytes
        Object files, which refer to one another.
    pointers : int
        Length of the table of base pointers.
    threads : int
        Threads that its parallel loops are meant for, the calling one included.
    """

    objects: tuple[bytes, ...]
    pointers: int
    threads: int

    @property
    def nbytes(self) -> int:
        """Size of all objects."""
        return sum(map(len, self.objects))


class NativeProgram:
    """Machine code of a program, loaded in this process.

    A call gives up Python's lock while it computes. Calls from several threads wait for each
    other, for they would work in the same memory.

    Parameters
    ----------
    code : NativeCode

    Attributes
    ----------
    lock : threading.Lock
        Held while the program runs.
    """

    def __init__(self, code: NativeCode) -> None:
        self.code = code
        self.pointers = code.pointers
        launches = any(_LAUNCH.encode() in each for each in code.objects)
        exports = (ENTRY, _LAUNCH) if launches else (ENTRY,)
        self._library = jit.link(exports, objects=code.objects)
        pool = pool_of(code.threads)
        if launches:
            ctypes.c_void_p.from_address(self._library[_LAUNCH]).value = pool.launch
        self._run = pool.run
        self._entry = self._library[ENTRY]
        flush = host_processor().flush
        self._clear = (1 << 64) - 1 & ~flush
        self._set = flush if current_settings().denormals == "flush" else 0
        self.lock = threading.Lock()
        renew_in_children(self)

    def run(self, pointers: Sequence[int]) -> None:
        """Run all calls in order.

        Parameters
        ----------
        pointers : sequence of int
            The base pointers, each aligned to 64 bytes; neither count nor alignment of a
            wrong one is checked by the code itself, only the count is checked here.
        """
        if len(pointers) != self.pointers:
            raise ValueError(f"run: needs {self.pointers} pointers, got {len(pointers)}")
        table = make_table(pointers)
        with self.lock:
            self.start(table)

    def start(self, table: Table) -> None:
        """Run all calls in order on a table made by `make_table`; the caller holds `lock`.

        The table begins with as many pointers as the program has; it may be used again.
        """
        self._run(self._entry, table, self._clear, self._set)

    def __call__(self, pointers: Sequence[int]) -> None:
        self.run(pointers)

    def forked(self) -> None:
        """Have a lock that no thread of the parent process holds."""
        self.lock = threading.Lock()


def load(code: NativeCode) -> NativeProgram:
    """Load machine code into this process; without TVM.

    Whether denormal numbers are kept is the setting `denormals` of this moment.

    Raises
    ------
    LoweringError
        If the code is not for this machine, or refers to what is not there.
    """
    return NativeProgram(code)
