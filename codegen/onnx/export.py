"""Files: a model for inference with its weights inside, and a training step."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import onnx

from ...ir.errors import ArgumentError, LoweringError
from ...ir.files import replacing
from ...ir.graph import Graph
from ...ir.types import type_of
from .bake import bake
from .lower import lower
from .prepare import prepare

_PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that one protobuf message may have, less some for the nodes."""


def export_inference(
    graph: Graph, arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]
) -> None:
    """Write an inference graph with its weights as a plain ONNX file.

    Parameters
    ----------
    graph : Graph
        A graph that updates no state; a symbolic batch stays symbolic in the file.
    arrays : mapping of str to array
        The state by name; it becomes initializers.
    path : path
        Written as a whole or not at all.

    Raises
    ------
    FileError
        If the file cannot be written.
    ArgumentError
        If the graph updates state, or an array is missing or does not fit.
    LoweringError
        If an op has no ONNX form, or the weights exceed protobuf's 2 GiB.

    Examples
    --------
    >>> export_inference(graph, {"dense/kernel": kernel, "dense/bias": bias}, "model.onnx")
    >>> onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})
    """
    if graph.updates:
        raise ArgumentError(
            f"export: graph {graph.name} updates state ({graph.updates[0][0].name}, ...)",
            hint='export it as a training step: kind="train"',
        )
    _check(graph, arrays)
    baked, names = bake(prepare(graph), arrays)
    _write(lower(baked, constant_names=names), path)


def export_train_step(
    graph: Graph, arrays: Mapping[str, np.ndarray] | None, path: str | os.PathLike[str]
) -> None:
    """Write one training step as a plain ONNX file with which stock ONNX Runtime trains.

    State (weights, moments, seeds) are inputs, and for each the file has an output
    `new/<name>`; the metadata entry `hornfels.updates` is a JSON object with these pairs. The
    state given as `arrays` is stored as the inputs' default values, so the first step needs no
    state at all:

    >>> session = onnxruntime.InferenceSession("train.onnx")
    >>> pairs = json.loads(session.get_modelmeta().custom_metadata_map["hornfels.updates"])
    >>> state = {}                       # empty: the first step takes the values in the file
    >>> for x, y in batches:
    ...     loss, *new = session.run(["loss", *pairs.values()], {"x": x, "y": y, **state})
    ...     state = dict(zip(pairs, new))

    The loss and the metrics are means since their state began, as `fit` shows them; feed zeros
    for `loss/total` and `loss/count` to begin anew.

    ONNX Runtime warns that these defaults are no constants, which is as intended;
    `onnxruntime.set_default_logger_severity(3)` silences it.

    Parameters
    ----------
    graph : Graph
        A training step.
    arrays : mapping of str to array or None
        Default values of the state by name; None leaves all of it to the caller.
    path : path
        Written as a whole or not at all.

    Raises
    ------
    FileError
        If the file cannot be written.
    ArgumentError
        If an array is missing or does not fit.
    LoweringError
        If an op has no ONNX form, or the weights exceed protobuf's 2 GiB.
    """
    if arrays is not None:
        _check(graph, arrays)
    initial = {} if arrays is None else {v.name: arrays[v.name] for v in graph.state}
    _write(lower(prepare(graph), initial), path)


def _check(graph: Graph, arrays: Mapping[str, np.ndarray]) -> None:
    """Require an array of the right type for all state."""
    for v in graph.state:
        if v.name not in arrays:
            raise ArgumentError(f"export: no array is given for {v.name}: {v.type}")
        if type_of(np.asarray(arrays[v.name])) != v.type:
            raise ArgumentError(
                f"export: {v.name} must be {v.type}, got {type_of(np.asarray(arrays[v.name]))}"
            )
    size = sum(v.type.nbytes for v in graph.state)
    if size > _PROTOBUF_LIMIT:
        raise LoweringError(f"export: {size} bytes of weights exceed a file's limit of 2 GiB")


def _write(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Check the model, write it beside its place, and move it there."""
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as part:
        part.write_bytes(model.SerializeToString())
