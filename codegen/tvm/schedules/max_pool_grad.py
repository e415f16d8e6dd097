"""Gradient of the maximum over windows: the cotangent goes to each window's first maximum.

Nothing is scattered to addresses that depend on data: the number of the winning tap is found
before anything is written, then each tap takes either the cotangent or 0.

- *lines*: where no two windows overlap, each element is written once. A line of windows runs over
  its rows one after another, for memory streams along rows: window by window takes twice as long.
- *gathered*: otherwise each element asks the windows that cover it, see `max_pool_gather`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..nest import Nest
from ..target import Machine
from .max_pool_gather import gathered
from .tile import Epilogue, accumulator, cast, element_bytes, store_to
from .window import (
    VECTORS,
    Channels,
    Ints,
    Place,
    Windows,
    beats,
    lowest,
    over_pixels,
    over_taps,
)

_LINE_VECTORS = 16  # vectors of channels that a line of windows takes at a time
_UNROLLED = 4  # taps along an axis that are written out


def max_pool_grad(
    x: Buffer,
    dy: Buffer,
    out: Buffer | None = None,
    *,
    windows: Windows,
    machine: Machine,
    epilogue: Epilogue | None = None,
) -> Stmt:
    """Emit the cotangent of the input of `max_pool`: it goes to each window's first maximum.

    Parameters
    ----------
    x : Buffer
        The input of the pooling, `[N, *spatial, C]`.
    dy : Buffer
        The cotangent of its result, `[N, *positions, C]`.
    out : Buffer, optional
        The cotangent of `x`; needed only without an `epilogue`.
    windows, machine, epilogue
        As in `max_pool`; the epilogue gets the dtype of the sums (f32 for f16 and bf16).
    """
    problem = _Problem(x, dy, windows, machine, epilogue or store_to(out))
    if math.prod(emit.shape_of(x)) == 0:
        return emit.NOTHING
    if not windows.apart:
        return gathered(x, dy, windows, machine, problem.epilogue)
    return _lines(problem)


@dataclass(frozen=True)
class _Problem:
    x: Buffer
    dy: Buffer
    windows: Windows
    machine: Machine
    epilogue: Epilogue

    @property
    def dtype(self) -> str:
        """Of comparisons, sums and numbers of taps."""
        return accumulator(self.x)

    @property
    def spatial(self) -> Ints:
        return emit.shape_of(self.x)[1:-1]

    @property
    def positions(self) -> Ints:
        return self.windows.positions(self.spatial)

    @property
    def work(self) -> int:
        return 4 * math.prod(emit.shape_of(self.dy)) * math.prod(self.windows.window)

    def finish(self, indices: Place, value: Expr) -> Stmt:
        return emit.store_all(self.epilogue(indices, value))

    def zero(self) -> Expr:
        return emit.constant(0, self.dtype)

    def number(self, tap: Place) -> Expr:
        """The number of a tap, as `winner` holds it."""
        flat = self.windows.number(tap)
        return emit.constant(flat, self.dtype) if isinstance(flat, int) else cast(flat, self.dtype)


@dataclass(frozen=True)
class _Race:
    """Some windows of an image along the last axis, from `first` on, and a block of channels.

    `best` and `winner` hold, for each of them, the maximum so far and the number of its tap.
    """

    problem: _Problem
    n: Index
    outer: Place
    first: Index
    count: int
    block: Channels
    best: Buffer
    winner: Buffer

    def each(self, body: Callable[[Place, Index], Stmt]) -> Stmt:
        """Run ``body(p, number)`` for all windows."""
        return emit.serial(self.count, lambda i: body((*self.outer, self.first + i), i), "window")

    def channels(self, number: Index, body: Callable[[Index, Index], Stmt]) -> Stmt:
        """Run ``body(place in the arrays, channel)`` for all channels of a window."""
        first, count = number * self.block.count, self.block.count
        return emit.strips(
            count, self.block.lanes, lambda j: body(first + j, self.block.first + j), VECTORS
        )

    def rows(self, body: Callable[[Place], Stmt]) -> Stmt:
        """Run ``body(row)`` for the rows of taps that lie in the image."""
        ranges = self.problem.windows.taps((*self.outer, 0), self.problem.spatial)
        return over_taps(ranges[:-1], body, unrolled=_UNROLLED)

    def run(self, put: Callable[[Place, Expr], Stmt]) -> Stmt:
        """Find the winners, then hand each tap's share to ``put(indices, share)``."""
        return emit.seq(
            None if self._begins_written_out else self.each(self._start),
            self.rows(lambda row: self.each(lambda p, i: self._compare(row, p, i))),
            self.rows(lambda row: self.each(lambda p, i: self._share(row, p, i, put))),
        )

    def _along(self, row: Place, p: Place, body: Callable[[Place, Place], Stmt]) -> Stmt:
        """Run ``body(tap, element)`` for a row of taps of window `p`."""
        windows = self.problem.windows
        return over_taps(
            windows.taps(p, self.problem.spatial)[-1:],
            lambda last: body((*row, *last), windows.element(p, (*row, *last))),
            unrolled=_UNROLLED,
        )

    @property
    def _begins_written_out(self) -> bool:
        """Whether the first tap of all windows is compared by code of its own."""
        windows = self.problem.windows
        *rows, last = windows.window
        return windows.inside(self.problem.spatial) and max(math.prod(rows), last) <= _UNROLLED

    def _start(self, p: Place, i: Index) -> Stmt:
        problem = self.problem
        first = tuple(start for start, _ in problem.windows.taps(p, problem.spatial))
        return self.channels(
            i,
            lambda place, _: emit.seq(
                emit.store(self.best, (place,), lowest(problem.dtype)),
                emit.store(self.winner, (place,), problem.number(first)),
            ),
        )

    def _compare(self, row: Place, p: Place, i: Index) -> Stmt:
        """Let a row of taps of window `p` run; in registers where there are few."""

        def some(taps: list[Place]) -> Stmt:
            return self.channels(i, lambda *at: self._compare_taps(taps, p, *at))

        start, length = self.problem.windows.taps(p, self.problem.spatial)[-1]
        if isinstance(length, int) and length <= _UNROLLED:
            return some([(*row, start + t) for t in range(length)])
        return over_taps([(start, length)], lambda last: some([(*row, *last)]))

    def _compare_taps(self, taps: list[Place], p: Place, place: Index, channel: Index) -> Stmt:
        problem, nest = self.problem, Nest.inside_lanes(inline=False)
        best, winner = self.best[place], self.winner[place]
        for tap in taps:
            element = problem.windows.element(p, tap)
            value = nest.known(cast(problem.x[(self.n, *element, channel)], problem.dtype))
            if self._begins_written_out and not any(tap):
                best, winner = value, problem.number(tap)
                continue
            above = beats(value, best)
            winner = nest.known(tirx.Select(above, problem.number(tap), winner))
            best = nest.known(tirx.Select(above, value, best))
        nest.emit(emit.store(self.winner, (place,), winner), emit.store(self.best, (place,), best))
        return nest.finish()

    def _share(self, row: Place, p: Place, i: Index, put: Callable[[Place, Expr], Stmt]) -> Stmt:
        problem = self.problem

        def lane(tap: Place, element: Place, place: Index, channel: Index) -> Stmt:
            cotangent = cast(problem.dy[(self.n, *p, channel)], problem.dtype)
            wins = tirx.EQ(self.winner[place], problem.number(tap))
            share = tirx.Select(wins, cotangent, problem.zero())
            return put((self.n, *element, channel), share)

        return self._along(
            row, p, lambda tap, element: self.channels(i, lambda *at: lane(tap, element, *at))
        )


def _race(
    problem: _Problem,
    place: tuple[Index, Place],
    part: tuple[Index, int],
    block: Channels,
    body: Callable[[_Race], Stmt],
) -> Stmt:
    (n, outer), (first, count), size = place, part, (part[1] * block.count,)
    return emit.local(
        "best",
        size,
        problem.dtype,
        lambda best: emit.local(
            "winner",
            size,
            problem.dtype,
            lambda winner: body(_Race(problem, n, outer, first, count, block, best, winner)),
        ),
    )


# --- windows that do not overlap -------------------------------------------------------------


def _lines(problem: _Problem) -> Stmt:
    """All lines of windows, over tasks."""
    batch, *_, channels = emit.shape_of(problem.x)
    outer = problem.positions[:-1]

    def line(n: Index, p: Place, block: Channels) -> Stmt:
        p = p[: len(outer)]
        total = problem.positions[-1]
        window = 2 * math.prod(problem.windows.window) * block.count
        some = problem.machine.l1 // 2 // (window * element_bytes(problem.dtype))
        some = max(1, min(total, some))
        return emit.seq(
            emit.serial(total // some, lambda i: _part(problem, n, p, (i * some, some), block)),
            _part(problem, n, p, (total - total % some, total % some), block),
            _gaps_outside(problem, n, p, block),
        )

    shape = (batch, *(outer or (1,)), channels)
    return over_pixels(shape, problem.work, problem.machine, problem.dtype, line, _LINE_VECTORS)


def _part(problem: _Problem, n: Index, p: Place, part: tuple[Index, int], block: Channels) -> Stmt:
    """As many windows of a line as the cache holds, with what lies between them."""
    if part[1] == 0:
        return emit.NOTHING

    def race(race: _Race) -> Stmt:
        return emit.seq(race.run(problem.finish), _gaps_along(race))

    return _race(problem, (n, p), part, block, race)


def _gaps_along(race: _Race) -> Stmt:
    """Zeros after each window of a line, up to the next one."""
    problem, windows = race.problem, race.problem.windows

    def after(row: Place, p: Place, i: Index) -> Stmt:
        def element(last: Place) -> Stmt:
            at = (race.n, *windows.element(p, (*row, *last)))
            return race.channels(i, lambda _, j: problem.finish((*at, j), problem.zero()))

        gap = windows.gap(len(row), p[-1], problem.spatial[-1])
        return over_taps([gap], element)

    return race.rows(lambda row: race.each(lambda p, i: after(row, p, i)))


def _gaps_outside(problem: _Problem, n: Index, p: Place, block: Channels) -> Stmt:
    """Zeros in the rows after a line of windows, up to the next line."""
    windows, spatial = problem.windows, problem.spatial
    taps = windows.taps((*p, 0), spatial)[:-1]
    gaps = [windows.gap(axis, i, spatial[axis]) for axis, i in enumerate(p)]
    cells = [(start, length + gap) for (start, length), (_, gap) in zip(taps, gaps, strict=True)]

    def row(tap: Place) -> Stmt:
        at = windows.element((*p, 0), (*tap, 0))[:-1]
        return emit.serial(
            spatial[-1],
            lambda last: emit.strips(
                block.count,
                block.lanes,
                lambda j: problem.finish((n, *at, last, block.first + j), problem.zero()),
                VECTORS,
            ),
        )

    return emit.seq(
        *(over_taps([*taps[:axis], gaps[axis], *cells[axis + 1 :]], row) for axis in range(len(p)))
    )
