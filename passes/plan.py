"""The plan of a graph: which kernels run in which order, and where every value lies.

A plan is what every native target is generated from: kernels (small graphs), a call list, a
slot for every value that crosses a kernel's border, one arena, and copies that run first or last.

Control flow is a call, too: a `RegionCall` has a plan for each of its bodies, whose blocks of
memory are windows of what the call reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..ir.graph import Graph, Node, Value

ALIGNMENT = 64
"""Every slot begins at a multiple of this many bytes."""

ROW = "row"
ROW_SUMS = "row_sums"
"""The root of a kernel that goes over rows; see `passes.rows`."""

MOMENTS = "moments"
"""The root of a kernel that sums up deviations in one pass; see `passes.moments`."""

BATCH = "batch"
"""The root of a kernel of independent pointwise computations; see `passes.batches`."""

ATTENTION = "attention"
"""The root of a kernel of products, rows of their results, and products of these rows; see
`passes.attention`."""

Space = Literal["arena", "input", "state", "output", "constant", "prepared"]


@dataclass(frozen=True, eq=False)
class Kernel:
    """One function of the program.

    Attributes
    ----------
    name : str
        Unique in the plan, an identifier.
    root : str
        "pointwise", "row", "moments", "batch", "attention", or the name of the op whose loops the
        kernel has: "matmul", "conv", "reduce_sum", "max_pool", ...
    body : Graph
        What it computes; `body.inputs` and `body.outputs` are its parameters, in the order of a
        `Call`. Its shapes are static, it has no state, and constants in it have one element.
    """

    name: str
    root: str
    body: Graph

    @property
    def root_node(self) -> Node | None:
        """The first node of the op that `root` names; None in a pointwise kernel."""
        return next((n for n in self.body.nodes if n.op.name == self.root), None)

    @property
    def has_sums(self) -> bool:
        """Whether a contraction has sums in its epilogue; see `passes.sums`."""
        root = self.root_node
        is_root = root is not None and root.op.kind == "contraction"
        return is_root and any(n.op.kind == "reduce" for n in self.body.nodes)


@dataclass(frozen=True, eq=False)
class Call:
    """One run of a kernel on values of the planned graph."""

    kernel: Kernel
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Window:
    """A stretch of what a `RegionCall` reads or writes.

    In step i of chunk k it begins at byte `offset + i * stride + k * chunk`. `index` is a
    position in the call's inputs or outputs.
    """

    side: Literal["input", "output"]
    index: int
    offset: int = 0
    stride: int = 0
    chunk: int = 0


@dataclass(frozen=True)
class Move:
    """`target = source`, byte by byte, in every step."""

    source: Window
    target: Window
    nbytes: int


@dataclass(frozen=True, eq=False)
class Body:
    """A graph of control flow: its plan, and where that plan's blocks lie.

    Attributes
    ----------
    plan : Plan
        Of the body with what it carries as state. Its constants are operands of the call.
    blocks : mapping of (space, index) to Window
        For each block that `plan` has slots in; those that calls use begin at multiples of
        `ALIGNMENT`.
    before, after : tuple of Move
        Copies that run before and after `plan`, of slices that lie at no such multiple.
    """

    plan: Plan
    blocks: Mapping[tuple[Space, int], Window]
    before: tuple[Move, ...] = ()
    after: tuple[Move, ...] = ()


@dataclass(frozen=True, eq=False)
class RegionCall:
    """One run of a node of control flow.

    First each carry is copied from its operand to its output, where it stays while the bodies
    run, unless both have one slot. Then

    - `scan` runs `body` once for each step,
    - `while` runs `condition`, and `body` as long as the byte at `flag` is not 0,
    - `cond` runs `then` if the byte at `flag` is not 0, else `otherwise`.

    A `scan` whose rows are independent runs in chunks of rows, each through all its steps, at the
    same time on several threads (`chunks.py`); `body` is then that of one chunk.

    Attributes
    ----------
    node : Node
    inputs : tuple of Value
        The node's operands, then the constants that bodies read.
    outputs : tuple of Value
        The node's outputs, then the frame: memory that is in use while the region runs, for the
        arenas of the bodies and for slices that are copied.
    carries : tuple of (int, int)
        Positions of an output and of the operand that it begins as.
    bodies : mapping of str to Body
        By the name of the attribute.
    flag : Window or None
        Where the predicate of a `while` or `cond` lies.
    chunks : int
        Runs of all steps of a `scan`, in any order; 1 if it is not in chunks.
    """

    node: Node
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    carries: tuple[tuple[int, int], ...]
    bodies: Mapping[str, Body]
    flag: Window | None = None
    chunks: int = 1

    @property
    def steps(self) -> range:
        """The indices of the slices of a `scan`, in the order in which it reads them."""
        indices = range(int(self.node.attrs["length"]))
        return indices[::-1] if self.node.attrs.get("reverse") else indices

    def value(self, window: Window) -> Value:
        """What a window is a stretch of."""
        return (self.inputs if window.side == "input" else self.outputs)[window.index]

    def place(self, window: Window) -> str:
        """`operand 1 at 12 bytes a step`, `result 0` or `frame+64`."""
        inside = window.side == "input" or window.index < len(self.node.outputs)
        side = "operand" if window.side == "input" else "result"
        where = f"{side} {window.index}" if inside else f"frame+{window.offset}"
        each = {"step": window.stride, "chunk": window.chunk}
        paces = [f"{nbytes} bytes a {name}" for name, nbytes in each.items() if nbytes]
        return where + (f" at {', '.join(paces)}" if paces else "")

    def __str__(self) -> str:
        name = self.node.op.name
        if name != "scan":
            return name
        reverse = " backwards" if self.node.attrs.get("reverse") else ""
        chunks = f" in {self.chunks} chunks" if self.chunks > 1 else ""
        return f"scan [{len(self.steps)} steps{reverse}{chunks}]"


@dataclass(frozen=True)
class Slot:
    """Where a value lies: at byte `offset` of the arena, or the whole of a block.

    `index` says which input, state, output (positions in the graph's tuples) or constant
    (position in `Plan.constants`) the block is; it is 0 for the arena and for what is prepared.
    """

    space: Space
    index: int
    offset: int
    nbytes: int

    @property
    def place(self) -> str:
        """`arena+128` or `state[3]`."""
        one = self.space in ("arena", "prepared")
        return self.space + (f"+{self.offset}" if one else f"[{self.index}]")

    def overlaps(self, other: Slot) -> bool:
        """Whether the two share a byte."""
        if (self.space, self.index) != (other.space, other.index):
            return False
        start, end = max(self.offset, other.offset), min(self.end, other.end)
        return start < end

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.nbytes

    def __str__(self) -> str:
        return f"{self.place} ({self.nbytes} bytes)"


@dataclass(frozen=True)
class Copy:
    """`target = source`, byte by byte, before or after all calls; the two never overlap."""

    source: Slot
    target: Slot


@dataclass(frozen=True, eq=False)
class Plan:
    """A planned graph.

    To run it: allocate `arena_bytes` and `prepared_bytes` (aligned), do the copies in `first`, run
    `calls` in order, then `copies` in order. The first `preparing` calls may be left out as long as
    the block of what is prepared, and all state that the graph does not update, hold what they held
    after the last run with them.

    Values of equal slots share memory on purpose. Two cases matter to who generates code:

    - A *view* (a reshape of a stored value) has the slot of its source and no call.
    - *In place*: an output of a call may have the slot of one of its inputs (`in_place`). Then
      the kernel reads that input only at the element that it is about to write, so a kernel
      must compute all outputs of an element (or vector) before it stores any of them, compute
      each element once, and not claim that its pointers do not alias. So do pointwise kernels,
      epilogues of contractions and windows, and what a reduction computes from its results
      (the new weights from a bias' gradient; it may store the results themselves early). A row
      kernel may read such an input anywhere in the row of the element. In a batch no other part
      reads it.

    Attributes
    ----------
    graph : Graph
    calls : tuple of Call or RegionCall
    slots : mapping of Value to Slot
        Of every operand and result of every call, every parameter and every result of `graph`.
    constants : tuple of ndarray
        Constants of more than one element, which calls read as inputs.
    arena_bytes : int
        Exact size of the arena: the peak of what the program needs beside inputs, state,
        outputs and constants.
    first : tuple of Copy
        For outputs that no call computes, such as a state as it was before.
    copies : tuple of Copy
        For results that cannot be computed where they belong.
    preparing : int
        How many of the calls, the first ones, compute of weights and constants alone what the
        others read (see `steady`).
    prepared_bytes : int
        Exact size of the block that keeps that; 0 if nothing is kept.
    steady : frozenset of (Space, int)
        The blocks that hold the same in every run while no state changes but what the graph
        updates; none if nothing shall be prepared.
    """

    graph: Graph
    calls: tuple[Call | RegionCall, ...]
    slots: Mapping[Value, Slot]
    constants: tuple[np.ndarray, ...]
    arena_bytes: int
    first: tuple[Copy, ...] = ()
    copies: tuple[Copy, ...] = ()
    preparing: int = 0
    prepared_bytes: int = 0
    steady: frozenset[tuple[Space, int]] = frozenset()

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The distinct kernels in the order of their first call, those of bodies among them."""
        return tuple(dict.fromkeys(call.kernel for _, call in self.kernel_calls()))

    def kernel_calls(self) -> Iterator[tuple[Plan, Call]]:
        """The calls of kernels here and in the bodies of regions, each with its own plan."""
        for call in self.calls:
            if isinstance(call, Call):
                yield self, call
                continue
            for body in call.bodies.values():
                yield from body.plan.kernel_calls()

    @property
    def used_blocks(self) -> set[tuple[Space, int]]:
        """The blocks that calls read or write; what is not among them is only copied."""
        values = (v for call in self.calls for v in (*call.inputs, *call.outputs))
        return {(self.slots[v].space, self.slots[v].index) for v in values}

    def in_place(self, call: Call | RegionCall) -> tuple[tuple[int, int], ...]:
        """Pairs of an output's and an input's position in `call` that share a slot."""
        return tuple(
            (j, i)
            for j, out in enumerate(call.outputs)
            for i, value in enumerate(call.inputs)
            if self.slots[out] == self.slots[value] and self.slots[out].nbytes
        )

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        yield (
            f"plan {self.graph.name}: {len(self.calls)} calls of {len(self.kernels)} kernels, "
            f"arena {self.arena_bytes} bytes, {len(self.first) + len(self.copies)} copies"
        )
        for copy in self.first:
            yield f"  first copy {copy.source.place} -> {copy.target}"
        for i, call in enumerate(self.calls):
            if i == self.preparing and i:
                yield f"  prepared {self.prepared_bytes} bytes"
            operands = ", ".join(f"{v.type} {self.slots[v].place}" for v in call.inputs)
            results = ", ".join(f"{v.type} {self.slots[v].place}" for v in call.outputs)
            if isinstance(call, Call):
                yield f"  {call.kernel.name} [{call.kernel.root}]: {operands} -> {results}"
                continue
            yield f"  {call}: {operands} -> {results}"
            for name in call.bodies:
                yield from _body_lines(call, name)
        for copy in self.copies:
            yield f"  copy {copy.source.place} -> {copy.target}"


def _body_lines(call: RegionCall, name: str) -> Iterator[str]:
    body = call.bodies[name]
    places = [f"{Slot(*b, 0, 0).place} is {call.place(w)}" for b, w in body.blocks.items()]
    yield f"    {name}: {', '.join(places)}"
    for move in body.before:
        yield f"      first copy {call.place(move.source)} -> {call.place(move.target)}"
    yield from (f"      {line}" for line in str(body.plan).splitlines())
    for move in body.after:
        yield f"      last copy {call.place(move.source)} -> {call.place(move.target)}"


def align(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment of slots."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
