"""Kernel gradients where each channel has weights of its own: vectors run along the channels.

A task takes some rows of an image at a time, and of these two vectors of channels; for one row of
taps after another, the sums of all its taps stay in registers while the rows are run over. Images
are read where they lie, as in `depthwise`; taps that see only zeros are left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine
from .axis import Axis
from .depthwise import Load, Place
from .staging import Images, Ints, Stage
from .tile import Epilogue, cast, element_bytes, tasks_for

_PIXELS = 8  # neighbours whose code is written out
_VECTORS = 2  # of channels at a time: enough sums to fill the pipeline
_STREAMED = 16  # images of so many times the second-level cache come from memory
_ROW = 64  # positions after which moving the sums in and out of registers is cheap


@dataclass(frozen=True)
class DepthwiseGrad:
    """``dw[t, c] = sum_(n, p) image[n, element(p, t), c] * dy[n, p, c]``.

    Parameters
    ----------
    images : Images
        The images, as windows see them.
    dy : Buffer
        Cotangents, `[N, *positions, C]`, of at least one element.
    axes : tuple of Axis
        What windows see of the images where they lie; of the staged ones if these must be staged.
    machine : Machine
        What to choose tiles for.
    epilogue : Epilogue
        Gets ``(*tap, 0, channel)``.
    """

    images: Images
    dy: Buffer
    axes: tuple[Axis, ...]
    machine: Machine
    epilogue: Epilogue

    @property
    def dtype(self) -> str:
        return self.images.dtype

    @property
    def lanes(self) -> int:
        return self.machine.lanes(self.dtype)

    @property
    def batch(self) -> int:
        return emit.shape_of(self.dy)[0]

    @property
    def channels(self) -> int:
        return emit.shape_of(self.dy)[-1]

    @property
    def taps(self) -> Ints:
        return tuple(axis.taps for axis in self.axes)

    @property
    def rows(self) -> int:
        """Positions along the first of several axes."""
        return self.axes[0].count if len(self.axes) > 1 else 1

    @property
    def block(self) -> int:
        """Rows that a task takes at a time."""
        others = math.prod(axis.count for axis in self.axes) // self.rows
        return min(self.rows, -(-_ROW // others))

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block)

    @property
    def tasks(self) -> int:
        work = 2 * math.prod(emit.shape_of(self.dy)) * math.prod(self.taps)
        return min(tasks_for(work, self.machine), self.batch * self.blocks)


def depthwise_grad(problem: DepthwiseGrad, *, staged: bool) -> Stmt:
    """Emit the gradient; `staged` says that images are copied with zeros between elements."""
    if not staged:
        source = problem.images.source

        def load(task: Index, n: Index, element: Place, channel: Index) -> Expr:
            return cast(source[(n, *element, channel)], problem.dtype)

        return _with_sums(problem, lambda sums, task: _task(problem, sums, task, load, None))

    def body(stage: Stage) -> Stmt:
        def load(task: Index, n: Index, element: Place, channel: Index) -> Expr:
            return stage.load(task, 0, n, element, channel)

        return _with_sums(problem, lambda sums, task: _task(problem, sums, task, load, stage))

    return problem.images.staged(problem.tasks, 1, body)


def _with_sums(problem: DepthwiseGrad, task: Callable[[Buffer, Index], Stmt]) -> Stmt:
    shape = (problem.tasks, math.prod(problem.taps), problem.channels)
    return emit.scratch(
        "sums",
        shape,
        problem.dtype,
        lambda sums: emit.seq(
            emit.parallel(problem.tasks, lambda number: task(sums, number)),
            _add_up(problem, sums),
        ),
    )


def _task(
    problem: DepthwiseGrad,
    sums: Buffer,
    task: Index,
    load: Callable[[Index, Index, Place, Index], Expr],
    stage: Stage | None,
) -> Stmt:
    zero = emit.constant(0, problem.dtype)
    clear = emit.serial(
        math.prod(problem.taps),
        lambda tap: emit.strips(
            problem.channels, problem.lanes, lambda c: emit.store(sums, (task, tap, c), zero)
        ),
        "tap",
    )
    first, count = emit.split_range(problem.batch * problem.blocks, problem.tasks, task)

    def item(flat: Index) -> Stmt:
        n, block = emit.unflatten(flat, (problem.batch, problem.blocks))
        start = block * problem.block
        length = emit.minimum(problem.block, problem.rows - start)

        def see(image: Index, element: Place, channel: Index) -> Expr:
            return load(task, image, element, channel)

        def channels(channel: Index, vectors: int, width: int) -> Stmt:
            run = _Run(problem, sums, see, task, n, (start, length), channel, vectors, width)
            return emit.seq(_ahead(problem, n, start, channel, vectors * width), run.taps())

        fill = stage.fill(task, 0, n) if stage else None
        return emit.seq(fill, _over_channels(problem, channels))

    border = stage.clear(task, 1) if stage else None
    return emit.seq(clear, border, emit.serial(count, item, "block", first))


def _ahead(problem: DepthwiseGrad, n: Index, start: Index, channel: Index, channels: int) -> Stmt:
    """Fetch a share of the next rows, as large as that of these channels, as it lies in memory.

    The rows are used by a few channels at a time, of which the processor makes out no stream: a
    quarter faster for 8x112x112x96.
    """
    shape = emit.shape_of(problem.images.source)
    nbytes = math.prod(shape) * element_bytes(problem.dtype)
    if nbytes < _STREAMED * problem.machine.l2 or len(problem.axes) != 2:
        return emit.NOTHING
    axis, rows = problem.axes[0], problem.block

    def fetch(buffer: Buffer, row: Index, pixels: int) -> Stmt:
        begin, count = channel * pixels, -(-pixels * channels // problem.lanes)
        return emit.serial(
            count, lambda i: emit.prefetch(buffer[(n, row, 0, begin + i * problem.lanes)]), "line"
        )

    images = fetch(
        problem.images.source,
        axis.element(start + rows, axis.taps - 1) - axis.stride + 1,
        rows * axis.stride * shape[2],
    )
    return emit.seq(images, fetch(problem.dy, start + rows, rows * problem.axes[1].count))


def _over_channels(problem: DepthwiseGrad, body: Callable[[Index, int, int], Stmt]) -> Stmt:
    """Run ``body(first channel, vectors, lanes)`` over all channels."""
    lanes, width = problem.lanes, problem.lanes * _VECTORS
    blocks, rest = divmod(problem.channels, width)
    vectors, tail = divmod(rest, lanes)
    return emit.seq(
        emit.serial(blocks, lambda b: body(b * width, _VECTORS, lanes), "channels"),
        body(blocks * width, vectors, lanes) if vectors else None,
        body(problem.channels - tail, 1, tail) if tail else None,
    )


@dataclass(frozen=True)
class _Run:
    """What some rows of an image add to the sums of some channels."""

    problem: DepthwiseGrad
    sums: Buffer
    load: Load
    task: Index
    n: Index
    rows: tuple[Index, Index]
    channel: Index
    vectors: int
    lanes: int

    def taps(self) -> Stmt:
        """All rows of taps, one after another."""
        return emit.nest(self.problem.taps[:-1], self._row_of_taps)

    def _row_of_taps(self, head: Place) -> Stmt:
        last = self.problem.axes[-1]
        flat: Index = 0
        for tap, taps in zip(head, self.problem.taps, strict=False):
            flat = flat * taps + tap
        places = list(itertools.product(range(last.taps), range(self.vectors)))

        def move(body: Callable[[int, Expr, Index], Stmt]) -> Stmt:
            def lane(tap: int, vector: int, lane: Index) -> Stmt:
                place = self._place(tap, vector) + lane
                channel = self.channel + vector * self.lanes + lane
                return body(place, flat * last.taps + tap, channel)

            return emit.seq(
                *(
                    emit.vectorized(self.lanes, lambda j, t=tap, v=vector: lane(t, v, j))
                    for tap, vector in places
                )
            )

        def body(held: Buffer) -> Stmt:
            begin = move(
                lambda place, tap, c: emit.store(held, (place,), self.sums[self.task, tap, c])
            )
            end = move(
                lambda place, tap, c: emit.store(self.sums, (self.task, tap, c), held[place])
            )
            return emit.seq(begin, self._positions(held, head, ()), end)

        return emit.local("held", (len(places) * self.lanes,), self.problem.dtype, body)

    def _place(self, tap: int, vector: int) -> int:
        return (tap * self.vectors + vector) * self.lanes

    def _positions(self, held: Buffer, head: Place, outer: Place) -> Stmt:
        """Loops over all positions that see an element through the taps `head`."""
        axis = self.problem.axes[len(outer)]
        if len(outer) == len(self.problem.axes) - 1:
            return emit.seq(
                *(
                    emit.serial(
                        number,
                        lambda j, s=start, c=count: self._tile(held, head, outer, s + j * c, c),
                        "tile",
                    )
                    for start, count, number in axis.tiles(_PIXELS)
                )
            )
        first, length = axis.positions_met(head[len(outer)])
        if not outer:
            end = emit.minimum(first + length, self.rows[0] + self.rows[1])
            first = emit.maximum(first, self.rows[0])
            length = emit.maximum(0, end - first)
        return emit.serial(length, lambda p: self._positions(held, head, (*outer, p)), "row", first)

    def _tile(self, held: Buffer, head: Place, outer: Place, start: Index, count: int) -> Stmt:
        problem, last = self.problem, self.problem.axes[-1]
        rows = [
            axis.element(p, tap) for axis, p, tap in zip(problem.axes, outer, head, strict=False)
        ]

        def add(vector: int, i: int, tap: int, lane: Index) -> Stmt:
            channel = self.channel + vector * self.lanes + lane
            seen = self.load(self.n, (*rows, last.element(start + i, tap)), channel)
            cotangent = cast(problem.dy[(self.n, *outer, start + i, channel)], problem.dtype)
            place = self._place(tap, vector) + lane
            return emit.store(held, (place,), held[place] + seen * cotangent)

        return emit.seq(
            *(
                emit.vectorized(self.lanes, lambda lane, v=v, i=i, t=t: add(v, i, t, lane))
                for v, i, t in itertools.product(
                    range(self.vectors), range(count), range(last.taps)
                )
                if not isinstance(start, int) or last.sees(start + i, t)
            )
        )


def _add_up(problem: DepthwiseGrad, sums: Buffer) -> Stmt:
    """Add the tasks' sums and hand the results to the epilogue."""

    def tap(flat: Index) -> Stmt:
        def element(channel: Index) -> Stmt:
            total = sums[0, flat, channel]
            for task in range(1, problem.tasks):
                total = total + sums[task, flat, channel]
            indices = (*emit.unflatten(flat, problem.taps), 0, channel)
            return emit.store_all(problem.epilogue(indices, total))

        return emit.strips(problem.channels, problem.lanes, element)

    return emit.serial(math.prod(problem.taps), tap, "tap")
