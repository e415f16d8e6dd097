"""Sorting: every dtype with ties, NaN, infinities and signed zeros, long rows, any axis."""

from __future__ import annotations

import numpy as np
import pytest
from native_graph import check_graph

from hornfels.ir import REGISTRY, Builder
from hornfels.ir.types import DTYPES, DType, type_of

NUMBERS = [d for d in DTYPES.values() if not d.is_bool]


def rows(dtype: DType, *shape: int) -> np.ndarray:
    """Numbers with many ties and all that is special; some at the ends of the range."""
    rng = np.random.default_rng(7)
    if dtype.is_integer:
        ends = np.iinfo(dtype.numpy)
        x = rng.integers(0, 9, shape)
        x = np.where(rng.random(shape) < 0.1, ends.max, x)
        return np.where(rng.random(shape) < 0.1, ends.min, x).astype(dtype.numpy)
    special = np.asarray([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3.0])
    x = np.round(rng.standard_normal(shape) * 4)
    picked = special[rng.integers(0, len(special), shape)]
    return np.where(rng.random(shape) < 0.4, picked, x).astype(dtype.numpy)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_every_dtype(dtype: DType) -> None:
    x = rows(dtype, 3, 70)
    with Builder() as b:
        v = b.input("x", type_of(x))
        outputs = {}
        for axis in (0, 1):
            for descending in (False, True):
                for name in ("sort", "argsort"):
                    key = f"{name}_{axis}_{descending}"
                    outputs[key] = REGISTRY[name](v, axis=axis, descending=descending)
        for k in (1, 5, 40):
            outputs[f"values{k}"], outputs[f"indices{k}"] = REGISTRY["top_k"].all(v, k=k)
        graph = b.finish(outputs)
    got = check_graph(graph, {"x": x}).outputs
    ordered = np.take_along_axis(x, got["argsort_1_False"], 1)
    assert got["sort_1_False"].tobytes() == ordered.tobytes()


def test_long_rows() -> None:
    """Lengths around powers of two, a batch that is split over the cores, a strided axis."""
    rng = np.random.default_rng(3)
    arrays = {f"x{n}": rng.integers(0, n, (2, n)).astype(np.float32) for n in (255, 256, 257, 5000)}
    arrays["batch"] = rng.standard_normal((64, 2000)).astype(np.float32)
    arrays["across"] = rng.standard_normal((300, 40)).astype(np.float64)
    with Builder() as b:
        outputs = {}
        for name, array in arrays.items():
            v = b.input(name, type_of(array))
            axis = 0 if name == "across" else 1
            outputs[name] = REGISTRY["argsort"](v, axis=axis, descending=False)
        v = b.inputs[-2]
        outputs["values"], outputs["best"] = REGISTRY["top_k"].all(v, k=20)
        graph = b.finish({f"y_{k}": v for k, v in outputs.items()})
    check_graph(graph, arrays)
