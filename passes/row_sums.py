"""Sums over the rows of a row kernel, which it adds up while it has them: gradients of parameters.

Behind a layer normalization come, of the same arrays, the gradient of its operand, in which each
row waits for two sums over itself, and those of gamma and beta, sums over all rows:

    %s = reduce_sum[axes=(1,)](%a)            f32[512,64] -> f32[512]     in each row
    %d = sub(%a, broadcast[axes=(0,)](%s))    f32[512,64]                 stored
    %g = reduce_sum[axes=(0,)](%b)            f32[512,64] -> f32[64]      added up over rows
    %w = sub(%v, %g)                          f32[64]                     behind all rows

A kernel of this form has *rows*, as any row kernel, and *columns*: sums with an element for each
place in a row, and what is pointwise in these and computed last. What is summed up need not be
stored. Sizes tell the two apart, so kernels with as many rows as elements in a row are not made.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..ir.graph import Graph, Node, Value
from .outline import VIEWS, accesses, members, viewed
from .rows import Rows, agree, body_rows, rows_of, visits

LEAST_BYTES = 1 << 18
"""Of what is summed up: a pass over less is over soon."""
LONGEST = 4096
"""Elements of a row: sums lie in the first-level cache beside it."""
MOST = 4
"""Sums of one kernel."""

_INSIDE = frozenset({"broadcast", "constant"}) | VIEWS


@dataclass(frozen=True)
class Parts:
    """A kernel's body, cut in what is computed row by row and what is computed behind all rows.

    Attributes
    ----------
    rows : Graph
        Its outputs are those of rows, and what is summed up.
    sums : tuple of Node
        The sums over all rows.
    columns : tuple of Value
        The outputs that are computed from the sums.
    """

    rows: Graph
    sums: tuple[Node, ...]
    columns: tuple[Value, ...]


def is_column_sum(node: Node) -> bool:
    """Whether a reduction adds up rows: what it keeps is a place in a row."""
    rows = rows_of(node) if node.op.name == "reduce_sum" else None
    return rows is not None and len(rows.kept) == 1 and rows.kept[0][0] == 1


def parts_of_rows(body: Graph) -> Parts:
    """Cut the body of a kernel of this form."""
    sums = tuple(n for n in body.nodes if n.op.kind == "reduce" and is_column_sum(n))
    length = sums[0].output.type.size
    columns = tuple(v for v in body.outputs if v.type.size == length)
    outputs = [v for v in body.outputs if v.type.size != length]
    wanted = dict.fromkeys([*outputs, *(n.inputs[0] for n in sums)])
    named = {f"r{i}": v for i, v in enumerate(wanted)}
    return Parts(Graph.make(body.name, body.inputs, (), named), sums, columns)


def reads_rightly(body: Graph) -> bool:
    """Whether rows are read by themselves alone, and sums behind all rows."""
    parts = parts_of_rows(body)
    last = all(aligned for v, aligned in _last(parts) if v.type.size != 1)
    return agree(parts.rows.outputs, (), body_rows(body)) and last


def _last(parts: Parts) -> list[tuple[Value, bool]]:
    """What is read behind all rows, and whether only at the column that is computed."""
    own = {n.output for n in parts.sums}
    return list(accesses([v for v in parts.columns if v not in own], own))


def may_replace(body: Graph, output: Value, operand: Value) -> bool:
    """Whether an output may lie where an operand does.

    A row is stored when all of it has been read, and columns behind all rows.
    """
    parts = parts_of_rows(body)
    is_column = operand.type.size == parts.sums[0].output.type.size
    last = [aligned for v, aligned in _last(parts) if v is operand]
    if output.type.size == parts.sums[0].output.type.size:
        return is_column and all(last)
    rows = body_rows(body)
    met = visits(parts.rows.outputs, (), rows)
    return not last and all(rows.is_own(v, layout) for v, layout in met if v is operand)


def fit_columns(
    roots: Sequence[Node],
    sums: Sequence[Node],
    outputs: Sequence[Value],
    columns: Sequence[Value],
    borders: Collection[Value],
) -> bool:
    """Whether a row kernel can add up rows, too.

    Parameters
    ----------
    roots : sequence of Node
        Its reductions, among which may be sums over rows; the first is over the places in a row.
    sums : sequence of Node
        Reductions that it would take.
    outputs : sequence of Value
        What it stores, of rows and of what it adds up.
    columns : sequence of Value
        What it would store of the sums.
    borders : collection of Value
        What is read from memory.
    """
    rows = rows_of(roots[0])
    if rows is None or not _is_plain(rows):
        return False
    sums = [*(n for n in roots if is_column_sum(n)), *sums]
    if len(sums) > MOST or not all(_adds_rows(node, rows) for node in sums):
        return False
    columns = [*(v for v in outputs if v.type.size == rows.length), *columns]
    if any(int(v.type.size) != rows.length for v in columns):
        return False
    own = {n.output for n in sums}
    inside = members([v for v in columns if v not in own], {*borders, *own})
    if not all(n.op.kind == "elementwise" or n.op.name in _INSIDE for n in inside):
        return False
    wanted = [*(v for v in outputs if v.type.size != rows.length), *(n.inputs[0] for n in sums)]
    behind = {*columns, *own}
    return agree(wanted, {v for v in borders if viewed(v) not in behind}, rows)


def _is_plain(rows: Rows) -> bool:
    """Whether a row is a stretch of memory that is not too long, and rows are more or fewer than
    its elements."""
    if len(rows.kept) != 1 or len(rows.reduced) != 1 or rows.reduced[0][0] != 1:
        return False
    return rows.length <= LONGEST and rows.length != rows.count


def _adds_rows(node: Node, rows: Rows) -> bool:
    operand = node.inputs[0]
    if node.op.name != "reduce_sum" or not operand.dtype.is_float:
        return False
    found = rows_of(node)
    enough = operand.type.nbytes >= LEAST_BYTES
    return enough and found == Rows(rows.total, rows.reduced, rows.kept)
