"""Long pointwise bodies in two loops over a row, one after the other.

    for j in row: h[j] = f(g(x[j]))   ->   for j in row: t[j] = g(x[j])
                                           for j in row: h[j] = f(t[j])

A processor computes ahead over some hundred instructions. An element of an LSTM's cell takes half
as many, in a chain of five exponentials, so that hardly two of them overlap; either half alone
overlaps more, and what is passed on lies in the first-level cache: the cell takes 0.87 of the time
on a Zen 4. All results are stored by the second loop, so that they may lie on what both read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from ...ir.graph import Graph, Node, Value
from ...passes.stored import cost
from . import index as ix
from .emit import Buffer
from .evaluator import Evaluator
from .index import Index, Indices
from .math import Element, carrier, held, keep

Sizes = tuple[int, ...]

_LONG = 56
"""Operations of a body whose elements hardly overlap."""
_LARGER = 0.7
"""The largest share of them that one of the loops may have."""
_ROW = 2048
"""Elements of the longest row whose values stay in the first-level cache."""
_NODES = 64
"""Nodes of the largest body that is looked into."""


def passed_on(body: Graph, shape: Sizes) -> tuple[Value, ...]:
    """What the first loop over a row computes for the second: the value where the body is cut, and
    results that there are by then; nothing if one loop is better. Of equal places it is the last,
    which lies farther along the chain."""
    total, outputs = sum(map(cost, body.nodes)), dict.fromkeys(body.outputs)
    shapes = {value.shape for value in outputs}
    if total < _LONG or len(shapes) > 1 or len(body.nodes) > _NODES or shape[-1] > _ROW:
        return ()
    best: tuple[Value, ...] = ()
    least = _LARGER * total
    for node in body.nodes:
        if cost(node) == 0 or node.outputs[0].shape not in shapes:
            continue
        before = _behind(node.outputs, ())
        passed = dict.fromkeys([node.outputs[0], *(v for v in outputs if v.node in before)])
        after = _behind([v for v in outputs if v not in passed], passed)
        larger = max(sum(map(cost, before)), sum(map(cost, after)))
        if larger <= least and _fit(body, passed, after):
            best, least = tuple(passed), larger
    return best


def _behind(values: Iterable[Value], known: Iterable[Value]) -> dict[Node, None]:
    """The nodes that values are computed by, from known ones on."""
    stop, pending = set(known), list(values)
    found: dict[Node, None] = {}
    while pending:
        value = pending.pop()
        if value not in stop and value.node is not None and value.node not in found:
            found[value.node] = None
            pending.extend(value.node.inputs)
    return found


def _fit(body: Graph, passed: Collection[Value], after: Collection[Node]) -> bool:
    """Whether passed values are floats that the second loop uses element by element."""
    depends = set(passed)
    for node in body.nodes:
        if node in after and not depends.isdisjoint(node.inputs):
            if node.op.kind != "elementwise":
                return False
            depends.update(node.outputs)
    return all(value.dtype.is_float for value in passed)


def in_two_loops(
    evaluator: Evaluator,
    passed: Iterable[Value],
    shape: Sizes,
    lanes: int,
    store: Callable[[Indices], None],
) -> Callable[[Indices], None]:
    """What computes a row in two loops.

    Parameters
    ----------
    evaluator : Evaluator
        Of the body.
    passed : iterable of Value
        See `passed_on`.
    shape : tuple of int
        What is looped over; its last dimension is the row.
    lanes : int
        Elements of a vector.
    store : callable
        Computes and stores all results of an element.
    """
    nest, inner = evaluator.nest, shape[-1]

    def row(at: Indices) -> None:
        memory = {value: nest.local(carrier(value.dtype), inner) for value in passed}

        def first(j: Index) -> None:
            flat = ix.linearize((*at, j), shape)
            wanted = [(value, ix.delinearize(flat, value.shape)) for value in memory]
            for value, result in zip(memory, evaluator.elements(wanted), strict=True):
                nest.emit(keep(memory[value], j, result))

        def second(j: Index) -> None:
            for value, buffer in memory.items():

                def reader(_: Indices, value: Value = value, buffer: Buffer = buffer) -> Element:
                    return held(nest, buffer, j, value.dtype)

                evaluator.given[value] = reader
            store((*at, j))

        nest.strips(inner, lanes, first)
        nest.strips(inner, lanes, second)
        evaluator.given.clear()

    return row
