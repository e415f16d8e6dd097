"""Write an algorithm as one would in Python, and get the loops that run it.

    code = Code(machine.lanes("float32"))
    a = code.matrix(buffer, rows=4, columns=4)
    for i in code.range(4):
        pivot = code.let(a[i, i])
        with code.when(pivot > 0.0):
            for j in code.strips(4):
                a[i, j] = a[i, j] / pivot

A `for` over `code.range` or `code.strips` runs its body while the loop is made, so `break` and
Python's `if` on numbers of the program have no place in it. What stands in memory is read where
an expression is used: `let` keeps a value that must not change, `number` makes one that may.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import ForKind

from .emit import (
    ALIGNMENT,
    NOTHING,
    Buffer,
    Expr,
    Index,
    Stmt,
    dtype_of,
    is_nothing,
    seq,
    stack_array,
)
from .nest import Nest

INDEX = "int32"


def as_index(value: Index) -> Expr:
    """A number as an index of TIR."""
    return tirx.IntImm(INDEX, value) if isinstance(value, int) else value


@dataclass(frozen=True, eq=False)
class Array:
    """Numbers in memory from `base` on; reading makes a load, assigning a store."""

    code: Code
    buffer: Buffer
    base: Index = 0

    @property
    def dtype(self) -> str:
        return dtype_of(self.buffer)

    def _at(self, index: Index) -> list[Expr]:
        return [as_index(self.base + index)]

    def __getitem__(self, index: Index) -> Expr:
        return tirx.BufferLoad(self.buffer, self._at(index))

    def __setitem__(self, index: Index, value: Expr | float) -> None:
        if isinstance(value, int | float):
            value = tirx.const(value, self.dtype)
        self.code.emit(tirx.BufferStore(self.buffer, value, self._at(index)))

    def shifted(self, offset: Index) -> Array:
        """The numbers from an offset on."""
        return Array(self.code, self.buffer, self.base + offset)

    def matrix(self, columns: int) -> Matrix:
        """The same numbers as rows of `columns`."""
        return Matrix(self, columns, 1)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A view of an array by two indices."""

    array: Array
    row_stride: int
    column_stride: int

    def _flat(self, at: tuple[Index, Index]) -> Index:
        row, column = at
        return row * self.row_stride + column * self.column_stride

    def __getitem__(self, at: tuple[Index, Index]) -> Expr:
        return self.array[self._flat(at)]

    def __setitem__(self, at: tuple[Index, Index], value: Expr | float) -> None:
        self.array[self._flat(at)] = value

    @property
    def T(self) -> Matrix:
        """The transpose, without moving anything."""
        return Matrix(self.array, self.column_stride, self.row_stride)

    def row(self, index: Index) -> Array:
        """The numbers from the beginning of a row on."""
        assert self.column_stride == 1
        return self.array.shifted(index * self.row_stride)


@dataclass(frozen=True, eq=False)
class Number:
    """A variable of the program."""

    array: Array

    @property
    def now(self) -> Expr:
        """What it is at the place where the expression is used."""
        return self.array[0]

    def set(self, value: Expr | float) -> None:
        """Assign."""
        self.array[0] = value

    def add(self, value: Expr) -> None:
        """Add to it."""
        self.array[0] = self.now + value


class Code:
    """Statements under construction.

    Parameters
    ----------
    nest : Nest
        The kernel; `finish` puts the statements there.
    lanes : int
        Elements of a vector.
    """

    def __init__(self, nest: Nest, lanes: int) -> None:
        self.nest = nest
        self.lanes = max(1, lanes)
        self._blocks: list[list[Stmt]] = [[]]
        self._tasks, self._task = 1, tirx.IntImm(INDEX, 0)

    def emit(self, statement: Stmt) -> None:
        """Append a statement to the innermost open block."""
        self._blocks[-1].append(statement)

    def finish(self) -> None:
        """Hand the statements to the kernel."""
        (block,) = self._blocks
        self.nest.emit(seq(*block))

    @contextmanager
    def _block(self) -> Iterator[list[Stmt]]:
        block: list[Stmt] = []
        self._blocks.append(block)
        yield block
        self._blocks.pop()

    # --- memory ------------------------------------------------------------------------------

    def array(self, buffer: Buffer, base: Index = 0) -> Array:
        """A buffer from an element on."""
        return Array(self, buffer, base)

    def scratch(self, dtype: str, size: int) -> Array:
        """Memory of the kernel, own to each task; what stands in it is undefined at first."""
        size = -(-max(1, size) // ALIGNMENT) * ALIGNMENT
        buffer = self.nest.scratch(dtype, size * self._tasks)
        return Array(self, buffer, self._task * size if self._tasks > 1 else 0)

    def number(self, value: Expr | float, dtype: str) -> Number:
        """A variable of the program, on the stack or in a register."""
        held = Number(self._local(dtype, 1))
        held.set(value)
        return held

    def _local(self, dtype: str, size: int) -> Array:
        buffer = stack_array("n", (size,), dtype)
        self.emit(tirx.AllocBuffer(buffer))
        return Array(self, buffer)

    def let(self, value: Expr | float) -> Expr:
        """A value that is computed here, once."""
        if isinstance(value, int | float | tirx.IntImm | tirx.FloatImm):
            return value
        variable = tirx.Var("v", value.ty)
        self.emit(tirx.Bind(variable, value))
        return variable

    # --- control -----------------------------------------------------------------------------

    def range(self, extent: Index, start: Index = 0) -> Iterator[Expr]:
        """A loop over start, start + 1, ..., start + extent - 1."""
        yield from self._loop(extent, start, ForKind.SERIAL)

    def down(self, extent: Index) -> Iterator[Expr]:
        """A loop over extent - 1, ..., 1, 0."""
        for i in self.range(extent):
            yield extent - 1 - i

    def _loop(self, extent: Index, start: Index, kind: ForKind) -> Iterator[Expr]:
        if isinstance(extent, int) and extent <= 0:
            return
        variable = tirx.Var("i", INDEX)
        with self._block() as block:
            yield variable
        body = seq(*block)
        if not is_nothing(body):
            self.emit(tirx.For(variable, as_index(start), as_index(extent), kind, body))

    def strips(self, extent: Index, start: Index = 0) -> Iterator[Expr]:
        """A loop whose steps are independent, by vectors and then one by one.

        The body is made twice. It may read and write elements at the index only.
        """
        whole = self._quotient(extent, self.lanes)
        if self.lanes > 1 and (not isinstance(whole, int) or whole):
            for strip in self.range(whole):
                for lane in self._loop(self.lanes, 0, ForKind.VECTORIZED):
                    yield start + strip * self.lanes + lane
        else:
            whole = 0
        yield from self.range(extent - whole * self.lanes, start + whole * self.lanes)

    def _quotient(self, extent: Index, lanes: int) -> Index:
        """How many times the lanes go into an extent that is not negative."""
        if isinstance(extent, int):
            return extent // lanes
        return self.let(tirx.truncdiv(extent, as_index(lanes)))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Run the body if a condition holds."""
        with self._block() as block:
            yield
        self.emit(tirx.IfThenElse(condition, seq(*block) if block else NOTHING, None))

    def batch(self, count: int, work: float, cores: int) -> Iterator[Expr]:
        """A loop over independent problems, on several cores if it is worth while.

        Parameters
        ----------
        count : int
            Number of problems.
        work : float
            Operations of one.
        cores : int
            At most so many tasks. Scratch must be declared in the body: each task has its own.
        """
        tasks = min(cores, count) if count * work > _PARALLEL_WORK else 1
        if tasks <= 1:
            yield from self.range(count)
            return
        share = -(-count // tasks)
        for task in self._loop(tasks, 0, ForKind.PARALLEL):
            self._tasks, self._task = tasks, task
            mine = tirx.min(as_index(share), as_index(count) - task * share)
            for i in self.range(self.let(mine)):
                yield task * share + i
        self._tasks = 1

    # --- sums --------------------------------------------------------------------------------

    def dot(self, extent: Index, x: Array, y: Array, most: int) -> Expr:
        """The inner product of `extent` numbers, at most `most`."""
        lanes = self.lanes if most >= 2 * self.lanes else 1
        sums = self._local(x.dtype, lanes)
        for lane in range(lanes):
            sums[lane] = 0.0
        whole: Index = 0
        if lanes > 1:
            whole = self._quotient(extent, lanes)
            for strip in self.range(whole):
                for lane in self._loop(lanes, 0, ForKind.VECTORIZED):
                    at = strip * lanes + lane
                    sums[lane] = sums[lane] + x[at] * y[at]
        for i in self.range(extent - whole * lanes, whole * lanes):
            sums[0] = sums[0] + x[i] * y[i]
        terms = [sums[lane] for lane in range(lanes)]
        while len(terms) > 1:
            half = (len(terms) + 1) // 2
            pairs = zip(terms[:half], [*terms[half:], None], strict=False)
            terms = [a if b is None else a + b for a, b in pairs]
        return self.let(terms[0])


_PARALLEL_WORK = 3e4
"""Operations that are worth other cores: some tens of microseconds, for they are scalar."""


def _unary(name: str, x: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(str(x.ty), f"llvm.{name}", x)


def sqrt(x: Expr) -> Expr:
    """The square root."""
    return _unary("sqrt", x)


def magnitude(x: Expr) -> Expr:
    """The absolute value."""
    return _unary("fabs", x)


def larger(x: Expr, y: Expr) -> Expr:
    """The larger number; `x` where one is NaN."""
    return tirx.Select(tirx.LT(x, y), y, x)


def select(condition: Expr, x: Expr, y: Expr) -> Expr:
    """`x if condition else y`; both are computed."""
    return tirx.Select(condition, x, y)


def logical_not(condition: Expr) -> Expr:
    """The opposite, also where NaN made the condition false."""
    return tirx.EQ(tirx.Select(condition, as_index(1), as_index(0)), as_index(0))


def nan(dtype: str) -> Expr:
    """Not a number."""
    word, bits = ("uint64", 0x7FF8 << 48) if dtype == "float64" else ("uint32", 0x7FC0 << 16)
    return tirx.reinterpret(dtype, tirx.const(bits, word))


def epsilon(dtype: str) -> float:
    """The distance from 1 to the next larger number."""
    return 2.0**-52 if dtype == "float64" else 2.0**-23


def tiny(dtype: str) -> float:
    """A number whose square is about the smallest normal one."""
    return math.ldexp(1.0, -511 if dtype == "float64" else -63)
