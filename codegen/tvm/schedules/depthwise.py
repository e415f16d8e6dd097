"""Correlations of each channel with weights of its own: vectors run along the channels.

Images are read where they lie: near the border the taps that see only zeros are left out, by the
range of a loop for rows of taps and by code of its own for the first and the last tile of a row.
(A copy with zeros around it, as other correlations have, is a third of the traffic here.) Only
images with zeros between their elements, or of another dtype than the sums, are copied.

Several problems over one image, the phases of a strided input gradient, run row by row in turns,
so that the rows of the result are written while they are in the cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from .axis import Axis
from .correlation import Correlation, Place
from .staging import Stage
from .tile import UNROLLED_EPILOGUE, element_bytes, tasks_for, weight

_PIXELS = 8  # neighbours that are summed at a time
_STREAMED = 4  # images of so many times the second-level cache come from memory

Load = Callable[[Index, Place, Index], Expr]


def depthwise(*problems: Correlation) -> Stmt:
    """Emit correlations of `groups` channels, each a group with one output."""
    problems = tuple(p for p in problems if p.batch * math.prod(p.sizes) * p.groups != 0)
    if not problems:
        return emit.NOTHING
    images, batch = problems[0].images, problems[0].batch
    wanted = tasks_for(sum(p.work for p in problems), problems[0].machine)
    if any(step != 1 for step in images.dilation) or emit.dtype_of(images.source) != images.dtype:
        return _staged(problems, min(wanted, batch))
    rows = max(p.sizes[0] for p in problems) if len(images.spatial) > 1 else 1
    tasks = min(wanted, batch * rows)

    def load(n: Index, element: Place, channel: Index) -> Expr:
        return images.source[(n, *element, channel)]

    def task(number: Index) -> Stmt:
        first, count = emit.split_range(batch * rows, tasks, number)

        def row(flat: Index) -> Stmt:
            n, i = emit.unflatten(flat, (batch, rows))
            return emit.seq(
                *(
                    emit.when(emit.less(i, _rows(p)), _row(p, axes_of(p), n, i, load))
                    if _rows(p) < rows
                    else _row(p, axes_of(p), n, i, load)
                    for p in problems
                )
            )

        return emit.serial(count, row, "row", first)

    return emit.parallel(tasks, task)


def axes_of(problem: Correlation) -> list[Axis]:
    """The spatial axes of a correlation that reads its images where they lie."""
    images = problem.images
    return [
        Axis(count, taps, base - low, stride, dilation, size)
        for count, taps, base, low, stride, dilation, size in zip(
            problem.sizes,
            problem.taps,
            problem.base,
            images.low,
            problem.stride,
            problem.dilation,
            images.spatial,
            strict=True,
        )
    ]


def _rows(problem: Correlation) -> int:
    return problem.sizes[0] if len(problem.sizes) > 1 else 1


def _staged(problems: tuple[Correlation, ...], tasks: int) -> Stmt:
    """Copy each image with its zeros, then see all of the copy."""
    images = problems[0].images

    def body(stage: Stage) -> Stmt:
        def task(number: Index) -> Stmt:
            first, count = emit.split_range(problems[0].batch, tasks, number)

            def load(n: Index, element: Place, channel: Index) -> Expr:
                return stage.load(number, 0, n, element, channel)

            def image(n: Index) -> Stmt:
                def rows(p: Correlation) -> Stmt:
                    axes = [
                        Axis(count, taps, base, stride, dilation, extent)
                        for count, taps, base, stride, dilation, extent in zip(
                            p.sizes, p.taps, p.base, p.stride, p.dilation, images.extent,
                            strict=True,
                        )
                    ]  # fmt: skip
                    return emit.serial(_rows(p), lambda i: _row(p, axes, n, i, load), "row")

                return emit.seq(stage.fill(number, 0, n), *map(rows, problems))

            return emit.seq(stage.clear(number, 1), emit.serial(count, image, "image", first))

        return emit.parallel(tasks, task)

    return images.staged(tasks, 1, body)


def _row(problem: Correlation, axes: list[Axis], n: Index, first: Index, load: Load) -> Stmt:
    """All that lies at one position of the first axis, if there is more than one axis."""
    lanes = problem.machine.lanes(problem.dtype)
    blocks, rest = divmod(problem.groups, lanes)

    def line(outer: Place) -> Stmt:
        def tile(start: Index, count: int) -> Stmt:
            def block(channel: Index, width: int) -> Stmt:
                return _tile(problem, axes, n, outer, (start, count), (channel, width), load)

            return emit.seq(
                _next_row(problem, axes, n, outer, (start, count)),
                emit.serial(blocks, lambda b: block(b * lanes, lanes), "block"),
                block(blocks * lanes, rest) if rest else None,
            )

        return emit.seq(
            *(
                emit.serial(number, lambda j, s=start, c=count: tile(s + j * c, c), "tile")
                for start, count, number in axes[-1].tiles(_PIXELS)
            )
        )

    if len(axes) == 1:
        return line(())
    return emit.nest(problem.sizes[1:-1], lambda at: line((first, *at)))


def _tile(
    problem: Correlation,
    axes: list[Axis],
    n: Index,
    outer: Place,
    pixels: tuple[Index, int],
    block: tuple[Index, int],
    load: Load,
) -> Stmt:
    """Neighbouring positions of some channels, summed in registers over the taps.

    Taps of the last axis are written out, so that LLVM loads what several of them see once.
    """
    (start, count), (channel, lanes) = pixels, block
    last = axes[-1]

    def body(sums: Buffer) -> Stmt:
        def every(statement: Callable[[int, Index], Stmt]) -> Stmt:
            return emit.seq(
                *(
                    emit.vectorized(lanes, lambda lane, i=i: statement(i, lane))
                    for i in range(count)
                )
            )

        def begin(i: int, lane: Index) -> Stmt:
            return emit.store(sums, (i * lanes + lane,), emit.constant(0, problem.dtype))

        def add(head: Place, tap: int, i: int, lane: Index) -> Stmt:
            element = [axis.element(p, t) for axis, p, t in zip(axes, outer, head, strict=False)]
            seen = load(n, (*element, last.element(start + i, tap)), channel + lane)
            weight = problem.factor((*head, tap), channel + lane, 0, 0)
            return emit.store(sums, (i * lanes + lane,), sums[i * lanes + lane] + seen * weight)

        def along(head: Place) -> Stmt:
            return emit.seq(
                *(
                    emit.vectorized(lanes, lambda lane, t=t, i=i: add(head, t, i, lane))
                    for t, i in itertools.product(range(last.taps), range(count))
                    if not isinstance(start, int) or last.sees(start + i, t)
                )
            )

        def finish(values: Buffer, i: Index, lane: Index) -> Stmt:
            indices = problem.target(n, (*outer, start + i), channel + lane)
            return emit.store_all(problem.epilogue(indices, values[i * lanes + lane]))

        def through_stack(stack: Buffer) -> Stmt:
            """A long epilogue is there once, in a loop."""
            copy = every(
                lambda i, lane: emit.store(stack, (i * lanes + lane,), sums[i * lanes + lane])
            )

            def pixel(i: Index) -> Stmt:
                return emit.vectorized(lanes, lambda lane: finish(stack, i, lane))

            return emit.seq(copy, emit.serial(count, pixel, "pixel"))

        def write() -> Stmt:
            first = problem.target(n, (*outer, start), channel)
            if weight(problem.epilogue(first, sums[0])) > UNROLLED_EPILOGUE:
                return emit.local("stack", (count * lanes,), problem.dtype, through_stack)
            return every(lambda i, lane: finish(sums, i, lane))

        ranges = [axis.taps_met(p) for axis, p in zip(axes, outer, strict=False)]
        return emit.seq(every(begin), over_ranges(ranges, along), write())

    return emit.local("sums", (count * lanes,), problem.dtype, body)


def _next_row(
    problem: Correlation, axes: list[Axis], n: Index, outer: Place, pixels: tuple[Index, int]
) -> Stmt:
    """Fetch what the tile below sees first, as it lies, where images come from memory.

    It comes to the second-level cache: the first one is full of the rows that are seen now.
    """
    images = problem.images
    nbytes = math.prod(emit.shape_of(images.source)) * element_bytes(images.dtype)
    if len(outer) != 1 or nbytes < _STREAMED * problem.machine.l2:
        return emit.NOTHING
    (start, count), stride = pixels, axes[1].stride
    lanes = problem.machine.lanes(images.dtype)

    def fetch(row: Index) -> Stmt:
        first = start * stride

        def pixel(i: Index) -> Stmt:
            def line(b: Index) -> Stmt:
                return emit.prefetch(images.source[(n, row, first + i, b * lanes)], level=2)

            return emit.serial(-(-problem.groups // lanes), line, "line")

        return emit.serial(count * stride, pixel, "pixel")

    below = axes[0].element(outer[0] + 1, axes[0].taps - 1)
    return emit.seq(*(fetch(below - i) for i in range(axes[0].stride)))


def over_ranges(
    ranges: list[tuple[Index, Index]], body: Callable[[Place], Stmt], at: Place = ()
) -> Stmt:
    """Nest loops over ranges (first, number)."""
    if len(at) == len(ranges):
        return body(at)
    start, length = ranges[len(at)]
    return emit.serial(length, lambda t: over_ranges(ranges, body, (*at, t)), "tap", start)
