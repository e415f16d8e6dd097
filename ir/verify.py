"""verify: the rules that every graph keeps, checked between passes."""

from __future__ import annotations

import re
from typing import Any

from .errors import HornfelsError, VerifyError
from .graph import Graph, Node, Value
from .op import REGISTRY


def verify(graph: Graph, *, types: bool = True) -> Graph:
    """Check a graph and return it.

    Parameters
    ----------
    types : bool
        Infer the type of every value again. A node infers its types when it is made, so this
        finds only what was changed behind its back.

    Raises
    ------
    VerifyError
        If a value is used before it is defined, a type is not what its op infers, names clash,
        or an update does not keep the type of its state.
    """
    _check_names(graph)
    for node in graph.nodes:
        for region in node.regions.values():
            verify(region, types=types)
    defined = set(graph.parameters)
    for node in graph.nodes:
        _check_node(graph, node, defined)
        if types:
            _check_types(graph, node)
        defined.update(node.outputs)
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        if value not in defined:
            raise VerifyError(f"graph {graph.name}: output {name!r} is not defined in it")
    _check_updates(graph, defined)
    return graph


def _check_names(graph: Graph) -> None:
    seen: set[str] = set()
    for value in graph.parameters:
        if not re.fullmatch(r"[\w./:\-]+", value.name) or value.name.isdigit():
            raise VerifyError(f"graph {graph.name}: {value.name!r} cannot name a parameter")
        if value.name in seen:
            raise VerifyError(f"graph {graph.name}: two parameters are named {value.name!r}")
        if value.node is not None:
            raise VerifyError(f"graph {graph.name}: parameter {value.name!r} is computed")
        seen.add(value.name)
    if len(set(graph.output_names)) != len(graph.output_names):
        raise VerifyError(f"graph {graph.name}: output names must differ: {graph.output_names}")


def _check_node(graph: Graph, node: Node, defined: set[Value]) -> None:
    name = node.op.name
    if REGISTRY.get(name) is not node.op:
        raise VerifyError(f"graph {graph.name}: {name!r} is not a registered op")
    for position, value in enumerate(node.inputs):
        if value not in defined:
            raise VerifyError(f"{name}: operand {position} ({value.type}) is used before it is "
                              "defined", where=node.source.where)  # fmt: skip


def _check_types(graph: Graph, node: Node) -> None:
    name = node.op.name
    try:
        inferred: tuple[Any, ...] = node.op.infer(*(v.type for v in node.inputs), **node.attrs)
    except HornfelsError as error:
        raise VerifyError(error.message, where=node.source.where) from error
    found = tuple(v.type for v in node.outputs)
    if inferred != found:
        raise VerifyError(f"{name}: outputs must be {inferred}, got {found}",
                          where=node.source.where)  # fmt: skip


def _check_updates(graph: Graph, defined: set[Value]) -> None:
    state, seen = set(graph.state), set[Value]()
    for old, new in graph.updates:
        if old not in state:
            raise VerifyError(f"graph {graph.name}: {old.name or old!r} is updated but no state")
        if old in seen:
            raise VerifyError(f"graph {graph.name}: state {old.name!r} is updated twice")
        if new not in defined:
            raise VerifyError(f"graph {graph.name}: the update of {old.name!r} is not defined")
        if new.type != old.type:
            raise VerifyError(f"graph {graph.name}: state {old.name!r} is {old.type}, "
                              f"its update {new.type}")  # fmt: skip
        seen.add(old)
