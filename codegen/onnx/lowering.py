"""Lowering context: how each IR value is held in the ONNX model, and the ops' registry.

ONNX operators broadcast, and convolutions want NCHW, so a value need not be held as it is. A
`Tensor` says which ONNX tensor stands for a value, which of the value's axes it has and in what
order. So `broadcast` and `transpose` cost nothing until an operator needs the real thing:

    %1 = broadcast[axes=(3,), shape=(N,26,26,32)](%bias)    # the ONNX tensor stays f32[32]
    %2 = add(%conv, %1)                                     # %conv is held as N,C,H,W

Layouts therefore travel through elementwise operators, reductions and pools by themselves, and
a Transpose appears only where a convolutional part of a model begins and ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.errors import HornfelsError, LoweringError
from ...ir.graph import Graph, Node, Value
from ...ir.op import CODE, Reason
from ...ir.sugar import cast
from ...ir.types import Dim, Factor, Shape, Size, TensorType, f64, i64, substitute, symbol
from .emit import Emitter

Order = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """An ONNX tensor that broadcasts to a value.

    Attributes
    ----------
    name : str
    type : TensorType
        Of the value that it stands for.
    order : tuple of int
        Axis i of the ONNX tensor is axis `order[i]` of the value; the value is constant along
        the axes that are missing.
    shape : tuple of Size
        Of the ONNX tensor: each the value's size, or 1 where the value is constant.
    """

    name: str
    type: TensorType
    order: Order
    shape: Shape

    @property
    def axes(self) -> frozenset[int]:
        """The axes along which the numbers may differ."""
        return frozenset(a for a, size in zip(self.order, self.shape, strict=True) if size != 1)


def plain(name: str, type: TensorType) -> Tensor:
    """A tensor that holds its value as it is."""
    return Tensor(name, type, tuple(range(type.ndim)), type.shape)


Lowered = Callable[["Lowering", Node], "Tensor | tuple[Tensor, ...]"]
LOWERINGS: dict[str, Lowered] = {}
"""Functions of `ops/<family>.py` by IR op name."""


def lowering(*names: str) -> Callable[[Lowered], Lowered]:
    """Register how IR ops become ONNX nodes."""

    def register(function: Lowered) -> Lowered:
        for name in names:
            assert name not in LOWERINGS, name
            LOWERINGS[name] = function
        return function

    return register


Composed = Value | tuple[Value, ...]
Pattern = Callable[["Lowering", Node], Tensor | None]
PATTERNS: dict[str, list[Pattern]] = {}
"""Functions of `patterns.py` by the name of the op that they end in."""


def pattern(op: str) -> Callable[[Pattern], Pattern]:
    """Register a pattern that ends in `op`."""

    def register(function: Pattern) -> Pattern:
        PATTERNS.setdefault(op, []).append(function)
        return function

    return register


def pointwise(*names: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Register an elementwise op by `function(emitter, *operand_names, node)`."""

    def register(function: Callable[..., str]) -> Callable[..., str]:
        def lowered(ctx: Lowering, node: Node) -> Tensor:
            operands = ctx.operands(node)
            return ctx.pointwise(lambda *xs: function(ctx.e, *xs, node), operands, node.output.type)

        lowering(*names)(lowered)
        return function

    return register


def compose(ctx: Lowering, node: Node, function: Callable[..., Composed]) -> tuple[Tensor, ...]:
    """Lower what `function(*values, **attrs)` emits into the IR in place of a node."""
    with Builder(node.op.name) as b, b.at(node.source):
        operands = [b.input(f"x{i}", v.type) for i, v in enumerate(node.inputs)]
        result = function(*operands, **node.attrs)
        results = result if isinstance(result, tuple) else (result,)
        graph = b.finish({f"y{i}": v for i, v in enumerate(results)})
    return tuple(ctx.inline(graph, [ctx[v] for v in node.inputs], ctx.e))


def composition(*names: str) -> Callable[[Callable[..., Composed]], Callable[..., Composed]]:
    """Register ops by `function(*values, **attrs)`, which emits other ops of the IR."""

    def register(function: Callable[..., Composed]) -> Callable[..., Composed]:
        lowering(*names)(lambda ctx, node: compose(ctx, node, function))
        return function

    return register


def composition_of_doubles(*names: str) -> Callable[[Callable[..., Composed]], Any]:
    """As `composition` for f64, of which the runtime's operator of that name has no kernel.

    Ops that are declared without such an operator are computed in f64 whatever their dtype.
    """

    def register(function: Callable[..., Composed]) -> Callable[..., Composed]:
        def lowered(ctx: Lowering, node: Node) -> Tensor | tuple[Tensor, ...]:
            dtype = node.output.dtype
            if dtype != f64 and node.op.onnx != CODE:
                return ctx.by_name(node)
            return compose(
                ctx, node, lambda *xs: cast(function(*(cast(x, f64) for x in xs)), dtype)
            )

        lowering(*names)(lowered)
        return function

    return register


class Lowering:
    """State of one lowering: the emitter, and the tensor that holds each value.

    A body of control flow is lowered in a context of its own, whose `root` is that of the model.
    """

    def __init__(self, graph: Graph, names: Mapping[Value, str]) -> None:
        self.graph = graph
        self.names = names
        self.root = self
        self.e = Emitter()
        self.tensors: dict[Value, Tensor] = {}
        self._state_shapes = {v.shape for v in graph.state if v.ndim > 2}
        for value in graph.parameters:
            self.e.reserve(value.name, value.dtype)
            self.tensors[value] = plain(value.name, value.type)

    def within(self, e: Emitter, graph: Graph | None = None) -> Lowering:
        """A context for a body (or for more of this graph) that emits into `e`."""
        inner = copy(self)
        inner.e, inner.graph = e, graph or self.graph
        inner.tensors = dict(self.tensors) if graph is None else {}
        return inner

    def inline(self, graph: Graph, operands: Sequence[Tensor], e: Emitter) -> list[Tensor]:
        """Lower a body's nodes into `e`; the tensors of its outputs."""
        inner = self.within(e, graph)
        inner.tensors.update(zip(graph.inputs, operands, strict=True))
        layer, location = e.layer, e.location
        inner.run()
        e.layer, e.location = layer, location
        return [inner[v] for v in graph.outputs]

    def __getitem__(self, value: Value) -> Tensor:
        return self.tensors[value]

    # --- nodes -------------------------------------------------------------------------------

    def run(self) -> None:
        """Lower all nodes of the graph."""
        for node in self.graph.nodes:
            self.e.layer, self.e.location = node.source.layer, node.source.where
            try:
                result = self._by_pattern(node) or self._by_registry(node)
            except HornfelsError as error:
                raise error.at(node.source.where) from None
            tensors = result if isinstance(result, tuple) else (result,)
            self.tensors.update(zip(node.outputs, tensors, strict=True))

    def _by_pattern(self, node: Node) -> Tensor | None:
        """The first pattern that ends in this node; what it skips is dropped as unused."""
        for candidate in PATTERNS.get(node.op.name, ()):
            result = candidate(self, node)
            if result is not None:
                return result
        return None

    def _by_registry(self, node: Node) -> Tensor | tuple[Tensor, ...]:
        """The registered function, or the standard operator of the same meaning."""
        op = node.op
        if op.name in LOWERINGS:
            return LOWERINGS[op.name](self, node)
        if isinstance(op.onnx, Reason):
            raise LoweringError(f"onnx: {op.name} cannot be expressed: {op.onnx.text}",
                                hint="use backend='tvm' or 'eager'")  # fmt: skip
        if op.kind != "elementwise" or op.onnx == CODE:
            raise LoweringError(f"onnx: {op.name} has no lowering in codegen/onnx/ops")
        return self.by_name(node)

    def by_name(self, node: Node) -> Tensor:
        """An elementwise node as the operator that its declaration names."""
        operator, out = str(node.op.onnx), node.output
        return self.pointwise(
            lambda *xs: self.e.op(operator, *xs, dtype=out.dtype, **node.attrs),
            self.operands(node),
            out.type,
        )

    def operands(self, node: Node) -> list[Tensor]:
        """The operands of an elementwise node; factors that f32 would round are made vectors.

        ONNX Runtime 1.31 makes a constant number by which a MatMul is multiplied an attribute of
        it, which is f32, also for f64 (MatMulScaleFusion; found by the fuzzer).
        """
        found = [self[v] for v in node.inputs]
        if node.op.name not in ("mul", "div") or node.output.dtype != f64:
            return found
        return [self._spread(t) if self._is_rounded(t) else t for t in found]

    def _is_rounded(self, t: Tensor) -> bool:
        """Whether it is a constant number that is none in f32."""
        array = self.e.arrays.get(t.name)
        if array is None or array.size != 1:
            return False
        with np.errstate(over="ignore"):
            return bool((array.astype(np.float32) != array).all())

    def _spread(self, t: Tensor) -> Tensor:
        """A constant number along the last axis that has several elements."""
        axis = next((a for a in reversed(range(t.type.ndim)) if t.type.shape[a] != 1), None)
        if axis is None:
            return t
        size, number = t.type.shape[axis], self.e.arrays[t.name].reshape(1)
        if isinstance(size, int):
            name = self.e.const(np.repeat(number, size))
        else:
            name = self.e.op("Expand", self.e.const(number), self.size(size))
        return Tensor(name, t.type, (axis,), (size,))

    # --- sizes -------------------------------------------------------------------------------

    def size(self, size: Size) -> str:
        """A dimension as an i64 vector of one element; symbols are read off the inputs."""
        if isinstance(size, int):
            return self.e.ints(size)
        total = ""
        for monomial, c in size.terms:
            term = self.e.ints(c) if c != 1 or not monomial else ""
            for factor in monomial:
                size = self._factor(factor)
                term = self.e.op("Mul", term, size) if term else size
            total = self.e.op("Add", total, term) if total else term
        return total

    def _factor(self, factor: Factor) -> str:
        """A factor of a dimension; `Div` rounds towards zero, which is down for sizes."""
        if isinstance(factor, str):
            return self._symbol(factor)
        return self.e.op("Div", self.size(factor.dividend), self.e.ints(factor.divisor))

    def _symbol(self, name: str) -> str:
        """The value of a symbol: the size of an input's axis, solved for it if need be."""
        if self.root is not self:
            return self.root._symbol(name)
        for value in self.graph.parameters:
            for axis, size in enumerate(value.shape):
                if size == symbol(name):
                    return self.e.shape_of(value.name, axis)
        for value in self.graph.parameters:
            for axis, size in enumerate(value.shape):
                if isinstance(size, Dim) and size.symbols == {name}:
                    base = substitute(size, {name: 0})
                    slope = substitute(size, {name: 1}) - base
                    if size != symbol(name) * slope + base:
                        continue
                    found = self.e.shape_of(value.name, axis)
                    offset = self.e.op("Sub", found, self.size(base)) if base != 0 else found
                    return self.e.op("Div", offset, self.size(slope))
        raise LoweringError(f"onnx: symbol {name} is no dimension of an input of the graph",
                            where=self.e.location, hint=f"specialize {name} first")  # fmt: skip

    def sizes(self, shape: Shape) -> str:
        """A shape as an i64 vector."""
        if all(isinstance(d, int) for d in shape):
            return self.e.ints(*map(int, shape))
        return self.e.op("Concat", *(self.size(d) for d in shape), dtype=i64, axis=0)

    def reshape(self, name: str, shape: Shape) -> str:
        """Reshape an ONNX tensor; one symbolic size is left to the runtime to infer."""
        symbolic = [d for d in shape if isinstance(d, Dim)]
        if name in self.e.arrays:
            return self.e.const(self.e.arrays[name].reshape([int(d) for d in shape]))
        if 0 in shape:
            return self.e.op("Reshape", name, self.sizes(shape), allowzero=1)
        if len(symbolic) > 1:
            return self.e.op("Reshape", name, self.sizes(shape))
        sizes = [-1 if isinstance(d, Dim) else d for d in shape]
        return self.e.op("Reshape", name, self.e.ints(*sizes))

    # --- layouts -----------------------------------------------------------------------------

    def arrange(self, t: Tensor, target: Order) -> tuple[str, Order, Shape]:
        """Bring a tensor into an order of the value's axes; axes missing in front stay missing."""
        present = tuple(a for a in target if a in t.order)
        name = self.e.transpose(t.name, [t.order.index(a) for a in present])
        if not present:
            return name, (), ()
        order = target[target.index(present[0]) :]
        name = self.e.unsqueeze(name, [i for i, a in enumerate(order) if a not in present])
        sizes = dict(zip(t.order, t.shape, strict=True))
        return name, order, tuple(sizes.get(a, 1) for a in order)

    def full(self, x: Value | Tensor, order: Order | None = None) -> str:
        """The ONNX tensor of all elements, its axes in `order` (by default as in the value)."""
        t = self[x] if isinstance(x, Value) else x
        order = tuple(range(t.type.ndim)) if order is None else order
        name, found, shape = self.arrange(t, order)
        wanted = tuple(t.type.shape[a] for a in order)
        missing = len(order) - len(found)
        if 0 in wanted and t.type.is_static:  # ONNX Runtime repeats one element 0 times wrongly
            return self.e.const(np.zeros(wanted, t.type.dtype.numpy))
        if (1,) * missing + shape == wanted:
            return self.e.unsqueeze(name, list(range(missing)))
        return self.e.op("Expand", name, self.sizes(wanted))

    def whole(self, x: Value | Tensor) -> Tensor:
        """The tensor of all elements, in the order in which it is held."""
        t = self[x] if isinstance(x, Value) else x
        order = t.order if len(t.order) == t.type.ndim else tuple(range(t.type.ndim))
        return self.held(self.full(t, order), t.type, order)

    def held(self, name: str, type: TensorType, order: Order) -> Tensor:
        """A tensor of all elements of a value in an order of its axes."""
        return Tensor(name, type, order, tuple(type.shape[a] for a in order))

    def order_for(self, operands: Sequence[Tensor]) -> Order:
        """The order in which an elementwise operator runs: that of its largest operand.

        Weights (anything shaped like the state) run as they are stored, so that an optimizer
        transposes a gradient once; between two activations the convolutional layout wins.
        """
        rank = operands[0].type.ndim
        canonical = tuple(range(rank))
        if operands[0].type.shape in self._state_shapes:
            return canonical
        most = max(len(t.axes) for t in operands)
        for t in operands:
            if len(t.axes) == most and tuple(sorted(t.order)) != t.order:
                return tuple(a for a in canonical if a not in t.order) + t.order
        return canonical

    def pointwise(
        self, emit: Callable[..., str], operands: Sequence[Tensor], type: TensorType
    ) -> Tensor:
        """Run an elementwise computation on operands brought into one order."""
        target = self.order_for(operands)
        arranged = [self.arrange(t, target) for t in operands]
        name = emit(*(name for name, _, _ in arranged))
        rank = max(len(order) for _, order, _ in arranged)
        order = target[len(target) - rank :]
        shape: list[Size] = [1] * rank
        for _, _, sizes in arranged:
            for i, size in enumerate(sizes):
                at = rank - len(sizes) + i
                shape[at] = size if size != 1 else shape[at]
        return Tensor(name, type, order, tuple(shape))

    def renamed(self, t: Tensor, type: TensorType, axes: Sequence[int]) -> Tensor:
        """The same ONNX tensor standing for a value whose axis `axes[i]` was axis i."""
        return replace(t, type=type, order=tuple(axes[a] for a in t.order))
