"""Correlations of 3 x 3 taps by minimal filtering: a quarter of the products of the direct sum.

For two spatial axes, stride and dilation 1, one group, images of f32, or of f16 and bf16 that
become so as they are read. Each task takes the tiles of 4 x 4 results of its images block by
block. Of a block

1. the 6 x 6 elements under each tile are transformed (see `minimal`), a vector of channels at a
   time, to 36 matrices ``[tiles, channels]``, which stay in the second-level cache. A square over
   the border is copied to a patch with zeros first;
2. for each panel of outputs, these are multiplied by the 36 matrices ``[channels, outputs]`` that
   the weights were transformed to at the beginning, or before if they are steady (see `kept`);
3. the products are transformed back, and the epilogue stores the results.

Weights much larger than the cache are not read by all tasks: then all tiles are transformed first,
and the tasks share out the panels, each with the weights of its own.

Tiles are counted through all images, so small images and single ones fill blocks alike. (Staging
padded images as the direct template does would cost a pass over the image, a twentieth of the
time with 16 channels.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..kept import is_steady, kept
from .correlation import Correlation
from .minimal import POINTS, RESULTS, TAPS, of_input, of_taps, planar, to_results
from .tile import (
    UNROLLED_EPILOGUE,
    Tile,
    for_row_tiles,
    max_rows,
    tasks_for,
    valid_lanes,
    weight,
)
from .winograd_tiles import SQUARE, Room, Squares, Tiles, deal, grid_of, pitch

_LARGE = 4  # times the second-level cache: weights that tasks should not all read


@dataclass(frozen=True)
class _Weights:
    """Room for the transformed weights of a correlation: ``array[store, point, channel, lane]``."""

    problem: Correlation
    array: Buffer

    @property
    def lanes(self) -> int:
        return self.problem.machine.lanes("float32")


@dataclass(frozen=True)
class _Plan:
    """A correlation, its tiles, and where it keeps what."""

    problem: Correlation
    tiles: Tiles
    inputs: Room
    weights: _Weights
    products: Buffer

    @property
    def lanes(self) -> int:
        return self.problem.machine.lanes("float32")

    @property
    def tallest(self) -> int:
        return max_rows(self.problem.machine, self.problem.vectors)


@dataclass(frozen=True)
class _Block:
    """A block of tiles and a panel that a task works on, and where the operands are.

    `slot` and `row` say which rows of the inputs, `store` which of the weights.
    """

    task: Index
    slot: Index
    row: Index
    panel: Index
    store: Index
    first: Index
    count: Index


def winograd(problem: Correlation) -> Stmt:
    """Emit a correlation that minimal filtering fits; see the module."""
    images, lanes = problem.images, problem.machine.lanes("float32")
    offset = tuple(base - low for base, low in zip(problem.base, images.low, strict=True))
    steady = is_steady(problem.kernel)
    tiles, stationary = _deal(problem)
    squares = Squares(images.source, offset, POINTS, tiles, lanes)
    stores = tiles.tasks if stationary and not steady else problem.panels
    weights_shape = (stores, SQUARE, problem.channels, problem.width)
    products_shape = (tiles.tasks, SQUARE, tiles.block * problem.width + lanes)

    def body(inputs: Room, weights: Buffer, products: Buffer) -> Stmt:
        plan = _Plan(problem, tiles, inputs, _Weights(problem, weights), products)
        return _by_panels(plan, steady) if stationary else _by_tiles(plan)

    def with_weights(inputs: Room, weights: Buffer) -> Stmt:
        return emit.scratch(
            "products", products_shape, "float32", lambda products: body(inputs, weights, products)
        )

    def with_inputs(inputs: Room) -> Stmt:
        if stationary and not steady:  # each task transforms those that it takes
            return emit.scratch(
                "weights", weights_shape, "float32", lambda weights: with_weights(inputs, weights)
            )
        return kept(
            problem.kernel,
            "weights",
            weights_shape,
            "float32",
            lambda weights: _transform(_Weights(problem, weights), tiles.tasks),
            lambda weights: with_weights(inputs, weights),
        )

    if stationary:
        return squares.with_room("inputs", 1, tiles.blocks * tiles.block, with_inputs)
    return squares.with_room("inputs", tiles.tasks, tiles.block, with_inputs)


def _deal(problem: Correlation) -> tuple[Tiles, bool]:
    """The blocks of tiles, and whether tasks should share out panels instead of tiles."""
    machine = problem.machine
    tallest = max_rows(machine, problem.vectors)
    row_bytes = 4 * SQUARE * pitch(problem.channels, machine.lanes("float32"))
    weights_bytes = 4 * SQUARE * problem.channels * problem.panels * problem.width
    tasks = tasks_for(problem.work, machine)
    tiles = problem.batch * math.prod(grid_of(problem.sizes))
    if (
        weights_bytes > _LARGE * machine.l2
        and tiles * row_bytes <= max(machine.l2, machine.l3) // 2
        and problem.panels >= tasks
    ):
        return deal(problem.batch, problem.sizes, 4 * tallest, tallest, tasks), True
    most = machine.l2 // 2 // (row_bytes + 4 * SQUARE * problem.width)
    return deal(problem.batch, problem.sizes, min(most, 4 * tallest), tallest, tasks), False


def _by_tiles(plan: _Plan) -> Stmt:
    """Each task works on tiles of its own, with all weights."""
    problem = plan.problem

    def task(number: Index) -> Stmt:
        def block(first: Index, count: Index) -> Stmt:
            def panel(at: Index) -> Stmt:
                return _panel(plan, _Block(number, number, 0, at, at, first, count))

            return emit.seq(
                plan.inputs.fill(of_input, number, 0, number, (first, count)),
                emit.serial(problem.panels, panel, "panel"),
            )

        return plan.tiles.each_block(number, block)

    return emit.parallel(plan.tiles.tasks, task)


def _by_panels(plan: _Plan, steady: bool) -> Stmt:
    """Each task works on panels of its own, with all tiles: large weights are read by one task."""
    problem, tiles = plan.problem, plan.tiles

    def fill(number: Index) -> Stmt:
        def block(first: Index, count: Index) -> Stmt:
            return plan.inputs.fill(of_input, 0, first, number, (first, count))

        return tiles.each_block(number, block)

    def task(number: Index) -> Stmt:
        def panel(at: Index) -> Stmt:
            store = at if steady else number

            def block(first: Index, count: Index) -> Stmt:
                return _panel(plan, _Block(number, 0, first, at, store, first, count))

            def column(vector: Index) -> Stmt:
                return _transform_column(plan.weights, number, at, vector)

            return emit.seq(
                None if steady else emit.serial(problem.vectors, column),
                tiles.each_block(None, block),
            )

        first, count = emit.split_range(problem.panels, tiles.tasks, number)
        return emit.serial(count, panel, "panel", first)

    return emit.seq(emit.parallel(tiles.tasks, fill), emit.parallel(tiles.tasks, task))


def _panel(plan: _Plan, block: _Block) -> Stmt:
    return emit.seq(_multiply(plan, block), _finish(plan, block))


def _transform(weights: _Weights, tasks: int) -> Stmt:
    """Transform all weights, with a store for each panel."""
    problem = weights.problem

    def column(flat: Index) -> Stmt:
        panel, vector = emit.unflatten(flat, (problem.panels, problem.vectors))
        return _transform_column(weights, panel, panel, vector)

    loop = emit.serial if tasks == 1 else emit.parallel
    return loop(problem.panels * problem.vectors, column, "column")


def _transform_column(weights: _Weights, store: Index, panel: Index, vector: Index) -> Stmt:
    """Transform weights of a vector of outputs, zeros past the last."""
    problem, lanes = weights.problem, weights.lanes
    whole, rest = divmod(problem.outputs, lanes)
    place = panel * problem.vectors + vector

    def channels(count: int) -> Stmt:
        blocks = problem.channels // lanes if problem.transposed and count == lanes > 1 else 0
        done = blocks * lanes

        def block(number: Index) -> Stmt:
            return _transform_block(weights, (store, vector, number * lanes), place * lanes)

        def single(channel: Index) -> Stmt:
            return _transform_taps(weights, (store, vector, channel), place * lanes, count)

        rest = emit.serial(problem.channels - done, single, "channel", done)
        return emit.seq(emit.serial(blocks, block, "block"), rest)

    if problem.panels * problem.vectors == whole:
        return channels(lanes)
    return emit.when(
        emit.less(place, whole),
        channels(lanes),
        emit.when(emit.equal(place, whole), channels(rest), channels(0)),
    )


def _transform_taps(
    weights: _Weights, place: tuple[Index, Index, Index], output: Index, count: int
) -> Stmt:
    """One channel's taps for a vector of outputs, `count` of them valid, read lane by lane."""
    lanes = weights.lanes

    def body(taps: Buffer) -> Stmt:
        def read(at: tuple[Index, ...]) -> Stmt:
            start = (at[0] * TAPS + at[1]) * lanes

            def lane(position: Index) -> Stmt:
                value = weights.problem.factor(at, 0, place[2], output + position)
                return emit.store(taps, (start + position,), value)

            def blank(position: Index) -> Stmt:
                return emit.store(taps, (start + count + position,), emit.constant(0, "float32"))

            return emit.seq(emit.vectorized(count, lane), emit.vectorized(lanes - count, blank))

        return emit.seq(emit.nest((TAPS, TAPS), read), _to_points(weights, place, taps, 0, 1))

    return emit.local("taps", (TAPS * TAPS * lanes,), "float32", body)


def _transform_block(weights: _Weights, place: tuple[Index, Index, Index], output: Index) -> Stmt:
    """As `_transform_taps` for as many channels, which lie side by side, as outputs."""
    lanes, (store, vector, first) = weights.lanes, place

    def body(taps: Buffer) -> Stmt:
        def read(at: tuple[Index, ...]) -> Stmt:
            start = (at[0] * TAPS + at[1]) * lanes
            return emit.transpose_block(
                lambda row, columns: weights.problem.factor(
                    at, 0, first + columns, output + row, lanes
                ),
                lambda column, rows, value: emit.store(
                    taps, ((start + column) * lanes + rows,), value
                ),
                lanes,
            )

        def channel(c: Index) -> Stmt:
            return _to_points(weights, (store, vector, first + c), taps, c, lanes)

        return emit.seq(emit.nest((TAPS, TAPS), read), emit.serial(lanes, channel, "channel"))

    return emit.local("taps", (TAPS * TAPS * lanes * lanes,), "float32", body)


def _to_points(
    weights: _Weights, place: tuple[Index, Index, Index], taps: Buffer, row: Index, rows: int
) -> Stmt:
    """Transform ``taps[tap, row]``, `rows` for each tap, to points of the weights at `place`."""
    lanes, (store, vector, channel) = weights.lanes, place
    ramp = Tile(1, 1, lanes, "float32").ramp

    def load(i: Index, j: Index) -> Expr:
        return taps[ramp(((i * TAPS + j) * rows + row) * lanes)]

    def keep(i: Index, values: Sequence[Expr]) -> Stmt:
        target = (channel, ramp(vector * lanes))
        return emit.seq(
            *(
                emit.store(weights.array, (store, i * POINTS + j, *target), value)
                for j, value in enumerate(values)
            )
        )

    return planar(of_taps, TAPS, lanes, load, keep)


def _multiply(plan: _Plan, block: _Block) -> Stmt:
    """Products of a block for its panel: ``products[task, point, tile * width + lane]``."""
    problem, lanes, inputs = plan.problem, plan.lanes, plan.inputs

    def point(number: Index) -> Stmt:
        def rows(first: Index, height: int) -> Stmt:
            tile = Tile(height, problem.vectors, lanes, "float32")

            def loops(step: Callable[..., Stmt]) -> Stmt:
                def channel(c: Index) -> Stmt:
                    def left(row: int) -> Expr:
                        place = (block.row + first + row) * inputs.squares.pitch + c
                        return inputs.matrices[block.slot, number, place]

                    def right(vector: int) -> Expr:
                        return plan.weights.array[block.store, number, c, tile.ramp(vector * lanes)]

                    return step(left, right)

                return emit.serial(problem.channels, channel, "channel")

            def keep(sums: Buffer, row: int, vector: int) -> Stmt:
                place = tile.ramp((first + row) * problem.width + vector * lanes)
                value = tile.vector(sums, row, vector)
                return emit.store(plan.products, (block.task, number, place), value)

            return tile.reduce(
                loops, lambda sums: tile.each(lambda row, vector: keep(sums, row, vector))
            )

        return for_row_tiles(plan.tiles.block, plan.tallest, rows)

    return emit.serial(SQUARE, point, "point")


def _finish(plan: _Plan, block: _Block) -> Stmt:
    """Transform a block's products back and run the epilogue on the results."""

    def each(valid: list[int]) -> Stmt:
        def tile(number: Index) -> Stmt:
            return emit.seq(
                *(
                    _results(plan, block, number, vector, lanes)
                    for vector, lanes in enumerate(valid)
                    if lanes
                )
            )

        return emit.serial(block.count, tile, "tile")

    full, last = valid_lanes(plan.problem.outputs, plan.problem.width, plan.lanes)
    if full == last:
        return each(full)
    return emit.when(emit.equal(block.panel, plan.problem.panels - 1), each(last), each(full))


def _results(plan: _Plan, block: _Block, number: Index, vector: int, valid: int) -> Stmt:
    """The results of one tile for a vector of outputs."""
    problem, lanes = plan.problem, plan.lanes
    ramp = Tile(1, 1, lanes, "float32").ramp
    n, top, left = plan.tiles.place(block.first + number)
    height, width = problem.sizes

    def load(i: Index, j: Index) -> Expr:
        start = number * problem.width + vector * lanes
        return plan.products[block.task, i * POINTS + j, ramp(start)]

    def body(results: Buffer) -> Stmt:
        def write(i: Index, j: Index) -> Stmt:
            def lane(position: Index) -> Stmt:
                channel = block.panel * problem.width + vector * lanes + position
                indices = problem.target(n, (top + i, left + j), channel)
                value = results[j * lanes + position]
                return emit.store_all(problem.epilogue(indices, value))

            return emit.vectorized(valid, lane)

        def keep(i: Index, values: Sequence[Expr]) -> Stmt:
            stores = (
                emit.store(results, (ramp(j * lanes),), value) for j, value in enumerate(values)
            )
            if width % RESULTS == 0 and _light(problem):
                return emit.seq(*stores, emit.unrolled(RESULTS, lambda j: write(i, j)))
            inside = emit.minimum(RESULTS, width - left)
            return emit.seq(*stores, emit.serial(inside, lambda j: write(i, j), "pixel"))

        rows = RESULTS if height % RESULTS == 0 else emit.minimum(RESULTS, height - top)
        return planar(to_results, POINTS, lanes, load, keep, rows)

    return emit.local("results", (RESULTS * lanes,), "float32", body)


def _light(problem: Correlation) -> bool:
    """Whether the epilogue is short enough to be repeated for each pixel of a row."""
    at = problem.target(0, (0, 0), 0)
    stores = problem.epilogue(at, emit.constant(0, "float32"))
    return weight(stores) <= UNROLLED_EPILOGUE
