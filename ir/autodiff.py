"""Differentiation, graph to graph, backward and forward; derivatives are made of ordinary nodes.

Backward, each op's vjp rule takes the cotangents of its outputs to those of its operands.
Forward, its jvp rule takes the tangents of its operands to those of its outputs; an op that has
none gets it from its vjp, which is linear in the cotangent and whose transpose is the jvp.

Since a derivative is made of the same ops as everything else, it can be differentiated again, in
either direction. Only nodes on a path from `wrt` to the outputs are visited, so a frozen weight
costs nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from . import sugar
from .builder import Builder, current
from .errors import GradientError, ShapeError
from .graph import Graph, Node, Source, Value, reachable
from .op import Reason


def gradients(
    output: Value, wrt: Sequence[Value], cotangent: Value | None = None
) -> list[Value | None]:
    """Derivatives of `output` with respect to each of `wrt`, emitted into the current builder.

    Parameters
    ----------
    output : Value
        A floating-point scalar, or any floating-point tensor if `cotangent` is given.
    wrt : sequence of Value
        Values that `output` was computed from.
    cotangent : Value, optional
        What flows into `output`, of its type; 1 by default.

    Returns
    -------
    list of Value or None
        Each of the type of its `wrt`; None where `output` does not depend on it.

    Raises
    ------
    GradientError
        If the output is not floating point, or an op on the way has no derivative.
    ShapeError
        If `output` is no scalar and no cotangent is given.
    """
    if not output.dtype.is_float:
        raise GradientError(f"gradients: output must be floating point, got {output.type}")
    if cotangent is None:
        if output.shape != ():
            raise ShapeError(f"gradients: output must be a scalar, got {output.type}")
        cotangent = sugar.value(1, output.dtype)
    elif cotangent.type != output.type:
        raise ShapeError(f"gradients: cotangent must be {output.type}, got {cotangent.type}")
    return pullback([output], wrt, [cotangent])


def pullback(
    outputs: Sequence[Value], wrt: Sequence[Value], cotangents: Sequence[Value | None]
) -> list[Value | None]:
    """What flows into `wrt` when `cotangents` flow into `outputs`; None where nothing does.

    A cotangent is of the type of its output; None stands for zero.
    """
    incoming: dict[Value, Value] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if cotangent is not None:
            _require_type("pullback", "cotangent", cotangent, output)
            _accumulate(incoming, output, cotangent)
    _backward(reachable(list(incoming)), wrt, incoming)
    return [incoming.get(v) for v in wrt]


def jvp(
    outputs: Sequence[Value], wrt: Sequence[Value], tangents: Sequence[Value | None]
) -> list[Value | None]:
    """The derivative of `outputs` when `wrt` move in the direction of `tangents`.

    Parameters
    ----------
    outputs : sequence of Value
    wrt : sequence of Value
        Values that the outputs were computed from.
    tangents : sequence of Value or None
        One for each of `wrt`, of its type; None is zero.

    Returns
    -------
    list of Value or None
        Each of the type of its output; None where it does not change in that direction.

    Raises
    ------
    GradientError
        If one of `wrt` with a tangent is not floating point, or an op on the way has no
        derivative.
    ShapeError
        If a tangent is not of the type of its `wrt`.
    """
    known: dict[Value, Value] = {}
    for v, tangent in zip(wrt, tangents, strict=True):
        if tangent is not None:
            _require_type("jvp", "tangent", tangent, v)
            known[v] = tangent
    given = set(wrt)
    nodes, _ = active_nodes(outputs, list(known))
    for node in nodes:
        for v, tangent in zip(node.outputs, _node_jvp(node, known), strict=True):
            if tangent is not None and v not in given:
                assert tangent.type == v.type, (node, v.type, tangent.type)
                known[v] = tangent
    return [known.get(v) for v in outputs]


def _require_type(name: str, what: str, given: Value, v: Value) -> None:
    """Refuse a tangent or cotangent that is not of the type of its value."""
    if not v.dtype.is_float:
        raise GradientError(f"{name}: only floating-point values have a {what}, got {v.type}")
    if given.type != v.type:
        raise ShapeError(f"{name}: the {what} must be {v.type}, got {given.type}")


def gradient_graph(graph: Graph, wrt: Sequence[str], output: str | None = None) -> Graph:
    """A graph that returns what `graph` returns and the gradients of one scalar output.

    Parameters
    ----------
    wrt : sequence of str
        Names of inputs or state.
    output : str, optional
        Name of the output to differentiate; the first by default.

    Returns
    -------
    Graph
        With additional outputs `grad/<name>`.
    """
    index = graph.output_names.index(output) if output else 0
    values = [graph.named(name) for name in wrt]
    with Builder(f"{graph.name}_grad"):
        grads = gradients(graph.outputs[index], values)
        outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
        for name, v, g in zip(wrt, values, grads, strict=True):
            outputs[f"grad/{name}"] = sugar.zeros_like(v) if g is None else g
    return Graph.make(f"{graph.name}_grad", graph.inputs, graph.state, outputs, graph.updates)


def active_nodes(outputs: Sequence[Value], wrt: Sequence[Value]) -> tuple[list[Node], set[Value]]:
    """The nodes through which outputs depend differentiably on `wrt`, in running order.

    With them `wrt` and the values that they compute: those which a derivative is wanted of.
    """
    return _active(reachable(outputs), wrt)


def _active(nodes: Iterable[Node], wrt: Iterable[Value]) -> tuple[list[Node], set[Value]]:
    active = set(wrt)
    found = []
    for node in nodes:
        if any(v in active for v in node.inputs):
            floating = [v for v in node.outputs if v.dtype.is_float]
            active.update(floating)
            if floating:
                found.append(node)
    return found, active


def _accumulate(sums: dict[Value, Value], key: Value, term: Value) -> None:
    known = sums.get(key)
    sums[key] = term if known is None else known + term


# --- backward --------------------------------------------------------------------------------


def _backward(nodes: Iterable[Node], wrt: Sequence[Value], incoming: dict[Value, Value]) -> None:
    """Carry the cotangents of `incoming` through the nodes, which are in running order."""
    visited, active = _active(nodes, wrt)
    for node in reversed(visited):
        cotangents = [incoming.get(v) for v in node.outputs]
        if all(c is None for c in cotangents):
            continue
        with _at(node, "grad"):
            shares = _shares(node, cotangents, active)
            for operand, share in zip(node.inputs, shares, strict=True):
                if share is None or operand not in active:
                    continue
                if isinstance(share, Reason):
                    raise _no_gradient(node, share)
                assert share.type == operand.type, (node, operand.type, share)
                _accumulate(incoming, operand, share)


def _shares(
    node: Node, cotangents: Sequence[Value | None], active: Container[Value]
) -> Sequence[Value | Reason | None]:
    """What the op's vjp rule gives for each operand; what is not `active` is not used."""
    if isinstance(node.op.vjp, Reason):
        raise _no_gradient(node, node.op.vjp)
    single = len(node.outputs) == 1
    wanted = {}
    if node.op.kind == "region":  # a body is differentiated for what is wanted alone
        wanted["wanted"] = tuple(v in active for v in node.inputs)
    return node.op.vjp(
        cotangents[0] if single else tuple(cotangents),
        *node.inputs,
        out=node.output if single else node.outputs,
        **node.attrs,
        **wanted,
    )


def _at(node: Node, suffix: str) -> AbstractContextManager[None]:
    """Inside, nodes belong to the derivative of `node`."""
    return _builder().at(Source(f"{node.source.layer}/{suffix}".lstrip("/"), node.source.line))


def _builder() -> Builder:
    builder = current()
    assert builder is not None, "derivatives need a builder to emit into"
    return builder


def _no_gradient(node: Node, reason: Reason) -> GradientError:
    text = f"{node.op.name}: has no gradient: {reason.text}"
    return GradientError(text, where=node.source.where)


# --- forward ---------------------------------------------------------------------------------


def _node_jvp(node: Node, known: Mapping[Value, Value]) -> Sequence[Value | None]:
    """The tangents of a node's outputs."""
    tangents = tuple(known.get(v) for v in node.inputs)
    if all(t is None for t in tangents):
        return [None] * len(node.outputs)
    with _at(node, "tangent"):
        if node.op.jvp is not None:
            out = node.output if len(node.outputs) == 1 else node.outputs
            return node.op.jvp(tangents, *node.inputs, out=out, **node.attrs)
        if node.op.kind == "elementwise" and all(
            t is None or t.type == node.output.type for t in tangents
        ):
            return [_elementwise_jvp(node, tangents)]
        return _transposed_vjp(node, tangents)


def _elementwise_jvp(node: Node, tangents: Sequence[Value | None]) -> Value | None:
    """The Jacobian by each operand is diagonal and so its own transpose."""
    total: Value | None = None
    for i, tangent in enumerate(tangents):
        if tangent is not None:
            term = _shares(node, [tangent], {node.inputs[i]})[i]
            if isinstance(term, Reason):
                raise _no_gradient(node, term)
            if term is not None:
                total = term if total is None else total + term
    return total


def _transposed_vjp(node: Node, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The vjp of a node as a function of its cotangents alone, differentiated by them.

    With `vjp(u) = J^T u` and tangents `t`, the gradient of `<t, J^T u>` by u is `J t`.
    """
    moved = {v for v, t in zip(node.inputs, tangents, strict=True) if t is not None}
    unknown = [Value(v.type, name="cotangent") if v.dtype.is_float else None for v in node.outputs]
    arguments = [u for u in unknown if u is not None]
    with _builder().record() as made:
        shares = _shares(node, unknown, moved)
        incoming: dict[Value, Value] = {}
        for share, tangent in zip(shares, tangents, strict=True):
            if share is None or tangent is None:
                continue
            if isinstance(share, Reason):
                raise _no_gradient(node, share)
            _accumulate(incoming, share, tangent)
        _backward(tuple(made), arguments, incoming)
    found = [None if u is None else incoming.get(u) for u in unknown]
    if _computed_from(arguments, made).intersection(v for v in found if v is not None):
        raise GradientError(
            f"{node.op.name}: has no forward mode: its gradient is not linear in the cotangent",
            where=node.source.where,
            hint="differentiate backwards: grad or vjp, for second derivatives twice",
        )
    return found


def _computed_from(values: Iterable[Value], nodes: Iterable[Node]) -> set[Value]:
    """The values, and those that the nodes, which are in running order, compute from them."""
    found = set(values)
    for node in nodes:
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found
