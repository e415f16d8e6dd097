"""The register tile: rows x vectors of accumulators that live in registers over a reduction.

All compute-bound templates are this tile inside loops of their own: a step multiplies one scalar
per row with one vector per column group and adds it up. The tile is as tall as the registers
allow, so that each vector that is loaded is used many times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm
from tvm import tirx

from .. import bfloat, emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine

Store = tuple[Buffer, Sequence[Index], Expr]
Epilogue = Callable[[tuple[Index, ...], Expr], Sequence[Store] | Stmt]

PARALLEL_WORK = 800_000  # operations, some 8 microseconds; see `cost.PARALLEL_NANOSECONDS`
UNROLLED_EPILOGUE = 12  # nodes of an epilogue's expressions that may be repeated for each vector


@dataclass(frozen=True)
class Tile:
    """Shape of a register tile: `rows` x (`vectors` * `lanes`) accumulators of `dtype`.

    What is multiplied is converted to `dtype`, unless it comes in pairs of bf16 (see `bfloat`).
    """

    rows: int
    vectors: int
    lanes: int
    dtype: str
    paired: bool = False

    @property
    def columns(self) -> int:
        """Columns of the tile."""
        return self.vectors * self.lanes

    def ramp(self, start: Index) -> Index:
        """Index of the `lanes` consecutive elements from `start`."""
        return neighbours(start, self.lanes)

    def reduce(
        self,
        loops: Callable[[Step], Stmt],
        finish: Callable[[Buffer], Stmt],
        start: Callable[[int, int], Expr] | None = None,
    ) -> Stmt:
        """Set accumulators to `start` (else 0), run `loops`, hand the accumulators to `finish`.

        Parameters
        ----------
        loops : callable
            Gets `step(left, right)`; ``left(row)`` is a scalar (or a vector, to be multiplied
            lane by lane), ``right(vector)`` a vector of `lanes`, in any dtype. A third argument
            names the rows that take part, if not all do. Returns the loops of the reduction
            around steps.
        finish : callable
            Gets the accumulators as an array of ``rows * columns`` elements.
        start : callable, optional
            ``start(row, vector)`` is the vector to begin with.
        """

        def body(sums: Buffer) -> Stmt:
            return loops(lambda left, right, rows=None: self._step(sums, left, right, rows))

        return self.accumulate(body, finish, start)

    def accumulate(
        self,
        loops: Callable[[Buffer], Stmt],
        finish: Callable[[Buffer], Stmt],
        start: Callable[[int, int], Expr] | None = None,
    ) -> Stmt:
        """As `reduce`, for loops that update the accumulators themselves."""
        begin = start or (lambda row, vector: self.zero)

        def body(sums: Buffer) -> Stmt:
            return emit.seq(
                self.each(lambda row, vector: self.set(sums, row, vector, begin(row, vector))),
                loops(sums),
                finish(sums),
            )

        return emit.local("sums", (self.rows * self.columns,), self.dtype, body)

    @property
    def zero(self) -> Expr:
        """A vector of zeros."""
        scalar = emit.constant(0, self.dtype)
        return tirx.Broadcast(scalar, self.lanes) if self.lanes > 1 else scalar

    def each(self, body: Callable[[int, int], Stmt]) -> Stmt:
        """Repeat `body` for each row and vector."""
        return emit.seq(
            *(body(row, vector) for row in range(self.rows) for vector in range(self.vectors))
        )

    def vector(self, sums: Buffer, row: int, vector: int) -> Expr:
        """One vector of the accumulators."""
        return sums[self.ramp(row * self.columns + vector * self.lanes)]

    def set(self, sums: Buffer, row: int, vector: int, value: Expr) -> Stmt:
        """Overwrite one vector of the accumulators."""
        return emit.store(sums, (self.ramp(row * self.columns + vector * self.lanes),), value)

    def products(
        self,
        sums: Buffer,
        rights: Sequence[Expr],
        lefts: Sequence[tuple[Expr, Sequence[tuple[int, int]]]],
    ) -> Stmt:
        """Add to rows of one vector: each left factor, for each (row, position of the right one).

        A scalar that several rows multiply by different vectors is so loaded once for all.
        """
        vector_type = tvm.ir.PrimType(_vector_name(self.factors, self.lanes))
        columns = [tirx.Var(f"right{i}", vector_type) for i in range(len(rights))]
        statements = [
            tirx.Bind(variable, cast(value, self.factors, self.lanes))
            for variable, value in zip(columns, rights, strict=True)
        ]
        for value, uses in lefts:
            factor = tirx.Var("left", vector_type)
            statements.append(tirx.Bind(factor, self.factor(value)))
            for row, place in uses:
                total = self.plus(self.vector(sums, row, 0), factor, columns[place])
                statements.append(self.set(sums, row, 0, total))
        return emit.seq(*statements)

    def plus(self, sums: Expr, left: Expr, right: Expr) -> Expr:
        """Sums, a vector or one of them, plus products."""
        return bfloat.multiply_add(sums, left, right) if self.paired else sums + left * right

    @property
    def factors(self) -> str:
        """The dtype of what is multiplied."""
        return bfloat.PAIR if self.paired else self.dtype

    def _step(
        self,
        sums: Buffer,
        left: Callable[[int], Expr],
        right: Callable[[int], Expr],
        rows: Sequence[int] | None,
    ) -> Stmt:
        vector_type = tvm.ir.PrimType(_vector_name(self.factors, self.lanes))
        columns = [tirx.Var(f"right{vector}", vector_type) for vector in range(self.vectors)]
        binds = [
            tirx.Bind(variable, cast(right(vector), self.factors, self.lanes))
            for vector, variable in enumerate(columns)
        ]

        def update(row: int, vector: int) -> Stmt:
            factor = self.factor(left(row))
            total = self.plus(self.vector(sums, row, vector), factor, columns[vector])
            return self.set(sums, row, vector, total)

        rows = range(self.rows) if rows is None else rows
        updates = (update(row, vector) for row in rows for vector in range(self.vectors))
        return emit.seq(*binds, *updates)

    def factor(self, value: Expr) -> Expr:
        """A scalar in every lane; a vector as it is."""
        if str(value.ty).endswith(f"x{self.lanes}"):
            return cast(value, self.factors, self.lanes)
        scalar = cast(value, self.factors)
        return tirx.Broadcast(scalar, self.lanes) if self.lanes > 1 else scalar


Step = Callable[..., Stmt]


def neighbours(start: Index, lanes: int) -> Index:
    """The index of so many elements from `start` on."""
    return tirx.Ramp(_int(start), _int(1), lanes) if lanes > 1 else start


def blank(
    packed: Buffer, target: tuple[Index, Index], length: Index, count: int, lanes: int
) -> Stmt:
    """Set the lanes of a packed vector from `count` on to 0, in `length` rows."""
    (number, base), zero = target, emit.constant(0, emit.dtype_of(packed))

    def lane(k: Index, place: Index) -> Stmt:
        return emit.store(packed, (number, k, base + count + place), zero)

    return emit.serial(
        length, lambda k: emit.vectorized(lanes - count, lambda place: lane(k, place)), "k"
    )


def cast(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """Convert a scalar or vector expression to an element type, if it is of another."""
    wanted = _vector_name(dtype, lanes)
    if str(value.ty) == wanted:
        return value
    if str(value.ty).startswith(bfloat.STORED):
        value = bfloat.widen(value)
    return value if str(value.ty) == wanted else tirx.Cast(tvm.ir.PrimType(wanted), value)


def _vector_name(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def element_bytes(dtype: str) -> int:
    """Bytes of one element."""
    return max(1, tvm.DataType(dtype).bits // 8)


def store_to(out: Buffer | None) -> Epilogue:
    """The epilogue that stores the value in `out`, converted to its dtype."""
    if out is None:
        raise AssertionError("a template needs an output buffer or an epilogue")
    dtype = emit.dtype_of(out)

    def store(indices: tuple[Index, ...], value: Expr) -> list[Store]:
        if dtype == bfloat.STORED:
            return [(out, indices, bfloat.rounded(value))]
        return [(out, indices, cast(value, dtype))]

    return store


def flattened(epilogue: Epilogue, shape: Sequence[int]) -> Epilogue:
    """The epilogue of a result of `shape` by pixels and channels: it gets ``(pixel, channel)``.

    An epilogue may have a way of its own, as an attribute `flattened`, that needs no division.
    """
    own: Epilogue | None = getattr(epilogue, "flattened", None)
    if own is not None:
        return own

    def spread(indices: tuple[Index, ...], value: Expr) -> Sequence[Store] | Stmt:
        pixel, channel = indices
        return epilogue((*emit.unflatten(pixel, shape[:-1]), channel), value)

    return spread


def accumulator(*operands: Buffer) -> str:
    """The dtype in which products of the operands are summed."""
    dtype = emit.dtype_of(operands[0])
    if dtype in ("float16", bfloat.STORED):
        return "float32"
    return "int32" if dtype in ("int8", "uint8") else dtype


def max_rows(machine: Machine, vectors: int) -> int:
    """Rows of the tallest tile: accumulators, one vector each to multiply, and a scalar."""
    spare = machine.vector_registers - vectors - 1
    return max(1, min(24, spare // vectors))


def choose_vectors(columns: int, machine: Machine, dtype: str) -> int:
    """Vectors in a tile's row for a matrix of that many columns: 2, or 1 if one holds all."""
    return 1 if columns <= machine.lanes(dtype) else 2


def row_tiles(rows: int, tallest: int) -> tuple[int, int, int]:
    """Cut rows in nearly equal tiles: (number, height, how many of them are one row taller)."""
    if rows == 0:
        return 0, 0, 0
    for height in range(tallest, max(1, tallest * 3 // 4), -1):
        if rows % height == 0:
            return rows // height, height, 0
    count = -(-rows // tallest)
    return count, rows // count, rows % count


def for_row_tiles(
    rows: int,
    tallest: int,
    body: Callable[[Index, int], Stmt],
    part: tuple[Index, Index] | None = None,
) -> Stmt:
    """Cover rows by tiles of at most two heights; `body` gets the first row and the height.

    `part` limits this to tiles (start, count).
    """
    count, height, taller = row_tiles(rows, tallest)
    first, length = part or (0, count)
    last = first + length
    middle = emit.minimum(emit.maximum(first, taller), last)
    tall = emit.NOTHING
    if taller:
        tall = emit.serial(
            middle - first, lambda t: body(t * (height + 1), height + 1), "tile", first
        )
    if taller == count:
        return tall
    low = emit.serial(last - middle, lambda t: body(t * height + taller, height), "tile", middle)
    return emit.seq(tall, low)


def finish_tile(
    tile: Tile,
    sums: Buffer,
    valid: Sequence[int],
    target: Callable[[Index, Index], tuple[Index, ...]],
    epilogue: Epilogue,
) -> Stmt:
    """Run the epilogue on each element of a tile, vector by vector.

    A long epilogue is not repeated for each vector: the sums go through the stack and it
    becomes a loop.

    Parameters
    ----------
    valid : sequence of int
        For each vector, how many of its lanes are elements of the output.
    target : callable
        ``target(row, column)``: the indices in the output of an element of the tile.
    """

    def write(values: Buffer, row: Index, vector: int) -> Stmt:
        def lane(position: Index) -> Stmt:
            column = vector * tile.lanes + position
            value = values[row * tile.columns + column]
            return emit.store_all(epilogue(target(row, column), value))

        return emit.vectorized(valid[vector], lane)

    if weight(epilogue(target(0, 0), sums[0])) <= UNROLLED_EPILOGUE:
        return tile.each(lambda row, vector: write(sums, row, vector))

    def through_stack(stack: Buffer) -> Stmt:
        copy = tile.each(
            lambda row, vector: tile.set(stack, row, vector, tile.vector(sums, row, vector))
        )
        vectors = range(tile.vectors)
        loop = emit.serial(
            tile.rows, lambda row: emit.seq(*(write(stack, row, vector) for vector in vectors))
        )
        return emit.seq(copy, loop)

    return emit.local("stack", (tile.rows * tile.columns,), tile.dtype, through_stack)


def weight(stores: Sequence[Store] | Stmt) -> int:
    """Number of nodes in the values of some stores, indices of loads left out.

    In a statement each intermediate value has a name, so its parts are counted.
    """
    if isinstance(stores, tirx.SeqStmt):
        return len(stores.seq)
    if isinstance(stores, Stmt):
        return 1
    return sum(_nodes(value) for _, _, value in stores)


def _nodes(value: Expr) -> int:
    if isinstance(value, tvm.ir.expr.TensorLoad):
        return 1
    children = [
        getattr(value, name, None)
        for name in ("a", "b", "value", "condition", "true_value", "false_value")
    ]
    inner = [child for child in children if isinstance(child, tvm.ir.Expr)]
    inner += list(value.args) if isinstance(value, tvm.ir.Call) else []
    return 1 + sum(_nodes(child) for child in inner)


def valid_lanes(columns: int, panel_columns: int, lanes: int) -> tuple[list[int], list[int]]:
    """Lanes in use in each vector of a full panel of columns, and of the last panel."""
    vectors = panel_columns // lanes
    rest = columns % panel_columns or panel_columns
    last = [max(0, min(lanes, rest - vector * lanes)) for vector in range(vectors)]
    return [lanes] * vectors, last


def tasks_for(work: int, machine: Machine) -> int:
    """Tasks that so many operations should be split over; 1 where the work is small."""
    return 1 if work < PARALLEL_WORK else machine.cores


def _int(value: Index) -> Expr:
    return tirx.IntImm("int32", value) if isinstance(value, int) else value
