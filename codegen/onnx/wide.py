"""Integers that ONNX Runtime computes wrongly, by operators that it computes rightly.

Found by running every op on integers of the whole range, ONNX Runtime 1.31 on x86-64:

- Max, Min, Clip, Sign, ReduceMax and ReduceMin of i64 compare the lower words as signed numbers
  where the upper ones are equal: the maximum of 3504064332 and 5 is 5. (Less and its like, ArgMax
  and TopK are right.)
- ReduceSum and ReduceProd of integers compute in f64 and saturate: sums do not wrap around, and
  beyond 2**53 their last digits are lost. See `ops/reduce.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from ...ir.types import boolean, i64

if TYPE_CHECKING:
    from .emit import Emitter

COMPARE = frozenset({"Max", "Min", "Clip", "Sign", "ReduceMax", "ReduceMin"})
"""Operators that compare i64 wrongly."""

_WORD = 2**32


def compared(e: Emitter, op_type: str, inputs: Sequence[str], attrs: dict[str, Any]) -> str:
    """One of `COMPARE` on i64."""
    if op_type in ("Max", "Min"):
        return reduce(lambda x, y: _extremum(e, op_type, x, y), inputs)
    if op_type == "Clip":
        x, low, high = inputs
        return _extremum(e, "Min", _extremum(e, "Max", x, low), high)
    if op_type == "Sign":
        (x,) = inputs
        above, below = (e.op(c, x, e.const(0, i64), dtype=boolean) for c in ("Greater", "Less"))
        return e.op("Sub", e.cast(above, i64), e.cast(below, i64))
    x, axes = inputs
    return _reduced(e, op_type, x, axes, attrs.get("keepdims", 1))


def _extremum(e: Emitter, op_type: str, x: str, y: str) -> str:
    comparison = "Less" if op_type == "Max" else "Greater"
    return e.where(e.op(comparison, x, y, dtype=boolean), y, x)


def _reduced(e: Emitter, op_type: str, x: str, axes: str, keepdims: int) -> str:
    """The extremum of the upper words, then that of the lower ones where the upper is that one.

    Numbers within i32 are compared rightly, so the lower words are moved there.
    """
    word, middle = e.const(_WORD, i64), e.const(_WORD // 2, i64)
    low = e.op("Mod", x, word)
    high = e.op("Div", e.op("Sub", x, low), word)
    best = e.raw(op_type, high, axes, keepdims=1)
    worst = -(_WORD // 2) if op_type == "ReduceMax" else _WORD // 2 - 1
    is_best = e.op("Equal", high, best, dtype=boolean)
    low = e.where(is_best, e.op("Sub", low, middle), e.const(worst, i64))
    low = e.op("Add", e.raw(op_type, low, axes, keepdims=1), middle)
    found = e.op("Add", e.op("Mul", best, word), low)
    return found if keepdims else e.op("Squeeze", found, axes)
