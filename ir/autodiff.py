"""Reverse-mode differentiation, graph to graph: vjp rules emit ordinary nodes.

Since a gradient is made of the same ops as everything else, it can be differentiated again.
Only nodes on a path from `wrt` to the output are visited, so a frozen weight costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import sugar
from .builder import current
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
            known = incoming.get(output)
            incoming[output] = cotangent if known is None else known + cotangent
    nodes, active = active_nodes(list(incoming), wrt)
    for node in reversed(nodes):
        for operand, contribution in _node_vjp(node, incoming, active):
            known = incoming.get(operand)
            incoming[operand] = contribution if known is None else known + contribution
    return [incoming.get(v) for v in wrt]


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
    from .builder import Builder

    index = graph.output_names.index(output) if output else 0
    values = [graph.named(name) for name in wrt]
    with Builder(f"{graph.name}_grad"):
        grads = gradients(graph.outputs[index], values)
        outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
        for name, v, g in zip(wrt, values, grads, strict=True):
            outputs[f"grad/{name}"] = sugar.zeros_like(v) if g is None else g
    return Graph.make(f"{graph.name}_grad", graph.inputs, graph.state, outputs, graph.updates)


def active_nodes(
    outputs: Sequence[Value], wrt: Sequence[Value]
) -> tuple[list[Node], set[Value]]:
    """The nodes through which outputs depend differentiably on `wrt`, in running order.

    With them `wrt` and the values that they compute: those which a derivative is wanted of.
    """
    active = set(wrt)
    nodes = []
    for node in reachable(outputs):
        if any(v in active for v in node.inputs):
            floating = [v for v in node.outputs if v.dtype.is_float]
            active.update(floating)
            if floating:
                nodes.append(node)
    return nodes, active


def _node_vjp(
    node: Node, incoming: dict[Value, Value], active: set[Value]
) -> list[tuple[Value, Value]]:
    """Pairs of an operand and its share of the cotangent."""
    cotangents = [incoming.get(v) for v in node.outputs]
    if all(c is None for c in cotangents):
        return []
    if isinstance(node.op.vjp, Reason):
        raise GradientError(f"{node.op.name}: has no gradient: {node.op.vjp.text}",
                            where=node.source.where)  # fmt: skip
    single = len(node.outputs) == 1
    builder = current()
    assert builder is not None
    source = Source(f"{node.source.layer}/grad".lstrip("/"), node.source.line)
    wanted = {}
    if node.op.kind == "region":  # a body is differentiated for what is wanted alone
        wanted["wanted"] = tuple(v in active for v in node.inputs)
    with builder.at(source):
        shares = node.op.vjp(
            cotangents[0] if single else tuple(cotangents),
            *node.inputs,
            out=node.output if single else node.outputs,
            **node.attrs,
            **wanted,
        )
    pairs = list(zip(node.inputs, shares, strict=True))
    for operand, share in pairs:
        assert share is None or share.type == operand.type, (node, operand.type, share)
    return [(v, c) for v, c in pairs if c is not None]
