"""Every rule with faults put in, one at a time: the golden programs' numbers refuse each."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rule_goldens import BY_NAME, check_equal, read

from hornfels.ir import Value, parse, verify
from hornfels.ir.errors import HornfelsError
from hornfels.ir.graph import Graph
from hornfels.ir.op import get
from hornfels.ir.pattern import COMMUTATIVE
from hornfels.ir.rewrite import Rule
from hornfels.passes.simplify import Simplify

OTHER = {"add": "sub", "sub": "add", "mul": "add", "div": "mul", "maximum": "minimum",
         "minimum": "maximum", "logical_and": "logical_or", "logical_or": "logical_and",
         "equal": "not_equal", "not_equal": "equal", "less": "greater_equal",
         "greater_equal": "less", "reduce_sum": "reduce_max", "reduce_max": "reduce_min",
         "reduce_min": "reduce_max", "reduce_prod": "reduce_sum"}  # fmt: skip


def faulty(value: Value) -> Iterator[tuple[str, Callable[[], Value]]]:
    """What a rule may return by mistake where it should return a value."""
    dtype = value.dtype
    if dtype.is_bool:
        yield "not", lambda: get("logical_not")(value)
    elif dtype.kind != "uint":
        yield "negated", lambda: get("neg")(value)
    if not dtype.is_bool:
        yield "off by one", lambda: value + 1
    node = value.node
    if node is None:
        return
    if len(node.inputs) == 2 and node.op.name not in COMMUTATIVE:
        yield "swapped", lambda: node.op(*node.inputs[::-1], **node.attrs)
    if node.op.name == "select":
        c, x, y = node.inputs
        yield "branches swapped", lambda: get("select")(c, y, x)
    for i, operand in enumerate(node.inputs):
        if operand.type == value.type:
            yield f"operand {i} alone", lambda operand=operand: operand
    if node.op.name in OTHER:
        yield OTHER[node.op.name], lambda: get(OTHER[node.op.name])(*node.inputs, **node.attrs)
    for name, attribute in node.attrs.items():
        for other in changed(attribute):
            attrs = {**node.attrs, name: other}
            yield f"{name}={other}", lambda attrs=attrs: node.op(*node.inputs, **attrs)


def changed(attribute: Any) -> Iterator[Any]:
    if isinstance(attribute, bool):
        yield not attribute
    elif isinstance(attribute, int):
        yield from (attribute + 1, attribute - 1)
    elif isinstance(attribute, float):
        yield attribute + 1
    elif isinstance(attribute, tuple) and attribute[::-1] != attribute:
        yield attribute[::-1]
    elif isinstance(attribute, tuple) and attribute and all(isinstance(i, int) for i in attribute):
        yield (attribute[0] + 1, *attribute[1:])


def mutant(rule: Rule, number: int) -> tuple[Rule, list[str]]:
    """The rule with fault `number` in its result; the list says which, once the rule fired."""
    put_in: list[str] = []

    def replace(**bindings: Any) -> Any:
        result = rule.replace(**bindings)
        if not isinstance(result, Value):
            return result
        options = list(faulty(result))
        if number >= len(options):
            return result
        name, make = options[number]
        try:
            made = make()
        except HornfelsError:
            return result
        if made.type != result.type:
            return result
        put_in.append(name)
        return made

    replace.__signature__ = inspect.signature(rule.replace)  # type: ignore[attr-defined]
    return dataclasses.replace(rule, replace=replace), put_in


def refused(rule: Rule, graph: Graph) -> bool:
    """Whether the rule's result differs in its numbers, or is no graph."""
    try:
        check_equal(graph, verify(Simplify((rule,)).run(graph)))
    except (AssertionError, ValueError):  # ours are ValueErrors
        return True
    return False


def survivors(name: str) -> list[str]:
    """The faults that no program of a rule's golden shows."""
    golden = read(name)
    programs = [parse(golden.before), parse(golden.stays)]
    found = []
    for number in range(24):
        rule, put_in = mutant(BY_NAME[name], number)
        caught = any(refused(rule, graph) for graph in programs)
        if put_in and not caught:
            found.append(put_in[0])
    return found


EXPLAINED = {
    "slice-slice": {"strides=(2, 2, 2, 1)": "of an axis of which one element is left"},
    "reduce-broadcast": {"operand 0 alone": "the broadcast is of a shape to itself"},
}
"""Faults that change no number, and why."""


@pytest.mark.parametrize("name", BY_NAME)
def test_every_fault_in_what_a_rule_returns_is_refused(name):
    assert set(survivors(name)) == set(EXPLAINED.get(name, {}))


def constant(name: str, number: float, type: str) -> str:
    """Lines of a number that is repeated to a type."""
    dtype, shape = type[:-1].split("[")
    return (f"%{name}s: {dtype}[] = constant[value=dense<{dtype}[]: {number}>]()\n"
            f"%{name}: {type} = broadcast[shape=({shape},), axes=()](%{name}s)")  # fmt: skip


CONDITIONS = {
    "div-one": f"(%x: f32[3]) {{ {constant('c', 3.0, 'f32[3]')} %0: f32[3] = div(%x, %c)",
    "pow-two": f"(%x: f32[3]) {{ {constant('c', 3.0, 'f32[3]')} %0: f32[3] = pow(%x, %c)",
    "shift-zero": f"(%x: u32[3]) {{ {constant('c', 1, 'u32[3]')} %0: u32[3] = shift_left(%x, %c)",
    "abs-neg": "(%x: u8[3]) { %1: u8[3] = neg(%x)\n %0: u8[3] = abs(%1)",
    "maximum-neg": "(%x: u8[3]) { %1: u8[3] = neg(%x)\n %0: u8[3] = maximum(%x, %1)",
    "binary-of-broadcasts": """(%x: f32[1,3], %y: f32[2,3]) {
        %1: f32[2,2,3] = broadcast[shape=(2, 2, 3), axes=(1, 2)](%x)
        %2: f32[2,2,3] = broadcast[shape=(2, 2, 3), axes=(1, 2)](%y)
        %0: f32[2,2,3] = mul(%1, %2)""",
    "broadcast-and-number": f"""(%x: f32[3]) {{ {constant('a', 2.0, 'f32[3]')}
        {constant('b', 3.0, 'f32[3]')} %0: f32[3] = sub(%a, %b)""",
    "slice-slice": """(%x: f32[N]) {
        %1: f32[N-1] = slice[starts=(1,), limits=(N,), strides=(1,)](%x)
        %0: f32[N-2] = slice[starts=(0,), limits=(N-2,), strides=(1,)](%1)""",
    "matmul-transposed-b": """(%a: f32[2,5,4], %b: f32[4,2,3]) {
        %1: f32[2,4,3] = transpose[permutation=(1, 0, 2)](%b)
        %0: f32[2,5,3] = matmul(%a, %1)""",
    "transposed-matmul": """(%a: f32[2,5,4], %b: f32[2,4,3]) {
        %1: f32[2,5,3] = matmul[transpose_a=False, transpose_b=False](%a, %b)
        %0: f32[5,2,3] = transpose[permutation=(1, 0, 2)](%1)""",
    "pad-conv-kernel-grad": """(%x: f32[1,3,1], %dy: f32[1,4,1]) {
        %1: f32[1,5,1] = pad[low=(0, 1, 0), high=(0, 1, 0), interior=(0, 0, 0), value=2.0](%x)
        %0: f32[2,1,1] = conv_kernel_grad[kernel_shape=(2, 1, 1), strides=(1,), padding=((0, 0),), \
            input_dilation=(1,), kernel_dilation=(1,), groups=1](%1, %dy)""",
    "unary-of-reshape": """(%x: f32[2,3]) {
        %1: f32[2,3] = reshape[shape=(2, 3)](%x)
        %0: f32[2,3] = exp(%1)""",
    "transpose-and-broadcast": f"""(%x: f32[4,3]) {{
        %1: f32[3,4] = transpose[permutation=(1, 0)](%x)
        {constant('c', 3.0, 'f32[3, 4]')}
        %0: f32[3,4] = sub(%1, %c)""",
}  # fmt: skip
"""Programs that a rule's condition alone keeps out, where that of the golden fails otherwise."""


def program(name: str) -> Graph:
    """A program that a rule must leave alone."""
    if name not in CONDITIONS:
        return parse(read(name).stays)
    text = CONDITIONS[name].replace("\\\n", "").replace(" {", " {\n").replace(" %0:", "\n %0:")
    return parse(f"graph g{text}\nreturn y=%0\n}}")


@pytest.mark.parametrize("name", [n for n, rule in BY_NAME.items() if rule.where is not None])
def test_a_condition_left_out_is_noticed(name):
    """The rule keeps away, and without its condition it fires where it must not."""
    graph = program(name)
    assert not Simplify((BY_NAME[name],)).rewrite(graph)[1].fired
    rule = dataclasses.replace(BY_NAME[name], where=None)
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # then it is refused
        assert Simplify((rule,)).rewrite(graph)[1].fired[name]
