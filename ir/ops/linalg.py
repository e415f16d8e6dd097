"""Triangular systems and the factorizations by elimination: cholesky, triangular_solve, lu.

All work on the last two axes of f32 or f64; the axes before them are a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import matrix
from ..errors import DTypeError, ShapeError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..types import TensorType, f16, f32, f64, i32
from .common import N, require_fixed, require_rank, require_same_dtype


def require_matrix(op: str, name: str, x: TensorType) -> None:
    """Refuse what is no matrix of f32 or f64, or a batch of them."""
    if x.dtype not in (f32, f64):
        raise DTypeError(f"{op}: operand {name} must be f32 or f64, got {x}")
    require_rank(op, name, x, 2)


def require_square(op: str, name: str, x: TensorType) -> None:
    """Refuse matrices that are not square, too."""
    require_matrix(op, name, x)
    if x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{op}: operand {name} must be square, got {x}")


def positive(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Positive definite matrices of random ones; the upper triangle is set to something else."""
    (x,) = arrays
    size = x.shape[-1]
    return [np.tril(x @ x.swapaxes(-1, -2) + np.eye(size)) + np.triu(x, 1)]


def solvable(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A diagonal that is not near 0, for the first operand."""
    a, *others = arrays
    return [a + 3 * np.sign(a) * np.eye(a.shape[-1]), *others]


# --- cholesky --------------------------------------------------------------------------------


def _cholesky_type(x: TensorType) -> TensorType:
    require_square("cholesky", "x", x)
    return x


def _cholesky_numpy(x: np.ndarray) -> np.ndarray:
    result = np.zeros(x.shape, x.dtype)
    for at in np.ndindex(x.shape[:-2]):
        try:
            result[at] = np.linalg.cholesky(x[at])
        except np.linalg.LinAlgError:
            result[at] = np.tril(np.full(x.shape[-2:], np.nan))
    return result


def _cholesky_vjp(g: Value, x: Value, *, out: Value) -> tuple[Value]:
    """`sym(L^-T tril'(L^T g) L^-1)`, tril' with half of the diagonal (Murray, 2016); since
    only the lower triangle is read, its elements answer for both."""
    inner = matrix.product(out, matrix.triangle(g, lower=True), ta=True)
    halved = matrix.triangle(inner, lower=True) - matrix.only_diagonal(inner) * 0.5
    left = matrix.solve_triangular(out, halved, lower=True, transpose=True)
    full = matrix.symmetric(matrix.divided(left, out, lower=True))
    return (matrix.triangle(full, lower=True) + matrix.triangle(full, lower=True, strict=True),)


cholesky = define(Op(
    name="cholesky",
    doc="""The lower triangular `L` with `L L^T = x`, for symmetric positive definite `x`, of
    which the lower triangle alone is read. The lower triangle of the result is NaN where `x` is
    not positive definite.""",
    kind="opaque",
    type=_cholesky_type, numpy=_cholesky_numpy, vjp=_cholesky_vjp,
    onnx=CODE,
    samples=[
        case(f32(5, 5), prepare=positive), case(f32(N, 3, 3), prepare=positive),
        case(f64(2, 2, 4, 4), prepare=positive), case(f32(1, 1), prepare=positive),
        case(f32(0, 0)), case(f32(0, 3, 3)), case(f32(19, 19), prepare=positive),
    ],
    rejects=[
        reject(f32(3, 4), error="cholesky: operand x must be square, got f32[3,4]"),
        reject(f32(3), error="cholesky: operand x must have rank 2 or more, got f32[3]"),
        reject(f16(3, 3), error="cholesky: operand x must be f32 or f64, got f16[3,3]"),
    ],
))  # fmt: skip


# --- triangular_solve ------------------------------------------------------------------------


def _solve_type(
    a: TensorType, b: TensorType, *, lower: bool, transpose: bool = False,
    unit_diagonal: bool = False,
) -> TensorType:  # fmt: skip
    require_square("triangular_solve", "a", a)
    require_matrix("triangular_solve", "b", b)
    require_same_dtype("triangular_solve", a, b)
    if a.shape[:-1] != b.shape[:-1]:
        raise ShapeError(
            f"triangular_solve: operands must have one batch shape and as many rows, "
            f"got {a} and {b}"
        )
    return b


def _solve_numpy(
    a: np.ndarray, b: np.ndarray, *, lower: bool, transpose: bool = False,
    unit_diagonal: bool = False,
) -> np.ndarray:  # fmt: skip
    """Substitution, row by row."""
    if transpose:
        a, lower = a.swapaxes(-1, -2), not lower
    x = np.array(b)
    rows = range(a.shape[-1])
    for i in rows if lower else reversed(rows):
        known = slice(0, i) if lower else slice(i + 1, None)
        x[..., i, :] -= np.einsum("...k,...kj->...j", a[..., i, known], x[..., known, :])
        if not unit_diagonal:
            x[..., i, :] /= a[..., i, i, None]
    return x


def _solve_vjp(
    g: Value, a: Value, b: Value, *, out: Value, lower: bool, transpose: bool = False,
    unit_diagonal: bool = False,
) -> tuple[Value, Value]:  # fmt: skip
    db = matrix.solve_triangular(a, g, lower=lower, transpose=not transpose, unit=unit_diagonal)
    first, second = (out, db) if transpose else (db, out)
    da = -matrix.product(first, second, tb=True)
    return matrix.triangle(da, lower=lower, strict=unit_diagonal), db


triangular_solve = define(Op(
    name="triangular_solve",
    doc="""The `x` with `a x = b`, or `a^T x = b` if `transpose`, for a triangular `a`: the
    lower triangle of `a` is read if `lower`, else the upper one, and of that not the diagonal,
    which counts as ones, if `unit_diagonal`. Zeros on the diagonal give infinities and NaN.""",
    kind="opaque",
    type=_solve_type, numpy=_solve_numpy, vjp=_solve_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 4), f32(4, 3), lower=True, prepare=solvable),
        case(f32(4, 4), f32(4, 3), lower=False, prepare=solvable),
        case(f32(4, 4), f32(4, 3), lower=True, transpose=True, prepare=solvable),
        case(f32(4, 4), f32(4, 1), lower=False, transpose=True, prepare=solvable),
        case(f32(4, 4), f32(4, 3), lower=True, unit_diagonal=True, domain=(-1.0, 1.0)),
        case(f32(4, 4), f32(4, 2), lower=False, transpose=True, unit_diagonal=True,
             domain=(-1.0, 1.0)),
        case(f32(N, 2, 2), f32(N, 2, 5), lower=True, prepare=solvable),
        case(f64(2, 3, 3), f64(2, 3, 2), lower=False, prepare=solvable),
        case(f32(1, 1), f32(1, 1), lower=True, prepare=solvable),
        case(f32(0, 0), f32(0, 2), lower=True), case(f32(3, 3), f32(3, 0), lower=True),
        case(f32(21, 21), f32(21, 33), lower=True, unit_diagonal=True, domain=(-0.2, 0.2)),
    ],
    rejects=[
        reject(f32(3, 3), f32(4, 2), lower=True,
               error="triangular_solve: operands must have one batch shape and as many rows, "
                     "got f32[3,3] and f32[4,2]"),
        reject(f32(3, 4), f32(3, 2), lower=True,
               error="triangular_solve: operand a must be square, got f32[3,4]"),
        reject(f32(3, 3), f32(3), lower=True,
               error="triangular_solve: operand b must have rank 2 or more, got f32[3]"),
        reject(f32(3, 3), f64(3, 2), lower=True,
               error="triangular_solve: operands must have one dtype, "
                     "got f32[3,3] and f64[3,2]"),
    ],
))  # fmt: skip


# --- lu --------------------------------------------------------------------------------------


def _lu_type(x: TensorType) -> tuple[TensorType, TensorType, TensorType]:
    require_matrix("lu", "x", x)
    require_fixed("lu", "x", x, (x.ndim - 2, x.ndim - 1))
    *batch, rows, columns = x.shape
    least = min(int(rows), int(columns))
    return x, i32(*batch, least), i32(*batch, rows)


def _lu_numpy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Doolittle's elimination with the largest pivot of each column, the first if several."""
    *batch, rows, columns = x.shape
    packed = np.array(x)
    pivots = np.zeros((*batch, min(rows, columns)), np.int32)
    permutation = np.broadcast_to(np.arange(rows, dtype=np.int32), (*batch, rows)).copy()
    for at in np.ndindex(*batch):
        a, order = packed[at], permutation[at]
        for k in range(min(rows, columns)):
            best = k + int(np.argmax(np.abs(a[k:, k])))
            pivots[at][k] = best
            a[[k, best]], order[[k, best]] = a[[best, k]], order[[best, k]]
            if a[k, k] != 0:
                a[k + 1 :, k] /= a[k, k]
            a[k + 1 :, k + 1 :] -= np.outer(a[k + 1 :, k], a[k, k + 1 :])
    return packed, pivots, permutation


def _square_lu_vjp(lower: Value, upper: Value, packed: Value) -> Value:
    """`L^-T (stril(L^T gL) + triu(gU U^T)) U^-T` for the square part."""
    left = matrix.product(matrix.unit_lower(packed), lower, ta=True)
    right = matrix.product(upper, matrix.triangle(packed, lower=False), tb=True)
    inner = matrix.triangle(left, lower=True, strict=True) + matrix.triangle(right, lower=False)
    half = matrix.divided(inner, packed, lower=False, transpose=True)
    return matrix.solve_triangular(packed, half, lower=True, transpose=True, unit=True)


def _lu_vjp(
    g: tuple[Value | None, None, None], x: Value, *, out: tuple[Value, Value, Value]
) -> tuple[Value | None]:
    """The square part's gradient, and what the columns to its right or the rows below it add:
    `U2 = L^-1 A2` and `L2 = A2 U^-1`."""
    cotangent, packed, order = g[0], out[0], out[2]
    if cotangent is None:
        return (None,)
    rows, columns = map(int, x.shape[-2:])
    least = min(rows, columns)
    square, corner = packed[..., :least, :least], cotangent[..., :least, :least]
    lower = matrix.triangle(corner, lower=True, strict=True)
    upper = matrix.triangle(corner, lower=False)
    if columns > rows:
        beside, beside_g = packed[..., :, least:], cotangent[..., :, least:]
        share = matrix.solve_triangular(square, beside_g, lower=True, transpose=True, unit=True)
        lower = lower - matrix.product(share, beside, tb=True)
        whole = matrix.joined([_square_lu_vjp(lower, upper, square), share], axis=-1)
    elif rows > columns:
        below, below_g = packed[..., least:, :], cotangent[..., least:, :]
        share = matrix.divided(below_g, square, lower=False, transpose=True)
        upper = upper - matrix.product(below, share, ta=True)
        whole = matrix.joined([_square_lu_vjp(lower, upper, square), share], axis=-2)
    else:
        whole = _square_lu_vjp(lower, upper, square)
    return (matrix.permuted(whole, order, back=True),)


lu = define(Op(
    name="lu",
    doc="""The factors of `x` with its rows permuted: `x[permutation] = L U`. Outputs: `L` without
    its diagonal of ones below `U`, in one matrix of the shape of `x`; the row that was swapped
    with row k in step k; the permutation that all swaps make. The pivot of a column is its
    largest element, the first if several are. The gradient holds where no pivot is 0.""",
    kind="opaque",
    type=_lu_type, numpy=_lu_numpy, vjp=_lu_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 4)), case(f32(5, 3)), case(f32(3, 5)), case(f32(N, 3, 3)),
        case(f64(2, 2, 4, 4)), case(f32(1, 1)), case(f32(1, 3)), case(f32(3, 1)),
        case(f32(0, 0)), case(f32(0, 3)), case(f32(0, 3, 3)), case(f32(17, 17)),
    ],
    rejects=[
        reject(f32(3), error="lu: operand x must have rank 2 or more, got f32[3]"),
        reject(i32(3, 3), error="lu: operand x must be f32 or f64, got i32[3,3]"),
        reject(f32(N, 3), error="lu: operand x must have a fixed size along axis 0, got f32[N,3]"),
    ],
))  # fmt: skip
