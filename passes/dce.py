"""Dead code: drop nodes that no result needs, and updates that leave a state as it is.

%0 = exp(%x)
%1 = neg(%x)        ->      %0 = exp(%x)
return y=%0                 return y=%0
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.graph import Graph


@dataclass(frozen=True)
class Dce:
    """Keep what outputs and updates need; parameters stay, they are the caller's."""

    name: str = "dce"

    def run(self, graph: Graph) -> Graph:
        outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
        return Graph.make(graph.name, graph.inputs, graph.state, outputs, graph.updates)
