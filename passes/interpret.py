"""Run a plan with the NumPy oracles, through its memory: what native programs are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..ir.errors import VerifyError
from ..ir.evaluate import Evaluation, evaluate
from ..ir.types import TensorType
from .plan import ALIGNMENT, Call, Plan, Slot

_GARBAGE = 0xCB
"""What fresh memory holds, so that a value that is read before it is written shows."""


def run_plan(plan: Plan, arrays: Mapping[str, np.ndarray]) -> Evaluation:
    """Run a plan as a native program would: one arena of bytes, calls in order, then copies.

    Calls that write over an operand run in two halves: the second half is computed after the
    first was stored, so a kernel that is not as elementwise as the plan believes gives other
    numbers than the graph.

    Raises
    ------
    VerifyError
        If slots of one call overlap in a way that the plan does not allow.
    """
    memory = _Memory(plan, arrays)
    for call in plan.calls:
        _check_overlaps(plan, call)
        results = _run(memory, call)
        halves = 2 if plan.in_place(call) else 1
        for half in range(halves):
            results = _run(memory, call) if half else results
            for value, result in zip(call.outputs, results, strict=True):
                target = memory.array(plan.slots[value], value.type).reshape(-1)
                part = slice(half * target.size // halves, (half + 1) * target.size // halves)
                target[part] = result.reshape(-1)[part]
    for copy in plan.copies:
        memory.bytes(copy.target)[:] = memory.bytes(copy.source).copy()
    return memory.results()


class _Memory:
    """Blocks of bytes by space and index."""

    def __init__(self, plan: Plan, arrays: Mapping[str, np.ndarray]) -> None:
        self.plan = plan
        graph = plan.graph
        self.blocks: dict[tuple[str, int], np.ndarray] = {("arena", 0): _fresh(plan.arena_bytes)}
        for i, array in enumerate(plan.constants):
            self.blocks["constant", i] = _bytes(array)
        for i, value in enumerate(graph.inputs):
            self.blocks["input", i] = _bytes(arrays[value.name])
        for i, value in enumerate(graph.state):
            self.blocks["state", i] = _bytes(arrays[value.name])
        for i, value in enumerate(graph.outputs):
            self.blocks["output", i] = _fresh(value.type.nbytes)

    def bytes(self, slot: Slot) -> np.ndarray:
        block = self.blocks[slot.space, slot.index]
        if slot.offset + slot.nbytes > block.size or slot.offset % ALIGNMENT:
            raise VerifyError(f"plan {self.plan.graph.name}: {slot} must lie aligned in its block "
                              f"of {block.size} bytes")  # fmt: skip
        return block[slot.offset : slot.offset + slot.nbytes]

    def array(self, slot: Slot, type: TensorType) -> np.ndarray:
        shape = tuple(int(d) for d in type.shape)
        return self.bytes(slot).view(type.dtype.numpy).reshape(shape)

    def results(self) -> Evaluation:
        graph = self.plan.graph
        outputs = {
            name: self.array(Slot("output", i, 0, v.type.nbytes), v.type).copy()
            for i, (name, v) in enumerate(zip(graph.output_names, graph.outputs, strict=True))
        }
        updates = {old.name: self.array(self.plan.slots[old], old.type) for old, _ in graph.updates}
        return Evaluation(outputs, updates)


def _run(memory: _Memory, call: Call) -> list[np.ndarray]:
    body = call.kernel.body
    operands = {
        parameter.name: memory.array(memory.plan.slots[value], parameter.type).copy()
        for parameter, value in zip(body.inputs, call.inputs, strict=True)
    }
    return list(evaluate(body, operands).outputs.values())


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
            if not _overlap(mine, other) or (
                mine == other and other not in others[len(call.inputs) :]
            ):
                continue
            raise VerifyError(f"plan {plan.graph.name}: {call.kernel.name} writes {mine} "
                              f"over {other}")  # fmt: skip


def _overlap(a: Slot, b: Slot) -> bool:
    if (a.space, a.index) != (b.space, b.index) or not a.nbytes or not b.nbytes:
        return False
    return a.offset < b.offset + b.nbytes and b.offset < a.offset + a.nbytes
