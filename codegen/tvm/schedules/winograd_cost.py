"""When minimal filtering is faster than the direct sum: an estimate of both, in cycles of a core.

The unit is a cycle that starts one vector product, as a register tile does at its best. What the
rest costs in it was measured on a Zen 4 core (512-bit vectors; all values per vector):

====================  ======  ===================================================================
a square of elements     200  36 loads, 144 operations, 36 stores, and its share of patches
a tile of results        150  36 loads, 120 operations, 16 stores and the epilogue
nine weights             300  read lane by lane where they are transposed
a byte                   1/8  read or written beyond the second-level cache
====================  ======  ===================================================================

The product runs at 0.85 of its limit, the direct sum at 0.9 of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....ir.settings import current_settings
from .. import emit
from ..emit import Buffer
from ..target import Machine
from .correlation import Correlation
from .minimal import TAPS
from .winograd_tiles import SQUARE, grid_of

_SQUARE, _RESULTS, _WEIGHTS = 200, 150, 300
_PRODUCT, _DIRECT = 1 / 0.85, 1 / 0.9
_BYTE = 1 / 8
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
    return _pays(problem.batch, problem.sizes, problem.channels, problem.outputs, problem.machine)


def pays_for_kernel(x: Buffer, dy: Buffer, taps: Sequence[int], machine: Machine) -> bool:
    """Whether a kernel gradient with strides and dilations of 1, in one group, is faster by it."""
    if tuple(taps) != (TAPS, TAPS) or {emit.dtype_of(x), emit.dtype_of(dy)} != {"float32"}:
        return False
    batch, *sizes, outputs = emit.shape_of(dy)
    return _pays(batch, sizes, emit.shape_of(x)[-1], outputs, machine)


def _pays(batch: int, sizes: Sequence[int], channels: int, outputs: int, machine: Machine) -> bool:
    if not current_settings().winograd or batch * math.prod(sizes) * channels * outputs == 0:
        return False
    lanes = machine.lanes("float32")
    across, deep = -(-outputs // lanes), -(-channels // lanes)
    tiles = batch * math.prod(grid_of(sizes))
    direct = batch * math.prod(sizes) * TAPS * TAPS * channels * across * _DIRECT
    one = SQUARE * channels * across * _PRODUCT + deep * _SQUARE + across * _RESULTS
    weights = channels * across * _WEIGHTS
    moved = 4 * SQUARE * channels * across * lanes
    if moved > machine.l2:  # written once, read for every block of some 32 tiles
        weights += moved * (1 + -(-tiles // 32)) * _BYTE
    return tiles * one + weights < _MARGIN * direct
