"""Run a graph as native code with guarded memory, and compare with the oracle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from native import TARGET, aligned, guard_holds

from hornfels.codegen.tvm import build
from hornfels.codegen.tvm.lower import Compiled, compile_plan, lower_plan
from hornfels.codegen.tvm.target import Target
from hornfels.ir import Evaluation, Graph, evaluate
from hornfels.ir.ops.custom import erase_gradient_rules
from hornfels.passes.fusion import fuse
from hornfels.passes.memory import plan
from hornfels.passes.plan import Kernel, Plan

TOLERANCE = {"f64": 1e-12, "f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2}
"""Allowed error relative to an element and the mean of all; other dtypes must be equal."""


def arrays_for(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays for the parameters of a static graph."""
    rng = np.random.default_rng(seed)
    found = {}
    for v in graph.parameters:
        if v.dtype.is_bool:
            found[v.name] = rng.random(v.shape) < 0.5
        elif v.dtype.is_float:
            found[v.name] = rng.uniform(-2, 2, v.shape).astype(v.dtype.numpy)
        else:
            found[v.name] = rng.integers(0, 100, v.shape).astype(v.dtype.numpy)
    return found


def only_kernel(graph: Graph) -> Kernel:
    """The kernel of a graph that fusion makes one call of."""
    (call,) = fuse(graph)
    return call.kernel


def compiled(graph: Graph, target: Target = TARGET) -> Compiled:
    """Fuse, plan and compile a static graph as it stands."""
    graph = erase_gradient_rules(graph)
    return compile_plan(plan(graph, fuse(graph)), target)


def source(planned: Plan, form: str = "ll") -> str:
    """The code that a plan becomes, in LLVM's language."""
    lowered = lower_plan(planned, TARGET)
    return build.source(lowered.kernels, lowered.statements, TARGET, form)


def run_compiled(program: Compiled, arrays: Mapping[str, np.ndarray]) -> Evaluation:
    """Run on copies of the arrays; the arena begins as NaN, no byte around anything changes."""
    graph = program.plan.graph
    blocks = [
        aligned(np.full(program.arena_bytes, 0xFF, np.uint8)),
        *(aligned(np.asarray(arrays[v.name])) for v in graph.parameters),
        *(aligned(np.zeros(v.shape, v.dtype.numpy)) for v in graph.outputs),
        *(aligned(array) for array in program.plan.constants),
        aligned(np.full(program.prepared_bytes, 0xFF, np.uint8)),  # it says: prepare
    ]
    program.program.run([block.ctypes.data for block in blocks][: program.program.pointers])
    assert all(guard_holds(block) for block in blocks)
    inputs = blocks[1 : 1 + len(graph.inputs)]
    for value, block in zip(graph.inputs, inputs, strict=True):
        given = np.asarray(arrays[value.name])
        assert block.tobytes() == given.tobytes(), f"{value.name} was written"
    first = 1 + len(graph.parameters)
    outputs = blocks[first : first + len(graph.outputs)]
    state = dict(zip(graph.state, blocks[1 + len(graph.inputs) : first], strict=True))
    return Evaluation(
        dict(zip(graph.output_names, outputs, strict=True)),
        {old.name: state[old] for old, _ in graph.updates},
    )


def run_graph(graph: Graph, arrays: Mapping[str, np.ndarray]) -> Evaluation:
    """Compile and run."""
    return run_compiled(compiled(graph), arrays)


def error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference; floats relative to the element and the mean, others 0 or infinite."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return np.inf
    if got.dtype.kind in "biu":
        return 0.0 if np.array_equal(got, expected) else np.inf
    x, y = got.astype(np.float64), expected.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    finite = np.abs(y[np.isfinite(y)])
    scale = np.abs(y) + (finite.mean() if finite.size else 0.0)
    with np.errstate(all="ignore"):
        difference = np.where(same, 0.0, np.abs(x - y) / scale)
    return float(np.max(np.where(np.isnan(difference), np.inf, difference), initial=0.0))


def tolerance(array: np.ndarray, factor: float = 1.0) -> float:
    """What `error` may be for arrays of this dtype."""
    names = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}
    return factor * TOLERANCE.get(names.get(str(array.dtype), ""), 0.0)


def check_graph(
    graph: Graph, arrays: Mapping[str, np.ndarray], *, factor: float = 1.0
) -> Evaluation:
    """Native code and the oracle agree on all outputs and updates; returns what was computed."""
    got, expected = run_graph(graph, arrays), evaluate(graph, arrays)
    pairs = [(got.outputs, expected.outputs), (got.updates, expected.updates)]
    for found, wanted in pairs:
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            array = np.asarray(array)
            distance = error(found[name], array)
            assert distance <= tolerance(array, factor), (
                f"{graph.name}: {name} {array.dtype}{list(array.shape)} is off by {distance:.3g}\n"
                f"got {found[name].ravel()[:6]}, expected {array.ravel()[:6]}"
            )
    return got
