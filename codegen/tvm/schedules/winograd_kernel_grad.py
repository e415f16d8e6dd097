"""Kernel gradients of 3 x 3 convolutions by minimal filtering.

The derivative of the algorithm of `winograd` by its taps: the squares of elements and the tiles of
cotangents are both transformed to 36 matrices, ``[tiles, channels]`` and ``[tiles, outputs]``. Of
each pair the product over the tiles is summed up over all blocks, and the 36 sums are transformed
back to 9 taps at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine
from .minimal import POINTS, RESULTS, TAPS, of_cotangents, of_input, planar, to_taps
from .tile import Epilogue, Tile, choose_vectors, for_row_tiles, max_rows, tasks_for
from .winograd_tiles import SQUARE, Room, Squares, Tiles, deal, pitch

_STEPS = 96  # terms of a sum after which moving the sums in and out of registers is cheap


@dataclass(frozen=True)
class KernelGradient:
    """``dw[t, c, o] = sum_(n, p) image[n, p + t + offset, c] * dy[n, p, o]``, 9 taps t.

    Parameters
    ----------
    x : Buffer
        Images `[N, height, width, C]`, f32.
    dy : Buffer
        Cotangents `[N, *positions, O]`, f32.
    offset : tuple of int
        Where the first position looks; negative for padding.
    epilogue : Epilogue
        Gets the indices ``(row, column, channel, output)``.
    machine : Machine
        What to choose tiles for.
    """

    x: Buffer
    dy: Buffer
    offset: tuple[int, ...]
    epilogue: Epilogue
    machine: Machine

    @property
    def lanes(self) -> int:
        return self.machine.lanes("float32")

    @property
    def channels(self) -> int:
        return emit.shape_of(self.x)[3]

    @property
    def outputs(self) -> int:
        return emit.shape_of(self.dy)[3]

    @property
    def sizes(self) -> tuple[int, ...]:
        return emit.shape_of(self.dy)[1:3]

    @property
    def vectors(self) -> int:
        return choose_vectors(self.outputs, self.machine, "float32")

    @property
    def width(self) -> int:
        """Outputs in a panel."""
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        return -(-self.outputs // self.width)

    @property
    def work(self) -> int:
        """Operations of the direct sum."""
        return 2 * math.prod(emit.shape_of(self.dy)) * TAPS * TAPS * self.channels


@dataclass(frozen=True)
class _Plan:
    """A kernel gradient, its tiles, and where it keeps what."""

    problem: KernelGradient
    tiles: Tiles
    inputs: Room
    cotangents: Room
    sums: Buffer


def winograd_kernel_grad(problem: KernelGradient) -> Stmt:
    """Emit a kernel gradient; see the module."""
    tiles = _deal(problem)
    inputs = Squares(problem.x, problem.offset, POINTS, tiles, problem.lanes)
    cotangents = Squares(problem.dy, (0, 0), RESULTS, tiles, problem.lanes)
    shape = (tiles.tasks, SQUARE, problem.channels, cotangents.pixel)

    def body(plan: _Plan) -> Stmt:
        return emit.seq(
            emit.parallel(tiles.tasks, lambda task: _task(plan, task)), _transform_back(plan)
        )

    def with_sums(first: Room, second: Room) -> Stmt:
        return emit.scratch(
            "sums",
            shape,
            "float32",
            lambda sums: body(_Plan(problem, tiles, first, second, sums)),
        )

    def with_inputs(first: Room) -> Stmt:
        return cotangents.with_room(
            "cotangents", tiles.tasks, lambda second: with_sums(first, second)
        )

    return inputs.with_room("inputs", tiles.tasks, with_inputs)


def _deal(problem: KernelGradient) -> Tiles:
    row_bytes = 4 * (pitch(problem.channels, problem.lanes) + pitch(problem.outputs, problem.lanes))
    most = min(problem.machine.l2 // 2 // (SQUARE * row_bytes), _STEPS)
    batch = emit.shape_of(problem.x)[0]
    return deal(batch, problem.sizes, most, 8, tasks_for(problem.work, problem.machine))


def _task(plan: _Plan, task: Index) -> Stmt:
    def block(first: Index, count: Index) -> Stmt:
        return emit.seq(
            plan.inputs.fill(of_input, task, task, (first, count)),
            plan.cotangents.fill(of_cotangents, task, task, (first, count)),
            emit.serial(SQUARE, lambda point: _point(plan, task, point, count), "point"),
        )

    return emit.seq(_clear(plan, task), plan.tiles.each_block(task, block))


def _clear(plan: _Plan, task: Index) -> Stmt:
    _, points, channels, length = emit.shape_of(plan.sums)
    zero = emit.constant(0, "float32")
    return emit.nest(
        (points, channels),
        lambda at: emit.strips(
            length,
            plan.problem.lanes,
            lambda j: emit.store(plan.sums, (task, *at, j), zero),
        ),
    )


def _point(plan: _Plan, task: Index, point: Index, count: Index) -> Stmt:
    """Add the product of one pair of matrices over `count` tiles to its sums."""
    problem = plan.problem
    vectors = plan.cotangents.squares.pixel // problem.lanes
    whole, rest = divmod(vectors, problem.vectors)

    def panel(first: Index, width: int) -> Stmt:
        def rows(channel: Index, height: int) -> Stmt:
            tile = Tile(height, width, problem.lanes, "float32")
            return _tile(plan, tile, (task, point), (channel, first), count)

        return for_row_tiles(problem.channels, max_rows(problem.machine, width), rows)

    main = emit.serial(whole, lambda i: panel(i * problem.width, problem.vectors), "panel")
    return emit.seq(main, panel(whole * problem.width, rest) if rest else None)


def _tile(
    plan: _Plan, tile: Tile, at: tuple[Index, Index], corner: tuple[Index, Index], count: Index
) -> Stmt:
    (task, point), (channel, output) = at, corner
    inputs, cotangents = plan.inputs, plan.cotangents

    def place(row: int, vector: int) -> tuple[Index, ...]:
        return (task, point, channel + row, tile.ramp(output + vector * tile.lanes))

    def term(step: Callable[..., Stmt], t: Index) -> Stmt:
        def left(row: int) -> Expr:
            return inputs.matrices[task, point, t * inputs.squares.pitch + (channel + row)]

        def right(vector: int) -> Expr:
            start = t * cotangents.squares.pitch + output + vector * tile.lanes
            return cotangents.matrices[task, point, tile.ramp(start)]

        return step(left, right)

    return tile.reduce(
        lambda step: emit.serial(count, lambda t: term(step, t), "tile"),
        lambda sums: tile.each(
            lambda row, vector: emit.store(
                plan.sums, place(row, vector), tile.vector(sums, row, vector)
            )
        ),
        lambda row, vector: plan.sums[place(row, vector)],
    )


def _transform_back(plan: _Plan) -> Stmt:
    """Add the tasks' sums, transform them back, and run the epilogue."""
    problem, lanes = plan.problem, plan.problem.lanes
    whole, rest = divmod(problem.outputs, lanes)

    def channel(c: Index) -> Stmt:
        full = emit.serial(whole, lambda i: _taps(plan, c, i * lanes, lanes), "vector")
        return emit.seq(full, _taps(plan, c, whole * lanes, rest) if rest else None)

    parallel = SQUARE * problem.channels * problem.outputs > 1 << 18
    return (emit.parallel if parallel else emit.serial)(problem.channels, channel, "channel")


def _taps(plan: _Plan, channel: Index, output: Index, valid: int) -> Stmt:
    problem, lanes = plan.problem, plan.problem.lanes
    ramp = Tile(1, 1, lanes, "float32").ramp

    def load(i: Index, j: Index) -> Expr:
        place = (i * POINTS + j, channel, ramp(output))
        total = plan.sums[(0, *place)]
        for task in range(1, plan.tiles.tasks):
            total = total + plan.sums[(task, *place)]
        return total

    def body(results: Buffer) -> Stmt:
        def keep(i: Index, values: Sequence[Expr]) -> Stmt:
            stores = (
                emit.store(results, (ramp(j * lanes),), value) for j, value in enumerate(values)
            )
            return emit.seq(*stores, emit.serial(TAPS, lambda j: write(i, j), "tap"))

        def write(i: Index, j: Index) -> Stmt:
            def lane(position: Index) -> Stmt:
                value = results[j * lanes + position]
                indices = (i, j, channel, output + position)
                return emit.store_all(problem.epilogue(indices, value))

            return emit.vectorized(valid, lane)

        return planar(to_taps, POINTS, lanes, load, keep)

    return emit.local("results", (TAPS * lanes,), "float32", body)
