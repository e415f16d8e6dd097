"""Making arrays, and moving their elements: shapes, axes, joining, taking."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Dim, Size, as_dtype, i32, size_of
from .. import config
from ..operation import operation
from .core import floating, tensor

Axes = int | Sequence[int] | None


def sizes(shape: Any) -> tuple[Size, ...]:
    """A shape as users write it: an int, a sequence, an array."""
    if isinstance(shape, int | Dim | np.integer):
        shape = (shape,)
    return tuple(d if isinstance(d, Dim) else int(d) for d in shape)


# --- making ----------------------------------------------------------------------------------


@operation
def zeros(shape: Any, dtype: Any = None) -> Any:
    """Zeros of `config.floatx()` unless `dtype` says otherwise."""
    return sugar.full(sizes(shape), 0, dtype or config.floatx())


@operation
def ones(shape: Any, dtype: Any = None) -> Any:
    """Ones of `config.floatx()` unless `dtype` says otherwise."""
    return sugar.full(sizes(shape), 1, dtype or config.floatx())


@operation
def full(shape: Any, fill_value: Any, dtype: Any = None) -> Any:
    """An array of one value, or of a tensor broadcast to `shape`."""
    return sugar.broadcast_to(tensor(fill_value, dtype or config.floatx()), sizes(shape))


@operation
def zeros_like(x: Any, dtype: Any = None) -> Any:
    """Zeros of the shape of `x`, and of its dtype."""
    x = tensor(x)
    return sugar.full(x.shape, 0, dtype or x.dtype)


@operation
def ones_like(x: Any, dtype: Any = None) -> Any:
    """Ones of the shape of `x`, and of its dtype."""
    x = tensor(x)
    return sugar.full(x.shape, 1, dtype or x.dtype)


@operation
def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Any:
    """`fill_value` in the shape of `x`, and its dtype."""
    x = tensor(x)
    return sugar.broadcast_to(tensor(fill_value, dtype or x.dtype), x.shape)


@operation
def arange(start: Any, stop: Any = None, step: Any = None, dtype: Any = None) -> Any:
    """`start, start + step, ...` up to and without `stop`; int32 if all three are ints."""
    start, stop = (0, start) if stop is None else (start, stop)
    step = 1 if step is None else step
    if dtype is None:
        whole = all(isinstance(v, int | np.integer | Dim) for v in (start, stop, step))
        dtype = i32 if whole else config.floatx()
    if isinstance(stop, Dim):
        if (start, step) != (0, 1):
            raise ShapeError(f"arange: an open size {stop} needs start 0 and step 1")
        return primitive("iota")(shape=(stop,), axis=0, dtype=as_dtype(dtype))
    return constant(np.arange(start, stop, step), dtype)


@operation
def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False,
    dtype: Any = None, axis: int = 0,
) -> Any:  # fmt: skip
    """`num` numbers evenly from `start` to `stop`."""
    if retstep or axis != 0:
        raise ArgumentError("linspace: retstep and axis are not supported")
    points = np.linspace(float(start), float(stop), num, endpoint)
    return constant(points, dtype or config.floatx())


@operation
def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Any:
    """Ones on diagonal `k`, zeros elsewhere."""
    return constant(np.eye(N, M, k), dtype or config.floatx())


@operation
def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Any:
    """Ones on and below diagonal `k`, zeros elsewhere."""
    return constant(np.tri(N, M, k), dtype or config.floatx())


def identity(n: int, dtype: Any = None) -> Any:
    """The identity matrix of `n` rows."""
    return eye(n, dtype=dtype)


def _triangle(name: str, x: Value, k: int, lower: bool) -> Value:
    if x.ndim < 2:
        raise ShapeError(f"{name}: x must have rank 2 or more, got {x.type}")
    iota = primitive("iota")
    shape = x.shape[-2:]
    rows, columns = (iota(shape=shape, axis=a, dtype=i32) for a in (0, 1))
    keep = columns <= rows + k if lower else columns >= rows + k
    return sugar.select(keep, x, 0)


@operation
def tril(x: Any, k: int = 0) -> Any:
    """`x` with zeros above diagonal `k`."""
    return _triangle("tril", tensor(x), k, lower=True)


@operation
def triu(x: Any, k: int = 0) -> Any:
    """`x` with zeros below diagonal `k`."""
    return _triangle("triu", tensor(x), k, lower=False)


# --- shape -----------------------------------------------------------------------------------


@operation
def reshape(x: Any, newshape: Any) -> Any:
    """The elements in row-major order in a new shape; one size may be -1."""
    x = tensor(x)
    wanted = [newshape] if isinstance(newshape, int | Dim) else list(newshape)
    unknown = [i for i, d in enumerate(wanted) if d is None]
    for i in unknown:  # Keras reads None as the size of the operand, or as -1
        wanted[i] = x.shape[0] if i == 0 and len(unknown) == 1 and -1 in wanted else -1
    return sugar.reshape(x, sizes(wanted))


@operation
def ravel(x: Any) -> Any:
    """All elements in row-major order."""
    x = tensor(x)
    return sugar.reshape(x, (x.type.size,))


@operation
def transpose(x: Any, axes: Sequence[int] | None = None) -> Any:
    """Axes in the order `axes`; reversed by default."""
    return sugar.transpose(tensor(x), axes)


@operation
def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Two axes exchanged."""
    x = tensor(x)
    order = list(range(x.ndim))
    a, b = (sugar.normalize_axis("swapaxes", axis, x.ndim) for axis in (axis1, axis2))
    order[a], order[b] = b, a
    return sugar.transpose(x, order)


@operation
def moveaxis(x: Any, source: Any, destination: Any) -> Any:
    """Axes `source` moved to positions `destination`, the others keeping their order."""
    x = tensor(x)
    source, destination = (
        [sugar.normalize_axis("moveaxis", a, x.ndim) for a in ([v] if isinstance(v, int) else v)]
        for v in (source, destination)
    )
    order = [axis for axis in range(x.ndim) if axis not in source]
    for to, axis in sorted(zip(destination, source, strict=True)):
        order.insert(to, axis)
    return sugar.transpose(x, order)


@operation
def expand_dims(x: Any, axis: int | Sequence[int]) -> Any:
    """Axes of size 1 inserted so that they stand at `axis` in the result."""
    x = tensor(x)
    wanted = [axis] if isinstance(axis, int) else list(axis)
    rank = x.ndim + len(wanted)
    axes = sugar.normalize_axes("expand_dims", wanted, rank)
    rest = iter(x.shape)
    return sugar.reshape(x, tuple(1 if i in axes else next(rest) for i in range(rank)))


@operation
def squeeze(x: Any, axis: Axes = None) -> Any:
    """Axes of size 1 removed: all, or those given, which must be of size 1."""
    x = tensor(x)
    if axis is None:
        axes = tuple(i for i, d in enumerate(x.shape) if d == 1)
    else:
        axes = sugar.normalize_axes("squeeze", axis, x.ndim)
        if any(x.shape[a] != 1 for a in axes):
            raise ShapeError(f"squeeze: axes {axes} must have size 1, got {x.type}")
    return sugar.reshape(x, tuple(d for i, d in enumerate(x.shape) if i not in axes))


@operation
def broadcast_to(x: Any, shape: Any) -> Any:
    """`x` repeated to `shape`."""
    return sugar.broadcast_to(tensor(x), sizes(shape))


@operation
def flip(x: Any, axis: Axes = None) -> Any:
    """The elements in reverse order along `axis`."""
    x = tensor(x)
    return primitive("reverse")(x, axes=sugar.normalize_axes("flip", axis, x.ndim))


@operation
def repeat(x: Any, repeats: int, axis: int | None = None) -> Any:
    """Every element `repeats` times in a row."""
    x = tensor(x)
    if not isinstance(repeats, int | np.integer):
        raise ArgumentError(f"repeat: repeats must be an int, got {repeats!r}")
    x, axis = (sugar.reshape(x, (x.type.size,)), 0) if axis is None else (x, axis)
    axis = sugar.normalize_axis("repeat", axis, x.ndim)
    shape = x.shape
    x = sugar.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    x = sugar.broadcast_to(x, (*shape[: axis + 1], int(repeats), *shape[axis + 1 :]))
    return sugar.reshape(x, (*shape[:axis], shape[axis] * int(repeats), *shape[axis + 1 :]))


@operation
def tile(x: Any, repeats: Any) -> Any:
    """`x` laid side by side `repeats[i]` times along axis i."""
    x = tensor(x)
    times = [repeats] if isinstance(repeats, int) else list(repeats)
    rank = max(x.ndim, len(times))
    times = [1] * (rank - len(times)) + times
    shape = (1,) * (rank - x.ndim) + x.shape
    paired = tuple(d for n, size in zip(times, shape, strict=True) for d in (n, size))
    x = sugar.reshape(x, tuple(d for size in shape for d in (1, size)))
    x = sugar.broadcast_to(x, paired)
    return sugar.reshape(x, tuple(n * d for n, d in zip(times, shape, strict=True)))


@operation
def roll(x: Any, shift: Any, axis: Any = None) -> Any:
    """Elements moved by `shift` along `axis`, re-entering at the other end."""
    x = tensor(x)
    if axis is None:
        flat = sugar.reshape(x, (x.type.size,))
        return sugar.reshape(_rolled(flat, int(shift), 0), x.shape)
    axes = [axis] if isinstance(axis, int) else list(axis)
    shifts = [shift] * len(axes) if isinstance(shift, int) else list(shift)
    for a, s in zip(axes, shifts, strict=True):
        x = _rolled(x, s, sugar.normalize_axis("roll", a, x.ndim))
    return x


def _rolled(x: Value, shift: int, axis: int) -> Value:
    size = int(x.shape[axis])
    shift = shift % size if size else 0
    if shift == 0:
        return x
    before = (slice(None),) * axis
    parts = x[(*before, slice(size - shift, size))], x[(*before, slice(0, size - shift))]
    return primitive("concat")(*parts, axis=axis)


# --- joining and splitting -------------------------------------------------------------------


@operation
def concatenate(xs: Any, axis: int = 0) -> Any:
    """Tensors one after the other along `axis`."""
    if axis is None:
        xs, axis = [sugar.reshape(tensor(x), (-1,)) for x in xs], 0
    values = sugar.common(*(tensor(x) for x in xs))
    axis = sugar.normalize_axis("concatenate", axis, values[0].ndim)
    return values[0] if len(values) == 1 else primitive("concat")(*values, axis=axis)


@operation
def stack(x: Any, axis: int = 0) -> Any:
    """Tensors of one shape side by side along a new `axis`."""
    values = sugar.common(*(tensor(item) for item in x))
    first = values[0]
    if any(v.shape != first.shape for v in values):
        listed = ", ".join(str(v.type) for v in values)
        raise ShapeError(f"stack: shapes must be equal, got {listed}")
    axis = sugar.normalize_axis("stack", axis, first.ndim + 1)
    shape = (*first.shape[:axis], 1, *first.shape[axis:])
    rows = [sugar.reshape(v, shape) for v in values]
    return rows[0] if len(rows) == 1 else primitive("concat")(*rows, axis=axis)


@operation
def split(x: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    """Equal parts along `axis`, or parts that begin at the given positions."""
    x = tensor(x)
    axis = sugar.normalize_axis("split", axis, x.ndim)
    size = x.shape[axis]
    if isinstance(indices_or_sections, int):
        parts = indices_or_sections
        if parts < 1 or int(size) % parts:
            raise ShapeError(
                f"split: {parts} equal parts must fit size {size} of axis {axis}, got {x.type}"
            )
        bounds = [int(size) // parts * i for i in range(parts)] + [size]
    else:
        bounds = [0, *(int(i) for i in indices_or_sections), size]
    before = (slice(None),) * axis
    return [x[(*before, slice(a, b))] for a, b in itertools.pairwise(bounds)]


def vstack(xs: Any) -> Any:
    """Tensors one below the other."""
    return concatenate([reshape(x, (1, -1)) if len(np.shape(x)) < 2 else x for x in xs], axis=0)


def hstack(xs: Any) -> Any:
    """Tensors next to each other: along axis 1, or 0 if they have one axis."""
    xs = [reshape(x, (1,)) if not len(np.shape(x)) else x for x in xs]
    return concatenate(xs, axis=0 if len(xs[0].shape) == 1 else 1)


def append(x1: Any, x2: Any, axis: int | None = None) -> Any:
    """`x2` after `x1` along `axis`; both flat by default."""
    if axis is None:
        return concatenate([ravel(x1), ravel(x2)], axis=0)
    return concatenate([x1, x2], axis=axis)


@operation
def meshgrid(*x: Any, indexing: str = "xy") -> Any:
    """Coordinates of the grid that the given axes span."""
    axes = [tensor(item) for item in x]
    order = list(range(len(axes)))
    if indexing == "xy" and len(axes) > 1:
        order[0], order[1] = 1, 0
    shape = tuple(axes[i].shape[0] for i in order)
    expand = primitive("broadcast")
    return [expand(a, shape=shape, axes=(order.index(i),)) for i, a in enumerate(axes)]


# --- taking and padding ----------------------------------------------------------------------


@operation
def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The slices of `x` at integer `indices` along `axis`; of the flat array by default.

    Negative indices count from the end.
    """
    x, indices = tensor(x), tensor(indices)
    x, axis = (sugar.reshape(x, (x.type.size,)), 0) if axis is None else (x, axis)
    axis = sugar.normalize_axis("take", axis, x.ndim)
    if indices.dtype.kind == "int" and isinstance(x.shape[axis], int):
        indices = sugar.select(indices < 0, indices + x.shape[axis], indices)
    return primitive("gather")(x, indices, axis=axis)


@operation
def take_along_axis(x: Any, indices: Any, axis: int | None = None) -> Any:
    """For each position of `indices` the element of `x` at that index along `axis`.

    Sizes outside of `axis` must be known, equal, or those of the batch.
    """
    x, indices = tensor(x), tensor(indices)
    if axis is None:
        flat = sugar.reshape(x, (x.type.size,))
        return primitive("gather")(flat, sugar.reshape(indices, (indices.type.size,)), axis=0)
    axis = sugar.normalize_axis("take_along_axis", axis, x.ndim)
    classes = int(x.shape[axis])
    chosen = sugar.select(indices < 0, indices + classes, indices)
    position = primitive("iota")(shape=(classes,), axis=0, dtype=indices.dtype)
    hit = sugar.binary("equal", chosen[..., None], position)  # one index against all positions
    rows = sugar.transpose(x, [*(i for i in range(x.ndim) if i != axis), axis])
    rows = sugar.reshape(rows, (*rows.shape[:axis], 1, *rows.shape[axis:]))
    return sugar.reduce("reduce_sum", sugar.select(hit, rows, 0), -1)


@operation
def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = None) -> Any:
    """`x` with `pad_width[i] = (before, after)` more elements along axis i.

    Parameters
    ----------
    mode : str
        `constant`, `reflect` or `symmetric`, `edge`.
    constant_values : float, optional
        0 by default; only with mode `constant`.
    """
    x = tensor(x)
    widths = _pad_widths(pad_width, x.ndim)
    if mode != "constant" and constant_values is not None:
        raise ArgumentError(f"pad: constant_values goes with mode 'constant', got {mode!r}")
    if mode == "constant":
        low, high = zip(*widths, strict=True) if widths else ((), ())
        value = 0.0 if constant_values is None else float(constant_values)
        return primitive("pad")(x, low=low, high=high, interior=(0,) * x.ndim, value=value)
    if mode not in ("reflect", "symmetric", "edge"):
        raise ArgumentError(f"pad: mode must be constant, reflect, symmetric or edge, got {mode!r}")
    for axis, width in enumerate(widths):
        if any(width):
            positions = np.pad(np.arange(int(x.shape[axis])), width, mode=mode)  # type: ignore[call-overload]
            x = primitive("gather")(x, constant(positions, i32), axis=axis)
    return x


def _pad_widths(pad_width: Any, rank: int) -> list[tuple[int, int]]:
    if isinstance(pad_width, int):
        return [(pad_width, pad_width)] * rank
    widths = [(w, w) if isinstance(w, int) else tuple(int(v) for v in w) for w in pad_width]
    if len(widths) == 2 and rank != 2 and all(isinstance(w, int) for w in pad_width):
        return [tuple(pad_width)] * rank
    widths = widths * rank if len(widths) == 1 else widths
    if len(widths) != rank or any(len(w) != 2 for w in widths):
        raise ShapeError(
            f"pad: pad_width must give a pair for each of {rank} axes, got {pad_width}"
        )
    return widths  # type: ignore[return-value]


# --- products --------------------------------------------------------------------------------


@operation
def matmul(x1: Any, x2: Any) -> Any:
    """Matrix product over the last two axes; leading axes broadcast."""
    return sugar.matmul(tensor(x1), tensor(x2))


@operation
def dot(x1: Any, x2: Any) -> Any:
    """Sum of products over the last axis of `x1` and the second to last (or only) of `x2`."""
    a, b = tensor(x1), tensor(x2)
    if a.ndim == 0 or b.ndim == 0:
        return sugar.binary("mul", a, b)
    if b.ndim <= 2:
        return sugar.matmul(a, b)
    return _tensordot(a, b, [a.ndim - 1], [b.ndim - 2])


@operation
def inner(x1: Any, x2: Any) -> Any:
    """Sum of products over the last axes of both."""
    a, b = tensor(x1), tensor(x2)
    if a.ndim == 0 or b.ndim == 0:
        return sugar.binary("mul", a, b)
    return _tensordot(a, b, [a.ndim - 1], [b.ndim - 1])


@operation
def outer(x1: Any, x2: Any) -> Any:
    """Every product of an element of one and an element of the other."""
    a, b = tensor(x1), tensor(x2)
    return sugar.binary("mul", sugar.reshape(a, (-1, 1)), sugar.reshape(b, (1, -1)))


@operation
def tensordot(x1: Any, x2: Any, axes: Any = 2) -> Any:
    """Sum of products over pairs of axes: the last and first `axes`, or two lists of axes."""
    a, b = tensor(x1), tensor(x2)
    if isinstance(axes, int):
        return _tensordot(a, b, list(range(a.ndim - axes, a.ndim)), list(range(axes)))
    left, right = ([v] if isinstance(v, int) else list(v) for v in axes)
    return _tensordot(a, b, left, right)


def _tensordot(a: Value, b: Value, left: list[int], right: list[int]) -> Value:
    left = [sugar.normalize_axis("tensordot", i, a.ndim) for i in left]
    right = [sugar.normalize_axis("tensordot", i, b.ndim) for i in right]
    a_free = [i for i in range(a.ndim) if i not in left]
    b_free = [i for i in range(b.ndim) if i not in right]
    inner_size = size_of(a.shape[i] for i in left)
    shape = [a.shape[i] for i in a_free] + [b.shape[i] for i in b_free]
    rows = size_of(a.shape[i] for i in a_free)
    columns = size_of(b.shape[i] for i in b_free)
    a = sugar.reshape(sugar.transpose(a, a_free + left), (rows, inner_size))
    b = sugar.reshape(sugar.transpose(b, right + b_free), (inner_size, columns))
    return sugar.reshape(sugar.matmul(a, b), tuple(shape))


@operation
def einsum(subscripts: str, *operands: Any) -> Any:
    """Einstein's summation over one or two operands, as transposes and one matrix product.

    >>> ops.einsum("bqd,bkd->bqk", query, key)
    """
    inputs, _, output = subscripts.replace(" ", "").partition("->")
    names = inputs.split(",")
    values = [tensor(x) for x in operands]
    if "." in subscripts or len(names) != len(values) or len(names) > 2:
        raise ArgumentError(
            f"einsum: one or two operands without '...' are supported, got {subscripts!r} "
            f"with {len(values)} operands"
        )
    if "->" not in subscripts:
        letters = inputs.replace(",", "")
        output = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    for name, value in zip(names, values, strict=True):
        if len(name) != value.ndim or len(set(name)) != len(name):
            raise ShapeError(f"einsum: {name!r} must name each axis of {value.type} once")
    if len(values) == 1:
        return _einsum_one(names[0], values[0], output)
    return _einsum_two(names, list(sugar.common(*values)), output)


def _einsum_one(name: str, x: Value, output: str) -> Value:
    x, name = _sum_out(x, name, output)
    return sugar.transpose(x, [name.index(c) for c in output])


def _sum_out(x: Value, name: str, needed: str) -> tuple[Value, str]:
    """Sum over the axes that nothing else names."""
    axes = tuple(i for i, c in enumerate(name) if c not in needed)
    if not axes:
        return x, name
    return sugar.reduce("reduce_sum", x, axes), "".join(c for c in name if c in needed)


def _einsum_two(names: list[str], values: list[Value], output: str) -> Value:
    a, left = _sum_out(values[0], names[0], names[1] + output)
    b, right = _sum_out(values[1], names[1], names[0] + output)
    batch = [c for c in left if c in right and c in output]
    inner_axes = [c for c in left if c in right and c not in output]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    size = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))

    def many(letters: list[str]) -> Size:
        return size_of(size[c] for c in letters)

    lead = tuple(size[c] for c in batch)
    a = sugar.transpose(a, [left.index(c) for c in batch + rows + inner_axes])
    b = sugar.transpose(b, [right.index(c) for c in batch + inner_axes + columns])
    product = sugar.matmul(
        sugar.reshape(a, (*lead, many(rows), many(inner_axes))),
        sugar.reshape(b, (*lead, many(inner_axes), many(columns))),
    )
    made = batch + rows + columns
    product = sugar.reshape(product, tuple(size[c] for c in made))
    return sugar.transpose(product, [made.index(c) for c in output])


@operation
def normalize(x: Any, axis: int = -1, order: int = 2, epsilon: float | None = None) -> Any:
    """`x` divided by its Euclidean (or order 1) norm along `axis`."""
    x = floating(x)
    least = config.epsilon() if epsilon is None else epsilon
    if order == 2:
        square = sugar.reduce("reduce_sum", x * x, axis, keepdims=True)
        return x * sugar.unary("rsqrt", sugar.binary("maximum", square, least * least))
    if order == 1:
        total = sugar.reduce("reduce_sum", sugar.unary("abs", x), axis, keepdims=True)
        return x / sugar.binary("maximum", total, least)
    raise ArgumentError(f"normalize: order must be 1 or 2, got {order!r}")


__all__ = [
    "append", "arange", "broadcast_to", "concatenate", "dot", "einsum", "expand_dims", "eye",
    "flip", "full", "full_like", "hstack", "identity", "inner", "linspace", "matmul", "meshgrid",
    "moveaxis", "normalize", "ones", "ones_like", "outer", "pad", "ravel", "repeat", "reshape",
    "roll", "split", "squeeze", "stack", "swapaxes", "take", "take_along_axis", "tensordot",
    "tile", "transpose", "tri", "tril", "triu", "vstack", "zeros", "zeros_like",
]  # fmt: skip
