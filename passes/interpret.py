"""Run a plan with the NumPy oracles, through its memory: what native programs are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..ir.errors import VerifyError
from ..ir.evaluate import Evaluation, evaluate
from ..ir.graph import Value
from ..ir.types import TensorType
from .plan import ALIGNMENT, ROW, ROW_SUMS, Body, Call, Plan, RegionCall, Slot, Space, Window
from .rows import body_rows

_GARBAGE = 0xCB
"""What fresh memory holds, so that a value that is read before it is written shows."""


def run_plan(plan: Plan, arrays: Mapping[str, np.ndarray]) -> Evaluation:
    """Run a plan as a native program would: one arena of bytes, calls in order, then copies.

    Calls that write over an operand run in two halves (of the elements, or of the rows): the second
    half is computed after the first was stored, so a kernel that is not as elementwise as the plan
    believes gives other numbers than the graph.

    Raises
    ------
    VerifyError
        If slots of one call overlap in a way that the plan does not allow.
    """
    blocks: dict[tuple[Space, int], np.ndarray] = {("arena", 0): _fresh(plan.arena_bytes)}
    blocks["prepared", 0] = _fresh(plan.prepared_bytes)
    for i, array in enumerate(plan.constants):
        blocks["constant", i] = _bytes(array)
    for i, value in enumerate(plan.graph.inputs):
        blocks["input", i] = _bytes(arrays[value.name])
    for i, value in enumerate(plan.graph.state):
        blocks["state", i] = _bytes(arrays[value.name])
    for i, value in enumerate(plan.graph.outputs):
        blocks["output", i] = _fresh(value.type.nbytes)
    memory = _Memory(plan, blocks)
    _run(memory)
    return memory.results()


class _At(NamedTuple):
    """Where a region is: in which step of which chunk."""

    step: int = 0
    chunk: int = 0

    def begin(self, window: Window) -> int:
        return window.offset + self.step * window.stride + self.chunk * window.chunk


_BEGIN = _At()


class _Memory:
    """Blocks of bytes by space and index."""

    def __init__(self, plan: Plan, blocks: Mapping[tuple[Space, int], np.ndarray]) -> None:
        self.plan = plan
        self.blocks = blocks

    def bytes(self, slot: Slot) -> np.ndarray:
        if not slot.nbytes:
            return np.empty(0, np.uint8)
        block = self.blocks[slot.space, slot.index]
        if slot.offset + slot.nbytes > block.size or slot.offset % ALIGNMENT:
            raise VerifyError(f"plan {self.plan.graph.name}: {slot} must lie aligned in its block "
                              f"of {block.size} bytes")  # fmt: skip
        return block[slot.offset : slot.offset + slot.nbytes]

    def array(self, slot: Slot, type: TensorType) -> np.ndarray:
        shape = tuple(int(d) for d in type.shape)
        return self.bytes(slot).view(type.dtype.numpy).reshape(shape)

    def window(self, call: RegionCall, window: Window, at: _At) -> np.ndarray:
        """The bytes from the begin of a window to the end of what it is a stretch of."""
        return self.bytes(self.plan.slots[call.value(window)])[at.begin(window) :]

    def results(self) -> Evaluation:
        graph = self.plan.graph
        outputs = {
            name: self.array(Slot("output", i, 0, v.type.nbytes), v.type).copy()
            for i, (name, v) in enumerate(zip(graph.output_names, graph.outputs, strict=True))
        }
        updates = {old.name: self.array(self.plan.slots[old], old.type) for old, _ in graph.updates}
        return Evaluation(outputs, updates)


def _run(memory: _Memory) -> None:
    """Run a plan in its memory."""
    plan = memory.plan
    for copy in plan.first:
        memory.bytes(copy.target)[:] = memory.bytes(copy.source)
    for i, call in enumerate(plan.calls):
        if i == plan.preparing and i:  # what the rest reads must lie elsewhere
            memory.blocks["arena", 0][:] = _GARBAGE
        if isinstance(call, RegionCall):
            _check_region(plan, call)
            _run_region(memory, call)
        else:
            _check_overlaps(plan, call)
            _run_kernel(memory, call)
    for copy in plan.copies:
        memory.bytes(copy.target)[:] = memory.bytes(copy.source).copy()


def _run_kernel(memory: _Memory, call: Call) -> None:
    before = results = _results(memory, call)
    halves = 2 if memory.plan.in_place(call) else 1
    last = {v for v in call.outputs if _is_last(call, v)}
    for half in range(halves):
        results = _results(memory, call) if half else results
        for value, result in zip(call.outputs, results, strict=True):
            if value in last:
                continue
            target = memory.array(memory.plan.slots[value], value.type).reshape(-1)
            unit, count = _units(call, target.size)
            first, end = (n * count // halves for n in (half, half + 1))
            part = (first <= unit) & (unit < end)
            target[part] = result.reshape(-1)[part]
    for value, result in zip(call.outputs, before, strict=True):
        if value in last:  # of sums over what was there before
            memory.array(memory.plan.slots[value], value.type)[...] = result


def _is_last(call: Call, output: Value) -> bool:
    """Whether an output is computed of sums over all rows."""
    if call.kernel.root == ROW_SUMS:
        return output.type.size == body_rows(call.kernel.body).length
    return call.kernel.has_sums and output.type.size != body_rows(call.kernel.body).total


def _units(call: Call, size: int) -> tuple[np.ndarray, int]:
    """For each element of an output when it is computed, and how many times there are."""
    positions = np.arange(size)
    if call.kernel.root not in (ROW, ROW_SUMS):
        return positions, size
    rows = body_rows(call.kernel.body)
    return rows.row_of(positions) if size == rows.total else positions, rows.count


def _results(memory: _Memory, call: Call) -> list[np.ndarray]:
    body = call.kernel.body
    operands = {
        parameter.name: memory.array(memory.plan.slots[value], parameter.type).copy()
        for parameter, value in zip(body.inputs, call.inputs, strict=True)
    }
    return list(evaluate(body, operands).outputs.values())


# --- control flow ----------------------------------------------------------------------------


def _run_region(memory: _Memory, call: RegionCall) -> None:
    slots, name = memory.plan.slots, call.node.op.name
    memory.bytes(slots[call.outputs[-1]])[:] = _GARBAGE
    for j, i in call.carries:
        memory.bytes(slots[call.outputs[j]])[:] = memory.bytes(slots[call.inputs[i]])
    if name == "scan":
        for chunk in reversed(range(call.chunks)):  # as good as any order
            for step in call.steps:
                _run_body(memory, call, "body", _At(step, chunk))
    elif name == "while":
        _run_body(memory, call, "condition")
        while _flag(memory, call):
            _run_body(memory, call, "body")
            _run_body(memory, call, "condition")
    else:
        _run_body(memory, call, "then" if _flag(memory, call) else "otherwise")


def _flag(memory: _Memory, call: RegionCall) -> bool:
    assert call.flag is not None
    return bool(memory.window(call, call.flag, _BEGIN)[0])


def _run_body(memory: _Memory, call: RegionCall, name: str, at: _At = _BEGIN) -> None:
    body = call.bodies[name]
    for move in body.before:
        _move(memory, call, move.source, move.target, move.nbytes, at)
    blocks = {key: _block(memory, call, body, key, w, at) for key, w in body.blocks.items()}
    blocks["arena", 0][:] = _GARBAGE
    _run(_Memory(body.plan, blocks))
    for move in body.after:
        _move(memory, call, move.source, move.target, move.nbytes, at)


def _move(
    memory: _Memory, call: RegionCall, source: Window, target: Window, nbytes: int, at: _At
) -> None:
    found = memory.window(call, source, at)[:nbytes]
    memory.window(call, target, at)[:nbytes] = found


def _block(
    memory: _Memory, call: RegionCall, body: Body, key: tuple[Space, int], window: Window,
    at: _At,
) -> np.ndarray:  # fmt: skip
    """The bytes of a block of a body: no more than it may touch."""
    space, index = key
    graph = body.plan.graph
    if at.begin(window) % ALIGNMENT and key in body.plan.used_blocks:
        raise VerifyError(f"plan {graph.name}: {window} must begin at a multiple of {ALIGNMENT}")
    if space == "arena":
        nbytes = body.plan.arena_bytes
    elif space == "constant":
        nbytes = body.plan.constants[index].nbytes
    else:
        values = {"input": graph.inputs, "state": graph.state, "output": graph.outputs}[space]
        nbytes = int(values[index].type.nbytes)
    found = memory.window(call, window, at)
    if nbytes > found.size:
        raise VerifyError(f"plan {graph.name}: {space} {index} of {nbytes} bytes must lie in "
                          f"{window}, which has {found.size}")  # fmt: skip
    return found[:nbytes]


# --- memory ----------------------------------------------------------------------------------


def _fresh(nbytes: int) -> np.ndarray:
    return np.full(nbytes, _GARBAGE, np.uint8)


def _bytes(array: np.ndarray) -> np.ndarray:
    """A copy of the array as bytes."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return np.frombuffer(flat.tobytes(), np.uint8).copy()


def _check_overlaps(plan: Plan, call: Call) -> None:
    """Outputs overlap nothing but the one operand that they are written over."""
    for j, out in enumerate(call.outputs):
        others = [plan.slots[v] for v in (*call.inputs, *call.outputs[:j])]
        for other in others:
            mine = plan.slots[out]
            if not mine.overlaps(other) or (
                mine == other and other not in others[len(call.inputs) :]
            ):
                continue
            raise VerifyError(f"plan {plan.graph.name}: {call.kernel.name} writes {mine} "
                              f"over {other}")  # fmt: skip


def _check_region(plan: Plan, call: RegionCall) -> None:
    """Outputs overlap nothing but what they begin as."""
    begins = dict(call.carries)
    for j, out in enumerate(call.outputs):
        mine = plan.slots[out]
        others = [plan.slots[v] for v in (*call.inputs, *call.outputs[:j])]
        for i, other in enumerate(others):
            if mine.overlaps(other) and not (mine == other and begins.get(j) == i):
                raise VerifyError(f"plan {plan.graph.name}: {call.node.op.name} writes {mine} "
                                  f"over {other}")  # fmt: skip
