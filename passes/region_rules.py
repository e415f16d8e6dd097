"""The rules of the pass over regions: what is inlined, and edits of loops and of branches.

An edit changes a region that is taken apart and says whether it did; `context` takes the reasons
of those that did not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..ir.builder import constant
from ..ir.evaluate import run_region
from ..ir.graph import Node, Value, reachable
from ..ir.op import get
from ..ir.pattern import number_of
from ..ir.sugar import broadcast_to, full, reshape
from .loops import Branches, Carry, Choice, Loop, Operand, leaves, recomputed

LIGHT = frozenset({"constant", "broadcast", "reshape", "iota", "stop_gradient"})
"""Ops that are not worth a value of their own outside of a loop."""


class Context(Protocol):
    """What the rules ask of the pass that applies them."""

    @property
    def elements(self) -> int: ...

    def refuse(self, rule: str, node: Node, reason: str) -> None: ...


Outputs = Sequence[Value] | None

# --- regions that vanish ---------------------------------------------------------------------


def _no_steps(node: Node, operands: Sequence[Value]) -> Outputs:
    if node.op.name != "scan" or node.attrs["length"] != 0:
        return None
    carry = node.attrs["carry"]
    return [*operands[:carry], *(full(v.shape, 0, v.dtype) for v in node.outputs[carry:])]


def _one_step(node: Node, operands: Sequence[Value]) -> Outputs:
    if node.op.name != "scan" or node.attrs["length"] != 1:
        return None
    carry, body = node.attrs["carry"], node.regions["body"]
    outputs = body.inline(
        *(reshape(v, w.shape) for v, w in zip(operands, body.inputs, strict=True))
    )
    return [*outputs[:carry], *(reshape(v, (1, *v.shape)) for v in outputs[carry:])]


def _never_runs(node: Node, operands: Sequence[Value]) -> Outputs:
    if node.op.name != "while":
        return None
    condition = node.regions["condition"]
    read = leaves(condition.outputs)
    arrays = [
        _array(v) if w in read else np.zeros(0)
        for v, w in zip(operands, condition.inputs, strict=True)
    ]
    if any(a is None for a in arrays):
        return None
    runs = bool(run_region(condition, arrays)[0])  # type: ignore[arg-type]
    return None if runs else operands[: node.attrs["carry"]]


def _array(value: Value) -> np.ndarray | None:
    """The array of a constant or of a repeated number."""
    number = number_of(value)
    if number is None or not value.type.is_static:
        return value.constant
    return np.broadcast_to(number, tuple(map(int, value.shape)))


def _known_branch(node: Node, operands: Sequence[Value]) -> Outputs:
    if node.op.name != "cond":
        return None
    predicate = number_of(operands[0])
    if predicate is None:
        return None
    return node.regions["then" if predicate else "otherwise"].inline(*operands[1:])


def _equal_branches(node: Node, operands: Sequence[Value]) -> Outputs:
    if node.op.name != "cond":
        return None
    then, otherwise = node.regions["then"], node.regions["otherwise"]
    return then.inline(*operands[1:]) if then.structure == otherwise.structure else None


INLINED: dict[str, Callable[[Node, Sequence[Value]], Outputs]] = {
    "no-steps": _no_steps,
    "one-step": _one_step,
    "never-runs": _never_runs,
    "known-branch": _known_branch,
    "equal-branches": _equal_branches,
}

# --- loops -----------------------------------------------------------------------------------


def _point(loop: Loop | Branches, old: Any, new: Any) -> None:
    """What pointed to one result points to another."""
    results: list[Any] = [new if r is old else r for r in loop.results]
    loop.results = results


def _steady_carry(loop: Loop, context: Context) -> bool:
    steady = [c for c in loop.carries if c.next is c.input]
    for carry in steady:
        loop.carries.remove(carry)
        loop.shared.append(Operand(carry.start, carry.input))
        _point(loop, carry, carry.start)
    return bool(steady)


def equal_operands(loop: Loop, context: Context | None = None) -> bool:
    """Merge what comes in twice."""
    replaced: dict[Value, Value] = {}
    for operands in (loop.sliced, loop.shared):
        first: dict[Value, Operand] = {}
        for operand in list(operands):
            known = first.setdefault(operand.outer, operand)
            if known is not operand:
                replaced[operand.input] = known.input
                operands.remove(operand)
    if replaced:
        loop.substitute(replaced)
    return bool(replaced)


def equal_carries(loop: Loop, context: Context | None = None) -> bool:
    """Merge carries that begin equal and that a step keeps equal.

    All that begin equal are taken to be one; a step then shows which of them part, until none do.
    """
    kinds = {id(c): id(c.start) for c in loop.carries}
    while True:
        first: dict[int, Carry] = {}
        for carry in loop.carries:
            first.setdefault(kinds[id(carry)], carry)
        if len(first) == len(loop.carries):
            return False
        same = {c.input: first[kinds[id(c)]].input for c in loop.carries}
        same = {v: w for v, w in same.items() if v is not w}
        after = recomputed([c.next for c in loop.carries], same)
        pairs = {id(c): (kinds[id(c)], id(v)) for c, v in zip(loop.carries, after, strict=True)}
        numbers = {pair: i for i, pair in enumerate(dict.fromkeys(pairs.values()))}
        if len(numbers) == len(first):
            break
        kinds = {key: numbers[pair] for key, pair in pairs.items()}
    for carry in list(loop.carries):
        known = first[kinds[id(carry)]]
        if known is not carry:
            loop.carries.remove(carry)
            _point(loop, carry, known)
    loop.substitute(same)
    return True


def _equal_outputs(loop: Loop, context: Context) -> bool:
    first: dict[Value, Any] = {}
    repeated = []
    for stack in loop.stacks:
        known = first.setdefault(stack.value, stack)
        if known is not stack:
            repeated.append(stack)
            _point(loop, stack, known)
    loop.stacks = [s for s in loop.stacks if s not in repeated]
    return bool(repeated)


def _outside_output(loop: Loop, context: Context) -> bool:
    sliced = {o.input: o.outer for o in loop.sliced}
    shared = {o.input: o.outer for o in loop.shared}
    found = []
    for stack in loop.stacks:
        v = stack.value
        shape = (loop.node.attrs["length"], *v.shape)
        number = number_of(v)
        if v in sliced:
            outer = sliced[v]
        elif v in shared:
            outer = broadcast_to(shared[v], shape)
        elif number is not None:
            outer = full(shape, number, v.dtype)
        else:
            continue
        found.append(stack)
        _point(loop, stack, outer)
    loop.stacks = [s for s in loop.stacks if s not in found]
    return bool(found)


def _stacked_broadcast(loop: Loop, context: Context) -> bool:
    replaced: dict[Value, Value] = {}
    for operand in list(loop.sliced):
        node = operand.outer.node
        if node is None or node.op.name != "broadcast" or 0 in node.attrs["axes"]:
            continue
        (source,) = node.inputs
        new = Value(source.type, name=operand.input.name)
        axes = tuple(a - 1 for a in node.attrs["axes"])
        repeats = source.type != operand.input.type
        replaced[operand.input] = (
            get("broadcast")(new, shape=operand.input.shape, axes=axes) if repeats else new
        )
        loop.sliced.remove(operand)
        loop.shared.append(Operand(source, new))
    if replaced:
        loop.substitute(replaced)
    return bool(replaced)


def _sunk(rule: str, node: Node, outer: Value, context: Context) -> Callable[[], Value] | None:
    """How to make a constant inside, if the value is one that may be sunk."""
    number, array = number_of(outer), outer.constant
    if number is not None:
        return lambda: full(outer.shape, number, outer.dtype)
    if array is None:
        return None
    if array.size > context.elements:
        context.refuse(rule, node, f"a constant of {array.size} elements stays outside, once")
        return None
    return lambda: constant(array, outer.dtype)


def _sink_constant(loop: Loop, context: Context) -> bool:
    replaced: dict[Value, Value] = {}
    for operand in list(loop.shared):
        make = _sunk("sink-constant", loop.node, operand.outer, context)
        if make:
            replaced[operand.input] = make()
            loop.shared.remove(operand)
    if replaced:
        loop.substitute(replaced)
    return bool(replaced)


def _hoist(loop: Loop, context: Context) -> bool:
    steady = {o.input for o in loop.shared}
    wanted: list[Value] = list(loop.values)
    nodes = reachable(loop.values)
    for node in nodes:
        if all(v in steady for v in node.inputs):
            steady.update(node.outputs)
        else:
            wanted += node.inputs
    hoisted = [v for v in _heavy(wanted, steady) if _may_leave(v, loop, context)]
    if not hoisted:
        return False
    outer = {o.input: o.outer for o in loop.shared}
    replaced = {v: Value(v.type, name="steady") for v in hoisted}
    for v, w in zip(hoisted, recomputed(hoisted, outer), strict=True):
        loop.shared.append(Operand(w, replaced[v]))
    loop.substitute(replaced)
    return True


def _heavy(wanted: Sequence[Value], steady: set[Value]) -> list[Value]:
    """The steady values that are worth a place, below those that are not."""
    found: dict[Value, None] = {}
    stack, seen = [v for v in wanted if v in steady], set()
    while stack:
        v = stack.pop()
        if v in seen or v.node is None:
            continue
        seen.add(v)
        if v.node.op.name in LIGHT:
            stack += v.node.inputs
        else:
            found[v] = None
    return list(found)


def _may_leave(value: Value, loop: Loop, context: Context) -> bool:
    if any(node.op.name == "while" for node in reachable([value])):
        reason = "a while may never end, and the loop around it may not run at all"
        context.refuse("hoist", loop.node, reason)
        return False
    return True


LOOP_RULES: dict[str, Callable[[Loop, Context], bool]] = {
    "steady-carry": _steady_carry,
    "stacked-broadcast": _stacked_broadcast,
    "equal-operands": equal_operands,
    "sink-constant": _sink_constant,
    "equal-carries": equal_carries,
    "hoist": _hoist,
    "outside-output": _outside_output,
    "equal-outputs": _equal_outputs,
}

# --- branches --------------------------------------------------------------------------------


def equal_branch_operands(branches: Branches, context: Context | None = None) -> bool:
    """Merge what comes in twice."""
    first: dict[Value, Choice] = {}
    then: dict[Value, Value] = {}
    otherwise: dict[Value, Value] = {}
    kept = []
    for outer, choice in branches.operands:
        known = first.setdefault(outer, choice)
        if known is choice:
            kept.append((outer, choice))
        else:
            then[choice.then], otherwise[choice.otherwise] = known.then, known.otherwise
    if not then:
        return False
    branches.operands = kept
    branches.substitute(then, otherwise)
    return True


def _branch_constants(branches: Branches, context: Context) -> bool:
    then: dict[Value, Value] = {}
    otherwise: dict[Value, Value] = {}
    kept = []
    for outer, choice in branches.operands:
        make = _sunk("sink-constant", branches.node, outer, context)
        if make is None:
            kept.append((outer, choice))
        else:
            then[choice.then], otherwise[choice.otherwise] = make(), make()
    if not then:
        return False
    branches.operands = kept
    branches.substitute(then, otherwise)
    return True


def _branch_outside(branches: Branches, context: Context) -> bool:
    outer = {(c.then, c.otherwise): v for v, c in branches.operands}
    found = [c for c in branches.outputs if (c.then, c.otherwise) in outer]
    for choice in found:
        _point(branches, choice, outer[choice.then, choice.otherwise])
    branches.outputs = [c for c in branches.outputs if c not in found]
    return bool(found)


def _branch_outputs(branches: Branches, context: Context) -> bool:
    first: dict[tuple[Value, Value], Choice] = {}
    repeated = []
    for choice in branches.outputs:
        known = first.setdefault((choice.then, choice.otherwise), choice)
        if known is not choice:
            repeated.append(choice)
            _point(branches, choice, known)
    branches.outputs = [c for c in branches.outputs if c not in repeated]
    return bool(repeated)


BRANCH_RULES: dict[str, Callable[[Branches, Context], bool]] = {
    "equal-operands": equal_branch_operands,
    "sink-constant": _branch_constants,
    "outside-output": _branch_outside,
    "equal-outputs": _branch_outputs,
}
