"""Calls of every op, on several sets of arguments."""

from . import arrays, elementwise, nn
from .case import Case

CASES: list[Case] = [*elementwise.CASES, *arrays.CASES, *nn.CASES, *nn.IMAGES]

__all__ = ["CASES", "Case"]
