"""Run an IR graph through its ONNX model in plain ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort

from hornfels.codegen.onnx import lower
from hornfels.codegen.onnx.emit import PROTO
from hornfels.ir import Graph
from hornfels.ir.evaluate import bind
from hornfels.ir.types import as_dtype


def session_of(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    """A checked model in a session, of one thread if nothing else is said."""
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain for o in model.opset_import} == {""}
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def run_graph(
    graph: Graph, arrays: Mapping[str, np.ndarray], session: ort.InferenceSession | None = None
) -> dict[str, np.ndarray]:
    """Lower and run (or run in the session given); outputs and updates (`new/...`) by name, bf16
    included."""
    session = session or session_of(lower(graph))
    binding = session.io_binding()
    fixed = graph.specialize(bind(graph, arrays))
    results = dict(zip(fixed.output_names, fixed.outputs, strict=True))
    results |= {f"new/{old.name}": new for old, new in fixed.updates}
    inputs = {v.name: _shared(np.array(arrays[v.name], order="C")) for v in graph.parameters}
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    outputs = {n: np.zeros(v.shape, v.dtype.numpy) for n, v in results.items()}
    bound = {name: _shared(array) for name, array in outputs.items()}
    for name, value in bound.items():
        binding.bind_ortvalue_output(name, value)
    session.run_with_iobinding(binding)
    return outputs


def _shared(array: np.ndarray) -> ort.OrtValue:
    """The array's own memory as ONNX Runtime sees it."""
    if as_dtype(array.dtype).name != "bf16":
        return ort.OrtValue.ortvalue_from_numpy(array)
    bits = array.view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, PROTO["bf16"])
