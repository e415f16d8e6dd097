"""Fold: compute what depends on constants alone, with the NumPy oracle, and keep it small.

    %0 = constant[value=2]()
    %1 = constant[value=3]()      ->      %0 = constant[value=6]()
    %2 = mul(%0, %1)

Arrays that repeat one number are kept as a broadcast scalar, never written out. Loops are not run:
they may be long, or without an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.builder import constant
from ..ir.graph import Graph, Node, Value
from ..ir.pattern import number_of
from ..ir.rewrite import current_budget
from ..ir.sugar import full

_NEVER = frozenset({"rng_bits", "stop_gradient"})


@dataclass(frozen=True)
class Fold:
    """Replace nodes of constants by constants.

    Attributes
    ----------
    elements : int
        A folded array has at most so many elements, or no more than the constants that it is
        made of.
    """

    elements: int = 256
    name: str = "fold"

    def run(self, graph: Graph) -> Graph:
        budget = current_budget()

        def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
            outputs = None if budget.is_spent else self._visit(node, inputs)
            if outputs is not None:
                budget.spend("fold", node, outputs)
            return outputs

        return graph.rebuild(visit)

    def _visit(self, node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        if node.op.kind == "constant":
            compact = _compact(node.output)
            return None if compact is node.output else [compact]
        if not inputs or node.op.name in _NEVER or node.op.kind == "region":
            return None
        if not all(v.type.is_static for v in node.outputs):
            return None
        if node.op.kind == "elementwise":
            numbers = [number_of(v) for v in inputs]
            if all(n is not None for n in numbers):
                (result,) = _evaluate(node, [np.asarray(n) for n in numbers])
                return [full(node.outputs[0].shape, result, node.outputs[0].dtype)]
        arrays = [v.constant for v in inputs]
        if any(a is None for a in arrays) or not self._small(node, inputs):
            return None
        return [
            _compact(constant(array, v.dtype))
            for array, v in zip(_evaluate(node, arrays), node.outputs, strict=True)
        ]

    def _small(self, node: Node, inputs: Sequence[Value]) -> bool:
        elements = sum(int(v.type.size) for v in node.outputs)
        if node.op.name == "broadcast" and elements > 1:
            return elements == inputs[0].type.size
        return elements <= max(self.elements, sum(int(v.type.size) for v in inputs))


def _evaluate(node: Node, arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    results = node.op.evaluate(*(np.asarray(a) for a in arrays), **node.attrs)
    return tuple(np.ascontiguousarray(r).reshape(r.shape) for r in results)


def _compact(value: Value) -> Value:
    """A constant array that repeats one number as a broadcast scalar."""
    number = number_of(value) if value.shape else None
    return value if number is None else full(value.shape, number, value.dtype)
