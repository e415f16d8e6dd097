"""What an ONNX model does not do as the oracle does, by op; `docs/coverage.md` lists it."""

from __future__ import annotations

_SCAN = "a scan over columns or rows, of about ten operators a step: slow for large matrices"
_SWEEPS = "Jacobi's rotations in f64, n rounds of about twenty operators a sweep: slow"
_NAN = "NaN beside numbers is passed over, or not, as ONNX Runtime happens to compare"

LIMITS: dict[str, str] = {
    "bitcast": "by arithmetic: NaN becomes the one quiet NaN, and where ONNX Runtime flushes "
               "numbers below the normal ones to 0, as under backend='onnx', so do their bits",
    "cholesky": _SCAN, "triangular_solve": _SCAN, "lu": _SCAN, "qr": _SCAN,
    "eigh": _SWEEPS, "svd": _SWEEPS,
    "fft": "a size with a prime factor above 128 is exact to 1e-12 of the largest element, not to "
           "rounding",
    "matmul": "a batch of products over a symbolic size that is 0 in a run: ONNX Runtime 1.31 "
              "leaves part of the result unwritten",
    **dict.fromkeys(("reduce_max", "reduce_min", "argmax", "argmin"), _NAN),
    "scatter_add": "on one thread: ONNX Runtime's ScatterND loses updates of one place on several",
    "scatter": "on one thread, as scatter_add",
}  # fmt: skip
