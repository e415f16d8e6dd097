"""Order along an axis: stable merge sorts of integer keys, one row at a time.

A key orders as its element does: NaN is the largest, -0.0 equals 0.0. Keys of up to 32 bits go
into one word of 64 with the element's position below them; then all words differ, and moving a
word moves both. Keys of 64 bits have their positions in an array beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tvm import tirx
from tvm.tirx import op as top

from ....ir.graph import Node, Value
from ....ir.types import DType
from ..emit import Buffer, Expr
from ..imperative import Array, Code, select
from ..math import load
from ..nest import Nest
from ..target import Machine
from .lowering import Buffers, loops

_SELECTED = 32
"""Up to so many largest elements are kept in order while a row is read once."""


def _word(value: int, dtype: str = "int64") -> Expr:
    return tirx.const(value, dtype)


def _rows(x: Value, axis: int) -> tuple[int, int, int]:
    """How many rows there are, the elements of one, and the distance of its elements."""
    inner = math.prod(map(int, x.shape[axis + 1 :]))
    return math.prod(map(int, x.shape[:axis])) * inner, int(x.shape[axis]), inner


def _first(row: Expr, size: int, stride: int) -> Expr:
    """The position of the first element of a row."""
    if stride == 1:
        return row * size
    block = tirx.truncdiv(row, _word(stride, "int32"))
    return block * (size * stride) + tirx.truncmod(row, _word(stride, "int32"))


def _key(x: Expr, dtype: DType, descending: bool) -> Expr:
    """An i64 that orders as the element does, or the other way round."""
    if dtype.is_float:
        wide = str(x.ty) == "float64"
        bits, infinity = ("int64", 0x7FF << 52) if wide else ("int32", 0xFF << 23)
        most = 2**63 - 1 if wide else 2**31 - 1
        word = tirx.reinterpret(bits, x)
        size = top.bitwise_and(word, _word(most, bits))
        signed = select(word < _word(0, bits), _word(0, bits) - size, size)
        key = tirx.Cast("int64", select(size > _word(infinity, bits), _word(most, bits), signed))
    elif dtype.name == "u32":
        key = tirx.Cast("int64", x) - _word(2**31)
    else:
        key = tirx.Cast("int64", x)
    return _word(-1) - key if descending else key


class _Keys:
    """The keys of a row and the positions of their elements."""

    def __init__(self, code: Code, size: int, packed: bool) -> None:
        self.code, self.size, self.packed = code, size, packed
        self.arrays = [code.scratch("int64", 2 * size)]
        if not packed:
            self.arrays.append(code.scratch("int32", 2 * size))

    def put(self, i: Expr, key: Expr) -> None:
        """Note a key of the element at position i."""
        self.arrays[0][i] = packed_word(key, i) if self.packed else key
        if not self.packed:
            self.arrays[1][i] = i

    def position(self, i: Expr, half: Expr | int) -> Expr:
        """Where the element stood that is now at i, in the half that the result lies in."""
        place = i + half * self.size
        return position_of(self.arrays[0][place]) if self.packed else self.arrays[1][place]

    def sort(self) -> int:
        """Merge runs of 1, 2, 4, ... from one half of the arrays into the other, and back.

        Returns
        -------
        int
            The half that the result lies in.
        """
        code, size = self.code, self.size
        passes = max(0, (size - 1).bit_length())
        width = code.number(1, "int32")
        for step in code.range(passes):
            source = code.let(tirx.truncmod(step, _word(2, "int32")) * size)
            run = code.let(width.now)
            for pair in code.range(code.let(tirx.truncdiv(size - 1, run * 2)) + 1):
                self._merge(pair * (run * 2), run, source, size - source)
            width.set(run * 2)
        return passes % 2

    def _merge(self, start: Expr, run: Expr, source: Expr, target: Expr) -> None:
        code, size = self.code, _word(self.size, "int32")
        start = code.let(start)
        middle = code.let(tirx.min(start + run, size))
        end = code.let(tirx.min(start + run * 2, size))
        left, right = code.number(start, "int32"), code.number(middle, "int32")
        for place in code.range(end - start, start):
            i, j = code.let(left.now), code.let(right.now)
            last = _word(self.size - 1, "int32")
            a = code.let(source + tirx.min(i, last))
            b = code.let(source + tirx.min(j, last))
            keys = self.arrays[0]
            in_order = tirx.And(i < middle, keys[a] <= keys[b])
            from_left = code.let(select(tirx.Or(in_order, j >= end), _word(1, "int32"),
                                        _word(0, "int32")))  # fmt: skip
            chosen = code.let(b + from_left * (a - b))
            for array in self.arrays:
                array[target + place] = array[chosen]
            left.set(i + from_left)
            right.set(j + 1 - from_left)


def packed_word(key: Expr, position: Expr) -> Expr:
    """A key of up to 32 bits with its position below it."""
    high = top.shift_left(key, _word(32))
    return top.bitwise_or(high, tirx.Cast("int64", position))


def position_of(word: Expr) -> Expr:
    """The position in a packed word."""
    return tirx.Cast("int32", top.bitwise_and(word, _word(2**32 - 1)))


def _work(size: int) -> float:
    return 8.0 * size * max(1, size.bit_length())


def _sorted(
    code: Code, node: Node, buffer: Buffer, axis: int, descending: bool, machine: Machine
) -> Iterator[tuple[Expr, _Keys, int]]:
    """For each row, as a loop: where it begins, its sorted keys and the half they lie in."""
    x = node.inputs[0]
    count, size, stride = _rows(x, axis)
    for row in code.batch(count if size else 0, _work(size), machine.cores):
        first = code.let(_first(row, size, stride))
        keys = _Keys(code, size, x.dtype.bits <= 32)
        for i in code.range(size):
            element = load(buffer, [first + i * stride], x.dtype)
            keys.put(i, _key(element, x.dtype, descending))
        yield first, keys, keys.sort()


@loops("sort", "argsort")
def _sort(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    code = Code(nest, 1)
    x, out = buffers[node.inputs[0]], buffers[node.output]
    axis, descending = node.attrs["axis"], node.attrs["descending"]
    _, size, stride = _rows(node.inputs[0], axis)
    for first, keys, half in _sorted(code, node, x, axis, descending, machine):
        for i in code.range(size):
            position = keys.position(i, half)
            target = code.array(out, first)
            if node.op.name == "argsort":
                target[i * stride] = position
            else:
                target[i * stride] = code.array(x, first)[code.let(position) * stride]
    code.finish()


@loops("top_k")
def _top_k(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    (x,) = node.inputs
    k, axis = int(node.attrs["k"]), x.ndim - 1
    count, size, _ = _rows(x, axis)
    code = Code(nest, 1)
    source = buffers[x]
    values, indices = (buffers[v] for v in node.outputs)

    def write(row: Expr, first: Expr, positions: Sequence[Expr] | Iterator[Expr]) -> None:
        for i, position in positions:
            where = code.let(position)
            code.array(indices)[row * k + i] = where
            code.array(values)[row * k + i] = code.array(source, first)[where]

    if k == 0:
        count = 0
    if k > _SELECTED or x.dtype.bits > 32 or size <= 2 * k:
        for first, keys, half in _sorted(code, node, source, axis, True, machine):
            row = code.let(tirx.truncdiv(first, _word(max(size, 1), "int32")))
            write(row, first, ((i, keys.position(i, half)) for i in code.range(k)))
    else:
        for row in code.batch(count, 4.0 * size, machine.cores):
            first = code.let(row * size)
            best = _select(code, source, first, x.dtype, size, k)
            write(row, first, ((i, position_of(best[i])) for i in code.range(k)))
    code.finish()


def _select(code: Code, source: Buffer, first: Expr, dtype: DType, size: int, k: int) -> Array:
    """The packed words of the k largest elements of a row, the largest first."""
    best = code.scratch("int64", k)
    for i in code.range(k):
        best[i] = _word(2**63 - 1)
    for i in code.range(size):
        key = _key(load(source, [first + i], dtype), dtype, True)
        word = code.let(packed_word(key, i))
        with code.when(word < best[k - 1]):
            falling = code.number(word, "int64")
            for place in code.range(k):
                there, here = code.let(best[place]), code.let(falling.now)
                best[place] = tirx.min(there, here)
                falling.set(tirx.max(there, here))
    return best
