"""Discrete Fourier transforms: products with matrices, and DFT where a prime factor is large.

The matrices split as Cooley and Tukey do, into transforms of at most 32 elements: as fast as ONNX
Runtime's DFT or faster. That transforms sizes that are no power of two by Bluestein's chirp, whose
angles it computes in the type of the data (in f32 the result for 1000 elements is off by 3e-4 of
the largest), and divides by the size in f32 even for f64. So it runs in f64 (off by 1e-12), and
the inverse is the forward transform of the conjugate.
"""

from __future__ import annotations

import math

import numpy as np

from ....ir.builder import constant
from ....ir.graph import Node, Value
from ....ir.types import f64, i64
from ..lowering import Lowering, Tensor, compose, lowering, plain

_SMALL = 32
"""Size up to which one matrix does the whole transform."""

_LARGE = 128
"""Prime factor up to which a matrix does the transform."""

Complex = tuple[Value, Value]


@lowering("fft")
def _fft(ctx: Lowering, node: Node) -> tuple[Tensor, ...]:
    x, e = node.inputs[0], ctx.e
    size, inverse = int(x.shape[-1]), bool(node.attrs.get("inverse", False))
    if 0 in x.shape:
        return tuple(Tensor(e.const(0, v.dtype), v.type, (), ()) for v in node.outputs)
    if _largest_prime(size) > _LARGE:
        return _by_operator(ctx, node, size, inverse)
    return compose(ctx, node, lambda re, im, inverse=False: _by_products(re, im, inverse))


def _largest_prime(size: int) -> int:
    """The largest prime factor."""
    factor = 2
    while factor * factor <= size:
        if size % factor == 0:
            size //= factor
        else:
            factor += 1
    return size


def _by_operator(ctx: Lowering, node: Node, size: int, inverse: bool) -> tuple[Tensor, ...]:
    real, imag = node.inputs
    e, axis = ctx.e, real.ndim - 1
    re, im = (e.unsqueeze(e.cast(ctx.full(v), f64), [axis + 1]) for v in (real, imag))
    if inverse:
        im = e.op("Neg", im)
    x = e.op("Concat", re, im, axis=axis + 1)
    if axis == 0:  # DFT wants a batch
        y = e.squeeze(e.op("DFT", e.unsqueeze(x, [0]), "", e.const(1, i64)), [0])
    else:
        y = e.op("DFT", x, "", e.const(axis, i64))
    results = []
    for i, v in enumerate(node.outputs):
        part = e.op("Gather", y, e.const(i, i64), axis=axis + 1)
        if inverse:
            part = e.op("Mul", part, e.const((-1.0 if i else 1.0) / size, f64))
        results.append(plain(e.cast(part, real.dtype), v.type))
    return tuple(results)


def _by_products(re: Value, im: Value, inverse: bool) -> Complex:
    size = int(re.shape[-1])
    re, im = _transformed((re, -im if inverse else im))
    return (re * (1.0 / size), im * (-1.0 / size)) if inverse else (re, im)


def _transformed(x: Complex) -> Complex:
    """The transform along the last axis.

    With `n = a b`, `j = j1 b + j2` and `k = k1 + a k2`: transform over j1, multiply by
    `exp(-2 pi i j2 k1 / n)`, transform over j2; what comes out as [k1, k2] is read as [k2, k1].
    """
    batch, n = x[0].shape[:-1], int(x[0].shape[-1])
    a = next((d for d in range(_SMALL, 1, -1) if n % d == 0), n)
    if a == n:
        return _by_matrix(x)
    b, rank = n // a, len(batch)
    swap = (*range(rank), rank + 1, rank)
    columns = tuple(v.reshape((*batch, a, b)).transpose(*swap) for v in x)
    re, im = (v.transpose(*swap) for v in _by_matrix((columns[0], columns[1])))
    c, s = _roots(np.outer(np.arange(a), np.arange(b)), n, re)
    rows = _transformed((re * c - im * s, re * s + im * c))
    re, im = (v.transpose(*swap).reshape((*batch, n)) for v in rows)
    return re, im


def _by_matrix(x: Complex) -> Complex:
    """A product with all cosines and sines: `[re im] [[c, s], [-s, c]]`."""
    re, im = x
    n = int(re.shape[-1])
    c, s = _roots(np.outer(np.arange(n), np.arange(n)), n, re)
    return re @ c - im @ s, re @ s + im @ c


def _roots(steps: np.ndarray, n: int, like: Value) -> Complex:
    """`exp(-2 pi i steps / n)`; quarters of a turn are exact."""
    quarters, rest = np.divmod(4 * (steps % n), n)
    angles = rest * (math.pi / (2 * n))
    turned = (np.cos(angles) - 1j * np.sin(angles)) * np.array([1, -1j, -1, 1j])[quarters]
    return constant(turned.real, like.dtype), constant(turned.imag, like.dtype)
