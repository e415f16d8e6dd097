"""The TVM backend: native code on the host, state on aligned buffers that are updated in place.

Kernels assume memory that begins at multiples of 64 bytes and do not check it. So all memory
that they see comes from `aligned_empty`, except inputs that already lie right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..codegen.tvm.lower import Compiled, compile_plan
from ..codegen.tvm.target import parse_target
from ..ir import Graph
from ..ir.errors import ArgumentError, DTypeError, LoweringError, ShapeError
from ..ir.types import TensorType, type_of, u8
from ..passes.pipeline import make_plan, optimize

ALIGNMENT = 64


def aligned_empty(type: TensorType) -> np.ndarray:
    """An uninitialized array that begins at a multiple of 64 bytes.

    Parameters
    ----------
    type : TensorType
        Static.
    """
    return _Blank.of(type).make()


def address_of(array: np.ndarray) -> int:
    """Where an array's memory begins."""
    address: int = array.__array_interface__["data"][0]
    return address


def is_aligned(array: np.ndarray) -> bool:
    """Whether kernels can read an array as it lies."""
    return address_of(array) % ALIGNMENT == 0 and array.flags.c_contiguous


def aligned(array: np.ndarray) -> np.ndarray:
    """`array` itself if kernels can read it, else a copy that they can."""
    if is_aligned(array):
        return array
    copy = aligned_empty(type_of(array))
    copy[...] = array
    return copy


@dataclass(frozen=True)
class _Blank:
    """What is known of an array before it is made, so that making one takes a microsecond."""

    name: str
    type: TensorType
    nbytes: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @staticmethod
    def of(type: TensorType, name: str = "") -> _Blank:
        shape = tuple(int(d) for d in type.shape)
        return _Blank(name, type, type.nbytes, type.dtype.numpy, shape)

    def make(self) -> np.ndarray:
        block = np.empty(self.nbytes + ALIGNMENT, np.uint8)
        start = -address_of(block) % ALIGNMENT
        return np.ndarray(self.shape, self.dtype, block.data, start)

    def require(self, array: np.ndarray) -> None:
        """Refuse an array of another dtype or shape."""
        if array.dtype != self.dtype:
            raise DTypeError(f"{self.name} must be {self.type}, got {type_of(array)}")
        if array.shape != self.shape:
            raise ShapeError(f"{self.name} must be {self.type}, got {type_of(array)}")


class TvmState:
    """State in aligned host memory; kernels write to it."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self.version = 0
        """Grows whenever an array takes another place in memory."""

    def read(self, name: str) -> np.ndarray:
        """A copy of the array."""
        return np.array(self._arrays[name])

    def write(self, name: str, array: np.ndarray) -> None:
        """Create the array, or overwrite it where it lies if shape and dtype stay."""
        held, wanted = self._arrays.get(name), type_of(np.asarray(array))
        if held is None or type_of(held) != wanted:
            held = self._arrays[name] = aligned_empty(wanted)
            self.version += 1
        held[...] = array

    def names(self) -> Iterable[str]:
        """The names of all arrays."""
        return self._arrays.keys()

    def array(self, name: str) -> np.ndarray:
        """The array itself, on which kernels work."""
        return self._arrays[name]


class TvmExecutable:
    """A compiled graph; a run is one native call.

    A run checks everything before the call, and the call itself cannot fail, so a run that
    raises leaves the state as it was. Two threads must not run one executable at once: they
    would share its arena.
    """

    def __init__(self, graph: Graph, compiled: Compiled) -> None:
        self.graph = graph
        self.plan = compiled.plan
        self.program = compiled.program
        self._arena = aligned_empty(TensorType(u8, (compiled.arena_bytes,)))
        self._constants = [aligned(array) for array in compiled.plan.constants]
        self._inputs = [_Blank.of(v.type, v.name) for v in graph.inputs]
        self._outputs = [_Blank.of(v.type) for v in graph.outputs]
        self._located: tuple[TvmState, int] | None = None
        self._state_pointers: list[int] = []

    @property
    def peak_bytes(self) -> int:
        """Bytes of the arena, the workspace of kernels included: what is allocated."""
        return self._arena.nbytes

    def __call__(self, state: TvmState, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; outputs are fresh arrays, updates are applied to `state`."""
        given = [self._input(blank, inputs) for blank in self._inputs]
        state_pointers = self._locate(state)
        outputs = [blank.make() for blank in self._outputs]
        pointers = [
            address_of(self._arena),
            *map(address_of, given),
            *state_pointers,
            *map(address_of, outputs),
            *map(address_of, self._constants),
        ]
        self.program.run(pointers[: self.program.pointers])
        return dict(zip(self.graph.output_names, outputs, strict=True))

    def _input(self, blank: _Blank, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        if blank.name not in inputs:
            raise ArgumentError(
                f"graph {self.graph.name}: input {blank.name!r} is missing, "
                f"got {', '.join(inputs) or 'none'}"
            )
        array = np.asarray(inputs[blank.name])
        blank.require(array)
        return aligned(array)

    def _locate(self, state: TvmState) -> list[int]:
        """Addresses of the state's arrays, looked up again only if one has moved."""
        if self._located is None or self._located != (state, state.version):
            held = set(state.names())
            for value in self.graph.state:
                if value.name not in held:
                    raise ArgumentError(
                        f"graph {self.graph.name}: state {value.name!r} is not on the device"
                    )
                _Blank.of(value.type, value.name).require(state.array(value.name))
            self._state_pointers = [address_of(state.array(v.name)) for v in self.graph.state]
            self._located = (state, state.version)
        return self._state_pointers


class TvmBackend:
    """Backend `tvm`: optimize, fuse, plan, generate native code, load it into this process.

    Parameters
    ----------
    target : str
        ``cpu`` with options; see `codegen.tvm.target.parse_target`.
    """

    name = "tvm"
    symbolic = False

    def __init__(self, target: str = "cpu") -> None:
        self.target = parse_target(target)

    def state(self) -> TvmState:
        """An empty device state."""
        return TvmState()

    def compile(self, graph: Graph) -> TvmExecutable:
        """Compile a graph of static shapes.

        Raises
        ------
        LoweringError
            If a shape is symbolic or a kernel cannot be expressed.
        """
        if graph.symbols:
            raise LoweringError(f"graph {graph.name}: sizes must be fixed for native code, "
                                f"got symbols {', '.join(graph.symbols)}")  # fmt: skip
        optimized = optimize(graph)
        compiled = compile_plan(make_plan(optimized), self.target)
        return TvmExecutable(optimized, compiled)
