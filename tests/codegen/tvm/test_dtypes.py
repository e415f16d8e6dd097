"""Every op in every dtype that its type rule allows, as native code; see tests/support/dtypes.py.

One program for each dtype, since compiling takes the time. Elementwise ops share their operands,
which are all pairs of the values at which formulas go wrong, and many ordinary ones; they are
held to units in the last place.
"""

from __future__ import annotations

import numpy as np
import pytest
from conformance import ULP, corners, draw, ulp_distance
from dtypes import LOSSY, VARIANTS, Variant, emit_gradients, has_gradient, sized
from native_graph import check_graph, run_graph

from hornfels.ir import REGISTRY, Builder, evaluate, sugar
from hornfels.ir.graph import Value
from hornfels.ir.settings import settings
from hornfels.ir.types import DTYPES, DType, bf16, f32, type_of

ORDERED = {"reduce_max", "reduce_min", "argmax", "argmin", "cummax", "cummin", "max_pool"}
"""Ops that say what NaN does."""


def of(dtype: DType, elementwise: bool) -> list[Variant]:
    """The variants of a dtype."""
    return [v for v in VARIANTS if v.dtype == dtype and (v.op.kind == "elementwise") == elementwise]


def operands(dtype: DType, count: int, bits: bool = False) -> list[np.ndarray]:
    """Pairs of special values and random ones; `bits`: the second one is a number of bits."""
    rng = np.random.default_rng(count)
    special = corners(dtype)
    found = [np.ascontiguousarray(a.reshape(-1)) for a in np.meshgrid(*[special] * 2)]
    if dtype.is_bool:
        more = rng.random((2, 40)) < 0.5
    elif dtype.is_integer:
        ends = np.iinfo(dtype.numpy)
        more = rng.integers(ends.min, ends.max, (2, 200), dtype.numpy, endpoint=True)
        more[:, ::2] //= dtype.numpy.type(2 ** (dtype.bits // 2))
    else:
        more = np.concatenate([rng.uniform(-2, 2, (2, 200)), rng.uniform(0, 9, (2, 100))], 1)
    found = [np.concatenate([a, b.astype(dtype.numpy)]) for a, b in zip(found, more, strict=True)]
    if bits:
        found[1] = (np.arange(len(found[1])) % dtype.bits).astype(dtype.numpy)
    return found


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_elementwise(dtype: DType) -> None:
    x, y = operands(dtype, 2)
    shift = operands(dtype, 2, bits=True)[1] if dtype.is_integer else y
    condition = np.arange(len(x)) % 3 == 0
    safe = x
    if dtype.is_float:
        with np.errstate(invalid="ignore"):
            safe = np.where(np.abs(x) < 100, x, x.dtype.type(7))
    arrays = {"x": x, "y": y, "shift": shift, "condition": condition, "safe": safe}
    chosen = of(dtype, elementwise=True)
    with Builder("elementwise") as b:
        inputs = {name: b.input(name, type_of(array)) for name, array in arrays.items()}
        outputs, followed = {}, {}  # in a fused kernel, short numbers must be rounded as well
        for variant in chosen:
            name = variant.op.name
            picked = [inputs["x"], inputs["y"]][: len(variant.case.types)]
            if name.startswith("shift"):
                picked[1] = inputs["shift"]
            elif name == "select":
                picked = [inputs["condition"], inputs["x"], inputs["y"]]
            elif name == "cast":
                picked = [_castable(inputs, variant)]
            result = variant.op(*picked, **variant.case.attrs)
            outputs[str(variant)] = result
            is_short = dtype.bits <= 16 and not dtype.is_bool
            if is_short and result.dtype == dtype and name not in ULP:
                followed[f"{variant}-less"] = result < picked[-1]
        graph = b.finish(outputs | followed)
    with settings(denormals="keep"):
        got, expected = run_graph(graph, arrays).outputs, evaluate(graph, arrays).outputs
    for name in followed:
        np.testing.assert_array_equal(got[name], expected[name], name)
    for variant in chosen:
        limit = ULP[variant.op.name] + 1 if variant.op.name in ULP else 0
        one, other = got[str(variant)], np.asarray(expected[str(variant)])
        worst = [i for i in range(len(x)) if ulp_distance(one[i : i + 1], other[i : i + 1]) > limit]
        assert not worst, (
            f"{variant}: of {x[worst[0]]}, {y[worst[0]]} is {one[worst[0]]}, "
            f"not {other[worst[0]]}; {len(worst)} are wrong"
        )


def _castable(inputs: dict[str, Value], variant: Variant) -> Value:
    """Floats beyond the range of an integer have no defined conversion."""
    target = variant.case.attrs["dtype"]
    if not variant.dtype.is_float or target.is_float or target.is_bool:
        return inputs["x"]
    near = inputs["safe"]
    return sugar.unary("abs", near) if target.kind == "uint" else near


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_all_others(dtype: DType) -> None:
    arrays, outputs = {}, {}
    with Builder("others") as b:
        for number, variant in enumerate(of(dtype, elementwise=False)):
            operands = []
            for i, array in enumerate(draw(variant.op, variant.case)):
                if variant.op.name in ORDERED and dtype.is_float:
                    array.reshape(-1)[-2:] = np.nan
                arrays[f"x{number}_{i}"] = array
                operands.append(b.input(f"x{number}_{i}", type_of(array)))
            for i, value in enumerate(variant.op.all(*operands, **variant.case.attrs)):
                outputs[f"{variant}_{number}_{i}".replace("-", "_")] = value
        graph = b.finish(outputs)
    check_graph(graph, arrays, factor=4.0 * max(LOSSY.values()))


@pytest.mark.parametrize("size", [0, 1])
def test_open_sizes(size: int) -> None:
    """A sample of each op, of nothing or of one."""
    arrays, outputs = {}, {}
    with Builder("open") as b:
        for op in REGISTRY.values():
            for case in sized(op, size)[:1]:
                operands = []
                for i, array in enumerate(draw(op, case)):
                    arrays[f"{op.name}{i}"] = array
                    operands.append(b.input(f"{op.name}{i}", type_of(array)))
                for i, value in enumerate(op.all(*operands, **case.attrs)):
                    outputs[f"{op.name}_{i}"] = value
        graph = b.finish(outputs)
    check_graph(graph, arrays, factor=4.0)


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
def test_gradients(dtype: DType) -> None:
    """Those of every op, of what its rule is made of."""
    arrays, outputs = {}, {}
    with Builder("gradients") as b:
        for number, variant in enumerate(VARIANTS):
            if variant.dtype != dtype or not has_gradient(variant):
                continue
            operands = []
            for i, array in enumerate(draw(variant.op, variant.case)):
                arrays[f"x{number}_{i}"] = array
                operands.append(b.input(f"x{number}_{i}", type_of(array)))
            for i, g in enumerate(emit_gradients(variant.op, variant.case, operands)):
                if g is not None:
                    outputs[f"{variant}_{number}_{i}".replace("-", "_")] = g
        graph = b.finish(outputs)
    check_graph(graph, arrays, factor=8.0)
