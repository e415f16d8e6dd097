"""Images as the window templates read them: padded, dilated, in the dtype of the sums.

A convolution without padding reads its input where it lies. Otherwise each task copies an image
into its workspace, where it stays in the second-level cache: bounds are then checked once for
each element and not once for each tap, and the copy is a few percent of the work. The border is
zeroed once per task, since copies only write the inside.

Images of bf16 may be staged as pairs (see `bfloat`): of neighbouring channels, where the sum runs
over channels, or of the same element of neighbouring images, where it runs over images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import bfloat, emit
from ..emit import Buffer, Computed, Expr, Index, Operand, Stmt
from ..target import Machine
from .tile import cast

Ints = tuple[int, ...]
Position = Sequence[Index]


@dataclass(frozen=True)
class Images:
    """A source `[N, *spatial, C]` seen with zeros around and between its elements.

    Parameters
    ----------
    source : Buffer
        The images.
    extent : tuple of int
        Size of the padded image along each spatial axis.
    low : tuple of int
        Where the first element stands in the padded image; may be negative.
    dilation : tuple of int
        Distance of neighbouring elements.
    dtype : str
        What elements are converted to.
    machine : Machine
        For the width of copies.
    pairs : {"", "channels", "images"}
        Of which neighbours an element is a pair; `dtype` is that of pairs then.
    """

    source: Buffer
    extent: Ints
    low: Ints
    dilation: Ints
    dtype: str
    machine: Machine
    pairs: str = ""

    @property
    def spatial(self) -> Ints:
        return emit.shape_of(self.source)[1:-1]

    @property
    def channels(self) -> int:
        channels = emit.shape_of(self.source)[-1]
        return channels // 2 if self.pairs == "channels" else channels

    @property
    def in_place(self) -> bool:
        """Whether the source itself is the image, perhaps longer than needed."""
        plain = all(low == 0 for low in self.low) and all(step == 1 for step in self.dilation)
        inside = all(need <= have for need, have in zip(self.extent, self.spatial, strict=True))
        same = self.pairs == "channels" or emit.dtype_of(self.source) == self.dtype
        return plain and inside and same and not isinstance(self.source, Computed)

    @property
    def rows_shape(self) -> Ints:
        """Sizes of one image with its last axis and the channels merged."""
        sizes = self.spatial if self.in_place else self.extent
        return (*sizes[:-1], sizes[-1] * self.channels)

    def staged(self, tasks: int, slots: int, body: Callable[[Stage], Stmt]) -> Stmt:
        """Give `body` a `Stage` with room for `slots` images of each task."""
        batch, *outer, last, _ = emit.shape_of(self.source)
        shape = (tasks, slots, *self.rows_shape)

        def staged(source: Operand) -> Stmt:
            if self.in_place:
                return body(Stage(self, source, source))
            return emit.scratch(
                "staged", shape, self.dtype, lambda rows: body(Stage(self, source, rows))
            )

        if isinstance(self.source, Computed):  # what it is computed of may differ by channel
            return staged(self.source)
        merged = (batch, *outer, last * self.channels)
        seen = bfloat.PAIR if self.pairs == "channels" else None
        return emit.view(self.source, merged, staged, seen)


@dataclass(frozen=True)
class Stage:
    """Room for staged images: `fill` brings one in, `load` reads from it.

    `source` and `rows` are the images before and after, each with the last axis and the channels
    merged, unless the source is computed.
    """

    images: Images
    source: Operand
    rows: Buffer

    def clear(self, task: Index, slots: int) -> Stmt:
        """Zero a task's room, once; nothing where images are read in place or have no border."""
        images = self.images
        if images.in_place or _covers(images):
            return emit.NOTHING
        *outer, length = images.rows_shape
        zero = emit.constant(0, images.dtype)
        lanes = images.machine.lanes(images.dtype)
        return emit.nest(
            (slots, *outer),
            lambda at: emit.strips(
                length, lanes, lambda j: emit.store(self.rows, (task, *at, j), zero), unroll=4
            ),
        )

    def fill(self, task: Index, slot: Index, image: Index) -> Stmt:
        """Copy an image into a slot."""
        images = self.images
        if images.in_place:
            return emit.NOTHING
        *outer, last = (
            _inside(size, low, step, extent)
            for size, low, step, extent in zip(
                images.spatial, images.low, images.dilation, images.extent, strict=True
            )
        )

        def row(at: Position) -> Stmt:
            source = [first + i for i, (first, _) in zip(at, outer, strict=True)]
            target = [
                low + step * i
                for i, low, step in zip(source, images.low, images.dilation, strict=False)
            ]
            return self._copy_row((image, *source), (task, slot, *target), last)

        return emit.nest([count for _, count in outer], row)

    def _copy_row(self, source: Position, target: Position, inside: tuple[int, int]) -> Stmt:
        images = self.images
        first, count = inside
        low, step, channels = images.low[-1], images.dilation[-1], images.channels
        lanes = images.machine.lanes(images.dtype)
        computed = isinstance(self.source, Computed)
        if step == 1 and not computed:  # elements of neighbours are contiguous: one strip for all
            return emit.strips(
                count * channels,
                lanes,
                lambda j: emit.store(
                    self.rows,
                    (*target, (low + first) * channels + j),
                    self._element(source, first * channels + j),
                ),
                unroll=4,
            )

        def pixel(i: Index) -> Stmt:
            place = (low + (first + i) * step) * channels

            def element(j: Index) -> Stmt:
                seen = (first + i, j) if computed else ((first + i) * channels + j,)
                return emit.store(self.rows, (*target, place + j), self._element(source, *seen))

            return emit.strips(channels, lanes, element)

        return emit.serial(count, pixel, "pixel")

    def _element(self, source: Position, *place: Index) -> Expr:
        """What is staged of an element, ``source = (image, *position of its row)``."""
        images, (image, *row) = self.images, source
        if images.pairs == "images":
            return bfloat.join_neighbours(
                emit.shape_of(self.source)[0], image, lambda n: self.source[(n, *row, *place)]
            )
        return cast(self.source[(*source, *place)], images.dtype)

    def load(
        self, task: Index, slot: Index, image: Index, position: Position, channel: Index
    ) -> Expr:
        """Read channels of a padded position; `channel` may be a vector of indices."""
        *outer, last = position
        place = last * self.images.channels + channel
        head = (image,) if self.images.in_place else (task, slot)
        return self.rows[(*head, *outer, place)]


def _inside(size: int, low: int, step: int, extent: int) -> tuple[int, int]:
    """Elements (first, count) of an axis that fall in the padded extent."""
    first = max(0, -(low // step)) if low < 0 else 0
    last = min(size - 1, (extent - 1 - low) // step)
    return first, max(0, last - first + 1)


def _covers(images: Images) -> bool:
    """Whether copies overwrite every element of the stage."""
    axes = zip(images.spatial, images.low, images.dilation, images.extent, strict=True)
    return all(
        step == 1 and low <= 0 and _inside(size, low, step, extent)[1] == extent
        for size, low, step, extent in axes
    )


def stage_bytes(images: Images) -> int:
    """Bytes of one staged image."""
    return (
        math.prod(images.rows_shape)
        * images.machine.vector_bits
        // (8 * images.machine.lanes(images.dtype))
    )
