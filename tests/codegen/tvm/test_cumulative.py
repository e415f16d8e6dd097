"""Running totals over long and many lines, split over threads either way; special values."""

from __future__ import annotations

import numpy as np
import pytest
from native_graph import check_graph

from hornfels.ir import REGISTRY, Builder
from hornfels.ir.types import DTYPES, DType, bf16, f32, i8, type_of

SHAPES = {"one": (40_000,), "rows": (64, 2000), "lines": (1000, 70), "wide": (600, 3000),
          "middle": (3, 50, 33)}  # fmt: skip
"""Axis 1 of "rows" and "middle", else axis 0; "rows" and "wide" are worth several threads."""


@pytest.mark.parametrize("name", ["cumsum", "cummax", "linear_recurrence"])
def test_long_lines(name: str) -> None:
    rng = np.random.default_rng(5)
    arrays, outputs = {}, {}
    with Builder() as b:
        for key, shape in SHAPES.items():
            operands = []
            for i in range(1 + (name == "linear_recurrence")):
                arrays[f"{key}{i}"] = rng.uniform(-1, 1, shape).astype(np.float32)
                operands.append(b.input(f"{key}{i}", f32(*shape)))
            axis = int(key in ("rows", "middle"))
            for reverse in (False, True):
                outputs[f"{key}_{reverse}"] = REGISTRY[name](*operands, axis=axis, reverse=reverse)
        graph = b.finish(outputs)
    check_graph(graph, arrays, factor=20.0)


@pytest.mark.parametrize("name", ["cummax", "cummin", "cumsum", "cumprod"])
def test_every_dtype(name: str) -> None:
    """NaN and infinities stay from where they are met, integers wrap around."""
    rng = np.random.default_rng(6)
    arrays, outputs = {}, {}
    with Builder() as b:
        for dtype in DTYPES.values():
            if dtype.is_bool:
                continue
            x = _numbers(rng, dtype, name)
            arrays[f"x_{dtype}"] = x
            v = b.input(f"x_{dtype}", type_of(x))
            outputs[f"y_{dtype}"] = REGISTRY[name](v, axis=1, reverse=False)
        graph = b.finish(outputs)
    got = check_graph(graph, arrays).outputs
    assert np.isnan(got["y_f32"]).any()


def _numbers(rng: np.random.Generator, dtype: DType, name: str) -> np.ndarray:
    if dtype.is_integer:
        ends = np.iinfo(dtype.numpy)
        return rng.integers(ends.min, ends.max, (4, 30), endpoint=True, dtype=dtype.numpy)
    x = rng.choice([-1.0, 0.5, 2.0, 1.5], (4, 30))
    x[0, 17], x[1, 4], x[2, 9] = np.nan, np.inf, -np.inf
    return x.astype(dtype.numpy)


def test_half_precision_sums_are_made_in_f32() -> None:
    """Sums of 1/256 in bf16 would stop to grow at 1."""
    x = np.full((600,), 1 / 256, bf16.numpy)
    wraps = np.full((3,), 100, i8.numpy)
    with Builder() as b:
        outputs = {
            "y": REGISTRY["cumsum"](b.input("x", bf16(600)), axis=0, reverse=False),
            "w": REGISTRY["cumsum"](b.input("wraps", i8(3)), axis=0, reverse=False),
        }
        graph = b.finish(outputs)
    got = check_graph(graph, {"x": x, "wraps": wraps}).outputs
    assert abs(float(got["y"][-1]) - 600 / 256) < 0.02
    assert got["w"].tolist() == [100, -56, 44]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f64", "i32", "i64", "u8", "bf16"])
def test_sums_by_vectors_and_the_rest_of_a_line(dtype: str, reverse: bool) -> None:
    rng = np.random.default_rng(7)
    arrays, outputs = {}, {}
    with Builder() as b:
        for size in (0, 1, 7, 8, 15, 16, 17, 33, 50):
            x = rng.integers(0, 5, (3, size)).astype(DTYPES[dtype].numpy)
            arrays[f"x{size}"] = x
            v = b.input(f"x{size}", type_of(x))
            outputs[f"y{size}"] = REGISTRY["cumsum"](v, axis=1, reverse=reverse)
        graph = b.finish(outputs)
    check_graph(graph, arrays)
