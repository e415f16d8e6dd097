"""Pointwise kernels: all outputs of one element in one loop nest.

Loops run over a shape that the body itself uses, with dimensions merged as far as every operand
allows: same-shape operands give one flat loop, a bias a loop over rows and one over columns. The
innermost loop is a vector with a shorter one for the rest, the outermost is split over threads
where the work is worth it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from tvm import tirx

from ...ir.graph import Graph, Value, is_among
from ...ir.types import Shape
from ...passes.stored import cost
from . import bfloat, emit
from . import index as ix
from .cost import serial_nanoseconds, tasks_for, traffic
from .crossing import Blocks, crossing_loop
from .cuts import PARTS, Part, cut
from .emit import Buffer, Stmt
from .evaluator import Evaluator, loads
from .index import Index, Indices
from .math import storage, store
from .nest import Nest, loops, spread
from .stages import in_two_loops, passed_on
from .target import Machine

Sizes = tuple[int, ...]


def pointwise(body: Graph, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    """The loops of a pointwise kernel.

    Parameters
    ----------
    body : Graph
        Elementwise and index ops; its outputs have equally many elements.
    buffers : mapping of Value to Buffer
        Flat buffers of the inputs.
    machine : Machine
        What to choose vectors and threads for.
    """
    nest = Nest(narrows=bfloat.narrows(machine))
    evaluator = Evaluator(nest, buffers)
    if all(_replaces_window(v, body) for v in body.outputs):
        for value in dict.fromkeys(body.outputs):
            _window(evaluator, value, body, machine)
        return nest.finish()
    shape = loop_shape(body)
    size = math.prod(shape)
    tasks = tasks_for(serial_nanoseconds(size, body.nodes, traffic(body), machine), machine)

    def element(at: Indices) -> None:
        write(evaluator, body, buffers, ix.linearize(at, shape))

    lanes = lanes_for(body, machine)
    across = crossing_loop(body, shape)
    pieces = pieces_of(body, shape, lanes)
    if across is None and pieces > 1:
        width = shape[-1] // pieces

        def elements(at: Indices) -> None:
            for piece in range(pieces):
                element((*at[:-1], at[-1] + piece * width))

        traverse(nest, (*shape[:-1], width), lanes, tasks, elements)
    elif across is None:
        passed, parts = passed_on(body, shape), cut_loops(body, shape, lanes)
        if passed and max(map(len, parts)) == 1:
            row = in_two_loops(evaluator, passed, shape, lanes, element)
            traverse(nest, shape, lanes, tasks, element, row)
        else:
            wide = lanes * vectors_at_once(body, shape, lanes)
            traverse_parts(nest, parts, wide, tasks, element)
    else:
        Blocks(evaluator, body, shape, across, lanes).run(tasks, element)
    return nest.finish()


def _replaces_window(value: Value, body: Graph) -> bool:
    """Whether an output is a parameter but for a window."""
    node = value.node
    if node is None or node.op.name != "dynamic_update":
        return False
    return is_among(node.inputs[0], body.inputs)


def _window(evaluator: Evaluator, value: Value, body: Graph, machine: Machine) -> None:
    """Copy what stays, unless the output lies where the operand does, and compute the window.

    So a loop that carries a large buffer and writes a part of it in each step takes time for
    that part only.
    """
    assert value.node is not None
    x, update, *starts = value.node.inputs
    nest, source, target = evaluator.nest, evaluator.buffers[x], evaluator.buffers[value]
    lanes, size = lanes_for(body, machine), math.prod(_static(value.shape))

    def move(at: Indices) -> None:
        place = [at[0].expression()]
        copy.emit(tirx.BufferStore(target, tirx.BufferLoad(source, place), place))

    copy = Nest()
    work = serial_nanoseconds(size, (), 2 * value.type.nbytes, machine)
    traverse(copy, (size,), lanes, tasks_for(work, machine), move)
    nest.emit(emit.when(tirx.NE(emit.address(source), emit.address(target)), copy.finish()))
    if 0 in update.shape:
        return
    first = evaluator.starts(starts, x.shape, update.shape)

    def element(at: Indices) -> None:
        at = at[: update.ndim]
        (result,) = evaluator.elements([(update, at)])
        place = tuple(i + j for i, j in zip(at, first, strict=True))
        flat = ix.linearize(place, value.shape).expression()
        nest.emit(store(target, flat, result.expr, value.dtype))

    traffic_of_window = update.type.nbytes + traffic(body) - 2 * value.type.nbytes
    work = serial_nanoseconds(int(update.type.size), body.nodes, traffic_of_window, machine)
    traverse(nest, _static(update.shape), lanes, tasks_for(work, machine), element)


def write(evaluator: Evaluator, body: Graph, buffers: Mapping[Value, Buffer], flat: Index) -> None:
    """Compute the element at a position of every output, then store all."""
    outputs = tuple(dict.fromkeys(body.outputs))
    results = evaluator.elements([(v, ix.delinearize(flat, v.shape)) for v in outputs])
    for value, result in zip(outputs, results, strict=True):
        target = buffers[value]
        evaluator.nest.emit(store(target, flat.expression(), result.expr, value.dtype))


def lanes_for(body: Graph, machine: Machine) -> int:
    """Lanes of a vector of the widest dtype in the body."""
    values = {v for n in body.nodes for v in (*n.inputs, *n.outputs)} | set(body.outputs)
    widest = max((v.dtype.bits for v in values if v.type.size != 1), default=32)
    return machine.lanes(f"int{max(widest, 32)}")


def vectors_at_once(body: Graph, shape: Sizes, lanes: int) -> int:
    """How many vectors to compute in turns, a power of two.

    The rounds of random bits wait for each other and hold two registers: one vector takes 57
    cycles of a Zen 4, four take 160. Other long bodies gain nothing for certain, since they have
    no registers left for a second vector.
    """
    if not any(node.op.name == "rng_bits" for node in body.nodes):
        return 1
    return math.gcd(_RANDOM_VECTORS, shape[-1] // lanes if shape[-1] % lanes == 0 else 1)


_RANDOM_VECTORS = 4


# --- loops -----------------------------------------------------------------------------------


def traverse(
    nest: Nest,
    shape: Sizes,
    lanes: int,
    tasks: int,
    element: Callable[[Indices], None],
    whole_row: Callable[[Indices], None] | None = None,
) -> None:
    """Loop over `shape`: threads outside, vectors along the last dimension; `whole_row` computes
    a row that is not shared between threads in loops of its own."""
    *outer, inner = shape or (1,)
    rows = math.prod(outer)
    if 0 in shape:
        return

    def row(at: Indices) -> None:
        if whole_row is None:
            nest.strips(inner, lanes, lambda j: element((*at, j)))
        else:
            whole_row(at)

    if tasks == 1:
        loops(nest, outer, row)
    elif rows >= 4 * tasks or rows % tasks == 0:
        split = _leading(outer, 4 * tasks, tasks)

        def part(first: Index) -> None:
            at = ix.delinearize(first, outer[:split])
            loops(nest, outer[split:], lambda rest: row((*at, *rest)))

        spread(nest, math.prod(outer[:split]), tasks, part)
    else:
        loops(nest, outer, lambda at: _spread_row(nest, inner, lanes, tasks, at, element))


def traverse_parts(
    nest: Nest,
    parts: Sequence[Sequence[Part]],
    lanes: int,
    tasks: int,
    element: Callable[[Indices], None],
) -> None:
    """As `traverse`, over loops that are cut in parts."""
    shape = tuple(sum(part.length for part in own) for own in parts)
    first = next((i for i, own in enumerate(parts) if len(own) > 1), None)
    if first is None:
        traverse(nest, shape, lanes, tasks, element)
        return
    outer, rows = shape[:first], math.prod(shape[:first])

    def inside(at: Indices) -> None:
        if len(at) < len(parts) - 1:
            for part in parts[len(at)]:
                nest.loop(
                    part.length, lambda i, part=part: inside((*at, i + part.first)), name="part"
                )
            return
        for part in parts[-1]:
            nest.strips(part.length, lanes, lambda j, part=part: element((*at, j + part.first)))

    if tasks == 1:
        loops(nest, outer, inside)
    elif rows >= 4 * tasks or (rows > 1 and rows % tasks == 0):
        spread(nest, rows, tasks, lambda flat: inside(ix.delinearize(flat, outer)))
    else:
        for part in parts[first]:

            def moved(at: Indices, begin: int = part.first) -> None:
                element((*at[:first], at[first] + begin, *at[first + 1 :]))

            one = [*parts[:first], [Part(0, part.length)], *parts[first + 1 :]]
            is_large = part.length * len(parts[first]) >= shape[first]
            traverse_parts(nest, one, lanes, tasks if is_large else 1, moved)


def _leading(sizes: Sequence[int], wanted: int, tasks: int) -> int:
    """How many leading dimensions have iterations enough to be split evenly."""
    total = 1
    for count, size in enumerate(sizes, 1):
        total *= size
        if total >= wanted or total % tasks == 0:
            return count
    return len(sizes)


def _spread_row(
    nest: Nest,
    inner: int,
    lanes: int,
    tasks: int,
    at: Indices,
    element: Callable[[Indices], None],
) -> None:
    """One long row on several threads, whole vectors first."""
    whole = inner // lanes

    def strip(s: Index) -> None:
        nest.lanes(lanes, lambda lane: element((*at, s * lanes + lane)))

    if whole:
        spread(nest, whole, tasks, strip)
    nest.lanes(inner - whole * lanes, lambda lane: element((*at, lane + whole * lanes)))


# --- which loops -----------------------------------------------------------------------------


def loop_shape(body: Graph) -> Sizes:
    """The shape to loop over: the one with the cheapest positions in memory, merged."""
    outputs = tuple(dict.fromkeys(body.outputs))
    size = int(outputs[0].type.size)
    shape = _static(outputs[0].shape)
    if size <= 1 or _is_flat(body, shape):
        return (size,)
    values = [v for n in body.nodes for v in (*n.inputs, *n.outputs)]
    shapes = {_proper(v.shape): None for v in (*outputs, *values) if v.type.size == size}
    if len(shapes) == 1:
        return merged(outputs, _proper(shape))
    choices = [merged(outputs, s) for s in shapes]
    return min(choices, key=lambda s: (_complexity(outputs, s), -s[-1], len(s)))


def pieces_of(body: Graph, shape: Sizes, lanes: int) -> int:
    """In how many equal pieces to cut the last loop, so that each lies in one operand of a concat.

    The elements of all pieces are computed together: they need no choice between operands, and
    share what they have in common, as the gradients of a cell's gates do.
    """
    counts = {len(n.inputs) for n in body.nodes if n.op.name == "concat"}
    for count in sorted(c for c in counts if 1 < c <= _PIECES):
        width, rest = divmod(shape[-1], count)
        if rest == 0 and width >= lanes and _are_separate(body, shape, count):
            return count
    return 1


_PIECES = 8
_PARTS_COST = 48  # operations that are written out for all parts of loops


def cut_loops(body: Graph, shape: Sizes, lanes: int) -> list[list[Part]]:
    """The loops over `shape`, cut where elements come from another operand."""
    terms = [ix.Loop(_NO_VARIABLE, 0, max(n, 1) - 1, 1) for n in shape]
    most = min(PARTS, _PARTS_COST // max(1, sum(map(cost, body.nodes))))
    moving = any(n.op.name == "dynamic_update" for n in body.nodes)
    if most <= 1 or moving or 0 in shape:
        return [[Part(0, n)] for n in shape]
    flat = ix.linearize(tuple(map(ix.of, terms)), shape)
    positions = [
        position
        for value in dict.fromkeys(body.outputs)
        for position in loads((value,), ix.delinearize(flat, value.shape), frozenset())
    ]
    return cut(terms, positions, lanes, most)


def _are_separate(body: Graph, shape: Sizes, count: int) -> bool:
    """Whether the elements of each piece have positions without clamps."""
    width = shape[-1] // count
    terms = [ix.of(ix.Loop(_NO_VARIABLE, 0, n - 1, 1)) for n in (*shape[:-1], width)]
    outputs = tuple(dict.fromkeys(body.outputs))
    for piece in range(count):
        flat = ix.linearize((*terms[:-1], terms[-1] + piece * width), shape)
        for value in outputs:
            found = loads((value,), ix.delinearize(flat, value.shape), frozenset())
            if not all(position.is_affine for position in found):
                return False
    return True


def _static(shape: Shape) -> Sizes:
    return tuple(int(d) for d in shape)


def _proper(shape: Shape) -> Sizes:
    return tuple(int(d) for d in shape if d != 1) or (1,)


def _is_flat(body: Graph, shape: Sizes) -> bool:
    """Whether every node keeps the position of elements, or spreads a single one."""
    return all(
        n.op.kind in ("elementwise", "constant")
        or n.op.name in ("reshape", "rng_bits")
        or (all(v.type.size == 1 for v in n.inputs) and n.op.name == "broadcast")
        for n in body.nodes
    )


def merged(outputs: Sequence[Value], shape: Sizes) -> Sizes:
    """Join neighbouring dimensions where that makes no position harder to compute."""
    best, cost = shape, _complexity(outputs, shape)
    for place in range(len(shape) - 2, -1, -1):
        tried = (*best[:place], best[place] * best[place + 1], *best[place + 2 :])
        tried_cost = _complexity(outputs, tried)
        if tried_cost <= cost:
            best, cost = tried, tried_cost
    return best


def _complexity(outputs: Sequence[Value], shape: Sizes) -> tuple[int, int]:
    """Divisions and comparisons along the last loop, and along all loops."""
    terms = [ix.Loop(_NO_VARIABLE, 0, size - 1, 1) for size in shape]
    at = tuple(map(ix.of, terms))
    flat = ix.linearize(at, shape)
    positions: set[Index] = set()
    for value in outputs:
        positions.update(loads((value,), ix.delinearize(flat, value.shape), frozenset()))
    hard = [p for p in positions if not p.is_affine]
    return sum(p.mentions(terms[-1]) for p in hard), len(hard)


_NO_VARIABLE = emit.constant(0, "int32")


def flat_buffer(name: str, value: Value) -> Buffer:
    """A parameter of a kernel that loops index by position."""
    size = max(1, int(value.type.size))
    return emit.buffer(name, (size,), storage(value.dtype))
