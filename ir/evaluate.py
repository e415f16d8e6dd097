"""evaluate: run a graph op by op with the NumPy oracles; what every backend is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from .errors import DTypeError, ShapeError
from .graph import Graph, Node, Value
from .types import Dim, Size, TensorType, type_of

Apply = Callable[[Node, Sequence[np.ndarray]], Sequence[np.ndarray]]
"""Computes a node's outputs from its operands' arrays."""


def oracle(node: Node, operands: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """What a node computes, by its op's own definition."""
    return node.op.evaluate(*operands, **node.attrs)


_apply: ContextVar[Apply] = ContextVar("hornfels_apply", default=oracle)


@contextmanager
def applying(apply: Apply) -> Iterator[None]:
    """Inside, `evaluate` computes every node by `apply`, also in the bodies of control flow."""
    token = _apply.set(apply)
    try:
        yield
    finally:
        _apply.reset(token)


@dataclass(frozen=True)
class Evaluation:
    """What a run gives: `outputs` and `updates` by name."""

    outputs: dict[str, np.ndarray]
    updates: dict[str, np.ndarray]


def evaluate(graph: Graph, arrays: Mapping[str, np.ndarray]) -> Evaluation:
    """Run a graph.

    Parameters
    ----------
    arrays : mapping of str to array
        One for every input and state, of its dtype and shape; symbolic dimensions take the size
        that the arrays show.

    Raises
    ------
    ShapeError, DTypeError
        If an array is missing or does not fit.
    """
    bindings = bind(graph, arrays)
    graph = graph.specialize(bindings)
    values = _run(graph, [np.asarray(arrays[v.name]) for v in graph.parameters])
    return Evaluation(
        {n: values[v] for n, v in zip(graph.output_names, graph.outputs, strict=True)},
        {old.name: values[new] for old, new in graph.updates},
    )


def run_region(region: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a body of control flow, of fixed sizes, on arrays for its inputs."""
    values = _run(region, arrays)
    return [values[v] for v in region.outputs]


def _run(graph: Graph, arrays: Sequence[np.ndarray]) -> dict[Value, np.ndarray]:
    """The results' arrays, and some of the others'."""
    values: dict[Value, np.ndarray] = dict(zip(graph.parameters, arrays, strict=True))
    last_use = {v: node for node in graph.nodes for v in node.inputs}
    keep, apply = set(graph.results), _apply.get()
    for node in graph.nodes:
        outputs = apply(node, [values[v] for v in node.inputs])
        for v, array in zip(node.outputs, outputs, strict=True):
            values[v] = array
        for v in node.inputs:  # free what nobody reads again
            if last_use[v] is node and v not in keep and v.node is not None:
                values.pop(v, None)
    return values


def bind(graph: Graph, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Check the arrays against the parameters' types and read the symbols' sizes off them."""
    bindings: dict[str, int] = {}
    for v in graph.parameters:
        if v.name not in arrays:
            raise ShapeError(f"graph {graph.name}: no array is given for %{v.name}: {v.type}")
        match_type(v.name, v.type, type_of(np.asarray(arrays[v.name])), bindings)
    for v in graph.parameters:  # compound sizes such as 2*N, once all symbols are known
        expected = v.type.substitute(bindings)
        got = type_of(np.asarray(arrays[v.name]))
        if expected != got:
            raise ShapeError(f"{v.name} must be {expected}, got {got}")
    return bindings


def match_type(name: str, expected: TensorType, got: TensorType, bindings: dict[str, int]) -> None:
    """Require that `got` fits `expected`; plain symbols are added to `bindings`."""
    if got.dtype != expected.dtype:
        raise DTypeError(f"{name} must be {expected}, got {got}")
    if got.ndim != expected.ndim:
        raise ShapeError(f"{name} must be {expected}, got {got}")
    for want, size in zip(expected.shape, got.shape, strict=True):
        if not _size_fits(want, int(size), bindings):
            raise ShapeError(f"{name} must be {expected}, got {got}")


def _size_fits(want: Size, size: int, bindings: dict[str, int]) -> bool:
    if isinstance(want, int):
        return want == size
    if isinstance(want, Dim) and len(want.terms) == 1 and want.terms[0] == ((str(want),), 1):
        return bindings.setdefault(str(want), size) == size
    return True  # compound: checked by the caller once the symbols are bound
