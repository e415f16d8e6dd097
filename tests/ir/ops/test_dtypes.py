"""Every op in every dtype that its type rule allows, by the oracle; see tests/support/dtypes.py."""

from __future__ import annotations

import conformance
import dtypes
import pytest
from dtypes import VARIANTS, Variant

from hornfels.ir import REGISTRY
from hornfels.ir.types import DTYPES


def _parameters(variants: list[Variant]) -> list[object]:
    return [pytest.param(v, id=str(v)) for v in variants]


ALL = _parameters(VARIANTS)
ELEMENTWISE = _parameters([v for v in VARIANTS if v.op.scalar is not None])
DIFFERENTIABLE = _parameters([v for v in VARIANTS if dtypes.has_gradient(v)])


def test_variants_are_all_that_the_type_rules_allow() -> None:
    found = {name: {v.dtype for v in VARIANTS if v.op.name == name} for name in REGISTRY}
    assert found["add"] == {d for d in DTYPES.values() if not d.is_bool}
    assert found["exp"] == {d for d in DTYPES.values() if d.is_float}
    assert found["gather"] == found["select"] == found["constant"] == set(DTYPES.values())
    assert all(found[name] or op.kind == "region" for name, op in REGISTRY.items())
    assert sum(v.op.name == "cast" for v in VARIANTS) == len(DTYPES) ** 2


@pytest.mark.parametrize("variant", ALL)
def test_type_is_numpys(variant: Variant) -> None:
    conformance.check_types(variant.op, variant.case)


@pytest.mark.parametrize("variant", ALL)
def test_text(variant: Variant) -> None:
    conformance.check_text(variant.op, variant.case)


@pytest.mark.parametrize("variant", ALL)
def test_values_are_those_of_the_widest_dtype(variant: Variant) -> None:
    dtypes.check_against_widest(variant)


@pytest.mark.parametrize("variant", ELEMENTWISE)
def test_scalar_at_corners(variant: Variant) -> None:
    conformance.check_scalar_corners(variant.op, variant.case)


@pytest.mark.parametrize("variant", DIFFERENTIABLE)
def test_gradient(variant: Variant) -> None:
    dtypes.check_gradient_dtype(variant)
