"""The registry of kernels of one op that fits no other form."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ....ir.errors import LoweringError
from ....ir.graph import Node, Value
from .. import bfloat
from ..emit import Buffer, Stmt
from ..math import storage
from ..nest import Nest
from ..target import Machine

Buffers = Mapping[Value, Buffer]
Loops = Callable[[Nest, Node, Buffers, Machine], None]

_LOOPS: dict[str, Loops] = {}


def loops(*names: str) -> Callable[[Loops], Loops]:
    """Mark what emits the loops of the ops of these names into a nest.

    The function gets flat buffers of the node's operands and results, in the storage types of
    `math.storage`, by their values.
    """

    def register(rule: Loops) -> Loops:
        for name in names:
            assert name not in _LOOPS, f"{name} has two kernels"
            _LOOPS[name] = rule
        return rule

    return register


def opaque(node: Node, buffers: Buffers, machine: Machine) -> Stmt:
    """The loops of an opaque op.

    Parameters
    ----------
    node : Node
    buffers : mapping of Value to Buffer
        Flat buffers of operands and results; results that nobody reads may be missing.
    machine : Machine
        What to choose vectors and threads for.

    Raises
    ------
    LoweringError
        If the op has no kernel.
    """
    rule = _LOOPS.get(node.op.name)
    if rule is None:
        raise LoweringError(f"{node.op.name}: has no kernel", where=node.source.where)
    nest = Nest(narrows=bfloat.narrows(machine))
    unused = [v for v in node.outputs if v not in buffers]
    spare = {v: nest.scratch(storage(v.dtype), max(1, int(v.type.size))) for v in unused}
    rule(nest, node, {**buffers, **spare}, machine)
    return nest.finish()
