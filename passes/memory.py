"""Memory: an order of the calls, and a place for every value.

Results are computed where they belong: an output in its block, a new state in the block of the
old one, if every reader of the old state can run before. What lies between goes to one arena:

    %a = kernel(%x)      %a: arena+0          (256 bytes)
    %b = kernel(%a)      %b: arena+0          in place: the last reader of %a, element by element
    %c = kernel(%b, %w)  %c: arena+256
    %w' = kernel(%w, %c) %w': state[0]        after the readers of %w
    return %c            %c: output[0] instead, so that it need not be copied
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.graph import Graph, Value, is_among
from . import row_sums, rows
from .batches import parts_of
from .outline import REPLACES, accesses, tokens_of
from .plan import ATTENTION, BATCH, ROW, ROW_SUMS, Call, Copy, Plan, RegionCall, Slot, Space, align
from .steady import steady_parameters


def plan(
    graph: Graph, calls: Sequence[Call | RegionCall], steady: Collection[Value] | None = None
) -> Plan:
    """Order the calls of a static graph and place its values.

    The calls that compute what is `steady` (see `passes.steady`) come first, and what others read
    of it has a block of its own; nothing is prepared if that is None.
    """
    storages = _Storages(graph, calls, steady)
    homes = _Homes(storages)
    best: Plan | None = None
    for order in (_stable_order(homes), _frugal_order(homes)):
        order = _late(homes, order)
        order.sort(key=lambda call: not storages.prepares(call))
        placed = _place(homes, order)
        if best is None or placed.arena_bytes < best.arena_bytes:
            best = placed
    assert best is not None
    return best


# --- what is stored --------------------------------------------------------------------------


class _Storages:
    """Which values own memory, who computes them and who reads them."""

    def __init__(
        self,
        graph: Graph,
        calls: Sequence[Call | RegionCall],
        steady: Collection[Value] | None = None,
    ) -> None:
        self.graph = graph
        self.steady = steady
        self.calls = tuple(calls)
        self.producer = {v: i for i, call in enumerate(calls) for v in call.outputs}
        self.readers: dict[Value, list[int]] = {}
        self.aligned: list[dict[Value, bool]] = []
        for i, call in enumerate(self.calls):
            self.aligned.append(self._aligned(call))
            for owner in dict.fromkeys(map(self.owner, call.inputs)):
                self.readers.setdefault(owner, []).append(i)

    def prepares(self, call: int) -> bool:
        """Whether a call computes what is steady."""
        return self.steady is not None and self.calls[call].outputs[0] in self.steady

    def owner(self, value: Value) -> Value:
        """The value whose memory a view shows; itself for what is no view."""
        while value not in self.producer and value.node is not None and value.node.inputs:
            value = value.node.inputs[0]
        return value

    def _aligned(self, call: Call | RegionCall) -> dict[Value, bool]:
        """For each owner that the call reads: only at the element that it computes?"""
        if isinstance(call, RegionCall):
            return dict.fromkeys(map(self.owner, call.inputs), False)
        body = call.kernel.body
        if call.kernel.root == ROW or call.kernel.has_sums:
            reads = rows.aligned(body)
        else:
            reads = dict.fromkeys(body.inputs, True)
            for parameter, aligned in accesses(body.outputs, ()):
                reads[parameter] = reads[parameter] and aligned
        found: dict[Value, bool] = {}
        for value, parameter in zip(call.inputs, body.inputs, strict=True):
            owner = self.owner(value)
            found[owner] = found.get(owner, True) and reads[parameter]
        return found

    def may_overwrite(self, output: Value, operand: Value) -> bool:
        """Whether the call that computes `output` may write it over an operand, or reads it not.

        It must read the operand element by element, and then the loops do all that reads an
        element before they store it: those of pointwise kernels, the epilogues of contractions
        and windows, and what reductions compute from their results (but not the results). What
        only replaces elements of an operand begins with a copy of it, or with itself. A row
        kernel stores a row when it has read all of it; a batch computes part by part.
        A region overwrites what a carry begins as, if it reads that nowhere else.
        """
        index = self.producer[output]
        call = self.calls[index]
        if operand not in self.aligned[index]:
            return True
        if isinstance(call, RegionCall):
            return self.begins_as(call, output) is operand
        if call.kernel.root == ATTENTION:
            return False
        if call.kernel.root == ROW_SUMS:
            return self._rows_may_overwrite(call, output, operand)
        if call.kernel.root == BATCH and not self._in_one_part(call, output, operand):
            return False
        if call.kernel.root not in ("pointwise", ROW):
            bodies = dict(zip(call.outputs, call.kernel.body.outputs, strict=True))
            node = bodies[output].node
            if node and node.op.kind in ("reduce", "opaque") and node.op.name not in REPLACES:
                return False
        return self.aligned[index][operand]

    def _rows_may_overwrite(self, call: Call, output: Value, operand: Value) -> bool:
        body = call.kernel.body
        target = dict(zip(call.outputs, body.outputs, strict=True))[output]
        return all(
            row_sums.may_replace(body, target, p)
            for v, p in zip(call.inputs, body.inputs, strict=True) if self.owner(v) is operand
        )  # fmt: skip

    def _in_one_part(self, call: Call, output: Value, operand: Value) -> bool:
        """Whether only the part of a batch that computes an output reads an operand."""
        body = call.kernel.body
        parameters = {
            p for v, p in zip(call.inputs, body.inputs, strict=True) if self.owner(v) is operand
        }
        target = dict(zip(call.outputs, body.outputs, strict=True))[output]
        return all(
            is_among(target, part.outputs) or parameters.isdisjoint(part.inputs)
            for part in parts_of(body)
        )

    def begins_as(self, call: RegionCall, output: Value) -> Value | None:
        """The operand that a carry begins as, unless the region reads it elsewhere."""
        owners = [self.owner(v) for v in call.inputs]
        begins = {call.outputs[j]: owners[i] for j, i in call.carries}
        operand = begins.get(output)
        return operand if sum(owner is operand for owner in owners) == 1 else None


class _Homes:
    """Results that are computed where they belong, and the order that this asks for."""

    def __init__(self, storages: _Storages) -> None:
        self.storages = storages
        self.graph = storages.graph
        self.before: list[set[int]] = [
            {storages.producer[o] for v in call.inputs
             for o in map(storages.owner, (v, *tokens_of(v))) if o in storages.producer}
            for call in storages.calls
        ]  # fmt: skip
        self.slots: dict[Value, Slot] = {}
        for space, values in (("input", self.graph.inputs), ("state", self.graph.state)):
            for i, value in enumerate(values):
                self.slots[value] = Slot(space, i, 0, value.type.nbytes)  # type: ignore[arg-type]
        self.prepared_bytes = self._place_prepared()
        self.results = {storages.owner(v) for v in self.graph.results}
        self._place_updates()
        for i, value in enumerate(self.graph.outputs):
            owner: Value | None = storages.owner(value)
            while owner in storages.producer and owner not in self.slots:
                self.slots[owner] = Slot("output", i, 0, owner.type.nbytes)
                owner = self._computed_only_for(owner)

    def _place_prepared(self) -> int:
        """Places for what is computed once and read in every run; the bytes that they take."""
        storages, end = self.storages, 0
        results = set(map(storages.owner, self.graph.results))
        for value, call in storages.producer.items():
            readers = storages.readers.get(value, ())
            others = value in results or not all(map(storages.prepares, readers))
            if storages.prepares(call) and others:
                self.slots[value] = Slot("prepared", 0, end, value.type.nbytes)
                end += align(value.type.nbytes)
        return end

    def _place_updates(self) -> None:
        kept = {self.storages.owner(new) for _, new in self.graph.updates}
        users = _users(self)
        for old, new in self.graph.updates:
            owner: Value | None = self.storages.owner(new)
            while (
                owner in self.storages.producer
                and owner not in self.slots
                and old not in kept
                and self._may_replace(owner, old, users)
            ):
                self.slots[owner] = self.slots[old]
                owner = self._computed_only_for(owner)

    def _may_replace(self, new: Value, old: Value, users: list[list[int]]) -> bool:
        """Whether `new` can be computed over a state; then its readers are made to run before."""
        writer = self.storages.producer[new]
        readers = set(self.storages.readers.get(old, ())) - {writer}
        if not self.storages.may_overwrite(new, old) or readers & self._after(writer, users):
            return False
        self.before[writer] |= readers
        for reader in readers:
            users[reader].append(writer)
        return True

    def _computed_only_for(self, output: Value) -> Value | None:
        """What a carry of a region begins as, if nothing else uses that: it can lie there too."""
        index = self.storages.producer[output]
        call = self.storages.calls[index]
        if not isinstance(call, RegionCall):
            return None
        value = self.storages.begins_as(call, output)
        alone = self.storages.readers.get(value, []) == [index]  # type: ignore[arg-type]
        return value if alone and value not in self.results else None

    def _after(self, call: int, users: list[list[int]]) -> set[int]:
        """The calls that must run after `call`."""
        found: set[int] = set()
        stack = [call]
        while stack:
            for user in users[stack.pop()]:
                if user not in found:
                    found.add(user)
                    stack.append(user)
        return found


# --- order -----------------------------------------------------------------------------------


def _stable_order(homes: _Homes) -> list[int]:
    """The given order, changed only where a state must be read before it is written."""
    waiting = [len(sources) for sources in homes.before]
    users = _users(homes)
    ready = [i for i, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        call = heapq.heappop(ready)
        order.append(call)
        for user in users[call]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    assert len(order) == len(waiting), "the calls wait for each other"
    return order


def _frugal_order(homes: _Homes) -> list[int]:
    """Of the calls that can run, always the one after which the least memory is in use."""
    storages = homes.storages
    waiting = [len(sources) for sources in homes.before]
    users = _users(homes)
    left = {v: len(readers) for v, readers in storages.readers.items()}
    pinned = {storages.owner(v) for v in homes.graph.results}
    ready = {i for i, count in enumerate(waiting) if not count}
    order = []

    def growth(call: int) -> tuple[int, int]:
        made = sum(
            _arena_bytes(homes, v) for v in storages.calls[call].outputs
            if v in storages.readers or v in pinned
        )  # fmt: skip
        freed = sum(
            _arena_bytes(homes, v) for v in storages.aligned[call]
            if left[v] == 1 and v in storages.producer and v not in pinned
        )  # fmt: skip
        return made - freed, call

    while ready:
        call = min(ready, key=growth)
        ready.remove(call)
        order.append(call)
        for value in storages.aligned[call]:
            left[value] -= 1
        for user in users[call]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.add(user)
    return order


def _late(homes: _Homes, order: Sequence[int]) -> list[int]:
    """The order, in which calls that wait for nothing run just before the first that waits for
    them: what they read is there all the time, and what they make takes memory from then on."""
    users = _users(homes)
    waiting = {call for call in order if users[call] and not homes.before[call]}
    found: list[int] = []
    for call in order:
        if call not in waiting:
            sources = [source for source in sorted(homes.before[call]) if source in waiting]
            waiting.difference_update(sources)
            found += [*sources, call]
    return found


def _users(homes: _Homes) -> list[list[int]]:
    users: list[list[int]] = [[] for _ in homes.before]
    for i, sources in enumerate(homes.before):
        for source in sources:
            users[source].append(i)
    return users


def _arena_bytes(homes: _Homes, value: Value) -> int:
    return 0 if value in homes.slots else align(value.type.nbytes)


# --- places ----------------------------------------------------------------------------------


@dataclass(eq=False)
class Buffer:
    """A stretch of the arena: in use from call `start` to call `end`, both included."""

    nbytes: int
    start: int
    end: int
    values: list[Value] = field(default_factory=list)
    offset: int = 0

    def overlaps(self, other: Buffer) -> bool:
        """Whether both are in use at some time."""
        return self.start <= other.end and other.start <= self.end


def pack(buffers: Iterable[Buffer]) -> int:
    """Give every buffer an offset so that no two in use at once overlap; the bytes needed.

    Two orders are tried, large buffers first and early buffers first. Each buffer goes to the
    smallest gap that holds it, between those placed before that are in use at the same time.
    """
    buffers = list(buffers)
    best: tuple[int, list[int]] | None = None
    for key in (lambda b: (-b.nbytes, b.start), lambda b: (b.start, -b.nbytes)):
        total = _pack_in_order(sorted(buffers, key=key))
        if best is None or total < best[0]:
            best = (total, [b.offset for b in buffers])
    if best is None:
        return 0
    for buffer, offset in zip(buffers, best[1], strict=True):
        buffer.offset = offset
    return best[0]


def _pack_in_order(buffers: Sequence[Buffer]) -> int:
    starts, ends, offsets, tops = (np.zeros(len(buffers), np.int64) for _ in range(4))
    for count, buffer in enumerate(buffers):
        size = align(buffer.nbytes)
        (meet,) = np.nonzero((starts[:count] <= buffer.end) & (ends[:count] >= buffer.start))
        meet = meet[np.argsort(offsets[meet], kind="stable")]
        filled = np.maximum.accumulate(np.append(0, tops[meet]))
        gaps = offsets[meet] - filled[:-1]
        (fitting,) = np.nonzero(gaps >= size)
        chosen = fitting[np.argmin(gaps[fitting])] if fitting.size else -1  # or behind all
        buffer.offset = int(filled[chosen])
        starts[count], ends[count] = buffer.start, buffer.end
        offsets[count], tops[count] = buffer.offset, buffer.offset + size
    return int(tops.max(initial=0))


def _place(homes: _Homes, order: Sequence[int]) -> Plan:
    storages, graph = homes.storages, homes.graph
    slots = dict(homes.slots)
    constants = _place_constants(storages, slots)
    buffers = _buffers(homes, order)
    to_outputs, to_state = _missing_results(storages, slots)
    staged = _staged(to_state, slots, end=len(order))
    arena_bytes = pack([*buffers, *staged.values()])
    for buffer in buffers:
        for value in buffer.values:
            slots[value] = Slot("arena", 0, buffer.offset, value.type.nbytes)
    stage = {v: Slot("arena", 0, b.offset, b.nbytes) for v, b in staged.items()}
    computed = storages.producer
    first = [Copy(slots[v], target) for v, target in to_outputs if v not in computed]
    copies = [Copy(slots[v], target) for v, target in to_outputs if v in computed]
    copies += [Copy(slots[v], slot) for v, slot in stage.items()]
    copies += [Copy(stage.get(v) or slots[v], target) for v, target in to_state]
    shown = [v for call in storages.calls for v in call.inputs] + list(graph.results)
    slots.update({v: slots[storages.owner(v)] for v in shown})
    calls = tuple(storages.calls[i] for i in order)
    return Plan(
        graph, calls, slots, constants, arena_bytes, tuple(first), tuple(copies),
        sum(map(storages.prepares, order)), homes.prepared_bytes, _steady_blocks(storages, slots),
    )  # fmt: skip


def _steady_blocks(storages: _Storages, slots: dict[Value, Slot]) -> frozenset[tuple[Space, int]]:
    """The blocks that keep what they hold, if anything is to be prepared."""
    if storages.steady is None:
        return frozenset()
    states = {slots[v] for v in steady_parameters(storages.graph)}
    kept = states | {slot for slot in slots.values() if slot.space in ("constant", "prepared")}
    return frozenset((slot.space, slot.index) for slot in kept)


def _place_constants(storages: _Storages, slots: dict[Value, Slot]) -> tuple[np.ndarray, ...]:
    """Slots for the constants that calls read or that are results."""
    read = [v for call in storages.calls for v in call.inputs]
    owners = dict.fromkeys(map(storages.owner, [*read, *storages.graph.results]))
    constants = [v for v in owners if v.is_constant]
    for i, value in enumerate(constants):
        slots[value] = Slot("constant", i, 0, value.type.nbytes)
    return tuple(np.ascontiguousarray(v.constant) for v in constants)


def _buffers(homes: _Homes, order: Sequence[int]) -> list[Buffer]:
    """The buffers of the arena; a value that is written over its operand joins its buffer."""
    storages = homes.storages
    time = {call: t for t, call in enumerate(order)}
    kept = {storages.owner(v) for v in homes.graph.results}
    buffer_of: dict[Value, Buffer] = {}
    for call in order:
        taken: set[Buffer] = set()
        for value in storages.calls[call].outputs:
            if value in homes.slots:
                continue
            uses = [time[reader] for reader in storages.readers.get(value, ())]
            end = len(order) if value in kept else max(uses, default=time[call])
            buffer = _reusable(storages, call, time[call], value, buffer_of, taken)
            if buffer is None:
                buffer = Buffer(value.type.nbytes, time[call], end)
            taken.add(buffer)
            buffer.values.append(value)
            buffer.end = end
            buffer_of[value] = buffer
    return list(dict.fromkeys(buffer_of.values()))


def _reusable(
    storages: _Storages, call: int, now: int, value: Value,
    buffer_of: dict[Value, Buffer], taken: set[Buffer],
) -> Buffer | None:  # fmt: skip
    """The buffer of an operand that the call reads last, element by element."""
    for operand in storages.aligned[call]:
        buffer = buffer_of.get(operand)
        if (
            buffer is not None
            and storages.may_overwrite(value, operand)
            and buffer.end == now
            and buffer.values[-1] is operand
            and buffer not in taken
            and operand.dtype == value.dtype
            and operand.type.nbytes == value.type.nbytes
        ):
            return buffer
    return None


_Moves = list[tuple[Value, Slot]]


def _missing_results(storages: _Storages, slots: dict[Value, Slot]) -> tuple[_Moves, _Moves]:
    """Results that lie elsewhere after the calls: for outputs, and for state."""
    graph = storages.graph
    to_outputs = [
        (storages.owner(v), Slot("output", i, 0, v.type.nbytes))
        for i, v in enumerate(graph.outputs)
    ]
    to_state = [(storages.owner(new), slots[old]) for old, new in graph.updates]
    return (
        [(v, target) for v, target in to_outputs if slots.get(v) != target],
        [(v, target) for v, target in to_state if slots.get(v) != target],
    )


def _staged(moves: _Moves, slots: dict[Value, Slot], end: int) -> dict[Value, Buffer]:
    """States that become other states while being replaced themselves, as when two are swapped."""
    overwritten = {target for _, target in moves}
    return {v: Buffer(v.type.nbytes, end, end) for v, _ in moves if slots.get(v) in overwritten}
