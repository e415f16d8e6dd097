"""Emit TIR loop nests directly.

A template is plain Python that returns statements::

    x, y = buffer("x", (128, 512)), buffer("y", (128, 512))
    body = parallel(128, lambda i: vectorized(512, lambda j: store(y, (i, j), x[i, j] + 1.0)))
    function = kernel("add_one", [x, y], body)

Loop bodies get the loop variable (0 itself where the extent is 1) and return a statement. Loops
with no iteration vanish. `local` makes register or stack arrays, `scratch` makes large arrays:
`kernel` gathers those in one trailing workspace parameter and says how many bytes it needs.
A scratch array must be declared outside of parallel loops; one that each task owns gets a leading
dimension for the tasks.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx import ForKind

from ...ir.errors import LoweringError
from .rebuild import rebuilt

Buffer = tirx.Var  # TVM 0.27: a buffer is a variable whose type is a BufferType
Expr = tvm.ir.Expr
Stmt = tirx.Stmt
PrimFunc = tirx.PrimFunc
Index = Expr | int
Body = Callable[[Index], Stmt]

ALIGNMENT = 64
MOST_ELEMENTS = 2**31 - 1  # indices have 32 bits, as vectors of them do
WORKSPACE = "hornfels.workspace"
PARALLEL = "hornfels.parallel"
ALIASED = "hornfels.aliased"
PLAIN = "hornfels.plain"

NOTHING: Stmt = tirx.Evaluate(tirx.IntImm("int32", 0))


def buffer(name: str, shape: Sequence[int], dtype: str = "float32") -> Buffer:
    """Declare a buffer in memory, for a parameter of a kernel: row-major, aligned to 64 bytes.

    Raises
    ------
    LoweringError
        If it has more elements than an index can count.
    """
    if math.prod(shape) > MOST_ELEMENTS:
        raise LoweringError(
            f"native code: an array must have fewer than 2**31 elements, got {dtype}{[*shape]}"
        )
    return tirx.Var(name, _array_type(tuple(shape), dtype, ""))


def stack_array(name: str, shape: Sequence[int], dtype: str) -> Buffer:
    """Name a small array on the stack, for an `AllocBuffer`; see `local`."""
    return tirx.Var(name, _array_type(tuple(shape), dtype, "local"))


@cache
def _array_type(shape: tuple[int, ...], dtype: str, scope: str) -> Any:
    """The type of a buffer, which takes TVM four times as long to make as a variable of it."""
    return tirx.decl_buffer(shape, dtype, scope=scope, data_alignment=ALIGNMENT).ty


@dataclass(frozen=True, eq=False)
class Computed:
    """An operand that is not in memory: to read an element is to compute it.

    A template reads it as it does a buffer, but lane by lane, never by a vector of indices. It
    reads each element once or a few times: what it multiplies many times it copies first.

    Parameters
    ----------
    shape : tuple of int
    dtype : str
    element : callable
        ``element(indices, shape)`` is the element at the indices of an operand of that shape.
    sources : callable
        ``sources(indices, shape)``: what has that element's place in memory, for who fetches it.
    """

    shape: tuple[int, ...]
    dtype: str
    element: Callable[[tuple[Index, ...], tuple[int, ...]], Expr]
    sources: Callable[[tuple[Index, ...], tuple[int, ...]], Sequence[Expr]]

    def __getitem__(self, indices: tuple[Index, ...]) -> Expr:
        return self.element(indices, self.shape)


Operand = Buffer | Computed


def shape_of(operand: Operand) -> tuple[int, ...]:
    """Return the sizes of an operand."""
    if isinstance(operand, Computed):
        return operand.shape
    return tuple(int(size) for size in operand.ty.shape)


def dtype_of(value: Operand | Expr) -> str:
    """Return TVM's name of the element type of an operand or of a scalar expression."""
    if isinstance(value, Computed):
        return value.dtype
    return str(value.ty.dtype) if tirx.is_buffer_var(value) else str(value.ty)


def constant(value: float, dtype: str) -> Expr:
    """Return a scalar constant of `dtype`."""
    return tirx.const(value, dtype)


# --- statements ------------------------------------------------------------------------------


def store(buffer: Buffer, indices: Sequence[Index], value: Expr) -> Stmt:
    """``buffer[indices] = value``."""
    return tirx.BufferStore(buffer, value, [_index(index) for index in indices])


def _index(index: Index) -> Expr:
    return tirx.IntImm("int32", index) if isinstance(index, int) else index


def store_all(stores: Sequence[tuple[Buffer, Sequence[Index], Expr]] | Stmt) -> Stmt:
    """Compute all values, then store them, so that an output may lie on an operand's memory.

    A statement, of an epilogue that does so itself, is taken as it is.
    """
    if isinstance(stores, Stmt):
        return stores
    if len(stores) == 1:
        return store(*stores[0])
    values = [tirx.Var(f"out{place}", value.ty) for place, (_, _, value) in enumerate(stores)]
    binds = [
        tirx.Bind(variable, value) for variable, (_, _, value) in zip(values, stores, strict=True)
    ]
    writes = [
        store(target, indices, variable)
        for variable, (target, indices, _) in zip(values, stores, strict=True)
    ]
    return seq(*binds, *writes)


def seq(*statements: Stmt | Iterable[Stmt] | None) -> Stmt:
    """Run statements in order; None and statements that do nothing are left out."""
    flat: list[Stmt] = []
    for statement in statements:
        if statement is None:
            continue
        if type(statement) is tirx.SeqStmt:  # `isinstance` is slow for classes of TVM
            flat.extend(statement.seq)
        elif isinstance(statement, tirx.Stmt):
            flat.append(statement)
        else:
            flat.append(seq(*statement))
    flat = [statement for statement in flat if not is_nothing(statement)]
    if not flat:
        return NOTHING
    return flat[0] if len(flat) == 1 else tirx.SeqStmt(flat)


def is_nothing(statement: Stmt) -> bool:
    """Return whether a statement has no effect."""
    return type(statement) is tirx.Evaluate and isinstance(statement.value, tirx.IntImm)


def when(condition: Expr | bool, then: Stmt, otherwise: Stmt | None = None) -> Stmt:
    """``if condition: then else: otherwise``; a condition known now leaves one branch."""
    known = _known(condition)
    if known is None:
        return tirx.IfThenElse(condition, then, otherwise)
    return then if known else (otherwise or NOTHING)


def _known(condition: Expr | bool) -> bool | None:
    if isinstance(condition, bool):
        return condition
    return bool(condition.value) if isinstance(condition, tirx.IntImm) else None


def let(value: Expr | int, body: Body, name: str = "value") -> Stmt:
    """Bind `value` to a variable that `body` reads, so that it is computed once."""
    if isinstance(value, int | tirx.IntImm | tirx.FloatImm):
        return body(value)
    variable = tirx.Var(name, value.ty)
    return seq(tirx.Bind(variable, value), body(variable))


class Names:
    """Statements in order, among them expressions that are computed once and have a name."""

    def __init__(self) -> None:
        self._statements: list[Stmt] = []

    def of(self, name: str, value: Expr) -> Expr:
        """A variable that is bound to a value, a scalar or a vector."""
        variable = tirx.Var(name, value.ty)
        self._statements.append(tirx.Bind(variable, value))
        return variable

    def emit(self, statement: Stmt) -> None:
        """Append."""
        self._statements.append(statement)

    def finish(self) -> Stmt:
        """All of them."""
        return seq(*self._statements)


def local(name: str, shape: Sequence[int], dtype: str, body: Callable[[Buffer], Stmt]) -> Stmt:
    """Declare a small array on the stack, in registers where every index is a constant."""
    array = stack_array(name, shape, dtype)
    return seq(tirx.AllocBuffer(array), body(array))


def scratch(name: str, shape: Sequence[int], dtype: str, body: Callable[[Buffer], Stmt]) -> Stmt:
    """Declare a large array in the kernel's workspace; not inside a parallel loop."""
    array = buffer(name, shape, dtype)
    return seq(tirx.AllocBuffer(array), body(array))


def view(
    array: Operand, shape: Sequence[int], body: Callable[[Any], Stmt], dtype: str | None = None
) -> Stmt:
    """See the elements of an operand, which has at least one, in another shape of equal size.

    With a `dtype`, the bytes of a buffer are seen as elements of that type.
    """
    if isinstance(array, Computed):
        return body(replace(array, shape=tuple(shape)))
    seen = buffer(f"{array.name}_view", shape, dtype or dtype_of(array))
    return seq(lay(seen, array), body(seen))


def lay(seen: Buffer, array: Buffer) -> Stmt:
    """Declare that a buffer, which bodies may be made with before, lies where `array` does."""
    address = tirx.address_of(array[(0,) * len(shape_of(array))])
    data = tirx.reinterpret(PointerType(PrimType(dtype_of(seen))), address)
    return tirx.DeclBuffer(seen, data=data)


def address(array: Buffer) -> Expr:
    """Return where a flat buffer begins, as a number."""
    return tirx.reinterpret("uint64", tirx.address_of(array[0]))


def fetch(operand: Operand, indices: tuple[Index, ...], level: int = 1) -> Stmt:
    """Have the line that holds an element brought near, or those that it is computed of."""
    if isinstance(operand, Computed):
        elements = operand.sources(indices, operand.shape)
        return seq(*(prefetch(element, level) for element in elements))
    return prefetch(operand[indices], level)


def prefetch(element: Expr, level: int = 1) -> Stmt:
    """Have the line that holds an element of a buffer brought to that level of the cache.

    The element need not exist: an address outside of all memory does nothing.
    """
    place = tirx.address_of(element)
    read, near, data = (tirx.IntImm("int32", value) for value in (0, 4 - level, 1))
    return tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", place, read, near, data))


# --- loops -----------------------------------------------------------------------------------


def _loop(kind: ForKind, extent: Index, body: Body, name: str, start: Index = 0) -> Stmt:
    count = extent if isinstance(extent, int) else getattr(extent, "value", None)
    if count is not None and count <= 0:
        return NOTHING
    if count == 1:
        return body(start)
    variable = tirx.Var(name, "int32")
    inner = body(variable)
    if is_nothing(inner):
        return NOTHING
    return tirx.For(variable, _index(start), _index(extent), kind, inner)


def serial(extent: Index, body: Body, name: str = "i", start: Index = 0) -> Stmt:
    """Run `body` for start, start+1, ..., start+extent-1."""
    return _loop(ForKind.SERIAL, extent, body, name, start)


def unrolled(extent: int, body: Body) -> Stmt:
    """Repeat `body` with the constants 0 ... extent-1 as its index."""
    return seq(*(body(index) for index in range(extent)))


def vectorized(extent: int, body: Body, name: str = "lane") -> Stmt:
    """Run `body` for all lanes at once; `extent` is the number of lanes, any positive number.

    Arrays that the body declares are declared before the loop; see `lane`.
    """
    if extent <= 1:
        return _loop(ForKind.VECTORIZED, extent, body, name)
    variable = tirx.Var(name, "int32")
    _LANES.append((variable, extent))
    inner = seq(body(variable))
    _LANES.pop()
    statements = list(inner.seq) if isinstance(inner, tirx.SeqStmt) else [inner]
    arrays = [s for s in statements if isinstance(s, tirx.AllocBuffer)]
    work = seq(*(s for s in statements if not isinstance(s, tirx.AllocBuffer)))
    if is_nothing(work):
        return NOTHING
    loop = tirx.For(variable, _index(0), _index(extent), ForKind.VECTORIZED, work)
    return seq(*arrays, loop)


class _Open(threading.local):
    """The loops of one kind whose bodies are being made in this thread: variable and extent."""

    def __init__(self) -> None:
        self._loops: list[tuple[Index, int]] = []

    def append(self, loop: tuple[Index, int]) -> None:
        self._loops.append(loop)

    def pop(self) -> None:
        self._loops.pop()

    @property
    def last(self) -> tuple[Index, int] | None:
        """The innermost one."""
        return self._loops[-1] if self._loops else None


_LANES = _Open()


def lane() -> tuple[Index, int]:
    """Return variable and extent of the vectorized loop whose body is being made; (0, 1) outside.

    A body that needs an array for intermediate values gives it one element for each lane.
    """
    return _LANES.last or (0, 1)


def parallel(extent: int, body: Body, name: str = "task") -> Stmt:
    """Split the iterations over the thread pool, in contiguous runs; do not nest."""

    def inside(number: Index) -> Stmt:
        _TASKS.append((number, extent))
        try:
            return body(number)
        finally:
            _TASKS.pop()

    return _loop(ForKind.PARALLEL, extent, inside, name)


_TASKS = _Open()


def task() -> tuple[Index, int]:
    """Return number and count of the tasks whose body is being made; (0, 1) outside of `parallel`.

    What a body adds up in memory goes to a place of its task's own.
    """
    return _TASKS.last or (0, 1)


def nest(extents: Sequence[Index], body: Callable[[tuple[Index, ...]], Stmt]) -> Stmt:
    """Nest serial loops, the first outermost; `body` gets the tuple of indices."""

    def level(outer: tuple[Index, ...]) -> Stmt:
        if len(outer) == len(extents):
            return body(outer)
        return serial(extents[len(outer)], lambda i: level((*outer, i)), f"i{len(outer)}")

    return level(())


def strips(extent: int, lanes: int, body: Callable[[Index], Stmt], unroll: int = 1) -> Stmt:
    """Cover 0 ... extent-1 by vectors of `lanes` and one shorter vector for the rest.

    Parameters
    ----------
    extent : int
        Number of elements, 0 included.
    lanes : int
        Elements in a full vector.
    body : callable
        Gets the index of the element, to be used lane by lane.
    unroll : int
        Full vectors in one step of the loop.
    """
    lanes = max(1, lanes)
    step = lanes * unroll
    steps = extent // step
    done = steps * step
    vectors = (extent - done) // lanes

    def vector(base: Index) -> Stmt:
        return vectorized(lanes, lambda lane: body(base + lane))

    return seq(
        serial(steps, lambda s: unrolled(unroll, lambda u: vector(s * step + u * lanes)), "strip"),
        unrolled(vectors, lambda u: vector(done + u * lanes)),
        vectorized(
            extent - done - vectors * lanes, lambda lane: body(done + vectors * lanes + lane)
        ),
    )


def transpose_block(
    source: Callable[[Index, Index], Expr],
    target: Callable[[Index, Index, Expr], Stmt],
    size: int,
) -> Stmt:
    """Transpose a block of `size` x `size` elements in registers, by log2(size) shuffles a row.

    Parameters
    ----------
    source : callable
        ``source(row, columns)`` loads one row, `columns` being a vector of consecutive indices.
    target : callable
        ``target(column, rows, vector)`` stores one column of the block.
    size : int
        A power of two, the lanes of a vector.

    Returns
    -------
    Stmt
        17 times faster than lane by lane where `size` is 16 (0.14 ns an element).
    """
    lanes = tirx.Ramp(_index(0), _index(1), size)
    statements: list[Stmt] = []

    def bind(value: Expr) -> Expr:
        variable = tirx.Var(f"row{len(statements)}", value.ty)
        statements.append(tirx.Bind(variable, value))
        return variable

    rows = [bind(source(row, lanes)) for row in range(size)]
    distance = 1
    while distance < size:
        low = [k if not k & distance else size + (k ^ distance) for k in range(size)]
        high = [k | distance if not k & distance else size + k for k in range(size)]
        pairs = [(row & ~distance, row | distance) for row in range(size)]
        rows = [
            bind(_shuffle(rows[a], rows[b], high if row & distance else low))
            for row, (a, b) in enumerate(pairs)
        ]
        distance *= 2
    return seq(*statements, *(target(column, lanes, rows[column]) for column in range(size)))


def _shuffle(a: Expr, b: Expr, lanes: Sequence[int]) -> Expr:
    return tirx.Shuffle([a, b], [_index(lane) for lane in lanes])


def split_range(extent: int, parts: int, part: Index) -> tuple[Index, Index]:
    """Return (start, length) of the `part`-th of `parts` nearly equal runs of 0 ... extent-1."""
    if parts == 1:
        return 0, extent
    each, rest = divmod(extent, parts)
    if rest == 0:
        return part * each, each
    start = part * each + minimum(part, rest)
    return start, each + tirx.Select(_index(part) < rest, _index(1), _index(0))


def equal(a: Index, b: Index) -> Expr | bool:
    """Return whether two indices are equal, known now if both are numbers."""
    return a == b if isinstance(a, int) and isinstance(b, int) else tirx.EQ(_index(a), _index(b))


def less(a: Index, b: Index) -> Expr | bool:
    """Return whether the first index is smaller, known now if both are numbers."""
    return a < b if isinstance(a, int) and isinstance(b, int) else tirx.LT(_index(a), _index(b))


def minimum(a: Index, b: Index) -> Index:
    """Return the smaller index, a number if both are."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return tirx.min(a, b)


def maximum(a: Index, b: Index) -> Index:
    """Return the larger index, a number if both are."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return tirx.max(a, b)


def unflatten(index: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """Return the indices along each dimension of `shape` of a row-major flat index."""
    indices: list[Index] = []
    for position, size in enumerate(shape):
        rest = math.prod(shape[position + 1 :])
        value = index if rest <= 1 else index // rest
        indices.append(0 if size == 1 else value if position == 0 else value % size)
    return tuple(indices)


# --- kernels ---------------------------------------------------------------------------------


def kernel(
    name: str,
    parameters: Sequence[Buffer],
    body: Stmt,
    *,
    aliased: bool = False,
    plain: bool = False,
) -> PrimFunc:
    """Make a kernel of a body: parameters are buffers, in the order of its pointer arguments.

    Scratch arrays become one more parameter, the workspace, of `workspace_bytes` bytes; it comes
    last and is absent if no byte is needed. Say `aliased` where an output may lie in the memory
    of an input: LLVM then keeps the order of loads and stores (see `store_all`). Say `plain` where
    all buffers are flat, indices are simplified and nothing is left to unroll: then the passes
    that simplify are left out, of which some take time exponential in chains of integer variables.
    """
    hoist = _Hoist()
    body = hoist(body)
    parameters = list(parameters)
    if hoist.bytes:
        parameters.append(hoist.workspace)
    attributes = {
        WORKSPACE: hoist.bytes, PARALLEL: hoist.parallel, ALIASED: aliased, PLAIN: plain,
    }  # fmt: skip
    return tirx.PrimFunc(parameters, body).with_attr({"global_symbol": name, **attributes})


def structure(function: PrimFunc) -> int:
    """Equal for kernels of equal code, whatever their variables are called."""
    return int(tvm_ffi.structural_hash(function))


def workspace_bytes(function: PrimFunc) -> int:
    """Return the bytes of workspace that a kernel needs, 0 if it takes no such argument."""
    return int(function.attrs[WORKSPACE])


class _Hoist:
    """Rewrite allocations in memory to slices of one workspace; notes parallel loops."""

    def __init__(self) -> None:
        self.bytes = 0
        self.parallel = False
        self.workspace = buffer("workspace", (1 << 30,), "uint8")

    def __call__(self, statement: Stmt) -> Stmt:
        kind = type(statement)
        if kind is tirx.For:
            return self._for(statement)
        if kind is tirx.AllocBuffer and statement.buffer.scope() != "local":
            return self._slice(statement.buffer)
        return rebuilt(statement, self)

    def _for(self, loop: tirx.For) -> Stmt:
        self.parallel |= loop.kind == ForKind.PARALLEL
        if loop.kind == ForKind.VECTORIZED:
            return loop
        before, rewritten = self.bytes, rebuilt(loop, self)
        if loop.kind == ForKind.PARALLEL and self.bytes != before:
            raise AssertionError("scratch array inside a parallel loop: tasks would share it")
        return rewritten

    def _slice(self, array: Buffer) -> Stmt:
        size = math.prod(shape_of(array)) * max(1, tvm.DataType(dtype_of(array)).bits // 8)
        offset = self.bytes
        self.bytes += -(-size // ALIGNMENT) * ALIGNMENT
        address = tirx.address_of(self.workspace[offset])
        data = tirx.reinterpret(PointerType(PrimType(dtype_of(array))), address)
        return tirx.DeclBuffer(array, data=data)
