"""Attention kernels: scores, what is computed of their rows, and the products of these rows.

The unit of work is a matrix of scores, as of one head of one example; threads share the units.
Its operands are packed first, computed where they are cheap functions of an array (a bias, a
cast, the transpose that brings heads together). Then block by block of its rows:

- *scores*: products of the block's rows and all columns, in register tiles, to scratch memory;
- *rows*: each row of scores becomes a row of weights over it, by the passes of a row kernel
  (`rowwise`), so that whatever stands between the products (scale, mask, softmax and its
  gradient, dropout, casts) needs no code here;
- *results*: products of the weights. Those by rows are finished with the block; those by columns,
  as the gradients of keys and values, are added to what the blocks before it gave.

A block stays in a quarter of the second-level cache, so scores never go to memory, and a row is
there as a whole: its maximum is known before its exponentials are computed, and nothing must be
rescaled. All products are sums in the widest type of the rows (f32, or f64); where both factors
are bf16 and the processor multiplies pairs of such, they take pairs (`attention_pairs`).

Forward and backward, of heads of 32 on one core (EPYC 9R14), take 0.85 of the time of the kernels
one by one with 512 heads of 64 tokens, 0.87 with 64 of 128, and 0.73 with 16 of 512, where they
need 0.7 instead of 55 MB; they are as fast where all fits the second-level cache. See
`passes.attention` for what is kept in between. Scores are as long as a row of keys: there is no
online softmax, so very long rows, and single matrices of scores, are left to other kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from tvm import tirx

from ...ir.graph import Graph, Node, Value
from ...ir.types import f64
from ...passes.attention import Roles, roles
from ...passes.outline import body_of
from . import attention_pairs as pairs
from . import bfloat, emit
from . import index as ix
from .attention_memory import Array, Copy, Shape, Walk, as_expr, bound, half, put
from .attention_parts import Result, factors, moved, source_of, with_reciprocals
from .emit import Buffer, Expr, Stmt
from .evaluator import Evaluator
from .index import Index, Indices
from .math import Element, held, rounded, store
from .nest import Nest
from .reducer import At, Loop, Space
from .rowwise import RowUnit
from .schedules.tile import Tile, max_rows, tasks_for
from .target import Machine


def attention(body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    """The loops of an attention kernel.

    Parameters
    ----------
    body : Graph
        Products of one shape, what is computed of their rows, and products of that; transposes of
        results, and operands computed element by element.
    buffers : mapping of Value to Buffer
        Flat buffers of inputs and outputs.
    machine : Machine
        What to choose tiles and threads for.
    """
    return _Attention(body, buffers, machine).run()


# --- rows ------------------------------------------------------------------------------------


class _Rows(Space):
    """The rows of scores, whose axes stay apart; weights go to scratch memory."""

    def __init__(
        self,
        kernel: _Attention,
        body: Graph,
        buffers: Mapping[Value, Buffer],
        weights: Mapping[Value, Array],
        stored: Mapping[Value, Buffer],
    ) -> None:
        super().__init__(body, buffers, kernel.machine)
        self.kernel, self.weights, self.stored = kernel, weights, stored
        self.nest = kernel.nest
        self.evaluator = Evaluator(self.nest, buffers)

    def _loops(self) -> list[Loop]:
        return [Loop(i not in self.reduced, (i,), (d,)) for i, d in enumerate(self.shape) if d != 1]

    def write(self, values: Sequence[Value], at: At) -> None:  # type: ignore[override]
        """Compute the elements of outputs, then store all."""
        wanted = [(v, self.output_at(v, at)) for v in dict.fromkeys(values)]
        results = self.evaluator.elements(wanted)
        for (value, indices), result in zip(wanted, results, strict=True):
            if value in self.weights:
                array = self.weights[value]
                place = self.kernel.score_at(array, indices[-1])
                self.nest.emit(put(array, place, result))
            if value in self.stored:
                flat = ix.linearize(indices, value.shape).expression()
                self.nest.emit(store(self.stored[value], flat, result.expr, value.dtype))


class _Row(RowUnit):
    """One row, whose scores lie in scratch memory."""

    def __init__(self, space: _Rows, scores: Mapping[Value, Array]) -> None:
        kept = [loop for loop in space.loops if loop.kept]
        super().__init__(space, kept, [loop for loop in space.loops if not loop.kept])
        self.scores = scores

    def begin(self, columns: int) -> None:
        super().begin(columns)
        kernel = self.space.kernel  # type: ignore[attr-defined]
        for value, array in self.scores.items():

            def score(here: Indices, value: Value = value, array: Array = array) -> Element:
                place = kernel.score_at(array, here[-1])
                return rounded(held(kernel.nest, array.buffer, place, value.dtype))

            self.space.evaluator.given[value] = score


# --- the kernel ------------------------------------------------------------------------------


class _Attention:
    """The loops of a kernel, from outside in."""

    def __init__(self, body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> None:
        self.body, self.buffers, self.machine = body, buffers, machine
        self.nest = Nest(narrows=bfloat.narrows(machine))
        self.evaluator = Evaluator(self.nest, buffers)
        found = roles(body)
        self.scores = found.scores
        self.results = [Result.of(n, w) for n, w in zip(found.results, found.weights, strict=True)]
        *batch, self.rows, self.columns = map(int, found.scores[0].output.shape)
        self.batch = tuple(batch)
        wide = any(n.output.dtype == f64 for n in (*found.scores, *found.results))
        self.dtype = "float64" if wide else "float32"
        self.lanes = machine.lanes(self.dtype)
        work = 2 * sum(int(n.output.type.size) * factors(n)[0].depth for n in found.scores)
        self.tasks = min(tasks_for(work, machine), math.prod(batch))
        able = bfloat.pairs_fit(machine) and not wide
        self.paired = pairs.paired_products(found, self.results) if able else frozenset()
        self.task, self.row_in_block = ix.ZERO, ix.ZERO
        self._choose_block(found)
        self._allocate(found)

    def _choose_block(self, found: Roles) -> None:
        """Rows in a block, and the length of a row in scratch memory."""
        arrays = max(len(found.scores), len(set(found.weights)))
        wide = self._shape(self.rows, self.columns)
        tall = self._shape(self.columns, self.lanes)
        self.length = self._padded(max(self.columns, wide.across * wide.vectors * self.lanes,
                                       tall.down * tall.height))  # fmt: skip
        nbytes = 8 if self.dtype == "float64" else 4
        arrays += len({r.weights for r in self.results if r.node in self.paired})
        if self.length * nbytes % 2048 == 0:  # rows that begin in few sets of the cache
            self.length += self.lanes
        fit = max(1, self.machine.l2 // 4 // (arrays * self.length * nbytes))
        blocks = -(-self.rows // max(fit, min(8, self.rows)))
        self.block = -(-self.rows // blocks)
        self.blocks = -(-self.rows // self.block)

    def _shape(self, rows: int, columns: int) -> Shape:
        """The register tiles for a matrix: of one shape, with little beyond its borders."""
        count = -(-columns // self.lanes)
        vectors = count if count <= 3 else 2 if count % 2 == 0 or count % 3 else 3
        tallest = max_rows(self.machine, vectors)
        height = min(range(1, min(rows, tallest) + 1),
                     key=lambda h: -(-rows // h) * (h * vectors + vectors + 1))  # fmt: skip
        return Shape(height, vectors, -(-rows // height), -(-count // vectors))

    def _padded(self, columns: int) -> int:
        return -(-columns // self.lanes) * self.lanes

    def _array(self, rows: int, stride: int, dtype: str = "") -> Array:
        size = self.tasks * rows * stride
        return Array(self.nest.scratch(dtype or self.dtype, size), rows, stride)

    def _allocate(self, found: Roles) -> None:
        """Scratch memory for operands, scores and results."""
        tall = self._shape(self.block, self.columns)
        count = max(len(found.scores), len(set(found.weights)))
        self.height = tall.down * tall.height
        block = [self._array(self.height, self.length) for _ in range(count)]
        self.score_arrays = dict(zip((n.output for n in found.scores), block, strict=False))
        self.weight_arrays = dict(zip(dict.fromkeys(found.weights), block, strict=False))
        self.joined_weights: dict[Value, Array] = {}
        for result in self.results:
            if result.node not in self.paired:
                continue
            self.weight_arrays[result.weights] = self._short(self.height, self.length)
            if not result.by_rows:
                self.joined_weights[result.weights] = self._pairs(self.height, self.length)
        self._allocate_copies(found)
        self.sums = {}
        for result in self.results:
            rows = self.block if result.by_rows else self.columns
            shape = self._shape(rows, result.operand.depth)
            width = self._wide(result.operand.depth)
            self.sums[result.node] = self._array(shape.down * shape.height, width)

    def _allocate_copies(self, found: Roles) -> None:
        """Scratch memory for operands, by rows, in panels and with two rows joined."""
        self.copies: dict[Copy, Array] = {}
        self.joined: dict[Copy, Array] = {}
        self.panels: dict[Copy, Array] = {}
        for copy in self._operands():
            rows = self.height if copy.is_row else self._copied_columns
            width = self._wide(copy.operand.depth)
            if copy not in self.copies:
                self.copies[copy] = (self._short if copy.paired else self._array)(rows, width)
        for node in found.scores:
            right = self._factors(node)[1]
            depth = self._padded(right.terms)
            dtype = bfloat.PAIR if right.paired else self.dtype
            self.panels[right] = self._array(self._copied_columns, depth, dtype)
        for result in self.results:
            copy = self._operand(result)
            if copy.paired:
                rows = self.copies[copy].rows
                self.joined[copy] = self._pairs(rows, self._wide(copy.operand.depth))

    def _short(self, rows: int, width: int) -> Array:
        """An array of bf16 with room for zeros after the last number and row."""
        stride = -(-(width + 1) // (2 * self.lanes)) * 2 * self.lanes
        return self._array(rows + 2, stride, bfloat.STORED)

    def _pairs(self, rows: int, width: int) -> Array:
        """An array of pairs, each of two of so many rows."""
        return self._array(rows // 2 + 1, width, bfloat.PAIR)

    @property
    def _copied_columns(self) -> int:
        shape = self._shape(self.rows, self.columns)
        return shape.across * shape.vectors * self.lanes

    def _wide(self, depth: int) -> int:
        """Columns of whole register tiles."""
        shape = self._shape(1, depth)
        return shape.across * shape.vectors * self.lanes

    def _operands(self) -> Iterator[Copy]:
        """The operands of all products."""
        for node in self.scores:
            yield from self._factors(node)
        for result in self.results:
            yield self._operand(result)

    def _factors(self, node: Node) -> tuple[Copy, Copy]:
        left, right = factors(node)
        paired = node in self.paired
        return Copy(left, True, paired), Copy(right, False, paired)

    def _operand(self, result: Result) -> Copy:
        return Copy(result.operand, not result.by_rows, result.node in self.paired)

    # --- loops ---

    def run(self) -> Stmt:
        """The whole kernel."""
        units = math.prod(self.batch)

        def task(number: Index) -> None:
            self.task = number
            start, length = emit.split_range(units, self.tasks, number.expression())
            self.nest.span(as_expr(start), self.nest.known(length), (0, units - 1), self._unit)

        self.nest.loop(self.tasks, task, emit.ForKind.PARALLEL, "task")
        whole = self.nest.finish()
        if not self.paired:
            return whole
        return bfloat.importing(pairs.importing(whole, self.lanes), self.machine)

    def _unit(self, flat: Index) -> None:
        self.unit = tuple(map(self.nest.hold, ix.delinearize(flat, self.batch)))
        for copy, array in self.copies.items():
            if not copy.is_row:
                self._copy(copy, array, ix.ZERO, copy.operand.positions)
        for copy, array in self.panels.items():
            self._turn(self.copies[copy], array, copy.terms)
        columns = [r for r in self.results if not r.by_rows]
        if self.blocks > 1:
            for result in columns:
                self._clear(self.sums[result.node])
        self.nest.loop(self.blocks, self._block, name="block")
        for result in columns:
            self.nest.loop(self.columns, lambda s, r=result: self._write(r, s, s), name="s")

    def _block(self, number: Index) -> None:
        first = number * self.block
        count: Expr | int = self.block
        if self.rows % self.block:
            count = self.nest.known(emit.minimum(self.block, self.rows - first.expression()))
        for copy, array in self.copies.items():
            if copy.is_row:
                self._copy(copy, array, first, count)
        for node in self.scores:
            self._multiply_scores(node)
        self._each_row(first, count, self._weights())
        for weights, array in self.joined_weights.items():
            self._join(self.weight_arrays[weights], array, count, self.columns)
        for result in self.results:
            self._multiply_result(result, count)
            if result.by_rows:
                self._each_row(first, count, lambda t, r=result: self._write(
                    r, t, self.row_in_block))  # fmt: skip

    def _each_row(self, first: Index, count: Expr | int, body: Callable[[Index], None]) -> None:
        """Run `body` with the number of each row of a block."""

        def row(inside: Index) -> None:
            self.row_in_block = inside
            place = (first + inside).expression()
            body(self.nest.variable(self.nest.known(place), 0, self.rows - 1))

        zero = ix.ZERO.expression()
        self.nest.span(zero, as_expr(count), (0, self.block - 1), row, name="row")

    # --- operands ---

    def _copy(self, copy: Copy, array: Array, first: Index, count: Expr | int) -> None:
        """Copy positions of an operand from `first` on, as rows of bf16 or the type of the sums."""
        operand = copy.operand
        last = operand.positions - 1

        def row(inside: Index) -> None:
            place = self.nest.variable(self.nest.known((first + inside).expression()), 0, last)

            def element(j: Index) -> None:
                value = self.evaluator.element(operand.value, operand.at(self.unit, place, j))
                self.nest.emit(put(array, array.row(self.task, inside) + j, value))

            self.nest.strips(operand.depth, self.lanes, element)
            if array.is_short and operand.depth % 2:
                end = array.row(self.task, inside) + operand.depth
                self.nest.emit(pairs.zero(array.buffer, end.expression()))

        limit = min(self.block, operand.positions) if isinstance(count, Expr) else count
        self.nest.span(ix.ZERO.expression(), as_expr(count), (0, limit - 1), row, name="copy")
        if copy in self.joined:
            self._join(array, self.joined[copy], count, operand.depth)

    def _join(self, source: Array, target: Array, count: Expr | int, columns: int) -> None:
        """Join two rows of bf16 to one of pairs, the last with zeros if there is no other."""
        start, end = source.row(self.task), target.row(self.task)
        after = start.expression() + as_expr(count) * source.stride
        vectors = -(-columns // self.lanes)

        def clear(number: Index) -> None:
            place = after + (number * self.lanes).expression()
            nothing = tirx.Broadcast(emit.constant(0, bfloat.STORED), self.lanes)
            self.nest.emit(tirx.BufferStore(source.buffer, nothing, [self._ramp(place)]))

        def pair(row: Index) -> None:
            def vector(number: Index) -> None:
                first = start + row * (2 * source.stride) + number * self.lanes
                second = (first + source.stride).expression()
                joined = pairs.join(source.buffer, first.expression(), second, self.lanes)
                place = (end + row * target.stride + number * self.lanes).expression()
                self.nest.emit(tirx.BufferStore(target.buffer, joined, [self._ramp(place)]))

            self.nest.loop(vectors, vector, name="vector")

        if isinstance(count, Expr) or count % 2:
            self.nest.loop(vectors, clear, name="zero")
        bounds = (0, max(0, -(-source.rows // 2) - 1))
        self.nest.span(ix.ZERO.expression(), as_expr(half(count)), bounds, pair, name="pair")

    def _turn(self, source: Array, target: Array, terms: int) -> None:
        """Make panels of the columns of scores: ``[panel, depth, columns of a panel]``."""
        lanes, width = self.lanes, self._shape(self.rows, self.columns).vectors * self.lanes
        start, end = source.row(self.task), target.row(self.task)

        def columns(number: Index) -> None:
            panel, inside = number // (width // lanes), number % (width // lanes)
            base = panel * (width * target.stride) + inside * lanes + end

            def depth(block: Index) -> None:
                def load(row: emit.Index, _: emit.Index) -> Expr:
                    step = 2 * lanes if source.is_short else lanes
                    whole = number * (lanes * source.stride) + start + block * step
                    place = (whole + row * source.stride).expression()
                    if source.is_short:
                        return pairs.load(source.buffer, place, lanes)
                    return source.buffer[self._ramp(place)]

                def put(column: emit.Index, _: emit.Index, value: Expr) -> Stmt:
                    place = (base + block * (lanes * width) + column * width).expression()
                    return tirx.BufferStore(target.buffer, value, [self._ramp(place)])

                self.nest.emit(emit.transpose_block(load, put, lanes))

            self.nest.loop(-(-terms // lanes), depth, name="depth")

        self.nest.loop(self._copied_columns // lanes, columns, name="columns")

    def _clear(self, array: Array) -> None:
        start = array.row(self.task)

        def vector(number: Index) -> None:
            place = (start + number * self.lanes).expression()
            zero = Tile(1, 1, self.lanes, self.dtype).zero
            self.nest.emit(tirx.BufferStore(array.buffer, zero, [self._ramp(place)]))

        self.nest.loop(array.rows * array.stride // self.lanes, vector, name="clear")

    # --- products ---

    def _ramp(self, place: Expr) -> Expr:
        return Tile(1, 1, self.lanes, self.dtype).ramp(place)

    def _multiply_scores(self, node: Node) -> None:
        """``scores[i, j] = sum_d row[i, d] column[j, d]`` for a block."""
        left, right = self._factors(node)
        a, b = self.copies[left], self.panels[right]
        shape = self._shape(self.block, self.columns)
        width = shape.vectors * self.lanes
        rows, columns = a.row(self.task).expression(), b.row(self.task).expression()
        self._tiles(
            shape,
            self.score_arrays[node.output],
            left.terms,
            Walk(a.buffer, rows, shape.height * a.stride, 2 if left.paired else 1),
            Walk(b.buffer, columns, width * b.stride, width),
            a.stride,
            paired=left.paired,
        )

    def _multiply_result(self, result: Result, count: Expr | int) -> None:
        """The part of a result that a block gives."""
        copy = self._operand(result)
        weights, right = self.weight_arrays[result.weights], self.copies[copy]
        terms: Expr | int = self.columns if result.by_rows else count
        step = 1
        if copy.paired:
            right, terms, step = self.joined[copy], half(terms), 2
            if not result.by_rows:
                weights = self.joined_weights[result.weights]
        first, start = weights.row(self.task).expression(), right.row(self.task).expression()
        rows = self.block if result.by_rows else self.columns
        shape = self._shape(rows, result.operand.depth)
        width = shape.vectors * self.lanes
        down, along = (weights.stride, step) if result.by_rows else (1, weights.stride)
        self._tiles(
            shape,
            self.sums[result.node],
            terms,
            Walk(weights.buffer, first, shape.height * down, along),
            Walk(right.buffer, start, width, right.stride),
            down,
            adds=not result.by_rows and self.blocks > 1,
            paired=copy.paired,
        )

    def _tiles(
        self,
        shape: Shape,
        sums: Array,
        terms: Expr | int,
        left: Walk,
        right: Walk,
        down: int,
        adds: bool = False,
        paired: bool = False,
    ) -> None:
        """A product, in register tiles, to an array that has room for whole ones.

        Each address is a variable and a number, which is what processors add for nothing; `down`
        lies between two rows of the left factor.
        """
        tile = Tile(shape.height, shape.vectors, self.lanes, self.dtype, paired)
        base = sums.row(self.task).expression()

        def one(panel: emit.Index, number: emit.Index) -> Stmt:
            place = base + number * (shape.height * sums.stride) + panel * tile.columns
            return bound(product, left.at(number), right.at(panel), place)

        def product(rows: Expr, columns: Expr, place: Expr) -> Stmt:
            def at(row: int, vector: int) -> Expr:
                return self._ramp(place + (row * sums.stride + vector * self.lanes))

            def loops(step: Callable[..., Stmt]) -> Stmt:
                def term(row: Expr, column: Expr) -> Stmt:
                    return step(
                        lambda i: left.scalar(row + i * down),
                        lambda vector: right.buffer[self._ramp(column + vector * self.lanes)],
                    )

                return emit.serial(
                    terms,
                    lambda k: bound(term, rows + k * left.along, columns + k * right.along),
                    "k",
                )

            def write(found: Buffer, row: int, vector: int) -> Stmt:
                value = tile.vector(found, row, vector)
                return tirx.BufferStore(sums.buffer, value, [at(row, vector)])

            def finish(found: Buffer) -> Stmt:
                return tile.each(lambda row, vector: write(found, row, vector))

            def begin(row: int, vector: int) -> Expr:
                return sums.buffer[at(row, vector)]

            return tile.reduce(loops, finish, begin if adds else None)

        self.nest.emit(emit.serial(shape.across, lambda panel: emit.serial(
            shape.down, lambda number: one(panel, number), "tile"), "panel"))  # fmt: skip

    # --- rows and results ---

    def score_at(self, array: Array, column: Index) -> Index:
        """Where a score or weight of the row that is computed lies."""
        return array.row(self.task, self.row_in_block) + column

    def _weights(self) -> Callable[[Index], None]:
        """What computes the weights of a row."""
        found = roles(self.body)
        products = [n.output for n in found.scores]
        weights = list(dict.fromkeys(found.weights))
        inside = {v for n in found.between for v in n.outputs}
        stored = [v for v in dict.fromkeys(self.body.outputs) if v in inside]
        computed = list(dict.fromkeys([*weights, *stored]))
        read = [v for n in found.between for v in n.inputs] + weights
        leaves = [v for v in dict.fromkeys(read) if v not in inside.union(products)]
        nodes, changed = with_reciprocals(found.between)
        outputs_of_rows = [changed.get(v, v) for v in computed]
        middle = body_of("rows", nodes, [*products, *leaves], outputs_of_rows)
        new = dict(zip(computed, middle.outputs, strict=True))
        parameters = dict(zip([*products, *leaves], middle.inputs, strict=True))
        buffers = {parameters[v]: self.buffers[v] for v in leaves}
        outputs = {new[v]: self.buffers[v] for v in stored}
        arrays = {new[v]: self.weight_arrays[v] for v in weights}
        scores = {parameters[v]: self.score_arrays[v] for v in products}
        space = _Rows(self, middle, buffers, arrays, outputs)
        unit = _Row(space, scores)
        axes = [i for i, size in enumerate(space.kept_shape) if size != 1]

        def row(place: Index) -> None:
            at = (*self.unit, place)
            unit.row(tuple(at[axis] for axis in axes))
            for array in arrays.values():
                if array.is_short and self.columns % 2:
                    end = self.score_at(array, ix.number(self.columns))
                    self.nest.emit(pairs.zero(array.buffer, end.expression()))

        return row

    def _write(self, result: Result, position: Index, row: Index) -> None:
        """Store one row of a result."""
        array, node = self.sums[result.node], result.node
        target = next(v for v in self.body.outputs if source_of(v) is node)

        def element(j: Index) -> None:
            at = (*self.unit, j, position) if result.flipped else (*self.unit, position, j)

            def known(here: Indices) -> Element:
                assert here == at, "not element by element"
                place = array.row(self.task, row) + j
                return rounded(held(self.nest, array.buffer, place, node.output.dtype))

            self.evaluator.given[node.output] = known
            place = moved(target, node, at)
            value = self.evaluator.element(target, place)
            flat = ix.linearize(place, target.shape).expression()
            self.nest.emit(store(self.buffers[target], flat, value.expr, target.dtype))

        self.nest.strips(result.operand.depth, self.lanes, element)
