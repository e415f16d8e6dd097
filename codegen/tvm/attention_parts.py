"""What an attention kernel is made of: operands, products of rows, and where results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.graph import Node, Value
from ...ir.op import get
from ...ir.types import f32, f64
from ...passes.attention import MOVES
from . import index as ix
from .index import Index, Indices


@dataclass(frozen=True)
class Operand:
    """A matrix of `positions` x `depth` for each unit; `across` says that depth comes first."""

    value: Value
    across: bool

    @property
    def positions(self) -> int:
        return int(self.value.shape[-1 if self.across else -2])

    @property
    def depth(self) -> int:
        return int(self.value.shape[-2 if self.across else -1])

    def at(self, unit: Indices, position: Index, depth: Index) -> Indices:
        return (*unit, depth, position) if self.across else (*unit, position, depth)


def _flags(node: Node) -> tuple[bool, bool]:
    return bool(node.attrs.get("transpose_a")), bool(node.attrs.get("transpose_b"))


def factors(scores: Node) -> tuple[Operand, Operand]:
    """Rows and columns of scores."""
    transpose_a, transpose_b = _flags(scores)
    a, b = scores.inputs
    return Operand(a, transpose_a), Operand(b, not transpose_b)


@dataclass(frozen=True)
class Result:
    """``result[i, d] = sum_j weights[i, j] operand[j, d]`` by rows, of columns over i instead.

    `flipped` says that depth comes first in the node's output.
    """

    node: Node
    weights: Value
    operand: Operand
    by_rows: bool
    flipped: bool

    @staticmethod
    def of(node: Node, weights: Value) -> Result:
        transpose_a, transpose_b = _flags(node)
        a, b = node.inputs
        if a is weights:
            return Result(node, weights, Operand(b, transpose_b), not transpose_a, False)
        return Result(node, weights, Operand(a, not transpose_a), transpose_b, True)


def with_reciprocals(nodes: Sequence[Node]) -> tuple[list[Node], dict[Value, Value]]:
    """Nodes that divide by a number of the row, with one division for each row instead.

    Returns
    -------
    tuple
        The nodes, and for the values that are computed otherwise what they are now.
    """
    made: list[Node] = []
    changed: dict[Value, Value] = {}

    def make(name: str, *operands: Value, **attrs: Any) -> Value:
        made.append(Node(get(name), operands, attrs))
        return made[-1].output

    for node in nodes:
        operands = [changed.get(v, v) for v in node.inputs]
        exact = node.op.name == "div" and node.output.dtype in (f32, f64)
        spread = operands[1].node if exact else None
        if spread is not None and spread.op.name == "broadcast" and _repeats(spread):
            (row,) = spread.inputs
            one = make("constant", value=np.ones((), row.dtype.numpy))
            ones = make("broadcast", one, shape=row.shape, axes=())
            inverse = make("broadcast", make("div", ones, row), **spread.attrs)
            changed[node.output] = make("mul", operands[0], inverse)
        elif any(v in changed for v in node.inputs):
            made.append(Node(node.op, operands, node.attrs, node.source))
            changed.update(zip(node.outputs, made[-1].outputs, strict=True))
        else:
            made.append(node)
    return made, changed


def _repeats(broadcast: Node) -> bool:
    """Whether a broadcast repeats a row's number along the row."""
    small = int(broadcast.inputs[0].type.size)
    return 1 < small < int(broadcast.output.type.size)


def source_of(output: Value) -> Node | None:
    """The product that an output shows in another order."""
    node = output.node
    while node is not None and node.op.name in MOVES:
        node = node.inputs[0].node
    return node


def moved(target: Value, node: Node, at: Indices) -> Indices:
    """Where the element of a product's output lies in what shows it in another order."""
    mover = target.node
    if mover is node or mover is None:
        return at
    at = moved(mover.inputs[0], node, at)
    if mover.op.name == "transpose":
        return tuple(at[axis] for axis in mover.attrs["permutation"])
    return ix.delinearize(ix.linearize(at, mover.inputs[0].shape), target.shape)
