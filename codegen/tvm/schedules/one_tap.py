"""Convolutions of one tap, with or without strides: matrix products over all pixels of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .. import emit
from ..emit import Buffer, Computed, Expr, Index, Operand, Stmt
from ..kept import see
from ..target import Machine
from .matmul import matmul
from .outer_sum import OuterSum, outer_sum
from .row_shapes import RowProduct
from .rows import row_product
from .staging import Ints
from .tile import Epilogue, Store, accumulator, flattened, tasks_for

_FEW = 4  # rows, or columns along which the kernel lies, up to which `matmul` has better ways
_NARROW = ("float16", "uint16", "int8", "uint8")  # for their products the machine has its own


def fits(x: Buffer, w: Buffer, strides: Ints) -> bool:
    """Whether there is a product for this: with strides only if sums have the operands' dtype."""
    dtype = accumulator(x, w)
    return emit.dtype_of(x) == emit.dtype_of(w) == dtype or all(step == 1 for step in strides)


def forward(
    x: Buffer, w: Buffer, sizes: Ints, strides: Ints, machine: Machine, epilogue: Epilogue
) -> Stmt:
    """Emit images times a kernel ``[1, ..., C, O]``, at the pixels that strides meet.

    No size may be 0.
    """
    batch, *spatial, terms = emit.shape_of(x)
    columns = emit.shape_of(w)[-1]
    shape = (batch, *sizes, columns)
    every = tuple(spatial) == tuple(sizes)

    def product(pixels: Buffer, weights: Buffer) -> Stmt:
        rows = math.prod(shape[:-1])
        narrow = emit.dtype_of(x) != accumulator(x, w)  # `matmul` knows what is done for these
        lies = every and not isinstance(x, Computed)
        if lies and (narrow or rows <= _FEW or columns == 1):
            finish = flattened(epilogue, shape)
            return matmul(pixels, weights, machine=machine, epilogue=finish)

        def left(row: Index, k: Index) -> Expr:
            if every:
                return pixels[row, k]
            n, *at = emit.unflatten(row, shape[:-1])
            return x[(n, *(i * s for i, s in zip(at, strides, strict=True)), k)]

        return row_product(
            RowProduct(
                rows,
                terms,
                columns,
                left,
                lambda k, j: weights[k, j],
                weights,
                transposed=False,
                staged=not lies,
                plain=emit.dtype_of(w) == accumulator(x, w),
                dtype=accumulator(x, w),
                machine=machine,
                epilogue=flattened(epilogue, shape),
                ahead=_ahead(pixels) if every else None,
            )
        )

    return _with_matrices(x, w, product)


def _with_matrices(x: Buffer, w: Buffer, body: Callable[[Buffer, Buffer], Stmt]) -> Stmt:
    """Give `body` images as rows of channels, and a kernel as a matrix."""
    *pixels, channels = emit.shape_of(x)

    def with_rows(rows: Buffer) -> Stmt:
        def with_weights(weights: Buffer) -> Stmt:
            see(w, weights)
            return body(rows, weights)

        return emit.view(w, emit.shape_of(w)[-2:], with_weights)

    return emit.view(x, (math.prod(pixels), channels), with_rows)


def input_grad(
    dy: Buffer, w: Buffer, input_shape: Ints, strides: Ints, machine: Machine, epilogue: Epilogue
) -> Stmt:
    """Emit cotangents times the transposed kernel, and zeros where no stride came by.

    No size may be 0.
    """
    channels, terms = emit.shape_of(w)[-2:]
    shape = emit.shape_of(dy)
    rows = math.prod(shape[:-1])
    every = shape[:-1] == tuple(input_shape[:-1])

    def spread(indices: tuple[Index, ...], value: Expr) -> Sequence[Store] | Stmt:
        n, *at = emit.unflatten(indices[0], shape[:-1])
        place = (n, *(i * s for i, s in zip(at, strides, strict=True)), indices[1])
        return epilogue(place, value)

    finish = flattened(epilogue, input_shape) if every else spread

    def product(pixels: Buffer, weights: Buffer) -> Stmt:
        narrow = emit.dtype_of(dy) != accumulator(dy, w)
        computed = isinstance(dy, Computed)
        if not computed and (narrow or min(rows, channels) <= _FEW):
            return matmul(pixels, weights, transpose_b=True, machine=machine, epilogue=finish)
        return row_product(
            RowProduct(
                rows,
                terms,
                channels,
                lambda row, k: pixels[row, k],
                lambda k, j: weights[j, k],
                weights,
                transposed=True,
                staged=computed,
                plain=emit.dtype_of(w) == accumulator(dy, w),
                dtype=accumulator(dy, w),
                machine=machine,
                epilogue=finish,
                ahead=_ahead(pixels),
            )
        )

    zeros = None if every else _zeros(input_shape, strides, accumulator(dy, w), machine, epilogue)
    return emit.seq(_with_matrices(dy, w, product), zeros)


def _zeros(shape: Ints, strides: Ints, dtype: str, machine: Machine, epilogue: Epilogue) -> Stmt:
    """Zeros in all pixels between those that strides meet."""
    batch, *spatial, channels = shape
    zero, lanes = emit.constant(0, dtype), machine.lanes(dtype)

    def row(flat: Index) -> Stmt:
        head = emit.unflatten(flat, (batch, *spatial[:-1]))

        def pixel(last: Index) -> Stmt:
            def element(c: Index) -> Stmt:
                return emit.store_all(epilogue((*head, last, c), zero))

            met = [i % s for i, s in zip((*head[1:], last), strides, strict=True) if s > 1]
            return _unless_zero(met, lambda: emit.strips(channels, lanes, element))

        return emit.serial(spatial[-1], pixel, "pixel")

    count = batch * math.prod(spatial[:-1])
    loop = emit.serial if tasks_for(2 * math.prod(shape), machine) == 1 else emit.parallel
    return loop(count, row)


def _unless_zero(numbers: list[Index], body: Callable[[], Stmt]) -> Stmt:
    """Run `body` unless all numbers are 0."""
    if not numbers:
        return emit.NOTHING
    rest = _unless_zero(numbers[1:], body)
    return emit.when(emit.equal(numbers[0], 0), rest, body())


def _ahead(operand: Operand) -> Callable[[Index, Index], Stmt] | None:
    """How what a computed operand is made of is fetched."""
    if not isinstance(operand, Computed):
        return None
    return lambda row, k: emit.fetch(operand, (row, k), 2)


def _is_copied(operand: Operand, dtype: str) -> bool:
    """Whether an operand is not read where it lies."""
    return isinstance(operand, Computed) or emit.dtype_of(operand) != dtype


def kernel_grad(x: Buffer, dy: Buffer, strides: Ints, machine: Machine, epilogue: Epilogue) -> Stmt:
    """Emit the kernel gradient: the sum of outer products of the pixels that strides meet.

    No size may be 0; the epilogue gets ``(*zeros, channel, output)``.
    """
    batch, *spatial, rows = emit.shape_of(x)
    shape = emit.shape_of(dy)
    every = (batch, *spatial) == tuple(shape[:-1])
    dtype = accumulator(x, dy)
    head = (0,) * len(spatial)

    def product(pixels: Buffer, cotangents: Buffer) -> Stmt:
        def left(pixel: Index, c: Index) -> Expr:
            if every:
                return pixels[pixel, c]
            n, *at = emit.unflatten(pixel, shape[:-1])
            return x[(n, *(i * s for i, s in zip(at, strides, strict=True)), c)]

        return outer_sum(
            OuterSum(
                math.prod(shape[:-1]),
                rows,
                shape[-1],
                left,
                lambda pixel, o: cotangents[pixel, o],
                staged=not every or _is_copied(x, dtype),
                packed=_is_copied(dy, dtype),
                dtype=dtype,
                machine=machine,
                ahead=(_ahead(pixels) if every else None, _ahead(cotangents)),
                epilogue=lambda indices, value: epilogue((*head, *indices), value),
            )
        )

    def matrix(buffer: Buffer, body: Callable[[Buffer], Stmt]) -> Stmt:
        *pixels, channels = emit.shape_of(buffer)
        return emit.view(buffer, (math.prod(pixels), channels), body)

    return matrix(x, lambda left: matrix(dy, lambda right: product(left, right)))
