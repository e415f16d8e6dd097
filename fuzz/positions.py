"""Proposals for ops along an axis, at computed positions, and of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..ir.graph import Value
from ..ir.op import Op
from ..ir.types import DType, TensorType, f32, f64, i32
from .pool import INTEGERS, Pool
from .proposals import indices, proposes

# --- along an axis ---------------------------------------------------------------------------


def _along(p: Pool, *, floats: bool = False, least: int = 0) -> tuple[Value, int]:
    """A value of numbers and one of its axes."""
    dtype = p.float_dtype() if floats or p.chance(0.75) else p.pick(INTEGERS)
    x = p.some(lambda v: v.dtype == dtype and v.ndim > 0 and min(v.shape) >= least,
               TensorType(dtype, p.shape(p.between(1, 3), least)))  # fmt: skip
    return x, p.below(x.ndim)


@proposes("cumsum", "cumprod", "cummax", "cummin")
def _cumulative(p: Pool, op: Op) -> Sequence[Value]:
    x, axis = _along(p)
    return op.all(x, axis=axis, reverse=p.chance(0.4))


@proposes("linear_recurrence")
def _linear_recurrence(p: Pool, op: Op) -> Sequence[Value]:
    x, axis = _along(p, floats=True)
    a = p.within(p.need(x.type), -1.2, 1.2)
    return op.all(a, x, axis=axis, reverse=p.chance(0.4))


@proposes("sort", "argsort")
def _sort(p: Pool, op: Op) -> Sequence[Value]:
    x, axis = _along(p)
    return op.all(x, axis=axis, descending=p.chance(0.5))


@proposes("top_k")
def _top_k(p: Pool, op: Op) -> Sequence[Value]:
    x, _ = _along(p)
    return op.all(x, k=p.between(0, int(x.shape[-1])))


# --- computed positions ----------------------------------------------------------------------


def _starts(p: Pool, x: Value) -> list[Value]:
    dtype = p.pick((i32, i32, *INTEGERS))
    low = 0 if dtype.kind == "uint" else -2
    return [p.need(TensorType(dtype, ()), (low, int(d) + 2)) for d in x.shape]


def _any(p: Pool) -> Value:
    return p.some(lambda v: v.ndim > 0, TensorType(p.dtype(), p.shape(p.between(1, 3))))


@proposes("dynamic_slice")
def _dynamic_slice(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p)
    sizes = tuple(p.between(0, int(d)) if p.chance(0.6) else int(d) for d in x.shape)
    return op.all(x, *_starts(p, x), sizes=sizes)


@proposes("dynamic_update")
def _dynamic_update(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p)
    sizes = tuple(p.between(0, int(d)) if p.chance(0.6) else int(d) for d in x.shape)
    return op.all(x, p.need(x.type.with_shape(sizes)), *_starts(p, x))


@proposes("scatter")
def _scatter(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p)
    axis = p.below(x.ndim)
    combine = "set" if x.dtype.is_bool else p.pick(("set", "max", "min", "prod"))
    shape = p.shape(p.pick((0, 1, 2), (0.2, 0.6, 0.2)))
    updates = x.type.with_shape((*x.shape[:axis], *shape, *x.shape[axis + 1 :]))
    at = indices(p, shape, int(x.shape[axis]))
    return op.all(x, at, p.need(updates), axis=axis, combine=combine)


def _indices_along(p: Pool, x: Value, axis: int) -> Value:
    count = p.between(0, 5) if x.shape[axis] else 0
    shape = tuple(count if i == axis else int(d) for i, d in enumerate(x.shape))
    return indices(p, shape, int(x.shape[axis]))


@proposes("take_along")
def _take_along(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p)
    axis = p.below(x.ndim)
    return op.all(x, _indices_along(p, x, axis), axis=axis)


@proposes("scatter_add_along")
def _scatter_add_along(p: Pool, op: Op) -> Sequence[Value]:
    x, axis = _along(p)
    at = _indices_along(p, x, axis)
    return op.all(x, at, p.need(x.type.with_shape(at.shape)), axis=axis)


# --- matrices --------------------------------------------------------------------------------


def _wide(p: Pool) -> DType:
    return f64 if p.wide or p.chance(0.3) else f32


def _batch(p: Pool) -> tuple[int, ...]:
    return p.pick(((), (), (2,), (0,), (1, 3)))


def _matrix(p: Pool, dtype: DType, rows: int, columns: int, batch: tuple[int, ...]) -> Value:
    return p.need(TensorType(dtype, (*batch, rows, columns)))


def _definite(p: Pool, dtype: DType, size: int, batch: tuple[int, ...]) -> Value:
    """A symmetric matrix of positive eigenvalues, well conditioned."""
    x = p.emit("tanh", _matrix(p, dtype, size, size, batch))
    return p.emit("matmul", x, x, transpose_b=True) * (0.5 / max(1, size)) + np.eye(
        size, dtype=dtype.numpy
    )


@proposes("cholesky")
def _cholesky(p: Pool, op: Op) -> Sequence[Value]:
    return op.all(_definite(p, _wide(p), p.size(), _batch(p)))


@proposes("triangular_solve")
def _triangular_solve(p: Pool, op: Op) -> Sequence[Value]:
    dtype, size, batch = _wide(p), p.size(), _batch(p)
    a = _definite(p, dtype, size, batch)
    b = _matrix(p, dtype, size, p.size(), batch)
    flags = {name: p.chance(0.5) for name in ("lower", "transpose", "unit_diagonal")}
    return op.all(a, b, **flags)


@proposes("fft")
def _fft(p: Pool, op: Op) -> Sequence[Value]:
    dtype = _wide(p)
    shape = p.shape(p.between(1, 3), 1)
    if math.prod(shape) > 300:
        return op.all(*(p.need(dtype(3, 5)) for _ in range(2)), inverse=p.chance(0.5))
    return op.all(p.need(dtype(*shape)), p.need(dtype(*shape)), inverse=p.chance(0.5))
