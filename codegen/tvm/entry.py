"""The entry of a native program: calls of kernels, copies, loops and branches, one after another.

The entry is a C function that gets the address of a table of base pointers. An `Address` is an
entry of the table, plus bytes, plus bytes for each step of the loops around it:

    Loop(8, (Call("cell", (Address(1), Address(2, 0, ((0, 256),)), Address(1))),))

        for (i = 0; i < 8; ++i) cell(table[1], table[2] + i * 256, table[1]);
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tvm
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx import ForKind

from ..native.program import ENTRY
from .emit import Buffer, Expr, Stmt, buffer, seq


class Address(NamedTuple):
    """Where memory begins: `offset` bytes behind a base pointer, and more for each step.

    Attributes
    ----------
    base : int
        Position in the table of base pointers.
    offset : int
        In bytes.
    strides : tuple of (int, int)
        A loop, by the number of loops around it, and bytes for each of its steps.
    """

    base: int
    offset: int = 0
    strides: tuple[tuple[int, int], ...] = ()

    def plus(self, offset: int) -> Address:
        """So many bytes further."""
        return self._replace(offset=self.offset + offset)

    def stepped(self, loop: int, stride: int) -> Address:
        """So many bytes further in each step of a loop."""
        return self._replace(strides=(*self.strides, (loop, stride))) if stride else self


@dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Parameters
    ----------
    kernel : str
        Its name in the mapping given to `build`.
    arguments : tuple of Address
        One for each pointer parameter, the workspace included; multiples of 64.
    """

    kernel: str
    arguments: tuple[Address, ...]


@dataclass(frozen=True)
class Copy:
    """Copy bytes between places that do not overlap; they may begin anywhere."""

    source: Address
    target: Address
    nbytes: int


@dataclass(frozen=True)
class Stamp:
    """Store the time of a clock that only goes forward: seconds and nanoseconds, i64 each."""

    target: Address


@dataclass(frozen=True)
class Loop:
    """Run `body` for the indices of `steps`, one after another.

    If `parallel`, in any order on several threads; then no kernel in it may use threads itself.
    """

    steps: range
    body: tuple[Statement, ...]
    parallel: bool = False


@dataclass(frozen=True)
class While:
    """Run `condition`, and `body` and it again as long as the byte at `flag` is not 0."""

    condition: tuple[Statement, ...]
    flag: Address
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Branch:
    """Run `then` if the byte at `flag` is not 0, else `otherwise`."""

    flag: Address
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


Statement = Call | Copy | Stamp | Loop | While | Branch


def parts_of(statement: Statement) -> tuple[Statement, ...]:
    """The statements inside a loop or branch."""
    if isinstance(statement, Loop):
        return statement.body
    if isinstance(statement, While):
        return statement.condition + statement.body
    return statement.then + statement.otherwise if isinstance(statement, Branch) else ()


def calls_in(statements: Iterable[Statement]) -> Iterator[Call]:
    """All calls of kernels, those in loops and branches too, in order."""
    for statement in statements:
        if isinstance(statement, Call):
            yield statement
        yield from calls_in(parts_of(statement))


def bases_in(statements: Iterable[Statement]) -> Iterator[int]:
    """The positions in the table that the statements use, repeated."""
    for statement in statements:
        if isinstance(statement, Call):
            yield from (address.base for address in statement.arguments)
        elif isinstance(statement, Copy):
            yield from (statement.source.base, statement.target.base)
        elif isinstance(statement, Stamp):
            yield statement.target.base
        elif isinstance(statement, While | Branch):
            yield statement.flag.base
        yield from bases_in(parts_of(statement))


def lower_entry(
    statements: Sequence[Statement], names: Mapping[str, str], pointers: int,
    target: tvm.target.Target,
) -> tvm.IRModule:  # fmt: skip
    """The module of the function that takes the table and runs the statements.

    The kernels that it calls are functions of other modules.

    Parameters
    ----------
    statements : sequence of Statement
    names : mapping of str to str
        What the kernels are called in their modules.
    pointers : int
        Length of the table.
    target : tvm.target.Target
    """
    table = buffer("table", (max(1, pointers),), "int64")
    data = tirx.Var("table_data", PointerType(PrimType("int64")))
    work = _Writer(table, names).all(statements)
    done = tirx.Return(tirx.IntImm("int32", 0))
    body = tirx.SeqStmt([tirx.DeclBuffer(table, data=data), work, done])
    entry = tirx.PrimFunc([data], body, PrimType("int32")).with_attr("global_symbol", ENTRY)
    t = tirx.transform
    passes = [t.BindTarget(target), t.FlattenBuffer(), t.LowerIntrin()]
    return tvm.ir.transform.Sequential(passes)(tvm.IRModule({ENTRY: entry}))


class _Writer:
    """Turns statements into TIR."""

    def __init__(self, table: Buffer, names: Mapping[str, str]) -> None:
        self.table = table
        self.names = names
        self.indices: list[Expr] = []  # of the open loops, the outermost first

    def all(self, statements: Sequence[Statement]) -> Stmt:
        return seq(*map(self.one, statements))

    def one(self, statement: Statement) -> Stmt:
        if isinstance(statement, Call):
            pointers = [self.pointer(address) for address in statement.arguments]
            name = self.names[statement.kernel]
            return tirx.Evaluate(tirx.call_extern("int32", name, *pointers))
        if isinstance(statement, Copy):
            return self.copy(statement)
        if isinstance(statement, Stamp):
            clock = tirx.IntImm("int32", time.CLOCK_MONOTONIC)
            arguments = clock, self.pointer(statement.target)
            return tirx.Evaluate(tirx.call_extern("int32", "clock_gettime", *arguments))
        if isinstance(statement, Loop):
            return self.loop(statement)
        declared, holds = self.flag(statement.flag)
        if isinstance(statement, While):
            condition = self.all(statement.condition)
            again = seq(self.all(statement.body), condition)
            return seq(condition, declared, tirx.While(holds, again))
        then, otherwise = self.all(statement.then), self.all(statement.otherwise)
        return seq(declared, tirx.IfThenElse(holds, then, otherwise))

    def copy(self, copy: Copy) -> Stmt:
        if not copy.nbytes:
            return seq()
        pointers = self.pointer(copy.target), self.pointer(copy.source)
        volatile = tirx.IntImm("bool", 0)
        arguments = (*pointers, _int64(copy.nbytes), volatile)
        return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.memcpy", *arguments))

    def loop(self, loop: Loop) -> Stmt:
        """A loop over the number of the step; slices have an index."""
        name, dtype = f"step{len(self.indices)}", "int32" if loop.parallel else "int64"
        number = tirx.Var(name, dtype)  # the thread pool counts in 32 bits
        wide = tirx.Cast("int64", number) if loop.parallel else number
        self.indices.append(_int64(loop.steps.start) + wide * _int64(loop.steps.step))
        body = self.all(loop.body)
        self.indices.pop()
        kind = ForKind.PARALLEL if loop.parallel else ForKind.SERIAL
        first, count = (tirx.IntImm(dtype, value) for value in (0, len(loop.steps)))
        return tirx.For(number, first, count, kind, body)

    def flag(self, address: Address) -> tuple[Stmt, Expr]:
        """A declaration, and whether the byte there is not 0."""
        view = buffer("flag", (1,), "uint8")
        data = tirx.reinterpret(PointerType(PrimType("uint8")), self.address(address))
        return tirx.DeclBuffer(view, data=data), view[0] != tirx.IntImm("uint8", 0)

    def pointer(self, address: Address) -> Expr:
        return tirx.reinterpret(PointerType(PrimType("void")), self.address(address))

    def address(self, address: Address) -> Expr:
        found = self.table[address.base]
        for loop, stride in address.strides:
            found = found + self.indices[loop] * _int64(stride)
        return found + _int64(address.offset) if address.offset else found


def _int64(value: int) -> Expr:
    return tirx.IntImm("int64", value)
