"""Tracing the bodies of control flow: Python functions become closed graphs.

A body may read values of the trace around it, and variables: both become operands of the region's
node. A variable that it assigns to becomes a result of the body too, which the caller hands on
from step to step, or chooses between branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.builder import constant, current
from ..ir.graph import Graph, Node, Value, is_among, outline
from ..ir.op import Op
from ..ir.types import TensorType
from . import tree
from .trace import Trace
from .variable import Variable


class RegionTrace(Trace):
    """Collects the nodes of a body.

    Attributes
    ----------
    parameters : list of Value
        Its own inputs, in order.
    result
        What the function returned.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.outer = current()
        self._own: set[Node] = set()
        self.result: Any = None
        if self.outer is not None:
            self._layers = [*self.outer._layers]

    @staticmethod
    def of(name: str, function: Callable[..., Any], *arguments: Any) -> RegionTrace:
        """The trace of a function on nests of types (or None), which become inputs."""
        trace = RegionTrace(name)

        def parameter(leaf: Any) -> Any:
            if not isinstance(leaf, TensorType):
                return leaf
            return trace.input(f"{name}{len(trace.inputs)}", leaf)

        with trace:
            values = [tree.map_structure(parameter, argument) for argument in arguments]
            trace.result = function(*values)
        return trace

    def emit(
        self, op: Op, operands: Sequence[Value], attrs: Mapping[str, Any]
    ) -> tuple[Value, ...]:
        outputs = super().emit(op, operands, attrs)
        node = outputs[0].node if outputs else None
        if node is not None:
            self._own.add(node)
        return outputs

    @property
    def assigned(self) -> list[Variable]:
        """The variables that the body assigns to."""
        return list(self._assigned)

    @property
    def read_variables(self) -> list[Variable]:
        """The variables that the body reads or assigns to."""
        return list(self._initial)

    def outside(self, results: Iterable[Value]) -> list[Value]:
        """The values of the trace around it that computing `results` reads."""
        own = {*self.inputs, *self.state}
        found: dict[Value, None] = {}
        stack = list(results)
        seen = set(own)
        while stack:
            v = stack.pop()
            if v in seen:
                continue
            seen.add(v)
            if v.node is not None and v.node in self._own:
                stack += v.node.inputs
            else:
                found[v] = None
        return list(found)

    def close(self, results: Sequence[Value], inputs: Sequence[Value | Variable]) -> Graph:
        """The graph of `results` over its own inputs, variables and values from outside."""
        borders: dict[Value, str] = {}
        for i, x in enumerate(inputs):
            if isinstance(x, Variable):
                borders[self._initial.get(x, Value(x.type))] = f"variable{i}"
            else:
                borders[x] = x.name if is_among(x, self.inputs) else f"outer{i}"
        return outline(self.name, borders, {f"r{i}": v for i, v in enumerate(results)})


def read(variable: Variable) -> Value:
    """The variable as a value of the current builder, in its own dtype."""
    builder = current()
    if isinstance(builder, Trace):
        return builder.read(variable)
    return constant(np.asarray(variable.numpy()))


def write(variable: Variable, value: Value) -> None:
    """Assign a value of the current builder."""
    builder = current()
    if isinstance(builder, Trace):
        builder.assign(variable, value)
    else:
        variable.assign(value)


def ordered(items: Iterable[Any], first: Sequence[Any] = ()) -> list[Any]:
    """The items without those in `first` and without repetitions."""
    known = set(first)
    return [x for x in dict.fromkeys(items) if x not in known]
