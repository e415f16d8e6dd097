"""Shrinking: a failing graph -> a small one that fails in the same way.

    y0 = tanh(conv(x, w)) ... 120 nodes, 9 outputs          ->          y0 = reverse(x), 1 node

Changes are tried as long as the failure stays: fewer outputs and updates, nodes replaced by new
inputs, by an operand or by zeros, smaller sizes, simpler attributes, f32 instead of other
floats, one run instead of three.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.builder import Builder, emit
from ..ir.errors import HornfelsError
from ..ir.graph import Graph, Node, Source, Value, is_among
from ..ir.op import get
from ..ir.sugar import full
from ..ir.text import parse
from ..ir.types import DType, TensorType, f32

Fails = Callable[[Graph, int], bool]
"""Whether a graph still fails when it runs so many times."""


@dataclass
class Shrunk:
    """A graph that fails, and how much was tried."""

    graph: Graph
    steps: int
    tried: int = 0


def shrink(graph: Graph, steps: int, fails: Fails, seconds: float = 120.0) -> Shrunk:
    """Make a failing graph small.

    Parameters
    ----------
    graph : Graph
        Of fixed sizes; it fails.
    steps : int
        How often it runs.
    fails : callable
        The question, which may take long.
    seconds : float
        When to stop.
    """
    result = Shrunk(graph, steps)
    end = time.monotonic() + seconds
    if steps > 1 and _still(fails, graph, 1):
        result.steps = 1
    changed = True
    while changed and time.monotonic() < end:
        changed = False
        for simplification in _SIMPLIFICATIONS:
            while time.monotonic() < end:
                smaller = _first(simplification, result, fails, end)
                if smaller is None:
                    break
                result.graph, changed = smaller, True
    return result


def _first(
    simplification: Callable[[Graph], Iterator[Graph]], result: Shrunk, fails: Fails, end: float
) -> Graph | None:
    """The first simpler graph that still fails."""
    size = weight(result.graph)
    for candidate in simplification(result.graph):
        if time.monotonic() > end:
            return None
        if weight(candidate) >= size:
            continue
        result.tried += 1
        if _still(fails, candidate, result.steps):
            return candidate
    return None


def _still(fails: Fails, graph: Graph, steps: int) -> bool:
    """Ask about the graph as its text gives it, which is what is kept."""
    try:
        return fails(parse(str(graph)), steps)
    except HornfelsError:
        return False


def weight(graph: Graph) -> tuple[int, int, int, int]:
    """What shrinking makes less: nodes, results, elements and then the length of the text."""
    elements = sum(int(v.type.size) for v in graph.parameters)
    elements += sum(int(v.type.size) for n in graph.nodes for v in n.outputs)
    nodes = sum(1 + sum(len(r.nodes) for r in n.regions.values()) for n in graph.nodes)
    return nodes, len(graph.results), elements, len(str(graph))


# --- rebuilding ------------------------------------------------------------------------------


def _make(
    graph: Graph, outputs: Mapping[str, Value], updates: Sequence[tuple[Value, Value]]
) -> Graph:
    """A graph of these results, without parameters that nothing reads."""
    updates = [(old, new) for old, new in updates if old is not new]
    made = Graph.make(graph.name, graph.inputs, graph.state, outputs, updates)
    used = {v for n in made.nodes for v in n.inputs} | set(made.results)
    used |= {old for old, _ in updates}
    return Graph.make(
        graph.name, [v for v in graph.inputs if v in used],
        [v for v in graph.state if v in used], outputs, updates,
    )  # fmt: skip


def _replaced(graph: Graph, changes: Mapping[Value, Value], inputs: Sequence[Value] = ()) -> Graph:
    """The graph with values replaced by values of the same type."""
    with Builder(graph.name) as builder, builder.at(Source()):
        found: dict[Value, Value] = dict(changes)
        for node in graph.nodes:
            if all(v in changes for v in node.outputs):
                continue
            operands = [found.get(v, v) for v in node.inputs]
            outputs = node.outputs
            if any(a is not b for a, b in zip(operands, node.inputs, strict=True)):
                outputs = emit(node.op, operands, node.attrs)
            for old, new in zip(node.outputs, outputs, strict=True):
                found.setdefault(old, new)
    outputs_by_name = {
        n: found.get(v, v) for n, v in zip(graph.output_names, graph.outputs, strict=True)
    }
    whole = Graph(graph.name, (*graph.inputs, *inputs), graph.state, (), graph.outputs,
                  graph.output_names, ())  # fmt: skip
    updates = [(old, found.get(new, new)) for old, new in graph.updates]
    return _make(whole, outputs_by_name, updates)


def _reinferred(
    graph: Graph, change: Callable[[TensorType], TensorType], attrs: Callable[[Node], Any]
) -> Graph | None:
    """The graph with changed parameters and attributes, types inferred anew; None if illegal."""
    found = {v: Value(change(v.type), name=v.name) for v in graph.parameters}
    try:
        with Builder(graph.name) as builder, builder.at(Source()):
            for node in graph.nodes:
                operands = [found[v] for v in node.inputs]
                outputs = emit(node.op, operands, attrs(node))
                found.update(zip(node.outputs, outputs, strict=True))
    except (HornfelsError, IndexError, ValueError, TypeError, ZeroDivisionError, AssertionError):
        return None
    if any(found[old].type != found[new].type for old, new in graph.updates):
        return None
    return Graph.make(
        graph.name, [found[v] for v in graph.inputs], [found[v] for v in graph.state],
        {n: found[v] for n, v in zip(graph.output_names, graph.outputs, strict=True)},
        [(found[old], found[new]) for old, new in graph.updates],
    )  # fmt: skip


# --- simplifications -------------------------------------------------------------------------


def _fewer_results(graph: Graph) -> Iterator[Graph]:
    """Halves of the results, quarters, and all but one."""
    outputs = list(zip(graph.output_names, graph.outputs, strict=True))
    results: list[Any] = [*outputs, *graph.updates]
    for kept in _subsets(results):
        updates = [r for r in kept if isinstance(r[0], Value)]
        names = {r[0]: r[1] for r in kept if not isinstance(r[0], Value)}
        yield _make(graph, names, updates)


def _subsets(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Ever larger parts, then what is left without such a part."""
    count = len(items)
    pieces = 2
    while count > 1:
        size = max(1, count // pieces)
        starts = range(0, count, size)
        for start in starts:
            yield list(items[start : start + size])
        for start in starts:
            yield [*items[:start], *items[start + size :]]
        if size == 1:
            return
        pieces *= 2


def _inner_results(graph: Graph) -> Iterator[Graph]:
    """A value in the middle as the only result."""
    for node in graph.nodes:
        for value in node.outputs:
            if not is_among(value, graph.results):
                yield _make(graph, {"y": value}, ())


def _cut_nodes(graph: Graph) -> Iterator[Graph]:
    """Nodes become inputs, the last first, so that all before them goes; operands and zeros too."""
    names = {v.name for v in graph.parameters}
    number = next(i for i in range(len(names) + 1) if f"x{i}" not in names)
    for node in reversed(graph.nodes):
        if node.op.name == "constant":
            continue
        fresh = [Value(v.type, name=f"x{number + 100 * i}") for i, v in enumerate(node.outputs)]
        if all(v.name not in names for v in fresh):
            yield _replaced(graph, dict(zip(node.outputs, fresh, strict=True)), fresh)
    for node in reversed(graph.nodes):
        if len(node.outputs) != 1 or node.op.name == "constant":
            continue
        (out,) = node.outputs
        for operand in dict.fromkeys(node.inputs):
            if operand.type == out.type:
                yield _replaced(graph, {out: operand})


def _constants(graph: Graph) -> Iterator[Graph]:
    """Constants and parameters become repeated ones."""
    for node in graph.nodes:
        if node.op.name == "constant" and node.output.ndim:
            yield from _as_numbers(graph, node.output)
    for value in graph.inputs:
        yield from _as_numbers(graph, value)


def _as_numbers(graph: Graph, value: Value) -> Iterator[Graph]:
    for number in (1, 0):
        with Builder(graph.name) as builder, builder.at(Source()):
            constant = full(value.shape, value.dtype.numpy.type(number), value.dtype)
        yield _replaced(graph, {value: constant})


def _state_as_inputs(graph: Graph) -> Iterator[Graph]:
    """State that is not updated becomes an input."""
    updated = {old for old, _ in graph.updates}
    kept = tuple(v for v in graph.state if v in updated)
    if len(kept) < len(graph.state):
        free = tuple(v for v in graph.state if v not in updated)
        yield Graph(graph.name, (*graph.inputs, *free), kept, graph.nodes, graph.outputs,
                    graph.output_names, graph.updates)  # fmt: skip


def _smaller_sizes(graph: Graph) -> Iterator[Graph]:
    """All sizes that are equal become smaller at once."""
    values = [*graph.parameters, *(v for n in graph.nodes for v in n.outputs)]
    sizes = sorted({int(d) for v in values for d in v.shape}, reverse=True)
    for size in sizes:
        for new in dict.fromkeys((1, 2, size // 2, size - 1)):
            if not 0 < new < size:
                continue

            def resized(item: Any, old: int = size, to: int = new) -> Any:
                if isinstance(item, tuple):
                    return tuple(resized(i) for i in item)
                return to if item == old and not isinstance(item, bool) else item

            def change(type: TensorType) -> TensorType:
                return type.with_shape(resized(type.shape))

            def attrs(node: Node) -> dict[str, Any]:
                return {k: resized(v) if isinstance(v, tuple) else v for k, v in node.attrs.items()}

            changed = _reinferred(graph, change, attrs)
            if changed is not None:
                yield changed


def _fewer_dimensions(graph: Graph) -> Iterator[Graph]:
    """One parameter smaller along one axis, as far as the types still fit."""
    for parameter in graph.parameters:
        for axis in range(parameter.ndim):
            size = int(parameter.shape[axis])
            for new in dict.fromkeys((1, size // 2, size - 1)):
                if 0 < new < size:
                    shape = (*parameter.shape[:axis], new, *parameter.shape[axis + 1 :])
                    wanted = parameter.type.with_shape(shape)
                    yield from _with_type(graph, parameter, wanted)


def _with_type(graph: Graph, parameter: Value, wanted: TensorType) -> Iterator[Graph]:
    renamed = Value(wanted, name=parameter.name)
    if renamed.type == parameter.type:
        return
    others = {v: v.type for v in graph.parameters} | {parameter: wanted}
    queue = [others[v] for v in graph.parameters]
    types = iter(queue)
    changed = _reinferred(graph, lambda _: next(types), lambda node: dict(node.attrs))
    if changed is not None:
        yield changed


def _plain_floats(graph: Graph) -> Iterator[Graph]:
    """Other floating-point dtypes become f32."""
    values = [*graph.parameters, *(v for n in graph.nodes for v in n.outputs)]
    for dtype in {v.dtype for v in values if v.dtype.is_float and v.dtype != f32}:

        def dtyped(item: Any, old: DType = dtype) -> Any:
            return f32 if item == old else item

        def change(type: TensorType) -> TensorType:
            return type.with_dtype(dtyped(type.dtype))

        def attrs(node: Node) -> dict[str, Any]:
            found = {k: dtyped(v) if isinstance(v, DType) else v for k, v in node.attrs.items()}
            if node.op.name == "constant" and node.output.dtype != change(node.output.type).dtype:
                found["value"] = node.attrs["value"].astype(f32.numpy)
            return found

        changed = _reinferred(graph, change, attrs)
        if changed is not None:
            yield changed


def _simple_attributes(graph: Graph) -> Iterator[Graph]:
    """One attribute of one node nearer to 0, 1 or False."""
    for node in graph.nodes:
        if node.op.name in ("constant", "broadcast", "reshape"):
            continue
        for name, attribute in node.attrs.items():
            for simpler in _simpler(attribute):

                def attrs(each: Node, at: Node = node, name: str = name, to: Any = simpler) -> Any:
                    return {**each.attrs, name: to} if each is at else dict(each.attrs)

                changed = _reinferred(graph, lambda type: type, attrs)
                if changed is not None:
                    yield changed


def _simpler(attribute: Any) -> Iterator[Any]:
    if isinstance(attribute, bool):
        if attribute:
            yield False
    elif isinstance(attribute, int | float):
        yield from (type(attribute)(n) for n in (0, 1) if abs(n) < abs(attribute))
    elif isinstance(attribute, tuple):
        for i, item in enumerate(attribute):
            for simpler in _simpler(item):
                yield (*attribute[:i], simpler, *attribute[i + 1 :])
    elif isinstance(attribute, Graph):
        for simplification in (_cut_in_body,):
            yield from simplification(attribute)


def _cut_in_body(body: Graph) -> Iterator[Graph]:
    """A body with one node less."""
    for node in reversed(body.nodes):
        if len(node.outputs) != 1:
            continue
        (out,) = node.outputs
        for other in [*node.inputs, *body.inputs]:
            if other.type == out.type:
                yield _body(body, _replaced(body, {out: other}))
        with Builder(body.name) as builder, builder.at(Source()):
            zeros = full(out.shape, out.dtype.numpy.type(0), out.dtype)
        if node.op.name not in ("constant", "broadcast"):
            yield _body(body, _replaced(body, {out: zeros}))


def _body(body: Graph, changed: Graph) -> Graph:
    """A changed body with all inputs, read or not."""
    return Graph(changed.name, body.inputs, (), changed.nodes, changed.outputs,
                 changed.output_names, ())  # fmt: skip


def _plain_nodes(graph: Graph) -> Iterator[Graph]:
    """Every node of one operand that keeps its type becomes `neg`, which is easier to read."""
    for node in graph.nodes:
        if len(node.inputs) == 1 and len(node.outputs) == 1 and node.op.name != "neg":
            (x,), (y,) = node.inputs, node.outputs
            if x.type == y.type and x.dtype.is_float:
                with Builder(graph.name) as builder, builder.at(Source()):
                    plain = get("neg")(x)
                yield _replaced(graph, {y: plain})


_SIMPLIFICATIONS = (
    _fewer_results, _inner_results, _cut_nodes, _state_as_inputs, _constants, _smaller_sizes,
    _fewer_dimensions, _simple_attributes, _plain_floats, _plain_nodes,
)  # fmt: skip
