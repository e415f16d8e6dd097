"""TVM's libraries, loaded while Python does something else.

Python keeps its lock while it loads a library, and TVM's compiler takes as long as a quarter of
TVM's import. The C library's own function, called as a foreign one, gives the lock up; when TVM
is imported, its libraries are there.

What they register while they are loaded goes to tables that TVM does not guard, and so does what
its Python modules register. So who imports TVM waits for a thread that loads them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from pathlib import Path

_LIBRARIES = (
    ("tvm_ffi", "libtvm_ffi.so", ctypes.RTLD_GLOBAL),
    ("tvm", "libtvm_runtime.so", ctypes.RTLD_GLOBAL),
    ("tvm", "libtvm_compiler.so", ctypes.RTLD_LOCAL),
)
"""Packages, files in their folder `lib`, and the modes in which the packages load them."""


_lock = threading.Lock()


def load_libraries() -> None:
    """Load TVM's libraries as TVM will; where they lie elsewhere, that is left to TVM."""
    with _lock:
        if "tvm" not in sys.modules:
            _load()


def _load() -> None:
    load = ctypes.CDLL(None).dlopen
    load.argtypes, load.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    for package, name, mode in _LIBRARIES:
        path = _folder(package) / "lib" / name
        if not path.exists() or not load(os.fsencode(path), os.RTLD_NOW | mode):
            return


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else Path()
