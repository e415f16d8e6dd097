"""Gradient of the maximum over windows that overlap: each element asks the windows that cover it.

Nothing is scattered. A task runs down an image one line of windows after another: it notes the
winning tap of each window of the line, then gathers the elements that no later line covers. Which
windows cover an element is known when the code is made, but for the border; the element takes the
cotangents of those that it has won. The winners of the lines that still matter stay in the
first-level cache, so the images are read once and the result is written once. (To add each
window's cotangent to sums in the workspace takes 1.4 times as long, and cannot split an image.)

Around the windows there are places in which nobody wins, so the border needs no code of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine
from .tile import Epilogue, accumulator, cast, tasks_for
from .window import (
    Channels,
    Ints,
    Place,
    Windows,
    beats,
    lowest,
    over_channels,
    over_taps,
)

_UNROLLED = 9  # taps that are written out


def gathered(x: Buffer, dy: Buffer, windows: Windows, machine: Machine, epilogue: Epilogue) -> Stmt:
    """Emit the gradient for windows of any kind; no size of `x` may be 0."""
    problem = _Problem(x, dy, windows, machine, epilogue)
    shape = (problem.tasks, *problem.noted)
    return emit.scratch("winners", shape, problem.dtype, lambda winners: _images(problem, winners))


@dataclass(frozen=True)
class _Problem:
    """Cells of one stride's size tile the image and its padding; windows begin at their corners.

    Cell i along an axis covers elements ``i * stride - low + r`` for ``r < stride``; windows
    i, i-1, ..., i-reach+1 may cover these.
    """

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
    def lanes(self) -> int:
        return self.machine.lanes(self.dtype)

    @property
    def batch(self) -> int:
        return emit.shape_of(self.x)[0]

    @property
    def channels(self) -> int:
        return emit.shape_of(self.x)[-1]

    @property
    def spatial(self) -> Ints:
        return emit.shape_of(self.x)[1:-1]

    @property
    def positions(self) -> Ints:
        return self.windows.positions(self.spatial)

    @property
    def reach(self) -> Ints:
        """Windows along each axis that may cover one element."""
        w = self.windows
        return tuple(-(-k // s) for k, s in zip(w.window, w.strides, strict=True))

    @property
    def cells(self) -> Ints:
        """Cells along each axis that hold elements."""
        w = self.windows
        return tuple(
            -(-(size + low) // s)
            for size, s, (low, _) in zip(self.spatial, w.strides, w.padding, strict=True)
        )

    @property
    def noted(self) -> Ints:
        """Sizes of what a task notes of winners: lines in turns, places beside the windows."""
        inner = (
            max(cells, count) + reach - 1
            for cells, count, reach in zip(
                self.cells[1:], self.positions[1:], self.reach[1:], strict=True
            )
        )
        return (self.reach[0], *inner, self.channels)

    @property
    def tasks(self) -> int:
        work = 4 * math.prod(emit.shape_of(self.dy)) * math.prod(self.windows.window)
        return max(1, min(tasks_for(work, self.machine), self.batch * self.cells[0]))

    @property
    def bands(self) -> int:
        """Parts of an image that tasks take."""
        if self.batch % self.tasks == 0 or self.batch >= 8 * self.tasks:
            return 1
        return min(self.cells[0], self.tasks)

    @property
    def nobody(self) -> int:
        """What stands where no tap wins."""
        return math.prod(self.windows.window)

    def number(self, tap: Place) -> Expr:
        """The number of a tap, as it is noted."""
        flat = self.windows.number(tap)
        return emit.constant(flat, self.dtype) if isinstance(flat, int) else cast(flat, self.dtype)

    def zero(self) -> Expr:
        return emit.constant(0, self.dtype)


def _images(problem: _Problem, winners: Buffer) -> Stmt:
    """Bands of all images, over tasks."""
    items = problem.batch * problem.bands
    tasks = min(problem.tasks, items)

    def task(number: Index) -> Stmt:
        first, count = emit.split_range(items, tasks, number)

        def band(flat: Index) -> Stmt:
            n, part = emit.unflatten(flat, (problem.batch, problem.bands))
            start, length = emit.split_range(problem.cells[0], problem.bands, part)
            return _band(problem, winners, number, n, (start, length))

        return emit.serial(count, band, "band", first)

    return emit.parallel(tasks, task)


def _band(
    problem: _Problem, winners: Buffer, task: Index, n: Index, lines: tuple[Index, Index]
) -> Stmt:
    """Lines of cells, from one on; the windows before it that reach in come first."""
    start, length = lines
    reach, count = problem.reach[0], problem.positions[0]

    def note(line: Index) -> Stmt:
        at = (task, (line + reach) % reach)
        known = emit.less(line, count)
        some = _note(problem, winners, at, n, line)
        if problem.cells[0] <= count:
            return some
        return emit.when(known, some, _forget(problem, winners, at))

    def line(index: Index) -> Stmt:
        return emit.seq(note(index), _gather(problem, winners, task, n, index))

    def before(back: int) -> Stmt:
        noted = emit.let(start - back, note, "line")
        return emit.when(emit.less(start, back), emit.NOTHING, noted)

    forget = emit.serial(reach, lambda slot: _forget(problem, winners, (task, slot)), "slot")
    return emit.seq(
        forget if any(n > 1 for n in problem.reach) or _is_wider(problem) else None,
        *(before(back) for back in range(1, reach) if problem.bands > 1),
        emit.serial(length, line, "line", start),
    )


def _is_wider(problem: _Problem) -> bool:
    """Whether there are cells beside the windows of a line."""
    return any(
        cells > count for cells, count in zip(problem.cells[1:], problem.positions[1:], strict=True)
    )


def _forget(problem: _Problem, winners: Buffer, at: Place) -> Stmt:
    """Nobody wins in a line, nor beside it."""
    nobody = emit.constant(problem.nobody, problem.dtype)
    return emit.nest(
        problem.noted[1:-1],
        lambda inner: emit.strips(
            problem.channels,
            problem.lanes,
            lambda c: emit.store(winners, (*at, *inner, c), nobody),
        ),
    )


# --- who wins --------------------------------------------------------------------------------


def _note(problem: _Problem, winners: Buffer, at: Place, n: Index, line: Index) -> Stmt:
    """Note the winners of all windows of a line."""
    beside = [reach - 1 for reach in problem.reach[1:]]

    def window(inner: Place) -> Stmt:
        place = (*at, *(p + before for p, before in zip(inner, beside, strict=True)))

        def some(block: Channels) -> Stmt:
            def put(best: Buffer, winner: Buffer) -> Stmt:
                return emit.seq(
                    _race(problem, n, (line, *inner), block, best, winner),
                    block.each(lambda j: emit.store(winners, (*place, block.first + j), winner[j])),
                )

            return _with_two(block.count, problem.dtype, put)

        return over_channels(problem.channels, problem.lanes, some)

    return emit.nest(problem.positions[1:], window)


def _with_two(size: int, dtype: str, body: Callable[[Buffer, Buffer], Stmt]) -> Stmt:
    return emit.local(
        "best",
        (size,),
        dtype,
        lambda best: emit.local("winner", (size,), dtype, lambda winner: body(best, winner)),
    )


def _race(
    problem: _Problem, n: Index, p: Place, block: Channels, best: Buffer, winner: Buffer
) -> Stmt:
    """Let the taps of window `p` run: the first of the largest wins, or the first NaN."""
    taps = problem.windows.taps(p, problem.spatial)
    first = tuple(start for start, _ in taps)

    def begin(j: Index) -> Stmt:
        return emit.seq(
            emit.store(best, (j,), lowest(problem.dtype)),
            emit.store(winner, (j,), problem.number(first)),
        )

    def tap(at: Place) -> Stmt:
        element = problem.windows.element(p, at)

        def compare(j: Index) -> Stmt:
            value = cast(problem.x[(n, *element, block.first + j)], problem.dtype)
            above = beats(value, best[j])
            return emit.seq(
                emit.store(winner, (j,), tirx.Select(above, problem.number(at), winner[j])),
                emit.store(best, (j,), tirx.Select(above, value, best[j])),
            )

        return block.each(compare)

    return emit.seq(block.each(begin), over_taps(taps, tap, unrolled=_UNROLLED))


# --- what they get ---------------------------------------------------------------------------


def _gather(problem: _Problem, winners: Buffer, task: Index, n: Index, line: Index) -> Stmt:
    """Finish the elements of a line of cells."""
    w = problem.windows

    def row(r: int) -> Stmt:
        q = line * w.strides[0] + (r - w.padding[0][0])
        cells = _cells(problem, winners, task, n, line, (r,), (q,))
        inside = problem.cells[0] * w.strides[0] - w.padding[0][0] == problem.spatial[0]
        if w.padding[0][0] == 0 and inside:
            return cells
        return emit.when(tirx.all(q >= 0, q < problem.spatial[0]), cells)

    return emit.seq(*(row(r) for r in range(w.strides[0])))


def _cells(
    problem: _Problem,
    winners: Buffer,
    task: Index,
    n: Index,
    line: Index,
    rest: Ints,
    element: Place,
    cell: Place = (),
) -> Stmt:
    """Elements that lie `rest` from the corner of their cell along the axes seen so far."""
    axis = len(rest)
    if axis == len(problem.spatial):
        return _element(problem, winners, task, n, (line, *cell), rest, element)
    stride, (low, _) = problem.windows.strides[axis], problem.windows.padding[axis]
    size = problem.spatial[axis]
    ranges = [
        (max(0, -((r - low) // stride)), max(0, -(-(size + low - r) // stride)))
        for r in range(stride)
    ]

    def at(i: Index, r: int) -> Stmt:
        q = i * stride + (r - low)
        return _cells(problem, winners, task, n, line, (*rest, r), (*element, q), (*cell, i))

    begin, end = max(first for first, _ in ranges), min(last for _, last in ranges)
    common = range(begin, max(begin, end))
    outside = [
        at(i, r)
        for r, (first, last) in enumerate(ranges)
        for i in range(first, last)
        if i not in common
    ]
    whole = emit.serial(
        len(common), lambda i: emit.seq(*(at(i, r) for r in range(stride))), "cell", begin
    )
    return emit.seq(*outside, whole)


def _element(
    problem: _Problem,
    winners: Buffer,
    task: Index,
    n: Index,
    cell: Place,
    rest: Ints,
    element: Place,
) -> Stmt:
    """Give an element the cotangents of the windows that it has won."""
    w, reach = problem.windows, problem.reach
    covering = [
        [back for back in range(count) if r + back * s < k]
        for count, r, s, k in zip(reach, rest, w.strides, w.window, strict=True)
    ]

    def share(back: Ints, channel: Index) -> Expr:
        tap = tuple(r + b * s for r, b, s in zip(rest, back, w.strides, strict=True))
        window = [i - b for i, b in zip(cell, back, strict=True)]
        slot = (window[0] + reach[0]) % reach[0]
        place = [i + count - 1 for i, count in zip(window[1:], reach[1:], strict=True)]
        inside = (
            emit.maximum(0, emit.minimum(i, count - 1))
            for i, count in zip(window, problem.positions, strict=True)
        )
        cotangent = cast(problem.dy[(n, *inside, channel)], problem.dtype)
        wins = tirx.EQ(winners[(task, slot, *place, channel)], problem.number(tap))
        return tirx.Select(wins, cotangent, problem.zero())

    def finish(channel: Index) -> Stmt:
        total = problem.zero()
        for number, back in enumerate(itertools.product(*covering)):
            total = total + share(back, channel) if number else share(back, channel)
        return emit.store_all(problem.epilogue((n, *element, channel), total))

    return emit.strips(problem.channels, problem.lanes, finish)
