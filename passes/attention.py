"""Attention: products whose results are the rows of a softmax, and the products of those rows.

    %s = matmul(%q, %k)                     f32[2,4,64,32] x f32[2,4,32,64]: the scores
    %p = div(exp(%s - max(%s)), sum(...))   rows: what depends on the scores and on its own row
    %o = matmul(%p, %v)                     a result

Scores and rows need no memory of their own: one kernel computes a block of rows of scores, which
stays in the cache, what is computed of them, and what the results get from that block. The
gradient is a second such kernel, with two products of scores (the second one is the cotangent of
%p) and three results, of which two are sums over the rows:

    %dp = matmul(%do, %v, transpose_b)      scores
    %dv = matmul(%p, %do, transpose_a)      results
    %dq = matmul(%ds, %k, transpose_b)
    %dk = matmul(%q, %ds, transpose_a)

It computes the first scores again, or reads what the first kernel keeps of its rows; see `_kept`.
`attentions` finds those kernels in a graph, `roles` says which product of a kernel is what.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..ir.graph import Graph, Node, Value, is_among
from ..ir.types import Shape
from .rows import agree, rows_of
from .stored import READ_AT_COMPUTED, RECOMPUTE_COST, cost, is_view

KEPT_RATIO = 4
"""Exponentials of scores are kept for the gradient where a row of them is at most so many times
as long as a row of the query: that is faster than computing them again, and takes memory."""
_EXPENSIVE = 10  # operations from which on a value of a score is worth keeping
_LEAST_ROWS = 8  # queries from which on packing the keys is worth it
_LEAST_UNITS = 4  # matrices of scores, which threads share
_SMALL = 1 << 14  # scores that one thread may compute
_LONGEST_ROW = 8192  # a few rows must fit the second-level cache
MOVES = frozenset({"transpose", "reshape", "cast"})
"""Ops that a result may pass before it is stored."""
_REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"})


@dataclass(eq=False)
class Attention:
    """One kernel: products, rows, products.

    Attributes
    ----------
    results : list of Node
        The products of rows.
    inside : dict of Value to None
        What is computed between, the scores among it.
    kept : dict of Value to None
        What of that is stored, since others read it.
    """

    results: list[Node]
    inside: dict[Value, None] = field(default_factory=dict)
    kept: dict[Value, None] = field(default_factory=dict)

    @property
    def scores(self) -> list[Node]:
        """The products that rows are computed of."""
        return [v.node for v in self.inside if v.node is not None and is_product(v.node)]


@dataclass(frozen=True)
class _Rows:
    """What a value is computed of: scores of a shape, over whose rows it was reduced or not."""

    shape: Shape
    sources: frozenset[Node]
    is_reduced: bool


def is_product(node: Node) -> bool:
    """Whether a node multiplies matrices, several of them."""
    return node.op.name == "matmul" and node.output.ndim > 2 and node.output.dtype.is_float


# --- in a graph ------------------------------------------------------------------------------


def attentions(graph: Graph, steady: Collection[Value] = frozenset()) -> tuple[Attention, ...]:
    """The attention kernels of a static graph, without `steady` products."""
    rows = _rows(graph)
    weights = {n: w for n in graph.nodes if (w := _weights(n, rows)) is not None}
    found: list[Attention] = []
    taken: set[Node] = set()
    for family in _families(graph, weights, rows):
        _fill(graph, family, weights, rows)
        products = {n for each in family for n in (*each.scores, *each.results)}
        if any(n.output in steady for n in products):
            continue
        if taken.isdisjoint(products) and all(_fits(each, weights) for each in family):
            found += family
            taken |= products
    return tuple(found)


def _rows(graph: Graph) -> dict[Value, _Rows]:
    """The values that are computed of scores alone, row by row, and of what depends on none."""
    found: dict[Value, _Rows] = {}
    for node in graph.nodes:
        if len(node.outputs) != 1:
            continue
        out = node.output
        if is_product(node):
            found[out] = _Rows(out.shape, frozenset({node}), False)
            continue
        operands = [found[v] for v in node.inputs if v in found]
        if not operands or len({o.shape for o in operands}) > 1:
            continue
        shape = operands[0].shape
        sources = frozenset().union(*(o.sources for o in operands))
        is_reduced = any(o.is_reduced for o in operands)
        total, count = math.prod(shape), math.prod(shape[:-1])
        is_row = out.type.size in (total, count)
        if node.op.name in _REDUCTIONS:
            if node.inputs[0].shape == shape and node.attrs["axes"] == (len(shape) - 1,):
                found[out] = _Rows(shape, sources, True)
        elif is_row and (node.op.kind == "elementwise" or node.op.name in ("broadcast", "reshape")):
            found[out] = _Rows(shape, sources, is_reduced)
    return found


def _weights(node: Node, rows: Mapping[Value, _Rows]) -> Value | None:
    """The operand of a product that consists of reduced rows."""
    if not is_product(node):
        return None
    found = [v for v in dict.fromkeys(node.inputs)
             if v in rows and rows[v].is_reduced and v.shape == rows[v].shape]  # fmt: skip
    return found[0] if len(found) == 1 and len(set(node.inputs)) == 2 else None


def _families(
    graph: Graph, weights: Mapping[Node, Value], rows: Mapping[Value, _Rows]
) -> Iterator[list[Attention]]:
    """Kernels that share scores: results that do not depend on each other are of one."""
    order = {n: i for i, n in enumerate(graph.nodes)}
    first = {n: min(rows[w].sources, key=order.__getitem__) for n, w in weights.items()}
    bit = {n: 1 << i for i, n in enumerate(weights)}
    before: dict[Node, int] = {}
    families: dict[Node, list[tuple[Attention, int]]] = {}
    for node in graph.nodes:
        before[node] = 0
        for value in node.inputs:
            if value.node is not None:
                before[node] |= before[value.node] | bit.get(value.node, 0)
        if node not in weights:
            continue
        family = families.setdefault(first[node], [])
        for place, (kernel, members) in enumerate(family):
            if not members & before[node]:
                kernel.results.append(node)
                family[place] = (kernel, members | bit[node])
                break
        else:
            family.append((Attention([node]), bit[node]))
    for family in families.values():
        yield [kernel for kernel, _ in family]


def _fill(
    graph: Graph,
    family: Sequence[Attention],
    weights: Mapping[Node, Value],
    rows: Mapping[Value, _Rows],
) -> None:
    """Find what each kernel computes, and what it keeps for others."""
    for kernel in family:
        kernel.inside = _inside([weights[n] for n in kernel.results], rows, ())
    own = {v.node for kernel in family for v in kernel.inside} | {
        n for kernel in family for n in kernel.results
    }
    results = set(graph.results)
    seen: dict[Value, None] = {}
    for kernel in family:
        for value in kernel.inside:
            if value not in seen and (value in results or set(graph.users.get(value, ())) - own):
                kernel.kept[value] = None
        seen |= kernel.inside
    first = family[0]
    for later in family[1:]:
        mine = [weights[n] for n in later.results]
        wanted = _kept(first, later, mine, rows)
        stop = {v for kernel in family for v in kernel.kept if kernel is not later} | set(wanted)
        later.inside = _inside(mine, rows, stop)
        first.kept |= {v: None for v in wanted if v in _borders(later, mine)}


def _kept(
    first: Attention, later: Attention, weights: Sequence[Value], rows: Mapping[Value, _Rows]
) -> list[Value]:
    """What the first kernel stores for a later one: results of rows, and short rows.

    Stored are the exponentials if then the later one needs no scores of the first.
    """
    common = [v for v in first.inside if v in later.inside and v.node is not None]
    results = [v for v in common if v.node and v.node.op.kind == "reduce"]
    costly = [v for v in common if v.node and cost(v.node) >= _EXPENSIVE]
    if not costly or not all(_is_short(n) for n in first.scores):
        return results
    found = _inside(weights, rows, {*results, *costly})
    again = {v.node for v in found} & set(first.scores)
    return results if again else [*results, *costly]


def _is_short(scores: Node) -> bool:
    left = scores.inputs[0].shape
    depth = left[-2] if scores.attrs.get("transpose_a") else left[-1]
    return int(scores.output.shape[-1]) <= KEPT_RATIO * int(depth)


def _inside(
    weights: Iterable[Value], rows: Mapping[Value, _Rows], stop: Collection[Value]
) -> dict[Value, None]:
    """The values between scores and weights, those of scores included, in no special order."""
    found: dict[Value, None] = {}
    stack = [v for v in weights if v not in stop]
    while stack:
        value = stack.pop()
        if value in found:
            continue
        found[value] = None
        assert value.node is not None
        if not is_product(value.node):
            stack.extend(v for v in value.node.inputs if v in rows and v not in stop)
    return found


def _borders(kernel: Attention, weights: Iterable[Value]) -> set[Value]:
    """What the values inside are computed of."""
    read = {v for inner in kernel.inside if inner.node for v in inner.node.inputs}
    return (read | set(weights)) - kernel.inside.keys()


def _fits(kernel: Attention, weights: Mapping[Node, Value]) -> bool:
    """Whether it is a kernel that there are loops for, and that is worth it."""
    scores = kernel.scores
    if not scores or any(n in kernel.results for n in scores):
        return False
    shape = tuple(map(int, scores[0].output.shape))
    if any(n.output.shape != scores[0].output.shape for n in scores):
        return False
    if 0 in shape or not 2 <= shape[-1] <= _LONGEST_ROW or shape[-2] < _LEAST_ROWS:
        return False
    products = (*scores, *kernel.results)
    if any(0 in v.shape for n in products for v in n.inputs):
        return False
    if math.prod(shape[:-2]) < _LEAST_UNITS and math.prod(shape) > _SMALL:
        return False
    reductions = [v.node for v in kernel.inside if v.node and v.node.op.kind == "reduce"]
    if not reductions:
        return False
    rows = rows_of(reductions[0])
    outputs = dict.fromkeys([*(weights[n] for n in kernel.results), *kernel.kept])
    if rows is None or any(rows_of(n) != rows for n in reductions):
        return False
    if any(v not in kernel.inside for v in outputs):
        return False
    return agree(outputs, _borders(kernel, ()) | {n.output for n in scores}, rows)


# --- what is stored --------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """What goes through memory where there are attention kernels.

    Attributes
    ----------
    stored : dict of Value to None
        In running order.
    outputs : tuple of tuple of Value
        What each attention kernel stores, in running order.
    """

    stored: dict[Value, None]
    outputs: tuple[tuple[Value, ...], ...]


def placed(
    graph: Graph, stored: dict[Value, None], steady: Collection[Value] = frozenset()
) -> Placed:
    """Choose the attention kernels, and store what they store instead of what is inside.

    What is `steady` is computed once for many calls, so nothing of it is left to a kernel.

    A result is stored in the order of axes that its only user wants, and an operand that is
    cheap to compute of one array is not stored but computed while it is packed: so bias and
    transposes of heads take no kernels of their own.
    """
    found = attentions(graph, steady)
    if not found:
        return Placed(stored, ())
    chosen = dict(stored)
    outputs: list[set[Value]] = []
    for kernel in found:
        for value in kernel.inside:
            chosen.pop(value, None)
    for kernel in found:
        outputs.append({*kernel.kept, *(_result(graph, n, stored) for n in kernel.results)})
        for node in kernel.results:
            chosen.pop(node.output, None)
        chosen |= dict.fromkeys(outputs[-1])
    products = {n for kernel in found for n in (*kernel.results, *kernel.scores)}
    weights = {v for kernel in found for v in kernel.inside}
    kept = set(graph.results)
    for value in dict.fromkeys(v for n in products for v in n.inputs):
        users = set(graph.users.get(value, ()))
        alone = value in chosen and value not in steady and users <= products
        if alone and value not in weights | kept and _is_packed(value, chosen):
            del chosen[value]
    order = {v: i for i, v in enumerate(v for n in graph.nodes for v in n.outputs)}
    ordered = dict.fromkeys(sorted(chosen, key=order.__getitem__))
    return Placed(ordered, tuple(tuple(sorted(each, key=order.__getitem__)) for each in outputs))


def _result(graph: Graph, node: Node, stored: Collection[Value]) -> Value:
    """What is stored of a result: a transpose of it, if nothing else reads it."""
    value = node.output
    while not is_among(value, graph.results):
        users = graph.users.get(value, ())
        if len(users) != 1 or users[0].op.name not in MOVES:
            break
        value = users[0].output
        if value in stored and users[0].op.name == "transpose":
            return value
    return node.output


def _is_packed(value: Value, stored: Collection[Value]) -> bool:
    """Whether a value is cheap to compute from one array of its size, while it is copied."""
    total, large = 0, 0
    stack, seen = [value], {value}
    while stack:
        node = stack.pop().node
        if node is None or node.op.kind not in ("elementwise", "index", "constant"):
            return False
        if node.op.name in READ_AT_COMPUTED or node.op.name == "rng_bits":
            return False
        total += cost(node)
        for source in node.inputs:
            if source in seen:
                continue
            seen.add(source)
            if source.node is None or source in stored or is_view(source, stored):
                large += 2 * int(source.type.size) > int(value.type.size)
            else:
                stack.append(source)
    return total <= RECOMPUTE_COST and large <= 1


# --- in a kernel -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Roles:
    """What the products of an attention kernel are.

    Attributes
    ----------
    scores, results : tuple of Node
    weights : tuple of Value
        Of each result the operand that is rows.
    between : tuple of Node
        What is computed of scores and operands of the kernel, in running order.
    """

    scores: tuple[Node, ...]
    results: tuple[Node, ...]
    weights: tuple[Value, ...]
    between: tuple[Node, ...]


def roles(body: Graph) -> Roles:
    """Tell the products of a kernel's body apart."""
    products = [n for n in body.nodes if is_product(n)]
    above: dict[Value, set[Node]] = {}
    for node in body.nodes:
        mine = set().union(*(above.get(v, set()) for v in node.inputs))
        above.update(dict.fromkeys(node.outputs, mine | {node} if node in products else mine))
    scores = {n for p in products for v in p.inputs for n in above.get(v, ())}
    results = [n for n in products if n not in scores]
    shape = next(iter(scores)).output.shape
    known = {v for n in results for v in n.inputs if above.get(v)}
    size = next(iter(scores)).output.type.size
    arrays = {v for v in _middle(known) if v.node is None and v.type.size == size}
    weights = []
    for node in results:
        found = [v for v in node.inputs if v in known]
        found = found or [v for v in node.inputs
                          if v.shape == shape and not _middle([v]).isdisjoint(arrays)]  # fmt: skip
        weights.append(found[0])
    inside = _middle(weights)
    between = [n for n in body.nodes if n not in products and not inside.isdisjoint(n.outputs)]
    return Roles(
        tuple(n for n in products if n in scores), tuple(results), tuple(weights), tuple(between)
    )


def _middle(values: Iterable[Value]) -> set[Value]:
    """What values are computed of, down to products."""
    found: set[Value] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value in found:
            continue
        found.add(value)
        if value.node is not None and not is_product(value.node):
            stack.extend(value.node.inputs)
    return found
