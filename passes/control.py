"""Control flow in plans: where the blocks of a region's bodies lie.

A body is planned as a graph whose carries are state, so that it updates them in place. What it
reads and writes is a window of what the region's call reads and writes:

    %c, %ys = scan[body=step, carry=1, stacked=1, length=8](%c0, %xs, %w)

    state[0] of step    the block of %c, into which %c0 is copied first
    input[0]            slice i of %xs in step i
    input[1]            %w
    output[0]           slice i of %ys in step i
    arena               the call's frame

Native code reads and writes at multiples of `ALIGNMENT` bytes. A slice that begins elsewhere is
copied to the frame before a step, or from there after it.

In chunks of rows (`chunks.py`) the body is that of one chunk, every window of rows begins at other
bytes in each, and each has a frame of its own.

If nothing reads %xs later and its slices are of the type of those of %ys, then %ys is a carry
too: it begins as %xs, and step i replaces slice i.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from ..ir.graph import Graph, Node, Value
from ..ir.types import TensorType, boolean, u8
from .chunks import Chunked, chunked
from .plan import ALIGNMENT, Body, Move, Plan, RegionCall, Space, Window, align

PlanBody = Callable[[Graph], Plan]


def region_call(
    node: Node, plan_body: PlanBody, reusable: Collection[int] = frozenset()
) -> RegionCall:
    """The call of a node of kind "region".

    Parameters
    ----------
    node : Node
    plan_body : callable
        Plans a static graph.
    reusable : collection of int
        Positions of operands that nothing else uses, so that results may be written over them.
    """
    if node.op.name != "scan":
        return _Region(node, plan_body, {}).call()
    chunks = chunked(node)
    over = _results_over_operands(node, reusable)
    if chunks:
        over = {j: i for j, i in over.items() if chunks.by_rows[i]}
    call = _Region(node, plan_body, {}, chunks).call()
    if over:
        saving = _Region(node, plan_body, over, chunks).call()
        if _copies(saving) <= _copies(call):
            return saving
    return call


def _copies(call: RegionCall) -> int:
    """Copies in each step of a scan."""
    plan = call.bodies["body"].plan
    return len(plan.first) + len(plan.copies)


def _results_over_operands(node: Node, reusable: Collection[int]) -> dict[int, int]:
    """Stacked results that have the type of a stacked operand, whose slices they can replace."""
    carry, stacked = node.attrs["carry"], node.attrs["stacked"]
    free = [i for i in range(carry, carry + stacked) if i in reusable]
    found: dict[int, int] = {}
    for j, result in enumerate(node.outputs[carry:], carry):
        fits = [i for i in free if node.inputs[i].type == result.type]
        if fits and int(node.attrs["body"].outputs[j].type.nbytes) % ALIGNMENT == 0:
            found[j] = fits[0]
            free.remove(fits[0])
    return found


class _Region:
    """Collects the bodies of a node, the constants that they read, and the size of the frame.

    Stacked results in `over` are written over the slices of those operands.
    """

    def __init__(
        self, node: Node, plan_body: PlanBody, over: Mapping[int, int],
        chunks: Chunked | None = None,
    ) -> None:  # fmt: skip
        self.node = node
        self.plan_body = plan_body
        self.over = over
        self.chunks = chunks
        self.inputs = list(node.inputs)
        self.frame_bytes = 0
        self.bodies: dict[str, Body] = {}
        self.carries: tuple[tuple[int, int], ...] = ()
        self.flag: Window | None = None

    def call(self) -> RegionCall:
        {"scan": self._scan, "while": self._while, "cond": self._cond}[self.node.op.name]()
        chunks = self.chunks.count if self.chunks else 1
        frame = Value(TensorType(u8, (self.frame_bytes * chunks,)), name="frame")
        return RegionCall(self.node, tuple(self.inputs), (*self.node.outputs, frame),
                          self.carries, self.bodies, self.flag, chunks)  # fmt: skip

    def frame(self, offset: int) -> Window:
        return Window("output", len(self.node.outputs), offset)

    def _scan(self) -> None:
        body, carry = self.node.attrs["body"], self.node.attrs["carry"]
        self.carries = (*((i, i) for i in range(carry)), *self.over.items())
        count, end = len(body.inputs), carry + self.node.attrs["stacked"]
        part = self.chunks.body if self.chunks else body
        apart = self.chunks.by_rows if self.chunks else (False,) * count
        written = [
            _window("output", j, v if j >= carry else None, w if self.chunks else None)
            for j, (v, w) in enumerate(zip(body.outputs, part.outputs, strict=True))
        ]
        begun = {i: written[j] for j, i in self.carries}
        read = [
            begun.get(i) or _window("input", i, v if i < end else None, w if apart[i] else None)
            for i, (v, w) in enumerate(zip(body.inputs, part.inputs, strict=True))
        ]
        self._add("body", part, read, written)
        if self.chunks:
            self._share_frame()

    def _share_frame(self) -> None:
        """Give each chunk a frame of its own."""
        self.frame_bytes = align(self.frame_bytes)
        (body,) = self.bodies.values()
        blocks = {key: self._own(window) for key, window in body.blocks.items()}
        moves = [tuple(Move(self._own(m.source), self._own(m.target), m.nbytes) for m in each)
                 for each in (body.before, body.after)]  # fmt: skip
        self.bodies = {"body": Body(body.plan, blocks, *moves)}

    def _own(self, window: Window) -> Window:
        is_frame = window.side == "output" and window.index == len(self.node.outputs)
        return replace(window, chunk=self.frame_bytes) if is_frame else window

    def _while(self) -> None:
        carry = self.node.attrs["carry"]
        self.carries = tuple((i, i) for i in range(carry))
        states = [Window("output", i) for i in range(carry)]
        shared = [Window("input", i) for i in range(carry, len(self.node.inputs))]
        self.flag = self.frame(0)
        regions = self.node.regions
        self._add("condition", regions["condition"], [*states, *shared], [self.flag],
                  reserved=boolean().nbytes)  # fmt: skip
        self._add("body", regions["body"], [*states, *shared], states)

    def _cond(self) -> None:
        """An output that some branch returns as it came in is a carry: begun as that operand."""
        self.flag = Window("input", 0)
        carries: dict[int, int] = {}
        for region in self.node.regions.values():
            places = {v: i for i, v in enumerate(region.inputs)}
            for j, result in enumerate(region.outputs):
                if result in places and j not in carries:
                    operand = 1 + places[result]
                    if operand not in carries.values():
                        carries[j] = operand
        self.carries = tuple(sorted(carries.items()))
        begun = {operand: j for j, operand in carries.items()}
        reads = [
            Window("output", begun[i]) if i in begun else Window("input", i)
            for i in range(1, len(self.node.inputs))
        ]
        writes = [Window("output", j) for j in range(len(self.node.outputs))]
        for name, region in self.node.regions.items():
            self._add(name, region, reads, writes)

    def _add(
        self, name: str, region: Graph, reads: Sequence[Window], writes: Sequence[Window],
        reserved: int = 0,
    ) -> None:  # fmt: skip
        """Plan a body; what it reads and writes in the same window is its state.

        `reserved` bytes at the begin of the frame are not the arena's.
        """
        body = _split(region, reads, writes)
        plan = self.plan_body(body)
        blocks = _blocks(body, dict(zip(region.inputs, reads, strict=True)),
                         [w for w in writes if w not in reads])  # fmt: skip
        used, top = plan.used_blocks, align(reserved)
        before, after = [], []
        for block, window in blocks.items():
            nbytes = window.chunk or window.stride
            if window.stride % ALIGNMENT and block in used:
                stage = blocks[block] = self.frame(top)
                if block[0] == "input":
                    before.append(Move(window, stage, nbytes))
                else:
                    after.append(Move(stage, window, nbytes))
                top += align(nbytes)
        blocks["arena", 0] = self.frame(top)
        for i, value in _constants(plan).items():
            blocks["constant", i] = Window("input", len(self.inputs))
            self.inputs.append(value)
        self.frame_bytes = max(self.frame_bytes, top + plan.arena_bytes)
        self.bodies[name] = Body(plan, blocks, tuple(before), tuple(after))


def _blocks(
    body: Graph, windows: Mapping[Value, Window], results: Sequence[Window]
) -> dict[tuple[Space, int], Window]:
    """Where parameters and outputs of a body lie."""
    blocks: dict[tuple[Space, int], Window] = {}
    for i, value in enumerate(body.state):
        blocks["state", i] = windows[value]
    for i, value in enumerate(body.inputs):
        blocks["input", i] = windows[value]
    for i, window in enumerate(results):
        blocks["output", i] = window
    return blocks


def _window(
    side: Literal["input", "output"], index: int, step: Value | None, chunk: Value | None
) -> Window:
    """What has a slice like `step` for each step, of which each chunk has a part like `chunk`."""
    sizes = (int(v.type.nbytes) if v is not None else 0 for v in (step, chunk))
    return Window(side, index, 0, *sizes)


def _split(region: Graph, reads: Sequence[Window], writes: Sequence[Window]) -> Graph:
    """The body with what is carried as state."""
    state = {w: v for w, v in zip(reads, region.inputs, strict=True) if w in writes}
    carried = set(state.values())
    inputs = [v for v in region.inputs if v not in carried]
    updates = [(state[w], v) for w, v in zip(writes, region.outputs, strict=True) if w in state]
    results = zip(writes, region.output_names, region.outputs, strict=True)
    outputs = {name: v for w, name, v in results if w not in state}
    return Graph.make(region.name, inputs, state.values(), outputs, updates)


def _constants(plan: Plan) -> dict[int, Value]:
    """The constants that a plan reads, by their position in `Plan.constants`."""
    slots = plan.slots.items()
    return {slot.index: v for v, slot in slots if slot.space == "constant" and v.is_constant}
