"""Scatters with repeated and wrong indices, every dtype and rule, in vectors and over threads."""

from __future__ import annotations

import numpy as np
import pytest
from native_graph import check_graph, compiled

from hornfels.ir import REGISTRY, Builder
from hornfels.ir.ops.scatter import COMBINE
from hornfels.ir.types import DTYPES, type_of


def numbers(rng: np.random.Generator, dtype: np.dtype, *shape: int) -> np.ndarray:
    """Few different numbers, NaN among the floats."""
    if dtype.kind in "iub":
        return rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    x = rng.choice([-2.0, -1.0, 0.5, 1.0, np.nan], shape, p=[0.3, 0.2, 0.2, 0.29, 0.01])
    return x.astype(dtype)


@pytest.mark.parametrize("combine", [*COMBINE, "add"])
def test_every_dtype(combine: str) -> None:
    rng = np.random.default_rng(2)
    arrays, outputs = {}, {}
    with Builder() as b:
        for dtype in DTYPES.values():
            if dtype.is_bool and combine != "set":
                continue
            at = rng.integers(-3, 12, (2, 11)).astype(np.int32)
            x, updates = numbers(rng, dtype.numpy, 2, 9, 5), numbers(rng, dtype.numpy, 2, 22, 5)
            arrays |= {f"x_{dtype}": x, f"u_{dtype}": updates, f"i_{dtype}": at}
            v, u, i = (b.input(f"{k}_{dtype}", type_of(arrays[f"{k}_{dtype}"])) for k in "xui")
            u = u.reshape((2, 2, 11, 5))
            if combine == "add":
                outputs[f"y_{dtype}"] = REGISTRY["scatter_add"](v, i, u, axis=1)
            else:
                outputs[f"y_{dtype}"] = REGISTRY["scatter"](v, i, u, axis=1, combine=combine)
        graph = b.finish(outputs)
    check_graph(graph, arrays, factor=4.0)


@pytest.mark.parametrize("name", ["rows", "along"])
def test_much_work(name: str) -> None:
    """Blocks, or parts of rows, go to different threads; the result does not depend on that."""
    rng = np.random.default_rng(4)
    arrays, outputs = {}, {}
    for key, shape, axis in (("wide", (50, 3000), 0), ("many", (40, 30, 20), 1)):
        count = 600
        updates = (*shape[:axis], count, *shape[axis + 1 :])
        at = rng.integers(0, shape[axis], updates if name == "along" else (count,))
        arrays[f"x_{key}"] = rng.standard_normal(shape).astype(np.float32)
        arrays[f"i_{key}"] = at.astype(np.int32)
        arrays[f"u_{key}"] = rng.standard_normal(updates).astype(np.float32)
    with Builder() as b:
        for key, axis in (("wide", 0), ("many", 1)):
            x, i, u = (b.input(f"{k}_{key}", type_of(arrays[f"{k}_{key}"])) for k in "xiu")
            op = REGISTRY["scatter_add_along" if name == "along" else "scatter_add"]
            outputs[key] = op(x, i, u, axis=axis)
        graph = b.finish(outputs)
    check_graph(graph, arrays, factor=4.0)


def test_the_last_of_several_stays_and_strangers_are_dropped() -> None:
    x = np.zeros((4, 40), np.float32)
    at = np.asarray([1, 3, 1, -1, 4, 3], np.int32)
    updates = np.repeat(np.arange(1.0, 7.0, dtype=np.float32)[:, None], 40, 1)
    with Builder() as b:
        operands = [b.input(n, type_of(a)) for n, a in (("x", x), ("i", at), ("u", updates))]
        graph = b.finish({"y": REGISTRY["scatter"](*operands, axis=0, combine="set")})
    got = check_graph(graph, {"x": x, "i": at, "u": updates}).outputs["y"]
    assert got[:, 17].tolist() == [0.0, 3.0, 0.0, 6.0]


@pytest.mark.parametrize("name", ["scatter", "scatter_add", "scatter_add_along"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_a_state_is_written_over(name: str, dtype: str) -> None:
    """It lies where it was, and what reads it as it was comes before."""
    rng = np.random.default_rng(11)
    table = numbers(rng, np.dtype(np.int8), 6, 40).astype(DTYPES[dtype].numpy)
    along = name == "scatter_add_along"
    at = rng.integers(0, 6, (4, 40) if along else (4,)).astype(np.int32)
    arrays = {"table": table, "at": at, "updates": table[:4]}
    with Builder() as b:
        state, i, u = (
            b.variable("table", type_of(table)),
            *(b.input(k, type_of(arrays[k])) for k in ("at", "updates")),
        )
        attrs = {"combine": "set"} if name == "scatter" else {}
        new = REGISTRY[name](state, i, u, axis=0, **attrs)
        graph = b.finish({"before": state + state}, [(state, new)])
    check_graph(graph, arrays)
    plan = compiled(graph).plan
    assert not plan.copies
    assert [plan.slots[v].space for c in plan.calls for v in c.outputs] == ["output", "state"]
