"""The graph: immutable SSA values, nodes and graphs, and the ways to rebuild one.

Values and nodes never change after they are made, so a rewritten graph shares what it keeps
with the graph that it came from. A `Graph` is an ordered view: which values come in, which
nodes run, which values come out, and which state they update.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ShapeError, VerifyError
from .types import Dim, DType, Shape, Size, TensorType, substitute

if TYPE_CHECKING:
    from .op import Op


@dataclass(frozen=True, slots=True)
class Source:
    """Where a node comes from: the layer's path and the user's line; either may be empty."""

    layer: str = ""
    line: str = ""

    def __str__(self) -> str:
        return (
            f"{self.layer} ({self.line})" if self.layer and self.line else self.layer or self.line
        )

    @property
    def where(self) -> str:
        """The words that an error message uses."""
        layer = f"layer '{self.layer}'" if self.layer else ""
        return f"{layer} ({self.line})" if layer and self.line else layer or self.line


class Value:
    """A tensor in a graph: a node's output, or an input (then `node` is None and it has a name).

    Python operators and the methods below emit nodes into the current `Builder`, with NumPy's
    broadcasting and JAX's dtype promotion made explicit. That holds for `==` and `!=` too: `is`,
    sets and dicts ask for the very same value, as `same` and `is_among` do for tuples and lists.
    """

    __slots__ = ("index", "name", "node", "type")
    __hash__ = object.__hash__

    def __init__(
        self, type: TensorType, node: Node | None = None, index: int = 0, name: str = ""
    ) -> None:
        self.type = type
        self.node = node
        self.index = index
        self.name = name

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return self.type.ndim

    @property
    def is_constant(self) -> bool:
        return self.node is not None and self.node.op.name == "constant"

    @property
    def constant(self) -> np.ndarray | None:
        """The array of a `constant` node, else None."""
        return self.node.attrs["value"] if self.is_constant and self.node else None

    def __repr__(self) -> str:
        label = self.name or (self.node.op.name if self.node else "?")
        return f"<Value {label}: {self.type}>"

    def __bool__(self) -> bool:
        return bool(sugar.number(self, "bool()"))

    def __int__(self) -> int:
        return int(sugar.number(self, "int()"))

    def __index__(self) -> int:
        return int(sugar.number(self, "an index"))

    def __float__(self) -> float:
        return float(sugar.number(self, "float()"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(sugar.concrete(self, "numpy conversion"), dtype=dtype)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Value:
        """What NumPy asks for `array + value`; its other functions know no traced tensors."""
        return sugar.numpy_operator(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """NumPy's functions know shapes of traced tensors, and all of computed ones."""
        return sugar.numpy_function(self, function, args, kwargs)

    def __add__(self, other: Any) -> Value:
        return sugar.binary("add", self, other)

    def __radd__(self, other: Any) -> Value:
        return sugar.binary("add", other, self)

    def __sub__(self, other: Any) -> Value:
        return sugar.binary("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return sugar.binary("sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return sugar.binary("mul", self, other)

    def __rmul__(self, other: Any) -> Value:
        return sugar.binary("mul", other, self)

    def __truediv__(self, other: Any) -> Value:
        return sugar.divide(self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return sugar.divide(other, self)

    def __floordiv__(self, other: Any) -> Value:
        return sugar.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Value:
        return sugar.floor_divide(other, self)

    def __mod__(self, other: Any) -> Value:
        return sugar.binary("remainder", self, other)

    def __pow__(self, other: Any) -> Value:
        return sugar.power(self, other)

    def __rpow__(self, other: Any) -> Value:
        return sugar.power(other, self)

    def __matmul__(self, other: Any) -> Value:
        return sugar.matmul(self, other)

    def __neg__(self) -> Value:
        return sugar.unary("neg", self)

    def __abs__(self) -> Value:
        return sugar.unary("abs", self)

    def __eq__(self, other: Any) -> Any:
        return sugar.compare("equal", self, other)

    def __ne__(self, other: Any) -> Any:
        return sugar.compare("not_equal", self, other)

    def __lt__(self, other: Any) -> Value:
        return sugar.binary("less", self, other)

    def __le__(self, other: Any) -> Value:
        return sugar.binary("less_equal", self, other)

    def __gt__(self, other: Any) -> Value:
        return sugar.binary("greater", self, other)

    def __ge__(self, other: Any) -> Value:
        return sugar.binary("greater_equal", self, other)

    def __and__(self, other: Any) -> Value:
        return sugar.binary("logical_and" if self.dtype.is_bool else "bit_and", self, other)

    def __or__(self, other: Any) -> Value:
        return sugar.binary("logical_or" if self.dtype.is_bool else "bit_or", self, other)

    def __xor__(self, other: Any) -> Value:
        return sugar.binary("not_equal" if self.dtype.is_bool else "bit_xor", self, other)

    def __lshift__(self, other: Any) -> Value:
        return sugar.binary("shift_left", self, other)

    def __rshift__(self, other: Any) -> Value:
        return sugar.binary("shift_right", self, other)

    def __invert__(self) -> Value:
        return sugar.unary("logical_not", self)

    def __getitem__(self, key: Any) -> Value:
        return sugar.getitem(self, key)

    def __iter__(self) -> Iterator[Value]:
        """The values along the first axis; without this, Python would index without an end."""
        if not self.shape or isinstance(self.shape[0], Dim):
            raise sugar.not_iterable(self)
        return (self[i] for i in range(self.shape[0]))

    def astype(self, dtype: Any) -> Value:
        return sugar.cast(self, dtype)

    def reshape(self, *shape: Any) -> Value:
        return sugar.reshape(self, shape[0] if len(shape) == 1 and not isinstance(
            shape[0], int | Dim) else shape)  # fmt: skip

    def transpose(self, *permutation: int) -> Value:
        return sugar.transpose(self, permutation or None)

    @property
    def T(self) -> Value:
        return sugar.transpose(self, None)

    def broadcast_to(self, shape: Sequence[Size]) -> Value:
        return sugar.broadcast_to(self, shape)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Value:
        return sugar.reduce("reduce_sum", self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Value:
        return sugar.reduce("reduce_max", self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Value:
        return sugar.reduce("reduce_min", self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Value:
        return sugar.mean(self, axis, keepdims)


class Node:
    """One application of an op; type-checked when it is made."""

    __slots__ = ("attrs", "inputs", "op", "outputs", "source")

    def __init__(
        self, op: Op, inputs: Sequence[Value], attrs: Mapping[str, Any], source: Source = Source()
    ) -> None:
        self.op = op
        self.inputs = tuple(inputs)
        self.attrs = MappingProxyType({k: freeze(v) for k, v in attrs.items()})
        self.source = source
        types = op.infer(*(v.type for v in self.inputs), **self.attrs)
        self.outputs = tuple(Value(t, self, i) for i, t in enumerate(types))

    def reading(self, inputs: tuple[Value, ...]) -> Node:
        """The same on other values; where their types are the same, so are those of the outputs."""
        if any(v.type != w.type for v, w in zip(inputs, self.inputs, strict=True)):
            return Node(self.op, inputs, self.attrs, self.source)
        node = object.__new__(Node)
        node.op, node.attrs, node.source = self.op, self.attrs, self.source
        node.inputs = inputs
        node.outputs = tuple(Value(v.type, node, i) for i, v in enumerate(self.outputs))
        return node

    @property
    def output(self) -> Value:
        """The only output."""
        (out,) = self.outputs
        return out

    @property
    def regions(self) -> dict[str, Graph]:
        """The attributes that are graphs, by name: the bodies of control flow."""
        return {k: v for k, v in self.attrs.items() if isinstance(v, Graph)}

    def key(self) -> tuple[Any, ...]:
        """Equal for nodes that compute the same from the same values."""
        return (self.op.name, tuple(map(id, self.inputs)),
                tuple((k, _hashable(v)) for k, v in sorted(self.attrs.items())))  # fmt: skip

    def __repr__(self) -> str:
        return f"<Node {self.op.name} -> {', '.join(str(v.type) for v in self.outputs)}>"


def same(some: Sequence[Value], others: Sequence[Value]) -> bool:
    """Whether both hold the very same values in the same order; `==` would compare elements."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def is_among(value: Value, values: Iterable[Value]) -> bool:
    """Whether `value` itself is one of them; `in` would compare elements, but in sets and dicts."""
    return any(value is v for v in values)


def freeze(attribute: Any) -> Any:
    """An attribute as it is stored: lists become tuples, arrays read-only copies."""
    if isinstance(attribute, list | tuple):
        return tuple(freeze(item) for item in attribute)
    if isinstance(attribute, np.generic) and not isinstance(attribute, np.ndarray):
        return attribute.item()
    if isinstance(attribute, np.ndarray) and attribute.flags.writeable:
        attribute = attribute.copy()
        attribute.flags.writeable = False
    return attribute


def _hashable(attribute: Any) -> Any:
    if isinstance(attribute, np.ndarray):
        return (str(attribute.dtype), attribute.shape, attribute.tobytes())
    if isinstance(attribute, float):
        return ("float", attribute.hex())
    if isinstance(attribute, tuple):
        return tuple(_hashable(item) for item in attribute)
    if isinstance(attribute, Graph):
        return attribute.structure
    return (type(attribute).__name__, attribute)


@dataclass(frozen=True, eq=False)
class Graph:
    """A typed, ordered, immutable graph.

    Attributes
    ----------
    name : str
    inputs : tuple of Value
        What the caller passes on every run, each with a unique name.
    state : tuple of Value
        What stays on the device between runs (weights, moments, seeds), each with a unique name.
    nodes : tuple of Node
        In an order in which they can run.
    outputs : tuple of Value
        What the caller gets back, named by `output_names`.
    updates : tuple of (Value, Value)
        Pairs of a `state` value and the value that replaces it after the run.
    """

    name: str
    inputs: tuple[Value, ...]
    state: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...]
    updates: tuple[tuple[Value, Value], ...] = field(default=())

    @staticmethod
    def make(
        name: str,
        inputs: Iterable[Value],
        state: Iterable[Value],
        outputs: Mapping[str, Value],
        updates: Iterable[tuple[Value, Value]] = (),
    ) -> Graph:
        """Collect the nodes that the results need, in an order in which they can run."""
        updates = tuple((old, new) for old, new in updates if old is not new)
        results = [*outputs.values(), *(new for _, new in updates)]
        return Graph(name, tuple(inputs), tuple(state), reachable(results),
                     tuple(outputs.values()), tuple(outputs), updates)  # fmt: skip

    @property
    def parameters(self) -> tuple[Value, ...]:
        """Inputs and state."""
        return self.inputs + self.state

    @property
    def results(self) -> tuple[Value, ...]:
        """Outputs and new values of the state."""
        return self.outputs + tuple(new for _, new in self.updates)

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read a value; a node appears once per operand that is the value."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in found.items()}

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbolic dimensions of inputs and state, sorted."""
        return tuple(sorted({s for v in self.parameters for s in v.type.symbols}))

    @cached_property
    def structure(self) -> str:
        """The text without names and sources: equal for graphs that compute the same."""
        from .text import to_text

        return to_text(self, anonymous=True)

    def named(self, name: str) -> Value:
        """The input or state of that name."""
        for value in self.parameters:
            if value.name == name:
                return value
        raise VerifyError(f"graph {self.name}: no input or state is named {name!r}")

    def rebuild(
        self,
        visit: Callable[[Node, tuple[Value, ...]], Sequence[Value] | None],
        parameters: Mapping[Value, Value] | None = None,
    ) -> Graph:
        """Make a graph by visiting the nodes in order.

        `visit(node, inputs)` gets the node and the new values of its operands, runs inside a
        `Builder`, and returns the values that stand for the node's outputs, or None to keep the
        node. Nodes of which nothing changed are shared with this graph; what nothing uses is
        dropped. `parameters` replaces inputs and state.
        """
        from .builder import Builder

        replaced: dict[Value, Value] = dict(parameters or {})
        with Builder(self.name) as builder:
            for node in self.nodes:
                inputs = tuple(replaced.get(v, v) for v in node.inputs)
                with builder.at(node.source):
                    outputs = visit(node, inputs)
                    if outputs is None and not same(inputs, node.inputs):
                        outputs = node.reading(inputs).outputs
                if outputs is not None:
                    replaced.update(zip(node.outputs, outputs, strict=True))

        def new(value: Value) -> Value:
            return replaced.get(value, value)

        return Graph.make(
            self.name, map(new, self.inputs), map(new, self.state),
            dict(zip(self.output_names, map(new, self.outputs), strict=True)),
            ((new(old), new(value)) for old, value in self.updates),
        )  # fmt: skip

    def inline(self, *arguments: Value) -> tuple[Value, ...]:
        """Emit the nodes into the current builder, on `arguments` for `parameters`."""
        from .builder import current, emit

        builder = current()
        assert builder is not None
        found = tuple(a.type for a in arguments)
        if found != tuple(v.type for v in self.parameters):
            raise ShapeError(f"graph {self.name}: must be called with "
                             f"{[v.type for v in self.parameters]}, got {list(found)}")  # fmt: skip
        values = dict(zip(self.parameters, arguments, strict=True))
        for node in self.nodes:
            with builder.at(node.source):
                outputs = emit(node.op, [values[v] for v in node.inputs], node.attrs)
            values.update(zip(node.outputs, outputs, strict=True))
        return tuple(values[v] for v in self.outputs)

    def specialize(self, bindings: Mapping[str, int]) -> Graph:
        """Replace symbolic dimensions by sizes, in types and attributes: `{"N": 128}`."""
        for name, size in bindings.items():
            if size < 0:
                raise ShapeError(f"specialize: {name} must be 0 or more, got {size}")
        if not any(s in bindings for s in self.symbols):
            return self
        return self._substitute(bindings)

    def _substitute(self, bindings: Mapping[str, int]) -> Graph:
        from .builder import emit

        parameters = {v: Value(v.type.substitute(bindings), name=v.name) for v in self.parameters}

        def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
            attrs = {k: substitute_attribute(v, bindings) for k, v in node.attrs.items()}
            return emit(node.op, inputs, attrs)

        return self.rebuild(visit, parameters)

    def __str__(self) -> str:
        from .text import to_text

        return to_text(self)

    __repr__ = __str__


def substitute_attribute(attribute: Any, bindings: Mapping[str, int]) -> Any:
    """An attribute with symbols replaced by sizes."""
    if isinstance(attribute, Dim):
        return substitute(attribute, bindings)
    if isinstance(attribute, tuple):
        return tuple(substitute_attribute(item, bindings) for item in attribute)
    if isinstance(attribute, Graph):
        return attribute._substitute(bindings)
    return attribute


def reachable(results: Iterable[Value], borders: Collection[Value] = ()) -> tuple[Node, ...]:
    """The nodes that the results depend on, each after those that it reads.

    What computes the values in `borders` is left out.
    """
    order: list[Node] = []
    done: set[Node] = set()
    for result in results:
        if result.node is None or result in borders:
            continue
        stack = [(result.node, iter(result.node.inputs))]
        while stack:
            node, pending = stack[-1]
            if node in done:
                stack.pop()
                continue
            for value in pending:
                if value.node is not None and value.node not in done and value not in borders:
                    stack.append((value.node, iter(value.node.inputs)))
                    break
            else:
                done.add(node)
                order.append(node)
                stack.pop()
    return tuple(order)


def outline(name: str, borders: Mapping[Value, str], outputs: Mapping[str, Value]) -> Graph:
    """A closed graph that computes `outputs` from `borders`, which become inputs of these names.

    >>> # outline("step", {%a: "a", %x: "x"}, {"y": %1}) where %0 = mul(%a, %x), %1 = tanh(%0):
    >>> # graph step(%a, %x) { %0 = mul(%a, %x)  %1 = tanh(%0)  return y=%1 }
    """
    inputs = {v: Value(v.type, name=label) for v, label in borders.items()}
    values = dict(inputs)
    for node in reachable(outputs.values(), borders):
        copy = Node(node.op, [values[v] for v in node.inputs], node.attrs, node.source)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            values.setdefault(old, new)
    return Graph.make(name, inputs.values(), (), {k: values[v] for k, v in outputs.items()})


from . import sugar  # noqa: E402 - Value's operators need it, and it needs Value
