"""Every op on every dtype that its type rule allows, in ONNX Runtime against the oracle.

All variants of a dtype make one model, since making a session takes longer than running it. The
symbolic sizes of the samples stay symbolic in it. Control flow is in `test_control.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import conformance
import numpy as np
import onnxruntime as ort
import pytest
from onnx_run import run_graph, session_of

from hornfels.codegen.onnx import lower
from hornfels.codegen.onnx.lowering import LOWERINGS
from hornfels.ir import REGISTRY, Builder, Graph, evaluate
from hornfels.ir.errors import HornfelsError
from hornfels.ir.op import Case, Op, Reason
from hornfels.ir.types import DTYPES, DType, TensorType, boolean, f32, i8, i16, type_of

TOLERANCE = {"f64": 1e-13, "f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2}
"""Allowed difference, relative to 1 or to the number if that is larger; integers are exact."""

SMALL = {"shift_left", "shift_right", "pow"}
"""Ops that are not defined on all integers."""

SAMPLES = 3
"""Samples of an op that run for each dtype."""


@dataclass
class Variant:
    """An op on operands of certain types, and arrays for them."""

    op: Op
    types: tuple[TensorType, ...]
    attrs: dict[str, Any]
    arrays: list[np.ndarray]

    def __str__(self) -> str:
        return f"{self.op.name}{list(map(str, self.types))} {self.attrs}"


def is_allowed(op: Op, types: tuple[TensorType, ...], attrs: dict[str, Any]) -> bool:
    try:
        op.infer(*types, **attrs)
    except HornfelsError:
        return False
    return True


def attributes(case: Case) -> Iterator[dict[str, Any]]:
    """The sample's attributes, with every dtype in place of one that is an attribute."""
    names = [k for k, v in case.attrs.items() if isinstance(v, DType)]
    if not names:
        yield dict(case.attrs)
    for name in names:
        yield from ({**case.attrs, name: dtype} for dtype in DTYPES.values())


def typings(case: Case, dtype: DType) -> Iterator[tuple[TensorType, ...]]:
    """The sample's types with `dtype` in place of each of its dtypes."""
    for old in dict.fromkeys(t.dtype for t in case.types):
        yield tuple(t.with_dtype(dtype) if t.dtype == old else t for t in case.types)


def variants(dtype: DType) -> Iterator[Variant]:
    """The first samples of each op, and the corners of the elementwise ones."""
    for op in REGISTRY.values():
        if op.kind == "region" or isinstance(op.onnx, Reason):
            continue
        sizable = [case for case in op.samples if not any(0 in t.shape for t in case.types)]
        for case in chosen(sizable):
            for attrs in attributes(case):
                for types in typings(case, dtype) if case.types else ((),):
                    if is_allowed(op, types, attrs):
                        yield Variant(op, types, attrs, drawn(op, case, types))
                        if dtype.is_integer and op.name not in SMALL:
                            yield Variant(op, types, attrs, extreme(types))
        if op.kind == "elementwise":
            yield from corners(op, sizable[0], dtype)


def chosen(cases: list[Case]) -> list[Case]:
    """The first samples, and the first for each choice of attributes that are names or flags."""
    first = {
        tuple((k, v) for k, v in case.attrs.items() if isinstance(v, str | bool)): case
        for case in reversed(cases)
    }
    return [c for i, c in enumerate(cases) if i < SAMPLES or any(c is f for f in first.values())]


def drawn(op: Op, case: Case, types: tuple[TensorType, ...]) -> list[np.ndarray]:
    """Operands of a sample on other dtypes; unsigned integers from 0 up."""
    integers = case.integers
    if integers and any(t.dtype.kind == "uint" for t in types):
        integers = (max(integers[0], 0), integers[1])
    return conformance.draw(op, replace(case, types=types, integers=integers))


def extreme(types: tuple[TensorType, ...]) -> list[np.ndarray]:
    """Integers from the whole range of their dtype, half of i64 from that of 33 bits, where ONNX
    Runtime compares wrongly; whatever else there is, small."""
    rng, arrays = np.random.default_rng(zlib.crc32(str(types).encode())), []
    for t in types:
        shape = t.substitute(conformance.SIZES).shape
        info = np.iinfo(t.dtype.numpy if t.dtype.is_integer else np.int8)
        numbers = rng.integers(info.min, info.max, shape, info.dtype, endpoint=True)
        if info.bits == 64:
            numbers = np.where(rng.random(shape) < 0.5, numbers >> 31, numbers)
        arrays.append((numbers if t.dtype.is_integer else numbers // 20).astype(t.dtype.numpy))
    return arrays


def corners(op: Op, case: Case, dtype: DType) -> Iterator[Variant]:
    """All combinations of zeros, infinities, NaN and extremes, where the oracle defines them."""
    for attrs in attributes(case):
        for types in typings(case, dtype):
            vectors = tuple(t.with_shape((1,)) for t in types)
            if not is_allowed(op, vectors, attrs):
                continue
            arrays = conformance.corner_operands(op, replace(case, types=vectors, attrs=attrs))
            yield Variant(op, tuple(map(type_of, arrays)), attrs, arrays)


CHUNK = 100
"""Variants in one model; the time that a session takes grows faster than its graph."""


def model_of(found: list[Variant]) -> Graph:
    """One graph of all variants."""
    outputs = {}
    with Builder("variants") as b:
        for i, variant in enumerate(found):
            attrs = variant.attrs
            if not any(t.symbols for t in variant.types):
                attrs = {k: conformance.bound(v) for k, v in attrs.items()}
            operands = [b.input(f"x{i}_{k}", t) for k, t in enumerate(variant.types)]
            results = variant.op.all(*operands, **attrs)
            outputs |= {f"y{i}_{k}": v for k, v in enumerate(results)}
        return b.finish(outputs)


def wrong_results(found: list[Variant], session: ort.InferenceSession | None = None) -> list[str]:
    """What is wrong with which variant."""
    graph = model_of(found)
    arrays = {f"x{i}_{k}": a for i, v in enumerate(found) for k, a in enumerate(v.arrays)}
    results = run_graph(graph, arrays, session)
    wrong = []
    for name, wanted in evaluate(graph, arrays).outputs.items():
        variant = found[int(name[1 : name.index("_")])]
        if results[name].shape != wanted.shape:
            wrong.append(f"{variant}: {results[name].shape}, not {wanted.shape}")
            continue
        limit = TOLERANCE.get(type_of(wanted).dtype.name, 0)
        x, y = (
            a if a.dtype.kind in "iub" else a.astype(np.float64) for a in (results[name], wanted)
        )
        with np.errstate(all="ignore"):
            same = np.isclose(x, y, limit, limit, equal_nan=True) if limit else x == y
        if not same.all():
            at = tuple(np.argwhere(~same)[0])
            operands = [a[at] for a in variant.arrays if a.shape == wanted.shape]
            wrong.append(f"{variant}: of {operands} {x[at]}, not {y[at]}")
    return wrong


def in_chunks(found: list[Variant]) -> Iterator[list[Variant]]:
    return (found[i : i + CHUNK] for i in range(0, len(found), CHUNK))


@pytest.mark.parametrize("dtype", [pytest.param(d, id=d.name) for d in DTYPES.values()])
def test_every_op_on_every_dtype(dtype):
    found = list(variants(dtype))
    assert len(found) > 100
    assert not [wrong for chunk in in_chunks(found) for wrong in wrong_results(chunk)]


def is_defined(op: Op, case: Case) -> bool:
    """Whether the type rule takes the sample with sizes for the symbols."""
    types = tuple(t.substitute(conformance.SIZES) for t in case.types)
    return is_allowed(op, types, {k: conformance.bound(v) for k, v in case.attrs.items()})


def test_one_model_serves_all_sizes_of_every_op(monkeypatch):
    """Each sample with a symbol, in models that stay symbolic, at several sizes, 0 included."""
    cases = [
        (op, case) for op in REGISTRY.values() for case in op.samples
        if any(t.symbols for t in case.types) and not isinstance(op.onnx, Reason)
    ]  # fmt: skip
    monkeypatch.setitem(conformance.SIZES, "N", 0)
    cases = [(op, case) for op, case in cases if is_defined(op, case)]
    assert len(cases) > 80
    for start in range(0, len(cases), CHUNK):
        session = None
        for size in (3, 1, 6, 0):
            monkeypatch.setitem(conformance.SIZES, "N", size)
            chunk = [
                Variant(op, case.types, dict(case.attrs), conformance.draw(op, case))
                for op, case in cases[start : start + CHUNK]
            ]
            session = session or session_of(lower(model_of(chunk)))
            assert not wrong_results(chunk, session)


# --- the checks themselves -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["take_along", "cumsum", "reverse"])
def test_a_kernel_that_is_wrong_for_one_dtype_is_caught(monkeypatch, name):
    sound = LOWERINGS[name]

    def off(ctx, node):
        t = sound(ctx, node)
        if node.output.dtype != i8:
            return t
        return replace(t, name=ctx.e.op("BitwiseXor", t.name, ctx.e.const(1, i8)))

    monkeypatch.setitem(LOWERINGS, name, off)
    for dtype in (i8, i16):
        found = [v for v in variants(dtype) if v.op.name == name]
        wrong = wrong_results(found)
        assert bool(wrong) == (dtype == i8)
        assert all(message.startswith(name) for message in wrong)


def test_a_kernel_that_is_wrong_for_nan_is_caught(monkeypatch):
    def off(ctx, node):
        t = ctx[node.inputs[0]]
        infinite = ctx.e.op("IsInf", t.name, dtype=boolean)
        return replace(t, name=ctx.e.logical_not(infinite), type=node.output.type)

    monkeypatch.setitem(LOWERINGS, "is_finite", off)
    wrong = wrong_results([v for v in variants(f32) if v.op.name == "is_finite"])
    assert len(wrong) == 1
    assert "nan" in wrong[0]
