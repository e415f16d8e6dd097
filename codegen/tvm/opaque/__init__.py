"""Kernels of one op that fits no other form, by family; importing this fills their registry."""

from __future__ import annotations

from . import fft, gather, linalg, orthogonal, sort
from .lowering import opaque

__all__ = ["fft", "gather", "linalg", "opaque", "orthogonal", "sort"]
