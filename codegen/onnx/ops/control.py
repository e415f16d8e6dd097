"""Control flow: `scan` as Scan, `while` as Loop, `cond` as If.

A nested graph reads what is visible around it, so operands that all steps share are no inputs of
it, and keep the layout in which they are held. Carries enter and leave a step in one layout: the
one in which the body computes them, found by lowering the body once to see.

What stock ONNX Runtime 1.31 does, found by running each case at both optimization levels:

- Scan of 0 steps fails ("slice_dimension_ > 0"), and kills the process with SIGFPE where the
  scanned axis is not the first. So a Scan of symbolic length stands in an If that asks for it.
- Loop of 0 steps returns stacked outputs whose symbolic dimensions are 0. Scan is twice as fast
  besides (0.9 us a step against 2.0), so Loop serves `while` alone.
- A Scan needs an operand to scan; where there is none it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ....ir.graph import Graph, Node, Value
from ....ir.types import Dim, TensorType, boolean, i64
from ..emit import Emitter
from ..lowering import Lowering, Order, Tensor, lowering, plain
from .constant import count_to

Tensors = tuple[Tensor, ...]


def _arranged(type: TensorType, order: Order) -> TensorType:
    """The type of a value as it is held in an order of its axes."""
    return type.with_shape(type.shape[a] for a in order)


def _preferred(t: Tensor) -> Order:
    """The order in which a tensor is held, if it is held as a whole."""
    rank = t.type.ndim
    return t.order if len(t.order) == rank else tuple(range(rank))


def _stepped(
    carries: Sequence[Value], lower_body: Callable[[list[Order]], tuple[list[Order], Tensors]]
) -> Tensors:
    """Lower a loop whose carries stay in one order; once more if the body prefers another."""
    orders = [tuple(range(v.ndim)) for v in carries]
    preferred, results = lower_body(orders)
    return results if preferred == orders else lower_body(preferred)[1]


# --- scan ------------------------------------------------------------------------------------


@lowering("scan")
def _scan(ctx: Lowering, node: Node) -> Tensors:
    length = node.attrs["length"]
    if length == 0:
        like = tuple(plain("", v.type) for v in node.outputs)
        return _no_steps(ctx, node, like)
    if not isinstance(length, Dim):
        return _steps(ctx, node)
    some = ctx.e.op("Greater", ctx.size(length), ctx.e.ints(0), dtype=boolean)
    return branches(
        ctx, ctx.e.squeeze(some, [0]),
        lambda inner: _steps(inner, node), lambda inner, like: _no_steps(inner, node, like),
    )  # fmt: skip


def _no_steps(ctx: Lowering, node: Node, like: Tensors) -> Tensors:
    """What a scan of no slices returns: the carries, and stacks of nothing held as in `like`."""
    carry = node.attrs["carry"]
    results = [ctx[v] for v in node.inputs[:carry]]
    for t in like[carry:]:
        zero = ctx.e.const(0, t.type.dtype)
        results.append(Tensor(ctx.e.op("Expand", zero, ctx.sizes(t.shape)), *_held(t)))
    return tuple(results)


def _held(t: Tensor) -> tuple[TensorType, Order, tuple[int | Dim, ...]]:
    return t.type, t.order, t.shape


def _steps(ctx: Lowering, node: Node) -> Tensors:
    """A Scan of at least one slice."""
    carries = node.inputs[: node.attrs["carry"]]
    return _stepped(carries, lambda orders: _one_scan(ctx, node, orders))


def _one_scan(ctx: Lowering, node: Node, orders: list[Order]) -> tuple[list[Order], Tensors]:
    """A Scan with the carries in these orders; also the orders that the body prefers."""
    carry, stacked, body = (node.attrs[k] for k in ("carry", "stacked", "body"))
    e = ctx.e.nested(hoists=True)
    carried = [_input(e, v, order) for v, order in zip(body.inputs, orders, strict=False)]
    slices = _Slices(ctx, e, node)
    shared = [ctx[v] for v in node.inputs[carry + stacked :]]
    results = ctx.inline(body, [*carried, *slices.tensors, *shared], e)
    inner = ctx.within(e)
    last = [(inner.full(t, o), _arranged(t.type, o)) for t, o in zip(results, orders, strict=False)]
    stacks = _Stacks(ctx, e, results[carry:], node.attrs["length"])
    inputs = [(t.name, _arranged(t.type, t.order)) for t in carried] + slices.inputs
    outputs = last + stacks.outputs
    start = [ctx.full(v, o) for v, o in zip(node.inputs, orders, strict=False)]
    attrs: dict[str, object] = {"scan_input_axes": slices.axes} if any(slices.axes) else {}
    if node.attrs.get("reverse"):
        attrs["scan_input_directions"] = [1] * len(slices.sources)
        attrs |= {"scan_output_directions": [1] * len(stacks.outputs)} if stacks.outputs else {}
    names = ctx.e.region(
        "Scan", start + slices.sources, [t.dtype for _, t in outputs],
        {"body": e.body(inputs, outputs)}, num_scan_inputs=len(slices.sources), **attrs,
    )  # fmt: skip
    final = [ctx.held(n, v.type, o) for n, v, o in zip(names, node.outputs, orders, strict=False)]
    preferred = [_preferred(t) for t in results[:carry]]
    return preferred, (*final, *stacks.tensors(names[carry:]))


def _input(e: Emitter, value: Value, order: Order) -> Tensor:
    """An input of a nested graph that holds a value in an order."""
    name = e.input(value.name, value.dtype)
    return Tensor(name, value.type, order, tuple(value.shape[a] for a in order))


class _Slices:
    """The scanned operands: what Scan scans, along which axis, and how the body sees a slice.

    An operand that is the same in all slices (zeros, a broadcast) is not scanned; the body reads
    the one slice from outside.
    """

    def __init__(self, ctx: Lowering, e: Emitter, node: Node) -> None:
        carry, stacked, body = (node.attrs[k] for k in ("carry", "stacked", "body"))
        self.sources: list[str] = []
        self.axes: list[int] = []
        self.inputs: list[tuple[str, TensorType]] = []
        operands = zip(node.inputs[carry:], body.inputs[carry : carry + stacked], strict=False)
        self.tensors = [self._slice(ctx, e, ctx[x], value) for x, value in operands]
        if not self.sources:
            length = node.attrs["length"]
            self._scanned(e, count_to(ctx, length), 0, "step", i64())

    def _slice(self, ctx: Lowering, e: Emitter, x: Tensor, value: Value) -> Tensor:
        order = tuple(a - 1 for a in x.order if a != 0)
        if 0 not in x.axes:
            at = [x.order.index(0)] if 0 in x.order else []
            shape = tuple(d for i, d in enumerate(x.shape) if i not in at)
            return Tensor(ctx.e.squeeze(x.name, at), value.type, order, shape)
        axis = x.order.index(0)
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        name = self._scanned(e, x.name, axis, value.name, value.type.with_shape(shape))
        return Tensor(name, value.type, order, shape)

    def _scanned(self, e: Emitter, source: str, axis: int, stem: str, type: TensorType) -> str:
        name = e.input(stem, type.dtype)
        self.sources.append(source)
        self.axes.append(axis)
        self.inputs.append((name, type))
        return name


class _Stacks:
    """What the steps stack up, held as a step computes it; the same in all steps, it is not."""

    def __init__(self, ctx: Lowering, e: Emitter, results: Sequence[Tensor], length: int | Dim):
        self._results, self._length = results, length
        self._is_stacked = [e.owns(t.name) for t in results]
        self.outputs = [
            (t.name, t.type.with_shape(t.shape))
            for t, is_stacked in zip(results, self._is_stacked, strict=True)
            if is_stacked
        ]

    def tensors(self, names: Sequence[str]) -> Tensors:
        """The stacked values, given the names of Scan's outputs."""
        left = iter(names)
        found = []
        for t, is_stacked in zip(self._results, self._is_stacked, strict=True):
            type = t.type.with_shape((self._length, *t.type.shape))
            order = tuple(a + 1 for a in t.order)
            if is_stacked:
                found.append(Tensor(next(left), type, (0, *order), (self._length, *t.shape)))
            else:
                found.append(Tensor(t.name, type, order, t.shape))
        return tuple(found)


# --- while -----------------------------------------------------------------------------------


@lowering("while")
def _while(ctx: Lowering, node: Node) -> Tensors:
    carries = node.inputs[: node.attrs["carry"]]
    return _stepped(carries, lambda orders: _one_loop(ctx, node, orders))


def _one_loop(ctx: Lowering, node: Node, orders: list[Order]) -> tuple[list[Order], Tensors]:
    """A Loop with the carries in these orders; also the orders that the body prefers."""
    carry, condition, body = (node.attrs[k] for k in ("carry", "condition", "body"))
    shared = [ctx[v] for v in node.inputs[carry:]]
    e = ctx.e.nested(hoists=True)
    step, go = e.input("step", i64), e.input("go", boolean)
    carried = [_input(e, v, order) for v, order in zip(body.inputs, orders, strict=False)]
    results = ctx.inline(body, [*carried, *shared], e)
    (goes_on,) = ctx.inline(condition, [*results, *shared], e)
    inner = ctx.within(e)
    last = [(inner.full(t, o), _arranged(t.type, o)) for t, o in zip(results, orders, strict=True)]
    inputs = [(step, i64()), (go, boolean())]
    inputs += [(t.name, _arranged(t.type, t.order)) for t in carried]
    nested = e.body(inputs, [(inner.full(goes_on), boolean()), *last])
    (goes,) = ctx.inline(condition, [ctx[v] for v in node.inputs], ctx.e)
    start = [ctx.full(v, o) for v, o in zip(node.inputs, orders, strict=False)]
    names = ctx.e.region(
        "Loop", ["", ctx.full(goes), *start], [t.dtype for _, t in last], {"body": nested}
    )
    final = [ctx.held(n, v.type, o) for n, v, o in zip(names, node.outputs, orders, strict=True)]
    return [_preferred(t) for t in results], tuple(final)


# --- cond ------------------------------------------------------------------------------------


@lowering("cond")
def _cond(ctx: Lowering, node: Node) -> Tensors:
    predicate, *operands = (ctx[v] for v in node.inputs)

    def run(inner: Lowering, branch: Graph) -> Tensors:
        return tuple(ctx.inline(branch, operands, inner.e))

    return branches(
        ctx, ctx.full(predicate),
        lambda inner: run(inner, node.attrs["then"]),
        lambda inner, _: run(inner, node.attrs["otherwise"]),
    )  # fmt: skip


def branches(
    ctx: Lowering,
    predicate: str,
    then: Callable[[Lowering], Tensors],
    otherwise: Callable[[Lowering, Tensors], Tensors],
) -> Tensors:
    """An If; its results are held as `then` holds them, in full unless both hold them alike."""
    contexts = [ctx.within(ctx.e.nested(hoists=False)) for _ in range(2)]
    first = then(contexts[0])
    second = otherwise(contexts[1], first)
    results: list[Tensor] = []
    outputs: list[list[tuple[str, TensorType]]] = [[], []]
    for a, b in zip(first, second, strict=True):
        order, shape = a.order, a.shape
        names = [a.name, b.name]
        if (order, shape) != (b.order, b.shape):
            order = _preferred(a)
            shape = tuple(a.type.shape[i] for i in order)
            names = [c.full(t, order) for c, t in zip(contexts, (a, b), strict=True)]
        results.append(Tensor("", a.type, order, shape))
        for side, name in zip(outputs, names, strict=True):
            side.append((name, a.type.with_shape(shape)))
    bodies = [c.e.body([], side) for c, side in zip(contexts, outputs, strict=True)]
    found = ctx.e.region(
        "If", [predicate], [t.type.dtype for t in results],
        {"then_branch": bodies[0], "else_branch": bodies[1]},
    )  # fmt: skip
    return tuple(Tensor(n, *_held(t)) for n, t in zip(found, results, strict=True))
