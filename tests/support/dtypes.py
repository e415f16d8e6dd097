"""Every op in every dtype that its type rule allows: variants of its samples.

A variant of a sample has another dtype in place of that of its first operand that is a number, in
all operands and attributes. It counts if the type rule accepts it, so nothing is listed by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from conformance import SIZES, bound, draw

from hornfels.ir import REGISTRY, Builder, evaluate, gradients
from hornfels.ir.errors import HornfelsError
from hornfels.ir.graph import Value
from hornfels.ir.op import Case, Op, Reason
from hornfels.ir.types import DTYPES, DType, TensorType, as_dtype, f64, i64

TOLERANCE = {"f32": 2e-6, "f16": 2e-3, "bf16": 1.6e-2, "f64": 1e-12}
"""Of a result relative to itself and the mean, against the same in f64."""

LOSSY = {"reduce_prod": 4.0, "cumprod": 4.0, "linear_recurrence": 8.0, "pow": 4.0}
"""Ops whose results differ by more: by which factor."""

BITS = {"bitcast", "rng_bits"}
"""Ops that do not compute the same numbers in every dtype."""


def static(case: Case, sizes: dict[str, int] = SIZES) -> Case:
    """A sample with sizes in place of symbols."""
    types = tuple(t.substitute(sizes) for t in case.types)
    return replace(case, types=types, attrs={k: bound(v, sizes) for k, v in case.attrs.items()})


@dataclass(frozen=True)
class Variant:
    """An op, the dtype that it is tried in, and a sample of that."""

    op: Op
    dtype: DType
    case: Case

    def __str__(self) -> str:
        target = self.case.attrs.get("dtype")
        return f"{self.op.name}-{self.dtype}" + (f"-{target}" if target else "")


def base_dtype(case: Case) -> DType:
    """The dtype that variants replace."""
    dtypes = [t.dtype for t in case.types]
    for value in case.attrs.values():
        if isinstance(value, DType):
            dtypes.append(value)
        if isinstance(value, np.ndarray):
            dtypes.append(as_dtype(value.dtype))
    return next((d for d in dtypes if not d.is_bool), dtypes[0])


def converted(case: Case, old: DType, new: DType) -> Case:
    """A sample with a dtype in place of another."""

    def attribute(value: Any) -> Any:
        if isinstance(value, DType) and value == old:
            return new
        if isinstance(value, np.ndarray) and value.dtype == old.numpy:
            with np.errstate(invalid="ignore"):
                return value.astype(new.numpy)
        return value

    types = tuple(t.with_dtype(new) if t.dtype == old else t for t in case.types)
    return replace(case, types=types, attrs={k: attribute(v) for k, v in case.attrs.items()})


def is_accepted(op: Op, case: Case) -> bool:
    """Whether the type rule takes a sample."""
    try:
        op.infer(*case.types, **case.attrs)
    except HornfelsError:
        return False
    return True


def variants(op: Op) -> list[Variant]:
    """For each dtype that the op allows, one sample that is not empty and has no symbols.

    Where an attribute names another dtype, that takes all dtypes as well.
    """
    found: dict[tuple[DType, Any], Variant] = {}
    if op.kind == "region":  # a body has dtypes of its own
        return []
    for sample in map(static, op.samples):
        outputs = op.infer(*sample.types, **sample.attrs)
        if any(0 in t.shape for t in (*sample.types, *outputs)):
            continue
        old = base_dtype(sample)
        for new in DTYPES.values():
            case = converted(sample, old, new)
            targets = DTYPES.values() if sample.types and "dtype" in case.attrs else [None]
            for target in targets:
                attrs = case.attrs | ({} if target is None else {"dtype": target})
                chosen = replace(case, attrs=attrs)
                if (new, target) not in found and is_accepted(op, chosen):
                    found[new, target] = Variant(op, new, chosen)
    return list(found.values())


VARIANTS = [variant for op in REGISTRY.values() for variant in variants(op)]


def sized(op: Op, size: int) -> list[Case]:
    """The samples with symbols, of that size; those that the type rule takes."""
    symbolic = [c for c in op.samples if any(t.symbols for t in c.types) or _has_symbols(c.attrs)]
    cases = [static(c, dict.fromkeys(SIZES, size)) for c in symbolic]
    return [c for c in cases if is_accepted(op, c)]


def _has_symbols(attrs: dict[str, Any]) -> bool:
    return any(str(bound(v)) != str(v) for v in attrs.values())


# --- values ----------------------------------------------------------------------------------


def widest(dtype: DType) -> DType | None:
    """The dtype in which a result is exact enough to be compared with; None for bool."""
    return None if dtype.is_bool else f64 if dtype.is_float else i64


def check_against_widest(variant: Variant) -> None:
    """The oracle gives what it gives in f64 or i64, rounded or wrapped around."""
    op, case, dtype = variant.op, variant.case, variant.dtype
    wide = widest(dtype)
    if wide is None or op.name in BITS:
        return
    wide_case = converted(case, dtype, wide)
    if not is_accepted(op, wide_case):
        return
    arrays = draw(op, case)
    wide_arrays = [a.astype(t.dtype.numpy) for a, t in zip(arrays, wide_case.types, strict=True)]
    got = op.evaluate(*arrays, **case.attrs)
    expected = op.evaluate(*wide_arrays, **wide_case.attrs)
    for x, y in zip(got, expected, strict=True):
        limit = TOLERANCE.get(as_dtype(x.dtype).name, 0.0) * LOSSY.get(op.name, 1.0)
        assert _error(x, y) <= limit, f"{variant} {case.types}: {x} is not {y}"


def _error(got: np.ndarray, wide: np.ndarray) -> float:
    if got.dtype.kind in "biu":
        return 0.0 if np.array_equal(got, wide.astype(got.dtype)) else np.inf
    x, y = got.astype(np.float64), wide.astype(np.float64)
    finite = np.abs(y[np.isfinite(y)])
    scale = np.abs(y) + (finite.mean() if finite.size else 0.0)
    with np.errstate(all="ignore"):
        distance = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y) / scale)
    return float(np.max(np.where(np.isnan(distance), np.inf, distance), initial=0.0))


# --- gradients -------------------------------------------------------------------------------


def has_gradient(variant: Variant) -> bool:
    """Whether there is a gradient in a dtype to be compared with that in f64."""
    op, case, dtype = variant.op, variant.case, variant.dtype
    if isinstance(op.vjp, Reason) or not case.differentiable or dtype.bits == 64:
        return False
    outputs = op.infer(*case.types, **case.attrs)
    return all(any(t.dtype.is_float for t in side) for side in (case.types, outputs))


def check_gradient_dtype(variant: Variant) -> None:
    """The gradient has the operand's dtype and is that of f64, as far as the dtype can say."""
    op, case, dtype = variant.op, variant.case, variant.dtype
    wide_case = converted(case, dtype, f64)
    arrays = draw(op, case)
    wide_arrays = [a.astype(t.dtype.numpy) for a, t in zip(arrays, wide_case.types, strict=True)]
    pairs = zip(_gradients(op, case, arrays), _gradients(op, wide_case, wide_arrays), strict=True)
    for i, (x, y) in enumerate(pairs):
        assert (x is None) == (y is None), f"{variant}: a gradient in one dtype alone"
        if x is not None and y is not None:
            assert x.dtype == dtype.numpy, f"{variant}: the gradient is {x.dtype}"
            error = _error(x, y)
            limit = 8 * TOLERANCE[dtype.name] * LOSSY.get(op.name, 1.0)
            assert error <= limit, f"{variant} {case.types} {i}: off by {error}"


def emit_gradients(op: Op, case: Case, operands: list[Value]) -> list[Value | None]:
    """Derivatives of the sum of the floating-point results with fixed weights."""
    loss: Any = None
    for out in op.all(*operands, **case.attrs):
        if out.dtype.is_float:
            term = (out * _weights(out.type)).sum() if out.ndim else out
            loss = term if loss is None else loss + term
    return gradients(loss, [v for v in operands if v.dtype.is_float])


def _gradients(op: Op, case: Case, arrays: list[np.ndarray]) -> list[np.ndarray | None]:
    with Builder(op.name) as b:
        operands = [b.input(f"x{i}", t) for i, t in enumerate(case.types)]
        grads = emit_gradients(op, case, operands)
        named = {f"g{i}": g for i, g in enumerate(grads) if g is not None}
        graph = b.finish(named)
    found = evaluate(graph, {f"x{i}": a for i, a in enumerate(arrays)}).outputs if named else {}
    return [found.get(f"g{i}") for i in range(len(grads))]


def _weights(x: TensorType) -> np.ndarray:
    """Numbers that every dtype holds exactly."""
    size = int(np.prod(x.shape))
    return (np.arange(size) % 5 - 1.5).reshape(x.shape).astype(x.dtype.numpy)
