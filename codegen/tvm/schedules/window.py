"""Pooling over windows of `[N, *spatial, C]`; vectors run along the channels.

Bounds cost nothing inside the loops: where there is padding, each window's range of taps is
computed before it is run over. The gradients stand in `max_pool_grad` and `avg_pool_grad`.
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
from .tile import Epilogue, accumulator, cast, store_to, tasks_for

Ints = tuple[int, ...]
Place = tuple[Index, ...]
Padding = tuple[tuple[int, int], ...]
Range = tuple[Index, Index]

VECTORS = 4  # vectors of channels that one pass over a window holds in registers


@dataclass(frozen=True)
class Channels:
    """A block of `count` channels from `first` on, in vectors of `lanes`."""

    first: Index
    count: int
    lanes: int

    def each(self, body: Callable[[Index], Stmt]) -> Stmt:
        """Run `body` for each position in the block, vector by vector."""
        starts = range(0, self.count, self.lanes)
        return emit.seq(
            *(
                emit.vectorized(
                    min(self.lanes, self.count - start),
                    lambda lane, start=start: body(start + lane),
                )
                for start in starts
            )
        )


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

    def inside(self, spatial: Ints) -> bool:
        """Whether no tap of any window looks at padding."""
        axes = zip(spatial, self.window, self.strides, self.padding, strict=True)
        return all(_always_inside(*axis) for axis in axes)

    def gap(self, axis: int, p: Index, size: int) -> Range:
        """Elements (start, length) from window `p` to the next one, or to the end of the image.

        They are counted like taps; windows must be `apart`.
        """
        k, s, (low, high) = self.window[axis], self.strides[axis], self.padding[axis]
        last = (size + low + high - k) // s
        end = max(0, size + low - last * s - k)
        if last == 0 or end == s - k:
            return k, end
        is_last = tirx.EQ(p, last)
        return k, tirx.Select(is_last, emit.constant(end, "int32"), emit.constant(s - k, "int32"))

    def number(self, tap: Place) -> Index:
        """The position of a tap in row-major order."""
        flat: Index = 0
        for t, k in zip(tap, self.window, strict=True):
            flat = flat * k + t
        return flat

    @property
    def apart(self) -> bool:
        """Whether no two windows share an element."""
        return all(k <= s for k, s in zip(self.window, self.strides, strict=True))


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
    dtype = accumulator(x)

    def result(n: Index, p: Place, block: Channels) -> Stmt:
        def body(best: Buffer) -> Stmt:
            start = block.each(lambda j: emit.store(best, (j,), lowest(dtype)))

            def finish(j: Index) -> Stmt:
                return emit.store_all(epilogue((n, *p, block.first + j), best[j]))

            return emit.seq(start, _largest(x, windows, n, p, block, best), block.each(finish))

        return emit.local("best", (block.count,), dtype, body)

    return _over_windows(x, windows, machine, result)


def _largest(
    x: Buffer, windows: Windows, n: Index, p: Place, block: Channels, best: Buffer
) -> Stmt:
    """Raise `best` to the maximum of a window."""

    def tap(at: Place) -> Stmt:
        element = windows.element(p, at)

        def lane(j: Index) -> Stmt:
            value = cast(x[(n, *element, block.first + j)], emit.dtype_of(best))
            return emit.store(best, (j,), tirx.Select(beats(value, best[j]), value, best[j]))

        return block.each(lane)

    return over_taps(windows.taps(p, emit.shape_of(x)[1:-1]), tap)


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
                return block.each(
                    lambda j: emit.store(
                        sums, (j,), sums[j] + cast(x[(n, *element, block.first + j)], dtype)
                    )
                )

            def finish(j: Index) -> Stmt:
                mean = sums[j] / divisor(windows, taps, include_padding, dtype)
                return emit.store_all(epilogue((n, *p, block.first + j), mean))

            zero = block.each(lambda j: emit.store(sums, (j,), emit.constant(0, dtype)))
            return emit.seq(zero, over_taps(taps, tap), block.each(finish))

        return emit.local("sums", (block.count,), dtype, body)

    return _over_windows(x, windows, machine, result)


def divisor(windows: Windows, taps: list[Range], include_padding: bool, dtype: str) -> Expr:
    """What the sum of a window is divided by, its range of taps being given."""
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
    return over_pixels(shape, work, machine, emit.dtype_of(x), body)


def over_pixels(
    shape: Ints,
    work: int,
    machine: Machine,
    dtype: str,
    body: Callable[[Index, Place, Channels], Stmt],
    vectors: int = VECTORS,
) -> Stmt:
    """Run ``body(n, p, block of channels)`` over a shape, by tasks of whole rows."""
    batch, first, *inner, channels = shape
    items = batch * first
    tasks = max(1, min(items, tasks_for(work, machine)))

    def row(flat: Index) -> Stmt:
        n, i = emit.unflatten(flat, (batch, first))
        return emit.nest(
            inner,
            lambda at: over_channels(
                channels, machine.lanes(dtype), lambda block: body(n, (i, *at), block), vectors
            ),
        )

    def task(number: Index) -> Stmt:
        start, count = emit.split_range(items, tasks, number)
        return emit.serial(count, row, "row", start)

    return emit.parallel(tasks, task)


def over_channels(
    channels: int, lanes: int, body: Callable[[Channels], Stmt], vectors: int = VECTORS
) -> Stmt:
    """Cut channels in blocks of so many vectors."""
    width = lanes * vectors
    blocks, rest = divmod(channels, width)
    return emit.seq(
        emit.serial(blocks, lambda i: body(Channels(i * width, width, lanes)), "block"),
        body(Channels(blocks * width, rest, lanes)) if rest else None,
    )


def over_taps(ranges: list[Range], body: Callable[[Place], Stmt], *, unrolled: int = 1) -> Stmt:
    """Nest loops over ranges (start, length); at most `unrolled` places are written out."""
    lengths = [length for _, length in ranges]
    if all(isinstance(length, int) for length in lengths) and math.prod(lengths) <= unrolled:
        starts = [start for start, _ in ranges]
        return emit.seq(
            *(
                body(tuple(start + t for start, t in zip(starts, at, strict=True)))
                for at in itertools.product(*map(range, lengths))
            )
        )

    def level(outer: Place) -> Stmt:
        if len(outer) == len(ranges):
            return body(outer)
        start, length = ranges[len(outer)]
        return emit.serial(length, lambda t: level((*outer, t)), "tap", start)

    return level(())


def lowest(dtype: str) -> Expr:
    """What a maximum starts from; TVM's own lowest number of floating point is above -inf."""
    if dtype.startswith("float"):
        return emit.constant(-math.inf, dtype)
    return tirx.min_value(dtype)


def negation(condition: Expr) -> Expr:
    """Not: TVM would turn that of ``a <= b`` to ``b < a``, which is another thing for NaN."""
    one, zero = (emit.constant(number, "float32") for number in (1, 0))
    return tirx.EQ(tirx.Select(condition, one, zero), zero)


def beats(value: Expr, best: Expr) -> Expr:
    """Whether a value is larger than the best so far; NaN is, but not than another one."""
    if not emit.dtype_of(best).startswith("float"):
        return value > best
    is_number = best <= emit.constant(math.inf, emit.dtype_of(best))
    return tirx.all(negation(value <= best), is_number)
