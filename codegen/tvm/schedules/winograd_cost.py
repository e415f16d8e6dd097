"""When minimal filtering is faster than the direct sum: an estimate of both, in cycles of a core.

The unit is a cycle that starts one vector product, as a register tile does at its best. What the
rest costs in it was measured on a Zen 4 core (512-bit vectors; all values per vector):

====================  ======  ===================================================================
a square of elements     200  36 loads, 144 operations, 36 stores to the second-level cache
its copy to a patch      400  where channels do not fill vectors; those at borders are in the 200
a tile of results        150  36 loads, 120 operations, 16 stores and the epilogue
nine weights             300  read, transformed and written
nine that stay           100  what they were transformed to is read (see `kept`)
their cotangents         150  36 sums read and transformed
a byte                   1/8  read or written beyond the second-level cache
====================  ======  ===================================================================

The products run at 0.85 of the limit, the direct sum at 0.9; that leaves out taps over the border.
In pairs of bf16 the direct sum takes `_PAIRED` of that time, so fewer convolutions are filtered:
on this core those of 32 and 64 channels, which take 0.79 to 0.90 of the time of pairs, and all
gradients of kernels from 16 channels on (0.66 to 0.86), whose images must be joined to pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ....ir.settings import current_settings
from .. import bfloat, emit
from ..emit import Buffer, Index
from ..kept import is_steady
from ..target import Machine
from .correlation import Correlation, Place
from .minimal import RESULTS, TAPS
from .winograd_tiles import SQUARE, grid_of

_SQUARE, _COPY, _RESULTS = 200, 400, 150
_WEIGHTS, _KEPT, _COTANGENTS = 300, 100, 150
_PRODUCT, _DIRECT = 1 / 0.85, 1 / 0.9
_PAIRED, _PAIRED_KERNEL = 0.44, 0.55
_DTYPES = frozenset({"float32", "float16", bfloat.STORED})
_BYTE = 1 / 8
_TILES = 48  # of a block, for which large weights are read once
_STRIP = 1.5  # times the plain sum's estimate for a strip: short tiles, and weights once more
_MARGIN = 0.9  # the estimate must be so much lower, being one


def divide(problem: Correlation) -> list[tuple[Correlation, bool]]:
    """Parts of a correlation, and of each whether minimal filtering computes it.

    One row or column of results more than whole tiles hold is a part of its own, if the plain sum
    of it is faster than a tile for it: with 13 x 13 results nine tiles instead of 16.
    """
    whole = [(problem, False)]
    if not _fits(problem) or not _size_of(problem).may_be_filtered:
        return whole
    size = _size_of(problem)
    weights = _KEPT if is_steady(problem.kernel) else _WEIGHTS
    estimate = size.filtered(problem.machine, weights, moved=True)
    if estimate < _MARGIN * size.plain(problem.machine):
        whole = [(problem, True)]
    else:
        estimate = size.plain(problem.machine)
    rest = [n % RESULTS if n > RESULTS else 0 for n in problem.sizes]
    if 1 not in rest:
        return whole
    height, width = (n - r if r == 1 else n for n, r in zip(problem.sizes, rest, strict=True))
    main = _cut(problem, (0, 0), (height, width))
    strips = [
        _cut(problem, (0, width), (height, problem.sizes[1] - width)),
        _cut(problem, (height, 0), (problem.sizes[0] - height, problem.sizes[1])),
    ]
    strips = [strip for strip in strips if math.prod(strip.sizes)]
    sizes = [_size_of(part) for part in (main, *strips)]
    cut = sizes[0].filtered(problem.machine, weights, moved=True)
    cut += _STRIP * sum(size.plain(problem.machine) for size in sizes[1:])
    if cut < _MARGIN * estimate:
        return [(main, True), *((strip, False) for strip in strips)]
    return whole


def _cut(problem: Correlation, start: tuple[int, int], sizes: tuple[int, int]) -> Correlation:
    """The results from `start` on, over as much of the images as they see."""

    def target(n: Index, p: Place, channel: Index) -> Place:
        moved = (first + i for first, i in zip(start, p, strict=True))
        return problem.target(n, tuple(moved), channel)

    images = problem.images
    corner = [base + first for base, first in zip(problem.base, start, strict=True)]
    seen = replace(
        images,
        extent=tuple(n + TAPS - 1 for n in sizes),
        low=tuple(low - first for low, first in zip(images.low, corner, strict=True)),
    )
    return replace(problem, images=seen, base=(0, 0), sizes=sizes, target=target)


def _fits(problem: Correlation) -> bool:
    """Whether it is one of 3 x 3 taps, step by step, over all channels, with sums in f32."""
    images = problem.images
    plain = (*problem.stride, *problem.dilation, *images.dilation) == (1,) * 6
    if not plain or problem.taps != (TAPS, TAPS) or problem.groups != 1:
        return False
    value = problem.weight((0, 0), 0, 0, 0)
    read = {emit.dtype_of(images.source), str(value.ty)}
    return problem.dtype == "float32" and read <= _DTYPES


def _size_of(problem: Correlation) -> _Size:
    images = problem.images
    offset = [base - low for base, low in zip(problem.base, images.low, strict=True)]
    met = _taps_met(problem.sizes, images.spatial, offset)
    paired = problem.channels % 2 == 0 and _short(images.source, machine=problem.machine)
    direct = _DIRECT * (_PAIRED if paired else 1)
    return _Size(problem.batch, problem.sizes, met, problem.channels, problem.outputs, direct)


def _short(*operands: Buffer, machine: Machine) -> bool:
    """Whether operands are multiplied in pairs of bf16."""
    return bfloat.pairs_fit(machine) and all(emit.dtype_of(x) == bfloat.STORED for x in operands)


def pays_for_kernel(
    x: Buffer, dy: Buffer, taps: Sequence[int], offset: Sequence[int], machine: Machine
) -> bool:
    """Whether a kernel gradient with strides and dilations of 1, in one group, is faster by it."""
    if tuple(taps) != (TAPS, TAPS) or not {emit.dtype_of(x), emit.dtype_of(dy)} <= _DTYPES:
        return False
    batch, *sizes, outputs = emit.shape_of(dy)
    *spatial, channels = emit.shape_of(x)[1:]
    direct = _DIRECT * (_PAIRED_KERNEL if _short(x, dy, machine=machine) else 1)
    size = _Size(batch, sizes, _taps_met(sizes, spatial, offset), channels, outputs, direct)
    filtered = size.filtered(machine, _COTANGENTS, moved=False)
    return size.may_be_filtered and filtered < _MARGIN * size.plain(machine)


def _taps_met(sizes: Sequence[int], spatial: Sequence[int], offset: Sequence[int]) -> int:
    """Pairs of a result and a tap that sees an element, in one image."""
    axes = zip(sizes, spatial, offset, strict=True)
    return math.prod(
        sum(max(0, min(size, length - start - tap) - max(0, -start - tap)) for tap in range(TAPS))
        for size, length, start in axes
    )


@dataclass(frozen=True)
class _Size:
    """Images, results and taps met in each, channels and outputs of a convolution."""

    batch: int
    sizes: Sequence[int]
    met: int
    channels: int
    outputs: int
    direct: float
    """Cycles of a vector of products of the plain sum."""

    @property
    def may_be_filtered(self) -> bool:
        """Whether there is anything to compute, and minimal filtering allowed."""
        work = self.batch * self.met * self.channels * self.outputs
        return current_settings().winograd and work > 0

    def filtered(self, machine: Machine, weights: int, *, moved: bool) -> float:
        """Cycles of minimal filtering, with so many for nine weights."""
        lanes = machine.lanes("float32")
        channels, across = self.channels, -(-self.outputs // lanes)
        tiles = self.batch * math.prod(grid_of(self.sizes))
        square = _SQUARE if channels % lanes == 0 else _SQUARE + _COPY
        one = SQUARE * channels * across * _PRODUCT
        one += -(-channels // lanes) * square + across * _RESULTS
        whole = channels * across * weights
        size = 4 * SQUARE * channels * across * lanes
        if moved and size > machine.l2:
            whole += int(size * (1 + -(-tiles // _TILES)) * _BYTE)
        return tiles * one + whole

    def plain(self, machine: Machine) -> float:
        """Cycles of the plain sum."""
        across = -(-self.outputs // machine.lanes("float32"))
        return self.batch * self.met * self.channels * across * self.direct
