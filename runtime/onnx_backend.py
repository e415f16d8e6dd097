"""The ONNX backend: graphs run by stock ONNX Runtime on the CPU, state kept between runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import count
from typing import Any, TypeVar

import numpy as np

from ..codegen.onnx.bake import bake
from ..codegen.onnx.emit import PROTO
from ..codegen.onnx.lower import NEW, lower
from ..codegen.onnx.prepare import prepare
from ..ir import Graph
from ..ir.errors import ArgumentError, BackendError, ShapeError
from ..ir.evaluate import match_type
from ..ir.types import TensorType, as_dtype, f64, type_of
from .executable import OPEN

try:
    import onnxruntime as ort
except ImportError:
    raise BackendError('backend "onnx" needs ONNX Runtime: pip install "hornfels[cpu]"') from None

Result = TypeVar("Result")
_KEPT_BINDINGS = 8
"""Bindings that a session keeps, one for each arrangement of the state's buffers."""

_WORTHWHILE = 3
"""Runs with the same weights that make up for a session with the weights inside."""

_VERSIONS = count()


@cache
def _worker() -> ThreadPoolExecutor:
    """The one thread on which sessions are made and run.

    Moments that decay towards zero become denormals, which make an optimizer's pass ten times
    slower, so sessions flush them. ONNX Runtime sets that on the thread that makes a session
    and leaves it set, where it would change NumPy's results too; hence a thread of its own.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="hornfels-onnx")


def _on_worker(function: Callable[..., Result], *arguments: Any) -> Result:
    return _worker().submit(function, *arguments).result()


@dataclass(eq=False)
class Buffer:
    """A host array and the same memory as ONNX Runtime sees it."""

    array: np.ndarray
    value: Any = field(init=False)

    def __post_init__(self) -> None:
        dtype = as_dtype(self.array.dtype)
        if dtype.name == "bf16":  # a type that ONNX Runtime cannot take from NumPy
            bits = self.array.view(np.uint16)
            make = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
            self.value = make(bits, PROTO[dtype.name])
        else:
            self.value = ort.OrtValue.ortvalue_from_numpy(self.array)


class OnnxState:
    """State in pairs of buffers: a run reads one of a pair and writes the other.

    ONNX Runtime may run an update before the last reader of the old value, so state is never
    written in place. After a run that succeeded the pairs swap.
    """

    def __init__(self) -> None:
        self.current: dict[str, Buffer] = {}
        self.spare: dict[str, Buffer] = {}
        self.versions: dict[str, int] = {}

    def read(self, name: str) -> np.ndarray:
        return self.current[name].array.copy()

    def write(self, name: str, array: np.ndarray) -> None:
        array = np.asarray(array)
        held = self.current.get(name)
        if held is None or type_of(held.array) != type_of(array):
            self.current[name] = Buffer(np.array(array, order="C"))
            self.spare.pop(name, None)
        else:
            np.copyto(held.array, array)
        self.versions[name] = next(_VERSIONS)

    def forget(self, name: str) -> None:
        self.current.pop(name, None)
        self.spare.pop(name, None)
        self.versions.pop(name, None)

    def names(self) -> Iterable[str]:
        return self.current

    def target(self, name: str) -> Buffer:
        """The buffer that the next update of `name` goes to."""
        if name not in self.spare:
            held = self.current[name].array
            self.spare[name] = Buffer(np.empty(held.shape, held.dtype))
        return self.spare[name]

    def swap(self, names: Iterable[str]) -> None:
        """Make the updates of a run the current values."""
        for name in names:
            self.current[name], self.spare[name] = self.spare[name], self.current[name]
            self.versions[name] = next(_VERSIONS)


class Program:
    """A graph in a session, and its bindings to the buffers of a state."""

    def __init__(self, graph: Graph, model: bytes, threads: int) -> None:
        self.graph = graph
        self._updated = tuple(old.name for old, _ in graph.updates)
        self._session = _on_worker(_session, model, threads, _inexact_fusions(graph))
        self._bindings: dict[tuple[int, ...], tuple[Any, tuple[Buffer, ...]]] = {}

    def run(
        self, state: OnnxState, given: Sequence[Buffer], sizes: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        binding = self._binding(state)
        for v, buffer in zip(self.graph.inputs, given, strict=True):
            binding.bind_ortvalue_input(v.name, buffer.value)
        outputs: dict[str, Buffer] = {}
        for name, v in zip(self.graph.output_names, self.graph.outputs, strict=True):
            shape = [int(d) for d in v.type.substitute(sizes).shape]
            outputs[name] = Buffer(np.empty(shape, v.dtype.numpy))
            binding.bind_ortvalue_output(name, outputs[name].value)
        _on_worker(self._session.run_with_iobinding, binding)
        state.swap(self._updated)
        return {name: buffer.array for name, buffer in outputs.items()}

    def _binding(self, state: OnnxState) -> Any:
        """A binding with the state's buffers, made anew only if they are not those of before."""
        read = [state.current[v.name] for v in self.graph.state]
        written = [state.target(name) for name in self._updated]
        key = tuple(map(id, read + written))
        if key not in self._bindings:
            if len(self._bindings) >= _KEPT_BINDINGS:
                self._bindings.clear()
            binding = self._session.io_binding()
            for v, buffer in zip(self.graph.state, read, strict=True):
                binding.bind_ortvalue_input(v.name, buffer.value)
            for name, buffer in zip(self._updated, written, strict=True):
                binding.bind_ortvalue_output(NEW + name, buffer.value)
            self._bindings[key] = binding, (*read, *written)  # ids stay taken while these live
        return self._bindings[key][0]


class OnnxExecutable:
    """A graph in ONNX Runtime; it serves every size of the graph's symbolic dimensions.

    State that the graph only reads (the weights of a prediction) is baked into a session of its
    own: ONNX Runtime orders constant weights for its convolutions, which makes them twice as
    fast. When the weights change that session is made again, unless it was hardly used.
    """

    peak_bytes = 0  # ONNX Runtime plans its memory by itself and does not tell

    def __init__(self, graph: Graph, threads: int) -> None:
        self.graph = prepare(graph)
        self._threads = threads
        self._model = lower(self.graph).SerializeToString()
        updated = {old for old, _ in graph.updates}
        kept = [v for v in self.graph.state if v not in updated]
        self._frozen = tuple(v.name for v in kept) if any(v.ndim > 1 for v in kept) else ()
        self._baked: tuple[tuple[int, ...], Program] | None = None
        self._last: tuple[int, ...] = ()  # versions of the frozen state at the last run
        self._runs = _WORTHWHILE  # runs since the frozen state changed

    def __call__(self, state: OnnxState, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes: dict[str, int] = {}
        given = [_given(v.name, v.type, inputs, sizes) for v in self.graph.inputs]
        for v, buffer in zip(self.graph.inputs, given, strict=True):
            expected = v.type.substitute(sizes)  # compound sizes such as 2*N
            if expected != type_of(buffer.array):
                raise ShapeError(f"{v.name} must be {expected}, got {type_of(buffer.array)}")
        return self._program(state).run(state, given, sizes)

    @cached_property
    def _general(self) -> Program:
        return Program(self.graph, self._model, self._threads)

    def _program(self, state: OnnxState) -> Program:
        """The session to run: with the frozen state inside if that is worth making it."""
        if not self._frozen:
            return self._general
        versions = tuple(state.versions[name] for name in self._frozen)
        short_lived = self._runs < _WORTHWHILE
        if versions != self._last:
            self._last, self._runs = versions, 0
            if short_lived:
                return self._general
        self._runs += 1
        if self._baked is not None and self._baked[0] == versions:
            return self._baked[1]
        if short_lived and self._runs < _WORTHWHILE:
            return self._general
        arrays = {name: state.current[name].array for name in self._frozen}
        graph, names = bake(self.graph, arrays)
        model = lower(graph, constant_names=names).SerializeToString()
        self._baked = versions, Program(graph, model, self._threads)
        return self._baked[1]


def _given(
    name: str, type: TensorType, inputs: Mapping[str, np.ndarray], sizes: dict[str, int]
) -> Buffer:
    """An input that fits, in row-major order; reads the sizes of symbols off it."""
    if name not in inputs:
        raise ArgumentError(f"input {name}: {type} is missing")
    array = np.asarray(inputs[name], order="C")
    match_type(name, type, type_of(array), sizes)
    if not array.flags.writeable:
        array = array.copy()  # ONNX Runtime takes no read-only memory
    return Buffer(array)


def _inexact_fusions(graph: Graph) -> list[str]:
    """ONNX Runtime's optimizations that cost digits: a factor that it moves into a product of
    f64 becomes an attribute, which is f32."""
    is_double = any(v.dtype == f64 for n in graph.nodes for v in n.outputs)
    return ["MatMulScaleFusion"] if is_double else []


def _session(model: bytes, threads: int, disabled: list[str]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # warnings are about the user's model, which is checked
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return ort.InferenceSession(
        model, options, ["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OnnxBackend:
    """Backend `onnx`: stock ONNX Runtime.

    Parameters
    ----------
    threads : int, optional
        Threads within one operator; the cores that the process may use by default.
    """

    name = "onnx"
    symbolic = True

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or _cores()

    def state(self) -> OnnxState:
        return OnnxState()

    def compile(self, graph: Graph, sizes: Mapping[str, int] = OPEN) -> OnnxExecutable:
        return OnnxExecutable(graph.specialize(sizes), self.threads)
