"""Kernels of one op that fits no other form, by family; importing this fills their registry."""

from __future__ import annotations

from . import cumulative, fft, gather, linalg, orthogonal, sort
from .lowering import opaque

__all__ = ["cumulative", "fft", "gather", "linalg", "opaque", "orthogonal", "sort"]
