"""lower: an IR graph as an ONNX model of standard operators.

One function serves inference graphs and training steps. State becomes inputs, its new values
become outputs; the model's metadata says which belongs to which.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from ...ir.errors import HornfelsError, LoweringError
from ...ir.graph import Graph, Node, Value
from ...ir.op import CODE, Reason
from ...ir.types import TensorType
from . import ops  # noqa: F401 - fills LOWERINGS
from .emit import IR_VERSION, OPSET, PROTO, OnnxNode
from .lowering import LOWERINGS, Lowering, Tensor
from .patterns import PATTERNS

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
    ctx = Lowering(graph, constant_names or {})
    pairs = {old.name: NEW + old.name for old, _ in graph.updates}
    wanted = list(zip(graph.output_names, graph.outputs, strict=True))
    wanted += [(pairs[old.name], new) for old, new in graph.updates]
    for name, value in wanted:
        ctx.e.reserve(name, value.dtype)
    for node in graph.nodes:
        _lower_node(ctx, node)
    nodes = _finish(ctx, dict(wanted))
    return _model(ctx, nodes, dict(wanted), pairs, initial or {})


def _lower_node(ctx: Lowering, node: Node) -> None:
    ctx.e.layer, ctx.e.location = node.source.layer, node.source.where
    try:
        result = _by_pattern(ctx, node) or _by_registry(ctx, node)
    except HornfelsError as error:
        raise error.at(node.source.where) from None
    tensors = result if isinstance(result, tuple) else (result,)
    ctx.tensors.update(zip(node.outputs, tensors, strict=True))


def _by_pattern(ctx: Lowering, node: Node) -> Tensor | None:
    """The first pattern that ends in this node; what it skips is dropped as unused."""
    for pattern in PATTERNS.get(node.op.name, ()):
        result = pattern(ctx, node)
        if result is not None:
            return result
    return None


def _by_registry(ctx: Lowering, node: Node) -> Tensor | tuple[Tensor, ...]:
    """The registered function, or the standard operator of the same meaning."""
    op = node.op
    if op.name in LOWERINGS:
        return LOWERINGS[op.name](ctx, node)
    if isinstance(op.onnx, Reason):
        raise LoweringError(f"onnx: {op.name} cannot be expressed: {op.onnx.text}",
                            hint="use backend='tvm' or 'eager'")  # fmt: skip
    if op.kind != "elementwise" or op.onnx == CODE:
        raise LoweringError(f"onnx: {op.name} has no lowering in codegen/onnx/ops")
    operator, out = op.onnx, node.output
    return ctx.pointwise(
        lambda *xs: ctx.e.op(operator, *xs, dtype=out.dtype, **node.attrs),
        [ctx[v] for v in node.inputs],
        out.type,
    )


# --- the model -------------------------------------------------------------------------------


def _finish(ctx: Lowering, wanted: Mapping[str, Value]) -> list[OnnxNode]:
    """The nodes that the results need, which carry the results' names."""
    ctx.e.layer = ""
    held = {name: ctx.full(value) for name, value in wanted.items()}
    nodes = _needed(ctx.e.nodes, held.values())
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
        node.inputs = [renamed.get(i, i) for i in node.inputs]
        node.outputs = [renamed.get(o, o) for o in node.outputs]
    return nodes


def _needed(nodes: list[OnnxNode], results: Iterable[str]) -> list[OnnxNode]:
    """The nodes that the results depend on."""
    wanted, kept = set(results), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _model(
    ctx: Lowering,
    nodes: list[OnnxNode],
    wanted: Mapping[str, Value],
    pairs: Mapping[str, str],
    initial: Mapping[str, np.ndarray],
) -> ModelProto:
    graph = ctx.graph
    read = {name for node in nodes for name in node.inputs}
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
    return helper.make_node(
        node.op_type, node.inputs, node.outputs, name=f"node:{node.outputs[0]}", **node.attrs
    )


def _info(name: str, type: TensorType) -> ValueInfoProto:
    shape: list[Any] = [d if isinstance(d, int) else str(d) for d in type.shape]
    return helper.make_tensor_value_info(name, PROTO[type.dtype.name], shape)


def _initializer(name: str, array: np.ndarray) -> Any:
    return numpy_helper.from_array(np.asarray(array), name)
