"""What a backend is: three protocols, and the registry of the backends that exist."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Protocol

import numpy as np

from ..ir import Graph
from ..ir.collector import rare_collection
from ..ir.errors import ArgumentError, BackendError

OPEN: Mapping[str, int] = MappingProxyType({})
"""The sizes of a graph that is compiled as it is."""


class State(Protocol):
    """Arrays that stay on the device between runs, by the names of the graphs' state."""

    def read(self, name: str) -> np.ndarray:
        """A copy of the array, on the host."""

    def write(self, name: str, array: np.ndarray) -> None:
        """Create the array, or replace it by one of the same shape and dtype."""

    def forget(self, name: str) -> None:
        """Drop the array, if there is one."""

    def names(self) -> Iterable[str]:
        """The names of all arrays."""


class Executable(Protocol):
    """A compiled graph.

    Attributes
    ----------
    graph : Graph
        What runs: specialized and optimized.
    peak_bytes : int
        Bytes of temporary memory that a run needs beside inputs, outputs and state.
    """

    graph: Graph
    peak_bytes: int

    def __call__(self, state: State, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once: returns the outputs and then applies the updates to `state`.

        A call that raises leaves the state as it was.
        """


class Backend(Protocol):
    """Turns graphs into executables.

    Attributes
    ----------
    name : str
    symbolic : bool
        Whether one executable serves every batch size.
    """

    name: str
    symbolic: bool

    def state(self) -> State:
        """An empty device state."""

    def compile(self, graph: Graph, sizes: Mapping[str, int] = OPEN) -> Executable:
        """Compile a graph for these sizes of its symbols.

        None may be left open unless the backend is `symbolic`.
        """


@dataclass(frozen=True)
class BackendOptions:
    """What native code is made for; the other backends know the defaults alone.

    Attributes
    ----------
    target : str
        See `hornfels.compile`.
    memory_budget : int or None
        Bytes that a step may take, with parameters, state, inputs and outputs.
    tune : float
        Seconds of a measured search for faster kernels, for each step that is compiled.
    """

    target: str = "cpu"
    memory_budget: int | None = None
    tune: float = 0.0

    @staticmethod
    def of(
        target: str = "cpu", memory_budget: int | str | None = None, tune: float = 0.0
    ) -> BackendOptions:
        """As users give them; see `parse_bytes`."""
        if not 0.0 <= tune < math.inf:
            raise ArgumentError(f"tune must be a number of seconds, 0 or more, got {tune!r}")
        budget = None if memory_budget is None else parse_bytes(memory_budget)
        return BackendOptions(target, budget, tune)


DEFAULTS = BackendOptions()


_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{infix}B": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for infix, base in (("", 1000), ("i", 1024))
}


def parse_bytes(amount: int | str) -> int:
    """A number of bytes, given as a number or as a text such as "512MB" or "1.5 GiB".

    Raises
    ------
    ArgumentError
        If it is no such text, or not positive.

    Examples
    --------
    >>> from hornfels.runtime.executable import parse_bytes
    >>> parse_bytes("1.5 KiB"), parse_bytes("2kB"), parse_bytes(64)
    (1536, 2000, 64)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(amount))
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    size = units.get(found[2].lower()) if found else None
    nbytes = int(float(found[1]) * size) if found and size else 0
    if nbytes < 1:
        raise ArgumentError(f"memory_budget must be a number of bytes, or a text with one of the "
                            f"units {', '.join(filter(None, _UNITS))}, got {amount!r}")  # fmt: skip
    return nbytes


def _eager(options: BackendOptions) -> Backend:
    from .eager import EagerBackend

    _require_defaults("eager", options)
    return EagerBackend()


def _tvm(options: BackendOptions) -> Backend:
    from .tvm_backend import TvmBackend

    return TvmBackend(options)


def _onnx(options: BackendOptions) -> Backend:
    _require_defaults("onnx", options)
    try:
        import_module("onnxruntime")
    except ImportError:
        raise BackendError(
            'backend "onnx" needs ONNX Runtime: pip install "hornfels[cpu]"'
        ) from None
    from .onnx_backend import OnnxBackend

    return OnnxBackend()


BACKENDS: dict[str, Callable[[BackendOptions], Backend]] = {
    "tvm": _tvm, "onnx": _onnx, "eager": _eager,
}  # fmt: skip
DEFAULT_BACKEND = "tvm"


def _require_defaults(backend: str, options: BackendOptions) -> None:
    if options.target != "cpu":
        raise BackendError(f'backend "{backend}" runs on target "cpu" only, got {options.target!r}')
    if options != DEFAULTS:
        raise BackendError(f'backend "{backend}" knows no memory budget and no tuning; "tvm" does')


def make_backend(name: str, options: BackendOptions = DEFAULTS) -> Backend:
    """The backend of that name.

    Raises
    ------
    BackendError
        If the name is none of `BACKENDS`, the target is not one of the backend's, or something
        that it needs is not installed; the message says what to choose or install.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    with rare_collection():  # it imports much
        return BACKENDS[name](options)
