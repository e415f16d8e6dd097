"""ONNX: the same graphs as standard operators, for ONNX Runtime and for files."""

from __future__ import annotations

from .lower import lower

__all__ = ["lower"]
