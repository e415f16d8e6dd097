"""Gradient of the mean over windows: each element adds up the shares of the windows around it.

- *rows*: where windows move step by step, the gradient is that of a depthwise convolution whose
  weights are all one, and runs over rows and tiles of neighbours as that does: a cotangent is
  loaded once for all elements of a tile that it reaches. Where windows have fewer elements at the
  border, each cotangent is multiplied by its share, from a table that is made first.
- *elements*: otherwise an element sums up over the windows that cover it, one if none overlap.
  (With strides of 2, rows take 1.2 times as long: results that are summed together lie far apart.)
"""

from __future__ import annotations

import itertools
import math

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine
from .axis import Axis
from .conv import Geometry, phase_of, phases_of, stage_phases
from .correlation import Correlation
from .depthwise import Load, Spot, over_rows, seen_of
from .tile import Epilogue, Store, accumulator, cast, store_to
from .window import Channels, Ints, Place, Windows, divisor, over_pixels, over_taps


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
    """Emit the cotangent of the input of `window.avg_pool` from that of its result.

    Parameters
    ----------
    dy : Buffer
        The cotangent of the result, `[N, *positions, C]`.
    out : Buffer, optional
        The cotangent of the input; needed only without an `epilogue`.
    input_shape : tuple of int
        `[N, *spatial, C]`.
    windows, include_padding, machine, epilogue
        As in `window.avg_pool`.
    """
    epilogue = epilogue or store_to(out)
    if math.prod(input_shape) == 0:
        return emit.NOTHING
    if windows.apart or max(windows.strides) > 1 or math.prod(emit.shape_of(dy)) == 0:
        return _elements(dy, input_shape, windows, include_padding, machine, epilogue)
    if include_padding or windows.inside(input_shape[1:-1]):
        total = emit.constant(math.prod(windows.window), accumulator(dy))

        def mean(indices: tuple[Index, ...], value: Expr) -> list[Store] | Stmt:
            return epilogue(indices, value / total)

        return _over_rows(_correlation(dy, input_shape, windows, machine, mean), None)
    return _by_shares(dy, input_shape, windows, machine, epilogue)


def _correlation(
    dy: Buffer, input_shape: Ints, windows: Windows, machine: Machine, epilogue: Epilogue
) -> Correlation:
    """The gradient as a correlation of each channel."""
    once, channels, dtype = (1,) * len(windows.window), input_shape[-1], accumulator(dy)
    pairs = zip(input_shape[1:-1], windows.window, windows.padding, strict=True)
    axes = [phases_of(size, k, 1, 1, low) for size, k, (low, _) in pairs]
    images = stage_phases(dy, dtype, axes, machine)
    ones = emit.buffer("ones", (*windows.window, 1, channels), dtype)  # of the shape; never read
    geometry = Geometry(once, windows.padding, once, once, channels)
    (phases,) = itertools.product(*axes)
    return phase_of(dy, ones, input_shape, phases, images, geometry, machine, epilogue)


def _over_rows(problem: Correlation, shares: Buffer | None) -> Stmt:
    return over_rows((problem,), problem.machine.lanes(problem.dtype), _Along(shares))


class _Along:
    """Adds the cotangents that a tile sees through the taps of the last axis."""

    def __init__(self, shares: Buffer | None) -> None:
        self.shares = shares

    def __call__(
        self, problem: Correlation, axes: list[Axis], spot: Spot, load: Load, sums: Buffer,
        head: Place,
    ) -> Stmt:  # fmt: skip
        lanes = spot.lanes

        def add(tap: int, i: int, lane: Index) -> Stmt:
            p, taps = (*spot.outer, spot.start + i), (*head, tap)
            element = tuple(axis.element(j, t) for axis, j, t in zip(axes, p, taps, strict=True))
            seen = load(spot.n, element, spot.channel + lane)
            if self.shares is not None:
                seen = seen * self.shares[problem.position(p, taps)]
            return emit.store(sums, (i * lanes + lane,), sums[i * lanes + lane] + seen)

        return emit.seq(
            *(
                emit.vectorized(lanes, lambda lane, t=t, i=i: add(t, i, lane))
                for t, i in seen_of(axes, spot)
            )
        )


def _by_shares(
    dy: Buffer, input_shape: Ints, windows: Windows, machine: Machine, epilogue: Epilogue
) -> Stmt:
    """Cotangents times their shares, as each window has elements of its own number."""
    problem, dtype = _correlation(dy, input_shape, windows, machine, epilogue), accumulator(dy)
    images = problem.images

    def body(shares: Buffer) -> Stmt:
        fill = emit.nest(images.extent, lambda at: emit.store(shares, at, share(at)))
        return emit.seq(fill, _over_rows(problem, shares))

    def share(at: Place) -> Expr:
        p = tuple(i - low for i, low in zip(at, images.low, strict=True))
        lengths = [length for _, length in windows.taps(p, input_shape[1:-1])]
        number = emit.maximum(1, math.prod(lengths[1:], start=lengths[0]))  # less beside windows
        return emit.constant(1, dtype) / cast(number, dtype)

    return emit.scratch("shares", images.extent, dtype, body)


def _elements(
    dy: Buffer, input_shape: Ints, windows: Windows, include_padding: bool, machine: Machine,
    epilogue: Epilogue,
) -> Stmt:  # fmt: skip
    """Element by element, of windows that cover it."""
    dtype, spatial, counts = accumulator(dy), input_shape[1:-1], emit.shape_of(dy)[1:-1]

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

                def add(j: Index) -> Stmt:
                    cotangent = cast(dy[(n, *p, block.first + j)], dtype)
                    share = cotangent / divisor(windows, taps, include_padding, dtype)
                    return emit.store(sums, (j,), sums[j] + share)

                return block.each(add)

            def finish(j: Index) -> Stmt:
                return emit.store_all(epilogue((n, *q, block.first + j), sums[j]))

            zero = block.each(lambda j: emit.store(sums, (j,), emit.constant(0, dtype)))
            return emit.seq(zero, over_taps(covering, window), block.each(finish))

        return emit.local("sums", (block.count,), dtype, body)

    work = math.prod(input_shape) * math.prod(windows.window)
    return over_pixels(input_shape, work, machine, dtype, element)


def _covering(position: Index, window: int, stride: int, count: int) -> tuple[Index, Index]:
    """Windows (start, length) along an axis that cover a padded position."""
    if window == stride == 1:
        return position, 1
    start = emit.maximum(0, (position - window + stride) // stride)
    return start, emit.minimum(count, position // stride + 1) - start
