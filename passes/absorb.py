"""Absorb: what multiplies the channels of a convolution or product moves into its weights.

A batch normalization of a prediction is a scale and an offset of weights alone:

    %1 = conv(%x, %w)                                  %0 = mul(%w, broadcast(%s))
    %2 = add(%1, broadcast(%b))                        %1 = conv(%x, %0)
    %3 = mul(%2, broadcast(%s))                  ->    %2 = add(mul(%b, %s), %t)
    %4 = add(%3, broadcast(%t))                        %4 = add(%1, broadcast(%2))

Then `%0` and `%2` are computed once (see `steady`). Numbers change by rounding alone. It is left
alone where a step changes the weights, where something else reads what lies between, and in 16
bits, in which the weights would be rounded once more.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from ..ir.builder import emit
from ..ir.graph import Graph, Node, Value, is_among
from ..ir.op import get
from .steady import steady_parameters, steady_values

_WIDE = ("f32", "f64")


@dataclass(frozen=True)
class _Affine:
    """`contraction(x, weights * scale) + offset`, the two being vectors of its channels."""

    node: Node
    inputs: tuple[Value, ...]
    scale: Value | None = None
    offset: Value | None = None

    def plus(self, offset: Value) -> _Affine:
        total = offset if self.offset is None else get("add")(self.offset, offset)
        return _Affine(self.node, self.inputs, self.scale, total)

    def times(self, factor: Value) -> _Affine:
        scale = factor if self.scale is None else get("mul")(self.scale, factor)
        offset = None if self.offset is None else get("mul")(self.offset, factor)
        return _Affine(self.node, self.inputs, scale, offset)

    def emit(self) -> Value:
        """Its value, computed by one product and one addition."""
        x, weights = self.inputs
        if self.scale is not None:
            axes = (0 if self.node.attrs.get("transpose_b") else weights.ndim - 1,)
            factors = get("broadcast")(self.scale, shape=weights.shape, axes=axes)
            weights = get("mul")(weights, factors)
        (value,) = emit(self.node.op, (x, weights), self.node.attrs)
        if self.offset is None:
            return value
        last = (value.ndim - 1,)
        return get("add")(value, get("broadcast")(self.offset, shape=value.shape, axes=last))


def absorb(graph: Graph) -> Graph:
    """The graph with scales in the weights; itself if there are none."""
    return _Absorption(graph).run()


class _Absorption:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.steady: Set[Value] = steady_values(graph) | steady_parameters(graph)
        self.forms: dict[Value, _Affine] = {}  # of what one node alone reads

    def run(self) -> Graph:
        if not any(self._weights_are_steady(node) for node in self.graph.nodes):
            return self.graph
        return self.graph.rebuild(self._visit)

    def _weights_are_steady(self, node: Node) -> bool:
        if node.op.name not in ("conv", "matmul") or node.output.dtype.name not in _WIDE:
            return False
        x, weights = node.inputs
        same = x.dtype == weights.dtype == node.output.dtype
        plain = node.op.name == "conv" or weights.ndim == 2
        return same and plain and weights in self.steady and x not in self.steady

    def _visit(self, node: Node, inputs: tuple[Value, ...]) -> list[Value] | None:
        if len(node.outputs) != 1:
            return None
        found: _Affine | None = None
        if self._weights_are_steady(node):
            found = _Affine(node, inputs)
        elif node.op.name in ("add", "mul"):
            found = self._extended(node)
        if found is None:
            return None
        if self._read_once(node.output):
            self.forms[node.output] = found
        # what only adds a bias stays as it is
        return [found.emit()] if found.scale is not None else None

    def _extended(self, node: Node) -> _Affine | None:
        """The form of a sum with a vector of channels, or of a product with one."""
        for value, other in (node.inputs, node.inputs[::-1]):
            form, vector = self.forms.get(value), self._vector(other)
            if form is not None and vector is not None:
                return form.plus(vector) if node.op.name == "add" else form.times(vector)
        return None

    def _vector(self, value: Value) -> Value | None:
        """What is broadcast along the last axis, if it is of weights alone."""
        node = value.node
        if node is None or node.op.name != "broadcast" or node.attrs["axes"] != (value.ndim - 1,):
            return None
        (vector,) = node.inputs
        whole = vector.shape == value.shape[-1:]
        return vector if whole and vector in self.steady else None

    def _read_once(self, value: Value) -> bool:
        once = len(self.graph.users.get(value, ())) == 1
        return once and not is_among(value, self.graph.results)
