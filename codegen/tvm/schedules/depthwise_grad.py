"""Kernel gradients where each channel has weights of its own: vectors run along the channels.

Groups of a few channels have vectors of several groups' cotangents, as in `grouped`: the sums are
one vector for each tap and channel of a group.

A task runs over the rows of images, and tile by tile over the positions of a row; vector by vector
of channels it adds what a tile sees to the sums of one row of taps after another. The sums lie in
the first-level cache, in registers while a tile is added. (To hold the sums of some channels in
registers while whole rows are run over takes fewer loads, but half of the time of what comes from
the second or third cache is lost, for a few channels of each position are read at a time.) Images
are read where they lie, as in `depthwise`; taps that see only zeros are left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import tvm

from .. import emit
from ..emit import Buffer, Expr, Index, Operand, Stmt
from ..target import Machine
from .axis import Axis
from .depthwise import Load, Place, over_ranges
from .grouped import block_width, own_channel
from .staging import Images, Ints, Stage
from .tile import Epilogue, cast, element_bytes, neighbours, tasks_for

_PIXELS = 8  # neighbours whose code is written out
_SUMS = 4  # one part in so many of the first-level cache is for sums
_STREAMED = 4  # images of so many times the second-level cache come from memory
_ROW = 64  # positions after which going on to other channels is cheap
_HELD = 24  # vectors of sums in registers


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
        Gets ``(*tap, channel of the group, result)``.
    group : tuple of int
        Channels and results of a group.
    """

    images: Images
    dy: Buffer
    axes: tuple[Axis, ...]
    machine: Machine
    epilogue: Epilogue
    group: tuple[int, int] = (1, 1)

    @property
    def dtype(self) -> str:
        return self.images.dtype

    @property
    def lanes(self) -> int:
        """Results of whole groups in a vector."""
        outputs = self.group[1]
        return block_width(self.channels // outputs, outputs, self.machine.lanes(self.dtype))

    @property
    def terms(self) -> int:
        """Sums of one result: taps and channels of its group."""
        return math.prod(self.taps) * self.group[0]

    @property
    def batch(self) -> int:
        return emit.shape_of(self.dy)[0]

    @property
    def channels(self) -> int:
        """Of the cotangents."""
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
    def groups(self) -> int:
        """Parts of the channels whose sums fit their share of the first-level cache."""
        nbytes = self.terms * self.channels * element_bytes(self.dtype)
        return max(1, min(-(-nbytes * _SUMS // self.machine.l1), self.channels // self.lanes))

    @property
    def tasks(self) -> int:
        work = 2 * math.prod(emit.shape_of(self.dy)) * self.terms
        return min(tasks_for(work, self.machine), self.batch * self.blocks)


def depthwise_grad(problem: DepthwiseGrad, *, staged: bool) -> Stmt:
    """Emit the gradient; `staged` says that images are copied with zeros between elements."""
    if not staged:
        source = problem.images.source

        def load(task: Index, n: Index, element: Place, channel: Index) -> Expr:
            value = source[(n, *element, channel)]
            return cast(value, problem.dtype, tvm.DataType(str(value.ty)).lanes)

        return _with_sums(problem, lambda sums, task: _task(problem, sums, task, load, None))

    def body(stage: Stage) -> Stmt:
        def load(task: Index, n: Index, element: Place, channel: Index) -> Expr:
            return stage.load(task, 0, n, element, channel)

        return _with_sums(problem, lambda sums, task: _task(problem, sums, task, load, stage))

    return problem.images.staged(problem.tasks, 1, body)


def _with_sums(problem: DepthwiseGrad, task: Callable[[Buffer, Index], Stmt]) -> Stmt:
    shape = (problem.tasks, problem.terms, problem.channels)
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
        problem.terms,
        lambda term: emit.strips(
            problem.channels, problem.lanes, lambda c: emit.store(sums, (task, term, c), zero)
        ),
        "term",
    )
    first, count = emit.split_range(problem.batch * problem.blocks, problem.tasks, task)

    def item(flat: Index) -> Stmt:
        n, block = emit.unflatten(flat, (problem.batch, problem.blocks))
        start = block * problem.block
        length = emit.minimum(problem.block, problem.rows - start)

        def see(image: Index, element: Place, channel: Index) -> Expr:
            return load(task, image, element, channel)

        def channels(part: _Part) -> Stmt:
            return _Run(problem, sums, see, task, n, (start, length), part).positions(())

        fill = stage.fill(task, 0, n) if stage else None
        return emit.seq(fill, _over_channels(problem, channels))

    border = stage.clear(task, 1) if stage else None
    return emit.seq(clear, border, emit.serial(count, item, "block", first))


@dataclass(frozen=True)
class _Part:
    """Channels from `first` on, in `vectors` of so many lanes."""

    first: Index
    vectors: Index
    lanes: int


def _over_channels(problem: DepthwiseGrad, body: Callable[[_Part], Stmt]) -> Stmt:
    """Run `body` over all channels, in groups whose sums stay near, and what makes no vector."""
    whole, tail = divmod(problem.channels, problem.lanes)

    def group(number: Index) -> Stmt:
        start, count = emit.split_range(whole, problem.groups, number)
        return body(_Part(start * problem.lanes, count, problem.lanes))

    return emit.seq(
        emit.serial(problem.groups, group, "group") if whole else None,
        body(_Part(problem.channels - tail, 1, tail)) if tail else None,
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
    part: _Part

    def positions(self, outer: Place) -> Stmt:
        """Loops over the positions, those of the last axis in tiles."""
        axis = self.problem.axes[len(outer)]
        if len(outer) < len(self.problem.axes) - 1:
            start, length = (0, axis.count) if outer else self.rows
            return emit.serial(length, lambda p: self.positions((*outer, p)), "row", start)
        return emit.seq(
            *(
                emit.serial(
                    number, lambda j, s=start, c=count: self._tile(outer, s + j * c, c), "tile"
                )
                for start, count, number in axis.tiles(_PIXELS)
            )
        )

    def _tile(self, outer: Place, start: Index, count: int) -> Stmt:
        """Neighbouring positions: all vectors of channels, and of each all rows of taps."""
        axes = self.problem.axes
        ranges = [axis.taps_met(p) for axis, p in zip(axes, outer, strict=False)]

        def vector(number: Index) -> Stmt:
            channel = self.part.first + number * self.part.lanes
            return over_ranges(
                ranges, lambda head: self._row_of_taps(head, outer, (start, count), channel)
            )

        return emit.seq(
            self._ahead(outer, start, count), emit.serial(self.part.vectors, vector, "vector")
        )

    def _row_of_taps(
        self, head: Place, outer: Place, pixels: tuple[Index, int], channel: Index
    ) -> Stmt:
        last, channels = self.problem.axes[-1], self.problem.group[0]
        flat: Index = 0
        for tap, taps in zip(head, self.problem.taps, strict=False):
            flat = flat * taps + tap
        at_once = max(1, min(channels, _HELD // max(1, last.taps)))
        return emit.seq(
            *(
                self._terms(flat, head, outer, pixels, channel, chosen)
                for first in range(0, channels, at_once)
                for chosen in [range(first, min(channels, first + at_once))]
            )
        )

    def _terms(
        self, flat: Index, head: Place, outer: Place, pixels: tuple[Index, int], channel: Index,
        chosen: range,
    ) -> Stmt:  # fmt: skip
        """What is added for some channels of each group, and all taps of the last axis."""
        lanes, last, channels = self.part.lanes, self.problem.axes[-1], self.problem.group[0]

        def move(body: Callable[[Index, Index, Index], Stmt]) -> Stmt:
            return emit.seq(
                *(
                    emit.vectorized(lanes, lambda lane, at=at, term=term: body(at, term, lane))
                    for t, (number, c) in itertools.product(range(last.taps), enumerate(chosen))
                    for at in [(t * len(chosen) + number) * lanes]
                    for term in [(flat * last.taps + t) * channels + c]
                )
            )

        def body(held: Buffer) -> Stmt:
            sums, task = self.sums, self.task
            begin = move(lambda at, term, j: emit.store(held, (at + j,),
                                                        sums[task, term, channel + j]))  # fmt: skip
            end = move(lambda at, term, j: emit.store(sums, (task, term, channel + j),
                                                      held[at + j]))  # fmt: skip
            if self.problem.group == (1, 1):
                return emit.seq(begin, self._add(held, head, outer, pixels, channel), end)
            return emit.seq(begin, self._shuffled(held, head, outer, pixels, channel, chosen), end)

        size = last.taps * len(chosen) * lanes
        return emit.local("held", (size,), self.problem.dtype, body) if size else emit.NOTHING

    def _seen(self, head: Place, outer: Place) -> list[Index]:
        """The element of all axes but the last that is seen."""
        axes = self.problem.axes
        return [axis.element(p, tap) for axis, p, tap in zip(axes, outer, head, strict=False)]

    def _pairs(self, start: Index, count: int) -> list[tuple[int, int]]:
        """The (position, tap) of a tile that see an element."""
        last = self.problem.axes[-1]
        return [
            (i, t) for i, t in itertools.product(range(count), range(last.taps))
            if not isinstance(start, int) or last.sees(start + i, t)
        ]  # fmt: skip

    def _add(
        self, held: Buffer, head: Place, outer: Place, pixels: tuple[Index, int], channel: Index
    ) -> Stmt:
        problem, last = self.problem, self.problem.axes[-1]
        (start, count), lanes = pixels, self.part.lanes
        rows = self._seen(head, outer)

        def add(i: int, tap: int, lane: Index) -> Stmt:
            seen = self.load(self.n, (*rows, last.element(start + i, tap)), channel + lane)
            cotangent = cast(problem.dy[(self.n, *outer, start + i, channel + lane)], problem.dtype)
            place = tap * lanes + lane
            return emit.store(held, (place,), held[place] + seen * cotangent)

        return emit.seq(
            *(
                emit.vectorized(lanes, lambda lane, i=i, t=t: add(i, t, lane))
                for i, t in self._pairs(start, count)
            )
        )

    def _shuffled(
        self, held: Buffer, head: Place, outer: Place, pixels: tuple[Index, int], channel: Index,
        chosen: range,
    ) -> Stmt:  # fmt: skip
        """The same for groups of a few channels: each pixel is loaded once for all that see it."""
        problem, last, lanes = self.problem, self.problem.axes[-1], self.part.lanes
        (start, count), (channels, outputs) = pixels, problem.group
        uses: dict[int, list[tuple[int, int]]] = {}
        for i, tap in self._pairs(start, count):
            uses.setdefault(i * last.stride + tap * last.dilation, []).append((i, tap))
        first = channel // problem.lanes * (problem.lanes // outputs * channels)
        names = emit.Names()
        cotangents = [
            names.of("dy", cast(
                problem.dy[(self.n, *outer, start + i, neighbours(channel, lanes))],
                problem.dtype, lanes,
            ))
            for i in range(count)
        ]  # fmt: skip
        for offset, some in uses.items():
            place = (*self._seen(head, outer), last.element(start, 0) + offset)
            for number, c in enumerate(chosen):
                seen = own_channel(
                    lambda at, place=place: self.load(self.n, place, at), first, c,
                    problem.group, lanes, names.of,
                )  # fmt: skip
                for i, tap in some:
                    at = neighbours((tap * len(chosen) + number) * lanes, lanes)
                    names.emit(emit.store(held, (at,), held[at] + seen * cotangents[i]))
        return names.finish()

    def _ahead(self, outer: Place, start: Index, count: int) -> Stmt:
        """Fetch what the tile below sees first as it lies in memory: up to twice as fast."""
        problem, images = self.problem, self.problem.images.source
        nbytes = math.prod(emit.shape_of(images)) * element_bytes(problem.dtype)
        if len(outer) != 1 or nbytes < _STREAMED * problem.machine.l2:
            return emit.NOTHING
        axis, stride = problem.axes[0], problem.axes[1].stride
        below = axis.element(outer[0] + 1, axis.taps - 1)

        def fetch(operand: Operand, row: Index, first: Index, pixels: int) -> Stmt:
            def pixel(i: Index, v: Index) -> Stmt:
                channel = self.part.first + v * self.part.lanes
                return emit.fetch(operand, (self.n, row, first + i, channel), level=2)

            return emit.serial(
                pixels,
                lambda i: emit.serial(self.part.vectors, lambda v: pixel(i, v), "line"),
                "pixel",
            )

        return emit.seq(
            *(fetch(images, below - i, start * stride, count * stride) for i in range(axis.stride)),
            fetch(problem.dy, outer[0] + 1, start, count),
        )


def _add_up(problem: DepthwiseGrad, sums: Buffer) -> Stmt:
    """Add the tasks' sums and hand the results to the epilogue."""

    def term(flat: Index) -> Stmt:
        def element(channel: Index) -> Stmt:
            total = sums[0, flat, channel]
            for task in range(1, problem.tasks):
                total = total + sums[task, flat, channel]
            indices = (*emit.unflatten(flat, (*problem.taps, problem.group[0])), channel)
            return emit.store_all(problem.epilogue(indices, total))

        return emit.strips(problem.channels, problem.lanes, element)

    return emit.serial(problem.terms, term, "term")
