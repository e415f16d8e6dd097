"""The polynomials of ir/scalar.py: their error in ulp, special values, and the random bits."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scalar_arrays import NumpyMath, on_arrays

from hornfels.ir import REGISTRY, elementary, scalar
from hornfels.ir.ops.constant import threefry
from hornfels.ir.types import f32, u32


def _erf(x: np.ndarray) -> np.ndarray:
    return np.fromiter(map(math.erf, x), np.float64, len(x))


def _erfc(x: np.ndarray) -> np.ndarray:
    return np.fromiter(map(math.erfc, x), np.float64, len(x))


def _erf_inv(x: np.ndarray) -> np.ndarray:
    return np.asarray(REGISTRY["erf_inv"].numpy(x))


@dataclass(frozen=True)
class Bound:
    """The function in f64, the range that is sampled densely, and the largest error allowed."""

    exact: Callable[[np.ndarray], np.ndarray]
    low: float
    high: float
    ulp: float
    samples: int = 400_000
    least: float = -math.inf  # what is below is compared elsewhere
    separate: float = 0.0  # the largest error without fused multiply-adds, if that is another


BOUNDS = {
    "exp": Bound(np.exp, -104, 89, 1.1),
    "expm1": Bound(np.expm1, -20, 89, 1.5),
    "log": Bound(np.log, 1e-3, 10, 1.0),
    "log1p": Bound(np.log1p, -0.9999, 5, 1.0),
    "tanh": Bound(np.tanh, -10, 10, 1.9, separate=2.5),
    "sigmoid": Bound(lambda x: 1 / (1 + np.exp(-x)), -88, 20, 2.0, least=-87.3),
    "erf": Bound(_erf, -4.2, 4.2, 2.0, samples=100_000),
    "sin": Bound(np.sin, -20, 20, 1.5),
    "cos": Bound(np.cos, -20, 20, 1.5),
    "tan": Bound(np.tan, -20, 20, 3.0),
    "asin": Bound(np.arcsin, -1.01, 1.01, 2.0),
    "acos": Bound(np.arccos, -1.01, 1.01, 2.0),
    "atan": Bound(np.arctan, -10, 10, 2.5),
    "sinh": Bound(np.sinh, -90, 90, 2.5),
    "cosh": Bound(np.cosh, -90, 90, 2.0),
    "asinh": Bound(np.arcsinh, -20, 20, 2.0),
    "acosh": Bound(np.arccosh, 0.9, 20, 2.0),
    "atanh": Bound(np.arctanh, -1.01, 1.01, 2.0),
    "sqrt": Bound(np.sqrt, 0, 10, 0.5),
    "rsqrt": Bound(lambda x: 1 / np.sqrt(x), 1e-3, 10, 1.5),
    "exp2": Bound(np.exp2, -152, 129, 1.5),
    "log2": Bound(np.log2, 1e-3, 10, 2.0),
    "log10": Bound(np.log10, 1e-3, 10, 2.0),
    "cbrt": Bound(np.cbrt, -10, 10, 1.0),
    "erfc": Bound(_erfc, -4, 10.5, 6.0, samples=100_000),
    "erf_inv": Bound(_erf_inv, -1.01, 1.01, 4.0, samples=20_000),
}


def floats(name: str, bound: Bound) -> np.ndarray:
    """A dense sample of the range, and of all f32 bit patterns, infinities and NaN included."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    patterns = rng.integers(0, 2**32, bound.samples, dtype=np.uint64).astype(np.uint32)
    small = rng.standard_normal(bound.samples // 4) * 0.3
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 2.0**-126, 1e-40, -1e-40]
    parts = [np.linspace(bound.low, bound.high, bound.samples), small, np.asarray(special)]
    return np.concatenate([*(p.astype(np.float32) for p in parts), patterns.view(np.float32)])


def errors_in_ulp(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance to the exact result in units of the last place of an f32 of its size.

    Where the exact result is no f32 number (infinite, NaN, too large), 0 if `got` agrees with
    its rounding, else infinity.
    """
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        exponent = np.frexp(np.abs(exact))[1]
        unit = np.ldexp(1.0, np.maximum(exponent - 24, -149))
        distance = np.abs(got.astype(np.float64) - exact) / unit
    agrees = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    finite = np.isfinite(rounded) & np.isfinite(got)
    return np.where(finite, distance, np.where(agrees, 0.0, np.inf))


def function_of(name: str) -> Callable[..., object]:
    """The `scalar` of the op of that name."""
    found = REGISTRY[name].scalar
    assert found is not None
    return found


def worst_error(name: str, contract: bool) -> tuple[float, float]:
    """The largest error in ulp, and where."""
    bound = BOUNDS[name]
    x = floats(name, bound)
    x = x[~(x < bound.least)]
    with np.errstate(all="ignore"):
        exact = bound.exact(x.astype(np.float64))
    errors = errors_in_ulp(on_arrays(function_of(name), x, contract=contract), exact)
    worst = int(np.argmax(errors))
    return float(errors[worst]), float(x[worst])


@pytest.mark.parametrize("contract", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("name", BOUNDS)
def test_error_bound(name: str, contract: bool) -> None:
    error, where = worst_error(name, contract)
    limit = BOUNDS[name].ulp
    if not contract:
        limit = BOUNDS[name].separate or limit
    assert error <= limit, f"{name}({where!r}) is off by {error} ulp"
    assert error > limit / 2, f"the bound of {name} is loose: {error}"


@pytest.mark.parametrize(
    ("table", "index", "names"),
    [
        ("EXP", 0, ["exp", "sigmoid", "cosh", "exp2"]),
        ("_EXPM1", 0, ["expm1"]),
        ("_TANH", 0, ["tanh"]),
        ("_LOG", 0, ["log", "log1p"]),
        ("_ERF_SMALL", 0, ["erf"]),
        ("_ERF_LARGE", 3, ["erf"]),
        ("_SIN", 0, ["sin", "cos", "tan"]),
        ("_COS", 0, ["sin", "cos", "tan"]),
        ("_TWO_OVER_PI", 0, ["sin", "cos", "tan"]),
        ("_ASIN", 0, ["asin", "acos"]),
        ("_ATAN", 0, ["atan"]),
        ("_ERFC", 0, ["erfc"]),
        ("_ERF_INV_NEAR", 0, ["erf_inv"]),
        ("_ERF_INV_FAR", 0, ["erf_inv"]),
    ],
)
def test_slightly_wrong_coefficient_breaks_the_bound(
    table: str, index: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = scalar if hasattr(scalar, table) else elementary
    coefficients = list(getattr(module, table))
    coefficients[index] *= 1 + (1e-3 if table == "_ERF_LARGE" else 1e-5)  # small beside 1
    monkeypatch.setattr(module, table, tuple(coefficients))
    for name in names:
        assert worst_error(name, contract=False)[0] > BOUNDS[name].ulp


def test_error_measure_sees_one_unit() -> None:
    exact = np.asarray([1.5, 1e-45, np.inf, 1e300])
    with np.errstate(over="ignore"):
        right = exact.astype(np.float32)
    assert errors_in_ulp(right, exact).max() < 0.5
    wrong = np.asarray([np.nextafter(np.float32(1.5), np.float32(2)), 3e-45, 3e38, np.nan])
    assert np.all(errors_in_ulp(wrong.astype(np.float32), exact) >= 0.99)


SPECIAL = {
    "exp": [(-math.inf, 0.0), (math.inf, math.inf), (0.0, 1.0), (-0.0, 1.0), (89.0, math.inf),
            (-104.0, 0.0), (-103.0, 1e-45)],
    "expm1": [(-math.inf, -1.0), (math.inf, math.inf), (0.0, 0.0), (-0.0, -0.0), (1e-40, 1e-40)],
    "log": [(0.0, -math.inf), (-0.0, -math.inf), (math.inf, math.inf), (-1.0, math.nan),
            (-math.inf, math.nan), (1.0, 0.0), (1e-45, -103.27893)],
    "log1p": [(-1.0, -math.inf), (-2.0, math.nan), (math.inf, math.inf), (-math.inf, math.nan),
              (0.0, 0.0), (-0.0, -0.0), (1e-40, 1e-40)],
    "tanh": [(math.inf, 1.0), (-math.inf, -1.0), (0.0, 0.0), (-0.0, -0.0), (20.0, 1.0)],
    "sigmoid": [(math.inf, 1.0), (-math.inf, 0.0), (0.0, 0.5), (-100.0, 0.0), (100.0, 1.0)],
    "erf": [(math.inf, 1.0), (-math.inf, -1.0), (0.0, 0.0), (-0.0, -0.0), (5.0, 1.0)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (1e-40, 1e-40), (math.inf, math.nan),
            (-math.inf, math.nan), (3e38, 0.8749049)],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (math.inf, math.nan), (3e38, -0.48429477)],
    "tan": [(0.0, 0.0), (-0.0, -0.0), (1e-40, 1e-40), (-math.inf, math.nan), (3e38, -1.8065544)],
    "asin": [(0.0, 0.0), (-0.0, -0.0), (1e-40, 1e-40), (1.0, math.pi / 2), (1.5, math.nan),
             (-math.inf, math.nan)],
    "acos": [(1.0, 0.0), (-1.0, math.pi), (0.0, math.pi / 2), (1.5, math.nan)],
    "atan": [(0.0, 0.0), (-0.0, -0.0), (math.inf, math.pi / 2), (-math.inf, -math.pi / 2),
             (1e-40, 1e-40), (1.0, math.pi / 4)],
    "sinh": [(0.0, 0.0), (-0.0, -0.0), (math.inf, math.inf), (-math.inf, -math.inf),
             (1e-40, 1e-40), (90.0, math.inf)],
    "cosh": [(0.0, 1.0), (math.inf, math.inf), (-math.inf, math.inf), (90.0, math.inf)],
    "asinh": [(0.0, 0.0), (-0.0, -0.0), (math.inf, math.inf), (-math.inf, -math.inf),
              (1e-40, 1e-40)],
    "acosh": [(1.0, 0.0), (0.5, math.nan), (-5.0, math.nan), (math.inf, math.inf),
              (-math.inf, math.nan)],
    "atanh": [(0.0, 0.0), (-0.0, -0.0), (1.0, math.inf), (-1.0, -math.inf), (2.0, math.nan),
              (math.inf, math.nan), (1e-40, 1e-40)],
    "exp2": [(n, 2.0**n) for n in (-149.0, -126.0, -1.0, 0.0, 1.0, 10.0, 127.0)]
            + [(128.0, math.inf), (-151.0, 0.0), (math.inf, math.inf), (-math.inf, 0.0)],
    "log2": [(2.0**n, n) for n in (-149.0, -126.0, -1.0, 0.0, 1.0, 10.0, 127.0)]
            + [(0.0, -math.inf), (-0.0, -math.inf), (-1.0, math.nan), (math.inf, math.inf)],
    "log10": [(10.0**n, n) for n in range(11)]
             + [(0.0, -math.inf), (-1.0, math.nan), (math.inf, math.inf)],
    "cbrt": [(0.0, 0.0), (-0.0, -0.0), (27.0, 3.0), (-8.0, -2.0), (math.inf, math.inf),
             (-math.inf, -math.inf), (2.0**-147, 2.0**-49)],
    "erfc": [(0.0, 1.0), (math.inf, 0.0), (-math.inf, 2.0), (-5.0, 2.0), (11.0, 0.0)],
    "erf_inv": [(0.0, 0.0), (-0.0, -0.0), (1.0, math.inf), (-1.0, -math.inf), (1.5, math.nan),
                (-math.inf, math.nan)],
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name: str) -> None:
    x, expected = np.asarray([*SPECIAL[name], (math.nan, math.nan)], np.float32).T
    got = on_arrays(function_of(name), x)
    np.testing.assert_array_equal(got, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("name", BOUNDS)
def test_f64_is_the_library_function(name: str) -> None:
    bound = BOUNDS[name]
    x = np.linspace(max(0.1, bound.low + 0.1), 3.0 if bound.high > 2 else 0.99, 97)
    got = on_arrays(function_of(name), x)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, bound.exact(x), rtol=1e-15)


@pytest.mark.parametrize(
    "name", ["tanh", "erf", "sin", "tan", "asin", "atan", "sinh", "asinh", "cbrt"]
)
def test_odd_functions_are_exactly_odd(name: str) -> None:
    x = np.linspace(0.0, 6.0, 10_001, dtype=np.float32)
    function = function_of(name)
    np.testing.assert_array_equal(on_arrays(function, -x), -on_arrays(function, x))


def test_contraction_changes_bits_and_is_one_rounding() -> None:
    def product_and_sum(m: scalar.Math, x: scalar.Element, y: scalar.Element) -> scalar.Element:
        return x * y + (-1.0)

    x = np.asarray([1 + 2.0**-12], np.float32)
    separate = on_arrays(product_and_sum, x, x)
    fused = on_arrays(product_and_sum, x, x, contract=True)
    assert fused[0] == np.float32(2.0**-11 + 2.0**-24)
    assert separate[0] == np.float32(2.0**-11)


# --- random bits -----------------------------------------------------------------------------

VECTORS = [  # of the Random123 distribution: key, counter, result
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "expected"), VECTORS)
def test_threefry_known_answers(
    key: tuple[int, int], counter: tuple[int, int], expected: tuple[int, int]
) -> None:
    oracle = threefry(np.asarray(key, np.uint64), np.asarray(counter, np.uint64))
    assert tuple(oracle) == expected
    words = [np.asarray([w], np.uint32) for w in (*key, *counter)]
    for i in range(2):
        got = on_arrays(lambda m, *xs, i=i: scalar.threefry2x32(*xs)[i], *words)
        assert got[0] == expected[i]


def test_threefry_of_many_counters_is_the_oracle() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, (4, 1000), dtype=np.uint64)
    expected = np.stack([threefry(words[:2, i], words[2:, i]) for i in range(1000)])
    for i in range(2):
        got = on_arrays(lambda m, *xs, i=i: scalar.threefry2x32(*xs)[i], *words.astype(np.uint32))
        np.testing.assert_array_equal(got, expected[:, i])


def test_numpy_elements_follow_the_contract() -> None:
    m = NumpyMath(f32)
    integers = m.element(np.asarray([7, -7, 7, -7, 5, -(2**31)], np.int32))
    divisors = m.element(np.asarray([2, 2, -2, -2, 0, -1], np.int32))
    with np.errstate(all="ignore"):
        assert (integers / divisors).array.tolist() == [3, -3, -3, 3, 0, -(2**31)]
        assert (integers % divisors).array.tolist() == [1, 1, -1, -1, 0, 0]
    assert (m.element(np.asarray([2**31], np.uint32)) >> 31).array.tolist() == [1]
    assert (m.element(np.asarray([-8], np.int32)) >> 1).array.tolist() == [-4]
    bits = m.bitcast(m.const(1.0), u32)
    assert bits.array.tolist() == [0x3F800000]


@pytest.mark.parametrize(
    ("x", "sine", "cosine"),
    [
        ("0x1.f37c8ap+95", 1.0, -1.61476979825e-9),
        ("0x1.47d0fep+34", 1.0, -2.01264603192e-9),
        ("0x1.f37c8ap+96", -3.2295395965e-9, -1.0),
        ("0x1.f9cbe2p+7", 1.0, -4.18570680376e-9),
        ("0x1.f37c8ap+97", 6.45907919299e-9, 1.0),
    ],
)
def test_waves_next_to_multiples_of_half_pi(x: str, sine: float, cosine: float) -> None:
    """The f32 numbers that are nearest to one: there most digits of pi / 2 cancel."""
    at = np.asarray([float.fromhex(x)], np.float32)
    exact = {"sin": sine, "cos": cosine, "tan": sine / cosine}
    for name, value in exact.items():
        error = errors_in_ulp(on_arrays(function_of(name), at), np.asarray([value]))
        assert error[0] <= BOUNDS[name].ulp


def test_powers() -> None:
    """Within 0.6 ulp of f64, of all sizes, signs and special values."""
    rng = np.random.default_rng(0)
    special = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 2.5, -2.5, -3.0, 1e-40, -1e-40, 3e38, -3e38,
               math.inf, -math.inf, math.nan, 1e10, 16777217.0, 0.9999999, -0.9999999]  # fmt: skip
    pairs = [
        rng.integers(0, 2**32, (2, 50_000), np.uint64).astype(np.uint32).view(np.float32),
        np.stack([np.exp(rng.uniform(-80, 80, 50_000)), rng.uniform(-5, 5, 50_000)]),
        np.stack([1 + rng.uniform(-1e-3, 1e-3, 50_000), rng.uniform(-1e5, 1e5, 50_000)]),
        np.stack([rng.uniform(-4, 4, 50_000), rng.integers(-30, 30, 50_000)]),
        np.asarray(np.meshgrid(special, special)).reshape(2, -1),
    ]
    with np.errstate(all="ignore"):
        x, y = np.concatenate(pairs, axis=1).astype(np.float32)
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
    got = on_arrays(elementary.pow, x, y)
    errors = errors_in_ulp(got, exact)
    worst = int(np.argmax(errors))
    assert errors[worst] <= 0.6, f"pow({x[worst]}, {y[worst]}) is off by {errors[worst]} ulp"
    numbers = ~np.isnan(exact)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(exact[numbers]))
