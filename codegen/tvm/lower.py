"""Lower a plan: kernels to TIR, the call list and the layout of memory to one native program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.errors import LoweringError
from ...ir.graph import Value
from ...passes.plan import Kernel, Plan, Slot, align
from . import build, emit
from .emit import Buffer, PrimFunc, Stmt
from .opaque import opaque
from .pointwise import flat_buffer, pointwise
from .reduction import reduction
from .rooted import rooted, shaped_buffer
from .target import Machine, Target


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program and where it looks for memory.

    Attributes
    ----------
    plan : Plan
    program : NativeProgram
    workspace_bytes : int
        What kernels need for themselves; it lies behind the plan's arena, in the same block.
    """

    plan: Plan
    program: build.NativeProgram
    workspace_bytes: int

    @property
    def arena_bytes(self) -> int:
        """Size of the block that the first pointer points to: the plan's arena and workspace."""
        return self.plan.arena_bytes + self.workspace_bytes

    @property
    def pointers(self) -> Mapping[str, range]:
        """Positions in the table of pointers, by the space of slots."""
        return _layout(self.plan)


def _layout(plan: Plan) -> dict[str, range]:
    graph = plan.graph
    counts = {
        "arena": 1,
        "input": len(graph.inputs),
        "state": len(graph.state),
        "output": len(graph.outputs),
        "constant": len(plan.constants),
    }
    layout, start = {}, 0
    for space, count in counts.items():
        layout[space] = range(start, start + count)
        start += count
    return layout


def compile_plan(plan: Plan, target: Target) -> Compiled:
    """Compile a plan for a target.

    Raises
    ------
    LoweringError
        If a kernel holds what the native backend cannot express.
    """
    functions = {
        kernel.name: lower_kernel(kernel, target.machine, aliased=_is_aliased(plan, kernel))
        for kernel in plan.kernels
    }
    layout = _layout(plan)
    workspace = max(map(emit.workspace_bytes, functions.values()), default=0)
    calls = []
    for call in plan.calls:
        slots = [plan.slots[v] for v in (*call.inputs, *call.outputs)]
        arguments = [_argument(layout, slot) for slot in slots]
        if emit.workspace_bytes(functions[call.kernel.name]):
            arguments.append((0, plan.arena_bytes))
        calls.append(build.Call(call.kernel.name, tuple(arguments)))
    for copy in plan.copies:
        name = f"copy_{copy.source.nbytes}_bytes"
        functions.setdefault(name, _copy_kernel(name, copy.source.nbytes))
        places = (_argument(layout, copy.source), _argument(layout, copy.target))
        calls.append(build.Call(name, places))
    return Compiled(plan, build.build(functions, calls, target), align(workspace))


def _argument(layout: Mapping[str, range], slot: Slot) -> tuple[int, int]:
    return layout[slot.space][slot.index], slot.offset


def _is_aliased(plan: Plan, kernel: Kernel) -> bool:
    return any(plan.in_place(call) for call in plan.calls if call.kernel is kernel)


def _copy_kernel(name: str, nbytes: int) -> PrimFunc:
    source, target = (emit.buffer(n, (max(nbytes, 1),), "uint8") for n in ("source", "target"))
    body = emit.strips(nbytes, 64, lambda i: emit.store(target, (i,), source[i]))
    return emit.kernel(name, (source, target), body)


# --- kernels ---------------------------------------------------------------------------------


def lower_kernel(kernel: Kernel, machine: Machine, *, aliased: bool = False) -> PrimFunc:
    """The function of a kernel: its parameters are the body's inputs, then its outputs.

    Parameters
    ----------
    kernel : Kernel
    machine : Machine
        What to choose tiles, vectors and threads for.
    aliased : bool
        Whether an output may lie in the memory of an input.
    """
    body, root = kernel.body, kernel.root_node
    is_template = root is not None and root.op.kind in ("contraction", "window")
    shaped = root.inputs if is_template else ()
    inputs = [
        shaped_buffer(f"in{i}", v) if v in shaped else flat_buffer(f"in{i}", v)
        for i, v in enumerate(body.inputs)
    ]
    outputs = [flat_buffer(f"out{i}", v) for i, v in enumerate(body.outputs)]
    buffers = dict(zip((*body.inputs, *body.outputs), (*inputs, *outputs), strict=True))
    statement = _body(kernel, buffers, machine)
    parameters = (*inputs, *outputs)
    return emit.kernel(kernel.name, parameters, statement, aliased=aliased, plain=not is_template)


def _body(kernel: Kernel, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    root = kernel.root_node
    if root is None:
        return pointwise(kernel.body, buffers, machine)
    if root.op.kind == "reduce":
        return reduction(kernel.body, buffers, machine)
    if root.op.kind == "opaque":
        return opaque(root, buffers, machine)
    if root.op.kind in ("contraction", "window"):
        return rooted(kernel.body, root, buffers, machine)
    raise LoweringError(f"kernel {kernel.name}: no loops for a root of kind {root.op.kind!r}")
