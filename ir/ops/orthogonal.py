"""Factorizations with orthogonal factors: qr, eigh, svd.

All work on the last two axes of f32 or f64; the axes before them are a batch.

Signs are fixed, so that backends agree. `qr` takes Householder's signs as LAPACK does. The
eigenvectors and the left singular vectors point to the side on which their inner product with
`direction(n)`, the cosines of 1, 2, ..., n, is positive: a fixed vector to which hardly any vector
that occurs in practice is orthogonal. Vectors of repeated eigenvalues or singular values
are unique as a space only, and backends may differ in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import matrix
from ..errors import ArgumentError, GradientError
from ..graph import Value
from ..op import CODE, Op, case, define, reject
from ..sugar import zeros_like
from ..types import TensorType, bf16, f32, f64, type_of
from .common import N, require_fixed
from .linalg import require_matrix, require_square


def direction(size: int) -> np.ndarray:
    """The vector that decides on signs, f64."""
    cosines: np.ndarray = np.cos(np.arange(1.0, size + 1))
    return cosines


def _signs(columns: np.ndarray) -> np.ndarray:
    """1 or -1 for each column of a batch of matrices."""
    along = np.einsum("i,...ij->...j", direction(columns.shape[-2]), columns.astype(np.float64))
    signs: np.ndarray = np.where(along < 0, -1, 1).astype(columns.dtype)
    return signs


# --- qr --------------------------------------------------------------------------------------


def _qr_type(x: TensorType, *, complete: bool = False) -> tuple[TensorType, TensorType]:
    require_matrix("qr", "x", x)
    require_fixed("qr", "x", x, (x.ndim - 2, x.ndim - 1))
    *batch, rows, columns = x.shape
    inner = rows if complete else min(int(rows), int(columns))
    return x.with_shape((*batch, rows, inner)), x.with_shape((*batch, inner, columns))


def _qr_numpy(x: np.ndarray, *, complete: bool = False) -> tuple[np.ndarray, np.ndarray]:
    q, r = np.linalg.qr(x, mode="complete" if complete else "reduced")
    return q, r


def _square_qr_vjp(q: Value, r: Value, dq: Value, dr: Value) -> Value:
    """`(dQ + Q C) R^-T`; C is symmetric with the lower triangle of `R dR^T - dQ^T Q`."""
    m = matrix.product(r, dr, tb=True) - matrix.product(dq, q, ta=True)
    strict = matrix.triangle(m, lower=True, strict=True)
    c = matrix.triangle(m, lower=True) + matrix.transposed(strict)
    return matrix.divided(dq + matrix.product(q, c), r, lower=False, transpose=True)


def _qr_vjp(
    g: tuple[Value | None, Value | None], x: Value, *, out: tuple[Value, Value],
    complete: bool = False,
) -> tuple[Value]:  # fmt: skip
    """Walter and Lehmann (2010); for wide `x = [X Y]`, `R = [U V]` with `V = Q^T Y`."""
    rows, columns = map(int, x.shape[-2:])
    if complete and rows > columns:
        raise GradientError(
            f"qr: the complete factor of a tall matrix has no gradient, got {x.type}",
            hint="use complete=False (mode='reduced')",
        )
    (q, r), (dq, dr) = out, g
    dq = zeros_like(q) if dq is None else dq
    if dr is None:
        dr = zeros_like(r)
    if columns <= rows:
        return (_square_qr_vjp(q, r, dq, matrix.triangle(dr, lower=False)),)
    beside, dv = x[..., :, rows:], dr[..., :, rows:]
    dy = matrix.product(q, dv)
    dq = dq + matrix.product(beside, dv, tb=True)
    du = matrix.triangle(dr[..., :, :rows], lower=False)
    dx = _square_qr_vjp(q, r[..., :, :rows], dq, du)
    return (matrix.joined([dx, dy], axis=-1),)


qr = define(Op(
    name="qr",
    doc="""The orthogonal `Q` and upper triangular `R` with `Q R = x`, by Householder reflections
    with LAPACK's signs: for x of m rows and n columns, `Q` has min(m, n) columns, or m if
    `complete`. The gradient holds where the first min(m, n) columns of `x` are independent;
    with `complete` and m > n there is none.""",
    kind="opaque",
    type=_qr_type, numpy=_qr_numpy, vjp=_qr_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 4)), case(f32(5, 3)), case(f32(3, 5)), case(f32(N, 3, 2)),
        case(f32(3, 3), complete=True), case(f32(3, 5), complete=True),
        case(f32(5, 3), complete=True, differentiable=False), case(f64(2, 2, 4, 3)),
        case(f32(1, 1)), case(f32(1, 3)), case(f32(3, 1)),
        case(f32(0, 0)), case(f32(0, 3)), case(f32(3, 0)),
        case(f32(3, 0), complete=True, differentiable=False), case(f32(0, 3, 3)),
        case(f32(18, 11)),
    ],
    rejects=[
        reject(f32(3), error="qr: operand x must have rank 2 or more, got f32[3]"),
        reject(bf16(3, 3), error="qr: operand x must be f32 or f64, got bf16[3,3]"),
        reject(f32(3, N), error="qr: operand x must have a fixed size along axis 1, got f32[3,N]"),
    ],
))  # fmt: skip


# --- eigh ------------------------------------------------------------------------------------


def separated(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A diagonal that keeps the eigenvalues apart."""
    (x,) = arrays
    return [x * 0.4 + np.eye(x.shape[-1]) * 3 * np.arange(x.shape[-1])[::-1]]


def _eigh_type(x: TensorType) -> tuple[TensorType, TensorType]:
    require_square("eigh", "x", x)
    return x.with_shape(x.shape[:-1]), x


def _eigh_numpy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.full(x.shape[:-1], np.nan, x.dtype), np.full(x.shape, np.nan, x.dtype)
    for at in np.ndindex(x.shape[:-2]):
        if np.isfinite(np.tril(x[at])).all():
            values[at], vectors[at] = np.linalg.eigh(x[at], UPLO="L")
    return values, vectors * _signs(vectors)[..., None, :]


def _eigh_vjp(
    g: tuple[Value | None, Value | None], x: Value, *, out: tuple[Value, Value]
) -> tuple[Value]:
    """`V (diag(gw) + F * (V^T gV)) V^T` with `F_ij = 1 / (w_j - w_i)` off the diagonal; since
    only the lower triangle is read, its elements answer for both."""
    values, vectors = out
    inner = None if g[0] is None else matrix.with_diagonal(g[0])
    if g[1] is not None:
        gaps = matrix.row(values) - matrix.column(values)
        turned = matrix.product(vectors, g[1], ta=True) * matrix.safe_reciprocal(gaps)
        inner = turned if inner is None else inner + turned
    assert inner is not None
    full = matrix.symmetric(matrix.product(matrix.product(vectors, inner), vectors, tb=True))
    return (matrix.triangle(full, lower=True) + matrix.triangle(full, lower=True, strict=True),)


eigh = define(Op(
    name="eigh",
    doc="""The eigenvalues of symmetric matrices, ascending, and their orthonormal eigenvectors,
    one a column; the lower triangle of `x` alone is read. For signs see the module's text. The
    gradient of the vectors holds where the eigenvalues differ; equal ones add nothing to it.""",
    kind="opaque",
    type=_eigh_type, numpy=_eigh_numpy, vjp=_eigh_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 4), prepare=separated), case(f32(N, 3, 3), prepare=separated),
        case(f64(2, 2, 5, 5), prepare=separated), case(f32(1, 1)), case(f32(2, 2)),
        case(f32(0, 0)), case(f32(0, 3, 3)), case(f32(13, 13), prepare=separated),
    ],
    rejects=[
        reject(f32(3, 4), error="eigh: operand x must be square, got f32[3,4]"),
        reject(bf16(3, 3), error="eigh: operand x must be f32 or f64, got bf16[3,3]"),
    ],
))  # fmt: skip


# --- svd -------------------------------------------------------------------------------------

_PARTS = ("values", "reduced", "full")


def _svd_type(x: TensorType, *, vectors: str = "reduced") -> tuple[TensorType, ...]:
    require_matrix("svd", "x", x)
    require_fixed("svd", "x", x, (x.ndim - 2, x.ndim - 1))
    if vectors not in _PARTS:
        raise ArgumentError(f"svd: vectors must be one of {', '.join(_PARTS)}, got {vectors!r}")
    *batch, rows, columns = x.shape
    least = min(int(rows), int(columns))
    values = x.with_shape((*batch, least))
    if vectors == "values":
        return (values,)
    left, right = (rows, columns) if vectors == "full" else (least, least)
    return x.with_shape((*batch, rows, left)), values, x.with_shape((*batch, right, columns))


def completed(columns: np.ndarray) -> np.ndarray:
    """Orthonormal columns and more of them, until the matrix is square.

    Each added one is the unit vector that is furthest from the columns so far, made orthogonal
    to them.
    """
    basis = np.array(columns, np.float64)
    while basis.shape[1] < basis.shape[0]:
        axis = int(np.argmin((basis**2).sum(1)))
        unit = np.eye(basis.shape[0])[axis]
        rest = unit - basis @ basis[axis]
        rest -= basis @ (basis.T @ rest)
        basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    return basis.astype(columns.dtype)


def _svd_numpy(
    x: np.ndarray, *, vectors: str = "reduced"
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | np.ndarray:
    types = _svd_type(type_of(x), vectors="full" if vectors == "full" else "reduced")
    u, s, vt = (np.full(t.shape, np.nan, x.dtype) for t in types)
    for at in np.ndindex(x.shape[:-2]):
        if not np.isfinite(x[at]).all():
            continue
        left, s[at], right = np.linalg.svd(x[at], full_matrices=False)
        signs = _signs(left)
        left, right = left * signs, right * signs[:, None]
        is_full = vectors == "full"
        u[at], vt[at] = (completed(left), completed(right.T).T) if is_full else (left, right)
    return s if vectors == "values" else (u, s, vt)


def _turned(u: Value, du: Value | None, s: Value, gaps: Value) -> Value | None:
    """`(F * (U^T gU - gU^T U)) S`, what the turning of the left vectors adds between them."""
    if du is None:
        return None
    inner = matrix.product(u, du, ta=True)
    return gaps * (inner - matrix.transposed(inner)) * matrix.row(s)


def _outside(u: Value, du: Value, s: Value) -> Value:
    """`(1 - U U^T) gU S^-1`, what leaves the span of the left vectors."""
    rest = du - matrix.product(u, matrix.product(u, du, ta=True))
    return rest * matrix.row(matrix.safe_reciprocal(s))


def _svd_vjp(g: Any, x: Value, *, out: Any, vectors: str = "reduced") -> tuple[Value]:
    """Townsend, Differentiating the singular value decomposition (2016)."""
    rows, columns = map(int, x.shape[-2:])
    if vectors == "values":
        u, s, vt = svd.all(x, vectors="reduced")
        du, ds, dvt = None, g, None
    else:
        if vectors == "full" and rows != columns:
            raise GradientError(
                f"svd: the full factors of a matrix that is not square have no gradient, "
                f"got {x.type}",
                hint="use vectors='reduced' (full_matrices=False)",
            )
        (u, s, vt), (du, ds, dvt) = out, g
    v, dv = matrix.transposed(vt), None if dvt is None else matrix.transposed(dvt)
    squares = s * s
    gaps = matrix.safe_reciprocal(matrix.row(squares) - matrix.column(squares))
    first, second = _turned(u, du, s, gaps), _turned(v, dv, s, gaps)
    inner = None if ds is None else matrix.with_diagonal(ds)
    for part in (first, None if second is None else matrix.transposed(second)):
        if part is not None:
            inner = part if inner is None else inner + part
    assert inner is not None
    result = matrix.product(matrix.product(u, inner), vt)
    if du is not None and rows > columns:
        result = result + matrix.product(_outside(u, du, s), vt)
    if dv is not None and columns > rows:
        result = result + matrix.product(u, _outside(v, dv, s), tb=True)
    return (result,)


svd = define(Op(
    name="svd",
    doc="""The singular values of `x`, descending, and the orthonormal `U` and `V^T` with
    `U diag(s) V^T = x`; `vectors` says which: "values" alone, "reduced" factors with min(m, n)
    vectors, or "full" square ones. Outputs: `U`, `s`, `V^T`, or `s` alone. For signs see the
    module's text; what makes a basis full are unit vectors made orthogonal, each time the one
    that is furthest from the basis so far. The gradient of the vectors holds where the singular
    values differ and none is 0 (equal ones and zeros add nothing to it); "full" has none where
    `x` is not square.""",
    kind="opaque",
    type=_svd_type, numpy=_svd_numpy, vjp=_svd_vjp,
    onnx=CODE,
    samples=[
        case(f32(4, 4)), case(f32(5, 3)), case(f32(3, 5)), case(f32(N, 3, 2)),
        case(f32(5, 3), vectors="values"), case(f32(N, 2, 3), vectors="values"),
        case(f32(3, 3), vectors="full"), case(f32(5, 3), vectors="full", differentiable=False),
        case(f32(2, 3, 5), vectors="full", differentiable=False), case(f64(2, 4, 3)),
        case(f32(1, 1)), case(f32(1, 3)), case(f32(3, 1)),
        case(f32(0, 0)), case(f32(0, 3)), case(f32(0, 3, 2)),
        case(f32(2, 0), vectors="full", differentiable=False), case(f32(12, 9)),
    ],
    rejects=[
        reject(f32(3), error="svd: operand x must have rank 2 or more, got f32[3]"),
        reject(bf16(3, 3), error="svd: operand x must be f32 or f64, got bf16[3,3]"),
        reject(f32(3, 3), vectors="all",
               error="svd: vectors must be one of values, reduced, full, got 'all'"),
    ],
))  # fmt: skip
