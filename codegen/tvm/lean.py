"""Importing TVM without what it brings along and native code has no use for.

TVM's foundation imports PyTorch where it is installed, which takes more time than compiling a
small model, and TVM imports its graph language Relax. Here, neither is: PyTorch is imported when
somebody asks for it, and so is `tvm.relax`. TVM's sessions on several machines need a library
that it does not load; to try all the same, and make an error of that, takes as long as the rest.
Its devices (CUDA and others) look for ops that are not there: the first such error reads the
symbols of all of TVM, which takes twice as long as the rest. They are loaded with `tvm.relax`.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ...ir.collector import rare_collection
from ..native.tvm_ahead import load_libraries

_RELAX = "tvm.relax"
_AUTOLOAD = "TVM_DEVICE_BACKEND_AUTOLOAD"
_MISSING = ("torch", "torch_c_dlpack_ext", "tvm.runtime.disco")


class _Blank(Loader):
    """Loads a module that holds nothing."""

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


class _Without(MetaPathFinder):
    """For one thread: there is none of `_MISSING`, and Relax is empty."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if threading.get_ident() != self._thread:
            return None
        if name in _MISSING:
            raise ModuleNotFoundError(f"{name} is left out while TVM is imported", name=name)
        return ModuleSpec(name, _Blank(), is_package=True) if name == _RELAX else None


def import_tvm() -> None:
    """Import TVM, unless it is there."""
    if "tvm" in sys.modules:
        return
    load_libraries()
    finder = _Without()
    sys.meta_path.insert(0, finder)
    try:
        with rare_collection(), _without_devices():
            tvm = importlib.import_module("tvm")
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop(_RELAX, None)
    vars(tvm).pop("relax", None)
    vars(tvm)["__getattr__"] = _attribute_of_tvm


@contextmanager
def _without_devices() -> Iterator[None]:
    """Ask TVM to leave its devices out, in the way that it documents."""
    before = os.environ.get(_AUTOLOAD)
    os.environ[_AUTOLOAD] = "0"
    try:
        yield
    finally:
        del os.environ[_AUTOLOAD]
        if before is not None:
            os.environ[_AUTOLOAD] = before


def _attribute_of_tvm(name: str) -> Any:
    """What others find as `tvm.relax`; who asks for that may want TVM's devices as well."""
    if name == "relax":
        devices = importlib.import_module("tvm.backend._autoload_backends")
        devices._AUTO_LOAD_DONE = False
        devices._autoload_backends()
        return importlib.import_module(_RELAX)
    raise AttributeError(f"module 'tvm' has no attribute {name!r}")
