"""Batching: a graph for one example becomes nodes that compute many at once.

    graph f(%x: f32[3], %w: f32[3,4])            for 8 of %x and one %w:
      %0 = tanh(%x)                              %0: f32[8,3] = tanh(%x)
      %1 = matmul(%0, %w)                  ->    %1: f32[8,4] = matmul(%0, %w)

Most ops work on an axis more, in front, with their axes moved by one: then a batch costs what the
op costs on so many elements, and an operand that all examples share is repeated only where the op
needs it. An op without a rule, such as a `while` whose examples take different numbers of steps,
runs in a `scan` of its own over the examples: right, but one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .builder import Builder, emit
from .graph import Graph, Node, Value, outline
from .op import get
from .sugar import broadcast_to, reshape, select, transpose
from .types import Size


@dataclass(frozen=True, eq=False)
class Batched:
    """A value, and whether it has one slice for each example along its first axis."""

    value: Value
    many: bool


def batch(
    graph: Graph, arguments: Sequence[Value], many: Sequence[bool], size: Size
) -> list[Value]:
    """Emit `graph` for `size` examples into the current builder.

    Parameters
    ----------
    arguments : sequence of Value
        For each input either the value of all examples, or theirs along a first axis more.
    many : sequence of bool
        Which arguments have that axis.

    Returns
    -------
    list of Value
        The outputs, each with that axis.
    """
    given = [Batched(v, m) for v, m in zip(arguments, many, strict=True)]
    return [_repeated(x, size) for x in _run(graph, given, size)]


def _run(graph: Graph, arguments: Sequence[Batched], size: Size) -> list[Batched]:
    values = dict(zip(graph.inputs, arguments, strict=True))
    for node in graph.nodes:
        operands = [values[v] for v in node.inputs]
        values.update(zip(node.outputs, _node(node, operands, size), strict=True))
    return [values[v] for v in graph.outputs]


def _node(node: Node, operands: Sequence[Batched], size: Size) -> list[Batched]:
    if not any(x.many for x in operands):
        outputs = emit(node.op, [x.value for x in operands], node.attrs)
        return [Batched(v, False) for v in outputs]
    rule = _RULES.get(node.op.name)
    found = rule(node, operands, size) if rule else None
    if found is None and (node.op.kind == "elementwise" or node.op.name in _MOVED):
        attrs = _MOVED.get(node.op.name, _same)(dict(node.attrs), node, size)
        found = emit(node.op, [_repeated(x, size) for x in operands], attrs)
    if found is None:
        found = _one_by_one(node, operands, size)
    return [x if isinstance(x, Batched) else Batched(x, True) for x in found]


def has_rule(node: Node) -> bool:
    """Whether a batch of the node is one node or a few, not one for each example in turn."""
    name = node.op.name
    return node.op.kind == "elementwise" or name in _MOVED or name in _RULES or not node.inputs


def _repeated(x: Batched, size: Size) -> Value:
    return x.value if x.many else broadcast_to(x.value, (size, *x.value.shape))


def _one_by_one(node: Node, operands: Sequence[Batched], size: Size) -> Sequence[Value]:
    """A scan over the examples, whose body is the node."""
    order = [i for many in (True, False) for i, x in enumerate(operands) if x.many == many]
    inputs = [Value(node.inputs[i].type) for i in order]
    by_position = dict(zip(order, inputs, strict=True))
    copy = Node(node.op, [by_position[i] for i in range(len(order))], node.attrs, node.source)
    body = outline(node.op.name, {v: f"p{i}" for i, v in enumerate(inputs)},
                   {f"r{i}": v for i, v in enumerate(copy.outputs)})  # fmt: skip
    return get("scan").all(
        *(operands[i].value for i in order), body=body, carry=0,
        stacked=sum(x.many for x in operands), length=size,
    )  # fmt: skip


# --- ops that get their axes moved -----------------------------------------------------------

Attrs = dict[str, Any]


def _same(attrs: Attrs, node: Node, size: Size) -> Attrs:
    return attrs


def _axis(attrs: Attrs, node: Node, size: Size) -> Attrs:
    return attrs | {"axis": attrs["axis"] + 1}


def _axes(attrs: Attrs, node: Node, size: Size) -> Attrs:
    return attrs | {"axes": tuple(a + 1 for a in attrs["axes"])}


def _broadcast(attrs: Attrs, node: Node, size: Size) -> Attrs:
    axes = (0, *(a + 1 for a in attrs["axes"]))
    return {"shape": (size, *attrs["shape"]), "axes": axes}


def _reshape(attrs: Attrs, node: Node, size: Size) -> Attrs:
    return {"shape": (size, *attrs["shape"])}


def _transpose(attrs: Attrs, node: Node, size: Size) -> Attrs:
    return {"permutation": (0, *(a + 1 for a in attrs["permutation"]))}


def _slice(attrs: Attrs, node: Node, size: Size) -> Attrs:
    return {"starts": (0, *attrs["starts"]), "limits": (size, *attrs["limits"]),
            "strides": (1, *attrs["strides"])}  # fmt: skip


def _pad(attrs: Attrs, node: Node, size: Size) -> Attrs:
    first = {name: (0, *attrs[name]) for name in ("low", "high", "interior")}
    return attrs | first


_MOVED: dict[str, Callable[[Attrs, Node, Size], Attrs]] = {
    "broadcast": _broadcast, "reshape": _reshape, "transpose": _transpose, "slice": _slice,
    "pad": _pad, "reverse": _axes,
    **dict.fromkeys(("concat", "cumsum", "cumprod", "cummax", "cummin", "linear_recurrence",
                     "argmax", "argmin", "sort", "argsort", "take_along",
                     "scatter_add_along"), _axis),
    **dict.fromkeys(("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_any",
                     "reduce_all"), _axes),
    # work on the last axes, and on any number before them
    **dict.fromkeys(("matmul", "cholesky", "triangular_solve", "lu", "qr", "eigh", "svd", "fft",
                     "top_k", "optimization_barrier"), _same),
}  # fmt: skip

# --- ops with a rule of their own ------------------------------------------------------------

Found = Sequence[Value | Batched] | None


def _dimension_size(node: Node, operands: Sequence[Batched], size: Size) -> Found:
    """The same number for all examples."""
    (x,) = operands
    return [Batched(get("dimension_size")(x.value, axis=node.attrs["axis"] + 1), False)]


def _matmul(node: Node, operands: Sequence[Batched], size: Size) -> Found:
    """Examples of matrices with one right-hand side are one taller matrix."""
    a, b = operands
    if b.many or b.value.ndim != 2 or node.attrs.get("transpose_a", False):
        return None
    rows, inner = a.value.shape[1:]
    product = emit(node.op, [reshape(a.value, (size * rows, inner)), b.value], node.attrs)[0]
    return [reshape(product, (size, rows, product.shape[-1]))]


def _merged_batches(node: Node, operands: Sequence[Batched], size: Size) -> Found:
    """An op on a batch of images: examples and images are one batch, kernels are shared."""
    images = [0, 1] if node.op.name == "max_pool_grad" else [0]
    if any(x.many for i, x in enumerate(operands) if i not in images):
        return None
    count = node.inputs[0].shape[0]
    merged = [reshape(v := _repeated(x, size), (size * count, *v.shape[2:])) if i in images
              else x.value for i, x in enumerate(operands)]  # fmt: skip
    attrs = dict(node.attrs)
    if "input_shape" in attrs:
        attrs["input_shape"] = (size * count, *attrs["input_shape"][1:])
    (out,) = emit(node.op, merged, attrs)
    return [reshape(out, (size, count, *out.shape[1:]))]


def _gather(node: Node, operands: Sequence[Batched], size: Size) -> Found:
    """Rows of one table for many indices, or the same rows of many tables."""
    x, indices = operands
    axis = node.attrs["axis"]
    if not indices.many:
        return emit(node.op, [x.value, indices.value], {"axis": axis + 1})
    if x.many:
        return None
    (out,) = emit(node.op, [x.value, indices.value], node.attrs)
    order = [axis, *(a for a in range(out.ndim) if a != axis)]
    return [transpose(out, order)]


def _cond(node: Node, operands: Sequence[Batched], size: Size) -> Found:
    """With one predicate the branches are batched; else both run and each example selects."""
    predicate, *rest = operands
    branches = node.regions["then"], node.regions["otherwise"]
    if not predicate.many:
        bodies = [_body(branch, rest, size) for branch in branches]
        values = [predicate.value, *(x.value for x in rest)]
        return emit(node.op, values, dict(zip(("then", "otherwise"), bodies, strict=True)))
    if not all(map(_ends, branches)):
        return None
    first, second = ([_repeated(x, size) for x in _run(b, rest, size)] for b in branches)
    return [_chosen(predicate.value, v, w) for v, w in zip(first, second, strict=True)]


def _chosen(predicate: Value, v: Value, w: Value) -> Value:
    ones = (1,) * (v.ndim - 1)
    return select(broadcast_to(reshape(predicate, (*predicate.shape, *ones)), v.shape), v, w)


def _ends(graph: Graph) -> bool:
    """Whether the graph may run where it was not chosen: a `while` then may go on for ever."""
    return all(node.op.name != "while" and all(map(_ends, node.regions.values()))
               for node in graph.nodes)  # fmt: skip


def _body(region: Graph, arguments: Sequence[Batched], size: Size) -> Graph:
    """A region for all examples, which all its outputs have."""
    inputs = [
        Value(v.type.with_shape((size, *v.shape)) if x.many else v.type, name=v.name)
        for v, x in zip(region.inputs, arguments, strict=True)
    ]
    with Builder(region.name):
        outputs = batch(region, inputs, [x.many for x in arguments], size)
    return outline(region.name, {v: f"p{i}" for i, v in enumerate(inputs)},
                   {f"r{i}": v for i, v in enumerate(outputs)})  # fmt: skip


def _scan(node: Node, operands: Sequence[Batched], size: Size) -> Found:
    """The steps of all examples at once: the examples' axis comes after that of the steps."""
    carry, end = node.attrs["carry"], node.attrs["carry"] + node.attrs["stacked"]
    carries = [Batched(_repeated(x, size), True) for x in operands[:carry]]
    slices = [Batched(_swapped(x.value), True) if x.many else x for x in operands[carry:end]]
    rest = [*carries, *slices, *operands[end:]]
    body = _body(node.regions["body"], rest, size)
    outputs = emit(node.op, [x.value for x in rest], {**node.attrs, "body": body})
    return [*outputs[:carry], *map(_swapped, outputs[carry:])]


def _swapped(x: Value) -> Value:
    return transpose(x, (1, 0, *range(2, x.ndim)))


_RULES: dict[str, Callable[[Node, Sequence[Batched], Size], Found]] = {
    "dimension_size": _dimension_size, "matmul": _matmul, "gather": _gather, "cond": _cond,
    "scan": _scan,
    **dict.fromkeys(("conv", "conv_input_grad", "max_pool", "max_pool_grad", "avg_pool",
                     "avg_pool_grad"), _merged_batches),
}  # fmt: skip
