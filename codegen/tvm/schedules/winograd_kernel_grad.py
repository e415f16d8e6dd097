"""Kernel gradients of 3 x 3 convolutions by minimal filtering.

The derivative of the algorithm of `winograd` by its taps: the squares of elements and the tiles of
cotangents are both transformed to 36 matrices, ``[tiles, channels]`` and ``[tiles, outputs]``. Of
each pair the product over the tiles is summed up over all blocks, and the 36 sums are transformed
back to 9 taps at the end.

With few channels each task sums over tiles of its own. With many the sums are larger than the
cache; then all tiles are transformed first, if these stay in the third-level cache, and the tasks
share out the sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import emit
from ..emit import Buffer, Expr, Index, Operand, Stmt
from ..target import Machine
from .minimal import POINTS, RESULTS, TAPS, of_cotangents, of_input, planar, to_taps
from .tile import Epilogue, Tile, choose_vectors, for_row_tiles, max_rows, tasks_for
from .winograd_tiles import SQUARE, Room, Squares, Tiles, deal, grid_of, pitch

_STEPS = 96  # terms of a sum after which moving the sums in and out of registers is cheap
_LARGE = 2  # times the second-level cache: sums that should not be moved at all


@dataclass(frozen=True)
class KernelGradient:
    """``dw[t, c, o] = sum_(n, p) image[n, p + t + offset, c] * dy[n, p, o]``, 9 taps t.

    Parameters
    ----------
    x : Buffer
        Images `[N, height, width, C]`, of f32, f16 or bf16.
    dy : Buffer
        Cotangents `[N, *positions, O]`, likewise.
    offset : tuple of int
        Where the first position looks; negative for padding.
    epilogue : Epilogue
        Gets the indices ``(row, column, channel, output)``.
    machine : Machine
        What to choose tiles for.
    """

    x: Operand
    dy: Operand
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


@dataclass(frozen=True)
class _Part:
    """A part of the sums, ``sums[task]``, and which channels and outputs it begins with.

    `slot` holds the matrices that are multiplied.
    """

    task: Index
    slot: Index
    channel: Index = 0
    output: Index = 0


def winograd_kernel_grad(problem: KernelGradient) -> Stmt:
    """Emit a kernel gradient; see the module."""
    tiles, group = _deal(problem)
    inputs = Squares(problem.x, problem.offset, POINTS, tiles, problem.lanes)
    cotangents = Squares(problem.dy, (0, 0), RESULTS, tiles, problem.lanes)
    slots, rows, shape = tiles.tasks, tiles.block, (problem.channels, cotangents.pixel)
    if group:
        slots, rows, shape = 1, tiles.count, (group, problem.width)

    def body(plan: _Plan) -> Stmt:
        return _by_sums(plan) if group else _by_tiles(plan)

    def with_sums(first: Room, second: Room) -> Stmt:
        return emit.scratch(
            "sums",
            (tiles.tasks, SQUARE, *shape),
            "float32",
            lambda sums: body(_Plan(problem, tiles, first, second, sums)),
        )

    def with_inputs(first: Room) -> Stmt:
        return cotangents.with_room(
            "cotangents", slots, rows, lambda second: with_sums(first, second)
        )

    return inputs.with_room("inputs", slots, rows, with_inputs)


def _deal(problem: KernelGradient) -> tuple[Tiles, int]:
    """The blocks of tiles; and channels of a part of the sums if tasks should share out these."""
    machine, lanes = problem.machine, problem.lanes
    row_bytes = 4 * SQUARE * (pitch(problem.channels, lanes) + pitch(problem.outputs, lanes))
    batch = emit.shape_of(problem.x)[0]
    tasks = tasks_for(problem.work, machine)
    tiles = batch * math.prod(grid_of(problem.sizes))
    most = min(machine.l2 // 2 // row_bytes, _STEPS)
    if 4 * SQUARE * problem.channels * problem.outputs > _LARGE * machine.l2:
        group = _group(problem)
        if tiles * row_bytes <= machine.l3 // 2 and group >= lanes:
            return deal(batch, problem.sizes, _STEPS, 8, tasks), group
        most = _STEPS  # the sums leave the cache anyway
    return deal(batch, problem.sizes, most, 8, tasks), 0


def _group(problem: KernelGradient) -> int:
    """Most channels that divide all and whose sums fit the cache; 0 if panels are not whole."""
    if problem.outputs % problem.width:
        return 0
    most = problem.machine.l2 // 2 // (4 * SQUARE * problem.width)
    fitting = (n for n in range(min(most, problem.channels), 0, -1) if problem.channels % n == 0)
    return next(fitting, 0)


def _by_tiles(plan: _Plan) -> Stmt:
    """Each task has tiles and sums of its own."""
    problem = plan.problem
    vectors = plan.cotangents.squares.pixel // problem.lanes
    whole, rest = divmod(vectors, problem.vectors)

    def task(number: Index) -> Stmt:
        part = _Part(number, number)

        def block(first: Index, count: Index) -> Stmt:
            def point(at: Index) -> Stmt:
                main = emit.serial(
                    whole,
                    lambda i: _panel(plan, part, at, i * problem.width, problem.vectors, count),
                    "panel",
                )
                if not rest:
                    return main
                return emit.seq(main, _panel(plan, part, at, whole * problem.width, rest, count))

            return emit.seq(
                plan.inputs.fill(of_input, number, 0, number, (first, count)),
                plan.cotangents.fill(of_cotangents, number, 0, number, (first, count)),
                emit.serial(SQUARE, point, "point"),
            )

        return emit.seq(_clear(plan, number), plan.tiles.each_block(number, block))

    parts = [_Part(number, 0) for number in range(plan.tiles.tasks)]
    heavy = SQUARE * problem.channels * problem.outputs > 1 << 18
    loop = emit.parallel if heavy else emit.serial
    return emit.seq(
        emit.parallel(plan.tiles.tasks, task),
        loop(problem.channels, lambda c: _transform_back(plan, parts, c), "channel"),
    )


def _by_sums(plan: _Plan) -> Stmt:
    """Each task has parts of the sums for its own, and all tiles: no sum ever leaves the cache."""
    problem, tiles = plan.problem, plan.tiles
    _, _, group, width = emit.shape_of(plan.sums)
    groups = problem.channels // group

    def fill(number: Index) -> Stmt:
        def block(first: Index, count: Index) -> Stmt:
            return emit.seq(
                plan.inputs.fill(of_input, 0, first, number, (first, count)),
                plan.cotangents.fill(of_cotangents, 0, first, number, (first, count)),
            )

        return tiles.each_block(number, block)

    def task(number: Index) -> Stmt:
        def one(flat: Index) -> Stmt:
            panel, channels = emit.unflatten(flat, (problem.panels, groups))
            part = _Part(number, 0, channels * group, panel * width)
            return emit.seq(
                emit.serial(
                    SQUARE,
                    lambda point: _panel(
                        plan, part, point, 0, problem.vectors, tiles.count, fresh=True
                    ),
                    "point",
                ),
                emit.serial(group, lambda c: _transform_back(plan, [part], c), "channel"),
            )

        first, count = emit.split_range(problem.panels * groups, tiles.tasks, number)
        return emit.serial(count, one, "part", first)

    return emit.seq(emit.parallel(tiles.tasks, fill), emit.parallel(tiles.tasks, task))


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


def _panel(
    plan: _Plan,
    part: _Part,
    point: Index,
    output: Index,
    vectors: int,
    count: Index,
    *,
    fresh: bool = False,
) -> Stmt:
    """Add products of a pair of matrices over `count` tiles to sums, or begin these (`fresh`)."""
    problem, inputs, cotangents = plan.problem, plan.inputs, plan.cotangents

    def rows(channel: Index, height: int) -> Stmt:
        tile = Tile(height, vectors, problem.lanes, "float32")

        def place(row: int, vector: int) -> tuple[Index, ...]:
            return (part.task, point, channel + row, tile.ramp(output + vector * tile.lanes))

        def term(step: Callable[..., Stmt], t: Index) -> Stmt:
            def left(row: int) -> Expr:
                start = t * inputs.squares.pitch + (part.channel + channel + row)
                return inputs.matrices[part.slot, point, start]

            def right(vector: int) -> Expr:
                start = part.output + output + vector * tile.lanes
                start = t * cotangents.squares.pitch + start
                return cotangents.matrices[part.slot, point, tile.ramp(start)]

            return step(left, right)

        def keep(sums: Buffer) -> Stmt:
            return tile.each(
                lambda row, vector: emit.store(
                    plan.sums, place(row, vector), tile.vector(sums, row, vector)
                )
            )

        return tile.reduce(
            lambda step: emit.serial(count, lambda t: term(step, t), "tile"),
            keep,
            None if fresh else lambda row, vector: plan.sums[place(row, vector)],
        )

    channels = emit.shape_of(plan.sums)[2]
    return for_row_tiles(channels, max_rows(problem.machine, vectors), rows)


def _transform_back(plan: _Plan, parts: Sequence[_Part], channel: Index) -> Stmt:
    """Add parts of the sums, transform one channel of them back, and run the epilogue."""
    problem, lanes = plan.problem, plan.problem.lanes
    length = emit.shape_of(plan.sums)[3]
    whole, rest = divmod(min(length, problem.outputs), lanes)

    def taps(vector: Index, valid: int) -> Stmt:
        return _taps(plan, parts, channel, vector * lanes, valid)

    full = emit.serial(whole, lambda vector: taps(vector, lanes), "vector")
    return emit.seq(full, taps(whole, rest) if rest else None)


def _taps(plan: _Plan, parts: Sequence[_Part], channel: Index, output: Index, valid: int) -> Stmt:
    problem, lanes = plan.problem, plan.problem.lanes
    ramp = Tile(1, 1, lanes, "float32").ramp

    def load(i: Index, j: Index) -> Expr:
        place = (i * POINTS + j, channel, ramp(output))
        total = plan.sums[(parts[0].task, *place)]
        for part in parts[1:]:
            total = total + plan.sums[(part.task, *place)]
        return total

    def body(results: Buffer) -> Stmt:
        def write(i: Index, j: Index) -> Stmt:
            def lane(position: Index) -> Stmt:
                value = results[j * lanes + position]
                at = parts[0].channel + channel, parts[0].output + output + position
                return emit.store_all(problem.epilogue((i, j, *at), value))

            return emit.vectorized(valid, lane)

        def keep(i: Index, values: Sequence[Expr]) -> Stmt:
            stores = (
                emit.store(results, (ramp(j * lanes),), value) for j, value in enumerate(values)
            )
            return emit.seq(*stores, emit.serial(TAPS, lambda j: write(i, j), "tap"))

        return planar(to_taps, POINTS, lanes, load, keep)

    return emit.local("results", (TAPS * lanes,), "float32", body)
