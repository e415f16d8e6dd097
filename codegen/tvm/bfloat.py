"""bf16 in native code: its 16 bits as uint16, since TVM's code generator has no such type.

Numbers are computed in f32. Where the processor has AVX512-BF16, products take pairs: an int32
holds two neighbours along a sum, the first in its lower half, and one instruction multiplies 16
pairs with 16 others and adds both products to 16 sums in f32, twice as many multiplications as
in f32. Its instructions take denormal numbers for zero and make none; where these are to be kept,
and on other processors, bf16 is multiplied as f32.

What TVM cannot say, functions in LLVM's language do, which a kernel imports and LLVM inlines.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import tvm
from tvm import tirx
from tvm.tirx import op as top

from ...ir.settings import current_settings
from . import emit
from .emit import Expr, Index, Stmt
from .target import Machine

STORED = "uint16"
PAIR = "int32"

_DOT, _NARROW, _JOIN = "hornfels_dot_pairs", "hornfels_narrow", "hornfels_join"
_LANES = (4, 8, 16)  # of 32 bits, in the vectors of x86
_NARROWING = {8: "llvm.x86.avx512bf16.cvtneps2bf16.256", 16: "llvm.x86.avx512bf16.cvtneps2bf16.512"}


def widen(value: Expr) -> Expr:
    """bf16 as f32, a scalar or a vector."""
    lanes = _lanes(value)
    wide = tirx.Cast(_vector("uint32", lanes), value)
    return tirx.reinterpret(_name("float32", lanes), top.shift_left(wide, _word(16, lanes)))


def narrow(value: Expr, machine: Machine) -> Expr:
    """f32 as bf16, to the nearest, of two such to the even one; NaN stays NaN.

    In the body of a vectorized loop, which `value` must depend on, this is one instruction where
    the processor has one.
    """
    lanes = emit.lane()[1]
    if _lanes(value) == 1 and lanes in narrows(machine):
        return narrow_lane(value, lanes)
    return rounded(value)


def narrows(machine: Machine) -> frozenset[int]:
    """Lanes of the vectors that one instruction rounds to bf16."""
    return frozenset(_NARROWING) if pairs_fit(machine) else frozenset()


def narrow_lane(value: Expr, lanes: int) -> Expr:
    """As `narrow`, in the body of a vectorized loop of so many lanes, one of `narrows`."""
    return tirx.reinterpret(STORED, tirx.call_llvm_pure_intrin("int16", _NARROWING[lanes], value))


def bits_of(value: Expr, machine: Machine) -> Expr:
    """A number as bf16, whether it lies so in memory or as f32; see `narrow`."""
    return value if str(value.ty).startswith(STORED) else narrow(value, machine)


def rounded(value: Expr) -> Expr:
    """As `narrow`, by arithmetic that every processor has."""
    return tirx.Cast(_vector(STORED, _lanes(value)), upper_half(value))


def upper_half(value: Expr) -> Expr:
    """The bits of f32 rounded to bf16, as uint32."""
    lanes = _lanes(value)
    bits = tirx.reinterpret(_name("uint32", lanes), value)
    high = top.shift_right(bits, _word(16, lanes))
    odd = top.bitwise_and(high, _word(1, lanes))
    nearest = top.shift_right(bits + _word(0x7FFF, lanes) + odd, _word(16, lanes))
    quiet = top.bitwise_or(high, _word(0x40, lanes))
    magnitude = top.bitwise_and(bits, _word(2**31 - 1, lanes))
    return tirx.Select(magnitude > _word(0xFF << 23, lanes), quiet, nearest)


# --- pairs -----------------------------------------------------------------------------------


def pairs_fit(machine: Machine) -> bool:
    """Whether the processor multiplies pairs of bf16, and denormal numbers may be lost."""
    return _able(machine) and current_settings().denormals == "flush"


def warn_if_emulated(machine: Machine) -> None:
    """Say once in a process that products of bf16 are as slow as those of f32."""
    global _warned
    if not (pairs_fit(machine) or _warned):
        _warned = True
        reason = "denormals are kept" if _able(machine) else f"{machine.cpu} has no AVX512-BF16"
        warnings.warn(
            f"bf16: products are computed in f32 and no faster, since {reason}", stacklevel=2
        )


_warned = False


def _able(machine: Machine) -> bool:
    return "avx512bf16" in machine.features and machine.lanes("float32") in _LANES


def join(low: Expr, high: Expr) -> Expr:
    """Two numbers, as uint16, as a pair; vectors lane by lane."""
    lanes = _lanes(low)
    first, second = (tirx.Cast(_vector("uint32", lanes), half) for half in (low, high))
    both = top.bitwise_or(first, top.shift_left(second, _word(16, lanes)))
    return tirx.reinterpret(_name(PAIR, lanes), both)


def zero_like(value: Expr) -> Expr:
    """As many zeros, as uint16."""
    zero, lanes = emit.constant(0, STORED), _lanes(value)
    return zero if lanes == 1 else tirx.Broadcast(zero, lanes)


def join_neighbours(count: int, pair: Index, element: Callable[[Index], Expr]) -> Expr:
    """The elements `2 * pair` and the next of so many, which may not be there, as a pair."""
    low = element(2 * pair)
    if count % 2 == 0:
        return join(low, element(2 * pair + 1))
    inside = emit.less(2 * pair + 1, count)
    high = element(emit.minimum(2 * pair + 1, count - 1))
    if isinstance(inside, bool):
        return join(low, high if inside else zero_like(high))
    # Not a choice between the element and zero: in a branch TVM drops the minimum, and LLVM then
    # reads in vain, but beyond the end of the array.
    mask = tirx.Select(inside, emit.constant(0xFFFF, STORED), emit.constant(0, STORED))
    lanes = _lanes(high)
    return join(low, top.bitwise_and(high, tirx.Broadcast(mask, lanes) if lanes > 1 else mask))


def multiply_add(sums: Expr, left: Expr, right: Expr) -> Expr:
    """Add the products of pairs to sums in f32: vectors, or scalars in two steps."""
    lanes = _lanes(sums)
    if lanes > 1:
        return tirx.call_pure_extern(_name("float32", lanes), f"{_DOT}_{lanes}", sums, left, right)
    for half in (_lower, _upper):
        sums = sums + half(left) * half(right)
    return sums


def _lower(pair: Expr) -> Expr:
    bits = tirx.reinterpret("uint32", pair)
    return tirx.reinterpret("float32", top.shift_left(bits, _word(16, 1)))


def _upper(pair: Expr) -> Expr:
    bits = tirx.reinterpret("uint32", pair)
    return tirx.reinterpret("float32", top.bitwise_and(bits, _word(0xFFFF0000, 1)))


def pairs_of_run(run: Expr) -> Expr:
    """A vector of neighbours, in f32 or as uint16, as pairs of them; needs `importing`."""
    count = _lanes(run)
    if str(run.ty).startswith("float32"):
        run = tirx.call_pure_extern(_name(STORED, count), f"{_NARROW}_{count}", run)
    return tirx.call_pure_extern(_name(PAIR, count // 2), f"{_JOIN}_{count // 2}", run)


def importing(body: Stmt, machine: Machine) -> Stmt:
    """Statements that may call the functions of this module in a kernel."""
    text = _functions(machine.lanes("float32"))
    return tirx.AttrStmt(
        tvm.ir.StringImm("bf16"), "pragma_import_llvm", tvm.ir.StringImm(text), body
    )


def _functions(lanes: int) -> str:
    """The functions in LLVM's language, for vectors of so many f32."""
    sums, pairs, halves = f"<{lanes} x float>", f"<{lanes} x i32>", f"<{2 * lanes} x bfloat>"
    run, bits = f"<{2 * lanes} x float>", f"<{2 * lanes} x i16>"
    multiply = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
    return f"""
declare {sums} @{multiply}({sums}, {halves}, {halves})

define linkonce_odr {sums} @{_DOT}_{lanes}({sums} %sums, {pairs} %left, {pairs} %right) {{
  %a = bitcast {pairs} %left to {halves}
  %b = bitcast {pairs} %right to {halves}
  %result = call {sums} @{multiply}({sums} %sums, {halves} %a, {halves} %b)
  ret {sums} %result
}}

define linkonce_odr {bits} @{_NARROW}_{2 * lanes}({run} %run) {{
  %short = fptrunc {run} %run to {halves}
  %result = bitcast {halves} %short to {bits}
  ret {bits} %result
}}

define linkonce_odr {pairs} @{_JOIN}_{lanes}({bits} %run) {{
  %result = bitcast {bits} %run to {pairs}
  ret {pairs} %result
}}
"""


# --- types -----------------------------------------------------------------------------------


def _lanes(value: Expr) -> int:
    _, _, lanes = str(value.ty).partition("x")
    return int(lanes or 1)


def _name(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _vector(dtype: str, lanes: int) -> tvm.ir.PrimType:
    return tvm.ir.PrimType(_name(dtype, lanes))


def _word(value: int, lanes: int) -> Expr:
    word = tirx.const(value, "uint32")
    return word if lanes == 1 else tirx.Broadcast(word, lanes)
