"""The operations, by family; importing this package fills the registry."""

from __future__ import annotations

from . import (
    binary,
    bits,
    constant,
    control,
    conv,
    elementwise,
    fft,
    gather,
    linalg,
    matmul,
    orthogonal,
    reduce,
    shape,
    window,
)

__all__ = [
    "binary", "bits", "constant", "control", "conv", "elementwise", "fft", "gather", "linalg",
    "matmul", "orthogonal", "reduce", "shape", "window",
]  # fmt: skip
