"""Lowerings of the IR's ops, by family; importing this package fills `LOWERINGS`."""

from __future__ import annotations

from . import (
    binary,
    bits,
    constant,
    control,
    conv,
    cumulative,
    dynamic,
    elementwise,
    fft,
    gather,
    linalg,
    matmul,
    orthogonal,
    reduce,
    scatter,
    shape,
    sort,
    special,
    trigonometric,
    window,
)

__all__ = [
    "binary", "bits", "constant", "control", "conv", "cumulative", "dynamic", "elementwise", "fft",
    "gather", "linalg", "matmul", "orthogonal", "reduce", "scatter", "shape", "sort", "special",
    "trigonometric", "window",
]  # fmt: skip
