"""Convolutions `[N, *spatial, C] x [*kernel, C / groups, O]` and their input gradients.

The ways, the first that fits:

- *one tap*: a kernel of 1: a matrix product over all pixels, see `one_tap`.
- *product*: windows as large as the image: a matrix product over images.
- *depthwise*: one channel to one: vectors run along the channels.
- *grouped*: groups of a few channels: a vector holds several groups' results.
- *minimal filtering*: 3 x 3 taps on f32 images, where `winograd_cost` expects it to be faster.
- *correlation*: everything else, see `correlation`. The input gradient is the correlation of the
  cotangent with reversed taps. With strides, only every stride-th tap meets an element, so each
  phase of the result (its position modulo the stride) has a smaller kernel of its own: no zero
  is multiplied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .. import emit
from ..emit import Buffer, Computed, Expr, Index, Stmt
from ..kept import keeping_nothing
from ..target import Machine
from . import one_tap
from .correlation import Correlation, Place, correlate
from .depthwise import depthwise
from .grouped import grouped, is_grouped
from .matmul import matmul
from .staging import Images, Ints
from .tile import Epilogue, Store, accumulator, cast, flattened, store_to
from .winograd import winograd
from .winograd_cost import divide

Padding = tuple[tuple[int, int], ...]

UNROLLED_PHASES = 8
"""Phases of an input's gradient (the product of the strides) that have code of their own."""


@dataclass(frozen=True)
class Geometry:
    """The attributes of a convolution, one entry for each spatial axis, and its groups."""

    strides: Ints
    padding: Padding
    input_dilation: Ints
    kernel_dilation: Ints
    groups: int = 1


def conv(
    x: Buffer,
    w: Buffer,
    out: Buffer | None = None,
    *,
    geometry: Geometry,
    machine: Machine,
    epilogue: Epilogue | None = None,
) -> Stmt:
    """Convolve images with a kernel.

    Parameters
    ----------
    x : Buffer
        Images `[N, *spatial, C]`.
    w : Buffer
        Kernel `[*kernel, C / groups, O]`.
    out : Buffer, optional
        `[N, *positions, O]`; needed only without an `epilogue`.
    geometry : Geometry
        Strides, padding, dilation and groups.
    machine : Machine
        What to choose tiles for.
    epilogue : callable, optional
        ``epilogue(indices, value)`` returns the stores for one element, whose value it gets in
        the dtype of the sums (f32 for f16 and bf16).

    Returns
    -------
    Stmt
        The loops, parallel where the work is worth it.
    """
    epilogue = epilogue or store_to(out)
    *taps, channels, total = emit.shape_of(w)
    batch, *spatial, _ = emit.shape_of(x)
    g = geometry
    sizes = positions(tuple(spatial), tuple(taps), g)
    if batch * math.prod(spatial) * math.prod(sizes) * channels * total:
        if is_one_tap(tuple(taps), g) and one_tap.fits(x, w, g.strides):
            return one_tap.forward(x, w, sizes, g.strides, machine, epilogue)
        if _sees_all(tuple(spatial), tuple(taps), sizes, g) and not isinstance(x, Computed):
            return _as_product(x, w, (batch, *sizes, total), machine, epilogue)
    return _solve(_forward(x, w, sizes, g, machine, epilogue))


def _forward(
    x: Buffer, w: Buffer, sizes: Ints, g: Geometry, machine: Machine, epilogue: Epilogue
) -> Correlation:
    """A convolution with windows at so many positions."""
    *taps, channels, total = emit.shape_of(w)
    base, outputs = (0,) * len(taps), total // g.groups
    images = Images(
        x,
        extent(sizes, base, g.strides, tuple(taps), g.kernel_dilation),
        tuple(low for low, _ in g.padding),
        g.input_dilation,
        accumulator(x, w),
        machine,
    )
    return Correlation(
        images,
        emit.shape_of(x)[0],
        sizes,
        base,
        g.strides,
        g.kernel_dilation,
        tuple(taps),
        channels,
        outputs,
        g.groups,
        lambda tap, group, c, o: w[(*tap, c, group * outputs + o)],
        lambda n, p, channel: (n, *p, channel),
        epilogue,
        machine,
        w,
    )


def conv_input_grad(
    dy: Buffer,
    w: Buffer,
    out: Buffer | None = None,
    *,
    input_shape: Ints,
    geometry: Geometry,
    machine: Machine,
    epilogue: Epilogue | None = None,
) -> Stmt:
    """Emit the cotangent of the input of a convolution from that of its result.

    Parameters
    ----------
    dy : Buffer
        Cotangent of the result, `[N, *positions, O]`.
    w : Buffer
        Kernel `[*kernel, C / groups, O]`.
    out : Buffer, optional
        Cotangent of the input; needed only without an `epilogue`.
    input_shape : tuple of int
        `[N, *spatial, C]`.
    geometry, machine, epilogue
        As in `conv`.
    """
    epilogue = epilogue or store_to(out)
    *taps, channels, _ = emit.shape_of(w)
    g, rank = geometry, len(taps)
    sizes = emit.shape_of(dy)[1:-1]
    if math.prod(emit.shape_of(dy)) * channels:
        if is_one_tap(tuple(taps), g) and one_tap.fits(dy, w, g.strides):
            return one_tap.input_grad(dy, w, input_shape, g.strides, machine, epilogue)
        if _sees_all(input_shape[1:-1], tuple(taps), sizes, g) and not isinstance(dy, Computed):
            return _gradient_as_product(dy, w, input_shape, machine, epilogue)
    phased = all(s == 1 or d == 1 for s, d in zip(g.strides, g.kernel_dilation, strict=True))
    if not phased or any(step != 1 for step in g.input_dilation):
        return _input_grad_by_zeros(dy, w, input_shape, g, machine, epilogue)
    axes = [
        phases_of(input_shape[1 + i], taps[i], g.strides[i], g.kernel_dilation[i], g.padding[i][0])
        for i in range(rank)
    ]
    images = stage_phases(dy, accumulator(dy, w), axes, machine)

    def part(phases: tuple[Phase, ...]) -> Correlation:
        return phase_of(dy, w, input_shape, phases, images, g, machine, epilogue)

    depthwise_like = _is_depthwise(part(tuple(axis[0] for axis in axes)))
    if math.prod(map(len, axes)) > UNROLLED_PHASES and not depthwise_like:
        runs = itertools.product(*map(_runs, axes))
        return emit.seq(*(_rolled(run, lambda phases: _solve(part(phases))) for run in runs))
    parts = [part(phases) for phases in itertools.product(*axes)]
    if depthwise_like:
        return depthwise(*parts)
    if all(map(_is_grouped, parts)):
        return grouped(*parts)
    if len(parts) == 1 or input_shape[0] < machine.cores:
        return emit.seq(*map(_solve, parts))
    return correlate(*parts)  # image by image, so that one is read and written in the cache


@dataclass(frozen=True)
class Phase:
    """Elements ``first + stride * i`` of an axis, ``i < size``, and the taps that reach them.

    Element i sees the cotangent from ``start + i`` on, with tap ``last - stride * j`` at
    ``start + i + j * dilation``, for ``j < taps``.
    """

    first: Index
    size: int
    stride: int
    dilation: int
    taps: int
    last: Index
    start: int


def phases_of(size: int, taps: int, stride: int, dilation: int, low: int) -> list[Phase]:
    """The phases of an axis of `size` elements, by its windows."""
    phases = []
    for first in range(min(stride, size)):
        residue = (first + low) % stride
        count = -(-(taps - residue) // stride) if taps > residue else 0
        origin = (first + low) // stride
        phases.append(
            Phase(
                first,
                -(-(size - first) // stride),
                stride,
                dilation,
                count,
                residue + stride * (count - 1),
                origin - (count - 1) * dilation,
            )
        )
    return phases


def _runs(axis: list[Phase]) -> list[list[Phase]]:
    """Phases in a row that differ in `first` and `last` alone, each by 1 from the one before."""
    runs: list[list[Phase]] = []
    for phase in axis:
        if runs:
            last = runs[-1][-1]
            if phase == replace(last, first=last.first + 1, last=last.last + 1):
                runs[-1].append(phase)
                continue
        runs.append([phase])
    return runs


def _rolled(runs: tuple[list[Phase], ...], body: Callable[[tuple[Phase, ...]], Stmt]) -> Stmt:
    """The code of many phases as a loop: written out, it would take LLVM seconds."""

    def at(place: Place) -> Stmt:
        moved = zip(runs, place, strict=True)
        return body(tuple(
            replace(run[0], first=run[0].first + i, last=run[0].last + i) for run, i in moved
        ))  # fmt: skip

    with keeping_nothing():
        return emit.nest(tuple(map(len, runs)), at)


def stage_phases(dy: Buffer, dtype: str, axes: list[list[Phase]], machine: Machine) -> Images:
    """The cotangents as all phases see them: from where the first looks to where the last does."""
    low, extents = [], []
    for axis in axes:
        before = max(0, *(-phase.start for phase in axis))
        ends = (
            max(0, phase.start + before) + phase.size + (max(phase.taps, 1) - 1) * phase.dilation
            for phase in axis
        )
        low.append(before)
        extents.append(max(ends))
    return Images(dy, tuple(extents), tuple(low), (1,) * len(axes), dtype, machine)


def phase_of(
    dy: Buffer,
    w: Buffer,
    input_shape: Ints,
    phases: tuple[Phase, ...],
    images: Images,
    g: Geometry,
    machine: Machine,
    epilogue: Epilogue,
) -> Correlation:
    channels, total = emit.shape_of(w)[-2:]
    outputs = total // g.groups
    sizes = tuple(phase.size for phase in phases)
    taps = tuple(phase.taps for phase in phases)
    dilation = tuple(phase.dilation for phase in phases)
    base = tuple(max(0, phase.start + at) for phase, at in zip(phases, images.low, strict=True))
    ones = (1,) * len(taps)

    def weight(tap: Place, group: Index, c: Index, o: Index) -> Expr:
        reverse = tuple(phase.last - phase.stride * t for phase, t in zip(phases, tap, strict=True))
        return w[(*reverse, o, group * outputs + c)]

    def target(n: Index, p: Place, channel: Index) -> Place:
        spatial = (phase.first + phase.stride * i for phase, i in zip(phases, p, strict=True))
        return (n, *spatial, channel)

    return Correlation(
        images,
        input_shape[0],
        sizes,
        base,
        ones,
        dilation,
        taps,
        outputs,
        channels,
        g.groups,
        weight,
        target,
        epilogue,
        machine,
        w,
        transposed=True,
    )


def _input_grad_by_zeros(
    dy: Buffer, w: Buffer, input_shape: Ints, g: Geometry, machine: Machine, epilogue: Epilogue
) -> Stmt:
    """Any dilation: correlate the cotangent with zeros between its elements."""
    *taps, channels, total = emit.shape_of(w)
    outputs, sizes = total // g.groups, input_shape[1:-1]
    low = tuple(
        (k - 1) * d - before
        for k, d, (before, _) in zip(taps, g.kernel_dilation, g.padding, strict=True)
    )
    base = (0,) * len(taps)
    images = Images(
        dy,
        extent(sizes, base, g.input_dilation, tuple(taps), g.kernel_dilation),
        low,
        g.strides,
        accumulator(dy, w),
        machine,
    )

    def weight(tap: Place, group: Index, c: Index, o: Index) -> Expr:
        reverse = tuple(k - 1 - t for k, t in zip(taps, tap, strict=True))
        return w[(*reverse, o, group * outputs + c)]

    return _solve(
        Correlation(
            images,
            input_shape[0],
            sizes,
            base,
            g.input_dilation,
            g.kernel_dilation,
            tuple(taps),
            outputs,
            channels,
            g.groups,
            weight,
            lambda n, p, channel: (n, *p, channel),
            epilogue,
            machine,
            w,
        )
    )


def _solve(problem: Correlation) -> Stmt:
    if _is_depthwise(problem):
        return depthwise(problem)
    if _is_grouped(problem):
        return grouped(problem)
    parts = divide(problem)
    return emit.seq(*(winograd(p) if filtered else correlate(p) for p, filtered in parts))


def _is_depthwise(problem: Correlation) -> bool:
    return problem.channels == problem.outputs == 1 and problem.groups > 1


def _is_grouped(problem: Correlation) -> bool:
    lanes = problem.machine.lanes(problem.dtype)
    return is_grouped(problem.groups, problem.channels, problem.outputs, lanes)


def positions(spatial: Ints, taps: Ints, g: Geometry) -> Ints:
    """Number of window positions along each axis."""
    return tuple(
        ((n - 1) * e + 1 + low + high - (k - 1) * d - 1) // s + 1
        for n, k, s, (low, high), e, d in zip(
            spatial, taps, g.strides, g.padding, g.input_dilation, g.kernel_dilation, strict=True
        )
    )


def extent(sizes: Ints, base: Ints, stride: Ints, taps: Ints, dilation: Ints) -> Ints:
    """Length of each axis that windows see."""
    return tuple(
        b + (n - 1) * s + (max(k, 1) - 1) * d + 1
        for n, b, s, k, d in zip(sizes, base, stride, taps, dilation, strict=True)
    )


def pixel(
    x: Buffer,
    w: Buffer,
    geometry: Geometry,
    machine: Machine,
    place: tuple[Index, *Ints],
    keep: Callable[[Index, Expr], Stmt],
) -> Stmt:
    """Emit one pixel of a convolution by its definition, for who must know it before all others.

    Parameters
    ----------
    x, w, geometry, machine
        As in `conv`, without input dilation.
    place : tuple
        Image, which may be computed, and position.
    keep : callable
        ``keep(channel, value)`` stores a result, of the dtype of the sums.
    """
    *taps, channels, total = emit.shape_of(w)
    n, *position = place
    g, spatial, dtype = geometry, emit.shape_of(x)[1:-1], accumulator(x, w)
    starts = [i * s - low for i, s, (low, _) in zip(position, g.strides, g.padding, strict=True)]
    axes = list(zip(starts, g.kernel_dilation, spatial, taps, strict=True))
    first = [max(0, -(start // d)) for start, d, _, _ in axes]
    last = [min(count, -(-(size - start) // d)) for start, d, size, count in axes]
    outputs = total // g.groups

    def vector(begin: Index, width: int) -> Stmt:
        def body(sums: Buffer) -> Stmt:
            def term(at: Place) -> Stmt:
                tap = tuple(low + t for low, t in zip(first, at[:-1], strict=True))
                seen = tuple(start + t * d for (start, d, _, _), t in zip(axes, tap, strict=True))

                def add(lane: Index) -> Stmt:
                    group = (begin + lane) // outputs if g.groups > 1 else 0
                    value = cast(x[(n, *seen, group * channels + at[-1])], dtype)
                    weight = cast(w[(*tap, at[-1], begin + lane)], dtype)
                    return emit.store(sums, (lane,), sums[lane] + value * weight)

                return emit.vectorized(width, add)

            def begins(lane: Index) -> Stmt:
                return emit.store(sums, (lane,), emit.constant(0, dtype))

            counts = [max(0, stop - start) for start, stop in zip(first, last, strict=True)]
            return emit.seq(
                emit.vectorized(width, begins),
                emit.nest((*counts, channels), term),
                emit.vectorized(width, lambda lane: keep(begin + lane, sums[lane])),
            )

        return emit.local("pixel", (width,), dtype, body)

    lanes = machine.lanes(dtype)
    whole, rest = divmod(total, lanes)
    return emit.seq(
        emit.serial(whole, lambda i: vector(i * lanes, lanes), "vector"),
        vector(whole * lanes, rest) if rest else None,
    )


# --- convolutions that are matrix products ---------------------------------------------------


def is_one_tap(taps: Ints, g: Geometry) -> bool:
    """Whether each result is made from one pixel."""
    plain = g.groups == 1 and all(pair == (0, 0) for pair in g.padding)
    return plain and math.prod(taps) == 1 and all(step == 1 for step in g.input_dilation)


def _sees_all(spatial: Ints, taps: Ints, sizes: Ints, g: Geometry) -> bool:
    """Whether each result is made from a whole image, as it lies."""
    plain = g.groups == 1 and all(
        pair == (0, 0) and e == 1 for pair, e in zip(g.padding, g.input_dilation, strict=True)
    )
    dense = all(d == 1 or k == 1 for d, k in zip(g.kernel_dilation, taps, strict=True))
    return plain and dense and taps == spatial and math.prod(sizes) == 1


def _as_product(x: Buffer, w: Buffer, shape: Ints, machine: Machine, epilogue: Epilogue) -> Stmt:
    terms = math.prod(emit.shape_of(w)[:-1])
    return emit.view(
        x,
        (shape[0], terms),
        lambda left: emit.view(
            w,
            (terms, shape[-1]),
            lambda right: matmul(left, right, machine=machine, epilogue=flattened(epilogue, shape)),
        ),
    )


def _gradient_as_product(
    dy: Buffer, w: Buffer, input_shape: Ints, machine: Machine, epilogue: Epilogue
) -> Stmt:
    terms, total = math.prod(emit.shape_of(w)[:-1]), emit.shape_of(w)[-1]

    def spread(indices: Place, value: Expr) -> Sequence[Store] | Stmt:
        image, element = indices
        return epilogue((image, *emit.unflatten(element, input_shape[1:])), value)

    return emit.view(
        dy,
        (input_shape[0], total),
        lambda left: emit.view(
            w,
            (terms, total),
            lambda right: matmul(left, right, transpose_b=True, machine=machine, epilogue=spread),
        ),
    )
