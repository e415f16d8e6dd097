"""A digest of a graph: what a cache may know it by.

Graphs of one digest have the same nodes on the same operands in the same order, parameters of the
same types, and the same results and updates in the same places. So code that was made for one is
right for the other. Names and source lines are left out, for code depends on neither.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from .graph import Graph, Value
from .types import Dim, DType


def digest(graph: Graph) -> str:
    """The digest of a graph, 64 hexadecimal digits.

    Bits are compared, not numbers: constants that differ in the sign of a zero differ.

    Raises
    ------
    TypeError
        If an attribute is of a kind that the IR does not have.

    Examples
    --------
    >>> digest(graph) == digest(parse(str(graph)))
    True
    """
    words = "\n".join(_words(graph))
    return blake2b(words.encode(), digest_size=32).hexdigest()


def _words(graph: Graph) -> Iterator[str]:
    """A line for each part of the graph; values are numbered in the order that they appear in."""
    number: dict[Value, int] = {v: i for i, v in enumerate(graph.parameters)}
    yield f"graph {len(graph.inputs)} {len(graph.state)} {len(graph.nodes)}"
    for value in graph.parameters:
        yield str(value.type)
    for node in graph.nodes:
        operands = " ".join([str(number[v]) for v in node.inputs])
        attributes = "".join([f" {k}={_attribute(v)}" for k, v in sorted(node.attrs.items())])
        yield f"{node.op.name}({operands}){attributes}"
        for value in node.outputs:
            number[value] = len(number)
    yield " ".join([str(number[v]) for v in graph.outputs])
    yield " ".join([f"{number[old]}={number[new]}" for old, new in graph.updates])


def _attribute(attribute: Any) -> str:
    """A text that no other attribute has."""
    write = _WRITERS.get(type(attribute))
    if write is None:
        raise TypeError(f"digest: an attribute is a {type(attribute).__name__}")
    return write(attribute)


def _float(number: float) -> str:
    return "f" + struct.pack("<d", number).hex()


def _array(array: np.ndarray) -> str:
    contents = blake2b(np.ascontiguousarray(array).tobytes(), digest_size=32).hexdigest()
    return f"a{array.dtype.name}{array.shape}{contents}"


def _tuple(items: tuple[Any, ...]) -> str:
    return f"({','.join([_attribute(item) for item in items])})"


_WRITERS: dict[type, Callable[[Any], str]] = {
    type(None): repr, bool: repr, int: repr, str: repr, float: _float,
    np.ndarray: _array, tuple: _tuple,
    DType: lambda dtype: "t" + dtype.name,
    Dim: lambda size: f"d{{{size}}}",
    Graph: lambda body: "g" + digest(body),
}  # fmt: skip
