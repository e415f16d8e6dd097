"""One spatial axis of a window op: which positions see which elements through which taps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .. import emit
from ..emit import Index
from .tile import row_tiles

Range = tuple[Index, Index]


@dataclass(frozen=True)
class Axis:
    """Position p looks at element ``start + p * stride + t * dilation`` through tap t.

    Parameters
    ----------
    count, taps : int
        Numbers of positions and of taps.
    start, stride, dilation : int
        See the formula; `start` is negative where there is padding.
    size : int
        Number of elements: those outside of 0 ... size-1 are zeros.
    """

    count: int
    taps: int
    start: int
    stride: int
    dilation: int
    size: int

    def element(self, p: Index, tap: Index) -> Index:
        """What position `p` looks at through a tap."""
        return p * self.stride + tap * self.dilation + self.start

    def sees(self, p: int, tap: int) -> bool:
        """Whether there is such an element."""
        element = self.element(p, tap)
        assert isinstance(element, int)
        return 0 <= element < self.size

    def inside(self, p: int) -> bool:
        """Whether the position sees elements through all taps."""
        return self.taps == 0 or (self.sees(p, 0) and self.sees(p, self.taps - 1))

    @property
    def always_inside(self) -> bool:
        """Whether all positions see elements through all taps."""
        return self.inside(0) and self.inside(self.count - 1)

    def taps_met(self, p: Index) -> Range:
        """Taps (first, number) through which position `p` sees elements."""
        if self.always_inside:
            return 0, self.taps
        first, step = p * self.stride + self.start, self.dilation
        before = emit.minimum(self.taps, (emit.maximum(0, 0 - first) + step - 1) // step)
        end = emit.minimum(self.taps, (emit.maximum(0, self.size - first) + step - 1) // step)
        return before, emit.maximum(0, end - before)

    def tiles(self, tallest: int) -> Iterator[tuple[int, int, int]]:
        """Runs (first position, positions in a tile, number of tiles) of equal tiles.

        Only a run of one tile has positions that see less than all taps.
        """
        number, height, taller = row_tiles(self.count, tallest)
        run: tuple[int, int, int] | None = None
        for tile in range(number):
            first, own = tile * height + min(tile, taller), height + (tile < taller)
            whole = self.inside(first) and self.inside(first + own - 1)
            if run and whole and run[1] == own:
                run = (run[0], own, run[2] + 1)
                continue
            if run:
                yield run
                run = None
            if whole:
                run = (first, own, 1)
            else:
                yield first, own, 1
        if run:
            yield run
