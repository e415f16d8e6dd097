"""Common subexpressions: nodes that compute the same from the same values become one.

    %0 = exp(%x)                %0 = exp(%x)
    %1 = exp(%x)        ->      %1 = add(%0, %0)
    %2 = add(%0, %1)

All ops are pure, random bits included: they are a function of their key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.graph import Graph, Node, Value
from ..ir.pattern import COMMUTATIVE
from ..ir.rewrite import current_budget


@dataclass(frozen=True)
class Cse:
    """Merge equal nodes; the operands of commutative ops may stand in either order."""

    name: str = "cse"

    def run(self, graph: Graph) -> Graph:
        known: dict[tuple[Any, ...], tuple[Value, ...]] = {}
        budget = current_budget()

        def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
            changed = any(v is not w for v, w in zip(inputs, node.inputs, strict=True))
            new = node.reading(inputs) if changed else node
            first = new.outputs if budget.is_spent else known.setdefault(key_of(new), new.outputs)
            if first is not new.outputs:
                budget.spend("cse", node, first)
            return None if first is node.outputs else first

        return graph.rebuild(visit)


def key_of(node: Node) -> tuple[Any, ...]:
    """Equal for nodes of which one is enough."""
    name, operands, attrs = node.key()
    return (name, tuple(sorted(operands)) if name in COMMUTATIVE else operands, attrs)
