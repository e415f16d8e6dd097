"""Lowerings of the IR's ops, by family; importing this package fills `LOWERINGS`."""

from __future__ import annotations

from . import binary, constant, control, conv, elementwise, gather, matmul, reduce, shape, window

__all__ = [
    "binary", "constant", "control", "conv", "elementwise", "gather", "matmul", "reduce", "shape",
    "window",
]  # fmt: skip
