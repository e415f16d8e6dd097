"""Correlations of each channel with weights of its own: vectors run along the channels.

Images are read where they lie: near the border the taps that see only zeros are left out, by the
range of a loop for rows of taps and by code of its own for the first and the last tile of a row.
(A copy with zeros around it, as other correlations have, is a third of the traffic here.) Only
images with zeros between their elements, or of another dtype than the sums, are copied.

Several problems over one image, the phases of a strided input gradient, run row by row in turns,
so that the rows of the result are written while they are in the cache.

Groups of a few channels run over rows and tiles in the same way (`grouped`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from .axis import Axis
from .correlation import Correlation, Place
from .staging import Stage
from .tile import UNROLLED_EPILOGUE, element_bytes, tasks_for, weight

_PIXELS = 8  # neighbours that are summed at a time
_STREAMED = 4  # images of so many times the second-level cache come from memory

Load = Callable[[Index, Place, Index], Expr]
"""``load(n, element, channel)`` reads an image; `channel` may be a vector of indices."""


@dataclass(frozen=True)
class Spot:
    """What a register tile sums: `count` positions from `start` on, `lanes` results of each.

    Attributes
    ----------
    number, n : Index
        Of the problem and of the image.
    outer : tuple
        The position along all axes but the last.
    channel : Index
        The first of the results.
    """

    number: int
    n: Index
    outer: Place
    start: Index
    count: int
    channel: Index
    lanes: int


Along = Callable[[Correlation, list[Axis], Spot, Load, Buffer, Place], Stmt]
"""Adds to the sums of a tile what is seen through the taps of the last axis, those of the others
being given."""


def depthwise(*problems: Correlation) -> Stmt:
    """Emit correlations of `groups` channels, each a group with one output."""
    lanes = problems[0].machine.lanes(problems[0].dtype)
    problems = tuple(p for p in problems if p.batch * math.prod(p.sizes) * p.groups != 0)
    return over_rows(problems, lanes, _along)


def over_rows(problems: tuple[Correlation, ...], width: int, along: Along) -> Stmt:
    """Run over the rows of images, by tiles of neighbours and blocks of `width` results."""
    if not problems:
        return emit.NOTHING
    images, batch = problems[0].images, problems[0].batch
    wanted = tasks_for(sum(p.work for p in problems), problems[0].machine)
    if any(step != 1 for step in images.dilation) or emit.dtype_of(images.source) != images.dtype:
        return _staged(problems, min(wanted, batch), width, along)
    rows = max(p.sizes[0] for p in problems) if len(images.spatial) > 1 else 1
    tasks = min(wanted, batch * rows)

    def load(n: Index, element: Place, channel: Index) -> Expr:
        return images.source[(n, *element, channel)]

    def task(number: Index) -> Stmt:
        first, count = emit.split_range(batch * rows, tasks, number)

        def row(flat: Index) -> Stmt:
            n, i = emit.unflatten(flat, (batch, rows))

            def line(number: int) -> Stmt:
                p = problems[number]
                row = _Row(p, number, axes_of(p), n, width, load, along).at(i)
                return emit.when(emit.less(i, _rows(p)), row) if _rows(p) < rows else row

            return emit.seq(*map(line, range(len(problems))))

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


def _staged(problems: tuple[Correlation, ...], tasks: int, width: int, along: Along) -> Stmt:
    """Copy each image with its zeros, then see all of the copy."""
    images = problems[0].images

    def body(stage: Stage) -> Stmt:
        def run(task: Index) -> Stmt:
            first, count = emit.split_range(problems[0].batch, tasks, task)

            def load(n: Index, element: Place, channel: Index) -> Expr:
                return stage.load(task, 0, n, element, channel)

            def image(n: Index) -> Stmt:
                def rows(number: int) -> Stmt:
                    p = problems[number]
                    axes = [
                        Axis(count, taps, base, stride, dilation, extent)
                        for count, taps, base, stride, dilation, extent in zip(
                            p.sizes, p.taps, p.base, p.stride, p.dilation, images.extent,
                            strict=True,
                        )
                    ]  # fmt: skip
                    row = _Row(p, number, axes, n, width, load, along)
                    return emit.serial(_rows(p), row.at, "row")

                return emit.seq(stage.fill(task, 0, n), *map(rows, range(len(problems))))

            return emit.seq(stage.clear(task, 1), emit.serial(count, image, "image", first))

        return emit.parallel(tasks, run)

    return images.staged(tasks, 1, body)


@dataclass(frozen=True)
class _Row:
    """All that lies at one position of the first axis, if there is more than one axis."""

    problem: Correlation
    number: int
    axes: list[Axis]
    n: Index
    width: int
    load: Load
    along: Along

    def at(self, first: Index) -> Stmt:
        if len(self.axes) == 1:
            return self._line(())
        return emit.nest(self.problem.sizes[1:-1], lambda at: self._line((first, *at)))

    def _line(self, outer: Place) -> Stmt:
        problem, axes, width = self.problem, self.axes, self.width
        blocks, rest = divmod(problem.groups * problem.outputs, width)

        def tile(start: Index, count: int) -> Stmt:
            def block(channel: Index, lanes: int) -> Stmt:
                return self._tile(Spot(self.number, self.n, outer, start, count, channel, lanes))

            return emit.seq(
                _next_row(problem, axes, self.n, outer, (start, count)),
                emit.serial(blocks, lambda b: block(b * width, width), "block"),
                block(blocks * width, rest) if rest else None,
            )

        return emit.seq(
            *(
                emit.serial(number, lambda j, s=start, c=count: tile(s + j * c, c), "tile")
                for start, count, number in axes[-1].tiles(_PIXELS)
            )
        )

    def _tile(self, spot: Spot) -> Stmt:
        """Neighbouring positions of some results, summed in registers over the taps."""
        problem, axes, count, lanes = self.problem, self.axes, spot.count, spot.lanes

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

            def finish(values: Buffer, i: Index, lane: Index) -> Stmt:
                place = (*spot.outer, spot.start + i)
                indices = problem.target(spot.n, place, spot.channel + lane)
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
                first = problem.target(spot.n, (*spot.outer, spot.start), spot.channel)
                if weight(problem.epilogue(first, sums[0])) > UNROLLED_EPILOGUE:
                    return emit.local("stack", (count * lanes,), problem.dtype, through_stack)
                return every(lambda i, lane: finish(sums, i, lane))

            ranges = [axis.taps_met(p) for axis, p in zip(axes, spot.outer, strict=False)]

            def add(head: Place) -> Stmt:
                return self.along(problem, axes, spot, self.load, sums, head)

            return emit.seq(every(begin), over_ranges(ranges, add), write())

        return emit.local("sums", (count * lanes,), problem.dtype, body)


def seen_of(axes: list[Axis], spot: Spot) -> list[tuple[int, int]]:
    """The (tap of the last axis, position) of a tile that see an element."""
    last = axes[-1]
    return [
        (t, i) for t, i in itertools.product(range(last.taps), range(spot.count))
        if not isinstance(spot.start, int) or last.sees(spot.start + i, t)
    ]  # fmt: skip


def _along(
    problem: Correlation, axes: list[Axis], spot: Spot, load: Load, sums: Buffer, head: Place
) -> Stmt:
    """Taps of the last axis are written out, so that LLVM loads what several see once."""
    lanes, channel, last = spot.lanes, spot.channel, axes[-1]

    def add(tap: int, i: int, lane: Index) -> Stmt:
        element = [axis.element(p, t) for axis, p, t in zip(axes, spot.outer, head, strict=False)]
        seen = load(spot.n, (*element, last.element(spot.start + i, tap)), channel + lane)
        weight = problem.factor((*head, tap), channel + lane, 0, 0)
        return emit.store(sums, (i * lanes + lane,), sums[i * lanes + lane] + seen * weight)

    return emit.seq(
        *(
            emit.vectorized(lanes, lambda lane, t=t, i=i: add(t, i, lane))
            for t, i in seen_of(axes, spot)
        )
    )


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
                return emit.fetch(images.source, (n, row, first + i, b * lanes), level=2)

            return emit.serial(-(-images.channels // lanes), line, "line")

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
