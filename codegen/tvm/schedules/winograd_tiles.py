"""Tiles of images for minimal filtering: how they are dealt out, read and transformed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from .. import emit
from ..emit import Buffer, Computed, Expr, Index, Operand, Stmt
from .minimal import POINTS, RESULTS, Transform, planar
from .tile import Tile, cast, element_bytes

Place = tuple[Index, ...]
Load = Callable[[Index, Index, Index], Expr]

_AHEAD = 2  # tiles: by a tenth faster for 128 images of 32 x 32 x 16
_LINE = 64  # bytes of a line of the cache
_FAR_BYTES = 2 << 20

SQUARE = POINTS * POINTS
"""Matrices that the squares of elements are transformed to."""


@dataclass(frozen=True)
class Tiles:
    """The tiles of 4 x 4 results of all images, and blocks of them that are worked on at a time.

    Parameters
    ----------
    batch : int
        Number of images.
    grid : tuple of int
        Tiles down and across an image.
    block : int
        Tiles in a block; the last may have fewer.
    tasks : int
        Tasks that the blocks are dealt out to.
    """

    batch: int
    grid: tuple[int, int]
    block: int
    tasks: int

    @property
    def count(self) -> int:
        """Tiles of all images."""
        return self.batch * math.prod(self.grid)

    def place(self, tile: Index) -> Place:
        """Image, and row and column of the first result of a tile."""
        n, row, column = emit.unflatten(tile, (self.batch, *self.grid))
        return n, row * RESULTS, column * RESULTS

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.count // self.block)

    def each_block(self, task: Index | None, body: Callable[[Index, Index], Stmt]) -> Stmt:
        """Run `body` with first tile and number of tiles of each block of a task, or of all."""
        first, count = 0, self.blocks
        if task is not None:
            first, count = emit.split_range(self.blocks, self.tasks, task)

        def block(number: Index) -> Stmt:
            start = number * self.block
            if self.count % self.block == 0:
                return body(start, self.block)
            return body(start, emit.minimum(self.block, self.count - start))

        return emit.serial(count, block, "block", first)


def grid_of(sizes: Sequence[int]) -> tuple[int, int]:
    """Tiles down and across an image of so many results."""
    down, across = (-(-size // RESULTS) for size in sizes)
    return down, across


def deal(batch: int, sizes: Sequence[int], most: int, step: int, tasks: int) -> Tiles:
    """Cut tiles in equally many blocks for each task, of at most `most` tiles or one `step`.

    Where it fills the last block nearly as well, a block is a multiple of some number from `step`
    down to three quarters of it, so that there is code for one height of register tiles.
    """
    grid = grid_of(sizes)
    count = batch * math.prod(grid)
    tasks = min(tasks, count)
    share = -(-count // tasks)
    blocks = -(-share // (max(most // step, 1) * step))
    even = -(-share // blocks)

    def cost(size: int) -> int:
        return -(-share // size) * (size + 2)  # each block reads all weights again

    heights = range(step, max(1, step * 3 // 4) - 1, -1)
    multiples = [n * height for height in heights for n in (even // height, -(-even // height))]
    fitting = [size for size in multiples if 0 < size <= max(most, even)]
    best = min(fitting, key=cost, default=even)
    return Tiles(batch, grid, best if cost(best) <= 1.03 * cost(even) else even, tasks)


def pitch(channels: int, lanes: int) -> int:
    """Elements from one row of a matrix to the next: whole vectors, no multiple of 2048 bytes."""
    whole = -(-channels // lanes) * lanes
    return whole + lanes if whole * 4 % 2048 == 0 else whole


@dataclass(frozen=True)
class Squares:
    """The squares of elements under the tiles, zeros outside of the image.

    Parameters
    ----------
    source : Buffer or Computed
        Images `[N, height, width, C]`; of f16 and bf16 they become f32.
    offset : tuple of int
        Where the square under the first tile begins; negative for padding.
    side : int
        Elements of a side: what the results of a tile see, or the results themselves.
    tiles : Tiles
    lanes : int
        Elements of a vector.
    """

    source: Operand
    offset: tuple[int, ...]
    side: int
    tiles: Tiles
    lanes: int

    @property
    def spatial(self) -> tuple[int, ...]:
        return emit.shape_of(self.source)[1:3]

    @property
    def channels(self) -> int:
        return emit.shape_of(self.source)[3]

    @property
    def pixel(self) -> int:
        """Channels in whole vectors."""
        return -(-self.channels // self.lanes) * self.lanes

    @property
    def mostly_outside(self) -> bool:
        """Whether so many squares cross the border that all may go through the patch.

        The code that reads squares where they lie is left out then.
        """
        axes = zip(self.offset, self.spatial, self.tiles.grid, strict=True)
        inside = math.prod(
            sum(0 <= at + t * RESULTS <= size - self.side for t in range(tiles))
            for at, size, tiles in axes
        )
        return self.pixel != self.channels or 4 * inside <= math.prod(self.tiles.grid)

    @property
    def are_scattered(self) -> bool:
        """Whether squares are a line or two of the cache here and there, of images from far away.

        The hardware fetches longer runs by itself; with 64 channels doing so takes 3 % longer.
        """
        nbytes = element_bytes(emit.dtype_of(self.source))
        far = nbytes * math.prod(emit.shape_of(self.source)) >= _FAR_BYTES
        return far and nbytes * self.channels <= 2 * _LINE

    @property
    def pitch(self) -> int:
        """Elements of a row of the matrices."""
        return pitch(self.channels, self.lanes)

    @property
    def in_place(self) -> bool:
        """Whether every square can be read where it lies."""
        ends = (
            at + (tiles - 1) * RESULTS + self.side
            for at, tiles in zip(self.offset, self.tiles.grid, strict=True)
        )
        fits = all(end <= size for end, size in zip(ends, self.spatial, strict=True))
        return fits and min(self.offset) >= 0 and self.pixel == self.channels

    def with_room(self, name: str, slots: int, rows: int, body: Callable[[Room], Stmt]) -> Stmt:
        """Declare `slots` times the 36 matrices of so many rows, and a patch for each task.

        There is a vector between one matrix and the next: without it they would often fall in
        the same sets of the cache.
        """
        shape = (slots, SQUARE, rows * self.pitch + self.lanes)
        patch_shape = (self.tiles.tasks, self.side * self.side * self.pixel)

        def matrices(buffer: Buffer) -> Stmt:
            if self.in_place:
                return body(Room(self, buffer, None))
            return emit.scratch(
                f"{name}_patch", patch_shape, "float32",
                lambda patch: body(Room(self, buffer, patch)),
            )  # fmt: skip

        return emit.scratch(name, shape, "float32", matrices)


@dataclass(frozen=True)
class Room:
    """Transformed squares: ``matrices[slot, point, tile * pitch + channel]``."""

    squares: Squares
    matrices: Buffer
    patch: Buffer | None

    def ramp(self, start: Index) -> Index:
        """Index of a vector of elements."""
        return Tile(1, 1, self.squares.lanes, "float32").ramp(start)

    def fill(
        self,
        transform: Transform,
        slot: Index,
        row: Index,
        task: Index,
        tiles: tuple[Index, Index],
    ) -> Stmt:
        """Transform the squares of tiles (first, count) to rows of a slot, from `row` on."""
        squares, (first, count) = self.squares, tiles
        lanes = squares.lanes

        def tile(number: Index) -> Stmt:
            start = (row + number) * squares.pitch

            def vector(at: Index, load: Load, by_lanes: bool) -> Stmt:
                def keep(i: Index, values: Sequence[Expr]) -> Stmt:
                    place = self.ramp(start + at * lanes)
                    return emit.seq(
                        *(
                            emit.store(self.matrices, (slot, i * POINTS + j, place), value)
                            for j, value in enumerate(values)
                        )
                    )

                def read(i: Index, j: Index, lane: Index | None = None) -> Expr:
                    start = at * lanes
                    return load(i, j, self.ramp(start) if lane is None else start + lane)

                return planar(transform, squares.side, lanes, read, keep, by_lanes=by_lanes)

            def vectors(load: Load, by_lanes: bool = False) -> Stmt:
                count = squares.pixel // lanes
                return emit.serial(count, lambda at: vector(at, load, by_lanes), "vector")

            ahead = self._fetch(first + number + _AHEAD) if squares.are_scattered else None
            return emit.seq(ahead, self._read(task, first + number, vectors))

        return emit.serial(count, tile, "tile")

    def _fetch(self, tile: Index) -> Stmt:
        """Fetch the columns of a tile's square that the tile before has not seen."""
        squares = self.squares
        n, *start = squares.tiles.place(tile)
        row, column = (at + offset for at, offset in zip(start, squares.offset, strict=True))
        unseen = column + squares.side - RESULTS
        length = _LINE // element_bytes(emit.dtype_of(squares.source))

        def line(at: Place) -> Stmt:
            i, j, part = at
            return emit.fetch(squares.source, (n, row + i, unseen + j, part * length))

        return emit.nest((squares.side, RESULTS, -(-squares.channels // length)), line)

    def _read(self, task: Index, tile: Index, body: Callable[..., Stmt]) -> Stmt:
        """Give `body` the square under a tile, where it lies or from the patch, and whether it must
        be read lane by lane."""
        squares, patch = self.squares, self.patch
        computed = isinstance(squares.source, Computed)
        n, *start = squares.tiles.place(tile)
        row, column = (at + offset for at, offset in zip(start, squares.offset, strict=True))

        def there(i: Index, j: Index, c: Index) -> Expr:
            value = squares.source[n, row + i, column + j, c]
            return value if computed else cast(value, "float32", squares.lanes)

        if patch is None:
            return body(there, computed)

        def here(i: Index, j: Index, c: Index) -> Expr:
            return patch[task, (i * squares.side + j) * squares.pixel + c]

        copied = emit.seq(self._copy(patch, task, (n, row, column)), body(here))
        if squares.mostly_outside:
            return copied
        height, width = squares.spatial
        inside = _all(
            emit.less(-1, row), emit.less(row, height - squares.side + 1),
            emit.less(-1, column), emit.less(column, width - squares.side + 1),
        )  # fmt: skip
        return emit.when(inside, body(there, computed), copied)

    def _copy(self, patch: Buffer, task: Index, corner: Place) -> Stmt:
        """Copy the square at `corner` to the patch, zeros where the image ends."""
        squares, (n, top, left) = self.squares, corner
        height, width = squares.spatial
        zero = emit.constant(0, "float32")

        def element(at: Place) -> Stmt:
            row, column = top + at[0], left + at[1]
            start = (at[0] * squares.side + at[1]) * squares.pixel

            def put(c: Index, value: Expr) -> Stmt:
                return emit.store(patch, (task, start + c), value)

            def copy(c: Index) -> Stmt:
                return put(c, cast(squares.source[n, row, column, c], "float32"))

            inside = _all(
                emit.less(-1, row), emit.less(row, height),
                emit.less(-1, column), emit.less(column, width),
            )  # fmt: skip
            channels, lanes = squares.channels, squares.lanes
            return emit.seq(
                emit.when(
                    inside,
                    emit.strips(channels, lanes, copy),
                    emit.strips(channels, lanes, lambda c: put(c, zero)),
                ),
                emit.strips(squares.pixel - channels, lanes, lambda c: put(channels + c, zero)),
            )

        return emit.nest((squares.side, squares.side), element)


def _all(*conditions: Expr | bool) -> Expr | bool:
    """Whether all hold; known where one is known to fail, or all to hold."""
    if any(condition is False for condition in conditions):
        return False
    result: Expr | bool = True
    for condition in conditions:
        if condition is not True:
            result = condition if result is True else tirx.And(result, condition)
    return result
