"""Elementwise ops with a fault in what kernels compute: the comparison with the oracle sees it."""

from __future__ import annotations

from typing import Any

import conformance
import numpy as np
from native_graph import error, run_graph, tolerance

from hornfels.ir import REGISTRY, Builder, evaluate

OPS = [
    op for op in REGISTRY.values()
    if op.scalar is not None
    and not any(t.dtype.is_bool for t in op.infer(*op.samples[0].types, **op.samples[0].attrs))
]  # fmt: skip


def errors() -> dict[str, float]:
    """How far each op's first sample is off, in units of what is allowed; all in one program."""
    arrays, outputs = {}, {}
    with Builder("all") as b:
        for op in OPS:
            case = op.samples[0]
            operands = []
            for i, array in enumerate(conformance.draw(op, case)):
                type = case.types[i].substitute(conformance.SIZES)
                operands.append(b.input(f"{op.name}_{i}", type))
                arrays[f"{op.name}_{i}"] = array
            outputs[op.name] = op(*operands, **case.attrs)
        graph = b.finish(outputs)
    expected = evaluate(graph, arrays).outputs
    found = run_graph(graph, arrays).outputs
    return {
        name: error(found[name], array) / max(tolerance(np.asarray(array)), 1e-300)
        for name, array in expected.items()
    }


def test_faults_in_what_kernels_compute_are_seen(monkeypatch):
    assert all(found <= 1 for found in errors().values())
    for op in OPS:
        sound = op.scalar

        def wrong(m: Any, *elements: Any, sound: Any = sound, **attrs: Any) -> Any:
            result = sound(m, *elements, **attrs)
            return result + 1 if result.dtype.is_integer else result * 1.01 + 0.001

        monkeypatch.setitem(op.__dict__, "scalar", wrong)
    unseen = {name for name, found in errors().items() if found <= 1}
    assert unseen <= {"stop_gradient"}  # which is no computation in a kernel
