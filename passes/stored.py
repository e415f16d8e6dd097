"""Which values of a graph go through memory; every other node is computed inside of kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..ir.graph import Graph, Node, Value
from .derivatives import derivatives
from .outline import BARRIER, POINTWISE, VIEWS, is_scalar_constant
from .prologue import loadable, pays

ROOTED = frozenset({"contraction", "window", "opaque", "region"})
RECOMPUTE_COST = 8
"""A value of several users is computed again by each if that takes at most so many simple
operations and reads no more memory than the value itself would."""
STREAMED_COST = 20
STREAMED_BYTES = 4 << 20
"""Of so many bytes a value comes from far away, and more operations take no longer than it: the
error function of a GELU between two matrix products is cheaper to compute twice (5 % of both
products and a sixth of the memory of a transformer's step) than to store."""

JOINED_ELEMENTS = 4096
"""So large a concatenation is stored where several nodes use it: loops over one array of it alone
are cut where the next operand begins, but reductions choose between operands for each element.
Statistics of a batch over 224 and 32 channels and what they normalize take a fifth of the time."""

READ_AT_COMPUTED = {"gather": 0, "take_along": 0, "dynamic_slice": 0, "dynamic_update": 1}
"""The operand that an op reads at positions which are known only when the code runs."""

_FREE = frozenset({
    "constant", "broadcast", "reshape", "transpose", "slice", "reverse", "iota",
    "stop_gradient", "dimension_size", BARRIER,
})  # fmt: skip
_COSTS = {
    "div": 4, "remainder": 6, "sqrt": 4, "rsqrt": 4, "exp": 10, "expm1": 12, "log": 12,
    "log1p": 14, "sin": 40, "cos": 40, "tanh": 14, "sigmoid": 12, "erf": 14, "pow": 24,
    "gather": 2, "take_along": 2, "rng_bits": 80, "tan": 44, "asin": 14, "acos": 14, "atan": 16,
    "atan2": 24, "sinh": 20, "cosh": 14, "asinh": 24, "acosh": 24, "atanh": 20, "exp2": 10,
    "log2": 12, "log10": 12, "cbrt": 20, "erfc": 40, "erf_inv": 40,
}  # fmt: skip


def cost(node: Node) -> int:
    """Roughly how many simple vector operations one element takes."""
    return 0 if node.op.name in _FREE else _COSTS.get(node.op.name, 1)


@dataclass(frozen=True)
class _Inlined:
    """A value that is not stored: what computing one element takes."""

    cost: int
    leaves: frozenset[Value]  # the stored values that it reads
    joins: bool = False  # whether it lies in one operand of a large concatenation or another


def choose_stored(graph: Graph, steady: Collection[Value] = frozenset()) -> dict[Value, None]:
    """The computed values that go through memory, in running order; views are not among them.

    Stored are results, what roots compute and read, what is broadcast or gathered from (or it
    would be computed once per copy), and what several nodes use, unless it is cheap to compute
    again. Of what is `steady` (see `passes.steady`), what others read is stored if keeping it takes
    no more memory than what it is computed from, or if computing it takes long. In place of a cast
    to a wider dtype lies what is cast.
    """
    loaded = loadable(graph)
    needed = _needed_in_memory(graph, loaded)
    stored: dict[Value, None] = {}
    inlined: dict[Value, _Inlined] = {}
    for node in graph.nodes:
        operands = [inlined.get(v) or _Inlined(0, _leaf(v)) for v in node.inputs]
        whole = _Inlined(
            cost(node) + sum(o.cost for o in operands),
            frozenset().union(*(o.leaves for o in operands)),
            any(o.joins for o in operands) or _joins(node),
        )
        for value in node.outputs:
            if value in loaded and not pays(value, whole.leaves, whole.cost):
                needed[value] = True
            if node.op.kind not in POINTWISE:
                stored[value] = None
            elif is_view(value, stored) or value.is_constant:
                continue  # lies where its source lies
            elif node.op.name not in VIEWS and (
                _store(graph, value, whole, needed) or _keep(graph, value, whole, steady)
            ):
                narrow = _narrow(node, inlined)
                if narrow is None or needed.get(value):
                    stored[value] = None
                else:
                    stored[narrow] = None
                    del inlined[narrow]
                    inlined[value] = _Inlined(cost(node), _leaf(narrow))
            else:
                inlined[value] = whole
    stored.update(dict.fromkeys(derivatives(graph, stored, cost, RECOMPUTE_COST)))
    # What stands in place of another value was found out behind what reads it.
    return {v: None for node in graph.nodes for v in node.outputs if v in stored}


def _store(graph: Graph, value: Value, whole: _Inlined, needed: Mapping[Value, bool]) -> bool:
    if value in needed and (needed[value] or whole.cost):
        return True
    return len(_users(graph, value)) > 1 and not _cheap(value, whole)


def _narrow(node: Node, inlined: Mapping[Value, _Inlined]) -> Value | None:
    """What is stored in place of a cast to a wider dtype: half of the memory, the same numbers."""
    (source,) = node.inputs if node.op.name == "cast" else (node.outputs[0],)
    return source if source in inlined and source.dtype.bits < node.output.dtype.bits else None


def _keep(graph: Graph, value: Value, whole: _Inlined, steady: Collection[Value]) -> bool:
    """Whether a steady value that others read is to be computed once and kept."""
    if value not in steady or not whole.cost:
        return False
    if all(user.outputs[0] in steady for user in _users(graph, value)):
        return False
    nbytes = int(value.type.nbytes)
    if nbytes <= sum(int(leaf.type.nbytes) for leaf in whole.leaves):
        return True
    return whole.cost > RECOMPUTE_COST and nbytes <= STREAMED_BYTES


def _users(graph: Graph, value: Value) -> set[Node]:
    """The nodes that use a value or a reshape of it."""
    found = set()
    for user in graph.users.get(value, ()):
        found |= _users(graph, user.output) if user.op.name in VIEWS else {user}
    return found


def _leaf(value: Value) -> frozenset[Value]:
    return frozenset() if is_scalar_constant(value) else frozenset([value])


def _needed_in_memory(graph: Graph, loaded: Collection[Value]) -> dict[Value, bool]:
    """Values that must be stored: True always, False only if computing them costs something."""
    needed: dict[Value, bool] = {}
    for node in graph.nodes:
        for position, value in enumerate(node.inputs):
            if (
                (node.op.kind in ROOTED and value not in loaded)
                or node.op.name == BARRIER
                or READ_AT_COMPUTED.get(node.op.name) == position
            ):
                needed[value] = True
            elif node.op.name == "rng_bits" or _expands(node):
                needed.setdefault(value, False)
    needed.update(dict.fromkeys(graph.results, True))
    for node in reversed(graph.nodes):  # then a reshape of a computed value is a view
        if node.op.name in VIEWS and node.output in needed:
            source = node.inputs[0]
            needed[source] = needed.get(source, False) or needed[node.output]
    return needed


def _expands(node: Node) -> bool:
    return node.op.name == "broadcast" and node.inputs[0].type.size != node.output.type.size


def is_view(value: Value, stored: Collection[Value]) -> bool:
    """Whether the value is a reshape of a stored value, parameter or large constant."""
    node = value.node
    if node is None or node.op.name not in VIEWS:
        return False
    source = node.inputs[0]
    return (
        source.node is None
        or source in stored
        or (source.is_constant and not is_scalar_constant(source))
        or is_view(source, stored)
    )


def _joins(node: Node) -> bool:
    return node.op.name == "concat" and node.output.type.size >= JOINED_ELEMENTS


def _cheap(value: Value, whole: _Inlined) -> bool:
    if whole.joins:
        return False
    large = sum(int(leaf.type.size) * 2 > int(value.type.size) for leaf in whole.leaves)
    is_streamed = value.type.nbytes >= STREAMED_BYTES
    return whole.cost <= (STREAMED_COST if is_streamed else RECOMPUTE_COST) and large <= 1
