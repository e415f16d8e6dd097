"""Simplify: rules that make a graph smaller or cheaper and leave its numbers alone.

    %0 = broadcast[shape=(3,), axes=()](%one)
    %1 = mul(%x, %0)                              ->
    %2 = transpose[permutation=(1, 0)](%w)
    %3 = matmul(%a, %2)                                %0 = matmul[transpose_b=True](%a, %w)

What is not here, because it would be wrong for some finite or infinite number or NaN:
`x * 0 -> 0`, `x - x -> 0` and `x / x -> 1` on floats, `log(exp(x)) -> x`, `not (x < y) -> x >= y`.
Zeros may change their sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..ir.graph import Graph
from ..ir.rewrite import Report, Rewriter, Rule
from .rules.algebra import ALGEBRA
from .rules.contraction import CONTRACTION
from .rules.factor import FACTORS
from .rules.motion import MOTION
from .rules.reduction import REDUCTION
from .rules.shape import SHAPE
from .rules.sinking import SINKING
from .rules.strength import STRENGTH

RULES: tuple[Rule, ...] = (
    *ALGEBRA, *STRENGTH, *SHAPE, *REDUCTION, *CONTRACTION, *SINKING, *MOTION, *FACTORS,
)  # fmt: skip


@dataclass(frozen=True)
class Simplify:
    """Apply `rules` until none fires."""

    rules: Sequence[Rule] = RULES
    name: str = "simplify"

    def run(self, graph: Graph) -> Graph:
        return self.rewrite(graph)[0]

    def rewrite(self, graph: Graph) -> tuple[Graph, Report]:
        """The graph, and which rules fired or refused."""
        return self._rewriter.run(graph)

    @cached_property
    def _rewriter(self) -> Rewriter:
        return Rewriter(self.rules)
