"""Residuals: what a forward computation keeps for its way back.

A value that the way back reads is either kept, or computed again from values that are at hand
there. What is kept is a minimum cut: of all choices under which nothing expensive is computed
twice, the one of the fewest bytes. A broadcast is never kept, its operand is; of `x > 0` and `x`
the truth values are.

The cut is found as a maximum flow (Ford and Fulkerson 1956; shortest augmenting paths, Edmonds
and Karp 1972) from what cannot be computed again to what is read; a value lets through as many
bytes as it has. Of several minimum cuts it takes the one nearest to the readers, where the least
is computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from .graph import Node, Value, reachable

CHEAP = frozenset({
    "abs", "add", "bit_and", "bit_not", "bit_or", "bit_xor", "bitcast", "cast", "ceil", "div",
    "equal", "floor", "greater", "greater_equal", "is_finite", "less", "less_equal",
    "logical_and", "logical_not", "logical_or", "maximum", "minimum", "mul", "neg", "not_equal",
    "relu", "round", "rsqrt", "select", "shift_left", "shift_right", "sign", "sqrt",
    "stop_gradient", "sub",
})  # fmt: skip
"""Elementwise ops that cost no more than to load what they computed."""

SYMBOL = 64
"""The size that a symbolic dimension counts as."""

_UNLIMITED = 1 << 60

Vertex = tuple[str, Value | None]
SOURCE: Vertex = ("source", None)
SINK: Vertex = ("sink", None)


def residuals(
    results: Iterable[Value],
    late: Collection[Value],
    *,
    invariant: Collection[Value] = (),
    pinned: Collection[Value] = (),
    kept: Collection[Value] = (),
    recompute: bool = False,
    is_cheap: Callable[[Node], bool] | None = None,
) -> list[Value]:
    """The values to keep so that `results` can be computed later.

    Parameters
    ----------
    results : iterable of Value
        What the way back computes.
    late : collection of Value
        What it gets when it runs: cotangents. Values that do not depend on them may be kept.
    invariant : collection of Value
        What is the same in every run: computing from these alone is not counted, it is done once.
    pinned : collection of Value
        Parameters that are not at hand on the way back.
    kept : collection of Value
        What is stored anyway and costs nothing more.
    recompute : bool
        Keep pinned values alone, however much must be computed again.
    is_cheap : callable, optional
        Whether a node may be computed twice; by default what costs no more than loading it.

    Returns
    -------
    list of Value
        In the order in which they are computed.
    """
    read, early = _read(list(results), set(late))
    if recompute:
        needed = {v for node in early for v in node.inputs}.union(read)
        return [v for v in pinned if v in needed]
    is_cheap = is_cheap or _is_cheap
    network = _Network()
    fixed, varying = set(invariant), set(pinned)
    for v in pinned:
        network.join(SOURCE, ("in", v))
        network.value(v, kept)
    for node in early:
        if all(v in fixed for v in node.inputs):
            fixed.update(node.outputs)
            continue
        cheap, sources = is_cheap(node), [v for v in node.inputs if v in varying]
        if cheap and not sources:
            continue
        varying.update(node.outputs)
        for out in node.outputs:
            network.value(out, kept)
            for start in [("out", v) for v in sources] if cheap else [SOURCE]:
                network.join(start, ("in", out))
    for v in read:
        if v in varying:
            network.join(("out", v), SINK)
    cut = network.minimum_cut()
    order = [*pinned, *(out for node in early for out in node.outputs)]
    return [v for v in order if v in cut]


def _read(results: Sequence[Value], late: set[Value]) -> tuple[dict[Value, None], list[Node]]:
    """What late nodes read of the early ones, in order, and the early nodes that compute it."""
    nodes = reachable(results)
    for node in nodes:
        if any(v in late for v in node.inputs):
            late.update(node.outputs)
    readers = [node for node in nodes if node.outputs[0] in late]
    read = dict.fromkeys(v for node in readers for v in node.inputs if v not in late)
    read.update(dict.fromkeys(v for v in results if v not in late))
    return read, [*reachable(read)]


def _is_cheap(node: Node) -> bool:
    if node.op.kind == "elementwise":
        return node.op.name in CHEAP
    return node.op.kind == "index" and node.op.name != "rng_bits"


def _bytes(value: Value) -> int:
    return value.type.substitute(dict.fromkeys(value.type.symbols, SYMBOL)).nbytes


class _Network:
    """A directed graph of capacities."""

    def __init__(self) -> None:
        self.left: dict[Vertex, dict[Vertex, int]] = {SOURCE: {}, SINK: {}}

    def join(self, start: Vertex, end: Vertex, capacity: int = _UNLIMITED) -> None:
        self.left.setdefault(start, {})[end] = capacity
        self.left.setdefault(end, {}).setdefault(start, 0)

    def value(self, v: Value, kept: Collection[Value]) -> None:
        """A value, which lets through its bytes; one more, so that fewer values are better."""
        self.join(("in", v), ("out", v), 0 if v in kept else _bytes(v) + 1)

    def minimum_cut(self) -> set[Value]:
        """The values at the cut that is nearest to the sink."""
        while path := self._path():
            flow = min(self.left[a][b] for a, b in path)
            for a, b in path:
                self.left[a][b] -= flow
                self.left[b][a] += flow
        after = self._reaches_sink()
        return {
            v for kind, v in after if kind == "out" and v is not None and ("in", v) not in after
        }

    def _path(self) -> list[tuple[Vertex, Vertex]]:
        """A shortest way from source to sink on which something is left; empty if there is none."""
        came: dict[Vertex, Vertex] = {SOURCE: SOURCE}
        waiting = deque([SOURCE])
        while waiting:
            at = waiting.popleft()
            if at == SINK:
                return list(_back(came, SINK))
            for to, left in self.left[at].items():
                if left and to not in came:
                    came[to] = at
                    waiting.append(to)
        return []

    def _reaches_sink(self) -> set[Vertex]:
        found = {SINK}
        waiting = deque([SINK])
        while waiting:
            at = waiting.popleft()
            for start in self.left[at]:
                if start not in found and self.left[start][at]:
                    found.add(start)
                    waiting.append(start)
        return found


def _back(came: dict[Vertex, Vertex], at: Vertex) -> Iterator[tuple[Vertex, Vertex]]:
    while came[at] != at:
        yield came[at], at
        at = came[at]
