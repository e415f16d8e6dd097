"""Which of LLVM's passes kernels go through.

Loops are tiled, unrolled and vectorized when LLVM gets them. Its passes that describe every
address as a function of the loops' counters, and improve on that, take half of its time and make
no kernel faster; neither do passes over several functions, or over branches, of which there are
hardly any. So they are left out. Unrolling, which looks at counters too, is worth its time.

TVM has two doors to LLVM's options. Those of a target hold while one module is compiled and are
taken back then, for all threads at once, which makes errors where several compile. Those of its
Hexagon targets are read once and stay. So a function that does nothing is compiled for a Hexagon
processor; from then on, all that TVM compiles in this process goes through fewer passes.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import tvm
import tvm_ffi
from tvm import tirx

from ..native.ahead import begin

_KNOWN = 22
"""LLVM's version whose options these are; over an option that it does not know it exits."""

_COUNTERS = ("indvars", "loop-load-elim", "loop-idiom", "loop-deletion")
_FUNCTIONS = ("ipsccp", "called-value-propagation", "globalopt", "argpromotion", "deadargelim")
_BRANCHES = (
    "sccp", "correlated-propagation", "jump-threading", "constraint-elimination", "tailcallelim",
    "speculative-execution", "mldst-motion", "callsite-splitting",
)  # fmt: skip
_OTHERS = ("slp-vectorizer", "memcpyopt", "aggressive-instcombine", "libcalls-shrinkwrap")
LEFT_OUT = (*_COUNTERS, *_FUNCTIONS, *_BRANCHES, *_OTHERS)
"""Names of passes that are left out."""

_LINKER = "tvm.contrib.hexagon.link_shared"
_log = logging.getLogger("hornfels.codegen")
_lock = threading.Lock()
_compiling = threading.Lock()
_door = contextlib.ExitStack()  # what closes it again
_is_open = _is_set = _done = False


def begin_leaving_out() -> None:
    """Begin what `leave_out_passes` does in a thread of its own; who calls that waits for it."""
    if not _done:
        _open()
        begin(_set_options)


def leave_out_passes() -> None:
    """Have LLVM leave passes out, from the first call on and for the whole process.

    It changes TVM's table of functions, which is not guarded, so it belongs before what is
    compiled, and into the thread that compiles.
    """
    global _done
    if not _done:
        _open()
        _set_options()
        with _lock:
            if not _done:
                _door.close()
                _done = True


def _open() -> None:
    global _is_open
    with _lock:
        if not _is_open:
            _door.enter_context(_linker())
            _is_open = True


def _options() -> list[str]:
    options = [f"-opt-disable={name}" for name in LEFT_OUT]
    # Processors of this kind add a register, a scaled one and a number in any address.
    return [*options, "-disable-lsr"] if platform.machine() in ("x86_64", "AMD64") else options


def _set_options() -> None:
    """Compile nothing for Hexagon, once; the door is open."""
    global _is_set
    with _compiling:
        if _is_set:
            return
        compile_hexagon = tvm.get_global_func("target.build.hexagon", allow_missing=True)
        version = int(tvm.get_global_func("target.llvm_version_major")())
        if compile_hexagon is not None and version == _KNOWN:
            description = {"kind": "hexagon", "mtriple": "hexagon", "mcpu": "hexagonv68"}
            target = tvm.target.Target({**description, "llvm-options": _options()})
            try:
                compile_hexagon(tvm.IRModule({}), target)
            except RuntimeError as error:  # it costs time, not results
                _log.info("LLVM goes through all of its passes: %s", error)
        _is_set = True


@contextlib.contextmanager
def _linker() -> Iterator[None]:
    """Stand in for the linker that TVM calls for Hexagon code; the files vanish at the end."""
    paths: list[Path] = []

    def link(target: str, objects: Iterable[tirx.StringImm], options: object) -> int:
        paths.extend(map(Path, (target, *(each.value for each in objects))))
        paths[0].touch()
        return 0

    before = tvm.get_global_func(_LINKER, allow_missing=True)
    tvm_ffi.register_global_func(_LINKER, link, override=True)
    try:
        yield
    finally:
        tvm_ffi.registry.remove_global_func(_LINKER)
        if before is not None:
            tvm_ffi.register_global_func(_LINKER, before)
        for path in paths:
            path.unlink(missing_ok=True)
