"""Graphs as text, one line per node, and back: `parse(str(g))` is the same graph as `g`.

    graph head(%x: f32[N,10]; %scale: f32[]) {
      %0: f32[N,10] = broadcast[shape=(N, 10), axes=()](%scale)  # head (train.py:14)
      %1: f32[N,10] = mul(%x, %0)
      return y=%1; %scale=%2
    }

Parameters before the `;` are inputs, those after it are state; after the `;` of `return` stand
the updates of state.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .errors import HornfelsError, ParseError
from .graph import Graph, Node, Source, Value
from .op import get
from .types import DTYPES, Dim, DType, as_dtype, parse_size, parse_type

INLINE_ELEMENTS = 16
"""Arrays of up to this many elements print as numbers, larger ones as hexadecimal bytes."""


def to_text(graph: Graph) -> str:
    """The text of a graph; `parse` reads it back."""
    names = {v: v.name for v in graph.parameters}
    lines = []
    for node in graph.nodes:
        for v in node.outputs:
            names[v] = str(len(names) - len(graph.parameters))
        lines.append(f"  {_node_text(node, names)}")
    parameters = ", ".join(f"%{v.name}: {v.type}" for v in graph.inputs)
    if graph.state:
        parameters += "; " + ", ".join(f"%{v.name}: {v.type}" for v in graph.state)
    results = ", ".join(
        f"{name}=%{names[v]}" for name, v in zip(graph.output_names, graph.outputs, strict=True)
    )
    if graph.updates:
        results += "; " + ", ".join(f"%{old.name}=%{names[new]}" for old, new in graph.updates)
    body = "".join(line + "\n" for line in lines)
    return f"graph {graph.name}({parameters}) {{\n{body}  return {results}\n}}"


def _node_text(node: Node, names: dict[Value, str]) -> str:
    left = ", ".join(f"%{names[v]}" for v in node.outputs)
    types = ", ".join(str(v.type) for v in node.outputs)
    attrs = ", ".join(f"{k}={_attr_text(v)}" for k, v in node.attrs.items())
    operands = ", ".join(f"%{names[v]}" for v in node.inputs)
    comment = f"  # {node.source}" if str(node.source) else ""
    return f"{left}: {types} = {node.op.name}{f'[{attrs}]' if attrs else ''}({operands}){comment}"


def _attr_text(attribute: Any) -> str:
    if isinstance(attribute, tuple):
        return f"({', '.join(map(_attr_text, attribute))}{',' if len(attribute) == 1 else ''})"
    if isinstance(attribute, np.ndarray):
        return _array_text(attribute)
    if isinstance(attribute, str):
        return '"' + attribute.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(attribute)  # bool, int, float (repr in Python 3), DType, Dim, None


def _array_text(array: np.ndarray) -> str:
    dtype = as_dtype(array.dtype)
    shape = ",".join(map(str, array.shape))
    if array.size > INLINE_ELEMENTS or dtype.name in ("bf16", "f16"):
        numbers = "0x" + np.ascontiguousarray(array).tobytes().hex()
    else:
        numbers = " ".join(str(item) for item in array.ravel().tolist())
    return f"dense<{dtype}[{shape}]: {numbers}>"


# --- parsing ---------------------------------------------------------------------------------

_HEAD = re.compile(r"graph\s+([\w./:\-]+)\((.*)\)\s*\{$")
_NODE = re.compile(r"((?:%[\w./:\-]+,\s*)*%[\w./:\-]+)\s*:\s*(.*?)\s*=\s*(\w+)(.*)$")
_NAME = re.compile(r"%([\w./:\-]+)")
_DENSE = re.compile(r"dense<(\w+\[[^\]]*\]):\s*([^>]*)>")
_ATOM = re.compile(r"[\w.+\-*]+")


def parse(text: str) -> Graph:
    """Read a graph from its text.

    Raises
    ------
    ParseError
        If a line cannot be read, or a node's stated type is not what its op infers; the message
        names the line.
    """
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
    if len(lines) < 3 or lines[-1][1] != "}":
        raise ParseError("a graph has a head, a `return` and a closing `}`")
    head, *body = lines[:-1]
    name, inputs, state = _parse_head(*head)
    values = {v.name: v for v in (*inputs, *state)}
    for number, line in body[:-1]:
        _parse_node(number, line, values)
    outputs, updates = _parse_return(*body[-1], values)
    graph = Graph.make(name, inputs, state, outputs, updates)
    written = tuple(dict.fromkeys(v.node for v in values.values() if v.node is not None))
    # keep the order that the text states, dead nodes too, so that reading back is exact
    return Graph(name, graph.inputs, graph.state, written, graph.outputs,
                 graph.output_names, graph.updates)  # fmt: skip


def _parse_head(number: int, line: str) -> tuple[str, list[Value], list[Value]]:
    found = _HEAD.match(line)
    if not found:
        raise ParseError(f"line {number}: expected `graph name(%x: type, ...) {{`, got {line!r}")
    inputs, _, state = found[2].partition(";")
    return found[1], _parse_parameters(number, inputs), _parse_parameters(number, state)


def _parse_parameters(number: int, text: str) -> list[Value]:
    found = re.findall(r"%([\w./:\-]+)\s*:\s*(\w+\[[^\]]*\])", text)
    if text.count("%") != len(found):
        raise ParseError(f"line {number}: cannot read the parameters {text.strip()!r}")
    return [Value(_located(number, parse_type, t), name=n) for n, t in found]


def _parse_node(number: int, line: str, values: dict[str, Value]) -> None:
    found = _NODE.match(line)
    if not found:
        raise ParseError(f"line {number}: expected `%0: type = op[...](...)`, got {line!r}")
    names, types, op_name, rest = _NAME.findall(found[1]), found[2], found[3], found[4]
    attrs: dict[str, Any] = {}
    at = 0
    if rest.startswith("["):
        attrs, at = _Attributes(rest, number).read()
    call = re.match(r"\((.*?)\)\s*(?:#\s*(.*))?$", rest[at:])
    if not call:
        raise ParseError(f"line {number}: expected operands in parentheses, got {rest[at:]!r}")
    operands = [_lookup(number, n, values) for n in _NAME.findall(call[1])]
    op = _located(number, get, op_name)
    node = _located(number, Node, op, operands, attrs, _parse_source(call[2] or ""))
    stated = re.findall(r"\w+\[[^\]]*\]", types)
    inferred = [str(v.type) for v in node.outputs]
    if [t.replace(" ", "") for t in stated] != inferred or len(names) != len(inferred):
        raise ParseError(f"line {number}: {op_name} gives {', '.join(inferred)}, "
                         f"the text says {types}")  # fmt: skip
    for name, value in zip(names, node.outputs, strict=True):
        if name in values:
            raise ParseError(f"line {number}: %{name} is defined twice")
        values[name] = value


def _parse_source(comment: str) -> Source:
    found = re.fullmatch(r"(.*?)\s*\(([^()]*)\)", comment.strip())
    if found:
        return Source(found[1], found[2])
    comment = comment.strip()
    is_line = re.fullmatch(r"[^/\s]+:\d+", comment) is not None
    return Source("", comment) if is_line else Source(comment)


def _parse_return(
    number: int, line: str, values: dict[str, Value]
) -> tuple[dict[str, Value], list[tuple[Value, Value]]]:
    if not line.startswith("return"):
        raise ParseError(f"line {number}: expected `return name=%0, ...`, got {line!r}")
    results, _, updates = line.removeprefix("return").partition(";")
    outputs = {
        name: _lookup(number, v, values)
        for name, v in re.findall(r"([\w./:\-]+)=%([\w./:\-]+)", results)
    }
    pairs = [
        (_lookup(number, old, values), _lookup(number, new, values))
        for old, new in re.findall(r"%([\w./:\-]+)=%([\w./:\-]+)", updates)
    ]
    return outputs, pairs


def _lookup(number: int, name: str, values: dict[str, Value]) -> Value:
    if name not in values:
        raise ParseError(f"line {number}: %{name} is not defined above")
    return values[name]


def _located(number: int, function: Any, *args: Any) -> Any:
    """Call, and say the line if it refuses."""
    try:
        return function(*args)
    except HornfelsError as error:
        raise ParseError(f"line {number}: {error.message}") from None


class _Attributes:
    """Recursive descent over `[name=value, ...]`."""

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.at = text, number, 0

    def read(self) -> tuple[dict[str, Any], int]:
        """The attributes and the position after the closing bracket."""
        attrs: dict[str, Any] = {}
        self._expect("[")
        while not self._take("]"):
            name = self._atom()
            self._expect("=")
            attrs[name] = self._value()
            self._take(",")
        return attrs, self.at

    def _skip(self) -> None:
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1

    def _take(self, token: str) -> bool:
        self._skip()
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise ParseError(
                f"line {self.number}: expected {token!r} at {self.text[self.at : self.at + 20]!r}"
            )

    def _atom(self) -> str:
        self._skip()
        found = _ATOM.match(self.text, self.at)
        if not found:
            raise ParseError(f"line {self.number}: cannot read {self.text[self.at :]!r}")
        self.at = found.end()
        return found[0]

    def _value(self) -> Any:
        if self._take("("):
            items = []
            while not self._take(")"):
                items.append(self._value())
                self._take(",")
            return tuple(items)
        if self._take('"'):
            return self._string()
        dense = _DENSE.match(self.text, self.at)
        if dense:
            self.at = dense.end()
            return _parse_array(dense[1], dense[2])
        return self._scalar(self._atom())

    def _string(self) -> str:
        found = re.compile(r'((?:[^"\\]|\\.)*)"').match(self.text, self.at)
        if not found:
            raise ParseError(f"line {self.number}: a string is not closed")
        self.at = found.end()
        return re.sub(r"\\(.)", r"\1", found[1])

    def _scalar(self, atom: str) -> bool | int | float | DType | Dim | None:
        words = {"True": True, "False": False, "None": None,
                 "inf": np.inf, "-inf": -np.inf, "nan": np.nan}  # fmt: skip
        if atom in words:
            return words[atom]
        if atom in DTYPES:
            return DTYPES[atom]
        for read in (int, float):
            try:
                return read(atom)
            except ValueError:
                continue
        size: Dim = _located(self.number, parse_size, atom)
        return size


def _parse_array(type_text: str, numbers: str) -> np.ndarray:
    type_ = parse_type(type_text)
    shape = tuple(int(d) for d in type_.shape)
    if numbers.startswith("0x"):
        data = np.frombuffer(bytes.fromhex(numbers[2:]), dtype=type_.dtype.numpy)
        return data.reshape(shape)
    words = numbers.split()
    if type_.dtype.is_bool:
        return np.array([w == "True" for w in words]).reshape(shape)
    convert = float if type_.dtype.is_float else int
    return np.array([convert(w) for w in words], dtype=type_.dtype.numpy).reshape(shape)
