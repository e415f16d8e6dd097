"""The conformance checks find faults: each test puts one into an op and wants it refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import conformance
import numpy as np
import pytest

from hornfels.ir import REGISTRY
from hornfels.ir.op import Case, Op, Reason, reject
from hornfels.ir.types import TensorType, f32, f64

Check = Callable[[Op, Case], None]
DIFFERENTIABLE = [
    pytest.param(op, id=op.name)
    for op in REGISTRY.values()
    if any(conformance.has_gradient(op, case) for case in op.samples)
]
ELEMENTWISE = [pytest.param(op, id=op.name) for op in REGISTRY.values() if op.scalar]


def refused(check: Check, op: Op) -> bool:
    """Whether a sample of the op fails the check."""
    for case in op.samples:
        if check in GRADIENT_CHECKS and not conformance.has_gradient(op, case):
            continue
        try:
            check(op, case)
        except AssertionError:
            return True
    return False


GRADIENT_CHECKS = (conformance.check_vjp, conformance.check_second_vjp, conformance.check_jvp)


def mutated_vjp(op: Op, change: Callable[[Any], Any]) -> Op:
    assert not isinstance(op.vjp, Reason)
    vjp = op.vjp

    def wrong(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return tuple(g if g is None else change(g) for g in vjp(*args, **kwargs))

    return replace(op, vjp=wrong)


def vanishes(op: Op) -> bool:
    """Whether the op's gradient is nothing, so that a factor would not show."""
    return op.name in {"sign", "floor", "ceil", "round", "stop_gradient"}


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_vjp_off_by_a_thousandth_is_refused(op: Op) -> None:
    if vanishes(op):
        assert not refused(conformance.check_vjp, op)
        return
    assert refused(conformance.check_vjp, mutated_vjp(op, lambda g: g * 1.001))


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_missing_vjp_is_refused(op: Op) -> None:
    if vanishes(op):
        return
    without = replace(op, vjp=lambda *args, out, **attrs: (None,) * (len(args) - 1))
    assert refused(conformance.check_vjp, without)


def test_gradient_through_stop_gradient_is_refused() -> None:
    op = replace(REGISTRY["stop_gradient"], vjp=lambda g, x, *, out: (g,))
    assert refused(conformance.check_vjp, op)


@pytest.mark.parametrize("name", ["mul", "exp", "matmul", "conv", "reduce_prod", "tanh"])
def test_right_gradient_with_a_wrong_gradient_of_its_own_is_refused(name: str) -> None:
    blocked = mutated_vjp(REGISTRY[name], REGISTRY["stop_gradient"])
    assert not refused(conformance.check_vjp, blocked)
    assert refused(conformance.check_second_vjp, blocked)


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_reason_instead_of_a_vjp_is_refused(op: Op) -> None:
    with pytest.raises(AssertionError, match="needs a vjp"):
        conformance.check_declaration(replace(op, vjp=Reason("nobody wrote one")))


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_scalar_off_by_a_few_units_is_refused(op: Op) -> None:
    assert op.scalar is not None
    scalar = op.scalar
    units = conformance.ULP.get(op.name, 0) + 6

    def wrong(m: Any, *elements: Any, **attrs: Any) -> Any:
        result = scalar(m, *elements, **attrs)
        if result.array.dtype.kind == "b":
            return ~result
        if result.array.dtype.kind in "iu":
            return result + 1
        return result * (1 + units * float(np.finfo(result.array.dtype).eps))

    assert refused(conformance.check_scalar, replace(op, scalar=wrong))


def test_scalar_off_in_special_values_only_is_refused() -> None:
    expected = np.asarray([1.0, np.inf, np.nan, 0.0], np.float32)
    for i, wrong in ((1, 3e38), (2, 1.0), (3, 1e-45)):
        got = expected.copy()
        got[i] = wrong
        assert conformance.ulp_distance(got, expected) >= 1
    assert conformance.ulp_distance(expected, expected) == 0


@pytest.mark.parametrize(
    "op", [pytest.param(op, id=op.name) for op in REGISTRY.values() if op.name != "stop_gradient"]
)
def test_wrong_type_rules_are_refused(op: Op) -> None:
    def other_dtype(*types: TensorType, **attrs: Any) -> tuple[TensorType, ...]:
        result, *more = op.infer(*types, **attrs)
        return (result.with_dtype(f64 if result.dtype == f32 else f32), *more)

    def other_shape(*types: TensorType, **attrs: Any) -> tuple[TensorType, ...]:
        result, *more = op.infer(*types, **attrs)
        return (result.with_shape((*result.shape, 1)), *more)

    assert refused(conformance.check_types, replace(op, type=other_dtype))
    assert refused(conformance.check_types, replace(op, type=other_shape))


def test_oracle_that_changes_its_operand_is_refused() -> None:
    def wrong(x: np.ndarray) -> np.ndarray:
        x *= -1
        return x

    op = replace(REGISTRY["neg"], numpy=wrong)
    with pytest.raises(ValueError, match="read-only"):
        conformance.check_types(op, op.samples[0])


def test_other_message_and_no_refusal_are_refused() -> None:
    op = REGISTRY["add"]
    other = reject(f32(3), f32(4), error="add: no")
    legal = reject(f32(3), f32(3), error="add: no")
    for rejected in (other, legal):
        with pytest.raises(AssertionError):
            conformance.check_reject(replace(op, rejects=[rejected]), 0)


def test_declaration_without_samples_or_scalar_is_refused() -> None:
    with pytest.raises(AssertionError, match="add has no sample"):
        conformance.check_declaration(replace(REGISTRY["add"], samples=()))
    with pytest.raises(AssertionError, match="scalar and kind disagree"):
        conformance.check_declaration(replace(REGISTRY["add"], scalar=None))
    with pytest.raises(AssertionError, match="scalar and kind disagree"):
        conformance.check_declaration(replace(REGISTRY["add"], kind="opaque"))
    with pytest.raises(AssertionError, match="no sentence"):
        conformance.check_declaration(replace(REGISTRY["add"], doc="sum"))


@pytest.mark.parametrize("op", [p for p in DIFFERENTIABLE if p.values[0].jvp is not None])
def test_wrong_jvp_is_refused(op: Op) -> None:
    rule = op.jvp
    assert rule is not None

    def wrong(*args: Any, **kwargs: Any) -> list[Any]:
        return [t if t is None else t * 1.001 for t in rule(*args, **kwargs)]

    assert refused(conformance.check_jvp, replace(op, jvp=wrong))

    def none(*args: Any, out: Any, **attrs: Any) -> list[None]:
        return [None] * (len(out) if isinstance(out, tuple) else 1)

    assert refused(conformance.check_jvp, replace(op, jvp=none))


@pytest.mark.parametrize("name", ["exp", "mul", "select", "max_pool", "cast", "reduce_max"])
def test_a_jvp_derived_from_a_wrong_vjp_is_refused(name: str) -> None:
    op = mutated_vjp(REGISTRY[name], lambda g: g * 1.001)
    assert op.jvp is None
    assert refused(conformance.check_jvp, op)
