"""Correlations with groups of a few channels: a vector holds the results of several groups.

One group would leave most lanes empty. The channels that such a vector's groups read lie side by
side, too, so they are loaded once, and each lane takes the channel of its own group that is
multiplied: a shuffle of registers, that all taps which see the pixel have in common.

    4 groups of 4 channels:   x = a0 a1 a2 a3 b0 b1 b2 b3 ...
    for the second channel:       a1 a1 a1 a1 b1 b1 b1 b1 ...   times weights [tap, 1, lane]
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from .. import emit
from ..emit import Buffer, Expr, Index, Stmt
from ..kept import kept
from .axis import Axis
from .correlation import Correlation, Place
from .depthwise import Load, Spot, over_rows, seen_of
from .tile import neighbours

_FILLED = 2
"""Vectors that the channels of one vector of results may fill."""


def is_grouped(groups: int, channels: int, outputs: int, lanes: int) -> bool:
    """Whether a vector has room for several groups, and for the channels that they read."""
    together = min(groups, lanes // max(1, outputs))
    return together > 1 and channels > 0 and together * channels <= _FILLED * lanes


def block_width(groups: int, outputs: int, lanes: int) -> int:
    """Results of whole groups in a vector."""
    return min(groups, lanes // outputs) * outputs


def grouped(*problems: Correlation) -> Stmt:
    """Emit correlations over the same images that `is_grouped` says yes to."""
    problems = tuple(p for p in problems if p.batch * math.prod(p.sizes) != 0)
    return _with_weights(problems, ()) if problems else emit.NOTHING


def _with_weights(problems: tuple[Correlation, ...], packed: tuple[Buffer, ...]) -> Stmt:
    first = problems[0]
    width = block_width(first.groups, first.outputs, first.machine.lanes(first.dtype))
    if len(packed) == len(problems):
        return over_rows(problems, width, _Along(packed, width))
    problem = problems[len(packed)]
    blocks = -(-problem.groups * problem.outputs // width)
    shape = (blocks, max(1, math.prod(problem.taps)), problem.channels, width)
    return kept(
        problem.kernel,
        "weights",
        shape,
        problem.dtype,
        lambda weights: _pack(problem, weights, width),
        lambda weights: _with_weights(problems, (*packed, weights)),
    )


def _pack(problem: Correlation, packed: Buffer, width: int) -> Stmt:
    """Copy weights to ``packed[block, tap, channel, lane]``; lanes of no group get zeros."""
    blocks, together = emit.shape_of(packed)[0], width // problem.outputs

    def group(at: Place) -> Stmt:
        block, number, tap, c = at
        own = block * together + number
        last = emit.minimum(own, problem.groups - 1)

        def lane(o: Index) -> Stmt:
            value = problem.factor(emit.unflatten(tap, problem.taps), last, c, o)
            return emit.store(packed, (block, tap, c, number * problem.outputs + o), value)

        return emit.vectorized(problem.outputs, lane)

    return emit.nest((blocks, together, math.prod(problem.taps), problem.channels), group)


class _Along:
    """Adds what a tile sees through the taps of the last axis, channel by channel."""

    def __init__(self, packed: tuple[Buffer, ...], width: int) -> None:
        self.packed, self.width = packed, width

    def __call__(
        self, problem: Correlation, axes: list[Axis], spot: Spot, load: Load, sums: Buffer,
        head: Place,
    ) -> Stmt:  # fmt: skip
        last, lanes = axes[-1], spot.lanes
        rows = [axis.element(p, t) for axis, p, t in zip(axes, spot.outer, head, strict=False)]
        uses: dict[int, list[tuple[int, int]]] = {}
        for tap, i in seen_of(axes, spot):
            uses.setdefault(i * last.stride + tap * last.dilation, []).append((tap, i))
        taps = sorted({tap for some in uses.values() for tap, _ in some})
        flat: Index = 0
        for t, count in zip((*head, 0), problem.taps, strict=True):
            flat = flat * count + t
        block = spot.channel // self.width
        first = block * (self.width // problem.outputs * problem.channels)
        names = emit.Names()
        weights = self.packed[spot.number]
        for c in range(problem.channels):
            factors = {
                tap: names.of("weight", weights[block, flat + tap, c, neighbours(0, lanes)])
                for tap in taps
            }
            for offset, some in uses.items():
                place = (*rows, last.element(spot.start, 0) + offset)
                seen = own_channel(
                    lambda at, place=place: load(spot.n, place, at), first, c,
                    (problem.channels, problem.outputs), lanes, names.of,
                )  # fmt: skip
                for tap, i in some:
                    at = neighbours(i * lanes, lanes)
                    total = sums[at] + seen * factors[tap]
                    names.emit(emit.store(sums, (at,), total))
        return names.finish()


def own_channel(
    load: Callable[[Index], Expr], first: Index, c: int, group: tuple[int, int], lanes: int,
    bind: Callable[[str, Expr], Expr],
) -> Expr:  # fmt: skip
    """A vector of `lanes` results' own channel number `c`.

    Parameters
    ----------
    load : callable
        Reads channels by a vector of indices, or by one.
    first : Index
        The first channel of the vector's groups.
    group : tuple of int
        Channels and results of a group.
    bind : callable
        Names an expression, so that it is computed once.
    """
    channels, outputs = group
    span = lanes // outputs * channels
    pixel = bind("pixel", load(neighbours(first, span)))
    if span == 1:
        return bind("seen", tirx.Broadcast(pixel, lanes)) if lanes > 1 else pixel
    places = [lane // outputs * channels + c for lane in range(lanes)]
    if places == list(range(span)):
        return pixel
    pixels = [pixel] * -(-lanes // span)  # TVM wants no more lanes of a result than of operands
    return bind("seen", tirx.Shuffle(pixels, [tirx.IntImm("int32", i) for i in places]))
