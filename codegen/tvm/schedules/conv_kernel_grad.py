"""Kernel gradients of convolutions.

Rows of the register tile are kernel elements (taps and channels), columns are outputs, and the sum
runs over images and positions. Images are dealt out to tasks; a task takes a few at a time, so
that they and their cotangents stay in its second-level cache while all tiles run over them, and
keeps its sums in its workspace in between. At the end the tasks' sums are added. (Running each
tile over the whole batch instead reads everything from memory once per tile: 2.6 times slower.)

Kernels of 3 x 3 on f32 images take minimal filtering where `winograd_cost` expects it to be faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from .. import bfloat, emit
from ..emit import Buffer, Computed, Expr, Index, Stmt
from ..target import Machine
from . import one_tap
from .axis import Axis
from .conv import Geometry, extent, is_one_tap, positions
from .depthwise_grad import DepthwiseGrad, depthwise_grad
from .grouped import is_grouped
from .staging import Images, Ints, Stage, stage_bytes
from .tile import (
    Epilogue,
    Tile,
    accumulator,
    cast,
    choose_vectors,
    element_bytes,
    for_row_tiles,
    max_rows,
    row_tiles,
    store_to,
    tasks_for,
)
from .winograd_cost import pays_for_kernel
from .winograd_kernel_grad import KernelGradient, winograd_kernel_grad

Place = tuple[Index, ...]

_CONFLICT = 1024  # pixels this many bytes apart share few sets of the first-level cache
_LEAST_STEPS = 128  # terms before which it costs much, even if images leave the cache for it
_STEPS = 512  # terms of a sum after which moving the sums in and out of registers is cheap


def conv_kernel_grad(
    x: Buffer,
    dy: Buffer,
    out: Buffer | None = None,
    *,
    kernel_shape: Ints,
    geometry: Geometry,
    machine: Machine,
    epilogue: Epilogue | None = None,
) -> Stmt:
    """Emit the cotangent of the kernel of a convolution from that of its result.

    Parameters
    ----------
    x : Buffer
        Images `[N, *spatial, C]`.
    dy : Buffer
        Cotangent of the result, `[N, *positions, O]`.
    out : Buffer, optional
        Cotangent of the kernel; needed only without an `epilogue`.
    kernel_shape : tuple of int
        `[*kernel, C / groups, O]`.
    geometry, machine, epilogue
        As in `conv.conv`; the epilogue gets the whole sums.
    """
    taps = kernel_shape[:-2]
    g, dtype = geometry, accumulator(x, dy)
    epilogue = epilogue or store_to(out)
    some = math.prod(emit.shape_of(x)) * math.prod(emit.shape_of(dy)) * math.prod(taps) > 0
    if some and is_one_tap(taps, g) and emit.dtype_of(x) == emit.dtype_of(dy) == dtype:
        return one_tap.kernel_grad(x, dy, g.strides, machine, epilogue)
    offset = tuple(-low for low, _ in g.padding)
    if _is_plain(g, rank=2) and pays_for_kernel(x, dy, taps, offset, machine):
        return winograd_kernel_grad(KernelGradient(x, dy, offset, epilogue, machine))
    problem = _staged(x, dy, kernel_shape, g, machine, epilogue)
    group = problem.channels, problem.outputs
    if some and (
        (group == (1, 1) and g.groups > 1) or is_grouped(g.groups, *group, machine.lanes(dtype))
    ):
        return _depthwise(problem)
    if math.prod(kernel_shape) == 0:
        return emit.NOTHING
    short = emit.dtype_of(x) == emit.dtype_of(dy) == bfloat.STORED
    if short and bfloat.pairs_fit(machine):
        return bfloat.importing(_gradient(_in_pairs(problem)), machine)
    return _gradient(problem)


def _staged(
    x: Buffer, dy: Buffer, kernel_shape: Ints, g: Geometry, machine: Machine, epilogue: Epilogue
) -> _Problem:
    """The sum over all positions of images that are staged as windows see them."""
    *kernel, channels, total = kernel_shape
    taps = tuple(kernel)
    batch, *spatial, _ = emit.shape_of(x)
    sizes = positions(tuple(spatial), taps, g)
    images = Images(
        x,
        extent(sizes, (0,) * len(taps), g.strides, taps, g.kernel_dilation),
        tuple(low for low, _ in g.padding),
        g.input_dilation,
        accumulator(x, dy),
        machine,
    )
    return _Problem(
        images, dy, batch, sizes, g, taps, channels, total // g.groups, machine, epilogue
    )


def _in_pairs(problem: _Problem) -> _Problem:
    """The same with products of pairs of images."""
    images = replace(problem.images, dtype=bfloat.PAIR, pairs="images")
    return replace(problem, images=images, batch=-(-problem.batch // 2))


def _depthwise(p: _Problem) -> Stmt:
    g, images = p.geometry, p.images
    staged = any(step != 1 for step in g.input_dilation)
    axes = tuple(
        Axis(count, k, 0 if staged else -low, stride, dilation, extent if staged else size)
        for count, k, low, stride, dilation, extent, size in zip(
            p.sizes, p.taps, images.low, g.strides, g.kernel_dilation, images.extent,
            images.spatial, strict=True,
        )
    )  # fmt: skip
    group = (p.channels, p.outputs)
    gradient = DepthwiseGrad(images, p.dy, axes, p.machine, p.epilogue, group)
    return depthwise_grad(gradient, staged=staged)


def _is_plain(g: Geometry, rank: int) -> bool:
    """Whether windows of so many axes move and look step by step, over all channels."""
    return (*g.strides, *g.kernel_dilation, *g.input_dilation, g.groups) == (1,) * (3 * rank + 1)


@dataclass(frozen=True)
class _Problem:
    """``dw[t, c, g, o] = sum_(n, p) image[n, p * stride + t * dilation, g, c] * dy[n, p, g, o]``

    Of images that are staged in pairs, `batch` counts pairs, and cotangents are so too.
    """

    images: Images
    dy: Buffer
    batch: int
    sizes: Ints
    geometry: Geometry
    taps: Ints
    channels: int
    outputs: int
    machine: Machine
    epilogue: Epilogue

    @property
    def dtype(self) -> str:
        """In which products are summed."""
        return "float32" if self.images.pairs else self.images.dtype

    @property
    def groups(self) -> int:
        return self.geometry.groups

    @property
    def lanes(self) -> int:
        return self.machine.lanes(self.dtype)

    @property
    def rows(self) -> int:
        """Kernel elements of one output."""
        return math.prod(self.taps) * self.channels

    @property
    def vectors(self) -> int:
        return choose_vectors(self.outputs, self.machine, self.dtype)

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        """Panels of outputs in a group."""
        return -(-self.outputs // self.width)

    @property
    def work(self) -> int:
        return 2 * self.batch * math.prod(self.sizes) * self.rows * self.outputs * self.groups

    @property
    def padded(self) -> bool:
        """Whether cotangents are copied panel by panel, in the dtype of the sums.

        Their pixels evict each other from the cache where they lie at powers of two.
        """
        whole = self.panels * self.width == self.outputs
        apart = self.groups * self.outputs * element_bytes(self.dtype)
        evicting = apart % _CONFLICT == 0 and self.rows >= 8 * self.width
        other = isinstance(self.dy, Computed) or emit.dtype_of(self.dy) != self.images.dtype
        return not whole or evicting or other

    @property
    def slots(self) -> int:
        """Images that a task takes at a time."""
        pixels = math.prod(self.sizes)
        cotangents = pixels * self.groups * self.outputs * element_bytes(self.dtype)
        room = self.machine.l2 // 2 // max(1, cotangents + stage_bytes(self.images))
        sums = self.rows * self.panels * self.width * self.groups * element_bytes(self.dtype)
        if sums > self.machine.l2:  # then these cost more than images that come from farther away
            room = max(room, -(-_LEAST_STEPS // max(1, pixels)))
        return max(1, min(room, -(-_STEPS // max(1, pixels)), -(-self.batch // self.tasks)))

    @property
    def tasks(self) -> int:
        return max(1, min(tasks_for(self.work, self.machine), self.batch))


@dataclass(frozen=True)
class _Room:
    """What a kernel gradient keeps in memory."""

    stage: Stage
    cotangents: Buffer
    sums: Buffer

    def load(self, problem: _Problem, place: Place, panel: tuple[Index, Index], j: Index) -> Expr:
        """Read cotangents of ``place = (task, slot, image, pixel)`` from ``(group, panel)``."""
        (task, slot, image, pixel), (group, number) = place, panel
        if problem.padded:
            return self.cotangents[task, slot, group * problem.panels + number, pixel, j]
        return self.cotangents[image, pixel, group * problem.outputs + number * problem.width + j]


def _gradient(problem: _Problem) -> Stmt:
    width = problem.panels * problem.width
    sums_shape = (problem.tasks, problem.groups, problem.rows, width)

    def body(stage: Stage, cotangents: Buffer) -> Stmt:
        return emit.scratch(
            "partial",
            sums_shape,
            problem.dtype,
            lambda sums: emit.seq(
                emit.parallel(
                    problem.tasks,
                    lambda task: _task(problem, _Room(stage, cotangents, sums), task),
                ),
                _add_up(problem, sums),
            ),
        )

    return problem.images.staged(
        problem.tasks,
        problem.slots,
        lambda stage: _with_cotangents(problem, lambda cotangents: body(stage, cotangents)),
    )


def _with_cotangents(problem: _Problem, body: Callable[[Buffer], Stmt]) -> Stmt:
    pixels = math.prod(problem.sizes)
    if problem.padded:
        panels = problem.groups * problem.panels
        shape = (problem.tasks, problem.slots, panels, pixels, problem.width)
        return emit.scratch("cotangents", shape, problem.images.dtype, body)
    total = problem.groups * problem.outputs
    return emit.view(problem.dy, (problem.batch, pixels, total), body)


def _task(problem: _Problem, room: _Room, task: Index) -> Stmt:
    first, count = emit.split_range(problem.batch, problem.tasks, task)
    slots = problem.slots

    def some(number: Index) -> Stmt:
        image = first + number * slots
        here = (
            slots
            if problem.batch == problem.tasks * slots
            else emit.minimum(slots, count - number * slots)
        )
        fill = emit.serial(
            here,
            lambda slot: emit.seq(
                room.stage.fill(task, slot, image + slot),
                _fill_cotangents(problem, room, task, slot, image + slot),
            ),
            "slot",
        )
        return emit.seq(fill, _tiles(problem, room, task, image, here))

    return emit.seq(
        _clear(problem, room.sums, task),
        room.stage.clear(task, slots),
        emit.serial((count + slots - 1) // slots, some, "some"),
    )


def _clear(problem: _Problem, sums: Buffer, task: Index) -> Stmt:
    zero, width = emit.constant(0, problem.dtype), problem.panels * problem.width
    return emit.nest(
        (problem.groups, problem.rows),
        lambda at: emit.strips(
            width, problem.lanes, lambda j: emit.store(sums, (task, *at, j), zero)
        ),
    )


def _fill_cotangents(
    problem: _Problem, room: _Room, task: Index, slot: Index, image: Index
) -> Stmt:
    if not problem.padded:
        return emit.NOTHING
    zero, rest = emit.constant(0, problem.images.dtype), problem.outputs % problem.width

    def pixel(at: Place) -> Stmt:
        group, panel, number = at
        p = emit.unflatten(number, problem.sizes)

        def put(j: Index, value: Expr) -> Stmt:
            target = (task, slot, group * problem.panels + panel, number, j)
            return emit.store(room.cotangents, target, value)

        def copy(j: Index) -> Stmt:
            place = (*p, group * problem.outputs + panel * problem.width + j)
            if problem.images.pairs:
                count = emit.shape_of(problem.dy)[0]
                return put(
                    j, bfloat.join_neighbours(count, image, lambda n: problem.dy[(n, *place)])
                )
            return put(j, cast(problem.dy[(image, *place)], problem.dtype))

        def columns(count: int) -> Stmt:
            blank = emit.strips(
                problem.width - count, problem.lanes, lambda j: put(count + j, zero)
            )
            return emit.seq(emit.strips(count, problem.lanes, copy), blank)

        if rest == 0:
            return columns(problem.width)
        last = emit.equal(panel, problem.panels - 1)
        return emit.when(last, columns(rest), columns(problem.width))

    return emit.nest((problem.groups, problem.panels, math.prod(problem.sizes)), pixel)


# --- tiles -----------------------------------------------------------------------------------


def _tiles(problem: _Problem, room: _Room, task: Index, image: Index, count: Index) -> Stmt:
    """All tiles of the kernel over `count` images."""

    def panel(at: Place) -> Stmt:
        group, number = at

        def tile(first: Index, rows: int, row_at: Callable[[int], Place]) -> Stmt:
            return _tile(problem, room, (task, image, count), (group, number), first, rows, row_at)

        return _rows(problem, tile)

    return emit.nest((problem.groups, problem.panels), panel)


def _rows(problem: _Problem, tile: Callable[[Index, int, Callable[[int], Place]], Stmt]) -> Stmt:
    """Cut kernel elements in tiles: `tile` gets its first row and (*tap, channel) of each row."""
    shape = (*problem.taps, problem.channels)
    tallest = max_rows(problem.machine, problem.vectors)
    if problem.rows <= 2 * tallest:  # few: the offset of each row is a constant
        count, height, taller = row_tiles(problem.rows, tallest)
        parts, first = [], 0
        for number in range(count):
            rows = height + (number < taller)
            at = [emit.unflatten(first + row, shape) for row in range(rows)]
            parts.append(tile(first, rows, at.__getitem__))
            first += rows
        return emit.seq(*parts)
    fused = problem.geometry.kernel_dilation[-1] == 1 and problem.groups == 1
    outer = problem.taps[:-1] if fused else problem.taps
    run = problem.rows // math.prod(outer)

    def tap(number: Index) -> Stmt:
        at = emit.unflatten(number, outer)
        head = (*at, 0) if fused else at

        def inner(first: Index, rows: int) -> Stmt:
            return tile(number * run + first, rows, lambda row: (*head, first + row))

        return for_row_tiles(run, tallest, inner)

    return emit.serial(math.prod(outer), tap, "tap")


def _tile(
    problem: _Problem,
    room: _Room,
    images: tuple[Index, Index, Index],
    panel: tuple[Index, Index],
    first: Index,
    rows: int,
    row_at: Callable[[int], Place],
) -> Stmt:
    """Add the terms of `count` images to a tile of the sums."""
    (task, image, count), (group, number) = images, panel
    paired = bool(problem.images.pairs)
    tile = Tile(rows, problem.vectors, problem.lanes, problem.dtype, paired)

    def place(row: int, vector: int) -> Place:
        column = number * problem.width + vector * tile.lanes
        return (task, group, first + row, tile.ramp(column))

    def position(p: Place, row: int) -> Place:
        g = problem.geometry
        return tuple(
            i * s + t * d
            for i, s, t, d in zip(p, g.strides, row_at(row)[:-1], g.kernel_dilation, strict=True)
        )

    def term(step: Callable[..., Stmt], slot: Index, p: Place) -> Stmt:
        pixel = _flat(p, problem.sizes)
        where = (task, slot, image + slot, pixel)

        def left(row: int) -> Expr:
            channel = group * problem.channels + row_at(row)[-1]
            return room.stage.load(task, slot, image + slot, position(p, row), channel)

        def right(vector: int) -> Expr:
            lane = tile.ramp(vector * tile.lanes)
            return room.load(problem, where, (group, number), lane)

        return step(left, right)

    def loops(step: Callable[..., Stmt]) -> Stmt:
        return emit.nest((count, *problem.sizes), lambda at: term(step, at[0], at[1:]))

    return tile.reduce(
        loops,
        lambda sums: tile.each(
            lambda row, vector: emit.store(
                room.sums, place(row, vector), tile.vector(sums, row, vector)
            )
        ),
        lambda row, vector: room.sums[place(row, vector)],
    )


def _flat(p: Place, sizes: Ints) -> Index:
    flat: Index = 0
    for i, size in zip(p, sizes, strict=True):
        flat = flat * size + i
    return flat


def _add_up(problem: _Problem, sums: Buffer) -> Stmt:
    """Add the tasks' sums and hand the results to the epilogue."""
    columns = problem.outputs

    def row(flat: Index) -> Stmt:
        group, number = emit.unflatten(flat, (problem.groups, problem.rows))

        def element(j: Index) -> Stmt:
            total = sums[0, group, number, j]
            for task in range(1, problem.tasks):
                total = total + sums[task, group, number, j]
            head = emit.unflatten(number, (*problem.taps, problem.channels))
            indices = (*head, group * problem.outputs + j)
            return emit.store_all(problem.epilogue(indices, total))

        return emit.strips(columns, problem.lanes, element)

    count = problem.groups * problem.rows
    heavy = count * columns * problem.tasks > 1 << 18
    return (emit.parallel if heavy else emit.serial)(count, row)
