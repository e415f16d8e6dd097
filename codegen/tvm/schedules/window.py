"""Pooling over windows of `[N, *spatial, C]` and its gradients; vectors run along the channels.

Bounds cost nothing inside the loops: where there is padding, each window's range of taps is
computed before it is run over. No gradient scatters to addresses that depend on data:

- *max*: the cotangent goes with the first maximum. All windows of an image run over it in order,
  and each adds to all of its elements either the cotangent or 0. Where windows tile the image,
  elements are written at once; otherwise they are summed in the task's workspace first.
- *average*: each element sums the windows that cover it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine
from .tile import Epilogue, accumulator, cast, store_to, tasks_for

Ints = tuple[int, ...]
Place = tuple[Index, ...]
Padding = tuple[tuple[int, int], ...]
Range = tuple[Index, Index]

_VECTORS = 4  # vectors of channels that one pass over a window holds in registers


@dataclass(frozen=True)
class Channels:
    """A block of `count` channels from `first` on, in vectors of `lanes`."""

    first: Index
    count: int
    lanes: int

    def each(self, body: Callable[[Index], Stmt]) -> Stmt:
        """Run `body` for each position in the block, vector by vector."""
        starts = range(0, self.count, self.lanes)
        return emit.seq(*(
            emit.vectorized(
                min(self.lanes, self.count - start), lambda lane, start=start: body(start + lane)
            )
            for start in starts
        ))


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial axes, one entry for each axis."""

    window: Ints
    strides: Ints
    padding: Padding

    def positions(self, spatial: Ints) -> Ints:
        """Number of windows along each axis of an image of these sizes."""
        return tuple(
            (size + low + high - k) // s + 1
            for size, k, s, (low, high) in zip(
                spatial, self.window, self.strides, self.padding, strict=True
            )
        )

    def taps(self, p: Place, spatial: Ints) -> list[Range]:
        """Taps (start, length) of window `p` that fall inside the image, along each axis."""
        return [
            _taps_inside(i * s - low, k, size, inside=_always_inside(size, k, s, pair))
            for i, s, k, size, pair in zip(
                p, self.strides, self.window, spatial, self.padding, strict=True
            )
            for low in pair[:1]
        ]

    def element(self, p: Place, tap: Place) -> Place:
        """Where a tap of window `p` looks."""
        return tuple(
            i * s - low + t
            for i, s, (low, _), t in zip(p, self.strides, self.padding, tap, strict=True)
        )

    @property
    def adjoin(self) -> bool:
        """Whether windows lie side by side, from the first element on."""
        sizes = zip(self.window, self.strides, self.padding, strict=True)
        return all(k == s and pair == (0, 0) for k, s, pair in sizes)


def _always_inside(size: int, window: int, stride: int, pair: tuple[int, int]) -> bool:
    low, high = pair
    last = (size + low + high - window) // stride * stride - low
    return low == 0 and last + window <= size


def _taps_inside(first: Index, window: int, size: int, *, inside: bool) -> Range:
    if inside:
        return 0, window
    start = emit.maximum(0, 0 - first)
    return start, emit.minimum(window, size - first) - start


def max_pool(
    x: Buffer,
    out: Buffer | None = None,
    *,
    windows: Windows,
    machine: Machine,
    epilogue: Epilogue | None = None,
) -> Stmt:
    """Emit the largest element of each window; NaN wins, padding never does.

    Parameters
    ----------
    x : Buffer
        `[N, *spatial, C]`, of any number type.
    out : Buffer, optional
        `[N, *positions, C]`; needed only without an `epilogue`.
    windows : Windows
        Sizes, strides and padding.
    machine : Machine
        What to choose vectors and tasks for.
    epilogue : callable, optional
        ``epilogue(indices, value)`` returns the stores for one element.
    """
    epilogue = epilogue or store_to(out)
    dtype = emit.dtype_of(x)

    def result(n: Index, p: Place, block: Channels) -> Stmt:
        def body(best: Buffer) -> Stmt:
            start = block.each(lambda j: emit.store(best, (j,), tirx.min_value(dtype)))

            def finish(j: Index) -> Stmt:
                return emit.store_all(epilogue((n, *p, block.first + j), best[j]))

            return emit.seq(
                start, _largest(x, windows, n, p, block, best), block.each(finish)
            )

        return emit.local("best", (block.count,), dtype, body)

    return _over_windows(x, windows, machine, result)


def _largest(
    x: Buffer, windows: Windows, n: Index, p: Place, block: Channels, best: Buffer
) -> Stmt:
    """Raise `best` to the maximum of a window."""

    def tap(at: Place) -> Stmt:
        element = windows.element(p, at)

        def lane(j: Index) -> Stmt:
            value = x[(n, *element, block.first + j)]
            above = value > best[j]
            if emit.dtype_of(x).startswith(("float", "bfloat")):
                above = tirx.any(above, _is_nan(value))
            return emit.store(best, (j,), tirx.Select(above, value, best[j]))

        return block.each(lane)

    return _over_taps(windows.taps(p, emit.shape_of(x)[1:-1]), tap)


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
    epilogue = epilogue or store_to(out)
    batch, *spatial, channels = emit.shape_of(x)
    dtype, lanes = accumulator(x), machine.lanes(accumulator(x))
    if batch * math.prod(spatial) * channels == 0:
        return emit.NOTHING
    if windows.adjoin:
        return _share_adjoining(x, dy, windows, machine, epilogue)
    work = batch * math.prod(spatial) * channels * math.prod(windows.window) * 4
    tasks = max(1, min(batch, tasks_for(work, machine)))

    def body(sums: Buffer) -> Stmt:
        def image(task: Index, n: Index) -> Stmt:
            zero = emit.constant(0, dtype)
            clear = emit.nest(spatial, lambda q: emit.strips(
                channels, lanes, lambda j: emit.store(sums, (task, *q, j), zero)
            ))

            def add(indices: Place, value: Expr) -> Stmt:
                place = (task, *indices[1:])
                return emit.store(sums, place, sums[place] + value)

            def window(p: Place) -> Stmt:
                return _over_channels(channels, lanes, lambda block: _share(
                    x, dy, windows, n, p, block, add
                ))

            finish = emit.nest(spatial, lambda q: emit.strips(
                channels,
                lanes,
                lambda j: emit.store_all(epilogue((n, *q, j), sums[(task, *q, j)])),
            ))
            return emit.seq(
                clear, emit.nest(windows.positions(tuple(spatial)), window), finish
            )

        def task(number: Index) -> Stmt:
            first, count = emit.split_range(batch, tasks, number)
            return emit.serial(count, lambda n: image(number, n), "image", first)

        return emit.parallel(tasks, task)

    return emit.scratch("sums", (tasks, *spatial, channels), dtype, body)


def _share_adjoining(
    x: Buffer, dy: Buffer, windows: Windows, machine: Machine, epilogue: Epilogue
) -> Stmt:
    """Write each element of each window at once; elements beyond the last windows are 0."""
    batch, *spatial, channels = emit.shape_of(x)
    dtype = accumulator(x)

    def put(indices: Place, value: Expr) -> Stmt:
        return emit.store_all(epilogue(indices, value))

    def beyond(axis: int) -> Stmt:
        covered = [p * k for p, k in zip(counts, windows.window, strict=True)]
        sizes = [*covered[:axis], spatial[axis] - covered[axis], *spatial[axis + 1 :]]

        def pixel(at: Place) -> Stmt:
            n, *q = at
            q[axis] = q[axis] + covered[axis]
            return emit.strips(channels, machine.lanes(dtype), lambda j: put(
                (n, *q, j), emit.constant(0, dtype)
            ))

        return emit.nest((batch, *sizes), pixel)

    counts = windows.positions(tuple(spatial))
    inside = _over_windows(
        x, windows, machine, lambda n, p, block: _share(x, dy, windows, n, p, block, put)
    )
    return emit.seq(inside, *(beyond(axis) for axis in range(len(spatial))))


def _share(
    x: Buffer,
    dy: Buffer,
    windows: Windows,
    n: Index,
    p: Place,
    block: Channels,
    put: Callable[[Place, Expr], Stmt],
) -> Stmt:
    """Give the cotangent of one window to its first maximum and 0 to its other elements."""
    dtype = accumulator(x)
    zero = emit.constant(0, dtype)

    def body(best: Buffer, left: Buffer) -> Stmt:
        def start(j: Index) -> Stmt:
            share = cast(dy[(n, *p, block.first + j)], dtype)
            return emit.seq(
                emit.store(best, (j,), tirx.min_value(emit.dtype_of(x))),
                emit.store(left, (j,), share),
            )

        def tap(at: Place) -> Stmt:
            element = windows.element(p, at)

            def lane(j: Index) -> Stmt:
                value = x[(n, *element, block.first + j)]
                hit = tirx.any(tirx.EQ(value, best[j]), _is_nan(value))
                share = left[j]
                return emit.seq(
                    put((n, *element, block.first + j), tirx.Select(hit, share, zero)),
                    emit.store(left, (j,), tirx.Select(hit, zero, share)),
                )

            return block.each(lane)

        return emit.seq(
            block.each(start),
            _largest(x, windows, n, p, block, best),
            _over_taps(windows.taps(p, emit.shape_of(x)[1:-1]), tap),
        )

    return emit.local("best", (block.count,), emit.dtype_of(x), lambda best: emit.local(
        "left", (block.count,), dtype, lambda left: body(best, left)
    ))


def avg_pool(
    x: Buffer,
    out: Buffer | None = None,
    *,
    windows: Windows,
    include_padding: bool,
    machine: Machine,
    epilogue: Epilogue | None = None,
) -> Stmt:
    """Emit the mean of each window; padding counts as zeros if `include_padding`.

    Parameters
    ----------
    x : Buffer
        `[N, *spatial, C]`.
    out : Buffer, optional
        `[N, *positions, C]`; needed only without an `epilogue`.
    windows : Windows
        Sizes, strides and padding.
    include_padding : bool
        Whether to divide by the size of the window, not by the number of elements in it.
    machine : Machine
        What to choose vectors and tasks for.
    epilogue : callable, optional
        As in `max_pool`, in the dtype of the sums (f32 for f16 and bf16).
    """
    epilogue = epilogue or store_to(out)
    dtype, spatial = accumulator(x), emit.shape_of(x)[1:-1]

    def result(n: Index, p: Place, block: Channels) -> Stmt:
        taps = windows.taps(p, spatial)

        def body(sums: Buffer) -> Stmt:
            def tap(at: Place) -> Stmt:
                element = windows.element(p, at)
                return block.each(lambda j: emit.store(
                    sums, (j,), sums[j] + cast(x[(n, *element, block.first + j)], dtype)
                ))

            def finish(j: Index) -> Stmt:
                mean = sums[j] / _divisor(windows, taps, include_padding, dtype)
                return emit.store_all(epilogue((n, *p, block.first + j), mean))

            zero = block.each(lambda j: emit.store(sums, (j,), emit.constant(0, dtype)))
            return emit.seq(zero, _over_taps(taps, tap), block.each(finish))

        return emit.local("sums", (block.count,), dtype, body)

    return _over_windows(x, windows, machine, result)


def avg_pool_grad(
    dy: Buffer,
    out: Buffer | None = None,
    *,
    input_shape: Ints,
    windows: Windows,
    include_padding: bool,
    machine: Machine,
    epilogue: Epilogue | None = None,
) -> Stmt:
    """Emit the cotangent of the input of `avg_pool` from that of its result.

    Parameters
    ----------
    dy : Buffer
        The cotangent of the result, `[N, *positions, C]`.
    out : Buffer, optional
        The cotangent of the input; needed only without an `epilogue`.
    input_shape : tuple of int
        `[N, *spatial, C]`.
    windows, include_padding, machine, epilogue
        As in `avg_pool`.
    """
    epilogue = epilogue or store_to(out)
    dtype, spatial = accumulator(dy), input_shape[1:-1]
    counts = emit.shape_of(dy)[1:-1]

    def element(n: Index, q: Place, block: Channels) -> Stmt:
        covering = [
            _covering(i + low, k, s, number)
            for i, k, s, (low, _), number in zip(
                q, windows.window, windows.strides, windows.padding, counts, strict=True
            )
        ]

        def body(sums: Buffer) -> Stmt:
            def window(p: Place) -> Stmt:
                taps = windows.taps(p, spatial)
                return block.each(lambda j: emit.store(
                    sums,
                    (j,),
                    sums[j] + cast(dy[(n, *p, block.first + j)], dtype)
                    / _divisor(windows, taps, include_padding, dtype),
                ))

            def finish(j: Index) -> Stmt:
                return emit.store_all(epilogue((n, *q, block.first + j), sums[j]))

            zero = block.each(lambda j: emit.store(sums, (j,), emit.constant(0, dtype)))
            return emit.seq(zero, _over_taps(covering, window), block.each(finish))

        return emit.local("sums", (block.count,), dtype, body)

    work = math.prod(input_shape) * math.prod(windows.window)
    return _over_pixels(input_shape, work, machine, dtype, element)


def _covering(position: Index, window: int, stride: int, count: int) -> Range:
    """Windows (start, length) along an axis that cover a padded position."""
    if window == stride == 1:
        return position, 1
    start = emit.maximum(0, (position - window + stride) // stride)
    return start, emit.minimum(count, position // stride + 1) - start


def _divisor(
    windows: Windows, taps: list[Range], include_padding: bool, dtype: str
) -> Expr:
    lengths = windows.window if include_padding else [length for _, length in taps]
    total = math.prod(lengths[1:], start=lengths[0])
    return emit.constant(total, dtype) if isinstance(total, int) else cast(total, dtype)


# --- loops -----------------------------------------------------------------------------------


def _over_windows(
    x: Buffer,
    windows: Windows,
    machine: Machine,
    body: Callable[[Index, Place, Channels], Stmt],
) -> Stmt:
    batch, *spatial, channels = emit.shape_of(x)
    shape = (batch, *windows.positions(tuple(spatial)), channels)
    work = math.prod(shape) * math.prod(windows.window) * 2
    return _over_pixels(shape, work, machine, emit.dtype_of(x), body)


def _over_pixels(
    shape: Ints,
    work: int,
    machine: Machine,
    dtype: str,
    body: Callable[[Index, Place, Channels], Stmt],
) -> Stmt:
    """Run ``body(n, p, block of channels)`` over a shape, by tasks of whole rows."""
    batch, first, *inner, channels = shape
    items = batch * first
    tasks = max(1, min(items, tasks_for(work, machine)))

    def row(flat: Index) -> Stmt:
        n, i = emit.unflatten(flat, (batch, first))
        return emit.nest(inner, lambda at: _over_channels(
            channels, machine.lanes(dtype), lambda block: body(n, (i, *at), block)
        ))

    def task(number: Index) -> Stmt:
        start, count = emit.split_range(items, tasks, number)
        return emit.serial(count, row, "row", start)

    return emit.parallel(tasks, task)


def _over_channels(channels: int, lanes: int, body: Callable[[Channels], Stmt]) -> Stmt:
    """Cut channels in blocks of a few vectors."""
    width = lanes * _VECTORS
    blocks, rest = divmod(channels, width)
    return emit.seq(
        emit.serial(blocks, lambda i: body(Channels(i * width, width, lanes)), "block"),
        body(Channels(blocks * width, rest, lanes)) if rest else None,
    )


def _over_taps(ranges: list[Range], body: Callable[[Place], Stmt]) -> Stmt:
    """Nest loops over ranges (start, length)."""

    def level(outer: Place) -> Stmt:
        if len(outer) == len(ranges):
            return body(outer)
        start, length = ranges[len(outer)]
        return emit.serial(length, lambda t: level((*outer, t)), "tap", start)

    return level(())


def _is_nan(value: Expr) -> Expr:
    """TVM has no test of bf16."""
    narrow = str(value.ty).startswith("bfloat16")
    return tirx.isnan(tirx.Cast("float32", value) if narrow else value)
