"""Correlations of 3 x 3 taps by minimal filtering: a quarter of the products of the direct sum.

For f32 images, two spatial axes, stride and dilation 1, one group. Each task takes the tiles of
4 x 4 results of its images block by block. Of a block

1. the 6 x 6 elements under each tile are transformed (see `minimal`), a vector of channels at a
   time, to 36 matrices ``[tiles, channels]``, which stay in the second-level cache. A square over
   the border is copied to a patch with zeros first;
2. for each panel of outputs, these are multiplied by the 36 matrices ``[channels, outputs]`` that
   the weights were transformed to at the beginning;
3. the products are transformed back, and the epilogue stores the results.

Tiles are counted through all images, so small images and single ones fill blocks alike. (Staging
padded images as the direct template does would cost a pass over the image, a twentieth of the
time with 16 channels.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
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
from .winograd_tiles import SQUARE, Room, Squares, Tiles, deal, pitch


@dataclass(frozen=True)
class _Plan:
    """A correlation, its tiles, and where it keeps what."""

    problem: Correlation
    tiles: Tiles
    inputs: Room
    weights: Buffer
    products: Buffer

    @property
    def lanes(self) -> int:
        return self.problem.machine.lanes("float32")

    @property
    def tallest(self) -> int:
        return max_rows(self.problem.machine, self.problem.vectors)


def winograd(problem: Correlation) -> Stmt:
    """Emit a correlation that minimal filtering fits; see the module."""
    images, lanes = problem.images, problem.machine.lanes("float32")
    offset = tuple(base - low for base, low in zip(problem.base, images.low, strict=True))
    tiles = _deal(problem)
    squares = Squares(images.source, offset, POINTS, tiles, lanes)
    weights_shape = (problem.panels, SQUARE, problem.channels, problem.width)
    products_shape = (tiles.tasks, SQUARE, tiles.block * problem.width + lanes)

    def body(inputs: Room, weights: Buffer, products: Buffer) -> Stmt:
        plan = _Plan(problem, tiles, inputs, weights, products)
        return emit.seq(
            _transform_weights(plan), emit.parallel(tiles.tasks, lambda task: _task(plan, task))
        )

    def with_weights(inputs: Room, weights: Buffer) -> Stmt:
        return emit.scratch(
            "products", products_shape, "float32", lambda products: body(inputs, weights, products)
        )

    def with_inputs(inputs: Room) -> Stmt:
        return emit.scratch(
            "weights", weights_shape, "float32", lambda weights: with_weights(inputs, weights)
        )

    return squares.with_room("inputs", tiles.tasks, with_inputs)


def _deal(problem: Correlation) -> Tiles:
    machine = problem.machine
    tallest = max_rows(machine, problem.vectors)
    tile_bytes = 4 * SQUARE * (pitch(problem.channels, machine.lanes("float32")) + problem.width)
    most = min(machine.l2 // 2 // tile_bytes, 4 * tallest)
    tasks = tasks_for(problem.work, machine)
    return deal(problem.batch, problem.sizes, most, tallest, tasks)


def _task(plan: _Plan, task: Index) -> Stmt:
    def block(first: Index, count: Index) -> Stmt:
        def panel(number: Index) -> Stmt:
            return emit.seq(
                _multiply(plan, task, number), _finish(plan, task, number, (first, count))
            )

        return emit.seq(
            plan.inputs.fill(of_input, task, task, (first, count)),
            emit.serial(plan.problem.panels, panel, "panel"),
        )

    return plan.tiles.each_block(task, block)


def _transform_weights(plan: _Plan) -> Stmt:
    """Transform the weights to ``weights[panel, point, channel, lane]``, zeros past the last."""
    problem, lanes = plan.problem, plan.lanes
    whole, rest = divmod(problem.outputs, lanes)

    def column(flat: Index) -> Stmt:
        panel, number = emit.unflatten(flat, (problem.panels, problem.vectors))

        def channels(count: int) -> Stmt:
            return emit.serial(
                problem.channels,
                lambda c: _transform_taps(plan, (panel, number, c), flat * lanes, count),
                "channel",
            )

        if problem.panels * problem.vectors == whole:
            return channels(lanes)
        return emit.when(
            emit.less(flat, whole),
            channels(lanes),
            emit.when(emit.equal(flat, whole), channels(rest), channels(0)),
        )

    loop = emit.serial if tasks_for(problem.work, problem.machine) == 1 else emit.parallel
    return loop(problem.panels * problem.vectors, column, "column")


def _transform_taps(
    plan: _Plan, place: tuple[Index, Index, Index], output: Index, count: int
) -> Stmt:
    """One channel's taps for a vector of outputs, `count` of them valid."""
    lanes, (panel, number, channel) = plan.lanes, place
    ramp = Tile(1, 1, lanes, "float32").ramp

    def body(taps: Buffer) -> Stmt:
        def read(at: tuple[Index, ...]) -> Stmt:
            start = (at[0] * TAPS + at[1]) * lanes

            def lane(position: Index) -> Stmt:
                value = plan.problem.weight(at, 0, channel, output + position)
                return emit.store(taps, (start + position,), value)

            def blank(position: Index) -> Stmt:
                return emit.store(taps, (start + count + position,), emit.constant(0, "float32"))

            return emit.seq(emit.vectorized(count, lane), emit.vectorized(lanes - count, blank))

        def load(i: Index, j: Index) -> Expr:
            return taps[ramp((i * TAPS + j) * lanes)]

        def keep(i: Index, values: Sequence[Expr]) -> Stmt:
            return emit.seq(
                *(
                    emit.store(
                        plan.weights, (panel, i * POINTS + j, channel, ramp(number * lanes)), value
                    )
                    for j, value in enumerate(values)
                )
            )

        return emit.seq(emit.nest((TAPS, TAPS), read), planar(of_taps, TAPS, lanes, load, keep))

    return emit.local("taps", (TAPS * TAPS * lanes,), "float32", body)


def _multiply(plan: _Plan, task: Index, panel: Index) -> Stmt:
    """Products of a block for one panel: ``products[task, point, tile * width + lane]``."""
    problem, lanes, inputs = plan.problem, plan.lanes, plan.inputs

    def point(number: Index) -> Stmt:
        def rows(first: Index, height: int) -> Stmt:
            tile = Tile(height, problem.vectors, lanes, "float32")

            def loops(step: Callable[..., Stmt]) -> Stmt:
                def channel(c: Index) -> Stmt:
                    return step(
                        lambda row: inputs.matrices[
                            task, number, (first + row) * inputs.squares.pitch + c
                        ],
                        lambda vector: plan.weights[panel, number, c, tile.ramp(vector * lanes)],
                    )

                return emit.serial(problem.channels, channel, "channel")

            def keep(sums: Buffer, row: int, vector: int) -> Stmt:
                place = tile.ramp((first + row) * problem.width + vector * lanes)
                value = tile.vector(sums, row, vector)
                return emit.store(plan.products, (task, number, place), value)

            return tile.reduce(
                loops, lambda sums: tile.each(lambda row, vector: keep(sums, row, vector))
            )

        return for_row_tiles(plan.tiles.block, plan.tallest, rows)

    return emit.serial(SQUARE, point, "point")


def _finish(plan: _Plan, task: Index, panel: Index, tiles: tuple[Index, Index]) -> Stmt:
    """Transform a block's products back and run the epilogue on the results."""
    first, count = tiles

    def each(valid: list[int]) -> Stmt:
        def tile(number: Index) -> Stmt:
            return emit.seq(
                *(
                    _results(plan, (task, panel, vector), number, first + number, lanes)
                    for vector, lanes in enumerate(valid)
                    if lanes
                )
            )

        return emit.serial(count, tile, "tile")

    full, last = valid_lanes(plan.problem.outputs, plan.problem.width, plan.lanes)
    if full == last:
        return each(full)
    return emit.when(emit.equal(panel, plan.problem.panels - 1), each(last), each(full))


def _results(
    plan: _Plan, place: tuple[Index, Index, int], number: Index, tile: Index, valid: int
) -> Stmt:
    """The results of one tile for a vector of outputs."""
    problem, lanes, (task, panel, vector) = plan.problem, plan.lanes, place
    ramp = Tile(1, 1, lanes, "float32").ramp
    n, top, left = plan.tiles.place(tile)
    height, width = problem.sizes

    def load(i: Index, j: Index) -> Expr:
        start = number * problem.width + vector * lanes
        return plan.products[task, i * POINTS + j, ramp(start)]

    def body(results: Buffer) -> Stmt:
        def write(i: Index, j: Index) -> Stmt:
            def lane(position: Index) -> Stmt:
                channel = panel * problem.width + vector * lanes + position
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
