"""Products of an attention kernel that multiply pairs of bf16 (see `bfloat`).

Operands and weights whose numbers are bf16 lie in scratch memory as such. Along a row two
neighbours are a pair as they lie; where the sum runs down the rows, two rows are joined to one of
pairs first. After the last number of an odd sum stands a zero.
"""

from __future__ import annotations

import tvm
from tvm import tirx

from ...ir.graph import Node, Value
from ...ir.types import bf16
from ...passes.attention import Roles
from . import bfloat, emit
from .attention_parts import Result, factors
from .emit import Buffer, Expr, Index, Stmt

_LOAD = "hornfels_load_pairs"
_MOVES = frozenset({"transpose", "reshape", "broadcast"})


def is_short(value: Value) -> bool:
    """Whether all numbers of a value are bf16, whatever its dtype."""
    node = value.node
    while value.dtype != bf16:
        if node is None or node.op.name not in (*_MOVES, "cast"):
            return False
        value = node.inputs[0]
        node = value.node
        if not value.dtype.is_float:
            return False
    return True


def paired_products(found: Roles, results: list[Result]) -> frozenset[Node]:
    """The products of a kernel whose factors are bf16; of one matrix of weights all or none."""
    paired = {n for n in found.scores if all(is_short(f.value) for f in factors(n))}
    for weights in found.weights:
        mine = [r for r in results if r.weights is weights]
        if is_short(weights) and all(is_short(r.operand.value) for r in mine):
            paired.update(r.node for r in mine)
    return frozenset(paired)


def load(buffer: Buffer, place: Expr, lanes: int = 1) -> Expr:
    """The pairs that begin at an element of an array of bf16; needs `importing`.

    By a function, since TVM tells LLVM that what is written as uint16 is never read as int32.
    """
    dtype = bfloat.PAIR if lanes == 1 else f"{bfloat.PAIR}x{lanes}"
    return tirx.call_extern(dtype, f"{_LOAD}_{lanes}", tirx.address_of(buffer[place]))


def join(source: Buffer, first: Expr, second: Expr, lanes: int) -> Expr:
    """Two runs of an array of bf16 as a vector of pairs."""
    one = tirx.IntImm("int32", 1)
    low, high = (source[tirx.Ramp(start, one, lanes)] for start in (first, second))
    return bfloat.join(low, high)


def zero(buffer: Buffer, place: Index) -> Stmt:
    """Write a zero to an array of bf16."""
    return emit.store(buffer, (place,), emit.constant(0, bfloat.STORED))


def importing(body: Stmt, lanes: int) -> Stmt:
    """Statements that may call `load`."""
    text = "\n".join(_function(n) for n in (1, lanes))
    return tirx.AttrStmt(
        tvm.ir.StringImm("pairs"), "pragma_import_llvm", tvm.ir.StringImm(text), body
    )


def _function(lanes: int) -> str:
    found = "i32" if lanes == 1 else f"<{lanes} x i32>"
    return f"""
define linkonce_odr {found} @{_LOAD}_{lanes}(ptr %place) alwaysinline {{
  %pairs = load {found}, ptr %place, align 2
  ret {found} %pairs
}}
"""
