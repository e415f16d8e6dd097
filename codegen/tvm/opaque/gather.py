"""Accumulating at computed positions."""

from __future__ import annotations

import math

from ....ir.graph import Node
from .. import index as ix
from ..evaluator import Evaluator
from ..index import Index
from ..math import carrier, held, keep, rounded, storage, store
from ..nest import Nest
from ..target import Machine
from .lowering import Buffers, loops


@loops("scatter_add")
def _scatter_add(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    """Copy `x`, then add update after update in order; f16 and bf16 accumulate in f32."""
    x, indices, _ = node.inputs
    axis, dtype = node.attrs["axis"], x.dtype
    outer, size, inner = (
        math.prod(x.shape[:axis]), int(x.shape[axis]), math.prod(x.shape[axis + 1 :])
    )  # fmt: skip
    count = int(indices.type.size)
    evaluator = Evaluator(nest, buffers)
    lanes = machine.lanes(f"int{max(32, dtype.bits)}")
    result = buffers[node.output]
    narrow = carrier(dtype) != storage(dtype)
    sums = nest.scratch(carrier(dtype), outer * size * inner) if narrow else result

    def begin(at: Index) -> None:
        value = evaluator.element(x, ix.delinearize(at, x.shape))
        nest.emit(keep(sums, at, value))

    def add(o: Index, k: Index) -> None:
        picked = evaluator.element(indices, ix.delinearize(k, indices.shape))
        row = evaluator.clamped(picked, size - 1)

        def along(j: Index) -> None:
            update = evaluator.flat_element(node.inputs[2], (o * count + k) * inner + j)
            place = (o * size + row) * inner + j
            total = held(nest, sums, place, dtype) + update
            nest.emit(keep(sums, place, total))

        nest.strips(inner, lanes, along)

    def end(at: Index) -> None:
        value = rounded(held(nest, sums, at, dtype))
        nest.emit(store(result, at.expression(), value.expr, dtype))

    nest.strips(outer * size * inner, lanes, begin)
    nest.loop(outer, lambda o: nest.loop(count, lambda k: add(o, k)))
    if narrow:
        nest.strips(outer * size * inner, lanes, end)
