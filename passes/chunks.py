"""Chunks: a loop whose rows do not touch each other runs on some of its rows at a time.

    %h = scan[length=64](%h0, %xs, %u)    %h0: f32[128,32], %xs: f32[64,128,96], %u: f32[32,96]
      body of 128 rows                    %0 = matmul(%h, %u), ...
    ->
    2 chunks of the rows, on two threads: each runs all 64 steps with
      body of 64 rows                     %h0: f32[64,32], %x: f32[64,96], %u: f32[32,96]

So threads meet once a loop and not several times a step, and what goes from step to step stays in
the cache of one core. The rows are the first axis of every carry, of what is stacked, and of some
of the rest; an axis that the body keeps apart, as a batch does. Nodes of which a part of the rows
needs other rows (a sum over them), or that rules do not know, keep a loop whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.graph import Graph, Node, Value
from .plan import ALIGNMENT

FEWEST, MOST = 8, 32
"""Rows of a chunk. Products of fewer rows load their matrix for little work, and of more chunks
threads can take as many as they have time for."""

WHOLE = 1 << 20
"""Bytes that every chunk reads in a step up to which they stay in a second-level cache. Of larger
matrices all rows of a step are multiplied at once, its columns on several threads."""

WORTH = 1 << 21
"""Operations of a loop from which on several threads are worth it: some 20 microseconds of one."""


@dataclass(frozen=True, eq=False)
class Chunked:
    """A loop in chunks.

    Attributes
    ----------
    count : int
        Number of chunks.
    body : Graph
        For the rows of one chunk.
    by_rows : tuple of bool
        For each input of the body, whether a chunk has rows of its own; else it gets all.
    """

    count: int
    body: Graph
    by_rows: tuple[bool, ...]


def chunked(node: Node) -> Chunked | None:
    """A scan in chunks of rows, if its rows are independent and the work is worth it."""
    body, carry = node.attrs["body"], node.attrs["carry"]
    rows = body.inputs[0].shape[0] if carry and body.inputs[0].ndim else 0
    sizes = [r for r in range(min(MOST, rows // 2), FEWEST - 1, -1) if rows % r == 0]
    if not sizes or _work(node) < WORTH:
        return None
    split = _Split(body, rows)
    if not split.demand(carry):
        return None
    by_rows = tuple(map(split.is_by_rows, body.inputs))
    whole = [v for v in body.inputs if split.kinds.get(v) == {False}]
    if sum(int(v.type.nbytes) for v in whole) > WHOLE:
        return None
    apart = [v for v, each in zip(body.inputs, by_rows, strict=True) if each]
    row_bytes = [int(v.type.nbytes) // rows for v in (*apart, *body.outputs)]
    for size in sizes:
        if not any(size * nbytes % ALIGNMENT for nbytes in row_bytes):
            return Chunked(rows // size, split.build(size), by_rows)
    return None


def _work(node: Node) -> int:
    """Simple operations of all steps, roughly."""
    body = node.attrs["body"]
    return int(node.attrs["length"]) * sum(map(_operations, body.nodes))


def _operations(node: Node) -> int:
    terms = 1
    if node.op.name == "matmul":
        terms = 2 * int(node.inputs[0].shape[-2 if node.attrs.get("transpose_a") else -1])
    elements = sum(int(v.type.size) for v in node.outputs)
    return elements * terms


Attrs = Mapping[str, Any]


class _Split:
    """A body for some of its `rows`: which values are needed by rows, which whole, and both."""

    def __init__(self, body: Graph, rows: int) -> None:
        self.body, self.rows = body, rows
        self.kinds: dict[Value, set[bool]] = {}  # True: by rows

    def is_by_rows(self, parameter: Value) -> bool:
        return self.kinds.get(parameter) == {True}

    def demand(self, carry: int) -> bool:
        """Find out what is needed, from the results on; whether rows are independent."""
        carries = self.body.inputs[:carry]
        for v in (*carries, *self.body.outputs):
            if not self._has_rows(v):
                return False
            self.kinds.setdefault(v, set()).add(True)
        for node in reversed(self.body.nodes):
            for by_rows in {kind for v in node.outputs for kind in self.kinds.get(v, ())}:
                if node.op.kind in ("region", "opaque"):
                    return False
                needs = self._needs(node) if by_rows else (False,) * len(node.inputs)
                if needs is None:
                    return False
                for v, need in zip(node.inputs, needs, strict=True):
                    self.kinds.setdefault(v, set()).add(need)
        needed = ((v, self.kinds.get(v, {False})) for v in self.body.inputs)
        return all(kinds == {False} or (kinds == {True} and self._has_rows(v))
                   for v, kinds in needed)  # fmt: skip

    def _has_rows(self, v: Value) -> bool:
        return bool(v.ndim) and v.shape[0] == self.rows

    def _needs(self, node: Node) -> Sequence[bool] | None:
        """For each operand whether rows of the result need the same rows of it, or all."""
        if not all(map(self._has_rows, node.outputs)):
            return None
        if node.op.kind == "elementwise":
            return (True,) * len(node.inputs)
        rule = _NEEDS.get(node.op.name)
        return rule(node) if rule else None

    def build(self, size: int) -> Graph:
        """The body for a chunk of `size` rows."""
        new: dict[tuple[Value, bool], Value] = {}
        inputs = []
        for v in self.body.inputs:
            by_rows = self.is_by_rows(v)
            shape = (size, *v.shape[1:]) if by_rows else v.shape
            part = Value(v.type.with_shape(shape), name=v.name)
            new[v, by_rows] = part
            inputs.append(part)
        for node in self.body.nodes:
            for by_rows in {kind for v in node.outputs for kind in self.kinds.get(v, ())}:
                copy = self._part(node, size if by_rows else 0, new)
                new.update(((v, by_rows), w)
                           for v, w in zip(node.outputs, copy.outputs, strict=True))  # fmt: skip
        names = self.body.output_names
        outputs = {k: new[v, True] for k, v in zip(names, self.body.outputs, strict=True)}
        return Graph.make(self.body.name, inputs, (), outputs)

    def _part(self, node: Node, size: int, new: Mapping[tuple[Value, bool], Value]) -> Node:
        """The node for so many rows, or for 0 the whole of it."""
        needs = self._needs(node) if size else (False,) * len(node.inputs)
        assert needs is not None
        operands = [new[v, need] for v, need in zip(node.inputs, needs, strict=True)]
        attrs = dict(node.attrs)
        for name in ("shape", "limits") if size else ():
            if name in attrs:
                attrs[name] = (size, *attrs[name][1:])
        return Node(node.op, operands, attrs, node.source)


# --- what rows of a result need --------------------------------------------------------------

Needs = Sequence[bool] | None


def _matmul(node: Node) -> Needs:
    if node.output.ndim > 2:
        return True, True
    return None if node.attrs.get("transpose_a") else (True, False)


def _broadcast(node: Node) -> Needs:
    (x,), axes = node.inputs, node.attrs["axes"]
    if 0 not in axes:
        return (False,)
    place = axes.index(0)
    if x.shape[place] == 1:
        return (False,)
    return (True,) if place == 0 else None


def _reshape(node: Node) -> Needs:
    (x,) = node.inputs
    return (True,) if x.ndim and x.shape[0] == node.output.shape[0] else None


def _transpose(node: Node) -> Needs:
    return (True,) if node.attrs["permutation"][0] == 0 else None


def _slice(node: Node) -> Needs:
    whole = (node.attrs["starts"][0], node.attrs["limits"][0], node.attrs["strides"][0])
    return (True,) if whole == (0, node.inputs[0].shape[0], 1) else None


def _pad(node: Node) -> Needs:
    edges = (node.attrs[name][0] for name in ("low", "high", "interior"))
    return None if any(edges) else (True,)


def _along_axis(node: Node) -> Needs:
    return (True,) * len(node.inputs) if node.attrs["axis"] != 0 else None


def _along_axes(node: Node) -> Needs:
    return (True,) if 0 not in node.attrs["axes"] else None


def _gather(node: Node) -> Needs:
    return (False, True) if node.attrs["axis"] == 0 and node.inputs[1].ndim else None


def _same(node: Node) -> Needs:
    return (True,) * len(node.inputs)


_NEEDS: dict[str, Callable[[Node], Needs]] = {
    "matmul": _matmul, "broadcast": _broadcast, "reshape": _reshape, "transpose": _transpose,
    "slice": _slice, "pad": _pad, "gather": _gather, "stop_gradient": _same,
    **dict.fromkeys(("concat", "iota", "take_along", "cumsum", "cumprod", "argmax", "argmin"),
                    _along_axis),
    **dict.fromkeys(("reverse", "reduce_sum", "reduce_prod", "reduce_max", "reduce_min",
                     "reduce_any", "reduce_all"), _along_axes),
}  # fmt: skip
