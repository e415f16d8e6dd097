"""Region nodes taken apart: what the passes over them edit, and how a node is made of it again.

A `Loop` is a scan or while, `Branches` are a cond. Their lists may be edited freely; `emit` makes
the node of what is left and says which value now stands for each output of the old node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.builder import emit
from ..ir.graph import Graph, Node, Value, outline, reachable, same
from .cse import key_of

Finish = Callable[[Graph], Graph]
"""What is done to a body before the node is made."""


def recomputed(values: Sequence[Value], replaced: Mapping[Value, Value]) -> list[Value]:
    """The values computed from other leaves; nodes that compute the same become one."""
    known: dict[tuple[Any, ...], tuple[Value, ...]] = {}
    new = dict(replaced)
    for node in reachable(values, replaced):
        inputs = tuple(new.get(v, v) for v in node.inputs)
        changed = not same(inputs, node.inputs)
        copy = Node(node.op, inputs, node.attrs, node.source) if changed else node
        for old, out in zip(
            node.outputs, known.setdefault(key_of(copy), copy.outputs), strict=True
        ):
            if old is not out:
                new.setdefault(old, out)
    return [new.get(v, v) for v in values]


def leaves(values: Iterable[Value]) -> set[Value]:
    """The parameters that the values are computed from."""
    values = list(values)
    read = {v for node in reachable(values) for v in node.inputs} | set(values)
    return {v for v in read if v.node is None}


@dataclass(eq=False)
class Carry:
    """A value that goes from step to step."""

    start: Value
    input: Value
    next: Value


@dataclass(eq=False)
class Operand:
    """What comes in from outside, sliced or the same every time."""

    outer: Value
    input: Value


@dataclass(eq=False)
class Stack:
    """A result of each step that is stacked."""

    value: Value


Find = Callable[[Stack], Value]
"""What is stacked, outside."""


@dataclass(eq=False)
class Derived:
    """A result that is computed behind the loop, from what it stacks."""

    stacks: tuple[Stack, ...]
    make: Callable[[Find], Value]


@dataclass(eq=False)
class Loop:
    """A scan or a while.

    Attributes
    ----------
    results : list of Carry, Stack, Derived or Value
        What each output is: a last carry, a stack, what is computed of stacks behind the loop,
        or a value outside of it.
        Outputs that nobody reads may point to what is no longer in the lists.
    replaces : list of Value
        The outputs that stand for these.
    condition : Value or None
        Of a while, over the inputs of the body.
    """

    node: Node
    carries: list[Carry]
    sliced: list[Operand]
    shared: list[Operand]
    stacks: list[Stack]
    condition: Value | None
    results: list[Carry | Stack | Derived | Value]
    replaces: list[Value]

    @staticmethod
    def of(node: Node, operands: Sequence[Value]) -> Loop:
        """The node with other operands."""
        body, count = node.regions["body"], node.attrs["carry"]
        end = count + node.attrs.get("stacked", 0)
        pairs = [Operand(v, w) for v, w in zip(operands, body.inputs, strict=True)]
        carries = [
            Carry(o.outer, o.input, v)
            for o, v in zip(pairs[:count], body.outputs[:count], strict=True)
        ]
        stacks = [Stack(v) for v in body.outputs[count:]]
        condition = None
        if region := node.regions.get("condition"):
            inputs = dict(zip(region.inputs, body.inputs, strict=True))
            (condition,) = recomputed(region.outputs, inputs)
        return Loop(node, carries, pairs[count:end], pairs[end:], stacks, condition,
                    [*carries, *stacks], [*node.outputs])  # fmt: skip

    @property
    def inputs(self) -> Iterator[Value]:
        """The body's, in the order of the node's operands."""
        yield from (c.input for c in self.carries)
        yield from (o.input for o in (*self.sliced, *self.shared))

    @property
    def values(self) -> list[Value]:
        """All that a step computes."""
        found = [*(c.next for c in self.carries), *(s.value for s in self.stacks)]
        return found if self.condition is None else [*found, self.condition]

    def substitute(self, replaced: Mapping[Value, Value]) -> None:
        """Compute a step from other leaves, and equal things once."""
        new = iter(recomputed(self.values, replaced))
        for carry in self.carries:
            carry.next = next(new)
        for stack in self.stacks:
            stack.value = next(new)
        self.condition = next(new, None)

    def keep(self, live: Iterable[int]) -> bool:
        """Drop what the outputs in `live` do not need; whether there was anything."""
        results = [self.results[i] for i in live]
        wanted = set(map(id, results))
        wanted.update(id(s) for r in results if isinstance(r, Derived) for s in r.stacks)
        before = len(list(self.inputs)) + len(self.stacks)
        self.stacks = [s for s in self.stacks if id(s) in wanted]
        kept = [c for c in self.carries if id(c) in wanted]
        while True:
            read = leaves([*(c.next for c in kept), *(s.value for s in self.stacks),
                           *([] if self.condition is None else [self.condition])])  # fmt: skip
            more = [c for c in self.carries if c.input in read and c not in kept]
            if not more:
                break
            kept += more
        self.carries = [c for c in self.carries if c in kept]
        self.sliced = [o for o in self.sliced if o.input in read]
        self.shared = [o for o in self.shared if o.input in read]
        return len(list(self.inputs)) + len(self.stacks) < before

    @property
    def reads(self) -> list[Value]:
        """The operands of the node, in order."""
        return [*(c.start for c in self.carries), *(o.outer for o in self.sliced),
                *(o.outer for o in self.shared)]  # fmt: skip

    def renamed(self) -> Loop:
        """The same over inputs of its own, as graphs may share theirs."""
        new = {v: Value(v.type, name=v.name) for v in self.inputs}
        self.substitute(new)
        for carry in self.carries:
            carry.input = new[carry.input]
        for operand in (*self.sliced, *self.shared):
            operand.input = new[operand.input]
        return self

    def read_from(self, new: Mapping[Value, Value]) -> None:
        """Let the node read other values."""
        for carry in self.carries:
            carry.start = new.get(carry.start, carry.start)
        for operand in (*self.sliced, *self.shared):
            operand.outer = new.get(operand.outer, operand.outer)

    def emit(self, finish: Finish) -> list[Value]:
        """The node anew, and the values that stand for the old one's outputs."""
        node, attrs = self.node, dict(self.node.attrs)
        names = _names(self.inputs)
        values = [*(c.next for c in self.carries), *(s.value for s in self.stacks)]
        body = finish(outline(node.regions["body"].name, names, _named(values)))
        attrs |= {"body": body, "carry": len(self.carries)}
        if "stacked" in attrs:
            attrs["stacked"] = len(self.sliced)
        if self.condition is not None:
            name = node.regions["condition"].name
            attrs["condition"] = finish(outline(name, names, _named([self.condition])))
        outputs: Sequence[Value] = ()
        if values:
            outputs = emit(node.op, self.reads, attrs)
        found: dict[int, Value] = dict(
            zip(map(id, [*self.carries, *self.stacks]), outputs, strict=True)
        )

        def outside(result: Carry | Stack | Derived | Value, old: Value) -> Value:
            if isinstance(result, Derived):
                known = all(id(s) in found for s in result.stacks)
                return result.make(lambda stack: found[id(stack)]) if known else old
            return result if isinstance(result, Value) else found.get(id(result), old)

        return [*map(outside, self.results, self.replaces)]


@dataclass(eq=False)
class Choice:
    """One value of each branch: an input of both, or what both return."""

    then: Value
    otherwise: Value


@dataclass(eq=False)
class Branches:
    """A cond; `operands` are pairs of what comes in and the inputs that it is for."""

    node: Node
    predicate: Value
    operands: list[tuple[Value, Choice]]
    outputs: list[Choice]
    results: list[Choice | Value]
    replaces: list[Value]

    @staticmethod
    def of(node: Node, operands: Sequence[Value]) -> Branches:
        """The node with other operands."""
        then, otherwise = node.regions["then"], node.regions["otherwise"]
        inputs = map(Choice, then.inputs, otherwise.inputs)
        outputs = list(map(Choice, then.outputs, otherwise.outputs))
        pairs = list(zip(operands[1:], inputs, strict=True))
        return Branches(node, operands[0], pairs, outputs, [*outputs], [*node.outputs])

    def substitute(self, then: Mapping[Value, Value], otherwise: Mapping[Value, Value]) -> None:
        """Compute the branches from other leaves, and equal things once."""
        first = recomputed([c.then for c in self.outputs], then)
        second = recomputed([c.otherwise for c in self.outputs], otherwise)
        for choice, v, w in zip(self.outputs, first, second, strict=True):
            choice.then, choice.otherwise = v, w

    def keep(self, live: Iterable[int]) -> bool:
        """Drop what the outputs in `live` do not need; whether there was anything."""
        wanted = {id(self.results[i]) for i in live}
        before = len(self.operands) + len(self.outputs)
        self.outputs = [c for c in self.outputs if id(c) in wanted]
        read = leaves(v for c in self.outputs for v in (c.then, c.otherwise))
        self.operands = [(v, c) for v, c in self.operands if {c.then, c.otherwise} & read]
        return len(self.operands) + len(self.outputs) < before

    def renamed(self) -> Branches:
        """The same over inputs of its own, as graphs may share theirs."""
        inputs = [c for _, c in self.operands]
        new = [{v: Value(v.type, name=v.name) for v in side}
               for side in ([c.then for c in inputs], [c.otherwise for c in inputs])]  # fmt: skip
        self.substitute(*new)
        for choice in inputs:
            choice.then, choice.otherwise = new[0][choice.then], new[1][choice.otherwise]
        return self

    @property
    def reads(self) -> list[Value]:
        """The operands of the node, in order."""
        return [self.predicate, *(v for v, _ in self.operands)]

    def read_from(self, new: Mapping[Value, Value]) -> None:
        """Let the node read other values."""
        self.predicate = new.get(self.predicate, self.predicate)
        self.operands = [(new.get(v, v), choice) for v, choice in self.operands]

    def emit(self, finish: Finish) -> list[Value]:
        """The node anew, and the values that stand for the old one's outputs."""
        node = self.node
        regions: dict[str, Graph] = {}
        for name in ("then", "otherwise"):
            inputs = _names(getattr(c, name) for _, c in self.operands)
            values = _named(getattr(c, name) for c in self.outputs)
            regions[name] = finish(outline(node.regions[name].name, inputs, values))
        found: dict[int, Value] = {}
        if self.outputs:
            outputs = emit(node.op, self.reads, regions)
            found = dict(zip(map(id, self.outputs), outputs, strict=True))
        return [
            result if isinstance(result, Value) else found.get(id(result), old)
            for result, old in zip(self.results, self.replaces, strict=True)
        ]


def take_apart(node: Node, operands: Sequence[Value]) -> Loop | Branches:
    """The region node with other operands."""
    return (Branches if node.op.name == "cond" else Loop).of(node, operands)


def _names(inputs: Iterable[Value]) -> dict[Value, str]:
    """Their own names, with a number where two are the same."""
    found: dict[Value, str] = {}
    taken: set[str] = set()
    for v in inputs:
        name = v.name or "p"
        count = 0
        while name in taken:
            count += 1
            name = f"{v.name or 'p'}_{count}"
        taken.add(name)
        found[v] = name
    return found


def _named(values: Iterable[Value]) -> dict[str, Value]:
    return {f"r{i}": v for i, v in enumerate(values)}
