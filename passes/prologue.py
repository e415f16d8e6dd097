"""Prologues: operands that a convolution computes as it loads them, and that nobody stores.

    %a = mul(%x, broadcast(%scale))           conv:     reads %x, %scale, %shift
    %b = add(%a, broadcast(%shift))     ->              and computes %r as it loads it
    %r = relu(%b)
    %c = conv(%r, %w)

What a batch normalization multiplies by is known only when all of `%x` is, so the kernel that
computes `%x` cannot apply it. A kernel of its own reads `%x` and writes `%r`, for the convolution,
for the gradient of its kernel, and for the mask of its own gradient, which reads `%x` besides. All
of them can compute `%r` from `%x`, which is in memory anyway: templates do so where they copy or
transform an operand (`Computed` in `codegen/tvm/emit.py`), and nothing is kept of `%r` from the
forward to the backward half.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..ir.graph import Graph, Node, Value
from ..ir.types import f32, f64
from .outline import VIEWS

COST = 8
"""Simple operations of an element, which each reader does again."""
LEAST_BYTES = 1 << 18
"""Less is read and written in a few microseconds."""

_LOADS = {"conv": (0,), "conv_input_grad": (0,), "conv_kernel_grad": (0, 1)}
"""The operands that templates can compute as they load them."""
_SIMPLE = frozenset({
    "add", "sub", "mul", "neg", "abs", "relu", "maximum", "minimum", "select", "cast",
    "less", "less_equal", "greater", "greater_equal", "equal", "not_equal",
    "broadcast", "reshape", "constant", "stop_gradient",
})  # fmt: skip
_READS = frozenset({"contraction", "window", "opaque", "region"})


def loadable(graph: Graph) -> set[Value]:
    """The values that are asked for in memory by convolutions alone, which could compute them."""
    found: set[Value] = set()
    refused = set(graph.results)
    for node in graph.nodes:
        if node.op.kind not in _READS:
            continue
        places = _places(node)
        for position, value in enumerate(node.inputs):
            loads = position in places and _is_computed(value)
            (found if loads else refused).add(value)
    return found - refused


def _places(node: Node) -> tuple[int, ...]:
    """The operands that a template computes as it loads them.

    Where each channel has weights of its own an element goes into few products, and is computed
    again for each row of taps. That pays for images; with strides of 2, where fewer taps meet an
    element, both kernels took 3.3 ms more for 8 images of 112 x 112 x 96, and the pass that is
    saved takes 2.
    """
    places = _LOADS.get(node.op.name, ())
    if not places or node.attrs["groups"] == 1:
        return places
    kernel = node.output if node.op.name == "conv_kernel_grad" else node.inputs[1]
    own = kernel.shape[-2] == 1 and kernel.shape[-1] == node.attrs["groups"]
    dense = all(step == 1 for step in node.attrs["strides"])
    is_image = node.op.name != "conv_input_grad"
    return (0,) if own and dense and is_image else ()


def _is_computed(value: Value) -> bool:
    if value.node is None or value.node.op.kind != "elementwise" or value.node.op.name in VIEWS:
        return False
    return value.dtype in (f32, f64)


def pays(value: Value, leaves: Collection[Value], cost: int) -> bool:
    """Whether to compute a loadable value where it is loaded is faster than to store it.

    It must be computed of one array of its size, which has to be complete before (or the kernel
    that makes it would do that in its epilogue), and of less.

    Parameters
    ----------
    value : Value
    leaves : collection of Value
        What it is computed of.
    cost : int
        Simple operations of an element.
    """
    if cost > COST or value.type.nbytes < LEAST_BYTES:
        return False
    large = [v for v in leaves if v.type.size * 2 > value.type.size]
    if len(large) != 1 or large[0].type.size != value.type.size:
        return False
    nodes = {v.node for v in _before([value], leaves)} - {v.node for v in leaves}
    if not all(node is None or node.op.name in _SIMPLE for node in nodes):
        return False
    return large[0] in _before([v for v in leaves if v is not large[0]], large)


def _before(values: Iterable[Value], stop: Collection[Value]) -> set[Value]:
    """Some values and what they are computed of, up to those in `stop`."""
    found, stop = set(values), set(stop)
    pending = [v for v in found if v not in stop]
    while pending:
        node = pending.pop().node
        new = {v for v in node.inputs if v not in found} if node is not None else set()
        found |= new
        pending.extend(v for v in new if v not in stop)
    return found
