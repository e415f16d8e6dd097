"""The loops that convolutions and their input gradients share.

A correlation slides a window of taps over staged images and multiplies what it sees by packed
weights. A convolution is one; its input gradient is one over the cotangent with reversed taps, or
for strides one for each phase of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine
from .staging import Images, Ints, Stage
from .tile import (
    Epilogue,
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

    @property
    def dtype(self) -> str:
        return self.images.dtype

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

    def position(self, p: Place, tap: Place) -> Place:
        """Where a tap looks."""
        return tuple(
            base + i * stride + t * dilation
            for base, i, stride, t, dilation in zip(
                self.base, p, self.stride, tap, self.dilation, strict=True
            )
        )


def correlate(problem: Correlation) -> Stmt:
    """Emit a correlation with its packed weights; see the module."""
    if problem.batch * math.prod(problem.sizes) * problem.outputs * problem.groups == 0:
        return emit.NOTHING
    if math.prod(problem.taps) * problem.channels == 0:
        return _zeros(problem)
    shape = (
        problem.groups * problem.panels, math.prod(problem.taps[:-1]),
        problem.taps[-1] * problem.channels, problem.width,
    )
    return emit.scratch(
        "weights",
        shape,
        problem.dtype,
        lambda packed: emit.seq(_pack(problem, packed), _images(problem, packed)),
    )


def _zeros(problem: Correlation) -> Stmt:
    zero = emit.constant(0, problem.dtype)
    channels = problem.groups * problem.outputs
    lanes = problem.machine.lanes(problem.dtype)

    def pixel(at: Place) -> Stmt:
        n, *p = at
        return emit.strips(channels, lanes, lambda channel: emit.store_all(
            problem.epilogue(problem.target(n, tuple(p), channel), zero)
        ))

    return emit.nest((problem.batch, *problem.sizes), pixel)


def _pack(problem: Correlation, packed: Buffer) -> Stmt:
    """Copy weights to ``packed[panel of group, outer taps, last tap and channel, lane]``."""
    lanes = problem.machine.lanes(problem.dtype)
    whole, rest = divmod(problem.outputs, lanes)
    outer = problem.taps[:-1]
    zero = emit.constant(0, problem.dtype)

    def vector(at: Place) -> Stmt:
        group, panel, number, flat, last, channel = at
        place = panel * problem.vectors + number
        tap = (*emit.unflatten(flat, outer), last)

        def write(lane: Index, value: Expr) -> Stmt:
            target = (
                group * problem.panels + panel, flat, last * problem.channels + channel,
                number * lanes + lane,
            )
            return emit.store(packed, target, value)

        def lane(position: Index) -> Stmt:
            output = place * lanes + position
            value = cast(problem.weight(tap, group, channel, output), problem.dtype)
            return write(position, value)

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
        lambda flat: emit.nest(
            inside, lambda at: vector((*emit.unflatten(flat, outside), *at))
        ),
    )


def _images(problem: Correlation, packed: Buffer) -> Stmt:
    """All images, over tasks by images, rows or panels."""
    tasks = tasks_for(problem.work, problem.machine)
    choices = {
        "batch": problem.batch,
        "panels": problem.groups * problem.panels,
        "rows": problem.sizes[0] if len(problem.sizes) > 1 and not _merged(problem) else 1,
    }
    split = max(choices, key=lambda name: choices[name] / (-(-choices[name] // tasks) * tasks))
    tasks = min(tasks, choices[split])

    def body(stage: Stage) -> Stmt:
        def task(number: Index) -> Stmt:
            part = {name: (0, count) for name, count in choices.items()}
            part[split] = emit.split_range(choices[split], tasks, number)

            def image(n: Index) -> Stmt:
                return emit.seq(
                    stage.fill(number, 0, n),
                    _image(problem, stage, packed, number, n, part["panels"], part["rows"]),
                )

            first, count = part["batch"]
            return emit.seq(stage.clear(number, 1), emit.serial(count, image, "image", first))

        return emit.parallel(tasks, task)

    return problem.images.staged(tasks, 1, body)


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
            def tile(first: Index, count: int) -> Stmt:
                def pixel(i: Index) -> Place:
                    place = (first + i // across, i % across) if merged else (first + i,)
                    return (*at, *place)

                height = count * across if merged else count
                return _tile(problem, stage, packed, task, n, number, height, pixel)

            if merged:
                return for_row_tiles(problem.sizes[-2], tallest // across, tile)
            return for_row_tiles(across, tallest, tile)

        if not outer or merged:
            return emit.nest(outer, row)
        return emit.serial(
            rows[1], lambda i: emit.nest(outer[1:], lambda at: row((i, *at))), "row", rows[0]
        )

    return emit.serial(panels[1], panel, "panel", panels[0])


def _tile(
    problem: Correlation,
    stage: Stage,
    packed: Buffer,
    task: Index,
    n: Index,
    number: Index,
    rows: int,
    pixel: Callable[[Index], Place],
) -> Stmt:
    """One register tile: `rows` pixels x the outputs of panel `number`."""
    tile = Tile(rows, problem.vectors, problem.machine.lanes(problem.dtype), problem.dtype)
    group = number // problem.panels if problem.groups > 1 else 0
    panel = number - group * problem.panels if problem.groups > 1 else number
    outer = problem.taps[:-1]

    def step_at(step: Callable[..., Stmt], flat: Index, last: Index, channel: Index) -> Stmt:
        tap = (*emit.unflatten(flat, outer), last)
        seen = group * problem.channels + channel

        def left(row: int) -> Expr:
            return stage.load(task, 0, n, problem.position(pixel(row), tap), seen)

        def right(vector: int) -> Expr:
            run = last * problem.channels + channel
            return packed[number, flat, run, tile.ramp(vector * tile.lanes)]

        return step(left, right)

    def loops(step: Callable[..., Stmt]) -> Stmt:
        def outer_tap(flat: Index) -> Stmt:
            if problem.fused:
                length = problem.taps[-1] * problem.channels
                return emit.serial(length, lambda run: step_at(step, flat, 0, run), "run")
            return emit.nest(
                (problem.taps[-1], problem.channels),
                lambda at: step_at(step, flat, at[0], at[1]),
            )

        return emit.serial(math.prod(outer), outer_tap, "tap")

    def finish(sums: Buffer) -> Stmt:
        first = group * problem.outputs + panel * problem.width

        def target(row: Index, lane: Index) -> Place:
            return problem.target(n, pixel(row), first + lane)

        def write(valid: list[int]) -> Stmt:
            return finish_tile(tile, sums, valid, target, problem.epilogue)

        full, last = valid_lanes(problem.outputs, problem.width, tile.lanes)
        if full == last:
            return write(full)
        return emit.when(emit.equal(panel, problem.panels - 1), write(last), write(full))

    return tile.reduce(loops, finish)
