"""Element by element, and reductions."""

from __future__ import annotations

import numpy as np

from .case import (
    BOOLS,
    CUBE,
    MORE_BOOLS,
    NANS,
    NUMBERS,
    ODD,
    OTHER,
    POSITIVE,
    SIGNED,
    UNIT,
    VECTOR,
    A,
    B,
    case,
    floats,
    int32,
    ints,
)  # fmt: skip

_UNARY = {
    "exp": A, "expm1": A, "log": POSITIVE, "log1p": POSITIVE, "log2": POSITIVE, "log10": POSITIVE,
    "exp2": A, "sqrt": POSITIVE, "rsqrt": POSITIVE, "sin": A, "cos": A, "tan": UNIT, "sinh": A,
    "cosh": A, "tanh": A, "erf": A, "erfc": A, "erfinv": UNIT, "cbrt": A, "arcsin": UNIT,
    "arccos": UNIT, "arctan": A, "arcsinh": A, "arccosh": POSITIVE + 1, "arctanh": UNIT,
    "abs": A, "absolute": A, "negative": A, "square": A, "reciprocal": POSITIVE, "floor": A,
    "ceil": A, "round": A, "trunc": A, "fabs": A, "deg2rad": A, "rad2deg": A, "sinc": A, "i0": A,
    "relu": A, "relu6": 3 * A, "leaky_relu": A, "elu": A, "selu": A, "celu": A, "gelu": A,
    "sigmoid": 5 * A, "silu": A, "swish": A, "log_sigmoid": 9 * A, "softplus": 9 * A,
    "softsign": A, "hard_sigmoid": 2 * A, "hard_silu": 2 * A, "hard_swish": 2 * A, "hard_tanh": A,
    "hard_shrink": A, "soft_shrink": A, "tanh_shrink": A, "squareplus": A, "sparse_plus": A,
    "sparse_sigmoid": A, "softmax": 5 * A, "log_softmax": 5 * A, "glu": A, "real": A, "conj": A,
    "conjugate": A, "imag": A, "copy": A, "stop_gradient": A, "nan_to_num": ODD,
}  # fmt: skip
_PREDICATES = {
    "sign": ODD, "isfinite": ODD, "isnan": ODD, "isinf": ODD, "isposinf": ODD, "isneginf": ODD,
    "signbit": ODD, "angle": ODD, "isreal": ODD, "logical_not": BOOLS, "bitwise_invert": SIGNED,
    "bitwise_not": SIGNED,
}  # fmt: skip
_BINARY = [
    "add", "subtract", "multiply", "divide", "true_divide", "maximum", "minimum", "fmax", "fmin",
    "mod", "fmod", "arctan2", "logaddexp", "logaddexp2", "hypot",
]  # fmt: skip
_COMPARISONS = [
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "floor_divide",
    "divide_no_nan", "isclose", "allclose", "heaviside", "nextafter",
]  # fmt: skip
_BITS = ["bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift",
         "left_shift", "right_shift", "gcd", "lcm"]  # fmt: skip
_REDUCTIONS = ["sum", "mean", "max", "min", "prod", "var", "std", "logsumexp", "amax", "amin",
               "ptp", "median"]  # fmt: skip
_NAN_REDUCTIONS = ["nansum", "nanprod", "nanmax", "nanmin", "nanmean", "nanvar", "nanstd",
                   "nanmedian"]  # fmt: skip
_POSITIONS = ["argmax", "argmin", "nanargmax", "nanargmin"]

CASES = [
    *[case(name, x) for name, x in _UNARY.items()],
    *[case(name, x, gradient=False) for name, x in _PREDICATES.items()],
    *[case(name, A, B) for name in _BINARY], *[case(name, A, VECTOR) for name in _BINARY],
    *[case(name, ODD, OTHER, gradient=False) for name in (*_BINARY, *_COMPARISONS)],
    *[case(name, A, B, gradient=False) for name in _COMPARISONS],
    *[case(name, SIGNED, ints(4, low=1)) for name in
      ("add", "divide", "floor_divide", "mod", "fmod", "maximum", "less", "power")],
    *[case(name, A, 2) for name in ("add", "subtract", "divide", "mod", "less")],
    *[case(name, ints(3, 4), ints(4)) for name in _BITS],
    *[case(name, BOOLS, MORE_BOOLS) for name in
      ("logical_and", "logical_or", "logical_xor", "add", "multiply", "maximum", "less")],
    case("gcd", int32(0, -12, 40, 7), int32(0, 18, -16, 0)),
    case("power", POSITIVE, B), case("power", A, 2), case("power", POSITIVE, 0.5),
    case("power", A, 3), case("power", SIGNED, 3), case("power", int32(2, -3, 0), int32(-1, 0, 5)),
    case("ldexp", ODD, int32(1, 2, 3, -4, 5, 6, 7, -30), gradient=False),
    case("clip", A, -1.0, 1.0), case("clip", ints(6), 1, 3), case("round", A, decimals=2),
    case("round", 100 * SIGNED, decimals=-2),
    case("elu", A, alpha=0.5), case("celu", A, alpha=0.5), case("gelu", A, approximate=False),
    case("leaky_relu", A, negative_slope=0.3), case("threshold", A, 0.5, -1.0),
    case("softmax", CUBE, axis=1), case("softmax", CUBE, axis=(1, 2)), case("i0", 25 * A),
    case("log_softmax", CUBE, axis=0), case("fabs", SIGNED), case("exp", SIGNED),
    case("view", A, "int32", gradient=False), case("view", SIGNED, "float32", gradient=False),
    case("view", SIGNED.astype(np.int16), "int8"), case("view", SIGNED.astype(np.int8), "int32"),
    case("view", A.astype(np.float16), "int16"), case("view", SIGNED.astype(np.int16), "float16"),
    # reductions
    *[case(name, CUBE, **kw) for name in _REDUCTIONS
      for kw in ({}, {"axis": 1}, {"axis": (0, 2), "keepdims": True})],
    *[case(name, NANS, **kw) for name in _NAN_REDUCTIONS
      for kw in ({}, {"axis": 1}, {"axis": 0, "keepdims": True})],
    *[case(name, np.full((2, 2), np.nan, np.float32), gradient=False) for name in _NAN_REDUCTIONS],
    *[case(name, x, **kw) for name in _POSITIONS for x in (CUBE, SIGNED)
      for kw in ({}, {"axis": 1}, {"axis": -1, "keepdims": True})],
    *[case(name, NANS, axis=1) for name in ("nanargmax", "nanargmin")],
    case("any", BOOLS, axis=0), case("all", BOOLS, axis=1, keepdims=True), case("sum", BOOLS),
    case("max", BOOLS, axis=0), case("mean", ints(3, 4), axis=0), case("max", A, initial=9.0),
    case("min", A, initial=-1.0), case("count_nonzero", ints(3, 4), axis=1),
    case("average", A), case("average", A, axis=1, weights=floats(4, low=0.1)),
    case("average", A, weights=POSITIVE),
    *[case(name, x, **kw) for name in ("cumsum", "cumprod") for x in (A, SIGNED)
      for kw in ({}, {"axis": 1}, {"axis": 0, "dtype": "float32"})],
    *[case(name, NANS, axis=1) for name in ("nancumsum", "nancumprod")],
    # statistics
    *[case(name, CUBE, np.float32([0.1, 0.5, 0.77]), axis=(0, 2), method=method, keepdims=True)
      for name in ("quantile", "nanquantile")
      for method in ("linear", "lower", "higher", "midpoint", "nearest")],
    case("quantile", A, 0.3), case("quantile", NANS, 0.4, axis=1), case("quantile", NUMBERS, 0.3),
    case("nanquantile", NANS, 0.4, axis=1), case("percentile", A, 40.0, axis=0),
    case("nanpercentile", NANS, np.float32([40, 10]), axis=1),
    case("histogram", floats(20), gradient=False), case("histogram", NUMBERS[0], bins=3),
    case("histogram", floats(20), bins=4, range=(-1.0, 1.0), gradient=False),
    case("bincount", NUMBERS[0], traced=False),
    case("bincount", NUMBERS, traced=False, minlength=7),
    case("bincount", NUMBERS[0], weights=floats(5), traced=False),
    case("corrcoef", floats(3, 9)), case("corrcoef", floats(9), gradient=False),
    *[case("correlate", floats(7), floats(3), mode=m) for m in ("valid", "same", "full")],
    *[case("correlate", floats(3), floats(6), mode=m) for m in ("valid", "same", "full")],
    case("diff", CUBE), case("diff", SIGNED, n=2, axis=0), case("diff", BOOLS),
    case("trapezoid", A), case("trapezoid", A, dx=0.5, axis=0), case("trapezoid", A, VECTOR),
    case("trapezoid", A, B, axis=0), case("psnr", A, B, 2.0),
    # windows
    *[case(name, n, traced=False) for name in ("bartlett", "blackman", "hamming", "hanning")
      for n in (1, 7)],
    case("kaiser", 8, 5.0, traced=False),
]  # fmt: skip
