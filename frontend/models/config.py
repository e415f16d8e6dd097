"""Models as plain data, in the form that Keras writes, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...ir.errors import ArgumentError
from .. import ops, tree
from ..keras_tensor import KerasTensor
from ..layers.layer import Layer
from ..operation import OpCall, Operation
from .network import Network

Json = dict[str, Any]
_OPS = "keras.ops"
_MODEL_MODULES = {"Functional": "keras.src.models.functional", "Sequential": "keras"}
_ROOM = __package__


def serialize_operation(operation: Operation) -> Json:
    """A layer, a model or an op as data."""
    if isinstance(operation, OpCall):
        return {
            "module": _OPS,
            "class_name": operation.function.__name__,
            "config": {"name": operation.name},
            "registered_name": None,
        }
    from ..layers import serialize

    data: Json = serialize(operation)
    if type(operation).__name__ in _MODEL_MODULES and type(operation).__module__.startswith(_ROOM):
        data |= {"module": _MODEL_MODULES[type(operation).__name__], "registered_name": None}
    if isinstance(operation, Layer) and operation.get_build_config():
        data["build_config"] = operation.get_build_config()
    return data


def deserialize_operation(data: Json, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The operation that `serialize_operation` wrote; weights are made anew.

    Raises
    ------
    ArgumentError
        If it is of a class that is neither ours nor among `custom_objects`.
    """
    if data.get("module") == _OPS:
        name = data["class_name"]
        if name not in ops.__all__:
            raise ArgumentError(f"op: there is no function {name!r} in ops")
        return getattr(ops, name)
    from ..layers import deserialize
    from .model import Functional, Model
    from .sequential import Sequential

    models = {"Functional": Functional, "Sequential": Sequential, "Model": Model}
    return deserialize(data, {**models, **(custom_objects or {})})


# --- stacks ----------------------------------------------------------------------------------


def stack_config(base: Json, stack: list[Layer], input_shape: Any) -> Json:
    """The configuration of a `Sequential`."""
    config = {**base, "layers": [serialize_operation(layer) for layer in stack]}
    return config if input_shape is None else {**config, "build_input_shape": input_shape}


# --- layer graphs ----------------------------------------------------------------------------


def network_config(base: Json, network: Network) -> Json:
    """The configuration of a layer graph: its operations, each with its calls."""
    inside = set(network.nodes)
    for t in network.inputs:
        if t.node is None or not t.node.is_input:
            raise ArgumentError(
                f"model {network.name!r}: get_config needs inputs that come from Input"
            )
        inside.add(t.node)
    calls = {op: [node for node in op.inbound_nodes if node in inside] for op in network.operations}

    def reference(t: KerasTensor) -> list[Any]:
        assert t.node is not None
        return [t.node.operation.name, calls[t.node.operation].index(t.node), t.index]

    def lower(x: Any) -> Any:
        if not isinstance(x, KerasTensor):
            return _plain(x)
        history = {"shape": list(x.shape), "dtype": x.dtype, "keras_history": reference(x)}
        return {"class_name": "__keras_tensor__", "config": history}

    layers = []
    for op in network.operations:
        nodes = [
            {
                "args": [tree.map_structure(lower, a) for a in node.args],
                "kwargs": tree.map_structure(lower, node.kwargs),
            }
            for node in calls[op]
            if not node.is_input
        ]
        layers.append({**serialize_operation(op), "name": op.name, "inbound_nodes": nodes})
    return {
        **base,
        "layers": layers,
        "input_layers": tree.map_structure(reference, network.input_structure),
        "output_layers": tree.map_structure(reference, network.output_structure),
    }


def _plain(x: Any) -> Any:
    """An argument that is no symbolic tensor, as data."""
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, slice):
        return {"class_name": "__slice__", "config": [x.start, x.stop, x.step]}
    if x is Ellipsis:
        return {"class_name": "__ellipsis__", "config": None}
    if hasattr(x, "tolist"):
        return {"class_name": "__numpy__", "config": {"value": x.tolist(), "dtype": str(x.dtype)}}
    raise ArgumentError(f"get_config: an argument of type {type(x).__name__} cannot be written")


def network_from_config(
    config: Json, custom_objects: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """Symbolic inputs and outputs of a graph made anew from its configuration."""
    operations: dict[str, Any] = {}
    made: dict[tuple[str, int], list[KerasTensor]] = {}
    pending: list[tuple[str, int, Json]] = []
    for data in config["layers"]:
        name = data["name"]
        operations[name] = operation = deserialize_operation(data, custom_objects)
        if not data["inbound_nodes"]:
            made[name, 0] = [operation.output]
        pending += [(name, i, node) for i, node in enumerate(data["inbound_nodes"])]

    def ready(x: Any) -> bool:
        return all(tuple(r[:2]) in made for r in _references(x))

    def lift(x: Any) -> Any:
        return _lift(x, made)

    while pending:
        done = [item for item in pending if ready((item[2]["args"], item[2]["kwargs"]))]
        if not done:
            raise ArgumentError(f"from_config: {pending[0][0]!r} depends on what is not there")
        for name, index, node in done:
            result = operations[name](*map(lift, node["args"]), **_lift_all(node["kwargs"], lift))
            made[name, index] = [t for t in tree.leaves(result) if isinstance(t, KerasTensor)]
        pending = [item for item in pending if item not in done]
    return _structure(config["input_layers"], made), _structure(config["output_layers"], made)


def _lift_all(kwargs: Json, lift: Callable[[Any], Any]) -> Json:
    return {key: lift(value) for key, value in kwargs.items()}


def _references(x: Any) -> list[list[Any]]:
    if isinstance(x, dict) and x.get("class_name") == "__keras_tensor__":
        return [x["config"]["keras_history"]]
    items = x.values() if isinstance(x, dict) else x if isinstance(x, list | tuple) else ()
    return [r for item in items for r in _references(item)]


def _lift(x: Any, made: Mapping[tuple[str, int], list[KerasTensor]]) -> Any:
    """An argument as it was before it was written."""
    if isinstance(x, list | tuple):
        return type(x)(_lift(item, made) for item in x)
    if not isinstance(x, dict):
        return x
    kind = x.get("class_name")
    if kind == "__keras_tensor__":
        name, node, index = x["config"]["keras_history"]
        return made[name, node][index]
    if kind == "__slice__":
        return slice(*x["config"])
    if kind == "__ellipsis__":
        return ...
    if kind == "__numpy__":
        return np.array(x["config"]["value"], x["config"]["dtype"])
    return {key: _lift(value, made) for key, value in x.items()}


def _structure(references: Any, made: Mapping[tuple[str, int], list[KerasTensor]]) -> Any:
    """The nest of tensors that a nest of `[name, node, tensor]` names."""
    if isinstance(references, dict):
        return {key: _structure(value, made) for key, value in references.items()}
    if len(references) == 3 and isinstance(references[0], str):
        name, node, index = references
        return made[name, node][index]
    return [_structure(item, made) for item in references]


# --- text ------------------------------------------------------------------------------------


def to_json(model: Layer, **options: Any) -> str:
    """The architecture of a model as JSON text; `options` go to `json.dumps`."""
    return json.dumps(serialize_operation(model), **options)


def model_from_json(text: str, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The model that `model.to_json()` describes, with weights made anew.

    Raises
    ------
    ArgumentError
        If it is no such text, or has a class that is not known.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArgumentError(f"model_from_json: no JSON: {error}") from None
    model = deserialize_operation(data, custom_objects)
    shapes = data.get("build_config") or {}
    if not model.built and shapes.get("input_shape"):
        model.build(shapes["input_shape"])
    return model


def clone_model(model: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """A model of the same architecture with weights of its own."""
    return deserialize_operation(serialize_operation(model), custom_objects)
