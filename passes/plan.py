"""The plan of a graph: which kernels run in which order, and where every value lies.

A plan is what every native target is generated from: kernels (small graphs), a call list, a
slot for every value that crosses a kernel's border, one arena, and copies that run last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..ir.graph import Graph, Node, Value

ALIGNMENT = 64
"""Every slot begins at a multiple of this many bytes."""

Space = Literal["arena", "input", "state", "output", "constant"]


@dataclass(frozen=True, eq=False)
class Kernel:
    """One function of the program.

    Attributes
    ----------
    name : str
        Unique in the plan, an identifier.
    root : str
        "pointwise", or the name of the op whose loops the kernel has: "matmul", "conv",
        "reduce_sum", "max_pool", ...
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


@dataclass(frozen=True, eq=False)
class Call:
    """One run of a kernel on values of the planned graph."""

    kernel: Kernel
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Slot:
    """Where a value lies: at byte `offset` of the arena, or the whole of a block.

    `index` says which input, state, output (positions in the graph's tuples) or constant
    (position in `Plan.constants`) the block is; it is 0 for the arena.
    """

    space: Space
    index: int
    offset: int
    nbytes: int

    @property
    def place(self) -> str:
        """`arena+128` or `state[3]`."""
        return self.space + (f"+{self.offset}" if self.space == "arena" else f"[{self.index}]")

    def __str__(self) -> str:
        return f"{self.place} ({self.nbytes} bytes)"


@dataclass(frozen=True)
class Copy:
    """`target = source`, byte by byte, after all calls; the two never overlap."""

    source: Slot
    target: Slot


@dataclass(frozen=True, eq=False)
class Plan:
    """A planned graph.

    To run it: allocate `arena_bytes` (aligned), run `calls` in order, then `copies` in order.

    Values of equal slots share memory on purpose. Two cases matter to who generates code:

    - A *view* (a reshape of a stored value) has the slot of its source and no call.
    - *In place*: an output of a call may have the slot of one of its inputs (`in_place`). Then
      the kernel reads that input only at the element that it is about to write, so a kernel
      must compute all outputs of an element (or vector) before it stores any of them, compute
      each element once, and not claim that its pointers do not alias. So do pointwise kernels,
      epilogues of contractions and windows, and what a reduction computes from its results
      (the new weights from a bias' gradient; it may store the results themselves early).

    Attributes
    ----------
    graph : Graph
    calls : tuple of Call
    slots : mapping of Value to Slot
        Of every operand and result of every call, every parameter and every result of `graph`.
    constants : tuple of ndarray
        Constants of more than one element, which calls read as inputs.
    arena_bytes : int
        Exact size of the arena: the peak of what the program needs beside inputs, state,
        outputs and constants.
    copies : tuple of Copy
        For results that cannot be computed where they belong.
    """

    graph: Graph
    calls: tuple[Call, ...]
    slots: Mapping[Value, Slot]
    constants: tuple[np.ndarray, ...]
    arena_bytes: int
    copies: tuple[Copy, ...] = ()

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The distinct kernels in the order of their first call."""
        return tuple(dict.fromkeys(call.kernel for call in self.calls))

    def in_place(self, call: Call) -> tuple[tuple[int, int], ...]:
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
            f"arena {self.arena_bytes} bytes, {len(self.copies)} copies"
        )
        for call in self.calls:
            operands = ", ".join(f"{v.type} {self.slots[v].place}" for v in call.inputs)
            results = ", ".join(f"{v.type} {self.slots[v].place}" for v in call.outputs)
            yield f"  {call.kernel.name} [{call.kernel.root}]: {operands} -> {results}"
        for copy in self.copies:
            yield f"  copy {copy.source.place} -> {copy.target}"


def align(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment of slots."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
