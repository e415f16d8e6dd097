"""Graphs as text, one line per node, and back: `parse(str(g))` is the same graph as `g`.

    graph head(%x: f32[N,10]; %scale: f32[]) {
      %0: f32[N,10] = broadcast[shape=(N, 10), axes=()](%scale)  # head (train.py:14)
      %1: f32[N,10] = mul(%x, %0)
      return y=%1; %scale=%2
    }

Parameters before the `;` are inputs, those after it are state; after the `;` of `return` stand
the updates of state. Control flow carries its bodies, each with names of its own:

    graph power(%x: f32[], %w: f32[]) {
      %0: f32[] = scan[carry=1, stacked=0, length=3](%x, %w) {
        body = graph step(%c: f32[], %w: f32[]) {
          %0: f32[] = mul(%c, %w)
          return c=%0
        }
      }
      return y=%0
    }
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from .errors import HornfelsError, ParseError
from .graph import Graph, Node, Source, Value
from .op import get
from .types import DTYPES, Dim, DType, as_dtype, parse_size, parse_type

INLINE_ELEMENTS = 16
"""Arrays of up to this many elements print as numbers, larger ones as hexadecimal bytes."""


def to_text(graph: Graph, *, anonymous: bool = False) -> str:
    """The text of a graph; `parse` reads it back.

    With `anonymous`, parameters, results and graphs are numbered and sources left out, so that
    the texts of graphs that compute the same in the same order are equal.
    """
    return "\n".join(_graph_lines(graph, anonymous))


def _graph_lines(graph: Graph, anonymous: bool) -> Iterator[str]:
    names = {v: f"p{i}" if anonymous else v.name for i, v in enumerate(graph.parameters)}
    results = [f"r{i}" for i in range(len(graph.outputs))] if anonymous else graph.output_names
    parameters = ", ".join(f"%{names[v]}: {v.type}" for v in graph.inputs)
    if graph.state:
        parameters += "; " + ", ".join(f"%{names[v]}: {v.type}" for v in graph.state)
    yield f"graph {'g' if anonymous else graph.name}({parameters}) {{"
    for node in graph.nodes:
        for v in node.outputs:
            names[v] = str(len(names) - len(graph.parameters))
        yield from (f"  {line}" for line in _node_lines(node, names, anonymous))
    returned = ", ".join(
        f"{name}=%{names[v]}" for name, v in zip(results, graph.outputs, strict=True)
    )
    if graph.updates:
        returned += "; " + ", ".join(f"%{names[old]}=%{names[new]}" for old, new in graph.updates)
    yield f"  return {returned}".rstrip()
    yield "}"


def _node_lines(node: Node, names: dict[Value, str], anonymous: bool) -> Iterator[str]:
    left = ", ".join(f"%{names[v]}" for v in node.outputs)
    types = ", ".join(str(v.type) for v in node.outputs)
    regions = node.regions
    attrs = ", ".join(f"{k}={_attr_text(v)}" for k, v in node.attrs.items() if k not in regions)
    operands = ", ".join(f"%{names[v]}" for v in node.inputs)
    comment = f"  # {node.source}" if str(node.source) and not anonymous else ""
    head = f"{left}: {types} = {node.op.name}{f'[{attrs}]' if attrs else ''}({operands})"
    yield f"{head}{' {' if regions else ''}{comment}"
    for name, region in regions.items():
        first, *rest = _graph_lines(region, anonymous)
        yield f"  {name} = {first}"
        yield from (f"  {line}" for line in rest)
    if regions:
        yield "}"


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
_ATOM = re.compile(r"[\w.+\-*{}/]+")


def parse(text: str) -> Graph:
    """Read a graph from its text.

    Raises
    ------
    ParseError
        If a line cannot be read, or a node's stated type is not what its op infers; the message
        names the line.
    """
    lines = _Lines(text)
    graph = _parse_graph(*lines.take(), lines)
    if not lines.at_end:
        raise ParseError(f"line {lines.take()[0]}: there is text after the graph")
    return graph


class _Lines:
    """The lines that say something, with their numbers."""

    def __init__(self, text: str) -> None:
        numbered = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1)]
        self._lines = [(i, line) for i, line in numbered if line and not line.startswith("#")]
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._lines)

    def take(self) -> tuple[int, str]:
        """The next line's number and text."""
        if self.at_end:
            raise ParseError("a graph has a head, a `return` and a closing `}`")
        self._at += 1
        return self._lines[self._at - 1]


def _parse_graph(number: int, head: str, lines: _Lines) -> Graph:
    name, inputs, state = _parse_head(number, head)
    values = {v.name: v for v in (*inputs, *state)}
    number, line = lines.take()
    while not re.match(r"return\b", line):
        _parse_node(number, line, values, lines)
        number, line = lines.take()
    outputs, updates = _parse_return(number, line, values)
    number, line = lines.take()
    if line != "}":
        raise ParseError(f"line {number}: expected `}}` after `return`, got {line!r}")
    graph = Graph.make(name, inputs, state, outputs, updates)
    written = tuple(dict.fromkeys(v.node for v in values.values() if v.node is not None))
    # keep the order that the text states, dead nodes too, so that reading back is exact
    return Graph(name, graph.inputs, graph.state, written, graph.outputs,
                 graph.output_names, graph.updates)  # fmt: skip


_REGION = re.compile(r"(\w+)\s*=\s*(graph\b.*)$")


def _parse_regions(lines: _Lines) -> dict[str, Graph]:
    """The bodies that follow a node of control flow, and the closing `}`."""
    regions = {}
    number, line = lines.take()
    while line != "}":
        found = _REGION.match(line)
        if not found:
            raise ParseError(f"line {number}: expected `name = graph ...` or `}}`, got {line!r}")
        regions[found[1]] = _parse_graph(number, found[2], lines)
        number, line = lines.take()
    return regions


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


def _parse_node(number: int, line: str, values: dict[str, Value], lines: _Lines) -> None:
    found = _NODE.match(line)
    if not found:
        raise ParseError(f"line {number}: expected `%0: type = op[...](...)`, got {line!r}")
    names, types, op_name, rest = _NAME.findall(found[1]), found[2], found[3], found[4]
    attrs: dict[str, Any] = {}
    at = 0
    if rest.startswith("["):
        attrs, at = _Attributes(rest, number).read()
    call = re.match(r"\((.*?)\)\s*(\{)?\s*(?:#\s*(.*))?$", rest[at:])
    if not call:
        raise ParseError(f"line {number}: expected operands in parentheses, got {rest[at:]!r}")
    operands = [_lookup(number, n, values) for n in _NAME.findall(call[1])]
    op = _located(number, get, op_name)
    attrs |= _parse_regions(lines) if call[2] else {}
    node = _located(number, Node, op, operands, attrs, _parse_source(call[3] or ""))
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
        return np.array([w == "True" for w in words], np.bool_).reshape(shape)
    convert = float if type_.dtype.is_float else int
    return np.array([convert(w) for w in words], dtype=type_.dtype.numpy).reshape(shape)
