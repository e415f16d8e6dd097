"""Columns of a matrix packed in panels, for products of many rows."""

from __future__ import annotations

from .. import emit
from ..emit import Buffer, Index, Stmt
from .row_shapes import RowProduct, Stripe
from .tile import blank, cast, neighbours

_SERIAL_PACK = 1 << 14  # elements that are packed before other threads would have begun


def pack(product: RowProduct, stripe: Stripe, packed: Buffer) -> Stmt:
    """Copy columns to ``packed[panel, k, lane]``, with zeros past the last column."""

    def vector(flat: Index) -> Stmt:
        number, place = emit.unflatten(flat, (stripe.panels, stripe.vectors))
        return pack_vector(product, stripe, flat, (number, place * stripe.lanes), packed)

    small = stripe.columns * product.terms <= _SERIAL_PACK
    loop = emit.serial if small or product.machine.cores == 1 else emit.parallel
    return loop(stripe.panels * stripe.vectors, vector)


def pack_vector(
    product: RowProduct,
    stripe: Stripe,
    flat: Index,
    target: tuple[Index, Index],
    packed: Buffer,
) -> Stmt:
    """Pack the `flat`-th vector of a stripe."""
    whole, rest = divmod(stripe.columns, stripe.lanes)

    def columns(count: int) -> Stmt:
        pack = _pack_across if product.transposed else _pack_along
        return pack(product, stripe, stripe.first + flat * stripe.lanes, count, target, packed)

    if stripe.panels * stripe.vectors == whole:
        return columns(stripe.lanes)
    return emit.when(
        emit.less(flat, whole),
        columns(stripe.lanes),
        emit.when(emit.equal(flat, whole), columns(rest), columns(0)),
    )


def _pack_along(
    product: RowProduct,
    stripe: Stripe,
    column: Index,
    count: int,
    target: tuple[Index, Index],
    packed: Buffer,
) -> Stmt:
    """Pack one vector of columns that lie side by side."""
    number, base = target

    def element(k: Index, lane: Index) -> Stmt:
        value = cast(product.right(k, column + lane), product.factors)
        return emit.store(packed, (number, k, base + lane), value)

    return emit.seq(
        emit.serial(
            product.terms, lambda k: emit.vectorized(count, lambda lane: element(k, lane)), "k"
        ),
        blank(packed, target, product.terms, count, stripe.lanes),
    )


def _pack_across(
    product: RowProduct,
    stripe: Stripe,
    column: Index,
    count: int,
    target: tuple[Index, Index],
    packed: Buffer,
) -> Stmt:
    """Pack one vector of columns each of which lies along the sum: square blocks by shuffles."""
    (number, base), lanes = target, stripe.lanes
    blocks = 0
    if count == lanes > 1 and product.plain:
        blocks = (product.terms - product.halves) // lanes

    def block(index: Index) -> Stmt:
        k = index * lanes
        return emit.transpose_block(
            lambda row, _: product.right(neighbours(k, lanes), column + row),
            lambda row, inner, vector: emit.store(packed, (number, k + row, base + inner), vector),
            lanes,
        )

    def single(k: Index, lane: Index) -> Stmt:
        value = cast(product.right(k, column + lane), product.factors)
        return emit.store(packed, (number, k, base + lane), value)

    return emit.seq(
        emit.serial(blocks, block, "block"),
        emit.serial(
            product.terms - blocks * lanes,
            lambda k: emit.serial(count, lambda lane: single(k, lane), "lane"),
            "k",
            blocks * lanes,
        ),
        blank(packed, target, product.terms, count, stripe.lanes),
    )
