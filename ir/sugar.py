"""What NumPy users expect of operators, spelled out in IR: broadcasting, promotion, axes.

Every function takes Values, arrays or Python scalars and emits primitives into the current
builder. The vjp rules, the frontend's `ops` and Value's operators all go through here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import graph as _graph  # they import this module, and are complete when it is used
from . import op as _registry
from .errors import ArgumentError, DTypeError, OpenSizeError, ShapeError
from .types import (
    Dim,
    DType,
    Factor,
    Shape,
    Size,
    as_dtype,
    boolean,
    exact_div,
    f32,
    i32,
    promote,
    size_of,
    symbol,
)  # fmt: skip

if TYPE_CHECKING:
    from .graph import Value
    from .op import Op


def _op(name: str) -> Op:
    return _registry.get(name)


def value(x: Any, dtype: Any = None) -> Value:
    """`x` as a Value: itself, or a constant.

    An object that stands for a Value (the frontend's Variable) says which by `__value__()`; a
    symbolic dimension is computed from the sizes of the graph's inputs.
    """
    if isinstance(x, Dim):
        x = _dimension(x)
    elif not isinstance(x, _graph.Value) and hasattr(type(x), "__value__"):
        x = x.__value__()
    if isinstance(x, _graph.Value):
        return x if dtype is None else cast(x, dtype)
    from .builder import constant

    return constant(x, dtype)


def _dimension(size: Dim) -> Value:
    """A symbolic dimension as an i32 scalar."""
    total = value(0, i32)
    for monomial, c in size.terms:
        term = value(c, i32)
        for factor in monomial:
            term = binary("mul", term, _factor(factor))
        total = binary("add", total, term)
    return total


def _factor(factor: Factor) -> Value:
    if isinstance(factor, str):
        return _symbol(factor)
    return floor_divide(_dimension(factor.dividend), factor.divisor)


def _symbol(name: str) -> Value:
    """The size that a symbol stands for, read off an input or state of the current builder."""
    from .builder import current

    builder, wanted = current(), symbol(name)
    for v in [*builder.inputs, *builder.state] if builder else []:
        if wanted in v.shape:
            return _op("dimension_size")(v, axis=v.shape.index(wanted))
    if builder is not None and builder.outer is not None:  # a body reads it from around it
        with builder.outer:
            return _symbol(name)
    raise ShapeError(f"dimension {name}: no input of the graph has it as a size")


def concrete(x: Value, what: str) -> np.ndarray:
    """The array behind an eager value; while tracing there is none."""
    if x.constant is None:
        raise _unknown(x, what, "use hornfels.ops in place of NumPy's functions")
    return x.constant


def number(x: Value, what: str) -> np.ndarray:
    """As `concrete`, for Python control flow, which may look at numbers that a builder knows."""
    from .builder import current

    builder = current()
    array = builder.known(x) if builder else x.constant
    if array is None:
        raise _unknown(x, what, "use ops.where or ops.cond instead of Python control flow on "
                                "tensors")  # fmt: skip
    return array


_NUMPY_OPERATORS: dict[Any, Callable[[Any, Any], Any]] = {
    np.add: operator.add, np.subtract: operator.sub, np.multiply: operator.mul,
    np.true_divide: operator.truediv, np.floor_divide: operator.floordiv,
    np.remainder: operator.mod, np.power: operator.pow, np.matmul: operator.matmul,
    np.less: operator.lt, np.less_equal: operator.le, np.greater: operator.gt,
    np.greater_equal: operator.ge, np.equal: operator.eq, np.not_equal: operator.ne,
    np.bitwise_and: operator.and_, np.bitwise_or: operator.or_,
    np.bitwise_xor: operator.xor, np.left_shift: operator.lshift,
    np.right_shift: operator.rshift,
}  # fmt: skip


def numpy_operator(ufunc: Any, method: str, inputs: Any, options: Any) -> Value:
    """Python's operator between an array and a Value, which NumPy is asked for first."""
    function = _NUMPY_OPERATORS.get(ufunc)
    if function is None or method != "__call__" or options or len(inputs) != 2:
        traced = next(x for x in inputs if hasattr(x, "is_constant"))
        raise _unknown(traced, f"numpy.{ufunc.__name__}", "use hornfels.ops in place of NumPy's "
                                                          "functions")  # fmt: skip
    result: Value = function(value(inputs[0]), inputs[1])
    return result


def numpy_function(x: Value, function: Any, args: Any, kwargs: Any) -> Any:
    """What a function of NumPy gives for a tensor among its arguments, if its numbers are known."""
    if function in (np.shape, np.ndim, np.size) and len(args) == 1:
        return {np.shape: x.shape, np.ndim: x.ndim, np.size: x.type.size}[function]
    if not x.is_constant:
        raise _unknown(x, f"numpy.{function.__name__}", "use hornfels.ops in place of NumPy's "
                                                        "functions")  # fmt: skip
    return function(*_concrete(args), **{name: _concrete(arg) for name, arg in kwargs.items()})


def _concrete(arguments: Any) -> Any:
    """A nest of arguments with arrays for tensors."""
    if isinstance(arguments, list | tuple):
        return type(arguments)(_concrete(x) for x in arguments)
    return np.asarray(arguments) if hasattr(arguments, "is_constant") else arguments


def _unknown(x: Value, what: str, hint: str) -> DTypeError:
    from .builder import where

    return DTypeError(
        f"{what} of a traced tensor {x.type}: its numbers are not known while tracing",
        where=where(),
        hint=hint,
    )


def not_iterable(x: Value) -> OpenSizeError:
    """The error of `for row in x`."""
    from .builder import where

    return OpenSizeError(
        f"iteration needs a first axis of fixed size, got {x.type}",
        where=where(),
        hint="give that axis a size, or go along it with ops.scan or ops.map",
    )


def _is_scalar(x: Any) -> bool:
    return isinstance(x, bool | int | float) and not isinstance(x, np.generic)


def _weak(x: Any, dtype: DType) -> DType:
    """The dtype that a Python scalar takes beside an array of `dtype`."""
    if isinstance(x, bool):
        return dtype
    if isinstance(x, int):
        return i32 if dtype.is_bool else dtype
    return dtype if dtype.is_float else f32


def common(*xs: Any) -> tuple[Value, ...]:
    """Operands promoted to one dtype (Python scalars are weak), not yet to one shape."""
    arrays = [value(x) for x in xs if not _is_scalar(x)]
    if not arrays:
        arrays = [value(x) for x in xs]
        xs = tuple(arrays)
    dtype = arrays[0].dtype
    for a in arrays[1:]:
        dtype = promote(dtype, a.dtype)
    for x in xs:
        if _is_scalar(x):
            dtype = promote(dtype, _weak(x, dtype))
    return tuple(value(x, dtype) for x in xs)


def broadcast_shapes(*shapes: Shape, name: str = "broadcast") -> Shape:
    """NumPy's broadcasting; a symbolic dimension fits itself and 1."""
    rank = max(map(len, shapes), default=0)
    result: list[Size] = []
    for axis in range(-rank, 0):
        sizes = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(sizes) > 1:
            listed = " and ".join(str(list(s)) for s in shapes)
            raise ShapeError(f"{name}: shapes must broadcast, got {listed}")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def broadcast_to(x: Any, shape: Sequence[Size]) -> Value:
    """NumPy's `broadcast_to`."""
    tensor, shape = value(x), tuple(shape)
    if tensor.shape == shape:
        return tensor
    offset = len(shape) - tensor.ndim
    if offset < 0:
        raise ShapeError(f"broadcast_to: rank must not shrink, got {tensor.type} to {list(shape)}")
    return _op("broadcast")(tensor, shape=shape, axes=tuple(range(offset, len(shape))))


def expand(x: Value, axes: Sequence[int], shape: Shape) -> Value:
    """Undo a reduction over `axes` of an operand of `shape`: repeat along them."""
    kept = tuple(i for i in range(len(shape)) if i not in axes)
    return _op("broadcast")(x, shape=shape, axes=kept)


def unary(name: str, x: Any) -> Value:
    return _op(name)(value(x))


def binary(name: str, x: Any, y: Any) -> Value:
    x, y = common(x, y)
    shape = broadcast_shapes(x.shape, y.shape, name=name)
    return _op(name)(broadcast_to(x, shape), broadcast_to(y, shape))


def compare(name: str, x: Value, y: Any) -> Any:
    """`binary` for `==` and `!=`, which Python also asks about what is no tensor, such as None."""
    return binary(name, x, y) if is_operand(y) else NotImplemented


def is_operand(x: Any) -> bool:
    """Whether `x` is a tensor, an array, a number or a nest of such."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind not in "OSUMm"
    if isinstance(x, list | tuple):
        return bool(x) and all(map(is_operand, x))
    return isinstance(x, _graph.Value | bool | int | float | Dim) or hasattr(type(x), "__value__")


def divide(x: Any, y: Any) -> Value:
    """True division; integers become f32."""
    x, y = common(x, y)
    if not x.dtype.is_float:
        x, y = cast(x, f32), cast(y, f32)
    return binary("div", x, y)


def floor_divide(x: Any, y: Any) -> Value:
    """Division rounded down; of floats by their remainder, for the quotient is rounded before."""
    x, y = common(x, y)
    if x.dtype.is_float:
        size = binary("remainder", unary("abs", x), unary("abs", y))
        rest = select(x < 0, -size, size)
        below = binary("not_equal", rest < 0, y < 0) & binary("not_equal", rest, 0)
        quotient = unary("round", select(below, (x - rest) / y - 1, (x - rest) / y))
        return unary("stop_gradient", select(binary("equal", y, 0), x / y, quotient))
    return binary("div", binary("sub", x, binary("remainder", x, y)), y)


def power(x: Any, y: Any) -> Value:
    """`x ** y`; small integer exponents become multiplications."""
    if isinstance(y, int | float) and not isinstance(x, int | float):
        base = value(x)
        if y == 2:
            return binary("mul", base, base)
        if y == 0.5:
            return unary("sqrt", base)
        if y == 1:
            return base
    return binary("pow", x, y)


def select(condition: Any, x: Any, y: Any) -> Value:
    """Elementwise `x if condition else y`."""
    x, y = common(x, y)
    condition = cast(value(condition), boolean)
    shape = broadcast_shapes(condition.shape, x.shape, y.shape, name="select")
    return _op("select")(*(broadcast_to(v, shape) for v in (condition, x, y)))


def cast(x: Any, dtype: Any) -> Value:
    tensor, dtype = value(x), as_dtype(dtype)
    if tensor.dtype == dtype:
        return tensor
    if dtype.is_bool:
        return binary("not_equal", tensor, value(0, tensor.dtype))
    return _op("cast")(tensor, dtype=dtype)


def full(shape: Sequence[Size], fill: Any, dtype: Any) -> Value:
    """An array of one repeated number."""
    return broadcast_to(value(fill, dtype), tuple(shape))


def zeros_like(x: Value) -> Value:
    return full(x.shape, 0, x.dtype)


def normalize_axis(name: str, axis: int, rank: int) -> int:
    """`axis` counted from the front."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise ArgumentError(f"{name}: axis must be an integer, got {axis!r:.60}")
    if not -rank <= axis < rank:
        raise ShapeError(f"{name}: axis must be in [{-rank}, {rank}), got {axis}")
    return int(axis) % rank


def normalize_axes(name: str, axis: Any, rank: int) -> tuple[int, ...]:
    """One axis, several or None (all) as a sorted tuple counted from the front."""
    if axis is None:
        return tuple(range(rank))
    axes = tuple(axis) if isinstance(axis, list | tuple | np.ndarray) else (axis,)
    found = sorted(normalize_axis(name, a, rank) for a in axes)
    if len(set(found)) != len(found):
        raise ShapeError(f"{name}: axes must differ, got {list(axes)}")
    return tuple(found)


def reduce(name: str, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    """A reduction op over one axis, several or all."""
    x = value(x)
    axes = normalize_axes(name, axis, x.ndim)
    result = _op(name)(x, axes=axes) if axes else x
    return keep_dims(result, x.shape, axes) if keepdims else result


def keep_dims(x: Value, shape: Shape, axes: Sequence[int]) -> Value:
    """The result of a reduction with its reduced axes as size 1."""
    return reshape(x, tuple(1 if i in axes else d for i, d in enumerate(shape)))


def count(x: Value, axes: Sequence[int], dtype: DType) -> Value:
    """The number of elements along `axes` as a scalar of `dtype`; symbolic sizes included."""
    total = size_of(x.shape[a] for a in axes)
    if not isinstance(total, Dim):
        return value(total, dtype)
    fixed = math.prod(d for a in axes if isinstance(d := x.shape[a], int))
    result = value(fixed, dtype)
    for a in axes:
        if isinstance(x.shape[a], Dim):
            result = binary("mul", result, cast(_op("dimension_size")(x, axis=a), dtype))
    return result


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    """Arithmetic mean; integers are averaged in f32."""
    x = value(x)
    if not x.dtype.is_float:
        x = cast(x, f32)
    axes = normalize_axes("mean", axis, x.ndim)
    return divide(reduce("reduce_sum", x, axes, keepdims), count(x, axes, x.dtype))


def reshape(x: Any, shape: Sequence[Size]) -> Value:
    """Reshape; one size may be -1."""
    x = value(x)
    shape = (shape,) if isinstance(shape, int | Dim) else tuple(shape)
    if -1 in shape:
        rest = size_of(d for d in shape if d != -1)
        missing = exact_div(x.type.size, rest) if rest != 0 else None
        if missing is None or shape.count(-1) > 1:
            raise ShapeError(f"reshape: {list(shape)} must fit the elements of {x.type}")
        shape = tuple(missing if d == -1 else d for d in shape)
    return x if shape == x.shape else _op("reshape")(x, shape=shape)


def transpose(x: Any, permutation: Sequence[int] | None = None) -> Value:
    """Permute the axes; None reverses them."""
    x = value(x)
    order = tuple(range(x.ndim))[::-1] if permutation is None else tuple(permutation)
    order = tuple(normalize_axis("transpose", a, x.ndim) for a in order)
    return x if order == tuple(range(x.ndim)) else _op("transpose")(x, permutation=order)


def matmul(x: Any, y: Any) -> Value:
    """NumPy's `matmul`, 1-d operands and broadcast batch dimensions included."""
    x, y = common(x, y)
    if x.ndim == 0 or y.ndim == 0:
        raise ShapeError(f"matmul: operands must have a dimension, got {x.type} and {y.type}")
    a = reshape(x, (1, *x.shape)) if x.ndim == 1 else x
    b = reshape(y, (*y.shape, 1)) if y.ndim == 1 else y
    if b.ndim == 2 and a.ndim > 2:  # one large product instead of a batch of small ones
        rows = size_of(a.shape[:-1])
        out = _op("matmul")(reshape(a, (rows, a.shape[-1])), b)
        out = reshape(out, (*a.shape[:-1], b.shape[-1]))
    else:
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2], name="matmul")
        out = _op("matmul")(broadcast_to(a, batch + a.shape[-2:]),
                            broadcast_to(b, batch + b.shape[-2:]))  # fmt: skip
    if x.ndim == 1:
        out = reshape(out, (*out.shape[:-2], out.shape[-1]))
    return reshape(out, out.shape[:-1]) if y.ndim == 1 else out


def getitem(x: Value, key: Any) -> Value:
    """NumPy's basic indexing: ints, slices, None and Ellipsis."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(not (k is None or k is Ellipsis or isinstance(k, int | slice)) for k in keys):
        raise DTypeError("indexing takes ints, slices, None and ...", hint="use ops.take")
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if used > x.ndim:
        raise ShapeError(f"indexing: {used} indices are too many for {x.type}")
    fill = [slice(None)] * (x.ndim - used)
    at = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
    keys = [*keys[:at], *fill, *keys[at + 1 :]]
    starts: list[Size] = []
    limits: list[Size] = []
    strides: list[int] = []
    shape: list[Size] = []
    flipped, axis = [], 0
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        start, limit, stride, size = _slice_bounds(k, x.shape[axis], x)
        if stride < 0:
            flipped.append(axis)
        starts.append(start)
        limits.append(limit)
        strides.append(abs(stride))
        if isinstance(k, slice):
            shape.append(size)
        axis += 1
    if any(
        (s, e, t) != (0, d, 1) for s, e, t, d in zip(starts, limits, strides, x.shape, strict=True)
    ):
        x = _op("slice")(x, starts=tuple(starts), limits=tuple(limits), strides=tuple(strides))
    if flipped:
        x = _op("reverse")(x, axes=tuple(flipped))
    return reshape(x, tuple(shape))


def _slice_bounds(k: int | slice, size: Size, x: Value) -> tuple[Size, Size, int, Size]:
    """Start, limit and stride of a forward slice (a negative stride means: then reversed)."""
    if isinstance(size, Dim):
        if k == slice(None):
            return 0, size, 1, size
        if isinstance(k, int) and k < 0:
            return size + k, size + k + 1, 1, 1
        if isinstance(k, int):
            return k, k + 1, 1, 1
        return _open_slice_bounds(k, size, x)
    if isinstance(k, int):
        if not -size <= k < size:
            raise ShapeError(f"indexing: {k} is out of bounds for {x.type}")
        return k % size, k % size + 1, 1, 1
    indices = range(*k.indices(size))
    if not indices:
        return 0, 0, 1, 0
    low, high = min(indices[0], indices[-1]), max(indices[0], indices[-1])
    return low, high + 1, indices.step, len(indices)


def _open_slice_bounds(k: slice, size: Dim, x: Value) -> tuple[Size, Size, int, Size]:
    """`_slice_bounds` of a slice along an open size, which is taken to hold what it asks for."""
    start, stop, step = k.start or 0, size if k.stop is None else k.stop, k.step or 1
    if step == -1 and k.start is None and k.stop is None:
        return 0, size, -1, size
    if step < 0 or not isinstance(start, int | Dim) or not isinstance(stop, int | Dim):
        from .builder import where

        raise OpenSizeError(
            f"indexing: {k} needs a fixed size, got {x.type}",
            where=where(),
            hint="give that axis a size, or slice it forwards",
        )
    start = size + start if isinstance(start, int) and start < 0 else start
    stop = size + stop if isinstance(stop, int) and stop < 0 else stop
    return start, stop, step, (stop - start + step - 1) // step
