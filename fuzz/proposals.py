"""Operands and attributes for each op: what makes a random graph use all of the registry.

Elementwise ops are proposed from the dtypes of their samples, reductions from their signature,
the others by a function each. An op that has none here is proposed as its samples are, so that
every op of the registry appears.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.builder import constant
from ..ir.graph import Value, substitute_attribute
from ..ir.op import Case, Op
from ..ir.types import DType, TensorType, i32, u32
from .pool import INTEGERS, Pool

Proposal = Callable[[Pool, Op], Sequence[Value] | None]
PROPOSALS: dict[str, Proposal] = {}


def proposes(*names: str) -> Callable[[Proposal], Proposal]:
    """Register the function that proposes nodes of these ops."""

    def register(function: Proposal) -> Proposal:
        PROPOSALS.update(dict.fromkeys(names, function))
        return function

    return register


def propose(p: Pool, op: Op) -> Sequence[Value] | None:
    """Outputs of a node of this op; None if nothing fits this time.

    Raises
    ------
    HornfelsError
        If what was proposed is not legal: try again.
    """
    if op.name in PROPOSALS and not p.chance(0.05):
        return PROPOSALS[op.name](p, op)
    if op.kind == "elementwise":
        return _elementwise(p, op)
    if op.kind == "reduce":
        return _reduction(p, op)
    return _as_sampled(p, op)


# --- from the declaration --------------------------------------------------------------------


def _another(p: Pool, dtype: DType) -> DType:
    """A dtype of the same kind, often the same."""
    if dtype.is_float and p.wide:
        return p.float_dtype()
    if p.chance(0.5) or dtype.is_bool:
        return dtype
    if dtype.is_float:
        return p.float_dtype()
    same = [d for d in INTEGERS if d.kind == dtype.kind]
    return p.pick(same)


def _elementwise(p: Pool, op: Op) -> Sequence[Value]:
    """Dtypes as in a sample, or others of their kind; any shape."""
    case = p.pick([c for c in op.samples if c.types])
    mapped = {t.dtype: _another(p, t.dtype) for t in case.types}
    first = mapped[case.types[0].dtype]
    x = p.some(lambda v: v.dtype == first, TensorType(first, p.shape()))
    operands = [_in_domain(p, x, case)]
    for t in case.types[1:]:
        y = p.need(TensorType(mapped[t.dtype], x.shape), case.integers)
        operands.append(_in_domain(p, y, case))
    if case.integers and first.is_integer and op.name.startswith("shift"):
        operands[1] = p.need(operands[1].type, (0, min(first.bits, case.integers[1])))
    attrs = {k: mapped.get(v, v) if isinstance(v, DType) else v for k, v in case.attrs.items()}
    return op.all(*operands, **attrs)


def _in_domain(p: Pool, x: Value, case: Case) -> Value:
    """`x`, mostly where the sample's operands lie, so that no NaN comes out."""
    if not x.dtype.is_float or case.domain == (-2.0, 2.0) or p.chance(0.1):
        return x
    return p.within(x, *case.domain)


def _reduction(p: Pool, op: Op) -> Sequence[Value]:
    case = p.pick(op.samples)
    dtype = _another(p, case.types[0].dtype)
    least = 1 if op.name.startswith("arg") else 0
    new = TensorType(dtype, p.shape(p.between(1, 4), least))
    x = p.some(lambda v: v.dtype == dtype and v.ndim > 0, new)
    if "axes" in inspect.signature(op.type).parameters:
        count = p.between(1, x.ndim)
        axes = sorted(int(a) for a in p.rng.permutation(x.ndim)[:count])
        return op.all(x, axes=tuple(axes))
    return op.all(x, axis=p.below(x.ndim))


def _as_sampled(p: Pool, op: Op) -> Sequence[Value]:
    """The types and attributes of a sample; only the numbers differ."""
    case = p.pick(op.samples)
    sizes = {"N": p.between(1, 4)}
    types = [t.substitute(sizes) for t in case.types]
    operands = [_in_domain(p, p.need(t, case.integers), case) for t in types]
    if case.prepare is not None:  # operands must be legal: constants are
        arrays = case.prepare([p.array(v) for v in operands])
        operands = [
            v if np.array_equal(p.array(v), a) else constant(a, v.dtype)
            for v, a in zip(operands, arrays, strict=True)
        ]
    return op.all(*operands, **{k: substitute_attribute(v, sizes) for k, v in case.attrs.items()})


# --- constants and positions -----------------------------------------------------------------


@proposes("constant")
def _constant(p: Pool, op: Op) -> Sequence[Value]:
    return [p.number(TensorType(p.dtype(), p.shape()))]


@proposes("iota")
def _iota(p: Pool, op: Op) -> Sequence[Value]:
    shape = p.shape(p.between(1, 3))
    dtype = p.float_dtype() if p.chance(0.4) else p.pick(INTEGERS)
    return op.all(shape=shape, axis=p.below(len(shape)), dtype=dtype)


@proposes("rng_bits")
def _rng_bits(p: Pool, op: Op) -> Sequence[Value]:
    return op.all(p.need(u32(2)), shape=p.shape())


@proposes("dimension_size")
def _dimension_size(p: Pool, op: Op) -> Sequence[Value]:
    x = p.some(lambda v: v.ndim > 0, TensorType(p.dtype(), p.shape(2)))
    return op.all(x, axis=p.below(x.ndim))


@proposes("cast")
def _cast(p: Pool, op: Op) -> Sequence[Value]:
    """Any pair of dtypes; floats become integers only where that is defined."""
    x = p.some(lambda v: True, TensorType(p.dtype(), p.shape()))
    dtype = p.dtype()
    if x.dtype.is_float and dtype.is_integer:
        x = p.within(x, 0.0 if dtype.kind == "uint" else -100.0, 100.0)
    return op.all(x, dtype=dtype)


# --- moving elements -------------------------------------------------------------------------


def _any(p: Pool, rank: int | None = None, least_rank: int = 0) -> Value:
    """A value of any dtype, of that rank or at least of another."""

    def fits(v: Value) -> bool:
        return v.ndim == rank if rank is not None else v.ndim >= least_rank

    wanted = rank if rank is not None else p.between(max(least_rank, 1), 3)
    return p.some(fits, TensorType(p.dtype(), p.shape(wanted)))


@proposes("broadcast")
def _broadcast(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p)
    more = p.between(0, max(0, 4 - x.ndim))
    rank = x.ndim + more
    axes = tuple(sorted(int(a) for a in p.rng.permutation(rank)[: x.ndim]))
    shape = [p.size() for _ in range(rank)]
    for size, axis in zip(x.shape, axes, strict=True):
        shape[axis] = p.size() if size == 1 and p.chance(0.6) else int(size)
    return op.all(x, shape=tuple(shape), axes=axes)


@proposes("reshape")
def _reshape(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p)
    return op.all(x, shape=_other_shape(p, math.prod(map(int, x.shape))))


def _other_shape(p: Pool, elements: int) -> tuple[int, ...]:
    """A shape of that many elements."""
    shape: list[int] = []
    rest = elements
    for _ in range(p.between(0, 3)):
        divisors = [d for d in range(1, min(rest, 40) + 1) if rest % d == 0] if rest else [0, 2]
        shape.append(p.pick(divisors))
        rest = rest // shape[-1] if shape[-1] else 0
    if rest != 1 or not shape or math.prod(shape) != elements:
        shape.append(rest)
    order = p.rng.permutation(len(shape))
    return tuple(shape[int(i)] for i in order)


@proposes("transpose")
def _transpose(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p, least_rank=1)
    return op.all(x, permutation=tuple(int(a) for a in p.rng.permutation(x.ndim)))


@proposes("concat")
def _concat(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p, least_rank=1)
    axis = p.below(x.ndim)
    others = []
    for _ in range(p.pick((0, 1, 2), (0.1, 0.6, 0.3))):
        size = int(x.shape[axis]) if p.chance(0.5) else p.between(0, 4)
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        others.append(x if p.chance(0.15) else p.need(TensorType(x.dtype, shape)))
    operands = [x, *others]
    return op.all(*(operands[int(i)] for i in p.rng.permutation(len(operands))), axis=axis)


@proposes("slice")
def _slice(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p, least_rank=1)
    starts, limits, strides = [], [], []
    for size in map(int, x.shape):
        whole = p.chance(0.5)
        starts.append(0 if whole else p.between(0, size))
        limits.append(size if whole else p.between(starts[-1], size))
        strides.append(1 if p.chance(0.7) else p.between(1, 3))
    return op.all(x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))


@proposes("pad")
def _pad(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p, least_rank=1)
    low, high, interior = [], [], []
    for size in map(int, x.shape):
        interior.append(p.between(1, 2) if p.chance(0.15) else 0)
        length = (size - 1) * (interior[-1] + 1) + 1 if size else 0
        cut = -p.between(0, min(length, 2)) if p.chance(0.2) else p.pick((0, 0, 1, 2))
        low.append(cut)
        rest = length + min(cut, 0)
        high.append(-p.between(0, min(rest, 2)) if p.chance(0.2) else p.pick((0, 0, 1, 3)))
    value = p.pick((0.0, 0.0, 1.0, 2.0, -1.0)) if x.dtype.kind != "uint" else p.pick((0.0, 3.0))
    if x.dtype.is_bool:
        value = p.pick((0.0, 1.0))
    return op.all(x, low=tuple(low), high=tuple(high), interior=tuple(interior), value=value)


@proposes("reverse")
def _reverse(p: Pool, op: Op) -> Sequence[Value]:
    x = _any(p, least_rank=1)
    axes = sorted(int(a) for a in p.rng.permutation(x.ndim)[: p.between(1, x.ndim)])
    return op.all(x, axes=tuple(axes))


# --- positions that are computed -------------------------------------------------------------


def indices(p: Pool, shape: Sequence[int], size: int) -> Value:
    """Positions along an axis, some out of range."""
    dtype = p.pick((i32, i32, *INTEGERS))
    low = 0 if dtype.kind == "uint" else -2
    return p.need(TensorType(dtype, tuple(shape)), (low, size + 2))


@proposes("gather")
def _gather(p: Pool, op: Op) -> Sequence[Value] | None:
    x = _any(p, least_rank=1)
    axis = p.below(x.ndim)
    shape = p.shape(p.pick((0, 1, 2), (0.2, 0.6, 0.2)))
    return op.all(x, indices(p, shape, int(x.shape[axis])), axis=axis)


@proposes("scatter_add")
def _scatter_add(p: Pool, op: Op) -> Sequence[Value] | None:
    x = _any(p, least_rank=1)
    axis = p.below(x.ndim)
    shape = p.shape(p.pick((0, 1, 2), (0.2, 0.6, 0.2)))
    updates = x.type.with_shape((*x.shape[:axis], *shape, *x.shape[axis + 1 :]))
    return op.all(x, indices(p, shape, int(x.shape[axis])), p.need(updates), axis=axis)


# --- products, convolutions, windows ---------------------------------------------------------


def _number_dtype(p: Pool) -> DType:
    return p.float_dtype() if p.chance(0.85) else p.pick(INTEGERS)


@proposes("matmul")
def _matmul(p: Pool, op: Op) -> Sequence[Value]:
    dtype = _number_dtype(p)
    a = p.some(lambda v: v.dtype == dtype and v.ndim >= 2,
               TensorType(dtype, (*p.shape(p.pick((0, 0, 1, 2))), p.size(), p.size())))  # fmt: skip
    transpose_a, transpose_b = p.chance(0.3), p.chance(0.3)
    inner, columns = a.shape[-2 if transpose_a else -1], p.size()
    shape = (columns, inner) if transpose_b else (inner, columns)
    b = p.need(TensorType(dtype, (*a.shape[:-2], *shape)))
    return op.all(a, b, transpose_a=transpose_a, transpose_b=transpose_b)


def _conv_geometry(p: Pool, rank: int) -> dict[str, Any]:
    def each(odds: float, choices: Sequence[Any], default: Any) -> tuple[Any, ...]:
        return tuple(p.pick(choices) if p.chance(odds) else default for _ in range(rank))

    return {
        "strides": each(0.3, (2, 3), 1),
        "padding": each(0.5, ((1, 1), (0, 1), (2, 1), (1, 0)), (0, 0)),
        "input_dilation": each(0.15, (2, 3), 1),
        "kernel_dilation": each(0.15, (2,), 1),
        "groups": p.pick((1, 2, 3), (0.7, 0.2, 0.1)),
    }


def _conv_operands(p: Pool) -> tuple[Value, Value, dict[str, Any]]:
    """Operands that nearly always fit."""
    rank = p.pick((1, 2, 3), (0.25, 0.6, 0.15))
    attrs = _conv_geometry(p, rank)
    dtype, groups = p.float_dtype(), attrs["groups"]
    channels = groups * p.between(1, 3)
    kernel = tuple(p.pick((1, 2, 3)) for _ in range(rank))
    spatial = tuple(p.between(k + 1, k + 5) for k in kernel)
    count = p.pick((0, 1, 2, 3), (0.05, 0.45, 0.4, 0.1))
    new = TensorType(dtype, (count, *spatial, channels))
    x = p.some(lambda v: v.dtype == dtype and v.ndim == new.ndim and v.shape[-1] == channels, new)
    filters = groups * p.between(1, 4)
    w = p.need(TensorType(dtype, (*kernel, channels // groups, filters)))
    return x, w, attrs


@proposes("conv")
def _conv(p: Pool, op: Op) -> Sequence[Value]:
    x, w, attrs = _conv_operands(p)
    return op.all(x, w, **attrs)


@proposes("conv_input_grad")
def _conv_input_grad(p: Pool, op: Op) -> Sequence[Value]:
    from ..ir.ops.conv import conv

    x, w, attrs = _conv_operands(p)
    (out,) = conv.infer(x.type, w.type, **attrs)
    return op.all(p.need(out), w, input_shape=x.shape, **attrs)


@proposes("conv_kernel_grad")
def _conv_kernel_grad(p: Pool, op: Op) -> Sequence[Value]:
    from ..ir.ops.conv import conv

    x, w, attrs = _conv_operands(p)
    (out,) = conv.infer(x.type, w.type, **attrs)
    return op.all(x, p.need(out), kernel_shape=w.shape, **attrs)


def _window(p: Pool, dtype: DType) -> tuple[Value, dict[str, Any]]:
    rank = p.pick((1, 2, 3), (0.25, 0.6, 0.15))
    window = tuple(p.between(1, 3) for _ in range(rank))
    spatial = tuple(p.between(k, k + 5) for k in window)
    count = p.pick((0, 1, 2), (0.05, 0.5, 0.45))
    new = TensorType(dtype, (count, *spatial, p.between(1, 4)))
    x = p.some(lambda v: v.dtype == dtype and v.ndim == new.ndim, new)
    padding = tuple((p.below(k), p.below(k)) if p.chance(0.4) else (0, 0) for k in window)
    strides = tuple(p.between(1, 3) for _ in range(rank))
    return x, {"window": window, "strides": strides, "padding": padding}


@proposes("max_pool")
def _max_pool(p: Pool, op: Op) -> Sequence[Value]:
    x, attrs = _window(p, _number_dtype(p))
    return op.all(x, **attrs)


@proposes("max_pool_grad")
def _max_pool_grad(p: Pool, op: Op) -> Sequence[Value]:
    from ..ir.ops.window import max_pool

    x, attrs = _window(p, p.float_dtype())
    (out,) = max_pool.infer(x.type, **attrs)
    return op.all(x, p.need(out), **attrs)


@proposes("avg_pool")
def _avg_pool(p: Pool, op: Op) -> Sequence[Value]:
    x, attrs = _window(p, p.float_dtype())
    return op.all(x, include_padding=p.chance(0.5), **attrs)


@proposes("avg_pool_grad")
def _avg_pool_grad(p: Pool, op: Op) -> Sequence[Value]:
    from ..ir.ops.window import avg_pool

    x, attrs = _window(p, p.float_dtype())
    attrs["include_padding"] = p.chance(0.5)
    (out,) = avg_pool.infer(x.type, **attrs)
    return op.all(p.need(out), input_shape=x.shape, **attrs)
