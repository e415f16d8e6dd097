"""Correlations of each channel with weights of its own: vectors run along the channels."""

from __future__ import annotations

import math
from collections.abc import Callable

from .. import emit
from ..emit import Buffer, Index, Stmt
from .correlation import Correlation, Place
from .staging import Stage
from .tile import for_row_tiles, tasks_for


def depthwise(problem: Correlation) -> Stmt:
    """Emit a correlation of `groups` channels, each a group with one output."""
    if problem.batch * math.prod(problem.sizes) * problem.groups == 0:
        return emit.NOTHING
    tasks = min(tasks_for(problem.work, problem.machine), problem.batch)

    def body(stage: Stage) -> Stmt:
        def task(number: Index) -> Stmt:
            first, count = emit.split_range(problem.batch, tasks, number)

            def image(n: Index) -> Stmt:
                return emit.seq(stage.fill(number, 0, n), _image(problem, stage, number, n))

            return emit.seq(stage.clear(number, 1), emit.serial(count, image, "image", first))

        return emit.parallel(tasks, task)

    return problem.images.staged(tasks, 1, body)


def _image(problem: Correlation, stage: Stage, task: Index, n: Index) -> Stmt:
    lanes = problem.machine.lanes(problem.dtype)
    blocks, rest = divmod(problem.groups, lanes)

    def row(at: Place) -> Stmt:
        def tile(first: Index, count: int) -> Stmt:
            def block(number: Index) -> Stmt:
                return _tile(problem, stage, task, n, (*at, first), count, number * lanes, lanes)

            last = _tile(problem, stage, task, n, (*at, first), count, blocks * lanes, rest)
            return emit.seq(emit.serial(blocks, block, "block"), last if rest else None)

        return for_row_tiles(problem.sizes[-1], 8, tile)

    return emit.nest(problem.sizes[:-1], row)


def _tile(
    problem: Correlation,
    stage: Stage,
    task: Index,
    n: Index,
    at: Place,
    count: int,
    channel: Index,
    lanes: int,
) -> Stmt:
    """Neighbouring positions (`count`) of `lanes` channels, summed in registers over the taps."""
    pixels = [(*at[:-1], at[-1] + i) for i in range(count)]

    def body(sums: Buffer) -> Stmt:
        def every(statement: Callable[[int, Index], Stmt]) -> Stmt:
            return emit.seq(
                *(
                    emit.vectorized(lanes, lambda lane, i=i: statement(i, lane))
                    for i in range(count)
                )
            )

        def start(i: int, lane: Index) -> Stmt:
            return emit.store(sums, (i * lanes + lane,), emit.constant(0, problem.dtype))

        def tap(taps: Place) -> Stmt:
            def add(i: int, lane: Index) -> Stmt:
                position = problem.position(pixels[i], taps)
                seen = stage.load(task, 0, n, position, channel + lane)
                weight = problem.factor(taps, channel + lane, 0, 0)
                return emit.store(sums, (i * lanes + lane,), sums[i * lanes + lane] + seen * weight)

            return every(add)

        def finish(i: int, lane: Index) -> Stmt:
            indices = problem.target(n, pixels[i], channel + lane)
            return emit.store_all(problem.epilogue(indices, sums[i * lanes + lane]))

        return emit.seq(every(start), emit.nest(problem.taps, tap), every(finish))

    return emit.local("sums", (count * lanes,), problem.dtype, body)
