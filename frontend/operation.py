"""One body, three ways to run it: on arrays at once, into a graph, or on symbolic tensors.

`@operation` and `Layer.__call__` both decide here. The body is written once, over Values:

- an argument is a `KerasTensor`: the body runs in a scratch trace that tells shapes and dtypes,
  and the call is noted in the layer graph;
- a builder is current: the body emits into it;
- neither: the body runs in an `EagerBuilder`, and arrays come back.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from ..ir.builder import Builder, EagerBuilder, current
from ..ir.errors import HornfelsError, OpenSizeError, ShapeError
from ..ir.graph import Value
from ..ir.types import Dim, TensorType, symbol
from . import tree
from .keras_tensor import CallNode, KerasTensor, is_symbolic
from .masks import with_mask_of
from .naming import auto_name
from .trace import Trace

Function = TypeVar("Function", bound=Callable[..., Any])


class Operation:
    """Base of everything that symbolic tensors go through: layers, models, ops.

    Attributes
    ----------
    name : str
    inbound_nodes : list of CallNode
        The calls on symbolic tensors, oldest first.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or auto_name(type(self).__name__)
        self.inbound_nodes: list[CallNode] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define how it is called")

    @property
    def input(self) -> Any:
        """The symbolic input, if the operation was called on symbolic tensors exactly once."""
        inputs = self._only_call("input").inputs
        return inputs[0] if len(inputs) == 1 else inputs

    @property
    def output(self) -> Any:
        """The symbolic output, if the operation was called on symbolic tensors exactly once."""
        return self._only_call("output").structure

    def _only_call(self, what: str) -> CallNode:
        if len(self.inbound_nodes) != 1:
            raise HornfelsError(
                f"{self.name}: {what} is that of the only call on symbolic tensors, "
                f"but there were {len(self.inbound_nodes)}"
            )
        return self.inbound_nodes[0]


class OpCall(Operation):
    """An `ops` function as a node of the layer graph."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(auto_name(function.__name__))
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Operation {self.name}>"


def operation(body: Function) -> Function:
    """Make a body over Values a function over Values, arrays and symbolic tensors alike."""

    @functools.wraps(body)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_symbolic(args) or (kwargs and is_symbolic(kwargs)):
            outputs = evaluate_symbolically(body, args, kwargs)
            CallNode(OpCall(call), args, kwargs, outputs)
            return outputs
        builder = current()
        if builder is None:
            return evaluate_eagerly(body, args, kwargs)
        try:
            return body(*args, **kwargs)
        except HornfelsError as error:
            _locate(error, body.__name__, builder)
            raise

    return call  # type: ignore[return-value]


def _locate(error: HornfelsError, name: str, builder: Builder) -> None:
    """Note where in the program the operation is called, and its name where a size is open."""
    if isinstance(error, OpenSizeError) and not re.match(r"\w+: ", error.message):
        error.message = f"{name}: {error.message}"
    if not error.where:
        error.at(builder.here().where)


def evaluate_eagerly(
    body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a body now; the Values that it returns become arrays."""
    with EagerBuilder():
        outputs = body(*args, **kwargs)
        return tree.map_structure(_to_array, outputs)


def _to_array(x: Any) -> Any:
    return with_mask_of(x, np.array(x.constant), _to_array) if isinstance(x, Value) else x


def evaluate_symbolically(
    body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a body for its shapes and dtypes only; the Values that it returns become KerasTensors.

    What it assigns to variables is forgotten. Open sizes of different inputs are different
    symbols; where the body cannot do with that, those of one axis are taken to be equal.
    """
    try:
        return _evaluate_types(body, args, kwargs, {})
    except ShapeError as error:
        symbolic = [x.type for x in tree.leaves((args, kwargs)) if isinstance(x, KerasTensor)]
        equal = equal_by_axis(symbolic)
        if not equal:
            raise
        try:
            return _evaluate_types(body, args, kwargs, equal)
        except ShapeError:
            raise error from None


def _evaluate_types(
    body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], equal: dict[str, Dim]
) -> Any:
    values: dict[KerasTensor, Value] = {}

    def to_value(x: Any) -> Any:
        if not isinstance(x, KerasTensor):
            return x
        if x not in values:
            values[x] = trace.input(x.name, x.type.substitute(equal))
            with_mask_of(x, values[x], to_value)
        return values[x]

    with Trace("shapes") as trace:
        outputs = body(*tree.map_structure(to_value, args), **tree.map_structure(to_value, kwargs))
        return tree.map_structure(_to_symbolic, outputs)


def equal_by_axis(types: Iterable[TensorType]) -> dict[str, Dim]:
    """For each symbol that is a size by itself the one that another tensor has at its axis."""
    first: dict[int, Dim] = {}
    equal: dict[str, Dim] = {}
    for x in types:
        for axis, size in enumerate(x.shape):
            if isinstance(size, Dim) and size != first.setdefault(axis, size):
                equal |= {name: first[axis] for name in size.symbols if size == symbol(name)}
    return equal


def _to_symbolic(x: Any) -> Any:
    if not isinstance(x, Value):
        return x
    return with_mask_of(x, KerasTensor(x.shape, x.dtype), _to_symbolic)
