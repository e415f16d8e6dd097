"""CompiledFunction: a function bound to a backend, its variables on the device."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping
from types import MethodType
from typing import Any, Protocol

import numpy as np

from ..codegen.native.fork import renew_in_children
from ..ir import Graph
from ..ir.errors import ArgumentError, ShapeError
from ..ir.evaluate import match_type
from ..ir.types import TensorType, type_of
from .executable import DEFAULT_BACKEND, DEFAULTS, Backend, BackendOptions, Executable, make_backend
from .session import Device, Variable


class Signature(Protocol):
    """What a trace depends on; hashable."""

    def __hash__(self) -> int: ...


class Traced(Protocol):
    """A traced function."""

    graph: Graph
    variables: Mapping[str, Variable]

    def unpack(self, outputs: Mapping[str, np.ndarray]) -> Any:
        """The results in the nest that the function returned."""


class Traceable(Protocol):
    """What the runtime needs of a function."""

    function: Any
    name: str
    declared: Signature | None

    def arrange(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Signature, dict[str, np.ndarray]]:
        """The signature of a call, and its arrays by name."""

    def trace(self, signature: Any) -> Traced:
        """The graph of the function for a signature."""

    def trace_key(self) -> Any:
        """Changes whenever a trace made before is out of date."""

    def is_traced(self, args: Any, kwargs: Any) -> bool:
        """Whether a call is part of a larger program, which then takes the function in."""


class Program:
    """One traced function and its executables by the sizes of its open dimensions."""

    def __init__(self, traced: Traced, backend: Backend) -> None:
        self.traced = traced
        self._backend = backend
        self._executables: dict[tuple[tuple[str, int], ...], Executable] = {}

    @property
    def graph(self) -> Graph:
        return self.traced.graph

    def executable(self, sizes: Mapping[str, int]) -> Executable:
        """The executable for these sizes; a symbolic backend has one for all."""
        key = () if self._backend.symbolic else tuple(sorted(sizes.items()))
        if key not in self._executables:
            self._executables[key] = self._backend.compile(self.graph, dict(key))
        return self._executables[key]

    def sizes(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The sizes of the open dimensions, read off the arguments, which must fit."""
        sizes: dict[str, int] = {}
        types = [type_of(arrays[v.name]) for v in self.graph.inputs]
        for v, found in zip(self.graph.inputs, types, strict=True):
            if v.type != found:
                match_type(v.name, v.type, found, sizes)
        for v, found in zip(self.graph.inputs, types, strict=True):
            wanted = v.type if v.type == found else v.type.substitute(sizes)
            if wanted != found:
                raise ShapeError(f"{v.name} must be {_shown(v.type, wanted)}, got {found}")
        return sizes


def _shown(declared: TensorType, wanted: TensorType) -> str:
    return str(wanted) if declared == wanted else f"{declared}, here {wanted}"


class CompiledFunction:
    """A function whose calls run as compiled programs.

    For arguments of other types it is traced again, as it is when `trainable` of a variable
    changes. Variables that it reads and assigns live on the backend's device from the first call
    on, and can still be read and assigned; random numbers advance from call to call. Within
    another traced function, or on symbolic tensors, a call is that of the plain function.

    Several threads may call it; calls run one after the other.

    Parameters
    ----------
    function : PythonFunction
    backend : {"tvm", "onnx", "eager"}
    options : BackendOptions
        See `hornfels.compile`.
    """

    def __init__(
        self,
        function: Traceable,
        backend: str = DEFAULT_BACKEND,
        options: BackendOptions = DEFAULTS,
    ) -> None:
        self.backend = make_backend(backend, options)
        self.device = Device(self.backend.state())
        self._function = function
        self._programs: dict[Any, Program] = {}
        self._last: Signature | None = function.declared
        self.forked()
        renew_in_children(self)
        functools.update_wrapper(self, function.function, updated=())

    def forked(self) -> None:
        """Have a lock that no thread of the parent process holds."""
        self._lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run once; results are arrays in the nest that the function returns."""
        if self._function.is_traced(args, kwargs):
            return self._function.function(*args, **kwargs)
        with self._lock:
            signature, arrays = self._function.arrange(args, kwargs)
            program = self._program(signature)
            executable = program.executable(program.sizes(arrays))
            self.device.hold(program.traced.variables)
            outputs = executable(self.device.state, arrays)
        return program.traced.unpack(outputs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: the instance becomes the first argument, which is part of the program."""
        return self if instance is None else MethodType(self, instance)

    def _program(self, signature: Signature) -> Program:
        key = (signature, self._function.trace_key())
        if key not in self._programs:
            self._programs[key] = Program(self._function.trace(signature), self.backend)
        self._last = signature
        return self._programs[key]

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """The traced, unoptimized IR for the specs or for example arguments.

        Without either, that of the last call.
        """
        return self._chosen(args, kwargs).graph

    def export(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write the function as a plain ONNX model.

        Variables that it only reads are weights inside. If it assigns any, all its variables are
        inputs with their values as defaults, and each that it assigns has an output `new/<name>`.
        Inputs are named after the arguments (`x`, `x/0`, `x/key` in nests), outputs `output`,
        `output/0`, `output/key`. Open dimensions stay open.

        Parameters
        ----------
        path : path
        *args, **kwargs
            Example arguments, if there are no specs and no call before.
        """
        from ..codegen.onnx.export import export_inference, export_train_step

        traced = self._chosen(args, kwargs).traced
        arrays = {name: variable.numpy() for name, variable in traced.variables.items()}
        writer = export_train_step if traced.graph.updates else export_inference
        writer(traced.graph, arrays, path)

    def _chosen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
        """The program for example arguments, or of the specs or the last call."""
        with self._lock:
            if args or kwargs:
                return self._program(self._function.arrange(args, kwargs)[0])
            if self._last is None:
                raise ArgumentError(
                    f"{self._function.name}: was not called yet, so its types are not known",
                    hint="pass example arguments, or specs to hornfels.compile",
                )
            return self._program(self._last)

    def __repr__(self) -> str:
        return f"<CompiledFunction {self._function.name} on {self.backend.name}>"
