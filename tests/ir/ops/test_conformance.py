"""Every op of the registry, every sample and every refusal; see tests/support/conformance.py."""

from __future__ import annotations

import conformance
import pytest

from hornfels.ir import REGISTRY
from hornfels.ir.op import Case, Op

OPS = [pytest.param(op, id=op.name) for op in REGISTRY.values()]
SAMPLES = [
    pytest.param(op, case, id=f"{op.name}-{i}")
    for op in REGISTRY.values()
    for i, case in enumerate(op.samples)
]
ELEMENTWISE = [p for p in SAMPLES if p.values[0].scalar is not None]
DIFFERENTIABLE = [p for p in SAMPLES if conformance.has_gradient(*p.values)]
REJECTS = [
    pytest.param(op, i, id=f"{op.name}-{i}")
    for op in REGISTRY.values()
    for i in range(len(op.rejects))
]


@pytest.mark.parametrize("op", OPS)
def test_declaration(op: Op) -> None:
    conformance.check_declaration(op)


@pytest.mark.parametrize(("op", "index"), REJECTS)
def test_reject(op: Op, index: int) -> None:
    conformance.check_reject(op, index)


@pytest.mark.parametrize(("op", "case"), SAMPLES)
def test_types(op: Op, case: Case) -> None:
    conformance.check_types(op, case)


@pytest.mark.parametrize(("op", "case"), SAMPLES)
def test_text(op: Op, case: Case) -> None:
    conformance.check_text(op, case)


@pytest.mark.parametrize(("op", "case"), ELEMENTWISE)
def test_scalar(op: Op, case: Case) -> None:
    conformance.check_scalar(op, case)


@pytest.mark.parametrize(("op", "case"), ELEMENTWISE)
def test_scalar_corners(op: Op, case: Case) -> None:
    conformance.check_scalar_corners(op, case)


@pytest.mark.parametrize(("op", "case"), DIFFERENTIABLE)
def test_vjp(op: Op, case: Case) -> None:
    conformance.check_vjp(op, case)


@pytest.mark.parametrize(("op", "case"), DIFFERENTIABLE)
def test_second_vjp(op: Op, case: Case) -> None:
    conformance.check_second_vjp(op, case)


@pytest.mark.parametrize(("op", "case"), DIFFERENTIABLE)
def test_jvp(op: Op, case: Case) -> None:
    conformance.check_jvp(op, case)
