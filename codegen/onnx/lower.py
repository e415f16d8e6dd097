"""lower: an IR graph as an ONNX model of standard operators.

One function serves inference graphs and training steps. State becomes inputs, its new values
become outputs; the model's metadata says which belongs to which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from ...ir.graph import Graph, Value
from ...ir.ops.custom import erase_gradient_rules
from ...ir.types import TensorType
from . import ops, patterns  # noqa: F401 - they fill LOWERINGS and PATTERNS
from .emit import IR_VERSION, OPSET, PROTO, Body, OnnxNode, needed
from .lowering import Lowering

KIND_KEY = "hornfels.kind"
"""Metadata entry: "inference" or "train"."""

UPDATES_KEY = "hornfels.updates"
"""Metadata entry: a JSON object from each state input that a run changes to its new value."""

_HOW_TO_TRAIN = """A training step. The state (weights, moments, seeds) comes in as inputs, and for
each that changes there is an output new/<name>: pass it as <name> to the next run. The metadata
entry hornfels.updates holds the pairs as a JSON object."""

NEW = "new/"
"""What the name of a state's new value starts with."""


def lower(
    graph: Graph,
    initial: Mapping[str, np.ndarray] | None = None,
    constant_names: Mapping[Value, str] | None = None,
) -> ModelProto:
    """Express a graph as an ONNX model that stock ONNX Runtime runs.

    Parameters
    ----------
    graph : Graph
        Inference or a training step; symbolic dimensions stay symbolic (`dim_param`).
    initial : mapping of str to array, optional
        Arrays that inputs and state of these names have by default: they become initializers,
        which a caller may still override by passing the input.
    constant_names : mapping of Value to str, optional
        Names of initializers for some of the graph's constants.

    Returns
    -------
    ModelProto
        Opset 21, IR version 10, default domain only. Inputs: those of the graph, then its state
        under the variables' paths (`dense/kernel`). Outputs: those of the graph, then for each
        updated state `new/dense/kernel`. `metadata_props["hornfels.updates"]` holds the pairs
        as JSON, `metadata_props["hornfels.kind"]` is "inference" or "train".

    Raises
    ------
    LoweringError
        If ONNX Runtime has no kernel for an op on its element type and there is no detour; the
        message names the layer.
    """
    graph = erase_gradient_rules(graph)
    ctx = Lowering(graph, constant_names or {})
    pairs = {old.name: NEW + old.name for old, _ in graph.updates}
    wanted = list(zip(graph.output_names, graph.outputs, strict=True))
    wanted += [(pairs[old.name], new) for old, new in graph.updates]
    for name, value in wanted:
        ctx.e.reserve(name, value.dtype)
    ctx.run()
    nodes = _finish(ctx, dict(wanted))
    return _model(ctx, nodes, dict(wanted), pairs, initial or {})


# --- the model -------------------------------------------------------------------------------


def _finish(ctx: Lowering, wanted: Mapping[str, Value]) -> list[OnnxNode]:
    """The nodes that the results need, which carry the results' names."""
    ctx.e.layer = ""
    held = {name: ctx.full(value) for name, value in wanted.items()}
    nodes = needed(ctx.e.nodes, held.values())
    computed = {output for node in nodes for output in node.outputs}
    renamed: dict[str, str] = {}
    copies = []
    for name, source in held.items():
        if source in computed and source not in renamed:
            renamed[source] = name
        else:  # an input, a constant, or a second name for one tensor
            copies.append(OnnxNode("Identity", [source], [name], {}))
    nodes += copies
    for node in nodes:
        node.rename(renamed)
    return nodes


def _model(
    ctx: Lowering,
    nodes: list[OnnxNode],
    wanted: Mapping[str, Value],
    pairs: Mapping[str, str],
    initial: Mapping[str, np.ndarray],
) -> ModelProto:
    graph = ctx.graph
    read = {name for node in nodes for name in node.reads}
    arrays = {name: array for name, array in ctx.e.arrays.items() if name in read}
    proto = GraphProto(
        name=graph.name or "graph",
        node=[_node_proto(node) for node in nodes],
        input=[_info(v.name, v.type) for v in graph.parameters],
        output=[_info(name, value.type) for name, value in wanted.items()],
        initializer=[_initializer(name, a) for name, a in {**arrays, **initial}.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(
        proto, opset_imports=[opset], ir_version=IR_VERSION, producer_name="hornfels"
    )
    kind = "train" if pairs else "inference"
    helper.set_model_props(model, {KIND_KEY: kind, UPDATES_KEY: json.dumps(pairs)})
    model.doc_string = _HOW_TO_TRAIN if pairs else ""
    return model


def _node_proto(node: OnnxNode) -> NodeProto:
    """A NodeProto that is named after its first output."""
    name = f"node:{node.outputs[0]}"
    bodies = {k: _body_proto(f"{name}:{k}", body) for k, body in node.bodies.items()}
    return helper.make_node(
        node.op_type, node.inputs, node.outputs, name=name, **node.attrs, **bodies
    )


def _body_proto(name: str, body: Body) -> GraphProto:
    return GraphProto(
        name=name,
        node=[_node_proto(node) for node in body.nodes],
        input=[_info(*pair) for pair in body.inputs],
        output=[_info(*pair) for pair in body.outputs],
    )


def _info(name: str, type: TensorType) -> ValueInfoProto:
    shape: list[Any] = [d if isinstance(d, int) else str(d) for d in type.shape]
    return helper.make_tensor_value_info(name, PROTO[type.dtype.name], shape)


def _initializer(name: str, array: np.ndarray) -> Any:
    return numpy_helper.from_array(np.asarray(array), name)
