"""What is rewritten in the IR for ONNX Runtime's sake before a graph is lowered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.builder import emit
from ...ir.graph import Graph, Node, Value, is_among, same
from ...ir.op import get
from ...ir.pattern import number_of
from ...ir.sugar import full, select
from ...passes.pipeline import optimize


def prepare(graph: Graph) -> Graph:
    """The pipeline's passes, then what only ONNX Runtime wants."""
    return ReluAfterPool().run(optimize(graph))


@dataclass(frozen=True)
class _Match:
    """A relu whose result only a max_pool and its gradient read, and relu's own gradient."""

    relu: Node
    pool: Node
    grad: Node
    gate: Node

    @staticmethod
    def find(graph: Graph, relu: Node) -> _Match | None:
        """The match at a relu, if there is one."""
        y = relu.output
        readers = {node.op.name: node for node in graph.users.get(y, ())}
        if is_among(y, graph.results) or len(graph.users.get(y, ())) != 3:
            return None
        if readers.keys() != {"max_pool", "max_pool_grad", "greater"}:
            return None
        pool, grad, mask = (readers[k] for k in ("max_pool", "max_pool_grad", "greater"))
        gates = graph.users.get(mask.output, ())
        if len(gates) != 1 or graph.users.get(grad.output, ()) != gates:
            return None
        if {mask.output, grad.output} & set(graph.results):
            return None
        (gate,) = gates
        match = _Match(relu, pool, grad, gate)
        return match if match._fits(y, mask) else None

    def _fits(self, y: Value, mask: Node) -> bool:
        return (
            dict(self.pool.attrs) == dict(self.grad.attrs)
            and self.grad.inputs[0] is y
            and mask.inputs[0] is y
            and number_of(mask.inputs[1]) == 0
            and self.gate.op.name == "select"
            and same(self.gate.inputs[:2], (mask.output, self.grad.output))
            and number_of(self.gate.inputs[2]) == 0
        )


@dataclass(frozen=True)
class ReluAfterPool:
    """Move a relu behind the max_pool that follows it, and its gradient with it.

        %y = relu(%x)                               %p = max_pool(%x)
        %p = max_pool(%y)                           %q = relu(%p)
        %g = max_pool_grad(%y, %dp)         ->      %m = greater(%q, 0)
        %m = greater(%y, 0)                         %h = select(%m, %dq, 0)
        %dx = select(%m, %g, 0)                     %dx = max_pool_grad(%x, %h)

    They commute, and a mask over what the pool leaves costs a quarter. Only in training steps:
    for inference a relu right behind a convolution costs nothing.
    """

    name: str = "relu-after-pool"

    def run(self, graph: Graph) -> Graph:
        if any(node.regions for node in graph.nodes):
            graph = graph.rebuild(self._in_bodies)
        found = [_Match.find(graph, n) for n in graph.nodes if n.op.name == "relu"]
        matches = [m for m in found if m is not None]
        if not matches:
            return graph
        roles = {getattr(m, role): m for m in matches for role in ("relu", "pool", "grad", "gate")}
        made: dict[Node, tuple[Value, ...]] = {}  # by node of a match: what its role provides

        def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
            match = roles.get(node)
            if match is None:
                return None
            if node is match.pool:
                (x,) = made[match.relu]
                inputs = (get("relu")(get("max_pool")(x, **node.attrs)),)
            made[node] = inputs
            if node is match.gate:
                return self._gradient(match, made)
            return inputs if node is match.pool else None

        return graph.rebuild(visit)

    def _in_bodies(self, node: Node, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        """Control flow with its bodies rewritten."""
        bodies = {name: self.run(body) for name, body in node.regions.items()}
        if not bodies or list(bodies.values()) == list(node.regions.values()):
            return None
        return emit(node.op, inputs, {**node.attrs, **bodies})

    @staticmethod
    def _gradient(match: _Match, made: dict[Node, tuple[Value, ...]]) -> Sequence[Value]:
        (x,), (y,), (_, dy) = made[match.relu], made[match.pool], made[match.grad]
        alive = get("greater")(y, full(y.shape, 0, y.dtype))
        return [get("max_pool_grad")(x, select(alive, dy, 0), **match.pool.attrs)]
