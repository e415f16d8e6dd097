"""Statistics: quantiles, histograms, correlations, running sums and differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import as_dtype, i32, size_of
from ..operation import operation
from .core import floating, floats, tensor
from .sorting import known, search, sorted_along

METHODS = ("linear", "lower", "higher", "midpoint", "nearest")

# --- quantiles -------------------------------------------------------------------------------


@operation
def quantile(
    x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False
) -> Any:
    """The number below which a share `q` of the elements along `axis` lies.

    Parameters
    ----------
    q : float or vector of floats in [0, 1]
        A vector gives a first axis to the result.
    axis : int, sequence of int or None
        None takes all elements.
    method : str
        Between two elements: `linear` interpolates, `lower` and `higher` take one of them,
        `midpoint` their mean, `nearest` the nearer one.

    Returns
    -------
    tensor
        NaN where an element is NaN.
    """
    return _quantile("quantile", floating(x), tensor(q), axis, method, keepdims, skip_nan=False)


@operation
def percentile(
    x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False
) -> Any:
    """`quantile` with `q` in percent."""
    share = floating(q) / 100
    return _quantile("percentile", floating(x), share, axis, method, keepdims, skip_nan=False)


@operation
def median(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The element in the middle along `axis`, or the mean of the two; NaN if one is NaN."""
    half = sugar.value(0.5)
    return _quantile("median", floating(x), half, axis, "midpoint", keepdims, skip_nan=False)


@operation
def nanquantile(
    x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False
) -> Any:
    """`quantile` of the elements that are not NaN; NaN where there is none."""
    return _quantile("nanquantile", floating(x), tensor(q), axis, method, keepdims, skip_nan=True)


@operation
def nanpercentile(
    x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False
) -> Any:
    """`percentile` of the elements that are not NaN; NaN where there is none."""
    share = floating(q) / 100
    return _quantile("nanpercentile", floating(x), share, axis, method, keepdims, skip_nan=True)


@operation
def nanmedian(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """`median` of the elements that are not NaN; NaN where there is none."""
    half = sugar.value(0.5)
    return _quantile("nanmedian", floating(x), half, axis, "midpoint", keepdims, skip_nan=True)


def _quantile(
    name: str, x: Value, q: Value, axis: Any, method: str, keepdims: bool, skip_nan: bool
) -> Value:
    if method not in METHODS:
        raise ArgumentError(f"{name}: method must be one of {', '.join(METHODS)}, got {method!r}")
    if q.ndim > 1:
        raise ShapeError(f"{name}: q must be a number or a vector, got {q.type}")
    axes = sugar.normalize_axes(name, axis, x.ndim)
    kept = [i for i in range(x.ndim) if i not in axes]
    lead = tuple(x.shape[i] for i in kept)
    size = int(size_of(x.shape[a] for a in axes))
    if size == 0:
        raise ShapeError(f"{name}: there must be elements, got {x.type}")
    rows = sugar.reshape(sugar.transpose(x, [*kept, *axes]), (*lead, size))
    shares = sugar.reshape(floating(q), (-1,))
    result = _at_shares(rows, shares, method, skip_nan)
    result = sugar.transpose(result, [len(lead), *range(len(lead))])
    if keepdims:
        ones = tuple(1 if i in axes else d for i, d in enumerate(x.shape))
        result = sugar.reshape(result, (result.shape[0], *ones))
    return sugar.cast(sugar.reshape(result, result.shape[1:]) if q.ndim == 0 else result, x.dtype)


def _at_shares(rows: Value, shares: Value, method: str, skip_nan: bool) -> Value:
    """For each row its quantiles, along a last axis."""
    ordered = sorted_along(rows, rows.ndim - 1)
    nan = sugar.binary("not_equal", rows, rows)
    last: Any = int(rows.shape[-1]) - 1
    if skip_nan:  # sorted, they are behind all others
        there = sugar.cast(sugar.unary("logical_not", nan), shares.dtype)
        count = sugar.reduce("reduce_sum", there, -1, keepdims=True)
        last = sugar.binary("maximum", count - 1, 0)
    place = sugar.broadcast_to(shares * last, (*rows.shape[:-1], shares.shape[0]))
    floor, ceil = sugar.unary("floor", place), sugar.unary("ceil", place)

    def at(position: Value) -> Value:
        inside = sugar.binary("minimum", sugar.binary("maximum", position, 0), last)
        return primitive("take_along")(ordered, sugar.cast(inside, i32), axis=ordered.ndim - 1)

    weight = sugar.cast(place - floor, ordered.dtype)
    found = _interpolated(at(floor), at(ceil), weight, method)
    if skip_nan:
        return found
    spoiled = sugar.reduce("reduce_any", nan, -1, keepdims=True)
    return sugar.select(spoiled, np.nan, found)


def _interpolated(low: Value, high: Value, weight: Value, method: str) -> Value:
    if method == "linear":
        return low * (1 - weight) + high * weight
    if method == "midpoint":
        return (low + high) * 0.5
    if method == "nearest":
        return sugar.select(weight <= 0.5, low, high)
    return low if method == "lower" else high


# --- counting --------------------------------------------------------------------------------


@operation
def histogram(x: Any, bins: int = 10, range: Any = None) -> Any:
    """How many elements of a vector fall in each of `bins` intervals of one width.

    Parameters
    ----------
    range : pair of floats, optional
        Where the first begins and the last ends, both included; elements beyond do not count.
        The smallest and the largest element by default.

    Returns
    -------
    tuple of tensors
        Counts as floats, and the `bins + 1` ends of the intervals.
    """
    x = floating(x)
    if not isinstance(bins, int) or bins < 1:
        raise ArgumentError(f"histogram: bins must be a positive int, got {bins!r}")
    flat = sugar.reshape(x, (x.type.size,))
    edges = _edges(flat, bins, range)
    place = search(edges, flat, "right")
    place = sugar.select(sugar.binary("equal", flat, edges[-1]), bins, place)
    ones = sugar.full(flat.shape, 1, x.dtype)
    counts = primitive("scatter_add")(sugar.full((bins + 2,), 0, x.dtype), place, ones, axis=0)
    return counts[1 : bins + 1], edges


def _edges(x: Value, bins: int, limits: Any) -> Value:
    if limits is not None:
        low, high = (sugar.value(float(v), x.dtype) for v in limits)
    elif x.shape[0] == 0:
        low, high = sugar.value(0.0, x.dtype), sugar.value(1.0, x.dtype)
    else:
        low, high = sugar.reduce("reduce_min", x), sugar.reduce("reduce_max", x)
    same = sugar.binary("equal", low, high)
    low, high = sugar.select(same, low - 0.5, low), sugar.select(same, high + 0.5, high)
    share = constant(np.linspace(0, 1, bins + 1), x.dtype)
    return low * (1 - share) + high * share


@operation
def bincount(x: Any, weights: Any = None, minlength: int = 0, sparse: bool = False) -> Any:
    """How often each whole number from 0 up occurs in a vector, or in each row of a matrix.

    Parameters
    ----------
    weights : tensor of the shape of `x`, optional
        What each occurrence counts, in place of 1.
    minlength : int
        The least length of the result, which otherwise reaches to the largest number.

    Raises
    ------
    DTypeError
        If `x` is traced: the length of the result depends on its numbers; `segment_sum` with
        `num_segments` counts into a given length.
    """
    if sparse:
        raise ArgumentError("bincount: sparse tensors are not supported")
    x = tensor(x)
    instead = "segment_sum(ones, x, num_segments=...), whose length is given"
    array = known("bincount", x, instead)
    if x.ndim not in (1, 2):
        raise ShapeError(f"bincount: x must be a vector or a matrix, got {x.type}")
    count = max(int(array.max()) + 1 if array.size else 0, int(minlength))
    amount = sugar.full(x.shape, 1, i32) if weights is None else tensor(weights)
    place = sugar.binary("maximum", sugar.cast(x, i32), 0)
    rows = int(x.shape[0]) if x.ndim == 2 else 1
    if count == 0:
        return sugar.full((*x.shape[:-1], 0), 0, amount.dtype)
    if x.ndim == 2:
        place = place + constant(np.arange(rows)[:, None] * count, i32)
    flat, amount = (sugar.reshape(v, (v.type.size,)) for v in (place, amount))
    zeros = sugar.full((rows * count,), 0, amount.dtype)
    counts = primitive("scatter_add")(zeros, flat, amount, axis=0)
    return sugar.reshape(counts, (rows, count)) if x.ndim == 2 else counts


# --- correlation -----------------------------------------------------------------------------


@operation
def corrcoef(x: Any) -> Any:
    """Pearson's correlation of every row of `x` with every other; a vector is one row."""
    x = floating(x)
    if x.ndim > 2:
        raise ShapeError(f"corrcoef: x must be a vector or a matrix, got {x.type}")
    rows = sugar.reshape(x, (1, -1)) if x.ndim < 2 else x
    centred = rows - sugar.mean(rows, -1, keepdims=True)
    together = sugar.matmul(centred, sugar.transpose(centred)) / (int(x.shape[-1]) - 1)
    variance = sugar.reduce("reduce_sum", centred * centred, -1) / (int(x.shape[-1]) - 1)
    spread = sugar.unary("sqrt", variance)
    result = together / spread[:, None] / spread[None, :]
    result = sugar.binary("minimum", sugar.binary("maximum", result, -1.0), 1.0)
    return sugar.reshape(result, ()) if x.ndim < 2 else result


@operation
def correlate(x1: Any, x2: Any, mode: str = "valid") -> Any:
    """Sums of products of two vectors, one moved along the other.

    Parameters
    ----------
    mode : str
        `valid`: where they overlap fully; `same`: as many as the longer one has; `full`: where
        they overlap at all.
    """
    a, b = floats(x1, x2)
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"correlate: x1 and x2 must be vectors, got {a.type} and {b.type}")
    turned = int(a.shape[0]) < int(b.shape[0])
    a, b = (b, a) if turned else (a, b)
    reach = int(b.shape[0])
    pads = {"valid": (0, 0), "same": (reach // 2, reach - reach // 2 - 1),
            "full": (reach - 1, reach - 1)}  # fmt: skip
    if mode not in pads:
        raise ArgumentError(f"correlate: mode must be valid, same or full, got {mode!r}")
    found = primitive("conv")(
        sugar.reshape(a, (1, -1, 1)), sugar.reshape(b, (-1, 1, 1)), strides=(1,),
        padding=(pads[mode],), input_dilation=(1,), kernel_dilation=(1,), groups=1,
    )  # fmt: skip
    result = sugar.reshape(found, (-1,))
    return result[::-1] if turned else result


@operation
def psnr(x1: Any, x2: Any, max_val: float) -> Any:
    """The peak signal-to-noise ratio in dB: `20 log10(max_val) - 10 log10(mean((x1 - x2)**2))`."""
    a, b = floats(tensor(x1), tensor(x2))
    if a.shape != b.shape:
        raise ShapeError(f"psnr: shapes must be equal, got {a.type} and {b.type}")
    apart = a - b
    error = sugar.unary("log10", sugar.mean(apart * apart))
    return sugar.unary("log10", sugar.value(max_val, a.dtype)) * 20 - error * 10


# --- along an axis ---------------------------------------------------------------------------


@operation
def cumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Any:
    """The sum of each element and those before it along `axis`; of the flat tensor by default."""
    return running("cumsum", tensor(x), axis, dtype)


@operation
def cumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Any:
    """The product of each element and those before it along `axis`; flat by default."""
    return running("cumprod", tensor(x), axis, dtype)


def running(name: str, x: Value, axis: int | None, dtype: Any) -> Value:
    """A cumulative op; bools count as int32."""
    if axis is None:
        x, axis = sugar.reshape(x, (x.type.size,)), 0
    to = None if dtype is None else as_dtype(dtype)
    x = x if to is None else sugar.cast(x, to)
    x = sugar.cast(x, i32) if x.dtype.is_bool else x
    axis = sugar.normalize_axis(name, axis, x.ndim)
    return sugar.cast(primitive(name)(x, axis=axis, reverse=False), to or x.dtype)


@operation
def diff(a: Any, n: int = 1, axis: int = -1) -> Any:
    """Each element less the one before it along `axis`, `n` times over."""
    x = tensor(a)
    axis = sugar.normalize_axis("diff", axis, x.ndim)
    if n < 0:
        raise ArgumentError(f"diff: n must be 0 or more, got {n}")
    before = (slice(None),) * axis
    for _ in range(n):
        later, earlier = x[(*before, slice(1, None))], x[(*before, slice(None, -1))]
        x = sugar.binary("not_equal" if x.dtype.is_bool else "sub", later, earlier)
    return x


@operation
def ptp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element less the smallest."""
    x = tensor(x)
    high = sugar.reduce("reduce_max", x, axis, keepdims)
    return high - sugar.reduce("reduce_min", x, axis, keepdims)


@operation
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """The integral of samples `y` along `axis` by the trapezoidal rule.

    Parameters
    ----------
    x : tensor, optional
        Where the samples lie: a vector, or a tensor of the shape of `y`.
    dx : float
        The distance of samples, if `x` is not given.
    """
    y = floating(y)
    axis = sugar.normalize_axis("trapezoid", axis, y.ndim)
    y = sugar.transpose(y, [*(i for i in range(y.ndim) if i != axis), axis])
    width: Any = floating(dx) if isinstance(dx, Value | np.ndarray) else dx
    if x is not None:
        x = floating(x)
        if x.ndim > 1:
            x = sugar.transpose(x, [*(i for i in range(x.ndim) if i != axis), axis])
        width = x[..., 1:] - x[..., :-1]
    return sugar.reduce("reduce_sum", (y[..., 1:] + y[..., :-1]) * 0.5 * width, -1)


__all__ = [
    "bincount", "corrcoef", "correlate", "cumprod", "cumsum", "diff", "histogram", "median",
    "nanmedian", "nanpercentile", "nanquantile", "percentile", "psnr", "ptp", "quantile",
    "trapezoid",
]  # fmt: skip
