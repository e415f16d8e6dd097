"""The TVM backend: native code on the host, state on aligned buffers that are updated in place.

TVM itself is imported when there is something to compile that the compile cache does not hold.

Kernels assume memory that begins at multiples of 64 bytes and do not check it. So all memory
that they see comes from `aligned_empty` and `Block`, except inputs that already lie right.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Self

import numpy as np

from ..codegen.native.ahead import begin
from ..codegen.native.host import host_cores
from ..codegen.native.memory import give_back
from ..codegen.native.pool import pool_of
from ..codegen.native.program import NativeProgram, Table, load, make_table
from ..codegen.native.tvm_ahead import load_libraries
from ..ir import Graph
from ..ir.collector import rare_collection
from ..ir.errors import ArgumentError, DTypeError, LoweringError, ShapeError
from ..ir.types import TensorType, type_of
from .blocks import ALIGNMENT, Arena, Block, Claim, address_of
from .cache_key import cache_key
from .compile_cache import Compilation, current_cache
from .executable import DEFAULTS, OPEN, BackendOptions

if TYPE_CHECKING:  # they import TVM, or much that a program from the cache does not need
    from ..codegen.tvm.lower import Choices, Compiled
    from ..codegen.tvm.target import Target
    from ..codegen.tvm.timing import Event, Timed
    from ..passes.plan import Plan


def aligned_empty(type: TensorType) -> np.ndarray:
    """An uninitialized array that begins at a multiple of 64 bytes.

    Parameters
    ----------
    type : TensorType
        Static.
    """
    return _Blank.of(type).make()[0]


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

    def make(self) -> tuple[np.ndarray, int]:
        """An aligned array, and where it begins."""
        block = np.empty(self.nbytes + ALIGNMENT, np.uint8)
        address = address_of(block)
        start = -address % ALIGNMENT
        return np.ndarray(self.shape, self.dtype, block.data, start), address + start

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
        self.clock = 0
        """Grows whenever something is written."""
        self._written: dict[str | frozenset[str], int] = {}  # when, by what was written

    def read(self, name: str) -> np.ndarray:
        """A copy of the array."""
        return np.array(self._arrays[name])

    def write(self, name: str, array: np.ndarray) -> None:
        """Create the array, or overwrite it where it lies if shape and dtype stay."""
        held, array = self._arrays.get(name), np.asarray(array)
        if held is None or held.dtype != array.dtype or held.shape != array.shape:
            held = self._arrays[name] = aligned_empty(type_of(array))
            self.version += 1
        held[...] = array
        self._note(name)

    def forget(self, name: str) -> None:
        """Drop the array, if there is one; what kernels worked on is no longer theirs."""
        self._arrays.pop(name, None)
        self._written.pop(name, None)
        self.version += 1

    def touch(self, names: frozenset[str]) -> None:
        """Note that a program writes these arrays where they lie."""
        self._note(names)

    def _note(self, written: str | frozenset[str]) -> None:
        self.clock += 1
        self._written[written] = self.clock

    def changed_since(self, clock: int, names: frozenset[str]) -> bool:
        """Whether one of these arrays was written after that time."""
        return any(
            time > clock
            and (each in names if isinstance(each, str) else not names.isdisjoint(each))
            for each, time in self._written.items()
        )

    def names(self) -> Iterable[str]:
        """The names of all arrays."""
        return self._arrays.keys()

    def array(self, name: str) -> np.ndarray:
        """The array itself, on which kernels work."""
        return self._arrays[name]


@dataclass(frozen=True)
class Face:
    """What a program takes and gives, in the order of its table of pointers."""

    name: str
    inputs: tuple[_Blank, ...]
    state: tuple[_Blank, ...]
    outputs: tuple[_Blank, ...]
    writes: frozenset[str]
    """The state that it updates."""

    @staticmethod
    def of(graph: Graph, sizes: Mapping[str, int] = OPEN) -> Face:
        """That of a graph, optimized or not, for these sizes of its symbols."""
        outputs = zip(graph.output_names, graph.outputs, strict=True)

        def blank(name: str, type: TensorType) -> _Blank:
            return _Blank.of(type.substitute(sizes) if sizes else type, name)

        return Face(
            graph.name,
            tuple(blank(v.name, v.type) for v in graph.inputs),
            tuple(blank(v.name, v.type) for v in graph.state),
            tuple(blank(name, v.type) for name, v in outputs),
            frozenset(old.name for old, _ in graph.updates),
        )

    @property
    def reads(self) -> frozenset[str]:
        """The state that it only reads."""
        return frozenset(blank.name for blank in self.state) - self.writes


class TvmExecutable:
    """A compiled graph; a run is one native call.

    A run checks everything before the call, and the call itself cannot fail, so a run that
    raises leaves the state as it was. Threads that run executables of one arena wait for each
    other; those that share a state as well must know which of them comes first.

    Parameters
    ----------
    face : Face
    program : NativeProgram
        The code of `compilation`, loaded.
    compilation : Compilation
    planned : callable
        Returns the plan that the program was made from, for those who want to look at it.
    arena : Arena, optional
        Where the program works; one of its own by default.
    """

    _more: tuple[int, ...] = ()  # pointers behind those of the graph

    def __init__(
        self,
        face: Face,
        program: NativeProgram,
        compilation: Compilation,
        planned: Callable[[], Plan],
        arena: Arena | None = None,
    ) -> None:
        self.face = face
        self.program = program
        self.compilation = compilation
        self._planned = planned
        self._arena = arena or Arena()
        self._reads = face.reads
        self._claim = Claim(
            compilation.arena_bytes, compilation.prepared_bytes, face.reads, face.writes
        )
        self._constants = [aligned(array) for array in compilation.constants]
        self._prepared_for: tuple[TvmState, int] | None = None  # whose weights, and of when
        self._table = self._blank_table()
        self._located: tuple[TvmState, int] | None = None

    def _blank_table(self) -> Table:
        """Pointers in the order of the program; those of a run are still to come."""
        face = self.face
        runs = 1 + len(face.inputs)
        self._state_begins, self._outputs_begin = runs, runs + len(face.state)
        unknown = [0] * (len(face.inputs) + len(face.state) + len(face.outputs))
        constants = map(address_of, self._constants)
        self._prepared_at = 1 + len(unknown) + len(self._constants)
        return make_table([0, *unknown, *constants, 0, *self._more])

    @classmethod
    def of(cls, compiled: Compiled, arena: Arena | None = None) -> Self:
        """What was compiled here and now."""
        plan = compiled.plan
        compilation = Compilation(
            compiled.program.code, compiled.arena_bytes, plan.constants, compiled.prepared_bytes
        )
        return cls(Face.of(plan.graph), compiled.program, compilation, lambda: plan, arena)

    @cached_property
    def plan(self) -> Plan:
        """Kernels, calls and places in memory."""
        return self._planned()

    @property
    def graph(self) -> Graph:
        """What runs: specialized and optimized."""
        return self.plan.graph

    @property
    def peak_bytes(self) -> int:
        """Bytes that it needs of its arena, which other programs may use between its runs: for
        temporary values, for the workspace of kernels, and for what is prepared."""
        return self._claim.nbytes + self._claim.kept_bytes

    @property
    def prepared_bytes(self) -> int:
        """Bytes of what is computed of weights alone, and kept until a weight changes."""
        return self._claim.kept_bytes

    def __call__(self, state: TvmState, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; outputs are fresh arrays, updates are applied to `state`."""
        given = [self._input(blank, inputs) for blank in self.face.inputs]
        made = [blank.make() for blank in self.face.outputs]
        table = self._table
        with self._arena.lock, self.program.lock:
            self._locate(state)
            self._make_room()
            for place, (_, address) in enumerate(given, 1):
                table[place] = address
            for place, (_, address) in enumerate(made, self._outputs_begin):
                table[place] = address
            clock = self._begin(state)
            self.program.start(table)
            self._prepared_for = (state, clock)
        return {
            blank.name: array for blank, (array, _) in zip(self.face.outputs, made, strict=True)
        }

    def _input(self, blank: _Blank, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, int]:
        """An input as kernels can read it, and where it lies."""
        if blank.name not in inputs:
            raise ArgumentError(
                f"graph {self.face.name}: input {blank.name!r} is missing, "
                f"got {', '.join(inputs) or 'none'}"
            )
        array = np.asarray(inputs[blank.name])
        blank.require(array)
        address = address_of(array)
        if address % ALIGNMENT == 0 and array.flags.c_contiguous:
            return array, address
        copy, address = blank.make()
        copy[...] = array
        return copy, address

    def _begin(self, state: TvmState) -> int:
        """Tell the program whether to prepare, and the state what will be written.

        Returns the time of the state for which everything is prepared after the run.
        """
        clock = state.clock
        if self._claim.kept_bytes:
            kept, since = self._prepared_for or (None, 0)
            fresh = kept is state and (
                since == clock or not state.changed_since(since, self._reads)
            )
            self._arena.put(self._claim, not fresh)
            self._prepared_for = None  # as long as the program runs
        if self.face.writes:  # nothing that was prepared depends on them
            state.touch(self.face.writes)
            clock += state.clock == clock + 1
        return clock

    def _make_room(self) -> None:
        """Note where the arena lies, and what is prepared there, if that is there still."""
        if not self._arena.make_room(self._claim):
            self._prepared_for = None
        self._table[0] = self._arena.address
        self._table[self._prepared_at] = self._arena.address + (self._claim.kept_at or 0)

    def _locate(self, state: TvmState) -> None:
        """Note where the state's arrays lie, unless none has moved."""
        if self._located == (state, state.version):
            return
        held = set(state.names())
        for blank in self.face.state:
            if blank.name not in held:
                raise ArgumentError(
                    f"graph {self.face.name}: state {blank.name!r} is not on the device"
                )
            blank.require(state.array(blank.name))
        for place, blank in enumerate(self.face.state, self._state_begins):
            self._table[place] = address_of(state.array(blank.name))
        self._located = (state, state.version)


class TimedExecutable(TvmExecutable):
    """A compiled graph whose runs note when each of their calls began and ended."""

    @classmethod
    def noting(cls, compiled: Compiled, noted: Timed) -> Self:
        """A program and what it notes."""
        self = cls.of(compiled)
        self.noted = noted
        self._log = Block(noted.nbytes)
        self._more = (self._log.address,)
        self._table = self._blank_table()
        return self

    def __call__(self, state: TvmState, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; `times` are those of this run then."""
        self._log.bytes[...] = 0
        return super().__call__(state, inputs)

    def times(self) -> list[tuple[Event, np.ndarray]]:
        """Of each event, begin and end in nanoseconds of each time that it happened."""
        found = ((event, event.times(self._log.bytes)) for event in self.noted.events)
        return [(event, times[times[:, 0] > 0]) for event, times in found]


class TvmBackend:
    """Backend `tvm`: optimize, fuse, plan, generate native code, load it into this process.

    Parameters
    ----------
    options : BackendOptions
        Its target is ``cpu`` with options; see `codegen.tvm.target.parse_target`.
    """

    name = "tvm"
    symbolic = False

    def __init__(self, options: BackendOptions = DEFAULTS) -> None:
        self.options = options
        target = options.target
        # Threads as of now, whatever the settings are when something is compiled.
        self._arena = Arena()
        self._target = target if "-num-cores" in target else f"{target} -num-cores={host_cores()}"
        begin(partial(pool_of, host_cores()))  # while the model is traced
        if target != "cpu":
            _ = self.target  # what is unknown is refused now

    @cached_property
    def target(self) -> Target:
        """The parsed target."""
        from ..codegen.tvm.target import parse_target

        return parse_target(self._target)

    def state(self) -> TvmState:
        """An empty device state."""
        return TvmState()

    def compile(self, graph: Graph, sizes: Mapping[str, int] = OPEN) -> TvmExecutable:
        """Compile a graph for these sizes of its symbols, or take it from the compile cache.

        Raises
        ------
        LoweringError
            If a shape stays symbolic or a kernel cannot be expressed.
        """
        _require_fixed(graph, sizes)
        cache = current_cache()
        if cache is None:
            return self._compile(graph, sizes)
        key = cache_key(graph, sizes, self._target, options=self.options)
        if found := cache.get(key):
            context = contextvars.copy_context()  # the settings in force here
            program, face = load(found.code), Face.of(graph, sizes)
            return TvmExecutable(
                face, program, found, lambda: context.run(self._plan, graph, sizes), self._arena
            )
        executable = self._compile(graph, sizes)
        cache.put(key, executable.compilation)
        return executable

    def compile_timed(self, graph: Graph, sizes: Mapping[str, int] = OPEN) -> TimedExecutable:
        """Compile a graph to a program that notes when each of its calls began and ended."""
        from ..codegen.tvm.lower import compile_timed

        _require_fixed(graph, sizes)
        plan = self._plan(graph, sizes)
        return TimedExecutable.noting(*compile_timed(plan, self.target))

    def _plan(self, graph: Graph, sizes: Mapping[str, int]) -> Plan:
        from ..passes.pipeline import make_plan, optimize

        optimized = optimize(graph.specialize(sizes))
        if self.options.memory_budget is None:
            return make_plan(optimized)
        from .memory_budget import plan_within

        return plan_within(optimized, self.options.memory_budget, self.target)

    def _compile(self, graph: Graph, sizes: Mapping[str, int]) -> TvmExecutable:
        begin(load_libraries)
        with rare_collection():
            plan = self._plan(graph, sizes)
            from ..codegen.tvm.llvm_passes import begin_leaving_out

            begin_leaving_out()
            from ..codegen.tvm.lower import compile_plan

            compiled = compile_plan(plan, self.target, self._choices(plan))
        give_back()
        return TvmExecutable.of(compiled, self._arena)

    def _choices(self, plan: Plan) -> Choices:
        """What a search finds in the time that the user gives it."""
        if not self.options.tune:
            return {}
        from .tune import tune

        return tune(plan, self.target, self.options.tune)


def _require_fixed(graph: Graph, sizes: Mapping[str, int]) -> None:
    if still_open := sorted(set(graph.symbols) - set(sizes)):
        raise LoweringError(f"graph {graph.name}: sizes must be fixed for native code, "
                            f"got symbols {', '.join(still_open)}")  # fmt: skip
