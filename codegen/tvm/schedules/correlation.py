"""The loops that convolutions and their input gradients share.

A correlation slides a window of taps over staged images and multiplies what it sees by packed
weights. A convolution is one; its input gradient is one over the cotangent with reversed taps, or
for strides one for each phase of the result.

Near the border taps see only zeros. They are left out: rows of taps by the range of a loop, and,
where a register tile holds whole rows of the image, pixels by code for each tap of a row. (In the
input gradient of a 3 x 3 kernel without padding, from 11 x 11 to 13 x 13, that is 28 % of all.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from .. import bfloat, emit
from ..emit import Buffer, Expr, Index, Stmt
from ..kept import kept
from ..target import Machine
from .staging import Images, Ints, Stage
from .tile import (
    Epilogue,
    Step,
    Tile,
    cast,
    choose_vectors,
    finish_tile,
    for_row_tiles,
    max_rows,
    tasks_for,
    valid_lanes,
)

Place = tuple[Index, ...]

_WRITTEN_OUT = 7  # taps along the last axis that may get code of their own


@dataclass(frozen=True)
class Correlation:
    """``value[n, p, g, o] = sum_(t, c) image[n, base + p * stride + t * dilation, g, c] * w``.

    Parameters
    ----------
    images : Images
        What is read; its channels are `groups` times the channels of a tap.
    batch : int
        Number of images.
    sizes : tuple of int
        Positions p along each spatial axis.
    base, stride, dilation, taps : tuple of int
        See the formula; along each spatial axis.
    channels : int
        Channels c that one result sums over.
    outputs : int
        Results o of one group.
    groups : int
        Number of groups.
    weight : callable
        ``weight(tap, group, c, o)`` reads a weight.
    target : callable
        ``target(n, p, channel)``: the indices in the result.
    epilogue : Epilogue
        What to store.
    machine : Machine
        What to choose tiles for.
    kernel : Buffer
        What `weight` reads.
    transposed : bool
        Whether weights of neighbouring channels, not outputs, lie side by side.
    """

    images: Images
    batch: int
    sizes: Ints
    base: Ints
    stride: Ints
    dilation: Ints
    taps: Ints
    channels: int
    outputs: int
    groups: int
    weight: Callable[[Place, Index, Index, Index], Expr]
    target: Callable[[Index, Place, Index], Place]
    epilogue: Epilogue
    machine: Machine
    kernel: Buffer
    transposed: bool = False

    @property
    def dtype(self) -> str:
        """In which products are summed."""
        return "float32" if self.images.pairs else self.images.dtype

    def factor(self, tap: Place, group: Index, c: Index, o: Index, lanes: int = 1) -> Expr:
        """A weight, or so many, as multiplied; of images in pairs, of the `c`-th pair of channels.

        Master weights in f32 beside images in bf16 count as rounded.
        """
        if self.images.pairs:
            machine = self.machine
            low, high = (
                bfloat.bits_of(self.weight(tap, group, 2 * c + i, o), machine) for i in (0, 1)
            )
            return bfloat.join(low, high)
        value = self.weight(tap, group, c, o)
        short = emit.dtype_of(self.images.source) == bfloat.STORED
        if short and str(value.ty).startswith("float32"):
            value = bfloat.rounded(value)
        return cast(value, self.dtype, lanes)

    @property
    def work(self) -> int:
        """Multiplications and additions."""
        positions = self.batch * math.prod(self.sizes)
        return 2 * positions * math.prod(self.taps) * self.channels * self.outputs * self.groups

    @property
    def vectors(self) -> int:
        return choose_vectors(self.outputs, self.machine, self.dtype)

    @property
    def width(self) -> int:
        """Outputs in a panel."""
        return self.vectors * self.machine.lanes(self.dtype)

    @property
    def panels(self) -> int:
        """Panels of a group."""
        return -(-self.outputs // self.width)

    @property
    def fused(self) -> bool:
        """Whether the last axis of taps and the channels are one run of memory."""
        return self.dilation[-1] == 1 and self.groups == 1

    def outer_taps(self, first: Place, last: Place) -> list[tuple[Index, Index]]:
        """Taps (start, length) along all axes but the last that meet an element of the image.

        `first` and `last` are the positions that look; taps that see only zeros are left out.
        """
        ranges: list[tuple[Index, Index]] = []
        for axis in range(len(self.taps) - 1):
            start, stop = self._taps_met(axis, last[axis])[0], self._taps_met(axis, first[axis])[1]
            ranges.append((start, emit.maximum(0, stop - start)))
        return ranges

    def _taps_met(self, axis: int, p: Index) -> tuple[Index, Index]:
        """First tap that meets an element and the one after the last, from position `p`."""
        taps, images = self.taps[axis], self.images
        low, size = images.low[axis], images.spatial[axis]
        base, stride = self.base[axis], self.stride[axis]
        furthest = base + (self.sizes[axis] - 1) * stride + taps - 1
        if images.dilation[axis] != 1 or self.dilation[axis] != 1:
            return 0, taps
        seen = base + p * stride
        start = 0 if base >= low else emit.minimum(taps, emit.maximum(0, low - seen))
        inside = furthest < low + size
        return start, taps if inside else emit.minimum(taps, low + size - seen)

    def rows_met(self, rows: Sequence[int], pixel: Callable[[int], Place], tap: int) -> list[int]:
        """Rows of a tile that see an element through this tap of the last axis; all if unknown."""
        places = [pixel(row)[-1] for row in rows]
        known = all(isinstance(i, int) for i in places)
        if not known or self.images.dilation[-1] != 1 or self.taps[-1] > _WRITTEN_OUT:
            return list(rows)
        low, size = self.images.low[-1], self.images.spatial[-1]
        ahead = self.base[-1] + tap * self.dilation[-1] - low
        return [row for row in rows if 0 <= places[row] * self.stride[-1] + ahead < size]

    def position(self, p: Place, tap: Place) -> Place:
        """Where a tap looks."""
        return tuple(
            base + i * stride + t * dilation
            for base, i, stride, t, dilation in zip(
                self.base, p, self.stride, tap, self.dilation, strict=True
            )
        )


def correlate(*problems: Correlation) -> Stmt:
    """Emit correlations over the same images with their packed weights; see the module.

    Several problems must have equal `images`: these are staged once for all of them.
    """
    if any(_fit_pairs(p) for p in problems):
        body = _correlate(tuple(map(_in_pairs, problems)))
        return bfloat.importing(body, problems[0].machine)
    return _correlate(problems)


def _fit_pairs(problem: Correlation) -> bool:
    """Whether images and weights can be read in pairs of channels."""
    short = emit.dtype_of(problem.images.source) == bfloat.STORED
    return short and bfloat.pairs_fit(problem.machine) and problem.channels % 2 == 0


def _in_pairs(problem: Correlation) -> Correlation:
    images = replace(problem.images, dtype=bfloat.PAIR, pairs="channels")
    return replace(problem, images=images, channels=problem.channels // 2)


def _correlate(problems: tuple[Correlation, ...]) -> Stmt:
    problems = tuple(
        p for p in problems if p.batch * math.prod(p.sizes) * p.outputs * p.groups != 0
    )
    summed = [p for p in problems if math.prod(p.taps) * p.channels != 0]
    zeros = [_zeros(p) for p in problems if math.prod(p.taps) * p.channels == 0]
    return emit.seq(*zeros, _with_weights(summed, ()))


def _with_weights(problems: Sequence[Correlation], packed: tuple[Buffer, ...]) -> Stmt:
    """Pack the weights of all problems, then run over the images."""
    if len(packed) == len(problems):
        return _images(problems, packed) if problems else emit.NOTHING
    problem = problems[len(packed)]
    shape = (
        problem.groups * problem.panels,
        math.prod(problem.taps[:-1]),
        problem.taps[-1] * problem.channels,
        problem.width,
    )
    return kept(
        problem.kernel,
        "weights",
        shape,
        problem.images.dtype,
        lambda weights: _pack(problem, weights),
        lambda weights: _with_weights(problems, (*packed, weights)),
    )


def _zeros(problem: Correlation) -> Stmt:
    zero = emit.constant(0, problem.dtype)
    channels = problem.groups * problem.outputs
    lanes = problem.machine.lanes(problem.dtype)

    def pixel(at: Place) -> Stmt:
        n, *p = at
        return emit.strips(
            channels,
            lanes,
            lambda channel: emit.store_all(
                problem.epilogue(problem.target(n, tuple(p), channel), zero)
            ),
        )

    return emit.nest((problem.batch, *problem.sizes), pixel)


def _pack(problem: Correlation, packed: Buffer) -> Stmt:
    """Copy weights to ``packed[panel of group, outer taps, last tap and channel, lane]``."""
    lanes = problem.machine.lanes(problem.dtype)
    whole, rest = divmod(problem.outputs, lanes)
    outer = problem.taps[:-1]
    zero = emit.constant(0, problem.images.dtype)

    def vector(at: Place) -> Stmt:
        group, panel, number, flat, last, channel = at
        place = panel * problem.vectors + number
        tap = (*emit.unflatten(flat, outer), last)

        def write(lane: Index, value: Expr) -> Stmt:
            target = (
                group * problem.panels + panel,
                flat,
                last * problem.channels + channel,
                number * lanes + lane,
            )
            return emit.store(packed, target, value)

        def lane(position: Index) -> Stmt:
            output = place * lanes + position
            return write(position, problem.factor(tap, group, channel, output))

        def columns(count: int) -> Stmt:
            blank = emit.vectorized(lanes - count, lambda position: write(count + position, zero))
            return emit.seq(emit.vectorized(count, lane), blank)

        if problem.panels * problem.vectors == whole:
            return columns(lanes)
        return emit.when(
            emit.less(place, whole),
            columns(lanes),
            emit.when(emit.equal(place, whole), columns(rest), columns(0)),
        )

    outside = (problem.groups, problem.panels, problem.vectors, math.prod(outer))
    inside = (problem.taps[-1], problem.channels)
    loop = emit.serial if tasks_for(problem.work, problem.machine) == 1 else emit.parallel
    return loop(
        math.prod(outside),
        lambda flat: emit.nest(inside, lambda at: vector((*emit.unflatten(flat, outside), *at))),
    )


def _images(problems: Sequence[Correlation], packed: Sequence[Buffer]) -> Stmt:
    """All images, over tasks by images; if there is one problem, perhaps by rows or panels."""
    images, machine = problems[0].images, problems[0].machine
    tasks = tasks_for(sum(p.work for p in problems), machine)
    counts = [_counts(p) for p in problems]
    choices = counts[0] if len(problems) == 1 else {"batch": problems[0].batch}
    split = max(choices, key=lambda name: choices[name] / (-(-choices[name] // tasks) * tasks))
    tasks = min(tasks, choices[split])

    def body(stage: Stage) -> Stmt:
        def task(number: Index) -> Stmt:
            own = {split: emit.split_range(choices[split], tasks, number)}
            parts = [{name: (0, n) for name, n in count.items()} | own for count in counts]

            def image(n: Index) -> Stmt:
                return emit.seq(
                    stage.fill(number, 0, n),
                    *(
                        _image(p, stage, weights, number, n, part["panels"], part["rows"])
                        for p, weights, part in zip(problems, packed, parts, strict=True)
                    ),
                )

            first, count = parts[0]["batch"]
            return emit.seq(stage.clear(number, 1), emit.serial(count, image, "image", first))

        return emit.parallel(tasks, task)

    return images.staged(tasks, 1, body)


def _counts(problem: Correlation) -> dict[str, int]:
    """What can be split over tasks: images, panels of outputs, rows of the result."""
    has_rows = len(problem.sizes) > 1 and not _merged(problem)
    return {
        "batch": problem.batch,
        "panels": problem.groups * problem.panels,
        "rows": problem.sizes[0] if has_rows else 1,
    }


def _merged(problem: Correlation) -> bool:
    """Whether a register tile should span several rows of the image, these being short."""
    tallest = max_rows(problem.machine, problem.vectors)
    return len(problem.sizes) > 1 and 2 * problem.sizes[-1] <= tallest


def _image(
    problem: Correlation,
    stage: Stage,
    packed: Buffer,
    task: Index,
    n: Index,
    panels: tuple[Index, Index],
    rows: tuple[Index, Index],
) -> Stmt:
    tallest = max_rows(problem.machine, problem.vectors)
    merged = _merged(problem)
    across = problem.sizes[-1]
    outer = problem.sizes[: -2 if merged else -1]

    def panel(number: Index) -> Stmt:
        def row(at: Place) -> Stmt:
            def some(first: Index, count: int) -> Stmt:
                def pixel(i: Index) -> Place:
                    place = (first + i // across, i % across) if merged else (first + i,)
                    return (*at, *place)

                height = count * across if merged else count
                tile = _PanelTile(problem, stage, packed, task, n, number, height, pixel)
                return tile.emit()

            if merged:
                return for_row_tiles(problem.sizes[-2], tallest // across, some)
            return for_row_tiles(across, tallest, some)

        if not outer or merged:
            return emit.nest(outer, row)
        return emit.serial(
            rows[1], lambda i: emit.nest(outer[1:], lambda at: row((i, *at))), "row", rows[0]
        )

    return emit.serial(panels[1], panel, "panel", panels[0])


@dataclass(frozen=True)
class _PanelTile:
    """One register tile: `rows` pixels of image `n` x the outputs of panel `number`.

    `pixel` gives the position of a row; the image lies where `task` staged it.
    """

    problem: Correlation
    stage: Stage
    packed: Buffer
    task: Index
    n: Index
    number: Index
    rows: int
    pixel: Callable[[Index], Place]

    @cached_property
    def tile(self) -> Tile:
        p = self.problem
        return Tile(self.rows, p.vectors, p.machine.lanes(p.dtype), p.dtype, bool(p.images.pairs))

    @cached_property
    def group(self) -> Index:
        return self.number // self.problem.panels if self.problem.groups > 1 else 0

    @cached_property
    def panel(self) -> Index:
        """The panel's number in its group."""
        p = self.problem
        return self.number - self.group * p.panels if p.groups > 1 else self.number

    @cached_property
    def met(self) -> list[list[int]]:
        """The rows that see an element through each tap of the last axis."""
        p = self.problem
        return [p.rows_met(range(self.rows), self.pixel, last) for last in range(p.taps[-1])]

    def emit(self) -> Stmt:
        """Sum up and store."""
        if _shares(self.problem, self.rows):
            return self.tile.accumulate(self._shared, self._finish)
        return self.tile.reduce(self._loops, self._finish)

    def _image(self, row: int, tap: Place, channel: Index) -> Expr:
        place = self.problem.position(self.pixel(row), tap)
        seen = self.group * self.problem.channels + channel
        return self.stage.load(self.task, 0, self.n, place, seen)

    def _weights(self, tap: Place, channel: Index, vector: int) -> Expr:
        flat = _flat(tap[:-1], self.problem.taps[:-1])
        run = tap[-1] * self.problem.channels + channel
        return self.packed[self.number, flat, run, self.tile.ramp(vector * self.tile.lanes)]

    def _over_taps(self, along: Callable[[Place], Stmt]) -> Stmt:
        """`along` for each row of taps that meets the image."""
        return _over_ranges(
            self.problem.outer_taps(self.pixel(0), self.pixel(self.rows - 1)), along
        )

    def _shared(self, sums: Buffer) -> Stmt:
        """Narrow results: a pixel is loaded once for all taps of a row that see it."""
        p = self.problem

        def along(head: Place) -> Stmt:
            def term(c: Index) -> Stmt:
                def left(row: int, tap: int) -> Expr:
                    return self._image(row, (*head, tap), c)

                rights = [self._weights((*head, tap), c, 0) for tap in range(p.taps[-1])]
                uses = _uses(p, self.rows, self.met)
                return self.tile.products(sums, rights, [(left(*some[0]), some) for some in uses])

            return emit.serial(p.channels, term, "c")

        return self._over_taps(along)

    def _loops(self, step: Step) -> Stmt:
        """All taps and channels, one after the other."""
        p, met = self.problem, self.met

        def term(tap: Place, channel: Index, rows: Sequence[int] | None = None) -> Stmt:
            return step(
                lambda row: self._image(row, tap, channel),
                lambda vector: self._weights(tap, channel, vector),
                rows,
            )

        def one(head: Place, t: int) -> Stmt:
            return emit.serial(p.channels, lambda c: term((*head, t), c, met[t]))

        def along(head: Place) -> Stmt:
            if any(len(some) < self.rows for some in met):
                return emit.seq(*(one(head, t) for t in range(p.taps[-1]) if met[t]))
            if p.fused:
                return emit.serial(
                    p.taps[-1] * p.channels, lambda run: term((*head, 0), run), "run"
                )
            return emit.nest((p.taps[-1], p.channels), lambda at: term((*head, at[0]), at[1]))

        return self._over_taps(along)

    def _finish(self, sums: Buffer) -> Stmt:
        """Store what the epilogue makes of the sums."""
        p, tile = self.problem, self.tile
        first = self.group * p.outputs + self.panel * p.width

        def target(row: Index, lane: Index) -> Place:
            return p.target(self.n, self.pixel(row), first + lane)

        def write(valid: list[int]) -> Stmt:
            return finish_tile(tile, sums, valid, target, p.epilogue)

        full, last = valid_lanes(p.outputs, p.width, tile.lanes)
        if full == last:
            return write(full)
        return emit.when(emit.equal(self.panel, p.panels - 1), write(last), write(full))


def _shares(problem: Correlation, rows: int) -> bool:
    """Whether taps of a row see the same pixels, and there are registers for all their weights.

    A tile of one vector loads a pixel for each product otherwise, which is what bounds it.
    """
    taps = problem.taps[-1]
    fits = rows + taps + 2 <= problem.machine.vector_registers
    adjacent = problem.stride[-1] == problem.dilation[-1] == 1
    return problem.vectors == 1 and 1 < taps <= _WRITTEN_OUT and fits and adjacent


def _uses(
    problem: Correlation, rows: int, met: Sequence[Sequence[int]]
) -> list[list[tuple[int, int]]]:
    """For each pixel that a tile sees, the (row, tap) that see it."""
    across = problem.sizes[-1] if _merged(problem) else rows
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for tap, some in enumerate(met):
        for row in some:
            found.setdefault((row // across, row % across + tap), []).append((row, tap))
    return [found[place] for place in sorted(found)]


def _flat(index: Place, shape: Ints) -> Index:
    flat: Index = 0
    for i, size in zip(index, shape, strict=True):
        flat = flat * size + i
    return flat


def _over_ranges(
    ranges: Sequence[tuple[Index, Index]], body: Callable[[Place], Stmt], at: Place = ()
) -> Stmt:
    """Nest loops over ranges (start, length)."""
    if len(at) == len(ranges):
        return body(at)
    start, length = ranges[len(at)]
    return emit.serial(length, lambda t: _over_ranges(ranges, body, (*at, t)), "tap", start)
