"""Plans that keep a step within a number of bytes, all that it touches counted."""

from __future__ import annotations

from ..codegen.tvm.lower import lower_plan
from ..codegen.tvm.target import Target
from ..ir import Graph
from ..ir.errors import MemoryBudgetError
from ..passes.pipeline import make_plan
from ..passes.plan import Plan
from ..passes.remat import rematerialize

_TRIES = 5
"""Other kernels may need another workspace, for which another choice makes room."""


def plan_within(graph: Graph, budget: int, target: Target) -> Plan:
    """The plan of an optimized graph, rematerialized if it does not fit as it is.

    What is prepared takes memory that computing it anew in each run does not; so that is given up
    first.

    Parameters
    ----------
    graph : Graph
        Of fixed sizes.
    budget : int
        Bytes of inputs, state, outputs, constants, the arena and the workspace of kernels.
    target : Target
        The kernels' workspace depends on it.

    Raises
    ------
    MemoryBudgetError
        If nothing that was found fits; `minimum` counts as `budget` does.
    """
    parameters = sum(v.type.nbytes for v in (*graph.inputs, *graph.state, *graph.outputs))
    plan, taken = make_plan(graph), 0
    for _ in range(_TRIES):
        constants = sum(array.nbytes for array in plan.constants)
        lowered = lower_plan(plan, target)
        taken = parameters + constants + lowered.workspace_bytes + lowered.prepared_bytes
        if plan.arena_bytes + taken <= budget:
            return plan
        if lowered.prepared_bytes:
            plan = _unprepared(graph)
            continue
        try:
            plan = _unprepared(rematerialize(graph, budget - taken, _unprepared))
        except MemoryBudgetError as error:
            raise _too_small(graph, budget, error.minimum + taken) from error
    raise _too_small(graph, budget, plan.arena_bytes + taken)


def _unprepared(graph: Graph) -> Plan:
    return make_plan(graph, prepare=False)


def _too_small(graph: Graph, budget: int, minimum: int) -> MemoryBudgetError:
    state = sum(v.type.nbytes for v in graph.state)
    return MemoryBudgetError(
        f"graph {graph.name}: needs {minimum} bytes, the least that was found, of which {state} "
        f"are parameters and other state, and the memory budget is {budget}",
        minimum=minimum, hint="a smaller batch needs less memory",
    )  # fmt: skip
