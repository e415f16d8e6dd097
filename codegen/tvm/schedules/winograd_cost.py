"""When minimal filtering is faster than the direct sum: an estimate of both, in cycles of a core.

The unit is a cycle that starts one vector product, as a register tile does at its best. What the
rest costs in it was measured on a Zen 4 core (512-bit vectors; all values per vector):

====================  ======  ===================================================================
a square of elements     200  36 loads, 144 operations, 36 stores to the second-level cache
its copy to a patch      400  where channels do not fill vectors; those at borders are in the 200
a tile of results        150  36 loads, 120 operations, 16 stores and the epilogue
nine weights             300  read, transformed and written
their cotangents         150  36 sums read and transformed
a byte                   1/8  read or written beyond the second-level cache
====================  ======  ===================================================================

The products run at 0.85 of the limit, the direct sum at 0.9; that leaves out taps over the border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ....ir.settings import current_settings
from .. import emit
from ..emit import Buffer
from ..target import Machine
from .correlation import Correlation
from .minimal import TAPS
from .winograd_tiles import SQUARE, grid_of

_SQUARE, _COPY, _RESULTS, _WEIGHTS, _COTANGENTS = 200, 400, 150, 300, 150
_PRODUCT, _DIRECT = 1 / 0.85, 1 / 0.9
_BYTE = 1 / 8
_TILES = 48  # of a block, for which large weights are read once
_MARGIN = 0.9  # the estimate must be so much lower, being one


def pays_for(problem: Correlation) -> bool:
    """Whether a correlation fits minimal filtering and is faster by it."""
    images = problem.images
    plain = (*problem.stride, *problem.dilation, *images.dilation) == (1,) * 6
    if not plain or problem.taps != (TAPS, TAPS) or problem.groups != 1:
        return False
    value = problem.weight((0, 0), 0, 0, 0)
    if {problem.dtype, emit.dtype_of(images.source), str(value.ty)} != {"float32"}:
        return False
    offset = [base - low for base, low in zip(problem.base, images.low, strict=True)]
    met = _taps_met(problem.sizes, images.spatial, offset)
    size = _Size(problem.batch, problem.sizes, met, problem.channels, problem.outputs)
    return size.pays(_WEIGHTS, problem.machine, moved=True)


def pays_for_kernel(
    x: Buffer, dy: Buffer, taps: Sequence[int], offset: Sequence[int], machine: Machine
) -> bool:
    """Whether a kernel gradient with strides and dilations of 1, in one group, is faster by it."""
    if tuple(taps) != (TAPS, TAPS) or {emit.dtype_of(x), emit.dtype_of(dy)} != {"float32"}:
        return False
    batch, *sizes, outputs = emit.shape_of(dy)
    *spatial, channels = emit.shape_of(x)[1:]
    met = _taps_met(sizes, spatial, offset)
    return _Size(batch, sizes, met, channels, outputs).pays(_COTANGENTS, machine, moved=False)


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

    def pays(self, weights: int, machine: Machine, *, moved: bool) -> bool:
        """Whether minimal filtering is faster, with so much work for nine weights."""
        lanes = machine.lanes("float32")
        channels, across = self.channels, -(-self.outputs // lanes)
        if not current_settings().winograd or self.batch * self.met * channels * across == 0:
            return False
        tiles = self.batch * math.prod(grid_of(self.sizes))
        square = _SQUARE if channels % lanes == 0 else _SQUARE + _COPY
        one = SQUARE * channels * across * _PRODUCT
        one += -(-channels // lanes) * square + across * _RESULTS
        whole = channels * across * weights
        size = 4 * SQUARE * channels * across * lanes
        if moved and size > machine.l2:
            whole += size * (1 + -(-tiles // _TILES)) * _BYTE
        direct = self.batch * self.met * channels * across * _DIRECT
        return tiles * one + whole < _MARGIN * direct
