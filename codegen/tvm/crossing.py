"""Pointwise loops that run along one dimension of the result and jump through an operand.

The loops go in blocks of a vector's lanes along both dimensions, so that what is read of a line of
the cache is used before that leaves it. A block of an operand that lies the other way round comes
as whole vectors, is transposed in registers, and then read from a small array: 16 rows of 16 f32
take 64 shuffles instead of 256 loads.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

from tvm import tirx

from ...ir.graph import Graph, Value
from . import emit
from . import index as ix
from .emit import Buffer
from .evaluator import Evaluator, loads, reads
from .index import Index, Indices
from .math import Element, read, storage
from .nest import loops, spread

Sizes = tuple[int, ...]

_TRANSPOSED = 4  # operands that are transposed in blocks; each takes a kilobyte of the stack


def crossing_loop(body: Graph, shape: Sizes) -> int | None:
    """The loop along which an operand is contiguous that the last loop jumps through, if any."""
    if len(shape) < 2:
        return None
    terms = [ix.Loop(_NO_VARIABLE, 0, size - 1, 1) for size in shape]
    flat = ix.linearize(tuple(map(ix.of, terms)), shape)
    for value in dict.fromkeys(body.outputs):
        for position in loads((value,), ix.delinearize(flat, value.shape), frozenset()):
            if abs(position.coefficient(terms[-1])) <= 1:
                continue
            for axis, term in enumerate(terms[:-1]):
                if abs(position.coefficient(term)) == 1:
                    return axis
    return None


_NO_VARIABLE = emit.constant(0, "int32")


class Blocks:
    """Loops over `shape` in blocks of `lanes` x `lanes` along dimension `across` and the last.

    Parameters
    ----------
    evaluator : Evaluator
    body : Graph
    shape : tuple of int
    across : int
        The dimension along which some operands are contiguous.
    lanes : int
        Of a vector.
    """

    def __init__(
        self, evaluator: Evaluator, body: Graph, shape: Sizes, across: int, lanes: int
    ) -> None:
        self.evaluator, self.nest = evaluator, evaluator.nest
        self.outputs = tuple(dict.fromkeys(body.outputs))
        self.shape, self.across, self.lanes = shape, across, lanes
        self.turned = self._turned(set(body.inputs)) if lanes & (lanes - 1) == 0 else []

    def _positions(self, at: Indices) -> dict[Value, set[Index]]:
        """Where each operand is read for an element of the results."""
        flat, found = ix.linearize(at, self.shape), defaultdict(set)
        for output in self.outputs:
            for value, position in reads((output,), ix.delinearize(flat, output.shape)):
                if value is not None:
                    found[value].add(position)
        return found

    def _turned(self, inputs: set[Value]) -> list[tuple[Value, int]]:
        """The operands that are transposed, and how far apart neighbours of a vector lie."""
        terms = [ix.Loop(_NO_VARIABLE, 0, size - 1, 1) for size in self.shape]
        found = []
        for value, positions in self._positions(tuple(map(ix.of, terms))).items():
            position = next(iter(positions))
            apart = position.coefficient(terms[-1])
            along = position.coefficient(terms[self.across])
            single = len(positions) == 1 and position.is_affine and value in inputs
            if single and along == 1 and apart > 1:
                found.append((value, apart))
        return found[:_TRANSPOSED]

    def run(self, tasks: int, element: Callable[[Indices], None]) -> None:
        """Run `element` for all of them, on so many threads."""
        *_, inner = self.shape
        outer = [size for axis, size in enumerate(self.shape[:-1]) if axis != self.across]
        whole, rest = divmod(self.shape[self.across], self.lanes)

        def numbered(flat: Index) -> None:
            *at, number = ix.delinearize(flat, (*outer, whole))
            self._block(tuple(at), number * self.lanes, self.lanes, element)

        blocks = math.prod(outer) * whole
        if blocks:
            spread(self.nest, blocks, tasks, numbered)
        if rest and inner:
            last = ix.number(whole * self.lanes)
            loops(self.nest, outer, lambda at: self._block(at, last, rest, element))

    def _block(
        self, at: Indices, first: Index, count: int, element: Callable[[Indices], None]
    ) -> None:
        nest, lanes, across = self.nest, self.lanes, self.across
        strips, rest = divmod(self.shape[-1], lanes)

        def strip(base: Index, width: int) -> None:
            tiles = self._tiles((*at[:across], first, *at[across:], base), min(count, width))

            def row(i: Index) -> None:
                place = (*at[:across], first + i, *at[across:])

                def lane(j: Index) -> None:
                    self._give(tiles, i * lanes + j)
                    element((*place, base + j))

                nest.lanes(width, lane)

            nest.loop(count, row, name="row")

        nest.loop(strips, lambda s: strip(s * lanes, lanes), name="strip")
        if rest:
            strip(ix.number(strips * lanes), rest)

    def _tiles(self, corner: Indices, size: int) -> dict[Value, Buffer]:
        """The block of each turned operand, the way the result lies; none if it is not whole."""
        if size < self.lanes or not self.turned:
            return {}
        positions, tiles = self._positions(corner), {}
        for value, apart in self.turned:
            (position,) = positions[value]
            tile = self.nest.local(storage(value.dtype), size * size)
            self._turn(self.evaluator.buffers[value], self.nest.hold(position), apart, tile)
            tiles[value] = tile
        return tiles

    def _turn(self, source: Buffer, position: Index, apart: int, tile: Buffer) -> None:
        size = self.lanes

        def load(row: emit.Index, columns: emit.Index) -> emit.Expr:
            start = (position + int(row) * apart).expression()
            self.nest.emit(_prefetch(source[start + size]))
            return tirx.BufferLoad(source, [tirx.Ramp(start, tirx.IntImm("int32", 1), size)])

        def write(column: emit.Index, rows: emit.Index, vector: emit.Expr) -> emit.Stmt:
            start = tirx.IntImm("int32", int(column) * size)
            place = tirx.Ramp(start, tirx.IntImm("int32", 1), size)
            return tirx.BufferStore(tile, vector, [place])

        self.nest.emit(emit.transpose_block(load, write, size))

    def _give(self, tiles: dict[Value, Buffer], place: Index) -> None:
        """From now on turned operands are read at a place of their blocks."""
        for value, _ in self.turned:
            self.evaluator.given.pop(value, None)
        for value, tile in tiles.items():

            def known(_: Indices, value: Value = value, tile: Buffer = tile) -> Element:
                return read(self.nest, tile, place, value.dtype)

            self.evaluator.given[value] = known


def _prefetch(element: emit.Expr) -> emit.Stmt:
    """As `emit.prefetch`, to the second-level cache, in a form that needs no pass of TVM's."""
    read, near, data = (tirx.IntImm("int32", value) for value in (0, 2, 1))
    place = tirx.address_of(element)
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", place, read, near, data))
