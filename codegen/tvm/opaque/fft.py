"""Fast Fourier transforms: Stockham's passes for small factors, Bluestein's convolution for others.

A pass of radix r replaces n numbers, seen as `x[j][p][q]` with j below r and q below the product
`s` of the radices before, by `y[p][k][q] = w^(p k s) sum_j u^(j k) x[j][p][q]`, with `w` the n-th
and `u` the r-th root of unity. The numbers come out in order, in the other of two arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from ....ir.graph import Node
from ..emit import Expr, Index
from ..imperative import Array, Code, as_index, select
from ..math import storage
from ..nest import Nest
from ..target import Machine
from .lowering import Buffers, loops

RADICES = (4, 2, 3, 5, 7, 11, 13)
"""The first that divides is taken."""


def radices(size: int) -> list[int] | None:
    """The passes for a size, or None if it has a larger prime factor."""
    found: list[int] = []
    for radix in RADICES:
        while size % radix == 0:
            found.append(radix)
            size //= radix
    return found if size == 1 else None


@dataclass(frozen=True)
class _Complex:
    """Two arrays, or two expressions."""

    real: Array
    imag: Array

    def __getitem__(self, at: Index) -> tuple[Expr, Expr]:
        return self.real[at], self.imag[at]

    def __setitem__(self, at: Index, value: tuple[Expr | float, Expr | float]) -> None:
        self.real[at], self.imag[at] = value

    def shifted(self, offset: Index) -> _Complex:
        return _Complex(self.real.shifted(offset), self.imag.shifted(offset))

    @property
    def swapped(self) -> _Complex:
        """With real and imaginary part exchanged: transformed so, and exchanged back, numbers
        go through the inverse transform, but for its factor."""
        return _Complex(self.imag, self.real)


def _times(x: tuple[Expr, Expr], y: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
    (a, b), (c, d) = x, y
    return a * c - b * d, a * d + b * c


@loops("fft")
def _fft(nest: Nest, node: Node, buffers: Buffers, machine: Machine) -> None:
    """Transform each row; what all rows share is computed first."""
    (real, imag), (out_real, out_imag) = node.inputs, node.outputs
    size = int(real.shape[-1])
    rows = math.prod(map(int, real.shape[:-1]))
    dtype = storage(real.dtype)
    code = Code(nest, machine.lanes(dtype))
    is_inverse = node.attrs.get("inverse", False)
    transform = (_direct if radices(size) else _bluestein)(code, size, dtype)
    for row in code.batch(rows, 5.0 * size * math.log2(size + 1), machine.cores):
        x, y = (
            _Complex(code.array(buffers[a], row * size), code.array(buffers[b], row * size))
            for a, b in ((real, imag), (out_real, out_imag))
        )
        if is_inverse:
            x, y = x.swapped, y.swapped
        transform(x, y)
        if is_inverse:
            for i in code.strips(size):
                a, b = y[i]
                y[i] = a * (1.0 / size), b * (1.0 / size)
    code.finish()


def _pair(code: Code, dtype: str, size: int) -> _Complex:
    return _Complex(code.scratch(dtype, size), code.scratch(dtype, size))


def _roots(code: Code, size: int, dtype: str) -> _Complex:
    """`exp(-2 pi i t / size)` for all t below the size; the angles are in f64."""
    table = _pair(code, dtype, size)
    for t in code.range(size):
        angle = code.let(tirx.Cast("float64", t) * (-2 * math.pi / size))
        table[t] = _cosine(angle, dtype), _sine(angle, dtype)
    return table


def _cosine(angle: Expr, dtype: str) -> Expr:
    return _cast(dtype, tirx.call_pure_extern("float64", "cos", angle))


def _sine(angle: Expr, dtype: str) -> Expr:
    return _cast(dtype, tirx.call_pure_extern("float64", "sin", angle))


def _cast(dtype: str, x: Expr) -> Expr:
    return x if dtype == "float64" else tirx.Cast(dtype, x)


_Transform = Callable[[_Complex, _Complex], None]


def _direct(code: Code, size: int, dtype: str) -> _Transform:
    """The passes for a size of small factors."""
    steps = radices(size)
    assert steps is not None
    table = _roots(code, size, dtype)

    def transform(x: _Complex, y: _Complex) -> None:
        between = [_pair(code, dtype, size) for _ in range(min(2, len(steps) - 1))]
        source, done = x, 1
        for step, radix in enumerate(steps):
            is_last = step == len(steps) - 1
            target = y if is_last else between[step % 2]
            _pass(code, source, target, table, (size, radix, done))
            source, done = target, done * radix
        if not steps:
            y[0] = x[0]

    return transform


def _pass(
    code: Code, x: _Complex, y: _Complex, table: _Complex, sizes: tuple[int, int, int]
) -> None:
    """One pass, by vectors along the longer of the two inner axes."""
    size, radix, done = sizes
    rest = size // (radix * done)
    along_q = done >= min(code.lanes, rest)
    for outer in code.range(rest if along_q else done):
        for inner in code.strips(done if along_q else rest):
            p, q = (outer, inner) if along_q else (inner, outer)
            given = [
                (code.let(a), code.let(b))
                for a, b in (x[q + done * (p + rest * j)] for j in range(radix))
            ]
            for k, value in enumerate(_butterfly(code, given)):
                turned = value if k == 0 or rest == 1 else _times(value, table[p * (k * done)])
                y[q + done * (p * radix + k)] = turned


def _butterfly(code: Code, x: Sequence[tuple[Expr, Expr]]) -> list[tuple[Expr, Expr]]:
    """The transform of a few numbers, with sums and differences of opposite ones shared."""
    radix = len(x)
    pairs = [(x[j], x[radix - j]) for j in range(1, (radix + 1) // 2)]
    sums = [tuple(code.let(a + b) for a, b in zip(*pair, strict=True)) for pair in pairs]
    differences = [tuple(code.let(a - b) for a, b in zip(*pair, strict=True)) for pair in pairs]
    results = []
    for k in range(radix):
        real, imag = x[0]
        for j, (total, difference) in enumerate(zip(sums, differences, strict=True), start=1):
            cosine, sine = _root(j * k % radix, radix)
            real = _plus(_plus(real, total[0], cosine), difference[1], -sine)
            imag = _plus(_plus(imag, total[1], cosine), difference[0], sine)
        if radix % 2 == 0:
            sign = -1.0 if k % 2 else 1.0
            real = _plus(real, x[radix // 2][0], sign)
            imag = _plus(imag, x[radix // 2][1], sign)
        results.append((real, imag))
    return results


def _root(turn: int, radix: int) -> tuple[float, float]:
    """Cosine and minus sine of a part of a turn, exact for quarters."""
    if 4 * turn % radix == 0:
        return ((1.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 1.0))[4 * turn // radix]
    angle = 2 * math.pi * turn / radix
    return math.cos(angle), -math.sin(angle)


def _plus(total: Expr, x: Expr, factor: float) -> Expr:
    """`total + factor x`, without the product where it is none."""
    if factor == 0:
        return total
    if abs(factor) == 1:
        return total + x if factor > 0 else total - x
    return total + x * factor


def _bluestein(code: Code, size: int, dtype: str) -> _Transform:
    """As a convolution with a chirp `exp(-pi i t^2 / n)`, of a size that is a power of two."""
    padded = 1 << (2 * size - 2).bit_length()
    convolve = _direct(code, padded, dtype)
    chirp = _pair(code, dtype, size)
    for t in code.range(size):
        wide = tirx.Cast("int64", t)
        phase = tirx.truncmod(wide * wide, tirx.IntImm("int64", 2 * size))
        angle = code.let(tirx.Cast("float64", phase) * (-math.pi / size))
        chirp[t] = _cosine(angle, dtype), _sine(angle, dtype)
    kernel, response = _pair(code, dtype, padded), _pair(code, dtype, padded)
    for t in code.range(padded):
        distance = code.let(select(t < size, t, padded - t))
        near = code.let(select(distance < size, distance, as_index(0)))
        scale = code.let(
            select(distance < size, tirx.const(1.0 / padded, dtype), tirx.const(0.0, dtype))
        )
        a, b = chirp[near]
        kernel[t] = a * scale, b * scale * -1.0
    convolve(kernel, response)

    def transform(x: _Complex, y: _Complex) -> None:
        first, second = _pair(code, dtype, padded), _pair(code, dtype, padded)
        for i in code.strips(size):
            first[i] = _times(x[i], chirp[i])
        for i in code.strips(padded - size, size):
            first[i] = 0.0, 0.0
        convolve(first, second)
        for i in code.strips(padded):
            a, b = second[i]
            kept = code.let(a), code.let(b)
            second[i] = _times(kept, response[i])
        convolve(second.swapped, first.swapped)
        for i in code.strips(size):
            y[i] = _times(first[i], chirp[i])

    return transform
