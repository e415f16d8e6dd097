"""Trace: a builder that turns variables into state of the graph and assignments into updates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..ir.builder import Builder
from ..ir.errors import ArgumentError, ShapeError
from ..ir.graph import Graph, Value

if TYPE_CHECKING:
    from .variable import Variable


class StateNames:
    """One unique name for every variable: its path, with `_1`, `_2` where paths collide.

    Characters that the IR's text has no place for, such as spaces, become `_`.

    A model keeps one for all its graphs, so that a variable has the same name in each.
    """

    def __init__(self) -> None:
        self.variables: dict[str, Variable] = {}
        self._names: dict[Variable, str] = {}

    def __getitem__(self, variable: Variable) -> str:
        """The name of `variable`, given on first sight."""
        name = self._names.get(variable)
        if name is None:
            name = path = re.sub(r"[^\w./:\-]", "_", variable.path)
            count = 0
            while name in self.variables:
                count += 1
                name = f"{path}_{count}"
            self._names[variable] = name
            self.variables[name] = variable
        return name


class Trace(Builder):
    """Collects nodes; reading a `Variable` declares state, assigning to one records an update.

    >>> counter = Variable(0, name="counter")
    >>> with Trace("step") as trace:
    ...     x = trace.input("x", f32(3))
    ...     counter.assign_add(1)
    ...     graph = trace.finish({"y": x * 2.0})

    Attributes
    ----------
    variables : dict of str to Variable
        The variables that the graph reads or updates, by the name of their state.
    """

    def __init__(self, name: str = "graph", names: StateNames | None = None) -> None:
        super().__init__(name)
        self.variables: dict[str, Variable] = {}
        self._names = names or StateNames()
        self._initial: dict[Variable, Value] = {}
        self._assigned: dict[Variable, Value] = {}

    def state_of(self, variable: Variable) -> Value:
        """The value that the variable has when the graph starts to run."""
        state = self._initial.get(variable)
        if state is None:
            name = self._names[variable]
            state = self.variable(name, variable.type)
            self._initial[variable] = state
            self.variables[name] = variable
        return state

    def read(self, variable: Variable) -> Value:
        """The value that the variable has at this point of the program."""
        assigned = self._assigned.get(variable)
        return self.state_of(variable) if assigned is None else assigned

    def assign(self, variable: Variable, value: Value) -> None:
        """From here on `variable` is `value`, which must be of its type."""
        if value.type != variable.type:
            raise ShapeError(
                f"assign: variable {variable.path!r} is {variable.type}, got {value.type}"
            )
        self.state_of(variable)
        self._assigned[variable] = value

    def finish(
        self, outputs: Mapping[str, Value], updates: Iterable[tuple[Value, Value]] = ()
    ) -> Graph:
        """The graph of what the outputs and the assignments need; other state is dropped."""
        assigned = [(self._initial[v], value) for v, value in self._assigned.items()]
        graph = super().finish(outputs, [*updates, *assigned])
        _refuse_strays(graph)
        used = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)
        used |= {value for pair in graph.updates for value in pair}
        state = tuple(v for v in graph.state if v in used)
        kept = {v.name for v in state}
        self.variables = {name: v for name, v in self.variables.items() if name in kept}
        return replace(graph, state=state)


def _refuse_strays(graph: Graph) -> None:
    """Refuse values that were made while something else was traced, and got out by a side way."""
    known = set(graph.parameters)
    read = [(f"{n.op.name}: operand", v, n.source.where) for n in graph.nodes for v in n.inputs]
    read += [(f"{graph.name}: result", v, "") for v in graph.results]
    for what, value, where in read:
        if value.node is None and value not in known:
            raise ArgumentError(
                f"{what} {value.type} belongs to another trace, or to the body of a loop or branch",
                where=where,
                hint="a body gives tensors by returning them and by assigning to variables; "
                "add_loss and attributes of objects do not reach outside",
            )
