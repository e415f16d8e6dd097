"""Rules over loops: what need not be done step by step is done for all steps at once.

A product of what no step changes leaves the loop before it, as one product of the stacked rows:

    %h = scan[length=T](%h0, %xs, %w, %u) {       %0 = reshape(%xs)               # f32[T*B,F]
      %0 = matmul(%x, %w)                         %1 = matmul(%0, %w)
      %1 = matmul(%h, %u)                   ->    %2 = reshape(%1)                # f32[T,B,H]
      %2 = tanh(%0 + %1)                          %h = scan[length=T](%h0, %2, %u) {
      return %2                                     %0 = matmul(%h, %u)
    }                                               %1 = tanh(%ahead + %0) ...

and a product that only goes into a sum leaves it behind, as one product over rows and steps:

    %dw, %dh = scan[length=T](%dw0, ...) {        %dh, %gs = scan[length=T](...) {
      ...                                           ...
      %3 = matmul[transpose_a](%x, %g)      ->      return %2, %g
      return %dw + %3, %2                         }
    }                                             %dw = %dw0 + matmul[transpose_a](%xs, %gs)

A product that only goes into what is stacked leaves it behind, too (`sink-product`), and a matrix
that every step reads transposed is transposed before (`turn-matrix`).

What leaves a loop must be stored for all its steps. `hoist-product` takes the minimum cut
(`ir/residuals.py`): of all sets of values behind which no such product is left, the one of the
fewest bytes, so that a bias is added outside and gates are not split there. It stays in the loop
if it has few operations for each byte that this stores, `sink-sum` if a step alone sums many terms,
and both if they would store more than `LIMIT` bytes and than four times what goes in and out of
the loop anyway, or if the loop was told to compute again rather than to store.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ..ir.batching import batch, has_rule
from ..ir.graph import Node, Value, is_among, outline, reachable
from ..ir.op import get
from ..ir.pattern import number_of
from ..ir.residuals import SYMBOL, residuals
from ..ir.sugar import reshape, transpose
from ..ir.types import Size, TensorType
from .loops import Derived, Find, Loop, Operand, Stack, leaves, recomputed
from .region_rules import Context

LIMIT = 64 << 20
"""Bytes that may be stored for all steps, whatever the loop."""

OPERATIONS_A_BYTE = 8
"""Operations of a product for each byte of its result from which on it is hoisted: 16 terms in
f32."""

ROWS = 32
"""Rows of a step from which on its products stay in the loop: its matrix is then read for work
enough, and its result is at hand, while that of all steps goes to memory and back. A step of
training of an LSTM of 128 units took half as long with hoisting for 8 rows of 64 numbers, but a
tenth longer for 64 rows of 128, and a quarter for 128 rows of 256."""

TURNED = 16 << 10
"""Bytes of a matrix from which on it is transposed before a loop whose steps read it transposed."""

TERMS = 1024
"""Terms that a step sums from which on the sum stays in the loop: adding a product to what lies in
memory then costs little, and storing the factors more."""


# --- sizes -----------------------------------------------------------------------------------


def _sized(type: TensorType) -> TensorType:
    return type.substitute(dict.fromkeys(type.symbols, SYMBOL))


def _nbytes(values: Iterable[Value]) -> int:
    return sum(int(_sized(v.type).nbytes) for v in values)


def _length(loop: Loop) -> Size:
    length: Size = loop.node.attrs["length"]
    return length


def _may_store(loop: Loop) -> bool:
    """A scan, and not one that rather computes again what it could store."""
    return loop.node.op.name == "scan" and loop.node.attrs.get("gradient") != "recompute"


def _limit(loop: Loop) -> int:
    return max(LIMIT, 4 * _nbytes((*loop.node.inputs, *loop.node.outputs)))


def _for_all_steps(loop: Loop, values: Sequence[Value]) -> int:
    stacked = (Value(v.type.with_shape((_length(loop), *v.shape))) for v in values)
    return _nbytes(stacked)


# --- before the loop -------------------------------------------------------------------------


def hoist_products(loop: Loop, context: Context) -> bool:
    """Compute products that read no carry for all steps before the loop."""
    if not _may_store(loop):
        return False
    cut = residuals(
        loop.values, [c.input for c in loop.carries], invariant=[o.input for o in loop.shared],
        is_cheap=lambda node: node.op.kind != "contraction",
    )  # fmt: skip
    cut = [v for v in cut if _worth_hoisting(v, loop, context)]
    if not cut or not _fits("hoist-product", cut, loop, context):
        return False
    ahead = _ahead(loop, cut)
    if any(node.op.kind == "region" for node in reachable(ahead, set(loop.reads))):
        context.refuse("hoist-product", loop.node, "it would need a loop of its own")
        return False
    replaced = {v: Value(v.type, name="ahead") for v in cut}
    loop.sliced += [Operand(w, replaced[v]) for v, w in zip(cut, ahead, strict=True)]
    loop.substitute(replaced)
    return True


def _worth_hoisting(value: Value, loop: Loop, context: Context) -> bool:
    products = [node for node in reachable([value]) if node.op.kind == "contraction"]
    if all(node.op.name == "matmul" and _rows(node) >= ROWS for node in products):
        context.refuse("hoist-product", loop.node, f"a step of {value.type} has rows enough")
        return False
    operations = sum(map(_operations, products))
    if operations >= OPERATIONS_A_BYTE * _nbytes([value]):
        return True
    context.refuse("hoist-product", loop.node, f"{value.type} is stored for few operations")
    return False


def _rows(node: Node) -> int:
    return math.prod(map(int, _sized(node.output.type).shape[:-1]))


def _operations(node: Node) -> int:
    """Multiplications and additions, roughly, of a contraction."""
    if node.op.name != "matmul":
        return OPERATIONS_A_BYTE * _nbytes(node.outputs)
    a = _sized(node.inputs[0].type).shape
    terms = int(a[-2 if node.attrs.get("transpose_a") else -1])
    return 2 * terms * math.prod(map(int, _sized(node.output.type).shape))


def _fits(rule: str, values: Sequence[Value], loop: Loop, context: Context) -> bool:
    nbytes, limit = _for_all_steps(loop, values), _limit(loop)
    if nbytes > limit:
        context.refuse(rule, loop.node, f"{nbytes} bytes for all steps, of {limit}")
    return nbytes <= limit


def _ahead(loop: Loop, values: Sequence[Value]) -> list[Value]:
    """Values of a step that reads no carry, for all steps, outside."""
    read = leaves(values)
    operands = [o for o in (*loop.sliced, *loop.shared) if o.input in read]
    step = outline("ahead", {o.input: f"p{i}" for i, o in enumerate(operands)},
                   {f"r{i}": v for i, v in enumerate(values)})  # fmt: skip
    return batch(step, [o.outer for o in operands],
                 [o in loop.sliced for o in operands], _length(loop))  # fmt: skip


# --- behind the loop -------------------------------------------------------------------------


def sink_sums(loop: Loop, context: Context) -> bool:
    """Sum products and reductions that are only added up over all steps behind the loop."""
    if not _may_store(loop):
        return False
    behind = _Behind(loop)
    found: dict[int, Derived] = {}
    for carry in loop.carries:
        share = _share(carry.input, loop)
        if share is not None and (total := behind.total(carry.start, share, context)):
            found[id(carry)] = total
    stacks = dict.fromkeys(s for total in found.values() for s in total.stacks)
    fresh = [s for s in stacks if s not in loop.stacks]
    if not found or not _fits("sink-sum", [s.value for s in fresh], loop, context):
        return False
    loop.stacks += fresh
    loop.carries = [c for c in loop.carries if id(c) not in found]
    loop.results = [found.get(id(r), r) for r in loop.results]
    return True


def _share(carried: Value, loop: Loop) -> Value | None:
    """What a step adds to a carry that it does nothing else with."""
    (total,) = (c.next for c in loop.carries if c.input is carried)
    node = total.node
    if node is None or node.op.name != "add" or not is_among(carried, node.inputs):
        return None
    read = Counter(v for each in reachable(loop.values) for v in each.inputs)
    read.update(loop.values)
    if read[carried] != 1 or read[total] != 1:
        return None
    return node.inputs[1 if node.inputs[0] is carried else 0]


Make = Callable[[Find], Value]
"""Computes a total outside; it finds there what is stacked."""


class _Behind:
    """Totals over the steps of a loop, and what must be stacked for them.

    Reductions only read what is stacked for products, or was there before: of themselves they
    would make far more bytes than they save.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.stacks = list(loop.stacks)
        self.used: list[Stack] = []  # by the total that is being made
        self.carried = {c.input for c in loop.carries}
        self.sliced = {o.input: o.outer for o in loop.sliced}
        self.shared = {o.input: o.outer for o in loop.shared}
        self.products: set[Value] = set()  # factors of products that are summed
        for node in reachable(loop.values):
            if _is_summable(node) and not any(v in self.shared for v in node.inputs):
                self.products.update(node.inputs)

    def total(self, start: Value, value: Value, context: Context) -> Derived | None:
        """`start` and `value` summed over all steps outside, if that is a gain."""
        self.used = []
        make = self._total(value)
        if make is None:
            op = value.node.op.name if value.node else "an operand"
            context.refuse("sink-sum", self.loop.node, f"a sum of {op} {value.type} stays")
            return None
        is_zero = number_of(start) == 0
        return Derived(tuple(self.used), make if is_zero else lambda find: start + make(find))

    def value(self, value: Value, late: Collection[Node]) -> Derived | None:
        """`value` for all steps outside, of which the nodes in `late` are computed there."""
        self.used = []
        made = {out for node in late for out in node.outputs}
        read = dict.fromkeys(v for node in late for v in node.inputs if v not in made)
        same = [v for v in read if leaves([v]) <= set(self.shared)]
        each = [v for v in read if not is_among(v, same)]
        many = [self._stacked(v) for v in each]
        step = outline("behind", {v: f"p{i}" for i, v in enumerate([*each, *same])}, {"r": value})
        if not all(map(has_rule, step.nodes)):
            return None
        length = _length(self.loop)

        def make(find: Find) -> Value:
            shared = recomputed(same, self.shared)
            arguments = [*(each(find) for each in many if each), *shared]
            return batch(step, arguments, [i < len(many) for i in range(len(arguments))], length)[0]

        return Derived(tuple(self.used), make)

    def _total(self, value: Value) -> Make | None:
        node = value.node
        if node is None:
            return self._of_slices(value)
        if node.op.name == "matmul":
            return self._product(node) if _is_summable(node) else None
        if node.op.name == "reduce_sum":
            return self._reduction(node)
        if node.op.name in _LINEAR:
            return self._linear(node)
        return self._scaled(node) if node.op.name == "mul" else None

    def _of_slices(self, value: Value) -> Make | None:
        outer = self.sliced.get(value)
        return None if outer is None else lambda find: get("reduce_sum")(outer, axes=(0,))

    def _product(self, node: Node) -> Make | None:
        """Rows of all steps are terms of one sum."""
        a, b = map(self._stacked, node.inputs)
        if a is None or b is None:
            return None
        flags = {name: node.attrs.get(name, False) for name in ("transpose_a", "transpose_b")}

        def make(find: Find) -> Value:
            left = _terms_first(a(find), 1 if flags["transpose_a"] else 2)
            right = _terms_first(b(find), 2 if flags["transpose_b"] else 1)
            return get("matmul")(left, right, **flags)

        return make

    def _reduction(self, node: Node) -> Make | None:
        (v,) = node.inputs
        is_there = v in self.sliced or any(s.value is v for s in self.loop.stacks)
        stacked = self._stacked(v) if is_there or v in self.products else None
        axes = (0, *(a + 1 for a in node.attrs["axes"]))
        return stacked and (lambda find: get("reduce_sum")(stacked(find), axes=axes))

    def _linear(self, node: Node) -> Make | None:
        if node.attrs.get("value", 0.0) != 0.0:
            return None
        operands = [self._total(v) for v in node.inputs]
        if any(make is None for make in operands):
            return None
        return lambda find: get(node.op.name)(*(make(find) for make in operands if make),
                                              **node.attrs)  # fmt: skip

    def _scaled(self, node: Node) -> Make | None:
        """A total times what is the same in every step."""
        factors = [v for v in node.inputs if leaves([v]) <= set(self.shared)]
        others = [v for v in node.inputs if not is_among(v, factors)]
        if len(factors) != 1 or (make := self._total(*others)) is None:
            return None
        (factor,) = recomputed(factors, self.shared)
        return lambda find: make(find) * factor

    def _stacked(self, value: Value) -> Make | None:
        """A value of a step for all steps: an operand, computed ahead, or stacked."""
        if value in self.sliced:
            outer = self.sliced[value]
            return lambda find: outer
        read = leaves([value])
        if not read & set(self.sliced) and not read & self.carried:
            return None  # the same in every step
        stack = next((s for s in self.stacks if s.value is value), None)
        if stack is None:
            stack = Stack(value)
            self.stacks.append(stack)
        self.used.append(stack)
        return lambda find: find(stack)


_LINEAR = frozenset({"transpose", "reshape", "neg", "cast", "add", "sub", "pad", "slice",
                     "broadcast", "concat"})  # fmt: skip
"""Ops of which a sum of results is the result of the sums; a pad with zeros."""


def _is_summable(node: Node) -> bool:
    """Whether a product is one of matrices that sums few terms."""
    if node.op.name != "matmul" or node.output.ndim != 2:
        return False
    rows, columns = _sized(node.inputs[0].type).shape
    return int(rows if node.attrs.get("transpose_a") else columns) < TERMS


def _terms_first(x: Value, axis: int) -> Value:
    """Matrices for all steps as one, with the steps in the rows or columns at `axis`."""
    steps, *sizes = x.shape
    if axis == 1:
        return reshape(x, (steps * sizes[0], sizes[1]))
    return reshape(transpose(x, (1, 0, 2)), (sizes[0], steps * sizes[1]))


def sink_products(loop: Loop, context: Context) -> bool:
    """Compute products that only stacked results read for all steps behind the loop."""
    if not _may_store(loop):
        return False
    early = set(reachable([c.next for c in loop.carries]))
    behind = _Behind(loop)
    found: dict[int, Derived] = {}
    for stack in loop.stacks:
        late = _from_products(stack.value, early)
        if stack.value.node in late and (made := behind.value(stack.value, late)):
            fresh = [s.value for s in made.stacks if s not in loop.stacks]
            if _nbytes(fresh) <= _nbytes([stack.value]):
                found[id(stack)] = made
            else:
                reason = f"{_nbytes(fresh)} bytes a step would be stored for {stack.value.type}"
                context.refuse("sink-product", loop.node, reason)
    if not found:
        return False
    stacks = dict.fromkeys(s for made in found.values() for s in made.stacks)
    loop.stacks += [s for s in stacks if s not in loop.stacks]
    loop.results = [found.get(id(r), r) for r in loop.results]
    return True


def _from_products(value: Value, early: set[Node]) -> dict[Node, None]:
    """The products that no carry needs, and what is computed from them on the way to `value`."""
    late: dict[Node, None] = {}
    for node in reachable([value]):
        is_product = node.op.name == "matmul" and node not in early
        if is_product or any(v.node in late for v in node.inputs):
            late[node] = None
    return late


# --- in the loop -----------------------------------------------------------------------------


def turn_matrices(loop: Loop, context: Context) -> bool:
    """Transpose once what every step would read transposed: kernels then read it where it lies."""
    if loop.node.op.name != "scan":
        return False
    turned: dict[Value, Value] = {}
    while node := _reads_transposed(loop):
        left, right = node.inputs
        if right not in turned:
            (outer,) = (o.outer for o in loop.shared if o.input is right)
            new = Operand(transpose(outer, (1, 0)), Value(right.type.with_shape(right.shape[::-1])))
            loop.shared.append(new)
            turned[right] = new.input
        product = Node(node.op, [left, turned[right]], {**node.attrs, "transpose_b": False},
                       node.source)  # fmt: skip
        loop.substitute({node.output: product.output})
    return bool(turned)


def _reads_transposed(loop: Loop) -> Node | None:
    shared = {o.input for o in loop.shared}
    for node in reachable(loop.values):
        if node.op.name == "matmul" and node.attrs.get("transpose_b"):
            right = node.inputs[1]
            if right in shared and right.ndim == 2 and _nbytes([right]) >= TURNED:
                return node
    return None


VECTORIZE_RULES: dict[str, Any] = {
    "hoist-product": hoist_products, "turn-matrix": turn_matrices, "sink-sum": sink_sums,
    "sink-product": sink_products,
}  # fmt: skip
"""In the order in which they run; nothing may edit the loop after the last."""
