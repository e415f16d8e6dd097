"""Fusion: which values are stored, and which of them one kernel computes.

Two steps. `choose_stored` decides which values go through memory at all; every other node is
computed inside the kernels that need it. Whatever it decides, one kernel per stored value is a
right program. `fuse` then merges kernels, as long as no kernel comes to wait for itself:

    %c = conv(%x, %w)                          conv_add_maximum:      (reads x, w, b)
    %a = add(%c, broadcast(%b))          ->      %c, %a inside; stores %y
    %y = maximum(%a, 0)

A merge keeps one of these forms, which are what the native backend has loops for:

- *pointwise*: elementwise and index ops; all outputs have the same number of elements.
- *reduction*: reductions of operands of one shape over the same axes, with their pointwise
  producers inlined, and pointwise nodes over the reduced shape.
- *rows*: reductions over the same positions of arrays of one size, which may wait for each other,
  and pointwise nodes over the array or over the results, which read results of their own row
  only (`rows`). Made where a block of rows is small, so that it is read from memory once.
- *row sums*: rows, and sums over them with what is computed of these (`row_sums`).
- *attention*: products, what is computed of the rows of their results, and products of these
  rows, which stay in the cache (`attention`).
- *moments*: a reduction whose last dimension is kept, and sums over deviations from its results,
  which need no pass of their own (`moments`).
- *batch*: pointwise computations that share no arrays, of any sizes (`batches`).
- *contraction or window*: one root that reads stored values, or computes an operand of them as it
  loads it (`prologue`), and pointwise nodes over its output
  shape whose further operands have that shape or are broadcasts; of convolutions and products also
  sums over all but the last axis, and what is computed of them (`sums`).
- *opaque* or *region*: one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from ..ir.graph import Graph, Value
from .control import region_call
from .groups import Group, Groups
from .memory import plan
from .moments import centered
from .outline import Outliner, members
from .plan import BATCH, MOMENTS, ROW, ROW_SUMS, Call, Plan, RegionCall
from .row_sums import fit_columns
from .rows import Rows, agree, rows_of
from .sums import fit_epilogue, in_order, summed

OUTPUTS = 24
"""Outputs of one merged kernel; kernels of single elements may have more."""
ROW_BYTES = 256 << 10
"""What a kernel may read and write of a block of rows: it stays in the second-level cache."""
BATCHED_ELEMENTS = 1 << 16
"""Elements of the largest variable whose update joins a batch: more keep threads busy, and the
gradients of all that joins wait for the last."""
BATCHED_OUTPUTS = 96
"""Outputs of one batch."""
EPILOGUE_OPERANDS = 4
"""Operands of full size that an epilogue may read beside the root's output."""

_EPILOGUE_OPS = frozenset({"broadcast", "constant", "stop_gradient"})


# --- merging ---------------------------------------------------------------------------------


def fuse(
    graph: Graph, outliner: Outliner | None = None, steady: Collection[Value] = frozenset()
) -> tuple[Call | RegionCall, ...]:
    """The calls of a static graph, in an order in which they can run.

    The bodies of control flow are fused and planned, too, and share kernels with the graph;
    `outliner` holds the kernels that there are already. What is `steady` and what is not have no
    kernel in common.
    """
    groups = Groups(graph, steady)
    _merge_attentions(groups)
    _merge_reductions(groups)
    _merge_epilogues(groups)
    _merge_rows(groups)
    _merge_consumers(groups, "reduce")
    _merge_moments(groups)
    _merge_sums(groups)
    _merge_columns(groups)
    _merge_consumers(groups, "pointwise")
    _merge_siblings(groups)
    _merge_updates(groups)
    return _calls(groups, outliner or Outliner())


def _merge_attentions(groups: Groups) -> None:
    """What a kernel of attention stores is computed together."""
    for outputs in groups.attentions.outputs:
        first, *others = dict.fromkeys(groups.of[v] for v in outputs)
        for other in others:
            assert groups.can_merge(first, other), "results of attention wait for each other"
            groups.merge(first, other)


def _merge_epilogues(groups: Groups) -> None:
    """A root takes the pointwise groups over its output: bias, activation, gradient gate."""
    updates = _updating(groups)
    for root in [g for g in groups.groups if g.form == "rooted"]:
        changed = True
        while changed:
            changed = False
            for reader in groups.readers(root):
                if _fits_epilogue(groups, root, reader, updates) and groups.can_merge(root, reader):
                    groups.merge(root, reader)
                    changed = True
                    break


def _updating(groups: Groups) -> set[Value]:
    """The new state, and what pointwise groups compute for it and for nothing else."""
    found = {new for _, new in groups.graph.updates}
    results = set(groups.graph.outputs)
    for group in reversed(groups.groups):
        readers = groups.readers(group)
        only = all(not found.isdisjoint(r.outputs) and r.form == "pointwise" for r in readers)
        if group.form == "pointwise" and readers and only and results.isdisjoint(group.outputs):
            found.update(group.outputs)
    return found


def _fits_epilogue(groups: Groups, root: Group, reader: Group, updates: set[Value]) -> bool:
    """New state stays out: a product of an MLP with Adam's update of the weights as its epilogue
    took 12 to 20 % longer than the two one after the other."""
    if reader.form != "pointwise" or not _reads_aligned(groups, root, reader):
        return False
    if not updates.isdisjoint(reader.outputs):
        return False
    shape = root.roots[0].outputs[0].shape
    for node in members(reader.outputs, groups.borders):
        if node.op.kind != "elementwise" and node.op.name not in _EPILOGUE_OPS:
            return False
        if node.op.kind == "elementwise" and node.output.shape != shape:
            return False
    return _large_operands(groups, root, reader) <= EPILOGUE_OPERANDS


def _large_operands(groups: Groups, *merged: Group) -> int:
    """Operands of full size that the epilogue would read."""
    own = {v for g in merged for v in g.outputs}
    own |= {v for g in merged for r in g.roots for v in map(groups.storage, r.inputs)}
    read = {v for g in merged for v in groups.reads(g)} - own
    return sum(v.type.size == merged[0].size for v in read)


def _reads_aligned(groups: Groups, producer: Group, reader: Group) -> bool:
    """Whether the reader uses the producer's outputs only element by element."""
    reads = groups.reads(reader)
    used = [v for v in producer.outputs if v in reads]
    return producer.size == reader.size and bool(used) and all(reads[v] for v in used)


def _merge_reductions(groups: Groups) -> None:
    """Reductions of one shape over the same axes that read something in common share a pass."""
    for first in [g for g in groups.groups if g.form == "reduce"]:
        while first.alive:
            second = next((
                g for g in groups.companions(first)
                if g.form == "reduce" and g.number > first.number
                and _iteration(first) == _iteration(g) and _independent(groups, first, g)
                and groups.is_steady(first) == groups.is_steady(g)
            ), None)  # fmt: skip
            if second is None:
                break
            groups.merge(first, second)


def _iteration(group: Group) -> tuple[object, ...]:
    """What a reduction loops over."""
    root = group.roots[0]
    axes = root.attrs.get("axes", (root.attrs.get("axis"),))
    return (root.inputs[0].shape, axes)


def _independent(groups: Groups, a: Group, b: Group) -> bool:
    order = groups.precedence
    return not order.precedes(a.number, b.number) and not order.precedes(b.number, a.number)


def _merge_rows(groups: Groups) -> None:
    """A reduction takes what reads its results in the same rows, and what computes its rows.

    Each merge saves a pass over the rows, or what was stored between two.
    """
    for first in [g for g in groups.groups if g.form == "reduce"]:
        rows = rows_of(first.roots[0])
        changed = first.alive and rows is not None
        while changed:
            assert rows is not None
            changed = False
            for other in _around(groups, first):
                if _fits_rows(groups, first, other, rows) and groups.can_merge(first, other):
                    depends = not _independent(groups, first, other)
                    wide = any(v.type.size == rows.total for v in other.outputs)
                    if wide or (depends and other.roots):
                        first.special = ROW
                    groups.merge(first, other)
                    changed = True
                    break


def _around(groups: Groups, group: Group) -> Iterator[Group]:
    """The groups that read what the group computes, or the other way round; other reductions."""
    yield from groups.readers(group)
    yield from groups.sources(group)
    yield from (g for g in groups.companions(group) if g.form in ("reduce", ROW))


def _fits_rows(groups: Groups, group: Group, other: Group, rows: Rows) -> bool:
    if other.form not in ("pointwise", "reduce", ROW):
        return False
    if not all(rows_of(root) == rows for root in (*group.roots, *other.roots)):
        return False
    outputs = [*group.outputs, *other.outputs]
    if len(outputs) > OUTPUTS or not all(v.type.size in (rows.total, rows.count) for v in outputs):
        return False
    read = {v for g in (group, other) for v in groups.reads(g)} | set(outputs)
    of_element = sum(v.dtype.bits // 8 for v in read if v.type.size == rows.total)
    return of_element * rows.block <= ROW_BYTES and agree(outputs, groups.borders, rows)


def _merge_moments(groups: Groups) -> None:
    """Sums take the sums over deviations from what is computed of them."""
    for first in [g for g in groups.groups if g.form == "reduce"]:
        rows = rows_of(first.roots[0])
        if not first.alive or rows is None or rows.reduced[-1][0] == 1:
            continue  # what is reduced lies in a row
        for other in groups.companions(first):
            if (
                other.form == "reduce"
                and groups.precedence.precedes(first.number, other.number)
                and all(rows_of(r) == rows and centered(r, first.roots) for r in other.roots)
                and len(first.outputs) + len(other.outputs) <= OUTPUTS
                and agree([*first.outputs, *other.outputs], groups.borders, rows)
                and groups.can_merge(first, other)
            ):
                first.special = MOMENTS
                groups.merge(first, other)
                break
    _merge_consumers(groups, MOMENTS)


def _merge_sums(groups: Groups) -> None:
    """A root takes sums over what its epilogue computes, and what is computed of them."""
    for root in [g for g in groups.groups if g.form == "rooted" and summed(g.roots[0])]:
        changed = True
        while changed:
            changed = False
            for reader in groups.readers(root):
                if _fits_sums(groups, root, reader) and groups.can_merge(root, reader):
                    groups.merge(root, reader)
                    root.special = ""
                    changed = True
                    break


def _fits_sums(groups: Groups, root: Group, reader: Group) -> bool:
    if reader.form not in ("reduce", MOMENTS):
        return False
    node, *sums = root.roots
    outputs = [*root.outputs, *reader.outputs]
    operands = _large_operands(groups, root, reader)
    further = any(
        v.type.size == root.size and groups.of.get(v) is not root for v in groups.reads(reader)
    )
    if operands > EPILOGUE_OPERANDS or (further and not in_order(node)):
        return False
    return fit_epilogue(node, [*sums, *reader.roots], outputs, reader.outputs, groups.borders)


def _merge_columns(groups: Groups) -> None:
    """Rows take sums over rows of what they read or compute, and what is computed of them."""
    for first in [g for g in groups.groups if g.form == ROW]:
        changed = first.alive
        while changed:
            changed = False
            for other in [*groups.readers(first), *groups.companions(first)]:
                if _fits_columns(groups, first, other) and groups.can_merge(first, other):
                    first.special = ROW_SUMS
                    groups.merge(first, other)
                    changed = True
                    break


def _fits_columns(groups: Groups, group: Group, other: Group) -> bool:
    if other.form != "reduce" or len(group.outputs) + len(other.outputs) > OUTPUTS:
        return False
    if groups.precedence.precedes(other.number, group.number):
        return False
    return fit_columns(group.roots, other.roots, group.outputs, other.outputs, groups.borders)


def _merge_consumers(groups: Groups, form: str) -> None:
    """A group of that form takes the pointwise groups that read its outputs in place."""
    for producer in [g for g in groups.groups if g.form == form]:
        changed = producer.alive
        while changed:
            changed = False
            for reader in groups.readers(producer):
                if (
                    reader.form == "pointwise"
                    and _reads_aligned(groups, producer, reader)
                    and len(producer.outputs) + len(reader.outputs) <= OUTPUTS
                    and groups.can_merge(producer, reader)
                ):
                    groups.merge(producer, reader)
                    changed = True
                    break


def _merge_siblings(groups: Groups) -> None:
    """Pointwise groups over as many elements that read something in common; single elements all."""
    found = [g for g in groups.groups if g.form == "pointwise"]
    single = [g for g in found if g.size == 1]
    for first in found:
        last = first.number
        while first.alive:
            others = single if first.size == 1 else groups.companions(first, first.size)
            second = next((
                g for g in others
                if g.alive and g.number > last and g.form == "pointwise" and g.shape == first.shape
                and (g.size == 1 or len(first.outputs) + len(g.outputs) <= OUTPUTS)
                and groups.can_merge(first, g) and _aligned_if_dependent(groups, first, g)
            ), None)  # fmt: skip
            if second is None:
                break
            last = second.number
            groups.merge(first, second)


def _merge_updates(groups: Groups) -> None:
    """Small updates of state that read nothing in common are one batch, or a few."""
    updates = {new for _, new in groups.graph.updates}
    batch: Group | None = None
    for group in [g for g in groups.groups if g.form == "pointwise"]:
        if not 1 < group.size <= BATCHED_ELEMENTS or updates.isdisjoint(group.outputs):
            continue
        if (
            batch is not None
            and _independent(groups, batch, group)
            and _arrays_of(groups, batch).isdisjoint(_arrays_of(groups, group))
            and len(batch.outputs) + len(group.outputs) <= BATCHED_OUTPUTS
        ):
            batch.special = BATCH
            groups.merge(batch, group)
        elif batch is None or len(batch.outputs) + len(group.outputs) > BATCHED_OUTPUTS:
            batch = group


def _arrays_of(groups: Groups, group: Group) -> set[Value]:
    """What a group reads, but for single elements."""
    return {v for v in groups.reads(group) if v.type.size != 1}


def _aligned_if_dependent(groups: Groups, a: Group, b: Group) -> bool:
    for producer, reader in ((a, b), (b, a)):
        reads = groups.reads(reader)
        if not all(reads[v] for v in producer.outputs if v in reads):
            return False
    return True


# --- calls -----------------------------------------------------------------------------------


def _calls(groups: Groups, outliner: Outliner) -> tuple[Call | RegionCall, ...]:
    """Each group as a call that stores what others read."""
    results = {groups.storage(v) for v in groups.graph.results}
    read = {v for g in groups.groups for v in groups.reads(g)}
    shown: dict[Value, list[Value]] = {}  # the views of what is stored
    for value in groups.borders:
        shown.setdefault(groups.storage(value), []).append(value)

    def plan_body(body: Graph) -> Plan:
        return plan(body, fuse(body, outliner))

    calls: list[Call | RegionCall] = []
    for group in _in_order(groups):
        if group.form == "region":
            calls.append(region_call(group.roots[0], plan_body, _used_up(groups, group, results)))
            continue
        outputs = [v for v in group.outputs if v in read or v in results]
        # inner values of the group are computed, not loaded; so are views of them
        inside = [v for own in group.outputs for v in shown.get(own, ())]
        root = _root_of(group)
        groups.borders.difference_update(inside)
        calls.append(outliner.call(outputs, groups.borders, root))
        groups.borders.update(inside)
    return tuple(calls)


def _root_of(group: Group) -> str:
    """What `Kernel.root` says."""
    return group.roots[0].op.name if group.roots and not group.special else group.form


def _used_up(groups: Groups, group: Group, results: Collection[Value]) -> set[int]:
    """Positions of the operands of a region that are computed, and that nothing else reads."""
    read = [groups.storage(v) for v in group.roots[0].inputs]
    times = Counter(read)
    return {
        i for i, v in enumerate(read)
        if v in groups.of and v not in results and times[v] == 1
        and groups.readers_of(v) == {group}
        and (v in groups.steady) == groups.is_steady(group)
    }  # fmt: skip


def _in_order(groups: Groups) -> list[Group]:
    """A group runs as soon as what it reads is there, in the order of its last value."""
    done: dict[Group, None] = {}

    def visit(group: Group) -> None:
        waiting = {group}
        stack = [(group, groups.sources(group))]
        while stack:
            top, pending = stack[-1]
            for source in pending:
                if source not in done:
                    assert source not in waiting, "a kernel waits for itself"
                    waiting.add(source)
                    stack.append((source, groups.sources(source)))
                    break
            else:
                done.setdefault(top)
                stack.pop()

    for group in sorted(groups.groups, key=lambda g: max(groups.position[v] for v in g.outputs)):
        if group not in done:
            visit(group)
    return list(done)
