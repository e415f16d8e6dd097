"""Kernels of one op that fits no other form, by family; importing this fills their registry."""

from __future__ import annotations

from . import gather
from .lowering import opaque

__all__ = ["gather", "opaque"]
