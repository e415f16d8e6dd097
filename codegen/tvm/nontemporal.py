"""Results that go to memory past the cache.

A store reads the line that it writes into the cache, from where it is written back later. Where a
result is too large to be found there by what reads it next, that is one move of memory in three,
and what lies in the cache has to leave. Stores of whole lines can go to memory at once: LLVM calls
them nontemporal. TVM does not know them, so a function in LLVM's language, which a kernel imports
and LLVM inlines, stores the vector. Only vectors that are a line, as they are with AVX-512, and
begin at one go this way, for a line that is written in parts is slow. What threads have stored is
seen by others after the locked instruction by which they say that they are done.

Depthwise convolutions and their input gradients on 8 images of 112 x 112 or 56 x 56 take 0.4 to
0.9 of the time so, a training step of MobileNetV2 or of a U-Net 0.97, one thread of a Zen 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tvm
from tvm import tirx

from .emit import Buffer, Expr, PrimFunc, Stmt
from .rebuild import rebuilt
from .target import Machine

STREAMED = "hornfels.streamed"
"""Attribute of a kernel: the positions of the parameters that are stored past the cache."""

_SHARE = 4
"""Results are streamed from a size of one part in so many of the last cache on."""

_LANES = 16
_LINE = f"float32x{_LANES}"
_FUNCTION = "hornfels_stream"
_TEXT = f"""
define linkonce_odr i32 @{_FUNCTION}(ptr %place, <{_LANES} x float> %value) alwaysinline {{
  store <{_LANES} x float> %value, ptr %place, align {4 * _LANES}, !nontemporal !0
  ret i32 0
}}

!0 = !{{i32 1}}
"""


def is_streamed(nbytes: int, machine: Machine) -> bool:
    """Whether a result of so many bytes goes past the cache of this machine."""
    return machine.lanes("float32") == _LANES and 0 < machine.l3 <= _SHARE * nbytes


def streaming(function: PrimFunc) -> PrimFunc:
    """A vectorized kernel whose vectors go past the cache where they are stored to `STREAMED`."""
    wanted = [int(position) for position in function.attrs.get(STREAMED, ())]
    if not wanted:
        return function
    views = [each.buffer for each in function.body.seq if isinstance(each, tirx.DeclBuffer)]
    body = _Rewrite([views[position] for position in wanted])(function.body)
    text = tvm.ir.StringImm(_TEXT)
    return function.with_body(
        tirx.AttrStmt(tvm.ir.StringImm("stream"), "pragma_import_llvm", text, body)
    )


class _Rewrite:
    """Replaces stores to some buffers; knows divisors of the variables that it has passed."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._divisors: dict[Expr, int] = {}

    def __call__(self, statement: Stmt) -> Stmt:
        if isinstance(statement, tirx.Bind):
            self._divisors[statement.var] = self._divisor(statement.value)
        if isinstance(statement, tirx.BufferStore):
            return self._store(statement)
        return rebuilt(statement, self)

    def _store(self, store: tirx.BufferStore) -> Stmt:
        (index,) = store.indices if len(store.indices) == 1 else (None,)
        if str(store.value.ty) != _LINE or not isinstance(index, tirx.Ramp):
            return store
        is_line = _is_one(index.stride) and self._divisor(index.base) % _LANES == 0
        if not is_line or not any(store.buffer.same_as(each) for each in self._buffers):
            return store
        place = tirx.address_of(tirx.BufferLoad(store.buffer, [index.base]))
        return tirx.Evaluate(tirx.call_extern("int32", _FUNCTION, place, store.value))

    def _divisor(self, value: Expr) -> int:
        """A number that divides the value for certain."""
        if isinstance(value, tirx.IntImm):
            return abs(int(value.value)) or _ANY
        if isinstance(value, tirx.Mul):
            return self._divisor(value.a) * self._divisor(value.b)
        if isinstance(value, tirx.Add | tirx.Sub | tirx.Max | tirx.Min):
            return math.gcd(self._divisor(value.a), self._divisor(value.b))
        return self._divisors.get(value, 1) if isinstance(value, tirx.Var) else 1


_ANY = 1 << 30  # divides 0, as all numbers do


def _is_one(value: Expr) -> bool:
    return isinstance(value, tirx.IntImm) and int(value.value) == 1
