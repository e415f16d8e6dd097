"""Groups of stored values, each of which becomes a kernel, and what they wait for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ..ir.graph import Graph, Node, Value
from ..ir.types import Shape
from .attention import placed
from .outline import POINTWISE, VIEWS, accesses, is_scalar_constant, tokens_of
from .plan import ATTENTION
from .precedence import Precedence
from .stored import ROOTED, choose_stored, is_view


@dataclass(eq=False)
class Group:
    """The stored values that one kernel computes."""

    outputs: list[Value]
    roots: list[Node]  # reductions, or one other root and sums in its epilogue; none: pointwise
    number: int
    alive: bool = True
    special: str = ""  # a form that its nodes do not say, such as "row" or "batch"

    @property
    def form(self) -> str:
        """ "pointwise", "reduce", "rooted", "opaque" or "region"; or the special one."""
        if self.special or not self.roots:
            return self.special or "pointwise"
        kind = self.roots[0].op.kind
        return kind if kind in ("reduce", "opaque", "region") else "rooted"

    @property
    def size(self) -> int:
        """Number of elements of every output, but of a group of rows, which has two sizes."""
        return int(self.outputs[0].type.size)

    @property
    def shape(self) -> Shape:
        """Shape of the first output; `()` for single elements."""
        return self.outputs[0].shape if self.size != 1 else ()


class Groups:
    """The groups of a graph, what they read, and which must wait for which."""

    def __init__(self, graph: Graph, steady: Collection[Value] = frozenset()) -> None:
        self.graph = graph
        self.steady = steady
        self.attentions = placed(graph, choose_stored(graph, steady), steady)
        self.stored = self.attentions.stored
        attended = {v for values in self.attentions.outputs for v in values}
        self.borders = {*self.stored, *_views(graph, self.stored), *_constants(graph)}
        self._groups: list[Group] = []
        self.of: dict[Value, Group] = {}
        for node in dict.fromkeys(v.node for v in self.stored if v.node):
            roots = [] if node.op.kind in POINTWISE else [node]
            outputs = [v for v in node.outputs if v in self.stored]
            group = Group(outputs, roots, len(self._groups))
            if not attended.isdisjoint(outputs):
                group.special = ATTENTION
            self._groups.append(group)
            self.of.update(dict.fromkeys(node.outputs, group))
        self.position = {v: i for i, v in enumerate(self.stored)}
        self._reads: dict[Group, dict[Value, bool]] = {}
        self._readers: dict[Value, set[Group]] = {}
        for group in self._groups:
            self._note_reads(group)
        self.precedence = Precedence([[s.number for s in self.sources(g)] for g in self._groups])

    @property
    def groups(self) -> list[Group]:
        """Those that were not merged into others, in the order of the graph."""
        return [group for group in self._groups if group.alive]

    def reads(self, group: Group) -> dict[Value, bool]:
        """What the group reads from memory: True if only at the element that it computes.

        Views are followed to the value that they are a view of. The tokens of a barrier count
        as read, so that the group runs after they have been computed.
        """
        found = self._reads.get(group)
        if found is None:
            own = set(group.outputs)
            found = {}
            for value, aligned in accesses(group.outputs, self.borders):
                found.update((self.storage(token), False) for token in tokens_of(value))
                value = self.storage(value)
                if value not in own:
                    found[value] = found.get(value, True) and aligned
            self._reads[group] = found
        return found

    def storage(self, value: Value) -> Value:
        """The stored value or parameter that a view shows."""
        while value not in self.stored and value.node and not value.is_constant:
            value = value.node.inputs[0]
        return value

    def sources(self, group: Group) -> Iterator[Group]:
        """The groups whose outputs the group reads."""
        for value in self.reads(group):
            if value in self.of and self.of[value] is not group:
                yield self.of[value]

    def can_merge(self, a: Group, b: Group) -> bool:
        """Whether no other group stands between the two, and both run in the same calls."""
        if a is b or self.is_steady(a) != self.is_steady(b):
            return False
        return not self.precedence.between(a.number, b.number)

    def is_steady(self, group: Group) -> bool:
        """Whether the group is computed of weights and constants alone (see `steady`)."""
        return group.outputs[0] in self.steady

    def merge(self, a: Group, b: Group) -> None:
        """Make `b` a part of `a`."""
        for group in (a, b):
            for value in self.reads(group):
                self._readers[value].discard(group)
        a.outputs = sorted([*a.outputs, *b.outputs], key=self.position.__getitem__)
        a.roots = [*a.roots, *b.roots]
        a.special = a.special or b.special
        self.precedence.merge(a.number, b.number)
        b.alive = False
        self.of.update(dict.fromkeys(b.outputs, a))
        self._reads.pop(a, None)
        self._note_reads(a)

    def _note_reads(self, group: Group) -> None:
        for value in self.reads(group):
            self._readers.setdefault(value, set()).add(group)

    def companions(self, group: Group, size: int | None = None) -> list[Group]:
        """The groups that read what the group reads too (of `size` elements), in order."""
        read = (v for v in self.reads(group) if size is None or v.type.size == size)
        found = {g for v in read for g in self._readers.get(v, ()) if g is not group}
        return sorted(found, key=lambda g: g.number)

    def readers_of(self, value: Value) -> set[Group]:
        """The groups that read a stored value."""
        return self._readers.get(value, set())

    def readers(self, group: Group) -> list[Group]:
        """The groups that read an output of the group, in the order of the graph."""
        found = {g for v in group.outputs for g in self._readers.get(v, ()) if g is not group}
        return sorted(found, key=lambda g: self.position[g.outputs[0]])


def _views(graph: Graph, stored: Iterable[Value]) -> Iterator[Value]:
    stored = set(stored)
    return (n.output for n in graph.nodes if n.op.kind in POINTWISE and len(n.outputs) == 1
            and is_view(n.output, stored))  # fmt: skip


def _constants(graph: Graph) -> Iterator[Value]:
    """Constants that kernels read from memory: large ones, and what roots take as operands."""
    for node in graph.nodes:
        if node.op.kind == "constant" and not is_scalar_constant(node.output):
            yield node.output
        for value in node.inputs if node.op.kind in ROOTED else ():
            chain = [value]
            while chain[-1].node is not None and chain[-1].node.op.name in VIEWS:
                chain.append(chain[-1].node.inputs[0])
            if is_scalar_constant(chain[-1]):
                yield from chain
