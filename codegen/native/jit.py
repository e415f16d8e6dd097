"""LLVM's linker in memory, by llvmlite: object code and LLVM IR become functions at addresses."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import threading
from collections.abc import Iterable, Mapping

import llvmlite.binding as llvm

from ...ir.errors import LoweringError

_lock = threading.Lock()
_numbers = itertools.count()
_linker: llvm.LLJIT | None = None


def keep_forever(thing: object) -> None:
    """Never free what threads may run in until the very end of the process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _the_linker() -> llvm.LLJIT:
    global _linker
    with _lock:
        if _linker is None:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            with contextlib.suppress(RuntimeError):  # where it is a part of the C library
                llvm.load_library_permanently("libm.so.6")
            # LLVM's other linker places the sections of an object one by one, and ends the process
            # where free memory for them lies more than 2 GiB apart.
            _linker = llvm.create_lljit_compiler(use_jit_link=True, suppress_errors=True)
            keep_forever(_linker)
        return _linker


def link(
    exports: Iterable[str],
    *,
    objects: Iterable[bytes] = (),
    code: str = "",
    imports: Mapping[str, int] | None = None,
) -> llvm.ResourceTracker:
    """Load object files or LLVM IR into this process.

    Parameters
    ----------
    exports : iterable of str
        Symbols whose addresses are wanted.
    objects : iterable of bytes
        Contents of object files for this machine.
    code : str
        LLVM IR.
    imports : mapping of str to int, optional
        Addresses of symbols that are found nowhere else; the C library's are known.

    Returns
    -------
    llvmlite.binding.ResourceTracker
        A mapping of the exports to addresses, which are valid as long as it lives.

    Raises
    ------
    LoweringError
        If a symbol is missing, or the code is not for this machine.
    """
    builder = llvm.JITLibraryBuilder().add_current_process()
    for each in objects:
        builder.add_object_img(each)
    if code:
        builder.add_ir(code)
    for name, address in (imports or {}).items():
        builder.import_symbol(name, address)
    for name in exports:
        builder.export_symbol(name)
    try:
        return builder.link(_the_linker(), f"hornfels{next(_numbers)}")
    except RuntimeError as error:
        raise LoweringError(f"load: {str(error).strip()}") from error
