"""The operations, by family; importing this package fills the registry."""

from __future__ import annotations

from . import (
    binary,
    bits,
    constant,
    control,
    conv,
    cumulative,
    custom,
    dynamic,
    elementwise,
    fft,
    gather,
    linalg,
    matmul,
    ordering,
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
    "binary", "bits", "constant", "control", "conv", "cumulative", "custom", "dynamic",
    "elementwise", "fft", "gather", "linalg", "matmul", "ordering", "orthogonal", "reduce",
    "scatter", "shape", "sort", "special", "trigonometric", "window",
]  # fmt: skip
