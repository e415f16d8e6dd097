"""What a backend is: three protocols, and the registry of the backends that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Protocol

import numpy as np

from ..ir import Graph
from ..ir.errors import BackendError

OPEN: Mapping[str, int] = MappingProxyType({})
"""The sizes of a graph that is compiled as it is."""


class State(Protocol):
    """Arrays that stay on the device between runs, by the names of the graphs' state."""

    def read(self, name: str) -> np.ndarray:
        """A copy of the array, on the host."""

    def write(self, name: str, array: np.ndarray) -> None:
        """Create the array, or replace it by one of the same shape and dtype."""

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


def _eager(target: str) -> Backend:
    from .eager import EagerBackend

    _only_cpu("eager", target)
    return EagerBackend()


def _tvm(target: str) -> Backend:
    from .tvm_backend import TvmBackend

    return TvmBackend(target)


def _onnx(target: str) -> Backend:
    _only_cpu("onnx", target)
    try:
        import_module("onnxruntime")
    except ImportError:
        raise BackendError(
            'backend "onnx" needs ONNX Runtime: pip install "hornfels[cpu]"'
        ) from None
    from .onnx_backend import OnnxBackend

    return OnnxBackend()


BACKENDS: dict[str, Callable[[str], Backend]] = {"tvm": _tvm, "onnx": _onnx, "eager": _eager}
DEFAULT_BACKEND = "tvm"


def _only_cpu(backend: str, target: str) -> None:
    if target != "cpu":
        raise BackendError(f'backend "{backend}" runs on target "cpu" only, got {target!r}')


def make_backend(name: str, target: str = "cpu") -> Backend:
    """The backend of that name for a target.

    Raises
    ------
    BackendError
        If the name is none of `BACKENDS`, the target is not one of the backend's, or something
        that it needs is not installed; the message says what to choose or install.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name](target)
