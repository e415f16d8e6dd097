"""Vector transcendentals as native code: errors in units of the last place, over all floats.

The formulas are held to the same bounds on NumPy in tests/ir/test_scalar.py; here is the machine
code of them, whole vectors and shorter ones, with numbers below the normal ones taken for zero.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from native_graph import run_graph

from hornfels.ir import REGISTRY, Builder
from hornfels.ir.graph import Value
from hornfels.ir.types import DType, bf16, f16, f32, f64

SMALLEST = 2.0**-126
"""What is smaller is zero while native code runs."""


def erf(x: np.ndarray) -> np.ndarray:
    return np.fromiter(map(math.erf, x), np.float64, len(x))


EXACT = {
    "exp": np.exp, "log": np.log, "tanh": np.tanh, "erf": erf, "sin": np.sin, "cos": np.cos,
    "expm1": np.expm1, "log1p": np.log1p, "rsqrt": lambda x: 1 / np.sqrt(x), "sqrt": np.sqrt,
    "sigmoid": lambda x: np.where(x < 0, np.exp(x), 1) / (1 + np.exp(-np.abs(x))),
}  # fmt: skip
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 88.7, 88.8, -87.3, -87.4, -104.0,
           SMALLEST, -SMALLEST, 1e-40, -1e-40, 3.4e38, -3.4e38]  # fmt: skip


def floats() -> np.ndarray:
    """Every 65,537th f32 by its bits, ordinary ones, special values; no multiple of a vector."""
    patterns = np.arange(0, 2**32, 65_537, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ordinary = [np.linspace(-20, 20, 40_000), np.linspace(-1, 1, 20_000), SPECIAL]
    found = np.concatenate([patterns, *(np.asarray(p, np.float32) for p in ordinary)])
    return found[: len(found) // 16 * 16 + 5 - 16] if len(found) % 16 == 0 else found


def results(dtype: DType, x: np.ndarray) -> dict[str, np.ndarray]:
    """What native code gives for each of the functions."""
    with Builder("functions") as b:
        value = b.input("x", dtype(len(x)))
        outputs: dict[str, Value] = {n: REGISTRY[n](value) for n in EXACT}
        graph = b.finish(outputs)
    return dict(run_graph(graph, {"x": x}).outputs)


def flushed(x: np.ndarray) -> np.ndarray:
    """Numbers below the normal ones as zeros of their sign, in f64."""
    wide = x.astype(np.float64)
    return np.where(np.abs(wide) < SMALLEST, np.copysign(0.0, wide), wide)


def test_two_units_in_the_last_place() -> None:
    x = floats()
    found = results(f32, x)
    for name, exact in EXACT.items():
        with np.errstate(all="ignore"):
            want = exact(flushed(x))
            rounded = want.astype(np.float32)
            unit = np.ldexp(1.0, np.frexp(np.abs(want))[1] - 24)
            error = np.abs(found[name].astype(np.float64) - want) / unit
        numbers = np.isfinite(rounded) & (np.abs(want) >= SMALLEST)
        worst = int(np.argmax(np.where(numbers, error, 0)))
        assert error[worst] <= 2.0, f"{name}({x[worst]!r}) is off by {error[worst]} ulp"
        tiny = np.abs(want) < SMALLEST
        assert np.all(np.abs(found[name][tiny]) <= SMALLEST), name
        rest = ~numbers & ~tiny
        np.testing.assert_array_equal(found[name][rest], rounded[rest], err_msg=name)
        zero = want == 0
        np.testing.assert_array_equal(np.signbit(found[name][zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_short_floats_are_rounded_results_of_f32(dtype: DType) -> None:
    """All of them, by way of f32."""
    x = np.arange(2**16, dtype=np.uint16).view(dtype.numpy)
    found = results(dtype, x)
    wide = results(f32, x.astype(np.float32))
    for name in EXACT:
        with np.errstate(all="ignore"):
            want = flushed(wide[name].astype(dtype.numpy).astype(np.float32))
        got = flushed(found[name].astype(np.float32))
        np.testing.assert_array_equal(got, want, err_msg=name)


def test_f64_to_its_last_digits() -> None:
    x = np.concatenate([np.linspace(-30, 30, 3_001), np.geomspace(1e-300, 1e300, 1_001), SPECIAL])
    found = results(f64, x)
    for name, exact in EXACT.items():
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(found[name], exact(x), rtol=4e-16, atol=0, err_msg=name)


def test_powers() -> None:
    rng = np.random.default_rng(0)
    special = flushed(np.asarray([*SPECIAL, 0.5, 2.0, -2.5, 3.0, -3.0], np.float32))
    pairs = [np.stack([np.exp(rng.uniform(-80, 80, 9_000)), rng.uniform(-5, 5, 9_000)]),
             np.stack([rng.uniform(-4, 4, 9_000), rng.integers(-30, 30, 9_000)]),
             np.asarray(np.meshgrid(special, special)).reshape(2, -1)]  # fmt: skip
    x, y = np.concatenate(pairs, axis=1).astype(np.float32)
    with Builder("powers") as b:
        graph = b.finish(
            {"y": REGISTRY["pow"](b.input("x", f32(len(x))), b.input("p", f32(len(x))))}
        )
    found = run_graph(graph, {"x": x, "p": y}).outputs["y"]
    with np.errstate(all="ignore"):
        want = np.power(flushed(x), flushed(y))
        rounded = want.astype(np.float32)
        unit = np.ldexp(1.0, np.frexp(np.abs(want))[1] - 24)
        error = np.abs(found.astype(np.float64) - want) / unit
    numbers = np.isfinite(rounded) & (np.abs(want) >= SMALLEST)
    assert error[numbers].max() <= 2.0
    rest = ~numbers & ~(np.abs(want) < SMALLEST)
    bad = rest & ~((found == rounded) | (np.isnan(found) & np.isnan(rounded)))
    assert not bad.any(), list(zip(x[bad], y[bad], found[bad], rounded[bad], strict=True))[:5]
