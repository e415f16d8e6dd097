"""Products of bf16 by pairs of neighbours along the sum (see `bfloat`).

A product of pairs is a `Product` with half the terms, so all ways of a product know it; only what
they read and how they multiply differs. Operands that lie so in memory are read in place as
int32; others are rounded and joined when they are packed. An operand may be f32 that is to be
rounded to bf16: master weights need no copy in bf16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx

from .. import bfloat, emit
from ..emit import Buffer, Expr, Index, Stmt
from ..target import Machine
from .product import Place, Product

_SPREAD = 1 << 18  # pairs from which on several threads pack them


@dataclass(frozen=True)
class Operand:
    """A matrix `[*batch, ...]` whose elements are seen in pairs along the sum.

    Parameters
    ----------
    buffer : Buffer
        Of bf16, or of f32 to be rounded.
    terms : int
        Elements along the sum; after the last there are zeros.
    adjacent : bool
        Whether the sum runs along the last dimension, else along the one before.
    machine : Machine
        What rounds.
    seen : Buffer, optional
        The buffer as pairs, where it is one already.
    """

    buffer: Buffer
    terms: int
    adjacent: bool
    machine: Machine
    seen: Buffer | None = None

    @property
    def pairs(self) -> int:
        """Pairs along the sum."""
        return -(-self.terms // 2)

    @property
    def is_pairs(self) -> bool:
        """Whether elements lie in memory as pairs."""
        whole = self.terms % 2 == 0
        return self.adjacent and whole and emit.dtype_of(self.buffer) == bfloat.STORED

    def with_view(self, body: Callable[[Operand], Stmt]) -> Stmt:
        """Declare the view as pairs, if the operand has one."""
        if not self.is_pairs:
            return body(self)
        shape = (*emit.shape_of(self.buffer)[:-1], self.pairs)
        return emit.view(
            self.buffer, shape, lambda seen: body(replace(self, seen=seen)), bfloat.PAIR
        )

    def pair(self, at: Place, i: Index, k: Index) -> Expr:
        """The `k`-th pair of row or column `i`; `k` may be a vector if they are adjacent."""
        if self.seen is not None:
            return self.seen[(*at, i, k)]
        if isinstance(k, tirx.Ramp):
            run = tirx.Ramp(2 * k.base, emit.constant(1, "int32"), 2 * int(k.lanes))
            return bfloat.pairs_of_run(self.buffer[(*at, i, run)])
        return bfloat.join_neighbours(self.terms, k, lambda term: self._bits(at, i, term))

    def _bits(self, at: Place, i: Index, k: Index) -> Expr:
        value = self.buffer[(*at, i, k) if self.adjacent else (*at, k, i)]
        return bfloat.bits_of(value, self.machine)


def in_pairs(product: Product, a: Buffer, b: Buffer, body: Callable[[Product], Stmt]) -> Stmt:
    """See a product of bf16 as one of pairs."""
    left = Operand(a, product.terms, not product.transpose_a, product.machine)
    right = Operand(b, product.terms, product.transpose_b, product.machine)

    def paired(left: Operand, right: Operand) -> Stmt:
        return body(
            replace(
                product,
                terms=left.pairs,
                left=left.pair,
                right=lambda at, k, j: right.pair(at, j, k),
                dtypes=(bfloat.PAIR, bfloat.PAIR),
                paired=True,
                in_place=(left.is_pairs, right.is_pairs),
            )
        )

    whole = left.with_view(lambda seen: right.with_view(lambda other: paired(seen, other)))
    return bfloat.importing(whole, product.machine)


def with_pairs_of_rows(product: Product, body: Callable[[Product], Stmt]) -> Stmt:
    """Pack the left operand as pairs, unless it lies so in memory.

    Each of its pairs is read once for each vector of columns, as a scalar: to round and join
    there would take longer than the products.
    """
    if product.in_place[0]:
        return body(product)
    batches, across = math.prod(product.batch), product.transpose_a
    outer, inner = (product.terms, product.rows) if across else (product.rows, product.terms)

    def packed(rows: Buffer) -> Stmt:
        def line(flat: Index) -> Stmt:
            batch, number = emit.unflatten(flat, (batches, outer))
            at = emit.unflatten(batch, product.batch)

            def put(j: Index, value: Expr) -> Stmt:
                return emit.store(rows, (batch, number, j), value)

            if across:
                return emit.strips(
                    inner, product.lanes, lambda i: put(i, product.left(at, i, number))
                )
            return _line(product, lambda k: product.left(at, number, k), put)

        def left(at: Place, i: Index, k: Index) -> Expr:
            place = (k, i) if across else (i, k)
            return rows[(flat(at, product.batch), *place)]

        loop = emit.parallel if batches * outer * inner >= _SPREAD else emit.serial
        ready = replace(product, left=left, in_place=(True, product.in_place[1]))
        return emit.seq(loop(batches * outer, line), body(ready))

    room = inner + product.lanes  # rows of a power of two would evict each other from the cache
    return emit.scratch("row_pairs", (batches, outer, room), bfloat.PAIR, packed)


def _line(
    product: Product, pair: Callable[[Index], Expr], put: Callable[[Index, Expr], Stmt]
) -> Stmt:
    """Pack the pairs of one row: vectors of them, and the rest one by one."""
    lanes, whole = product.lanes, (product.terms - 1) // product.lanes  # the last may be half

    def strip(number: Index) -> Stmt:
        k = tirx.Ramp(number * lanes, emit.constant(1, "int32"), lanes)
        return put(k, pair(k))

    rest = product.terms - whole * lanes
    return emit.seq(
        emit.serial(whole, strip, "strip"),
        emit.serial(rest, lambda k: put(k, pair(k)), "k", whole * lanes),
    )


def flat(at: Place, shape: tuple[int, ...]) -> Index:
    """The number of an element of a batch of products."""
    number: Index = 0
    for i, size in zip(at, shape, strict=True):
        number = number * size + i
    return number
