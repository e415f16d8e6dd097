"""bake: a graph with its weights inside, and the arithmetic between them done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.builder import constant, emit
from ...ir.graph import Graph, Node, Value, is_among
from ...ir.op import get
from ...ir.pattern import number_of


def bake(graph: Graph, arrays: Mapping[str, np.ndarray]) -> tuple[Graph, dict[Value, str]]:
    """Replace state by constants, and compute what then depends on constants alone.

    Parameters
    ----------
    graph : Graph
    arrays : mapping of str to array
        State by name that the graph reads and does not update.

    Returns
    -------
    tuple of Graph and dict
        The graph without that state, and the variables' names for its constants.
    """
    values = {
        v: Node(get("constant"), (), {"value": np.asarray(arrays[v.name])}).output
        for v in graph.state
        if v.name in arrays
    }
    inner = graph.rebuild(_fold, values)
    outputs = dict(zip(inner.output_names, inner.outputs, strict=True))
    left = [v for v in inner.state if not v.is_constant]
    baked = Graph.make(graph.name, graph.inputs, left, outputs, inner.updates)
    return FoldAffine().run(baked), {value: v.name for v, value in values.items()}


def _fold(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    """A node of constants as constants, unless it only makes them larger."""
    if node.regions:
        return _sink(node, inputs)
    if node.op.kind == "index" and node.op.name not in ("reshape", "transpose", "slice"):
        return None
    if not any(v.is_constant for v in inputs) or not all(v.type.is_static for v in inputs):
        return None
    arrays = [_array(v) for v in inputs]
    known = [a for a in arrays if a is not None]
    if len(known) < len(arrays):
        return None
    results = node.op.evaluate(*known, **node.attrs)
    return [constant(a, v.dtype) for a, v in zip(results, node.outputs, strict=True)]


def _sink(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
    """Constants that all steps share become constants of the bodies, and are folded there."""
    attrs = node.attrs
    first = 1 if node.op.name == "cond" else attrs["carry"] + attrs.get("stacked", 0)
    sunk = {i: v for i, v in enumerate(inputs) if i >= first and v.is_constant}
    if not sunk:
        return None
    skipped = 1 if node.op.name == "cond" else 0  # operands that are no inputs of the bodies
    regions = {
        name: _with_constants(body, {i - skipped: v for i, v in sunk.items()})
        for name, body in node.regions.items()
    }
    kept = [v for i, v in enumerate(inputs) if i not in sunk]
    return emit(node.op, kept, {**attrs, **regions})


def _with_constants(body: Graph, given: Mapping[int, Value]) -> Graph:
    """A body with constants in place of some inputs."""
    inner = body.rebuild(_fold, {body.inputs[i]: v for i, v in given.items()})
    left = [v for i, v in enumerate(inner.inputs) if i not in given]
    outputs = dict(zip(inner.output_names, inner.outputs, strict=True))
    return FoldAffine().run(Graph.make(body.name, left, (), outputs))


def _array(v: Value) -> np.ndarray | None:
    """What a value is known to be: a constant, or one repeated number."""
    if v.is_constant:
        return v.constant
    number = number_of(v)
    return None if number is None else np.full([int(d) for d in v.shape], number)


@dataclass(eq=False)
class _Affine:
    """A convolution or product by a constant kernel, plus a bias: `root(x, kernel) + bias`."""

    root: Node
    x: Value
    kernel: np.ndarray
    bias: np.ndarray

    def emit(self) -> Value:
        dtype = self.x.dtype
        y = self.root.op(self.x, constant(self.kernel, dtype), **self.root.attrs)
        if not self.bias.any():
            return y
        bias = constant(self.bias, dtype)
        return y + get("broadcast")(bias, shape=y.shape, axes=(y.ndim - 1,))


@dataclass(frozen=True)
class FoldAffine:
    """Fold what adds to or scales each channel of a convolution into its kernel and bias.

        %1 = conv(%x, %w)
        %2 = sub(%1, broadcast(%mean))              %1 = conv(%x, %w * %scale)
        %3 = mul(%2, broadcast(%scale))     ->      %4 = add(%1, broadcast(%beta - %mean * %scale))
        %4 = add(%3, broadcast(%beta))

    All but `%x` are constants. Batch normalization so costs nothing in an exported model.
    """

    name: str = "fold-affine"

    def run(self, graph: Graph) -> Graph:
        known: dict[Value, _Affine] = {}

        def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
            started = _start(node, inputs)
            if started is not None:
                known[node.output] = started
                return None
            return _extend(graph, node, known)

        return graph.rebuild(visit)


def _start(node: Node, inputs: tuple[Value, ...]) -> _Affine | None:
    """A convolution or product with a constant kernel."""
    if node.op.name not in ("conv", "matmul") or node.attrs.get("transpose_b"):
        return None
    x, kernel = inputs[0], inputs[1].constant
    if kernel is None:
        return None
    return _Affine(node, x, kernel, np.zeros(kernel.shape[-1], kernel.dtype))


def _extend(graph: Graph, node: Node, known: dict[Value, _Affine]) -> Sequence[Value] | None:
    """Take a sum or product with numbers by channel into the affine function before it."""
    name = node.op.name
    if name not in ("add", "sub", "mul", "div"):
        return None
    for i, y in enumerate(node.inputs):
        before = known.get(y)
        numbers = _by_channel(node.inputs[1 - i])
        if before is None or numbers is None or (name == "div" and i == 1):
            continue
        if graph.users[y] != (node,) or is_among(y, graph.results):
            continue
        after = _combined(before, name, numbers, flipped=i == 1)
        known[node.output] = after
        is_plain_bias = name == "add" and y is before.root.output
        return None if is_plain_bias else [after.emit()]
    return None


def _combined(before: _Affine, name: str, numbers: np.ndarray, flipped: bool) -> _Affine:
    root, x, kernel, bias = before.root, before.x, before.kernel, before.bias
    if name in ("mul", "div"):
        scale = numbers if name == "mul" else (1 / numbers).astype(numbers.dtype)
        return _Affine(root, x, kernel * scale, bias * scale)
    if name == "add":
        return _Affine(root, x, kernel, bias + numbers)
    if flipped:
        return _Affine(root, x, -kernel, numbers - bias)
    return _Affine(root, x, kernel, bias - numbers)


def _by_channel(value: Value) -> np.ndarray | None:
    """A constant that differs along its last axis only, as a vector of that size."""
    size = value.shape[-1] if value.ndim else 1
    if not isinstance(size, int):
        return None
    number = number_of(value)
    if number is not None:
        return np.full(size, number)
    node = value.node
    if node is None or node.op.name != "broadcast":
        return None
    source, axes = node.inputs[0].constant, node.attrs["axes"]
    if source is None or source.size != size or source.shape[-1:] != (size,):
        return None
    return source.reshape(-1) if axes[-1] == value.ndim - 1 else None
