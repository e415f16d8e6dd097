"""Every op with faults put into its declaration, one at a time: the conformance checks refuse each.

`tests/support/mutants.py` makes the faults from the source of type rules, oracles, gradients and
forward derivatives. What survives is listed here with the reason: it changes nothing that the
op promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import conformance
import numpy as np
import pytest
from mutants import Mutant, mutants

from hornfels.ir import REGISTRY, parse
from hornfels.ir.errors import HornfelsError
from hornfels.ir.op import Case, Op, Reason, Rejected, reject
from hornfels.ir.types import boolean, f32, f64, i32, symbol

REFUSALS = (AssertionError, ArithmeticError, AttributeError, HornfelsError, LookupError, NameError,
            RecursionError, TypeError, ValueError, np.exceptions.AxisError)  # fmt: skip
"""How a fault may show: a check that fails, or code that does."""


def is_refused(check: Callable[[Any], None], items: Iterable[Any]) -> bool:
    """Whether the check fails for one of the items."""
    for item in items:
        try:
            with np.errstate(all="ignore"):
                check(item)
        except REFUSALS:
            return True
    return False


def survivors(found: Iterator[Mutant], refused: Callable[[Mutant], bool]) -> set[str]:
    return {mutant.fault for mutant in found if not refused(mutant)}


# --- type rules ------------------------------------------------------------------------------

_GEOMETRY = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "input_dilation": (1, 1),
             "kernel_dilation": (1, 1), "groups": 1}  # fmt: skip
_POOL = {"window": (2, 2), "strides": (2, 2), "padding": ((0, 0), (0, 0))}
_SCAN = next(c for c in REGISTRY["scan"].samples if c.attrs["stacked"] == 0)
_COND = REGISTRY["cond"].samples[0]
_SUM = parse("graph g(%x: f32[3]) {\n %0: f32[] = reduce_sum[axes=(0,)](%x)\n return y=%0\n}")
_SAME = parse("graph g(%x: f32[3]) {\n return y=%x\n}")
_YES = parse("""graph g(%x: f32[3]) {
  %0: bool[] = constant[value=dense<bool[]: True>]()
  return y=%0
}""")


def _two_shapes(op: str, dtype: Any) -> list[Rejected]:
    a, b = dtype(3), dtype(4)
    return [reject(a, b, error=f"{op}: operands must have one shape, got {a} and {b}")]


MORE_REJECTS: dict[str, list[Rejected]] = {
    **{op: _two_shapes(op, boolean) for op in ("logical_and", "logical_or")},
    **{op: _two_shapes(op, i32)
       for op in ("bit_and", "bit_or", "bit_xor", "shift_left", "shift_right")},
    "bitcast": [reject(f32(3), dtype="i32",
                       error="bitcast: dtype must be one of the IR's, got 'i32'")],
    "scan": [
        reject(*_SCAN.types, **{**_SCAN.attrs, "gradient": "none"},
               error="scan: gradient must be 'store' or 'recompute', got 'none'"),
        reject(*_SCAN.types, **{**_SCAN.attrs, "length": -1},
               error="scan: length must be 0 or more, got -1"),
        reject(f32(3), **{**_SCAN.attrs, "body": _COND.attrs["then"], "carry": 1},
               error="scan: body must take (f32[3]), got (f32[3], f32[3])"),
        reject(f32(3), body=_SUM, carry=1, stacked=0, length=2,
               error="scan: body must return (f32[3]), got (f32[])"),
    ],
    "while": [
        reject(f32(3), condition=_SUM, body=_SAME, carry=1,
               error="while: condition must return (bool[]), got (f32[])"),
        reject(f32(3), condition=_YES, body=_SUM, carry=1,
               error="while: body must return (f32[3]), got (f32[])"),
    ],
    "cond": [reject(boolean(), f32(3), then=_SUM, otherwise=_SAME,
                    error="cond: then returns (f32[]), otherwise (f32[3])")],
    "conv": [reject(f32(2, 5, 5, 2), f64(3, 3, 2, 4), **_GEOMETRY,
                    error="conv: operands must have one dtype, "
                          "got f32[2,5,5,2] and f64[3,3,2,4]")],
    "conv_input_grad": [
        reject(i32(2, 3, 3, 4), i32(3, 3, 2, 4), input_shape=(2, 5, 5, 2), **_GEOMETRY,
               error="conv_input_grad: operand dy must be floating point, got i32[2,3,3,4]")],
    "conv_kernel_grad": [
        reject(f32(2, 5, 5, 2), f64(2, 3, 3, 4), kernel_shape=(3, 3, 2, 4), **_GEOMETRY,
               error="conv_kernel_grad: operands must have one dtype, "
                     "got f32[2,5,5,2] and f64[2,3,3,4]")],
    "scatter_add": [
        reject(f32(5), i32(2), f32(2), axis=1,
               error="scatter_add: axis must be in [0, 1), got 1 for f32[5]"),
        reject(f32(0), i32(2), f32(2), axis=0,
               error="scatter_add: axis 0 must not be empty, got f32[0]")],
    "scatter": [reject(f32(5), i32(2), f32(2), axis=1, combine="set",
                       error="scatter: axis must be in [0, 1), got 1 for f32[5]")],
    "matmul": [reject(f32(4), f32(4, 2),
                      error="matmul: operand a must have rank 2 or more, got f32[4]")],
    "svd": [reject(f32(symbol("N"), 3),
                   error="svd: operand x must have a fixed size along axis 0, got f32[N,3]")],
    "max_pool_grad": [reject(f32(2, 6, 6, 2), f64(2, 3, 3, 2), **_POOL,
                             error="max_pool_grad: operands must have one dtype, "
                                   "got f32[2,6,6,2] and f64[2,3,3,2]")],
    "custom_gradient": [
        reject(f32(3), backward=3, outputs=1, residuals=0, arguments=0, wrt=(),
               error="custom_gradient: backward must be a graph without state")],
}  # fmt: skip
"""What the declarations' own samples leave open."""


def with_more(op: Op) -> Op:
    return replace(op, rejects=[*op.rejects, *MORE_REJECTS.get(op.name, ())])


@pytest.mark.parametrize("name", MORE_REJECTS)
def test_more_is_rejected(name: str) -> None:
    op = with_more(REGISTRY[name])
    for index in range(len(op.rejects)):
        conformance.check_reject(op, index)


UNCHECKED: dict[str, set[str]] = {
    "equal": {"require(op, x=x, y=y) -> nothing"},  # equality takes every dtype
    "not_equal": {"require(op, x=x, y=y) -> nothing"},
}
"""Checks that may be left out, since they refuse nothing."""


@pytest.mark.parametrize("name", REGISTRY)
def test_a_check_left_out_of_a_type_rule_is_noticed(name: str) -> None:
    op = with_more(REGISTRY[name])

    def refused(mutant: Mutant) -> bool:
        wrong = replace(op, type=mutant.function)
        rejects = range(len(wrong.rejects))
        return is_refused(lambda i: conformance.check_reject(wrong, i), rejects) or is_refused(
            lambda case: conformance.check_types(wrong, case), op.samples
        )

    assert survivors(mutants(op.type, statements=True), refused) == UNCHECKED.get(name, set())


# --- gradients -------------------------------------------------------------------------------


def _tied(arrays: Any) -> list[np.ndarray]:
    """Operands of which some elements are equal, others not."""
    x, y = (np.array(a) for a in arrays)
    y[::2] = x[::2]
    return [x, y]


def _first_two_largest(arrays: Any) -> list[np.ndarray]:
    x = np.array(arrays[0])
    x[..., 1] = x[..., 0] = 3.0
    return [x]


def _first_two_smallest(arrays: Any) -> list[np.ndarray]:
    return [-_first_two_largest(arrays)[0]]


def _axis(name: str) -> dict[str, Any]:
    return {"axis": 1, "reverse": False} if name.startswith("cum") else {"axes": (1,)}


MORE_SAMPLES: dict[str, list[Case]] = {
    **{name: [Case((f32(6), f32(6)), {}, prepare=_tied)] for name in ("maximum", "minimum")},
    **{name: [Case((f32(2, 4),), _axis(name), (-2.0, 2.0), True, prepare=_first_two_largest)]
       for name in ("reduce_max", "cummax")},
    **{name: [Case((f32(2, 4),), _axis(name), (-2.0, 2.0), True, prepare=_first_two_smallest)]
       for name in ("reduce_min", "cummin")},
    "abs": [Case((f32(3),), {}, prepare=lambda arrays: [np.zeros_like(arrays[0])])],
    "pow": [Case((f32(3), f32(3)), {}, (0.5, 2.0),
                 prepare=lambda arrays: [arrays[0], np.zeros_like(arrays[1])])],
}  # fmt: skip
"""Where gradients jump: differences to both sides agree with an even share among two that tie."""


def gradient_samples(op: Op) -> list[Case]:
    """Samples with a gradient; in f64, as it is checked, those of other dtypes are the same."""
    found: dict[Any, Case] = {}
    for case in [*MORE_SAMPLES.get(op.name, ()), *op.samples]:
        if conformance.has_gradient(op, case):
            shapes = tuple(t.shape for t in case.types)
            found.setdefault((shapes, str(case.attrs), case.prepare), case)
    return list(found.values())


@pytest.mark.parametrize("name", MORE_SAMPLES)
def test_gradients_where_they_jump(name: str) -> None:
    for case in MORE_SAMPLES[name]:
        conformance.check_vjp(REGISTRY[name], case)


OTHERWISE = {"scan", "while", "cond", "custom_gradient"}
"""Control flow: gradients made of many functions, which have programs of their own."""

_TIES = "matters among ties in a window only, where the first wins and the gradient jumps"
SAME_GRADIENT: dict[str, dict[str, str]] = {
    "pow": {"0 -> 1": "one of the guards for x = 0, where the gradient is stated, not derived"},
    "linear_recurrence": {"0.0 -> 0.25": "what is beyond the ends is multiplied by nothing"},
    "cumprod": {"0.0 -> 0.25": "what is beyond the ends is multiplied by nothing"},
    "reduce_prod": {
        "require_fixed('gradient of reduce_prod', 'x', x.type, axes) -> "
        "require_fixed('x', 'gradient of reduce_prod', x.type, axes)": "the words of an error",
    },
    "eigh": {
        "matrix.product(matrix.product(vectors, inner), vectors, tb=True) -> "
        "matrix.product(vectors, matrix.product(vectors, inner), tb=True)": "inner is symmetric",
        "0 -> 1": "which output has a cotangent: in the checks both have",
    },
    "max_pool_grad": {
        "-math.inf -> math.inf": "padding is met by no maximum that is differentiated",
        "0 -> 1": "a part of a shape that is replaced",
        "0.0 -> 0.25": "what padding holds goes nowhere",
        "free & equal(seen, best) -> free | equal(seen, best)": _TIES,
        "free & ~first -> free | ~first": _TIES,
    },
}
"""Faults in gradients that change none that is checked, and why."""

SLOW = {"eigh", "max_pool_grad", "conv", "conv_input_grad", "conv_kernel_grad"}
"""Ops of which three samples must do."""

VJPS = [
    op.name
    for op in REGISTRY.values()
    if op.name not in OTHERWISE and not isinstance(op.vjp, Reason) and gradient_samples(op)
]


@pytest.mark.parametrize("name", VJPS)
def test_a_fault_in_a_gradient_is_refused(name: str) -> None:
    op, samples = REGISTRY[name], gradient_samples(REGISTRY[name])
    samples = samples[:3] if name in SLOW else samples

    def refused(mutant: Mutant) -> bool:
        wrong = replace(op, vjp=mutant.function)
        return is_refused(lambda case: conformance.check_vjp(wrong, case), samples) or is_refused(
            lambda case: conformance.check_second_vjp(wrong, case), samples[:1]
        )

    assert survivors(mutants(op.vjp), refused) == set(SAME_GRADIENT.get(name, {}))  # type: ignore[arg-type]


# --- attributes and operands -----------------------------------------------------------------


def changed(attribute: Any) -> Iterator[Any]:
    """An attribute as a backend may misread it."""
    if isinstance(attribute, bool):
        yield not attribute
    elif isinstance(attribute, int):
        yield from (attribute + 1, attribute - 1)
    elif isinstance(attribute, float):
        yield attribute + 1
    elif isinstance(attribute, tuple):
        yield attribute[::-1]
        for i, item in enumerate(attribute):
            for other in changed(item):
                yield (*attribute[:i], other, *attribute[i + 1 :])


def outputs_of(op: Op, arrays: list[np.ndarray], attrs: dict[str, Any]) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in op.evaluate(*arrays, **attrs)]


def differs(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    """Whether a backend's test would see it: by more than 1 %, or by a type."""
    return any(
        x.shape != y.shape or not np.allclose(x, y, rtol=1e-2, atol=1e-3, equal_nan=True)
        for x, y in zip(a, b, strict=True)
    )


def attribute_is_seen(op: Op, name: str) -> bool:
    """Whether some sample gives another result, or none, for another value of an attribute."""
    for case in op.samples:
        if name not in case.attrs:
            continue
        arrays = conformance.draw(op, case)
        attrs = {k: conformance.bound(v) for k, v in case.attrs.items()}
        expected = outputs_of(op, arrays, attrs)
        for other in changed(attrs[name]):
            wrong = {**attrs, name: other}
            try:
                if differs(outputs_of(op, arrays, wrong), expected):
                    return True
            except REFUSALS:  # it fits these operands alone
                return True
    return False


ATTRIBUTES = sorted(
    f"{op.name}.{name}"
    for op in REGISTRY.values()
    if op.name != "custom_gradient"
    for name in {name for case in op.samples for name in case.attrs}
    if any(list(changed(case.attrs[name])) for case in op.samples if name in case.attrs)
)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_an_attribute_that_is_misread_is_seen(attribute: str) -> None:
    op, _, name = attribute.partition(".")
    assert attribute_is_seen(REGISTRY[op], name)


def commutes(op: Op) -> bool:
    """Whether operands of the same type may change places in all samples."""
    for case in op.samples:
        if len(case.types) < 2 or case.types[-1] != case.types[-2]:
            continue
        arrays = conformance.draw(op, case)
        attrs = {k: conformance.bound(v) for k, v in case.attrs.items()}
        swapped = [*arrays[:-2], arrays[-1], arrays[-2]]
        if differs(outputs_of(op, swapped, attrs), outputs_of(op, arrays, attrs)):
            return False
    return True


COMMUTATIVE = {"add", "mul", "maximum", "minimum", "logical_and", "logical_or", "bit_and",
               "bit_or", "bit_xor", "equal", "not_equal"}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [op.name for op in REGISTRY.values() if op.name not in OTHERWISE
     and any(len(c.types) > 1 and c.types[-1] == c.types[-2] for c in op.samples)],
)  # fmt: skip
def test_swapped_operands_are_seen(name: str) -> None:
    assert commutes(REGISTRY[name]) == (name in COMMUTATIVE)
