"""Every op on no element and on one: samples with an open size, which is 0 or 1 here."""

from __future__ import annotations

import conformance
import dtypes
import pytest

from hornfels.ir import REGISTRY
from hornfels.ir.op import Case, Op

SIZED = [
    pytest.param(op, case, id=f"{op.name}-{size}-{i}")
    for op in REGISTRY.values()
    for size in (0, 1)
    for i, case in enumerate(dtypes.sized(op, size))
]
DIFFERENTIABLE = [p for p in SIZED if conformance.has_gradient(*p.values)]


def test_every_op_of_tensors_has_a_sample_of_open_size() -> None:
    closed = {op.name for op in REGISTRY.values() if op.kind != "region"}
    closed -= {p.values[0].name for p in SIZED}
    assert closed == {"constant", "iota", "rng_bits", "custom_gradient"}


@pytest.mark.parametrize(("op", "case"), SIZED)
def test_types(op: Op, case: Case) -> None:
    conformance.check_types(op, case)


@pytest.mark.parametrize(("op", "case"), DIFFERENTIABLE)
def test_vjp(op: Op, case: Case) -> None:
    conformance.check_vjp(op, case)


@pytest.mark.parametrize(("op", "case"), DIFFERENTIABLE)
def test_second_vjp(op: Op, case: Case) -> None:
    conformance.check_second_vjp(op, case)


@pytest.mark.parametrize(("op", "case"), DIFFERENTIABLE)
def test_jvp(op: Op, case: Case) -> None:
    conformance.check_jvp(op, case)
