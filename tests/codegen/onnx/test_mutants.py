"""Every lowering with a fault put in: the comparison with the oracle refuses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import conformance
import numpy as np
import pytest
from onnx_run import run_graph

from hornfels.codegen.onnx.lowering import LOWERINGS, Lowering, Tensor
from hornfels.ir import REGISTRY, Builder, Graph, evaluate
from hornfels.ir.graph import Node
from hornfels.ir.op import Case, Op

LIMIT = {"f64": 1e-13, "f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2}
"""As in test_conformance.py."""


def faulty(ctx: Lowering, t: Tensor) -> Tensor:
    """A result that is off by a hundredth, by one, or the opposite."""
    dtype = t.type.dtype
    if dtype.is_bool:
        return replace(t, name=ctx.e.op("Not", t.name))
    if dtype.is_float:
        more = ctx.e.op("Mul", t.name, ctx.e.const(1.03, dtype))
        return replace(t, name=ctx.e.op("Add", more, ctx.e.const(0.03, dtype)))
    return replace(t, name=ctx.e.op("Add", t.name, ctx.e.const(1, dtype)))


def sample_of(op: Op) -> Case:
    """A sample with numbers to see."""
    for case in op.samples:
        types = [t.substitute(conformance.SIZES) for t in case.types]
        attrs = {k: conformance.bound(v) for k, v in case.attrs.items()}
        if any(t.size == 0 for t in (*types, *op.infer(*types, **attrs))):
            continue
        if all(t.dtype.name in ("f32", "i32", "bool", "u32") for t in types):
            return replace(case, types=tuple(types), attrs=attrs)
    raise AssertionError(op.name)


def graph_of(op: Op, case: Case) -> Graph:
    with Builder(op.name) as b:
        operands = [b.input(f"x{i}", t) for i, t in enumerate(case.types)]
        return b.finish({f"y{i}": v for i, v in enumerate(op.all(*operands, **case.attrs))})


def agrees(op: Op) -> bool:
    case = sample_of(op)
    graph = graph_of(op, case)
    arrays = {f"x{i}": a for i, a in enumerate(conformance.draw(op, case))}
    found, expected = run_graph(graph, arrays), evaluate(graph, arrays).outputs
    return all(
        np.allclose(found[name].astype(np.float64), expected[name].astype(np.float64),
                    *2 * [LIMIT.get(value.dtype.name, 0)], equal_nan=True)
        for name, value in zip(graph.output_names, graph.outputs, strict=True)
    )  # fmt: skip


NAMES = sorted(name for name in LOWERINGS if name in REGISTRY)


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_in_a_lowering_is_refused(monkeypatch, name):
    op, sound = REGISTRY[name], LOWERINGS[name]

    def wrong(ctx: Lowering, node: Node) -> Any:
        result = sound(ctx, node)
        if isinstance(result, Tensor):
            return faulty(ctx, result)
        return (faulty(ctx, result[0]), *result[1:])

    assert agrees(op)
    monkeypatch.setitem(LOWERINGS, name, wrong)
    assert not agrees(op)
