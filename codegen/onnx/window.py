"""Sliding windows by plain data movement, where the runtime has no kernel for them.

ONNX Runtime convolves and averages in f32 only. In f64 (and for integers) a window is unrolled:
one strided Slice for each of its positions ("taps"), and the adjoint puts each back by a Pad.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...ir.types import Shape, Size
from .lowering import Lowering

INT_MAX = 2**63 - 1
INT_MIN = -(2**63)

Ints = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]


def dilate(
    ctx: Lowering, name: str, shape: Shape, steps: Sequence[int], value: str
) -> tuple[str, Shape]:
    """Put `step - 1` times `value` between neighbours along each axis.

    Each such axis becomes two, `[d, 1]`, the second is padded to `step`, and both are joined.
    """
    if all(step == 1 for step in steps):
        return name, shape
    e = ctx.e
    split: list[Size] = []
    high: list[int] = []
    for size, step in zip(shape, steps, strict=True):
        split += [size] if step == 1 else [size, 1]
        high += [0] if step == 1 else [0, step - 1]
    padded = e.op("Pad", ctx.reshape(name, tuple(split)), e.ints(*[0] * len(high), *high), value)
    joined = ctx.reshape(padded, tuple(d * s for d, s in zip(shape, steps, strict=True)))
    axes = [i for i, step in enumerate(steps) if step > 1]
    ends = [1 - steps[i] for i in axes]
    name = e.op("Slice", joined, e.ints(*[0] * len(axes)), e.ints(*ends), e.ints(*axes))
    return name, tuple((d - 1) * s + 1 for d, s in zip(shape, steps, strict=True))


def fit(ctx: Lowering, name: str, grow: Shape) -> str:
    """Pad `[N, C, *spatial]` at the end of each spatial axis, or cut it where `grow` is below 0."""
    e = ctx.e
    known = [d for d in grow if isinstance(d, int)]
    if len(known) < len(grow) or any(d > 0 for d in known):
        widths = (*[0] * len(grow), 0, 0, *grow)
        return e.op("Pad", name, ctx.sizes((0, 0, *widths)), e.like(0, name))
    axes = [i for i, d in enumerate(known) if d]
    if not axes:
        return name
    starts, ends = e.ints(*[0] * len(axes)), e.ints(*(known[i] for i in axes))
    return e.op("Slice", name, starts, ends, e.ints(*(i + 2 for i in axes)))


def pad_spatial(ctx: Lowering, name: str, padding: Padding, value: str) -> str:
    """Pad the spatial axes of `[N, *spatial, C]`."""
    if not any(any(pair) for pair in padding):
        return name
    low = [0, *(pair[0] for pair in padding), 0]
    high = [0, *(pair[1] for pair in padding), 0]
    return ctx.e.op("Pad", name, ctx.e.ints(*low, *high), value)


def crop_spatial(ctx: Lowering, name: str, low: Sequence[int], sizes: Shape) -> str:
    """`sizes` elements from `low` on along the spatial axes of `[N, *spatial, C]`."""
    e = ctx.e
    ends = [a + n for a, n in zip(low, sizes, strict=True)]
    axes = range(1, len(low) + 1)
    return e.op("Slice", name, e.ints(*low), ctx.sizes(tuple(ends)), e.ints(*axes))


def taps(
    ctx: Lowering, padded: str, out: Shape, window: Ints, strides: Ints, dilation: Ints
) -> Iterator[str]:
    """For each position in the window, row-major, the elements that it meets: `[N, *out, C]`."""
    e = ctx.e
    axes, steps = e.ints(*range(1, len(out) + 1)), e.ints(*strides)
    for tap in np.ndindex(window):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, out, strides, strict=True)]
        yield e.op("Slice", padded, e.ints(*starts), ctx.sizes(tuple(ends)), axes, steps)


def untap(
    ctx: Lowering,
    shares: Sequence[tuple[Ints, str]],
    shape: Shape,
    padded: Shape,
    strides: Ints,
    dilation: Ints,
) -> str:
    """The adjoint of `taps`: the sum of shares `[N, *out, C]`, each put back where it was met.

    `shape` is that of a share, `padded` the spatial sizes of the result.
    """
    e = ctx.e
    zero = e.like(0, shares[0][1])
    parts = []
    for tap, share in shares:
        name, spread = dilate(ctx, share, shape, (1, *strides, 1), zero)
        low = [t * d for t, d in zip(tap, dilation, strict=True)]
        high = [p - a - n for p, a, n in zip(padded, low, spread[1:-1], strict=True)]
        parts.append(e.op("Pad", name, ctx.sizes((0, *low, 0, 0, *high, 0)), zero))
    return e.op("Sum", *parts) if len(parts) > 1 else parts[0]
