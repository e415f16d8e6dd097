"""Work that is independent from line to line along an axis, split over threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ....ir.graph import Value
from .. import index as ix
from ..cost import tasks_for
from ..index import Index
from ..nest import Nest, spread
from ..target import Machine

Run = Callable[[Index, Index, int], None]


@dataclass(frozen=True)
class Lines:
    """The lines of a tensor along an axis: `outer` blocks of `inner` lines of `size` elements."""

    outer: int
    size: int
    inner: int

    @classmethod
    def of(cls, x: Value, axis: int) -> Lines:
        """The lines of `x` along `axis`."""
        before, after = map(int_product, (x.shape[:axis], x.shape[axis + 1 :]))
        return cls(before, int(x.shape[axis]), after)

    def at(self, outer: Index, place: Index, inner: Index) -> Index:
        """The row-major position of an element."""
        return (outer * self.size + place) * self.inner + inner


def int_product(sizes: tuple[object, ...]) -> int:
    """The product of sizes that are known."""
    return math.prod(int(size) for size in sizes)  # type: ignore[call-overload]


def over_lines(
    nest: Nest, lines: Lines, lanes: int, steps: int, machine: Machine, run: Run
) -> None:
    """Call `run(outer, first, width)` for parts of blocks that together are all lines.

    Parameters
    ----------
    lanes : int
        Lines that a vector takes at once.
    steps : int
        Steps of about a nanosecond that one line takes, or a vector of lines.
    run : callable
        Emits the lines first ... first + width - 1 of a block, independent of all others.
    """
    outer, inner = lines.outer, lines.inner
    tasks = tasks_for(float(outer * -(-inner // lanes) * steps), machine)
    if tasks == 1 or outer >= tasks:
        _spread(nest, outer, tasks, lambda o: run(o, ix.ZERO, inner))
        return
    width = -(-inner // (4 * tasks * lanes)) * lanes
    whole, rest = divmod(inner, width)
    for block in range(outer):
        o = ix.number(block)
        _spread(nest, whole, tasks, lambda unit, o=o: run(o, unit * width, width))
        if rest:
            run(o, ix.number(whole * width), rest)


def _spread(nest: Nest, extent: int, tasks: int, body: Callable[[Index], None]) -> None:
    if tasks > 1 and extent > 1:
        spread(nest, extent, tasks, body)
    else:
        nest.loop(extent, body)
