"""What a graph must be at each stage, as data: properties, and which stage promises which.

Every stage keeps `WELL_FORMED`, which is always checked, and every pass what callers know the
graph by (`check_interface`). What a pass establishes beyond that is checked under the setting
`contracts` (on in the tests and while fuzzing), and so are plans:

    >>> check("dce", graph)
    VerifyError: at dce: no-dead-nodes: exp: f32[3] is computed and nothing needs it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..ir.errors import VerifyError
from ..ir.graph import Graph, Node, Value, is_among, reachable
from ..ir.pattern import number_of
from ..ir.settings import current_settings
from ..ir.verify import verify
from .batches import parts_of
from .cse import key_of
from .loops import take_apart
from .plan import ALIGNMENT, BATCH, ROW, ROW_SUMS, Call, Plan, Slot
from .regions import live_outputs
from .row_sums import reads_rightly
from .rows import agree, body_rows


@dataclass(frozen=True)
class Property:
    """Something that holds for a graph, or not.

    Attributes
    ----------
    name, doc : str
    violation : callable
        `violation(graph)` -> what breaks it, in words; empty if it holds.
    always : bool
        It is checked even without the setting `contracts`, since that costs little.
    """

    name: str
    doc: str
    violation: Callable[[Graph], str]
    always: bool = False

    def __str__(self) -> str:
        return self.name


def _label(node: Node) -> str:
    types = ", ".join(str(v.type) for v in node.outputs)
    return f"{node.op.name}: {types}" + (f" at {node.source.where}" if str(node.source) else "")


def _ill_formed(graph: Graph) -> str:
    try:
        verify(graph, types=current_settings().contracts)
    except VerifyError as error:
        return str(error)
    return ""


def _equal_nodes(graph: Graph) -> str:
    seen = set()
    for node in graph.nodes:
        key = key_of(node)
        if key in seen:
            return f"{_label(node)} is computed twice"
        seen.add(key)
    return ""


def _dead_nodes(graph: Graph) -> str:
    needed = set(reachable(graph.results))
    dead = next((node for node in graph.nodes if node not in needed), None)
    return f"{_label(dead)} is computed and nothing needs it" if dead else ""


def _constant_arithmetic(graph: Graph) -> str:
    for node in graph.nodes:
        folds = node.op.kind == "elementwise" and node.op.name != "stop_gradient"
        if folds and node.output.type.is_static and all(map(_is_number, node.inputs)):
            return f"{_label(node)} is arithmetic of constants"
        if node.op.kind == "constant" and node.output.shape and _is_number(node.output):
            return f"{_label(node)} repeats one number"
    return ""


def _is_number(value: Value) -> bool:
    return number_of(value) is not None


def _markers(graph: Graph) -> str:
    found = next((node for node in graph.nodes if node.op.name == "stop_gradient"), None)
    return f"{_label(found)} has no meaning after differentiation" if found else ""


def _open_sizes(graph: Graph) -> str:
    for value in (*graph.parameters, *(v for node in graph.nodes for v in node.outputs)):
        if not value.type.is_static:
            return f"{value.name or value.node}: {value.type} has a symbolic size"
    return ""


def _idle_regions(graph: Graph) -> str:
    live = live_outputs(graph)
    for node, outputs in live.items():
        if take_apart(node, node.inputs).keep(outputs):
            return f"{_label(node)} computes or reads what nothing needs"
    return ""


WELL_FORMED = Property(
    "well-formed", "Values are defined before they are used and, as is checked under the setting "
    "`contracts`, still of the types that ops infer.",
    _ill_formed, always=True)  # fmt: skip
NO_EQUAL_NODES = Property(
    "no-equal-nodes", "No two nodes compute the same from the same values.", _equal_nodes
)
NO_DEAD_NODES = Property(
    "no-dead-nodes", "Every node is needed by an output or an update.", _dead_nodes
)
NO_CONSTANT_ARITHMETIC = Property(
    "no-constant-arithmetic", "No elementwise node computes from constant numbers alone, and "
    "constants that repeat one number are broadcast scalars.", _constant_arithmetic)  # fmt: skip
NO_MARKERS = Property("no-markers", "Nothing is left that only differentiation reads.", _markers)
NO_IDLE_REGIONS = Property(
    "no-idle-regions", "Loops and branches have no outputs, carries and operands that no result "
    "needs.", _idle_regions)  # fmt: skip
STATIC = Property(
    "static", "All sizes are known.", _open_sizes, always=True)  # fmt: skip

CONTRACTS: Mapping[str, tuple[Property, ...]] = {
    "trace": (WELL_FORMED,),
    "cse": (WELL_FORMED, NO_EQUAL_NODES, NO_DEAD_NODES),
    **dict.fromkeys(("regions", "vectorize"), (WELL_FORMED, NO_IDLE_REGIONS, NO_DEAD_NODES)),
    "simplify": (WELL_FORMED, NO_MARKERS, NO_DEAD_NODES),
    "fold": (WELL_FORMED, NO_CONSTANT_ARITHMETIC, NO_DEAD_NODES),
    "dce": (WELL_FORMED, NO_DEAD_NODES),
    "optimized": (WELL_FORMED, NO_EQUAL_NODES, NO_DEAD_NODES, NO_MARKERS),
    "plan": (STATIC,),
}
"""What holds after each stage: the trace, a pass of that name, the whole pipeline, before
planning. A pass that is not listed keeps `WELL_FORMED`."""


def check(stage: str, graph: Graph, *, complete: bool = True) -> None:
    """Require what the contract of a stage says, of the bodies of control flow too.

    Parameters
    ----------
    complete : bool
        False for a pass that was cut short by `rewrite_limit`: it owes `WELL_FORMED` alone.

    Raises
    ------
    VerifyError
        Naming the stage and the property that does not hold.
    """
    everything = complete and current_settings().contracts
    for each in CONTRACTS.get(stage, (WELL_FORMED,)):
        violation = _violation(each, graph) if each.always or everything else ""
        if violation:
            raise VerifyError(f"at {stage}: {each}: {violation}")


def check_interface(stage: str, before: Graph, after: Graph) -> None:
    """Require that a pass kept what callers know a graph by.

    The inputs, the state and the outputs are those of before by name and type, in their order,
    and nothing is updated that was not.

    Raises
    ------
    VerifyError
        Naming the stage and what differs.
    """
    for what, was, now in zip(("inputs", "state", "outputs"), _face(before), _face(after),
                              strict=True):  # fmt: skip
        if was != now:
            raise VerifyError(f"at {stage}: same-interface: {what} were ({was}), now ({now})")
    updated = {old.name for old, _ in before.updates}
    for old, _ in after.updates:
        if old.name not in updated:
            raise VerifyError(f"at {stage}: same-interface: {old.name} was not updated before")


def _face(graph: Graph) -> tuple[str, str, str]:
    """Inputs, state and outputs, each in words."""
    outputs = zip(graph.output_names, graph.outputs, strict=True)
    return (
        ", ".join(f"{v.name}: {v.type}" for v in graph.inputs),
        ", ".join(f"{v.name}: {v.type}" for v in graph.state),
        ", ".join(f"{name}: {v.type}" for name, v in outputs),
    )


def _violation(each: Property, graph: Graph) -> str:
    if each is not WELL_FORMED:  # which goes into bodies by itself
        for node in graph.nodes:
            for name, region in node.regions.items():
                inner = _violation(each, region)
                if inner:
                    return f"in {name} of {_label(node)}: {inner}"
    return each.violation(graph)


# --- plans -----------------------------------------------------------------------------------


def check_plan(plan: Plan) -> None:
    """Require that every call reads what was written, where it was written.

    Only under the setting `contracts`.

    Raises
    ------
    VerifyError
        If a slot lies outside its block or unaligned, a call reads a slot that nothing has
        written, or that something else was written over, or a kernel has not the form that its
        root says.
    """
    if not current_settings().contracts:
        return
    memory = _Memory(plan)
    for copy in plan.first:
        memory.write(copy.target, memory.read(copy.source, "a first copy"))
    for i, call in enumerate(plan.calls):
        if i == plan.preparing:
            memory.forget_arena()
        for body in () if isinstance(call, Call) else call.bodies.values():
            check_plan(body.plan)
        if isinstance(call, Call):
            _check_form(plan, call)
        name = call.kernel.name if isinstance(call, Call) else str(call)
        for value in call.inputs:
            slot = plan.slots[value]
            found = memory.read(slot, name) if slot.nbytes else memory.owner(value)
            if found is not memory.owner(value):
                raise VerifyError(f"plan {plan.graph.name}: {name} reads {slot} for "
                                  f"{value!r}, where {found!r} lies")  # fmt: skip
        for value in call.outputs:
            memory.write(plan.slots[value], value)


def _check_form(plan: Plan, call: Call) -> None:
    """Require that results of rows are read in their rows, and that a batch writes over nothing
    that a later part reads."""
    kernel = call.kernel
    body = kernel.body
    if kernel.root == ROW and not agree(body.outputs, (), body_rows(body)):
        raise VerifyError(f"plan {plan.graph.name}: {kernel.name} reads results of other rows")
    if kernel.root == ROW_SUMS and not reads_rightly(body):
        raise VerifyError(f"plan {plan.graph.name}: {kernel.name} reads sums before they are there")
    if kernel.root != BATCH:
        return
    parts = parts_of(body)
    if any(len({v.type.size for v in part.outputs}) > 1 for part in parts):
        raise VerifyError(f"plan {plan.graph.name}: {kernel.name} has a part of several sizes")
    for j, i in plan.in_place(call):
        output, operand = body.outputs[j], body.inputs[i]
        readers = [part for part in parts if is_among(operand, part.inputs)]
        if not all(is_among(output, part.outputs) for part in readers):
            raise VerifyError(f"plan {plan.graph.name}: {kernel.name} writes {call.outputs[j]!r} "
                              f"over {call.inputs[i]!r}, which another part reads")  # fmt: skip


class _Memory:
    """Which value lies where while a plan runs."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._computed = {v for call in plan.calls for v in call.outputs}
        self._lies: dict[tuple[str, int], dict[Slot, Value]] = {}
        constants = (v for v in plan.slots if v.is_constant)
        for value in (*plan.graph.parameters, *constants):
            self.write(plan.slots[value], value)

    def forget_arena(self) -> None:
        """As it is where a run begins behind the calls that prepare."""
        self._lies.pop(("arena", 0), None)

    def owner(self, value: Value) -> Value:
        """What a view shows; itself for what is no view."""
        while value not in self._computed and value.node is not None and value.node.inputs:
            value = value.node.inputs[0]
        return value

    def write(self, slot: Slot, value: Value) -> None:
        """`value` lies at `slot` from now on, and nothing else there."""
        self._check(slot)
        block = self._lies.setdefault((slot.space, slot.index), {})
        for other in [s for s in block if s == slot or s.overlaps(slot)]:
            del block[other]
        block[slot] = value

    def read(self, slot: Slot, reader: str) -> Value:
        """What lies at a slot."""
        self._check(slot)
        found = self._lies.get((slot.space, slot.index), {}).get(slot)
        if found is None:
            raise VerifyError(f"plan {self._plan.graph.name}: {reader} reads {slot}, where "
                              "nothing was written")  # fmt: skip
        return found

    def _check(self, slot: Slot) -> None:
        sizes = {"arena": self._plan.arena_bytes, "prepared": self._plan.prepared_bytes}
        outside = slot.end > sizes.get(slot.space, slot.end)
        if outside or slot.offset % ALIGNMENT:
            raise VerifyError(f"plan {self._plan.graph.name}: {slot} must lie aligned in the "
                              f"{slot.space} of {sizes.get(slot.space)} bytes")  # fmt: skip
