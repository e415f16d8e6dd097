"""Matrix products: batched, either operand transposed, any shape.

Eight ways, the first that fits:

- *empty*: nothing to sum; the epilogue gets zeros.
- *dot*: at most 4 rows or columns, and both operands contiguous along the sum: vectors run along
  the sum, and lanes are added up at the end. Matrix times vector is bound by memory, and packing
  would double the traffic.
- *stream*: at most 4 rows, and a matrix that does not stay in the cache; see `stream`.
- *tiles*: bf16 where the target has AMX units, see `amx`.
- *outer products*: long sums over the rows of both operands, as in the gradients of weights; see
  `outer_sum`. Of 8192 terms, 512 rows and 128 columns twice as fast as by panels.
- *rows*: more rows than the cache holds; see `rows`.
- *split*: fewer tiles than processors and a long sum: each task sums a stretch of it.
- *panels*: columns are cut in panels of a few vectors, and a task runs down the rows in register
  tiles. Of up to 512 rows `b` is read where it lies, and fetched before it is read where it comes
  from memory; else a task packs a panel in its own workspace, hot in its cache, which needs no
  barrier. Blocking the sum was left out: a panel from the second level of cache keeps up with the
  multipliers, and so do rows from the third.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import bfloat, emit
from ..emit import Buffer, Stmt
from ..target import Machine
from . import amx
from .dot import along_the_sum, dot
from .outer_sum import OuterSum, outer_sum
from .pairs import in_pairs, with_pairs_of_rows
from .panels import panels
from .product import Place, Product, product_of
from .row_shapes import RowProduct
from .rows import row_product
from .stream import stream, streams
from .tile import Epilogue, element_bytes, store_to

_LONG_SUM = 2048
"""Terms from which on a panel of them, and rows that are read across, do not stay in the cache."""


def matmul(
    a: Buffer,
    b: Buffer,
    out: Buffer | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    machine: Machine,
    epilogue: Epilogue | None = None,
) -> Stmt:
    """Multiply matrices: ``out[..., i, j] = sum_k a[..., i, k] * b[..., k, j]``.

    Parameters
    ----------
    a : Buffer
        Shape ``(*batch, rows, terms)``, or ``(*batch, terms, rows)`` if `transpose_a`.
    b : Buffer
        Shape ``(*batch, terms, columns)``, or ``(*batch, columns, terms)`` if `transpose_b`.
    out : Buffer, optional
        Shape ``(*batch, rows, columns)``; needed only without an `epilogue`.
    transpose_a, transpose_b : bool
        Whether the last two dimensions of an operand are swapped.
    machine : Machine
        What to choose tiles for.
    epilogue : callable, optional
        ``epilogue(indices, value)`` returns the stores for one element of the product, whose
        value it gets in the dtype of the sums (f32 for f16 and bf16).

    Returns
    -------
    Stmt
        The loops, parallel where the work is worth it.
    """
    epilogue = epilogue or store_to(out)
    if transpose_a and emit.shape_of(a)[-1] == 1:  # a vector is its own transpose
        return _with_row(a, lambda row: _emit(row, b, False, transpose_b, machine, epilogue))
    return _emit(a, b, transpose_a, transpose_b, machine, epilogue)


def _emit(
    a: Buffer, b: Buffer, transpose_a: bool, transpose_b: bool, machine: Machine, epilogue: Epilogue
) -> Stmt:
    if not transpose_b and emit.shape_of(b)[-1] == 1:
        return _with_row(b, lambda row: _emit(a, row, transpose_a, True, machine, epilogue))
    product = product_of(a, b, transpose_a, transpose_b, machine, epilogue)
    if product.size == 0:
        return emit.NOTHING
    if product.terms == 0:
        return _empty(product)
    if bfloat.pairs_fit(machine) and bfloat.STORED in product.dtypes:
        return in_pairs(product, a, b, _choose)
    return _choose(product)


def _choose(product: Product) -> Stmt:
    if along_the_sum(product):
        return dot(product)
    if streams(product):
        return stream(product)
    if amx.fits(product):
        return amx.amx(product)
    if _is_long_sum(product):
        return _sum_of_outer_products(product)
    return with_pairs_of_rows(product, _by_rows) if _has_many_rows(product) else panels(product)


def _is_long_sum(product: Product) -> bool:
    """Whether both operands are read row by row of a sum that leaves the cache."""
    plain = set(product.dtypes) == {product.dtype} and not product.paired
    rows_of_terms = product.transpose_a and not product.transpose_b
    return plain and rows_of_terms and not product.batch and product.terms >= _LONG_SUM


def _sum_of_outer_products(product: Product) -> Stmt:
    return outer_sum(
        OuterSum(
            product.terms,
            product.rows,
            product.columns,
            lambda k, i: product.left((), i, k),
            lambda k, j: product.right((), k, j),
            staged=False,
            packed=False,
            dtype=product.dtype,
            machine=product.machine,
            epilogue=product.epilogue,
        )
    )


def _has_many_rows(product: Product) -> bool:
    """Whether rows and results do not stay in the cache while panel after panel passes."""
    if product.batch or product.transpose_a:
        return False
    size = element_bytes(product.dtype)  # a pair has as many bytes
    streamed = product.rows * (product.terms + product.columns) * size
    packed = product.terms * product.columns * size
    return streamed > product.machine.l2 and packed <= 2 * product.machine.l2


def _by_rows(product: Product) -> Stmt:
    return row_product(
        RowProduct(
            product.rows,
            product.terms,
            product.columns,
            lambda i, k: product.left((), i, k),
            lambda k, j: product.right((), k, j),
            product.matrix,
            transposed=product.transpose_b,
            staged=product.dtypes[0] != product.packed,
            plain=product.dtypes[1] == product.packed,
            dtype=product.dtype,
            machine=product.machine,
            epilogue=product.epilogue,
            paired=product.paired,
            halves=not product.in_place[1],
        )
    )


def _with_row(column: Buffer, body: Callable[[Buffer], Stmt]) -> Stmt:
    """See a matrix of one column as a matrix of one row."""
    *batch, length, one = emit.shape_of(column)
    if 0 in (*batch, length):
        return body(emit.buffer("row", (*batch, one, length), emit.dtype_of(column)))
    return emit.view(column, (*batch, one, length), body)


def _empty(product: Product) -> Stmt:
    zero = emit.constant(0, product.dtype)

    def row(at: Place) -> Stmt:
        return emit.strips(
            product.columns,
            product.lanes,
            lambda j: emit.store_all(product.epilogue((*at, j), zero)),
        )

    return emit.nest((*product.batch, product.rows), row)
