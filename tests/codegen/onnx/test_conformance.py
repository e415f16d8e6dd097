"""Every op of the registry, every sample: ONNX Runtime against the NumPy oracle."""

from __future__ import annotations

from dataclasses import replace

import conformance
import numpy as np
import pytest
from onnx_run import run_graph

from hornfels.codegen.onnx.lowering import LOWERINGS
from hornfels.ir import REGISTRY, Builder, Graph, evaluate
from hornfels.ir.op import CODE, Case, Op, Reason
from hornfels.ir.types import DType, f32, f64

TOLERANCE = {"f64": 1e-13, "f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2}
"""Allowed difference, relative to 1 or to the number if that is larger; integers are exact."""

SAMPLES = [
    pytest.param(op, case, id=f"{op.name}-{i}")
    for op in REGISTRY.values()
    for i, case in enumerate(op.samples)
]
FLOATING = [
    p for p in SAMPLES
    if p.values[0].kind != "region"  # bodies have types of their own; see test_control.py
    and p.values[0].name != "bitcast"  # its attribute fixes the width; it has f64 samples
    and any(t.dtype.name == "f32" for t in p.values[1].types)
]  # fmt: skip


def graph_of(op: Op, case: Case, wide: dict[DType, DType]) -> Graph:
    """A graph of the op alone; symbolic sizes are kept if an operand carries them."""
    attrs = {k: wide.get(v, v) if isinstance(v, DType) else v for k, v in case.attrs.items()}
    if not any(t.symbols for t in case.types):
        attrs = {k: conformance.bound(v) for k, v in attrs.items()}
    with Builder(op.name) as b:
        operands = [
            b.input(f"x{i}", t.with_dtype(wide.get(t.dtype, t.dtype)))
            for i, t in enumerate(case.types)
        ]
        outputs = op.all(*operands, **attrs)
        return b.finish({f"y{i}": v for i, v in enumerate(outputs)})


def check(op: Op, case: Case, wide: dict[DType, DType]) -> None:
    graph = graph_of(op, case, wide)
    arrays = {f"x{i}": a for i, a in enumerate(conformance.draw(op, case, wide))}
    expected = evaluate(graph, arrays).outputs
    found = run_graph(graph, arrays)
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        assert found[name].dtype == expected[name].dtype
        assert found[name].shape == expected[name].shape
        limit = TOLERANCE.get(value.dtype.name, 0)
        np.testing.assert_allclose(
            found[name].astype(np.float64), expected[name].astype(np.float64), limit, limit
        )


@pytest.mark.parametrize(("op", "case"), SAMPLES)
def test_sample(op, case):
    check(op, case, {})


@pytest.mark.parametrize(("op", "case"), FLOATING)
def test_sample_in_f64(op, case):
    check(op, case, dict.fromkeys([t.dtype for t in case.types if t.dtype.is_float], f64))


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in REGISTRY.values()])
def test_every_op_has_a_lowering_or_a_reason(op):
    has_name = op.kind == "elementwise" and op.onnx != CODE
    assert op.name in LOWERINGS or isinstance(op.onnx, Reason) or has_name


# --- the checks themselves -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv_kernel_grad", "rsqrt", "avg_pool"])
def test_a_result_off_by_a_hundred_thousandth_is_caught(monkeypatch, name):
    sound = LOWERINGS[name]

    def off(ctx, node):
        t = sound(ctx, node)
        factor = ctx.e.const(1 + 1e-5, node.output.dtype)
        return replace(t, name=ctx.e.op("Mul", t.name, factor))

    monkeypatch.setitem(LOWERINGS, name, off)
    op = REGISTRY[name]
    case = next(c for c in op.samples if c.types[0].dtype.name == "f32")
    with pytest.raises(AssertionError):
        check(op, case, {})


def test_another_choice_among_ties_is_caught(monkeypatch):
    """The last maximum instead of the first."""
    sound = LOWERINGS["argmax"]

    def last(ctx, node):
        t = sound(ctx, node)
        for emitted in ctx.e.nodes:
            if emitted.op_type == "ArgMax":
                emitted.attrs["select_last_index"] = 1
        return t

    monkeypatch.setitem(LOWERINGS, "argmax", last)
    with Builder("ties") as b:
        graph = b.finish({"y": REGISTRY["argmax"](b.input("x", f32(4)), axis=0)})
    arrays = {"x": np.array([0, 1, 1, 0], np.float32)}
    assert run_graph(graph, arrays)["y"] == 2
    assert evaluate(graph, arrays).outputs["y"] == 1
