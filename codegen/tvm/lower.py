"""Lower a plan: kernels to TIR, the calls and the layout of memory to one native program.

What few models need is imported when a kernel needs it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ...ir.errors import LoweringError
from ...ir.graph import Value, is_among
from ...ir.settings import current_settings, settings
from ...passes import plan as plans
from ...passes.plan import (
    ALIGNMENT,
    ATTENTION,
    BATCH,
    MOMENTS,
    ROW,
    ROW_SUMS,
    Call,
    Kernel,
    Move,
    Plan,
    RegionCall,
    Slot,
    Space,
    Window,
    align,
)
from ..native.program import NativeProgram, load
from . import build, emit, entry, kept
from .emit import Buffer, PrimFunc, Stmt
from .entry import Address, Branch, Copy, Loop, Statement, While, calls_in
from .kept import Preparation
from .nontemporal import STREAMED, is_streamed
from .pointwise import flat_buffer, pointwise
from .reduction import reduction
from .rooted import rooted, shaped_buffer
from .target import Machine, Target

if TYPE_CHECKING:
    from .timing import Timed

Bases = Mapping[tuple[Space, int], Address]
"""Where the blocks of a plan lie."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program and where it looks for memory.

    Attributes
    ----------
    plan : Plan
    program : NativeProgram
    workspace_bytes : int
        What kernels need for themselves; it lies behind the plan's arena, in the same block.
    prepared_bytes : int
        Size of the block that keeps what is prepared, 0 if nothing is. The first byte says whether
        a run prepares: 0 if the block holds what it should.
    """

    plan: Plan
    program: NativeProgram
    workspace_bytes: int
    prepared_bytes: int

    @property
    def arena_bytes(self) -> int:
        """Size of the block that the first pointer points to: the plan's arena and workspace."""
        return self.plan.arena_bytes + self.workspace_bytes

    @property
    def pointers(self) -> Mapping[Space, range]:
        """Positions in the table of pointers, by the space of slots."""
        return _layout(self.plan)


def _layout(plan: Plan) -> dict[Space, range]:
    graph = plan.graph
    counts: dict[Space, int] = {
        "arena": 1,
        "input": len(graph.inputs),
        "state": len(graph.state),
        "output": len(graph.outputs),
        "constant": len(plan.constants),
        "prepared": 1,
    }
    layout: dict[Space, range] = {}
    start = 0
    for space, count in counts.items():
        layout[space] = range(start, start + count)
        start += count
    return layout


@dataclass(frozen=True, eq=False)
class Lowered:
    """A plan as TIR: kernels by name, the statements that call them, bytes of workspace and of
    what is prepared."""

    kernels: Mapping[str, PrimFunc]
    statements: tuple[Statement, ...]
    workspace_bytes: int
    prepared_bytes: int


@dataclass(frozen=True)
class Choice:
    """What the templates of one kernel believe; a search may find that another belief is faster.

    Attributes
    ----------
    machine : Machine
        They size tiles, and share work out, by it.
    winograd : bool
        Whether convolutions may save products by minimal filtering.
    """

    machine: Machine
    winograd: bool = True


Choices = Mapping[str, Choice]
"""Choices by the name of the kernel; the others are made for the target's machine."""


def compile_plan(plan: Plan, target: Target, choices: Choices = MappingProxyType({})) -> Compiled:
    """Compile a plan for a target, and load the program into this process.

    Raises
    ------
    LoweringError
        If a kernel holds what the native backend cannot express.
    """
    with build.Compiler(target) as compiler:
        lowered = lower_plan(plan, target, choices, compiler.add)
        program = load(compiler.finish(lowered.statements))
    return Compiled(plan, program, lowered.workspace_bytes, lowered.prepared_bytes)


def compile_timed(
    plan: Plan, target: Target, choices: Choices = MappingProxyType({})
) -> tuple[Compiled, Timed]:
    """Compile a plan to a program that notes when each call began and ended.

    Returns
    -------
    tuple
        The program, and what it notes: its table of base pointers ends with a log of
        `Timed.nbytes` bytes, at position `Timed.base`.
    """
    from .timing import timed

    lowered = lower_plan(plan, target, choices)
    noted = timed(lowered.statements, sum(map(len, _layout(plan).values())))
    program = build.build(lowered.kernels, noted.statements, target)
    return Compiled(plan, program, lowered.workspace_bytes, lowered.prepared_bytes), noted


def lower_plan(
    plan: Plan,
    target: Target,
    choices: Choices = MappingProxyType({}),
    begin: Callable[[str, PrimFunc], None] = lambda name, function: None,
) -> Lowered:
    """Make TIR of a plan; `begin` is called with each kernel as soon as it is made.

    Raises
    ------
    LoweringError
        If a kernel holds what the native backend cannot express.
    """
    layout = _layout(plan)
    bases = {
        (space, i): Address(position)
        for space, positions in layout.items()
        for i, position in enumerate(positions)
    }
    flag = bases["prepared", 0]
    bases["prepared", 0] = flag.plus(ALIGNMENT)
    functions, preparations = {}, {}
    for kernel, function, filling in _functions(plan, target, choices, bases):
        functions[kernel.name], preparations[kernel.name] = function, filling
        begin(kernel.name, function)
        for preparation in filling:
            functions[preparation.name] = preparation.function
            begin(preparation.name, preparation.function)
    arrays = Arrays(preparations, flag.plus(ALIGNMENT + plan.prepared_bytes))
    needs = {name: emit.workspace_bytes(function) for name, function in functions.items()}
    lowering = _Program(needs, Address(0, plan.arena_bytes), arrays)
    prepare = tuple(lowering.calls(plan, plan.calls[: plan.preparing], bases))
    statements, prepared_bytes = lowering.plan(plan, bases), 0
    if prepare or arrays.fills:
        fills = map(lowering.fill, arrays.fills)
        statements = (Branch(flag, (*prepare, *fills), ()), *statements)
        prepared_bytes = arrays.end.offset
    workspace_bytes = max(lowering.workspace_bytes(plan), lowering.filling_bytes())
    return Lowered(functions, statements, workspace_bytes, prepared_bytes)


def _functions(
    plan: Plan, target: Target, choices: Choices, bases: Bases
) -> Iterator[tuple[Kernel, PrimFunc, tuple[Preparation, ...]]]:
    shared = shared_parameters(plan)
    serial, steady = set(serial_kernels(plan)), _steady_operands(plan, bases)
    for kernel in plan.kernels:
        choice = choices.get(kernel.name, Choice(target.machine))
        cores = 1 if kernel in serial else choice.machine.cores
        with settings(winograd=choice.winograd and current_settings().winograd):
            machine = replace(choice.machine, cores=cores)
            own = steady.get(kernel.name, ())
            made = prepared_kernel(kernel, machine, own, shared=shared[kernel])
            yield kernel, *made


Shared = tuple[tuple[int, int], ...] | None
"""Pairs of an output's and an input's position that are one memory; None where calls differ."""


def shared_parameters(plan: Plan) -> dict[Kernel, Shared]:
    """What the calls of each kernel compute in place."""
    found: dict[Kernel, set[Shared]] = {}
    for owner, call in plan.kernel_calls():
        pairs = owner.in_place(call)
        found.setdefault(call.kernel, set()).add(pairs if _are_one(call.kernel, pairs) else None)
    return {k: next(iter(pairs)) if len(pairs) == 1 else None for k, pairs in found.items()}


def _are_one(kernel: Kernel, pairs: tuple[tuple[int, int], ...]) -> bool:
    """Whether each output can be the buffer of one operand, and that of no other output."""
    ends = [[pair[side] for pair in pairs] for side in (0, 1)]
    distinct = all(len(set(positions)) == len(positions) for positions in ends)
    body = kernel.body
    return distinct and all(body.outputs[j].dtype == body.inputs[i].dtype for j, i in pairs)


def serial_kernels(plan: Plan) -> Iterator[Kernel]:
    """The kernels that run on several threads at once, each on one."""
    for call in plan.calls:
        if isinstance(call, RegionCall):
            for body in call.bodies.values():
                inside = body.plan.kernels if call.chunks > 1 else serial_kernels(body.plan)
                yield from inside


# --- what is kept of weights -----------------------------------------------------------------


class Fill(NamedTuple):
    """A call that fills an array of one operand."""

    kernel: str
    operand: Address
    array: Address


class Arrays:
    """Places for the arrays that kernels keep, one for each operand that a kernel is called on.

    Parameters
    ----------
    preparations : mapping of str to tuple of Preparation
        By the name of the kernel that reads the arrays.
    begin : Address
        Where the first one lies.
    """

    def __init__(self, preparations: Mapping[str, Sequence[Preparation]], begin: Address) -> None:
        self.end = begin
        self.fills: list[Fill] = []
        self._preparations = preparations
        self._places: dict[tuple[str, Address], Address] = {}

    def of(self, kernel: str, arguments: Sequence[Address]) -> list[Address]:
        """The arrays that a call of a kernel reads, beside these arguments."""
        return [
            self._place(each, arguments[each.operand])
            for each in self._preparations.get(kernel, ())
        ]

    def _place(self, preparation: Preparation, operand: Address) -> Address:
        key = (preparation.name, operand)
        if key not in self._places:
            self._places[key] = self.end
            self.fills.append(Fill(preparation.name, operand, self.end))
            self.end = self.end.plus(align(preparation.nbytes))
        return self._places[key]


def _steady_operands(plan: Plan, bases: Bases) -> dict[str, tuple[int, ...]]:
    """The inputs of each kernel that stay from call to call, wherever it is called.

    What runs once itself keeps nothing.
    """
    tables = {bases[block].base for block in plan.steady}
    program = _Program(defaultdict(int), Address(0), Arrays({}, Address(0)))
    inputs = {kernel.name: len(kernel.body.inputs) for kernel in plan.kernels}
    found: dict[str, set[int]] = {}
    for call in calls_in(program.plan(plan, bases)):
        addresses = enumerate(call.arguments[: inputs[call.kernel]])
        steady = {i for i, at in addresses if at.base in tables and not at.strides}
        found[call.kernel] = found.get(call.kernel, steady) & steady
    once = calls_in(tuple(program.calls(plan, plan.calls[: plan.preparing], bases)))
    for call in once:
        found.pop(call.kernel, None)
    return {kernel: tuple(sorted(steady)) for kernel, steady in found.items()}


class _Program:
    """Turns a plan into statements, bodies of control flow into statements in loops.

    Parameters
    ----------
    needs : mapping of str to int
        Bytes of workspace of each kernel.
    workspace : Address
        Where it lies.
    arrays : Arrays
        What kernels keep.
    """

    def __init__(self, needs: Mapping[str, int], workspace: Address, arrays: Arrays) -> None:
        self.needs = needs
        self.workspace = workspace
        self.arrays = arrays

    def workspace_bytes(self, plan: Plan) -> int:
        """What the kernels of a plan need, those of chunks each for itself."""
        most = 0
        for call in plan.calls:
            if isinstance(call, Call):
                needed = align(self.needs[call.kernel.name])
            else:
                inside = (self.workspace_bytes(body.plan) for body in call.bodies.values())
                needed = call.chunks * max(inside)
            most = max(most, needed)
        return most

    def in_chunks(self, body: Plan, loop: int) -> _Program:
        """The same in a loop over chunks, each of which has a workspace of its own."""
        workspace = self.workspace.stepped(loop, self.workspace_bytes(body))
        return _Program(self.needs, workspace, self.arrays)

    def plan(self, plan: Plan, bases: Bases, loops: int = 0) -> tuple[Statement, ...]:
        """The statements of a plan whose blocks lie at `bases`, inside of so many loops."""
        first, last = (
            [self.copy(copy, bases) for copy in each] for each in (plan.first, plan.copies)
        )
        calls = self.calls(plan, plan.calls[plan.preparing :], bases, loops)
        return (*first, *calls, *last)

    def calls(
        self, plan: Plan, calls: Sequence[Call | RegionCall], bases: Bases, loops: int = 0
    ) -> Iterator[Statement]:
        """The statements of some calls of a plan."""
        for call in calls:
            if isinstance(call, Call):
                yield self.kernel(plan, call, bases)
            else:
                yield from _RegionProgram(self, plan, call, bases, loops).statements()

    def copy(self, copy: plans.Copy, bases: Bases) -> Copy:
        places = (_address(bases, slot) for slot in (copy.source, copy.target))
        return Copy(*places, copy.source.nbytes)

    def kernel(self, plan: Plan, call: Call, bases: Bases) -> entry.Call:
        slots = [plan.slots[v] for v in (*call.inputs, *call.outputs)]
        arguments = [_address(bases, slot) for slot in slots]
        arguments += self.arrays.of(call.kernel.name, arguments)
        if self.needs[call.kernel.name]:
            arguments.append(self.workspace)
        return entry.Call(call.kernel.name, tuple(arguments))

    def fill(self, fill: Fill) -> entry.Call:
        """The call that fills an array."""
        more = (self.workspace,) if self.needs[fill.kernel] else ()
        return entry.Call(fill.kernel, (fill.operand, fill.array, *more))

    def filling_bytes(self) -> int:
        """What the kernels that fill arrays need."""
        return max((align(self.needs[fill.kernel]) for fill in self.arrays.fills), default=0)


@dataclass(frozen=True)
class _RegionProgram:
    """Turns a call of control flow into statements."""

    program: _Program
    plan: Plan
    call: RegionCall
    bases: Bases
    loops: int

    def statements(self) -> Iterator[Statement]:
        call, name = self.call, self.call.node.op.name
        for j, i in call.carries:
            source, target = (self.plan.slots[v] for v in (call.inputs[i], call.outputs[j]))
            if source != target:
                places = (_address(self.bases, source), _address(self.bases, target))
                yield Copy(*places, source.nbytes)
        if name == "scan":
            if not call.steps:
                return
            loops = self.loops + (2 if call.chunks > 1 else 1)
            steps = Loop(call.steps, self.body("body", loops))
            chunks = Loop(range(call.chunks), (steps,), parallel=True)
            yield chunks if call.chunks > 1 else steps
            return
        assert call.flag is not None
        flag = self.address(call.flag)
        if name == "while":
            yield While(self.body("condition"), flag, self.body("body"))
        else:
            yield Branch(flag, self.body("then"), self.body("otherwise"))

    def body(self, name: str, loops: int | None = None) -> tuple[Statement, ...]:
        body = self.call.bodies[name]
        bases = {block: self.address(window) for block, window in body.blocks.items()}
        program = self.program
        if self.call.chunks > 1:
            program = program.in_chunks(body.plan, self.loops)
        inside = program.plan(body.plan, bases, self.loops if loops is None else loops)
        return (*map(self.move, body.before), *inside, *map(self.move, body.after))

    def move(self, move: Move) -> Copy:
        return Copy(self.address(move.source), self.address(move.target), move.nbytes)

    def address(self, window: Window) -> Address:
        block = _address(self.bases, self.plan.slots[self.call.value(window)])
        block = block.plus(window.offset).stepped(self.loops, window.chunk)
        steps = self.loops + (1 if self.call.chunks > 1 else 0)
        return block.stepped(steps, window.stride)


def _address(bases: Bases, slot: Slot) -> Address:
    return bases[slot.space, slot.index].plus(slot.offset)


# --- kernels ---------------------------------------------------------------------------------


def lower_kernel(kernel: Kernel, machine: Machine, *, shared: Shared = ()) -> PrimFunc:
    """The function of a kernel: its parameters are the body's inputs, then its outputs.

    Parameters
    ----------
    kernel : Kernel
    machine : Machine
        What to choose tiles, vectors and threads for.
    shared : tuple of (int, int) or None
        Outputs, each with the input whose memory it lies in; None if that differs from call to
        call.
    """
    return prepared_kernel(kernel, machine, shared=shared)[0]


def prepared_kernel(
    kernel: Kernel, machine: Machine, steady: Sequence[int] = (), *, shared: Shared = ()
) -> tuple[PrimFunc, tuple[Preparation, ...]]:
    """As `lower_kernel`, with the kernels that fill what it keeps of its `steady` inputs."""
    body, root = kernel.body, kernel.root_node
    is_template = root is not None and root.op.kind in ("contraction", "window")
    shaped = root.inputs if is_template else ()
    inputs = [
        shaped_buffer(f"in{i}", v) if is_among(v, shaped) else flat_buffer(f"in{i}", v)
        for i, v in enumerate(body.inputs)
    ]
    outputs = [flat_buffer(f"out{i}", v) for i, v in enumerate(body.outputs)]
    buffers = dict(zip((*body.inputs, *body.outputs), (*inputs, *outputs), strict=True))
    for j, i in shared or ():  # one buffer, so that all others are known to be disjoint
        buffers[body.outputs[j]] = inputs[i]
    function, preparations = kept.make_kernel(
        kernel.name,
        (*inputs, *outputs),
        lambda: _body(kernel, buffers, machine),
        steady=steady if is_template else (),
        aliased=shared is None,
        plain=not is_template,
    )
    streamed = [
        len(inputs) + j
        for j, value in enumerate(body.outputs)
        if shared is not None and j not in dict(shared) and is_streamed(value.type.nbytes, machine)
    ]
    return function.with_attr(STREAMED, streamed), preparations


def _body(kernel: Kernel, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    root = kernel.root_node
    if kernel.root == ROW:
        from .rowwise import rowwise

        return rowwise(kernel.body, buffers, machine)
    if kernel.root == ROW_SUMS:
        from .row_sums import row_sums

        return row_sums(kernel.body, buffers, machine)
    if kernel.root == ATTENTION:
        from .attention import attention

        return attention(kernel.body, buffers, machine)
    if kernel.root == BATCH:
        from .batch import batch

        return batch(kernel.body, buffers, machine)
    if kernel.root == MOMENTS:
        from .moments import moments

        return moments(kernel.body, buffers, machine)
    if root is None:
        return pointwise(kernel.body, buffers, machine)
    if root.op.kind == "reduce":
        return reduction(kernel.body, buffers, machine)
    if root.op.kind == "opaque":
        from .opaque import opaque

        return opaque(root, buffers, machine)
    if root.op.kind in ("contraction", "window"):
        return rooted(kernel.body, root, buffers, machine)
    raise LoweringError(f"kernel {kernel.name}: no loops for a root of kind {root.op.kind!r}")
