"""Passes: from a traced graph to an optimized one, and on to a plan of kernels and memory."""

from .fusion import fuse
from .pipeline import PIPELINE, make_plan, optimize, optimize_with_records, stages
from .plan import Call, Copy, Kernel, Plan, RegionCall, Slot

__all__ = [
    "PIPELINE",
    "Call",
    "Copy",
    "Kernel",
    "Plan",
    "RegionCall",
    "Slot",
    "fuse",
    "make_plan",
    "optimize",
    "optimize_with_records",
    "stages",
]
