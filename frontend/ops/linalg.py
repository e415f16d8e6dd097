"""Linear algebra on the last two axes; the axes before them are a batch.

Everything is made of the IR's factorizations and differentiates through them. They work in f32
and f64; half-precision matrices are factorized in f32 and the result is rounded back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir import matrix, sugar
from ...ir.errors import ArgumentError, DTypeError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import DType, Size, f32, i32, i64
from ..operation import operation
from .autodiff import custom_gradient, jvp
from .core import floating, floats, tensor

# --- operands --------------------------------------------------------------------------------


def _matrix(name: str, x: Any, *, square: bool = False) -> tuple[Value, DType]:
    """A matrix in f32 or f64, and the dtype that results should have."""
    x = floating(x)
    if x.ndim < 2:
        raise ShapeError(f"{name}: x must have rank 2 or more, got {x.type}")
    if square and x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{name}: x must be square, got {x.type}")
    return (x if x.dtype.bits >= 32 else sugar.cast(x, f32)), x.dtype


def _sizes(x: Value) -> tuple[int, int]:
    return int(x.shape[-2]), int(x.shape[-1])  # type: ignore[arg-type]


def _narrow(results: Sequence[Value], dtype: DType) -> tuple[Value, ...]:
    """Floating-point results in the dtype of the operand."""
    return tuple(sugar.cast(v, dtype) if v.dtype.is_float else v for v in results)


def _epsilon(dtype: DType) -> float:
    return float(np.finfo(dtype.numpy).eps)


# --- cholesky and triangular systems ---------------------------------------------------------


@operation
def cholesky(x: Any, upper: bool = False) -> Any:
    """The lower triangular `L` with `L L^T = x`, or its transpose.

    Parameters
    ----------
    x : tensor
        `[..., n, n]`, positive definite; `(x + x^T) / 2` is factorized.
    upper : bool
        Return `L^T`.

    Returns
    -------
    tensor
        In a graph NaN where `x` is not positive definite.

    Raises
    ------
    ArgumentError
        On arrays, if `x` is not positive definite.
    """
    x, dtype = _matrix("cholesky", x, square=True)
    lower = primitive("cholesky")(matrix.symmetric(x))
    if lower.is_constant and np.isnan(sugar.concrete(lower, "cholesky")).any():
        raise ArgumentError("cholesky: x must be positive definite")
    return sugar.cast(matrix.transposed(lower) if upper else lower, dtype)


@operation
def cholesky_inverse(x: Any, upper: bool = False) -> Any:
    """The inverse of the matrix whose Cholesky factor is `x`: lower, or upper if so said."""
    x, dtype = _matrix("cholesky_inverse", x, square=True)
    ones = _eye_like(x)
    inverse = matrix.solve_triangular(x, ones, lower=not upper)
    return sugar.cast(matrix.product(inverse, inverse, ta=not upper, tb=upper), dtype)


def _eye_like(x: Value) -> Value:
    size = x.shape[-1]
    return sugar.broadcast_to(matrix.identity(size, size, x.dtype), x.shape)


@operation
def solve_triangular(a: Any, b: Any, lower: bool = False) -> Any:
    """The `x` with `a x = b`, where `a` is lower or upper triangular.

    Parameters
    ----------
    a : tensor
        `[..., n, n]`; the other triangle is not read.
    b : tensor
        `[..., n]` or `[..., n, k]`.
    lower : bool

    Returns
    -------
    tensor
        Of the shape of `b`.
    """
    return _solved(
        "solve_triangular", a, b, lambda a, b: matrix.solve_triangular(a, b, lower=lower)
    )


@operation
def solve(a: Any, b: Any) -> Any:
    """The `x` with `a x = b`.

    Parameters
    ----------
    a : tensor
        `[..., n, n]`.
    b : tensor
        `[n]`, `[..., n]` or `[..., n, k]`.

    Returns
    -------
    tensor
        Of the shape of `b`; infinities and NaN where `a` is singular.
    """
    return _solved("solve", a, b, _solve)


def _solve(a: Value, b: Value) -> Value:
    """By elimination; the way back solves with the same factors instead of differentiating them:
    `db = a^-T g` and `da = -db x^T`."""

    @custom_gradient
    def solution(a: Any, b: Any) -> Any:
        a, b = tensor(a), tensor(b)
        packed, _, order = primitive("lu").all(a)
        half = matrix.solve_triangular(packed, matrix.permuted(b, order), lower=True, unit=True)
        x = matrix.solve_triangular(packed, half, lower=False)

        def back(upstream: Any) -> Any:
            half = matrix.solve_triangular(packed, upstream, lower=False, transpose=True)
            y = matrix.solve_triangular(packed, half, lower=True, transpose=True, unit=True)
            y = matrix.permuted(y, order, back=True)
            return -matrix.product(y, x, tb=True), y

        return x, back

    return tensor(solution(a, b))


def _solved(name: str, a: Any, b: Any, solver: Callable[[Value, Value], Value]) -> Value:
    """Bring the right side to the form of matrices of `a`'s batch, solve, and bring it back."""
    a, b = floats(a, b)
    a, dtype = _matrix(name, a, square=True)
    b = sugar.cast(b, a.dtype)
    size = a.shape[-1]
    is_vector = b.ndim == 1 or (
        b.ndim == a.ndim - 1 and b.shape == a.shape[:-1] and b.shape[-2] != size
    )
    columns = matrix.column(b) if is_vector else b
    if b.ndim == 0 or columns.shape[-2] != size:
        raise ShapeError(f"{name}: b must have {size} rows as a has, got {a.type} and {b.type}")
    batch = sugar.broadcast_shapes(a.shape[:-2], columns.shape[:-2], name=name)
    x = solver(
        sugar.broadcast_to(a, (*batch, size, size)),
        sugar.broadcast_to(columns, (*batch, *columns.shape[-2:])),
    )
    return sugar.cast(sugar.reshape(x, x.shape[:-1]) if is_vector else x, dtype)


# --- elimination -----------------------------------------------------------------------------


@operation
def lu_factor(x: Any) -> Any:
    """The factors of `x` with swapped rows.

    Parameters
    ----------
    x : tensor
        `[..., m, n]`.

    Returns
    -------
    lu, pivots
        `L` without its diagonal of ones below `U`, of the shape of `x`; and int32
        `[..., min(m, n)]`: the row that row k was swapped with in step k.
    """
    x, dtype = _matrix("lu_factor", x)
    packed, pivots, _ = primitive("lu").all(x)
    return sugar.cast(packed, dtype), pivots


@operation
def inv(x: Any) -> Any:
    """The inverse of `x`, `[..., n, n]`; infinities and NaN where it is singular."""
    x, dtype = _matrix("inv", x, square=True)
    return sugar.cast(_solve(x, _eye_like(x)), dtype)


@operation
def det(x: Any) -> Any:
    """The determinant of `x`, `[..., n, n]`.

    Up to n = 3 by the formula, whose gradient is defined everywhere; above by elimination, whose
    gradient needs an invertible `x`.
    """
    x, dtype = _matrix("det", x, square=True)
    size = _sizes(x)[0]
    if size <= 3:
        return sugar.cast(_small_det(x, size), dtype)
    diagonal, parity = _eliminated(x)
    return sugar.cast(sugar.reduce("reduce_prod", diagonal, -1) * parity, dtype)


def _small_det(x: Value, size: int) -> Value:
    if size == 0:
        return sugar.full(x.shape[:-2], 1, x.dtype)
    if size == 1:
        return x[..., 0, 0]
    if size == 2:
        return x[..., 0, 0] * x[..., 1, 1] - x[..., 0, 1] * x[..., 1, 0]
    total: Any = None
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        minor = x[..., 1, j] * x[..., 2, k] - x[..., 1, k] * x[..., 2, j]
        term = x[..., 0, i] * minor
        total = term if total is None else total + term
    return total  # type: ignore[no-any-return]


def _eliminated(x: Value) -> tuple[Value, Value]:
    """The diagonal of `U`, and 1 or -1 for an even or odd number of swaps."""
    packed, pivots, _ = primitive("lu").all(x)
    place = primitive("iota")(shape=(pivots.shape[-1],), axis=0, dtype=i32)
    swapped = sugar.cast(sugar.binary("not_equal", pivots, place), i32)
    odd = sugar.binary("remainder", sugar.reduce("reduce_sum", swapped, -1), 2)
    return matrix.diagonal(packed), sugar.cast(1 - 2 * odd, x.dtype)


@operation
def slogdet(x: Any) -> Any:
    """Sign and logarithm of the absolute value of the determinant of `x`, `[..., n, n]`.

    Returns
    -------
    sign, logabsdet
        0 and minus infinity where `x` is singular.
    """
    x, dtype = _matrix("slogdet", x, square=True)
    diagonal, parity = _eliminated(x)
    sign = sugar.reduce("reduce_prod", sugar.unary("sign", diagonal), -1) * parity
    logarithm = sugar.unary("log", sugar.unary("abs", diagonal))
    return _narrow((sign, sugar.reduce("reduce_sum", logarithm, -1)), dtype)


@operation
def logdet(x: Any) -> Any:
    """The logarithm of the absolute value of the determinant of `x`, `[..., n, n]`."""
    return slogdet(x)[1]


# --- orthogonal factors ----------------------------------------------------------------------


@operation
def qr(x: Any, mode: str = "reduced") -> Any:
    """The orthogonal `Q` and upper triangular `R` with `Q R = x`.

    Parameters
    ----------
    x : tensor
        `[..., m, n]`, of known m and n.
    mode : str
        "reduced": `Q` has min(m, n) columns; "complete": m, which has no gradient for m > n.
    """
    if mode not in ("reduced", "complete"):
        raise ArgumentError(f"qr: mode must be reduced or complete, got {mode!r}")
    x, dtype = _matrix("qr", x)
    return _narrow(primitive("qr").all(x, complete=mode == "complete"), dtype)


@operation
def eigh(x: Any) -> Any:
    """Eigenvalues, ascending, and eigenvectors, one a column, of the symmetric `(x + x^T) / 2`.

    The sign of a vector is such that its inner product with cos(1), cos(2), ... is positive.
    The gradient of the vectors needs eigenvalues that differ.
    """
    x, dtype = _matrix("eigh", x, square=True)
    return _narrow(primitive("eigh").all(matrix.symmetric(x)), dtype)


def eig(x: Any) -> Any:
    """Eigenvalues of a matrix that need not be symmetric, which are complex: always refused.

    Raises
    ------
    DTypeError
        Always.
    """
    raise DTypeError(
        "eig: eigenvalues of a general matrix are complex, and there are no complex tensors",
        hint="use eigh for a symmetric matrix",
    )


@operation
def svd(x: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """The singular value decomposition `x = U diag(s) V^T`.

    Parameters
    ----------
    x : tensor
        `[..., m, n]`, of known m and n.
    full_matrices : bool
        Square `U` and `V`, which have no gradient unless m = n; else min(m, n) vectors each.
    compute_uv : bool
        Else the singular values alone are returned.

    Returns
    -------
    U, s, V^T, or s
        The singular values descending. The sign of a left vector is such that its inner product
        with cos(1), cos(2), ... is positive.
    """
    x, dtype = _matrix("svd", x)
    vectors = "values" if not compute_uv else "full" if full_matrices else "reduced"
    found = _narrow(primitive("svd").all(x, vectors=vectors), dtype)
    return found if compute_uv else found[0]


def _singular_values(x: Value) -> Value:
    return primitive("svd")(x, vectors="values")


@operation
def matrix_rank(x: Any, tol: Any = None) -> Any:
    """The number of singular values above `tol`, as int32.

    The default of `tol` is the largest one times the dtype's epsilon and the larger size.
    """
    x, dtype = _matrix("matrix_rank", x)
    if 0 in _sizes(x):
        return sugar.full(x.shape[:-2], 0, i32)
    values = _singular_values(x)
    if tol is None:
        factor = _epsilon(dtype if dtype.bits >= 32 else f32) * max(_sizes(x))
        bound = sugar.reduce("reduce_max", values, -1) * factor
    else:
        bound = tensor(tol, x.dtype)
    is_large = values > sugar.reshape(bound, (*bound.shape, 1))
    return sugar.reduce("reduce_sum", sugar.cast(is_large, i32), -1)


@operation
def pinv(x: Any, rcond: Any = None) -> Any:
    """The Moore-Penrose inverse of `x`, `[..., m, n]`.

    Singular values up to `rcond` times the largest count as 0; by default that is ten epsilons
    times the larger size. The gradient holds where the rank does not change; singular values may
    be equal.
    """
    x, dtype = _matrix("pinv", x)
    if rcond is None:
        rcond = 10.0 * _epsilon(x.dtype) * max(_sizes(x))
    return sugar.cast(_pseudo_inverse(x, rcond, strict=True), dtype)


def _pseudo_inverse(x: Value, rcond: Any, *, strict: bool) -> Value:
    """Golub and Pereyra (1973) differentiate it without the vectors."""
    rows, columns = _sizes(x)
    if 0 in (rows, columns):
        return matrix.transposed(x)

    @custom_gradient
    def inverse(a: Any) -> Any:
        a = tensor(a)
        u, s, vt = primitive("svd").all(a, vectors="reduced")
        bound = sugar.reduce("reduce_max", s, -1, keepdims=True) * tensor(rcond, a.dtype)
        kept = s > bound if strict else (s >= bound) & (s > 0)
        factors = sugar.select(kept, 1.0 / sugar.select(kept, s, 1), 0)
        found = matrix.product(vt, u * matrix.row(factors), ta=True, tb=True)
        return found, lambda upstream: _pinv_gradient(a, found, upstream)

    result: Value = inverse(x)
    return result


def _pinv_gradient(a: Value, p: Value, g: Value) -> Value:
    """`-P^T G P^T + (1 - A P) G^T P P^T + P^T P G^T (1 - P A)`."""
    gt, product = matrix.transposed(g), matrix.product
    first = product(product(p, g, ta=True), p, tb=True)
    right = product(gt, product(p, p, tb=True))
    left = product(product(p, p, ta=True), gt)
    second = right - product(a, product(p, right))
    third = left - product(product(left, p), a)
    return second + third - first


@operation
def lstsq(a: Any, b: Any, rcond: Any = None) -> Any:
    """The `x` of least norm among those that make `|a x - b|` smallest.

    Parameters
    ----------
    a : tensor
        `[m, n]`.
    b : tensor
        `[m]` or `[m, k]`.
    rcond : float, optional
        Singular values below `rcond` times the largest count as 0; epsilon times the larger
        size by default, epsilon if negative.

    Returns
    -------
    tensor
        `[n]` or `[n, k]`.
    """
    a, b = floats(a, b)
    a, dtype = _matrix("lstsq", a)
    b = sugar.cast(b, a.dtype)
    if a.ndim != 2 or b.ndim not in (1, 2) or a.shape[0] != b.shape[0]:
        raise ShapeError(f"lstsq: a must be [m, n] and b [m] or [m, k], got {a.type} and {b.type}")
    if rcond is None:
        rcond = _epsilon(a.dtype) * max(_sizes(a))
    elif isinstance(rcond, int | float) and rcond < 0:
        rcond = _epsilon(a.dtype)
    inverse = _pseudo_inverse(a, rcond, strict=False)
    x = matrix.product(inverse, matrix.column(b) if b.ndim == 1 else b)
    return sugar.cast(sugar.reshape(x, x.shape[:1]) if b.ndim == 1 else x, dtype)


# --- norms -----------------------------------------------------------------------------------


@operation
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """The norm of vectors or matrices.

    Parameters
    ----------
    x : tensor
        Integers become the default float dtype.
    ord : {None, "fro", "nuc", int, float, inf, -inf}
        Of vectors: any number p for `sum(|x|^p)^(1/p)`, 0 for the count of what is not 0, inf
        and -inf for the extremes. Of matrices: "fro", "nuc" (the sum of singular values), 1, -1,
        inf, -inf (extreme sums of columns or rows), 2, -2 (extreme singular values). None is the
        root of the sum of squares.
    axis : int or pair of int, optional
        One axis for vectors, two for matrices. By default all axes, of which there must be one
        or two unless `ord` is None.
    keepdims : bool
        Keep reduced axes with size 1.
    """
    x = tensor(x)
    x = floating(x) if x.dtype != i64 else sugar.cast(x, floating(0).dtype)
    if axis is None and ord is None:
        axes = tuple(range(x.ndim))
        return _root_of_squares(x, axes, keepdims) if axes else sugar.unary("abs", x)
    given = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = tuple(sugar.normalize_axis("norm", int(a), x.ndim) for a in given)
    if len(axes) == 1:
        return _vector_norm(x, ord, axes, keepdims)
    if len(axes) != 2 or axes[0] == axes[1]:
        raise ArgumentError(f"norm: axis must be one axis or two different ones, got {given}")
    return _matrix_norm(x, ord, axes, keepdims)


def _root_of_squares(x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    return sugar.unary("sqrt", sugar.reduce("reduce_sum", x * x, axes, keepdims))


def _vector_norm(x: Value, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Value:
    if isinstance(ord, str):
        raise ArgumentError(f"norm: ord of a vector norm must be a number, got {ord!r}")
    if ord is None or ord == 2:
        return _root_of_squares(x, axes, keepdims)
    size = sugar.unary("abs", x)
    if ord in (math.inf, -math.inf):
        return sugar.reduce("reduce_max" if ord > 0 else "reduce_min", size, axes, keepdims)
    if ord == 0:
        counted = sugar.cast(sugar.binary("not_equal", x, 0), x.dtype)
        return sugar.reduce("reduce_sum", counted, axes, keepdims)
    if ord == 1:
        return sugar.reduce("reduce_sum", size, axes, keepdims)
    total = sugar.reduce("reduce_sum", sugar.power(size, float(ord)), axes, keepdims)
    return sugar.power(total, 1.0 / float(ord))


def _matrix_norm(x: Value, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Value:
    row, column = axes
    if ord in (None, "fro"):
        return _root_of_squares(x, sorted(axes), keepdims)
    if ord in (1, -1, math.inf, -math.inf):
        inner, outer = (row, column) if abs(ord) == 1 else (column, row)
        sums = sugar.reduce("reduce_sum", sugar.unary("abs", x), inner, keepdims=True)
        kind = "reduce_max" if ord > 0 else "reduce_min"
        result = sugar.reduce(kind, sums, outer, keepdims=True)
    elif ord in ("nuc", 2, -2):
        others = [i for i in range(x.ndim) if i not in axes]
        wide, dtype = _matrix("norm", sugar.transpose(x, [*others, row, column]))
        values = sugar.cast(_singular_values(wide), dtype)
        kind = {"nuc": "reduce_sum", 2: "reduce_max", -2: "reduce_min"}[ord]
        result = sugar.keep_dims(sugar.reduce(kind, values, -1), x.shape, axes)
    else:
        raise ArgumentError(
            f"norm: ord of a matrix norm must be fro, nuc, 1, -1, 2, -2, inf or -inf, got {ord!r}"
        )
    kept: list[Size] = [d for i, d in enumerate(x.shape) if i not in axes]
    return result if keepdims else sugar.reshape(result, kept)


__all__ = [
    "cholesky", "cholesky_inverse", "det", "eig", "eigh", "inv", "jvp", "logdet", "lstsq",
    "lu_factor", "matrix_rank", "norm", "pinv", "qr", "slogdet", "solve", "solve_triangular",
    "svd",
]  # fmt: skip
