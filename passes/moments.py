"""Moments: sums of what differs from a mean, which need no second pass over the operand.

    %s = reduce_sum(%x)
    %m = mul(%s, 1/n)
    %d = sub(%x, broadcast(%m))
    %q = reduce_sum(mul(%d, %d))

The deviations of a block of rows from the block's own mean are summed while the block lies in
the cache, and blocks are joined by Chan's formula, so nothing cancels however large the mean is:
%q is what that gives, plus n * (%m - %s/n)**2, whatever %m is; and the sum of %d is %s - n * %m.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..ir.graph import Node, Value


@dataclass(frozen=True, eq=False)
class Centered:
    """A sum over deviations.

    Attributes
    ----------
    node : Node
        The sum.
    total : Node
        The sum of what deviates, over the same rows.
    mean : Value
        One number for each row, from which it deviates.
    is_square : bool
        Whether the deviations are squared.
    """

    node: Node
    total: Node
    mean: Value
    is_square: bool


def centered(node: Node, totals: Iterable[Node]) -> Centered | None:
    """A reduction as a sum over deviations of what one of `totals` sums up, if it is that."""
    if node.op.name != "reduce_sum":
        return None
    deviation = node.inputs[0]
    product = deviation.node
    is_square = (
        product is not None and product.op.name == "mul" and product.inputs[0] is product.inputs[1]
    )
    if is_square:
        assert product is not None
        deviation = product.inputs[0]
    difference = deviation.node
    if difference is None or difference.op.name != "sub":
        return None
    x, spread = difference.inputs
    if spread.node is None or spread.node.op.name != "broadcast":
        return None
    for total in totals:
        if total is not node and total.op.name == "reduce_sum" and total.inputs[0] is x:
            return Centered(node, total, spread.node.inputs[0], is_square)
    return None


def deviations(nodes: Sequence[Node]) -> list[Centered]:
    """The sums over deviations among the reductions of a kernel."""
    return [found for node in nodes if (found := centered(node, nodes))]
