"""The native program: kernels over raw pointers and one entry that calls them in order.

Kernels are lowered without TVM's packed-call convention: each becomes a plain C function
``int32_t name(void*, ...)``. The entry (see `entry`) takes a table of base pointers and calls
kernel after kernel with ``table[index] + offset``, in loops and branches where the program has
such. TVM's LLVM makes object code of all, which is loaded and run without TVM (see
`codegen/native/`); no C compiler or linker is needed, and a whole training step is one call.

Kernels that differ only in their name are compiled once. The entry is an object of its own, so
that no kernel is inlined in it: TVM tells LLVM that different buffers never share memory, which is
true within a kernel but not between two. Kernels whose results lie on their operands are another,
for TVM takes what one function of a module says about that for all of them. A few kernels make an
object, and objects are compiled on as many threads as native code runs on, beginning while
Python still makes the kernels of the next ones: TVM gives up Python's lock while it compiles.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx import ForKind

from ...ir.errors import LoweringError
from ..native.host import host_cores
from ..native.program import NativeCode, NativeProgram, load
from .emit import ALIASED, PARALLEL, PLAIN, PrimFunc, Stmt
from .entry import Call, Statement, bases_in, calls_in, lower_entry
from .llvm_passes import leave_out_passes
from .nontemporal import STREAMED, streaming
from .rebuild import rebuilt
from .target import Target

_BATCH = 4  # kernels of an object: enough that what each object takes does not count


def build(
    kernels: Mapping[str, PrimFunc],
    statements: Sequence[Statement],
    target: Target,
    *,
    batch: int = _BATCH,
) -> NativeProgram:
    """Compile kernels and the program that calls them, and load it; see `compile_code`."""
    return load(compile_code(kernels, statements, target, batch=batch))


def compile_code(
    kernels: Mapping[str, PrimFunc],
    statements: Sequence[Statement],
    target: Target,
    *,
    batch: int = _BATCH,
) -> NativeCode:
    """Compile kernels and the program that calls them to object code.

    Parameters
    ----------
    kernels : mapping of str to PrimFunc
        Kernels as `emit.kernel` makes them; names are free, kernels that nothing calls are left
        out.
    statements : sequence of Statement
        What to run, in order.
    target : Target
        The machine.
    batch : int, optional
        Kernels of an object.

    Returns
    -------
    NativeCode
        To be loaded or stored.

    Raises
    ------
    LoweringError
        If a call names no kernel, has the wrong number of arguments, or TVM refuses a kernel.
    """
    with Compiler(target, batch=batch) as compiler:
        for name in _called(kernels, statements):
            compiler.add(name, kernels[name])
        return compiler.finish(statements)


class Compiler:
    """Compiles kernels in the background as they are made, and then the program of them.

    >>> with Compiler(target) as compiler:
    ...     for name in names:
    ...         compiler.add(name, make(name))
    ...     code = compiler.finish(statements)

    Parameters
    ----------
    target : Target
        The machine.
    batch : int
        Kernels of an object.
    """

    def __init__(self, target: Target, *, batch: int = _BATCH) -> None:
        self.target = target
        self.batch = batch
        self._unique = _Unique()
        self._waiting: dict[bool, dict[str, PrimFunc]] = {False: {}, True: {}}  # by `ALIASED`
        self._objects: list[Future[bytes]] = []
        self._pool = ThreadPoolExecutor(host_cores(), thread_name_prefix="hornfels-llvm")
        leave_out_passes()  # before those threads compile

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, name: str, function: PrimFunc) -> None:
        """Take a kernel; it is compiled with the next ones."""
        for symbol, kernel in self._unique.add(name, function).items():
            waiting = self._waiting[_is_aliased(kernel)]
            waiting[symbol] = kernel
            if len(waiting) >= self.batch:
                self._submit(_Kernels(dict(waiting), self.target))
                waiting.clear()

    def finish(self, statements: Sequence[Statement]) -> NativeCode:
        """The code of the program that calls the kernels.

        Raises
        ------
        LoweringError
            If a call does not fit a kernel, or TVM refused a kernel.
        """
        for call in calls_in(statements):
            self._unique.check(call)
        for waiting in self._waiting.values():
            if waiting:
                self._submit(_Kernels(waiting, self.target))
        self._submit(_Entry(tuple(statements), self._unique.symbols, self.target))
        objects = tuple(each.result() for each in self._objects)
        pointers = 1 + max(bases_in(statements), default=-1)
        return NativeCode(objects, pointers, self.target.machine.cores)

    def _submit(self, piece: _Piece) -> None:
        self._objects.append(self._pool.submit(piece.object))


def source(
    kernels: Mapping[str, PrimFunc],
    statements: Sequence[Statement],
    target: Target,
    form: str = "ll",
) -> str:
    """The code of a program: ``"ll"`` for LLVM's language, ``"asm"`` for assembly."""
    unique = _Unique()
    groups: dict[bool, dict[str, PrimFunc]] = {}
    for name in _called(kernels, statements):
        for symbol, kernel in unique.add(name, kernels[name]).items():
            groups.setdefault(_is_aliased(kernel), {})[symbol] = kernel
    entry = _Entry(tuple(statements), unique.symbols, target)
    pieces = [*(_Kernels(group, target) for group in groups.values()), entry]
    return "\n".join(piece.compile().inspect_source(form) for piece in pieces)


def _called(kernels: Mapping[str, PrimFunc], statements: Sequence[Statement]) -> list[str]:
    """The kernels that there are and that the statements call, in the order of their calls."""
    names = dict.fromkeys(call.kernel for call in calls_in(statements))
    return [name for name in names if name in kernels]


def _is_aliased(kernel: PrimFunc) -> bool:
    return bool(kernel.attrs[ALIASED])


class _Unique:
    """Kernels without those that differ from another in their name alone.

    Symbols end in ``_kernel``, for a kernel may have the name of a function of the C library.
    """

    def __init__(self) -> None:
        self.symbols: dict[str, str] = {}
        """The symbol of every name."""
        self._counts: dict[str, int] = {}  # of the parameters of a kernel
        self._by_hash: dict[int, dict[str, PrimFunc]] = {}

    def add(self, name: str, function: PrimFunc) -> dict[str, PrimFunc]:
        """The kernel by its symbol, or nothing if an equal one was added before."""
        anonymous = function.without_attr("global_symbol")
        known = self._by_hash.setdefault(tvm_ffi.structural_hash(anonymous), {})
        same = next((s for s, f in known.items() if tvm_ffi.structural_equal(f, anonymous)), "")
        self.symbols[name] = symbol = same or f"{name}_kernel"
        self._counts[name] = len(function.params)
        if same:
            return {}
        known[symbol] = anonymous
        return {symbol: anonymous}

    def check(self, call: Call) -> None:
        """Refuse a call that does not fit."""
        wanted = self._counts.get(call.kernel)
        if wanted is None:
            raise LoweringError(f"build: call of unknown kernel {call.kernel!r}")
        if len(call.arguments) != wanted:
            raise LoweringError(
                f"build: kernel {call.kernel!r} takes {wanted} pointers, got {len(call.arguments)}"
            )


class _Piece:
    """What becomes one object file."""

    target: Target

    def lower(self) -> tvm.IRModule:
        """The module of the piece, ready for LLVM."""
        raise NotImplementedError

    def compile(self) -> tvm.runtime.Module:
        """Lower it, and have LLVM optimize it."""
        leave_out_passes()
        try:
            return tvm.get_global_func("target.build.llvm")(self.lower(), self.target.tvm)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise LoweringError(f"build: TVM refused the program: {reason}") from error

    def object(self) -> bytes:
        """Compile to an object file."""
        with tempfile.TemporaryDirectory(prefix="hornfels") as folder:
            path = Path(folder) / "code.o"
            self.compile().write_to_file(str(path))
            return path.read_bytes()


@dataclass(frozen=True)
class _Kernels(_Piece):
    kernels: Mapping[str, PrimFunc]
    target: Target

    def lower(self) -> tvm.IRModule:
        return _lower_kernels(self.kernels, self.target.tvm)


@dataclass(frozen=True)
class _Entry(_Piece):
    statements: Sequence[Statement]
    names: Mapping[str, str]
    target: Target

    def lower(self) -> tvm.IRModule:
        pointers = 1 + max(bases_in(self.statements), default=-1)
        module = lower_entry(self.statements, self.names, pointers, self.target.tvm)
        return tvm.IRModule({name: _with_extents(f) for name, f in module.functions.items()})


def _lower_kernels(functions: Mapping[str, PrimFunc], target: tvm.target.Target) -> tvm.IRModule:
    """Kernels as LLVM takes them.

    Indices have 32 bits from the start, nothing is left to unroll, and what has no effect LLVM
    removes. It would find common subexpressions too, but multiplies and adds at once elsewhere
    then: kernels of minimal filtering took 2 % longer.
    """
    plain, rich = {}, {}
    for name, function in functions.items():
        (plain if function.attrs[PLAIN] else rich)[name] = _raw(name, function)
    t = tirx.transform
    stream = t.prim_func_pass(lambda function, *_: streaming(function), opt_level=0)
    simple = [t.BindTarget(target), t.VectorizeLoop(True), stream]
    passes = [
        t.BindTarget(target),
        t.FlattenBuffer(),
        t.VectorizeLoop(True),
        stream,
        t.StorageRewrite(),
        t.StmtSimplify(),
        t.CommonSubexprElim(),
        t.LowerIntrin(),
    ]
    with target:
        module = tvm.ir.transform.Sequential(passes)(tvm.IRModule(rich))
        module.update(tvm.ir.transform.Sequential(simple)(tvm.IRModule(plain)))
    lowered = {variable.name_hint: function for variable, function in module.functions.items()}
    for name, function in functions.items():
        if function.attrs[PARALLEL]:
            lowered[name] = _with_extents(lowered[name])
    return tvm.IRModule(lowered)


def _with_extents(function: PrimFunc) -> PrimFunc:
    """Let parallel loops tell the thread pool how many iterations they have.

    TVM hands the pool a loop and the variables that it reads, in the order in which the loop
    mentions them. An attribute makes the number of iterations the first of these variables.
    """

    def rewrite(statement: Stmt) -> Stmt:
        if type(statement) is not tirx.For or statement.kind != ForKind.PARALLEL:
            return rebuilt(statement, rewrite)
        loop = statement
        extent = tirx.Var("extent", "int32")
        told = tirx.AttrStmt(_ZERO, "hornfels.extent", extent, loop)
        launch = tirx.AttrStmt(_ZERO, "pragma_parallel_launch_point", _ZERO, told)
        return tirx.SeqStmt([tirx.Bind(extent, loop.extent), launch])

    return function.with_body(rewrite(function.body))


_ZERO = tirx.IntImm("int32", 0)


def _raw(name: str, function: PrimFunc) -> PrimFunc:
    """Turn buffer parameters into raw pointers; return 0, as parallel loops return else."""
    aliased = bool(function.attrs[ALIASED])
    pointers = [tirx.Var(f"{p.name}_pointer", PointerType(p.ty.dtype)) for p in function.params]
    views = [
        # LLVM is told that views of plain pointers are disjoint, of computed pointers it is not.
        tirx.DeclBuffer(view, data=tirx.reinterpret(pointer.ty, pointer) if aliased else pointer)
        for view, pointer in zip(function.params, pointers, strict=True)
    ]
    done = tirx.Return(tirx.IntImm("int32", 0))
    body = tirx.SeqStmt([*views, function.body, done])
    raw = tirx.PrimFunc(pointers, body, PrimType("int32"))
    attributes = {"global_symbol": name, "tirx.noalias": not aliased}
    return raw.with_attr(attributes | {STREAMED: function.attrs.get(STREAMED, ())})
