"""Builder: where nodes go while Python code runs, and how they learn their source line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from pathlib import Path
from typing import Any, Self

import numpy as np

from .errors import ArgumentError, HornfelsError
from .graph import Graph, Node, Source, Value, freeze
from .op import Op, get
from .types import TensorType, as_dtype

_ROOT = Path(__file__).parents[1]  # not resolved: frames name files as they were imported
_ROOMS = ("ir", "frontend", "passes", "codegen", "runtime")  # tests count as the user's code
_NOT_THE_USER = (*(str(_ROOT / room) for room in _ROOMS), contextlib.__file__)
_current: ContextVar[Builder | None] = ContextVar("hornfels_builder", default=None)


class Builder:
    """Collects nodes; use as a context manager to make it the current one.

    >>> with Builder("double") as b:
    ...     x = b.input("x", f32(3))
    ...     graph = b.finish({"y": x + x})
    """

    eager = False
    outer: Builder | None = None  # of the builder of a body: the one around it

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.state: list[Value] = []
        self._layers: list[str] = []
        self._source: Source | None = None
        self._tokens: list[Token[Builder | None]] = []
        self._records: list[list[Node]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._tokens.pop())

    def input(self, name: str, type: TensorType) -> Value:
        """Declare an input of the graph."""
        value = Value(type, name=name)
        self.inputs.append(value)
        return value

    def variable(self, name: str, type: TensorType) -> Value:
        """Declare state of the graph."""
        value = Value(type, name=name)
        self.state.append(value)
        return value

    def emit(
        self, op: Op, operands: Sequence[Value], attrs: Mapping[str, Any]
    ) -> tuple[Value, ...]:
        """Make a node and return its outputs; a refusal says at which layer and line."""
        source = self.here()
        try:
            node = Node(op, operands, attrs, source)
        except HornfelsError as error:
            error.at(source.where)
            raise
        for record in self._records:
            record.append(node)
        return node.outputs

    def known(self, value: Value) -> np.ndarray | None:
        """The numbers of a value, if they are known while the graph is built."""
        return value.constant

    def here(self) -> Source:
        """What a node made now remembers: the open scopes and the user's line."""
        return self._source or Source("/".join(self._layers), _user_line())

    @contextmanager
    def scope(self, layer: str) -> Iterator[None]:
        """Nodes made inside belong to this layer (nested scopes join with `/`)."""
        self._layers.append(layer)
        try:
            yield
        finally:
            self._layers.pop()

    def at(self, source: Source) -> _At:
        """Nodes made inside carry this source."""
        return _At(self, source)

    @contextmanager
    def record(self) -> Iterator[list[Node]]:
        """The nodes that are made inside, in running order."""
        nodes: list[Node] = []
        self._records.append(nodes)
        try:
            yield nodes
        finally:
            self._records.pop()

    def finish(
        self, outputs: Mapping[str, Value], updates: Iterable[tuple[Value, Value]] = ()
    ) -> Graph:
        """The graph of the nodes that the outputs and updates need."""
        return Graph.make(self.name, self.inputs, self.state, outputs, updates)


class _At:
    """Sets a builder's source while it is entered; passes do so for every node."""

    __slots__ = ("_builder", "_previous", "_source")

    def __init__(self, builder: Builder, source: Source) -> None:
        self._builder = builder
        self._source = source

    def __enter__(self) -> None:
        self._previous, self._builder._source = self._builder._source, self._source

    def __exit__(self, *_: object) -> None:
        self._builder._source = self._previous


class EagerBuilder(Builder):
    """Evaluates every op at once with the NumPy oracle; values are constants."""

    eager = True

    def emit(
        self, op: Op, operands: Sequence[Value], attrs: Mapping[str, Any]
    ) -> tuple[Value, ...]:
        if self._records:  # somebody looks at the nodes
            super().emit(op, operands, attrs)
        frozen = {name: freeze(attribute) for name, attribute in attrs.items()}
        try:
            types = op.infer(*(v.type for v in operands), **frozen)
        except HornfelsError as error:
            error.at(self.here().where)
            raise
        if op.name == "constant":
            return (Known(frozen["value"], types[0]),)
        for v in operands:
            if not v.is_constant:
                raise ArgumentError(
                    f"{op.name}: operand {v.type} belongs to a trace that has ended, and has no "
                    "numbers", where=where(), hint="return it from the function that was traced",
                )  # fmt: skip
        arrays = op.evaluate(*(np.asarray(v.constant) for v in operands), **frozen)
        return tuple(
            Known(_owned(a.astype(t.dtype.numpy, copy=False)), t)
            for a, t in zip(arrays, types, strict=True)
        )


def _owned(array: np.ndarray) -> np.ndarray:
    """What an oracle returned: fresh numbers, or a view of operands, which is read-only already."""
    array.flags.writeable = False
    return array


class Known(Value):
    """The value of a `constant` node, which is made when somebody asks for it.

    A node and its outputs refer to each other, so what they hold waits for Python's collector,
    which counts objects and not bytes. These numbers go with the last reference to them.

    Parameters
    ----------
    array : ndarray
        Read-only.
    type : TensorType
    """

    __slots__ = ("_array", "_node")

    def __init__(self, array: np.ndarray, type: TensorType) -> None:
        self.type = type
        self.index = 0
        self.name = ""
        self._array = array
        self._node: Node | None = None

    @property
    def node(self) -> Node:  # type: ignore[override]
        """The node."""
        if self._node is None:
            node = Node(get("constant"), (), {"value": self._array})
            node.outputs = (self,)
            self._node = node
        return self._node

    @property
    def is_constant(self) -> bool:
        return True

    @property
    def constant(self) -> np.ndarray:
        return self._array


def _user_line() -> str:
    """`file.py:12` of the nearest caller outside the package's own rooms."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USER):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return ""
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def current() -> Builder | None:
    """The builder that nodes go to, or None outside any."""
    return _current.get()


def where() -> str:
    """The layer and the user's line that an error made now arises at; empty outside any builder."""
    builder = _current.get()
    return builder.here().where if builder else ""


@contextmanager
def suspended() -> Iterator[None]:
    """Inside, no builder is current: operations evaluate at once and return arrays."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def emit(op: Op, operands: Sequence[Value], attrs: Mapping[str, Any]) -> tuple[Value, ...]:
    """Make a node in the current builder."""
    builder = _current.get()
    if builder is None:
        raise ArgumentError(f"{op.name}: there is no current Builder to emit into")
    return builder.emit(op, operands, attrs)


def constant(value: Any, dtype: Any = None) -> Value:
    """A constant; Python floats become f32, ints i32, unless `dtype` says otherwise."""
    if dtype is None and not isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        default = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
        array = array.astype(default.get(array.dtype, array.dtype))
    else:
        array = np.asarray(value)
        if dtype is not None:  # a Python integer out of range wraps around, as in a cast
            array = array.astype(as_dtype(dtype).numpy, copy=False)
    return emit(get("constant"), (), {"value": array})[0]
