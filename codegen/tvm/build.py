"""The native program: kernels over raw pointers and one entry that calls them in order.

Kernels are lowered without TVM's packed-call convention: each becomes a plain C function
``int32_t name(void*, ...)``. The entry (see `entry`) takes a table of base pointers and calls
kernel after kernel with ``table[index] + offset``, in loops and branches where the program has
such. TVM's LLVM makes object code of all, which is loaded and run without TVM (see
`codegen/native/`); no C compiler or linker is needed, and a whole training step is one call.

Kernels that differ only in their name are compiled once. The entry is an object of its own, so
that no kernel is inlined in it: TVM tells LLVM that different buffers never share memory, which is
true within a kernel but not between two. Kernels whose results lie on their operands are another,
for TVM takes what one function of a module says about that for all of them. A large program's
kernels are compiled in several objects on as many threads: TVM gives up Python's lock meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx import ForKind

from ...ir.errors import LoweringError
from ..native.program import NativeCode, NativeProgram, load
from .emit import ALIASED, PLAIN, PrimFunc, Stmt
from .entry import Call, Statement, bases_in, calls_in, lower_entry
from .target import Target

_PART_KERNELS = 8  # fewer kernels than this are not worth another compiler thread


def build(
    kernels: Mapping[str, PrimFunc],
    statements: Sequence[Statement],
    target: Target,
    *,
    parts: int | None = None,
) -> NativeProgram:
    """Compile kernels and the program that calls them, and load it; see `compile_code`."""
    return load(compile_code(kernels, statements, target, parts=parts))


def compile_code(
    kernels: Mapping[str, PrimFunc],
    statements: Sequence[Statement],
    target: Target,
    *,
    parts: int | None = None,
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
    parts : int, optional
        Pieces that are compiled at the same time; by default as many as this process has
        processors for a large program, else 1.

    Returns
    -------
    NativeCode
        To be loaded or stored.

    Raises
    ------
    LoweringError
        If a call names no kernel, has the wrong number of arguments, or TVM refuses a kernel.
    """
    pointers = 1 + max(bases_in(statements), default=-1)
    pieces = _pieces(kernels, statements, target, parts)
    with ThreadPoolExecutor(max(1, len(pieces) - 1)) as pool:
        objects = tuple(pool.map(_Piece.object, pieces))
    return NativeCode(objects, pointers, target.machine.cores)


def source(
    kernels: Mapping[str, PrimFunc],
    statements: Sequence[Statement],
    target: Target,
    form: str = "ll",
) -> str:
    """The code of a program: ``"ll"`` for LLVM's language, ``"asm"`` for assembly."""
    pieces = _pieces(kernels, statements, target, 1)
    return "\n".join(piece.compile().inspect_source(form) for piece in pieces)


def _pieces(
    kernels: Mapping[str, PrimFunc],
    statements: Sequence[Statement],
    target: Target,
    parts: int | None,
) -> list[_Piece]:
    calls = tuple(calls_in(statements))
    for call in calls:
        _check(call, kernels)
    unique, names = _deduplicate({call.kernel: kernels[call.kernel] for call in calls})
    if parts is None:
        parts = max(1, min(os.cpu_count() or 1, len(unique) // _PART_KERNELS))
    groups = _groups(unique, parts)
    return [
        *(_Kernels(group, target) for group in groups),
        _Entry(tuple(statements), names, target),
    ]


def _check(call: Call, kernels: Mapping[str, PrimFunc]) -> None:
    if call.kernel not in kernels:
        raise LoweringError(f"build: call of unknown kernel {call.kernel!r}")
    wanted = len(kernels[call.kernel].params)
    if len(call.arguments) != wanted:
        raise LoweringError(
            f"build: kernel {call.kernel!r} takes {wanted} pointers, got {len(call.arguments)}"
        )


def _deduplicate(kernels: Mapping[str, PrimFunc]) -> tuple[dict[str, PrimFunc], dict[str, str]]:
    """Keep one of each set of equal kernels; also return the symbol of every name.

    Symbols end in ``_kernel``, for a kernel may have the name of a function of the C library.
    """
    kept: dict[str, PrimFunc] = {}
    names: dict[str, str] = {}
    by_hash: dict[int, list[str]] = {}
    for name, function in kernels.items():
        anonymous = function.without_attr("global_symbol")
        group = by_hash.setdefault(tvm_ffi.structural_hash(anonymous), [])
        same = next((n for n in group if tvm_ffi.structural_equal(kept[n], anonymous)), None)
        if same is None:
            same = f"{name}_kernel"
            kept[same] = anonymous
            group.append(same)
        names[name] = same
    return kept, names


def _groups(kernels: Mapping[str, PrimFunc], parts: int) -> list[dict[str, PrimFunc]]:
    """Share kernels out to modules: equally much code each, those of one kind of aliasing."""
    sizes = {name: len(str(function)) for name, function in kernels.items()} if parts > 1 else {}
    groups: list[dict[str, PrimFunc]] = []
    for aliased in (False, True):
        names = [name for name, f in kernels.items() if bool(f.attrs[ALIASED]) == aliased]
        shares = [(0, dict[str, PrimFunc]()) for _ in range(min(parts, len(names)))]
        for name in sorted(names, key=lambda name: -sizes.get(name, 0)):
            size, share = least = min(shares, key=lambda share: share[0])
            share[name] = kernels[name]
            shares[shares.index(least)] = (size + sizes.get(name, 0), share)
        groups += [share for _, share in shares]
    return groups


class _Piece:
    """What becomes one object file."""

    target: Target

    def lower(self) -> tvm.IRModule:
        """The module of the piece, ready for LLVM."""
        raise NotImplementedError

    def compile(self) -> tvm.runtime.Module:
        """Lower it, and have LLVM optimize it."""
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
    plain, rich = {}, {}
    for name, function in functions.items():
        (plain if function.attrs[PLAIN] else rich)[name] = _raw(name, function)
    t = tirx.transform
    simple = [t.BindTarget(target), t.VectorizeLoop(True)]
    passes = [
        t.BindTarget(target),
        t.FlattenBuffer(),
        t.NarrowDataType(32),
        t.VectorizeLoop(True),
        t.StorageRewrite(),
        t.UnrollLoop(),
        t.StmtSimplify(),
        t.RemoveNoOp(),
        t.CommonSubexprElim(),
        t.LowerIntrin(),
    ]
    with target:
        module = tvm.ir.transform.Sequential(passes)(tvm.IRModule(rich))
        module.update(tvm.ir.transform.Sequential(simple)(tvm.IRModule(plain)))
        return tvm.IRModule({name: _with_extents(f) for name, f in module.functions.items()})


def _with_extents(function: PrimFunc) -> PrimFunc:
    """Let parallel loops tell the thread pool how many iterations they have.

    TVM hands the pool a loop and the variables that it reads, in the order in which the loop
    mentions them. An attribute makes the number of iterations the first of these variables.
    """

    def rewrite(statement: Stmt) -> Stmt:
        if isinstance(statement, tirx.SeqStmt):
            return tirx.SeqStmt([rewrite(each) for each in statement.seq])
        if isinstance(statement, tirx.IfThenElse):
            otherwise = statement.else_case
            then, otherwise = rewrite(statement.then_case), otherwise and rewrite(otherwise)
            return tirx.IfThenElse(statement.condition, then, otherwise)
        if isinstance(statement, tirx.AttrStmt):
            body = rewrite(statement.body)
            return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
        if isinstance(statement, tirx.While):
            return tirx.While(statement.condition, rewrite(statement.body))
        if not isinstance(statement, tirx.For):
            return statement
        loop, body = statement, statement.body
        if loop.kind != ForKind.PARALLEL:
            return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, rewrite(body))
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
    return raw.with_attr({"global_symbol": name, "tirx.noalias": not aliased})
