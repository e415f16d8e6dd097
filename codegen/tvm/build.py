"""The native program: kernels over raw pointers and one entry that calls them in order.

Kernels are lowered without TVM's packed-call convention: each becomes a plain C function
``int32_t name(void*, ...)``. The entry (see `entry`) takes the address of a table of base pointers
and calls kernel after kernel with ``table[index] + offset``, in loops and branches where the
program has such. All is compiled in memory by LLVM, so no C compiler or linker is needed, and a
whole training step is one call.

Kernels that differ only in their name are compiled once. A large program is compiled in two
parts, each with the kernels of its stretch of the program, on two threads at once: TVM gives up
Python's lock while it compiles. Running it is then two calls. A loop is never cut.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType, PrimType

from ...ir.errors import LoweringError
from .emit import ALIASED, PLAIN, PrimFunc, Stmt
from .entry import ENTRY, Call, Statement, bases_in, calls_in, lower_entry
from .target import Target, start_threads

_PART_KERNELS = 16  # fewer kernels than this are not worth a second compiler thread


class NativeProgram:
    """Machine code of a program, loaded in this process.

    Parameters
    ----------
    modules : sequence of tvm.runtime.Module
        The parts, in the order they run.
    pointers : int
        Length of the table of base pointers.
    """

    def __init__(self, modules: Sequence[tvm.runtime.Module], pointers: int) -> None:
        self._modules = tuple(modules)
        self._entries = tuple(module[ENTRY] for module in modules)
        self._table = (ctypes.c_int64 * max(1, pointers))()
        self._address = ctypes.addressof(self._table)
        self.pointers = pointers

    def run(self, pointers: Sequence[int]) -> None:
        """Run all calls in order.

        Parameters
        ----------
        pointers : sequence of int
            The base pointers, each aligned to 64 bytes; neither count nor alignment of a
            wrong one is checked by the code itself, only the count is checked here.
        """
        if len(pointers) != self.pointers:
            raise ValueError(f"run: needs {self.pointers} pointers, got {len(pointers)}")
        self._table[: self.pointers] = pointers
        for entry in self._entries:
            entry(self._address)

    def __call__(self, pointers: Sequence[int]) -> None:
        self.run(pointers)

    def source(self, form: str = "ll") -> str:
        """Return the code of all parts: ``"ll"`` for LLVM's language, ``"asm"`` for assembly."""
        return "\n".join(module.inspect_source(form) for module in self._modules)


def build(
    kernels: Mapping[str, PrimFunc],
    statements: Sequence[Statement],
    target: Target,
    *,
    parts: int | None = None,
) -> NativeProgram:
    """Compile kernels and the program that calls them.

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
        Pieces that are compiled at the same time; by default 2 for a large program where this
        process has two processors, else 1.

    Returns
    -------
    NativeProgram
        Ready to run.

    Raises
    ------
    LoweringError
        If a call names no kernel, has the wrong number of arguments, or TVM refuses a kernel.
    """
    calls = tuple(calls_in(statements))
    for call in calls:
        _check(call, kernels)
    start_threads(target.machine.cores)
    unique, names = _deduplicate({call.kernel: kernels[call.kernel] for call in calls})
    pointers = 1 + max(bases_in(statements), default=-1)
    if parts is None:
        parts = min(2, os.cpu_count() or 1) if len(unique) >= _PART_KERNELS else 1
    pieces = [
        _Part(unique, names, piece, pointers, target)
        for piece in _cut(statements, unique, names, parts)
    ]
    if len(pieces) == 1:
        return NativeProgram([pieces[0].compile()], pointers)
    with ThreadPoolExecutor(len(pieces)) as pool:
        return NativeProgram(list(pool.map(_Part.compile, pieces)), pointers)


def _check(call: Call, kernels: Mapping[str, PrimFunc]) -> None:
    if call.kernel not in kernels:
        raise LoweringError(f"build: call of unknown kernel {call.kernel!r}")
    wanted = len(kernels[call.kernel].params)
    if len(call.arguments) != wanted:
        raise LoweringError(
            f"build: kernel {call.kernel!r} takes {wanted} pointers, got {len(call.arguments)}"
        )


def _deduplicate(kernels: Mapping[str, PrimFunc]) -> tuple[dict[str, PrimFunc], dict[str, str]]:
    """Keep one of each set of equal kernels; also return the name kept for every name."""
    kept: dict[str, PrimFunc] = {}
    names: dict[str, str] = {}
    by_hash: dict[int, list[str]] = {}
    for name, function in kernels.items():
        anonymous = function.without_attr("global_symbol")
        group = by_hash.setdefault(tvm_ffi.structural_hash(anonymous), [])
        same = next((n for n in group if tvm_ffi.structural_equal(kept[n], anonymous)), None)
        if same is None:
            kept[name] = anonymous
            group.append(name)
        names[name] = same or name
    return kept, names


def _cut(
    statements: Sequence[Statement], kernels: Mapping[str, PrimFunc], names: Mapping[str, str],
    parts: int,
) -> Iterator[Sequence[Statement]]:  # fmt: skip
    """Cut the program in stretches that bring about equally much code each."""
    if parts == 1:
        yield statements
        return
    sizes = {name: len(str(function)) for name, function in kernels.items()}
    share, seen, size, piece = sum(sizes.values()) / parts, set[str](), 0, list[Statement]()
    for statement in statements:
        found = {names[call.kernel] for call in calls_in([statement])} - seen
        seen |= found
        size += sum(sizes[name] for name in found)
        piece.append(statement)
        if size >= share:
            yield piece
            seen, size, piece = set(), 0, []
    if piece:
        yield piece


@dataclass(frozen=True)
class _Part:
    """A stretch of the program with the kernels that it needs."""

    kernels: Mapping[str, PrimFunc]
    names: Mapping[str, str]
    statements: Sequence[Statement]
    pointers: int
    target: Target

    def compile(self) -> tvm.runtime.Module:
        """Lower, generate code, and load it."""
        names = dict.fromkeys(self.names[call.kernel] for call in calls_in(self.statements))
        functions = {name: self.kernels[name] for name in names}
        try:
            module = _lower_kernels(functions, self.target.tvm)
            module.update(lower_entry(self.statements, self.names, self.pointers, self.target.tvm))
            generate = tvm.get_global_func("target.build.llvm")
            binary = generate(module, self.target.tvm)
            _ = binary[ENTRY]  # the machine code is made at the first look-up
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise LoweringError(f"build: TVM refused the program: {reason}") from error
        return binary


def _lower_kernels(functions: Mapping[str, PrimFunc], target: tvm.target.Target) -> tvm.IRModule:
    plain, rich = {}, {}
    # TVM takes what the last function of a module says about aliasing for all of them.
    aliased = any(function.attrs[ALIASED] for function in functions.values())
    for name, function in functions.items():
        (plain if function.attrs[PLAIN] else rich)[name] = _raw(name, function, aliased=aliased)
    t = tirx.transform
    simple = [t.BindTarget(target), t.VectorizeLoop(True)]
    passes = [
        t.BindTarget(target),
        t.FlattenBuffer(),
        t.BF16ComputeLegalize(),
        t.NarrowDataType(32),
        t.VectorizeLoop(True),
        t.StorageRewrite(),
        t.UnrollLoop(),
        t.StmtSimplify(),
        t.RemoveNoOp(),
        t.CommonSubexprElim(),
        t.BF16StorageLegalize(),
        t.LowerIntrin(),
    ]
    with target:
        module = tvm.ir.transform.Sequential(passes)(tvm.IRModule(rich))
        module.update(tvm.ir.transform.Sequential(simple)(tvm.IRModule(plain)))
        return module


def _raw(name: str, function: PrimFunc, *, aliased: bool) -> PrimFunc:
    """Turn buffer parameters into raw pointers; return 0, as parallel loops may return else."""
    pointers = [tirx.Var(f"{p.name}_pointer", PointerType(p.ty.dtype)) for p in function.params]
    views = [
        # LLVM is told that views of plain pointers are disjoint, of computed pointers it is not.
        tirx.DeclBuffer(view, data=tirx.reinterpret(pointer.ty, pointer) if aliased else pointer)
        for view, pointer in zip(function.params, pointers, strict=True)
    ]
    done = tirx.Return(tirx.IntImm("int32", 0))
    body = tirx.SeqStmt([_keep_apart(), *views, function.body, done])
    raw = tirx.PrimFunc(pointers, body, PrimType("int32"))
    return raw.with_attr({"global_symbol": name, "tirx.noalias": not aliased})


def _keep_apart() -> Stmt:
    """Keep LLVM from inlining a kernel in the entry.

    TVM tells LLVM that different buffers never share memory, which is true within a kernel but
    not between two: inlined, one kernel's stores would move behind the next one's loads. LLVM
    never inlines a function that lets others find its frame; this lets them find nothing of it.
    """
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.localescape"))
