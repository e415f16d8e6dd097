"""Kernels with a root: a template of `schedules/`, and the rest of the body as its epilogue."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ...ir.errors import LoweringError
from ...ir.graph import Graph, Node, Value
from ...ir.types import bf16
from ...passes.stored import cost
from . import bfloat, emit
from . import index as ix
from .emit import Buffer, Computed, Expr, Index, Stmt
from .evaluator import Evaluator
from .math import given, store
from .nest import Nest
from .reducer import reductions_of
from .schedules.tile import Store
from .sums import Pixel, Sums
from .target import Machine

if TYPE_CHECKING:  # a family of templates is imported when a kernel needs it
    from .schedules.conv import Geometry
    from .schedules.window import Windows

_INLINE_COST = 8  # operations of an epilogue that are written out where they are used
_NATIVE = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": bfloat.STORED,
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u32": "uint32", "u8": "uint8", "bool": "uint8",
}  # fmt: skip


def shaped_buffer(name: str, value: Value) -> Buffer:
    """A parameter that a template reads: with all its dimensions, in TVM's own dtype."""
    return emit.buffer(name, [int(d) for d in value.shape], _NATIVE[value.dtype.name])


def rooted(body: Graph, root: Node, buffers: Mapping[Value, Buffer], machine: Machine) -> Stmt:
    """The loops of a kernel whose root is a contraction or a window op.

    Parameters
    ----------
    body : Graph
        The root, and pointwise ops over its output's shape.
    root : Node
    buffers : mapping of Value to Buffer
        Shaped buffers of the root's operands, flat ones of everything else.
    machine : Machine
        What to choose tiles and threads for.
    """
    template = _TEMPLATES.get(root.op.name)
    if template is None:
        raise LoweringError(f"{root.op.name}: has no template", where=root.source.where)
    operands = [buffers[v] if v in buffers else _computed(body, v, buffers) for v in root.inputs]
    if root.op.kind == "contraction" and root.inputs[0].dtype == bf16:
        bfloat.warn_if_emulated(machine)
    sums = None
    if reductions_of(body):
        sums = Sums(body, root, buffers, machine, _pixel(root, operands, machine))
    epilogue = _Epilogue(body, root, buffers, machine, sums)
    loops = template(root, operands, {"machine": machine, "epilogue": epilogue})
    return loops if sums is None else sums.around(loops)


def _pixel(root: Node, operands: list[Buffer], machine: Machine) -> Pixel | None:
    """How single pixels of a root's output are computed, if it is a convolution's."""
    if root.op.name != "conv":
        return None
    from .schedules import conv

    x, w = operands
    return partial(conv.pixel, x, w, _geometry(root), machine)


def _computed(body: Graph, value: Value, buffers: Mapping[Value, Buffer]) -> Computed:
    """An operand that the body computes of others, element by element."""
    size, needed = value.type.size, ancestors([value])
    full = [v for v in body.inputs if v in needed and v.type.size == size]

    def flat(nest: Nest, indices: tuple[Index, ...], shape: tuple[int, ...]) -> ix.Index:
        at = (
            ix.number(i) if isinstance(i, int) else nest.variable(i, 0, size - 1)
            for i, size in zip(indices, shape, strict=True)
        )
        return ix.linearize(tuple(at), shape)

    def element(indices: tuple[Index, ...], shape: tuple[int, ...]) -> Expr:
        nest = Nest.inside_lanes(inline=True)
        place = flat(nest, indices, shape)
        evaluator = Evaluator(nest, buffers)
        (result,) = evaluator.elements([(value, ix.delinearize(place, value.shape))])
        assert not nest.needs_memory, "an operand is computed by simple operations only"
        return result.expr

    def sources(indices: tuple[Index, ...], shape: tuple[int, ...]) -> list[Expr]:
        place = flat(Nest.inside_lanes(inline=True), indices, shape)
        found = []
        for v in full:
            at = (place,) if len(emit.shape_of(buffers[v])) == 1 else ix.delinearize(place, v.shape)
            found.append(buffers[v][tuple(i.expression() for i in at)])
        return found

    return Computed(tuple(map(int, value.shape)), _NATIVE[value.dtype.name], element, sources)


def ancestors(values: Iterable[Value], stop: Value | None = None) -> set[Value]:
    """All that some values are computed of, up to `stop`."""
    found: set[Value] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        if value.node is not None and value is not stop:
            new = [v for v in value.node.inputs if v not in found]
            found.update(new)
            pending.extend(new)
    return found


class _Epilogue:
    """What is stored of each element of the root's output."""

    def __init__(
        self, body: Graph, root: Node, buffers: Mapping[Value, Buffer], machine: Machine,
        sums: Sums | None = None,
    ) -> None:  # fmt: skip
        self.body, self.root, self.buffers, self.sums = body, root, buffers, sums
        self.narrows = bfloat.narrows(machine)
        size = root.output.type.size
        self.outputs = tuple(v for v in dict.fromkeys(body.outputs) if v.type.size == size)
        self.behind = ancestors(body.outputs, root.output)
        nodes = {v.node for v in (*self.behind, *body.outputs)} - {root, None}
        rest = [n for n in nodes if n and (not sums or n.output.type.size == size)]
        self.inline = sum(map(cost, rest)) <= _INLINE_COST

    def __call__(self, indices: tuple[Index, ...], value: Expr) -> list[Store] | Stmt:
        return self._stores(indices, tuple(map(int, self.root.output.shape)), value)

    def flattened(self, indices: tuple[Index, ...], value: Expr) -> list[Store] | Stmt:
        """The same for ``indices = (pixel, channel)``, the axes before the last being one."""
        *pixels, channels = map(int, self.root.output.shape)
        return self._stores(indices, (math.prod(pixels), channels), value)

    def places(self, indices: tuple[Index, ...]) -> list[Expr]:
        """The elements that are read and written with one of the root's, for who fetches them.

        `indices` are those of the root's output, or pixel and channel.
        """
        flat = indices[0]
        for index, extent in zip(
            indices[1:], self.root.output.shape[1 - len(indices) :], strict=True
        ):
            flat = flat * int(extent) + index
        size, operands = self.root.output.type.size, set(map(id, self.root.inputs))
        read = (v for v in self.body.inputs if v in self.behind)
        values = dict.fromkeys((*read, *self.body.outputs))
        full = (v for v in values if v.type.size == size and id(v) not in operands)
        return [self.buffers[v][flat] for v in full]

    def _stores(
        self, indices: tuple[Index, ...], shape: tuple[int, ...], value: Expr
    ) -> list[Store] | Stmt:
        nest = Nest.inside_lanes(inline=self.inline, narrows=self.narrows)
        output = self.root.output
        at = tuple(
            ix.number(i) if isinstance(i, int) else nest.variable(i, 0, size - 1)
            for i, size in zip(indices, shape, strict=True)
        )
        element = given(nest, value, output.dtype)
        evaluator = Evaluator(nest, self.buffers, {output: lambda _: element})
        flat = ix.linearize(at, shape)
        results = evaluator.elements([(v, ix.delinearize(flat, v.shape)) for v in self.outputs])
        added = self.sums.stores(nest, evaluator, flat, at[-1]) if self.sums else []
        if nest.needs_memory:
            self.inline = False
            return self._stores(indices, shape, value)
        stores = [
            store(self.buffers[v], flat.expression(), result.expr, v.dtype)
            for v, result in zip(self.outputs, results, strict=True)
        ]
        if self.inline:
            return [*((s.buffer, list(s.indices), s.value) for s in stores), *added]
        nest.emit(*stores, *(emit.store(*each) for each in added))
        return nest.finish()


# --- templates -------------------------------------------------------------------------------

Options = dict[str, Any]


def _matmul(root: Node, operands: list[Buffer], options: Options) -> Stmt:
    from .schedules import matmul

    flags = {name: bool(root.attrs.get(name, False)) for name in ("transpose_a", "transpose_b")}
    return matmul.matmul(*operands, **flags, **options)


def _geometry(root: Node) -> Geometry:
    from .schedules.conv import Geometry

    names = ("strides", "padding", "input_dilation", "kernel_dilation", "groups")
    return Geometry(*(root.attrs[name] for name in names))


def _conv(root: Node, operands: list[Buffer], options: Options) -> Stmt:
    from .schedules import conv

    return conv.conv(*operands, geometry=_geometry(root), **options)


def _conv_input_grad(root: Node, operands: list[Buffer], options: Options) -> Stmt:
    from .schedules import conv

    shape = root.output.shape
    return conv.conv_input_grad(*operands, input_shape=shape, geometry=_geometry(root), **options)


def _conv_kernel_grad(root: Node, operands: list[Buffer], options: Options) -> Stmt:
    from .schedules import conv_kernel_grad

    return conv_kernel_grad.conv_kernel_grad(
        *operands, kernel_shape=root.output.shape, geometry=_geometry(root), **options
    )


def _windows(root: Node) -> Windows:
    from .schedules.window import Windows

    return Windows(*(root.attrs[name] for name in ("window", "strides", "padding")))


def _max_pool(root: Node, operands: list[Buffer], options: Options) -> Stmt:
    from .schedules import window

    return window.max_pool(*operands, windows=_windows(root), **options)


def _max_pool_grad(root: Node, operands: list[Buffer], options: Options) -> Stmt:
    from .schedules import max_pool_grad

    return max_pool_grad.max_pool_grad(*operands, windows=_windows(root), **options)


def _avg_pool(root: Node, operands: list[Buffer], options: Options) -> Stmt:
    from .schedules import window

    include = root.attrs["include_padding"]
    return window.avg_pool(*operands, windows=_windows(root), include_padding=include, **options)


def _avg_pool_grad(root: Node, operands: list[Buffer], options: Options) -> Stmt:
    from .schedules import avg_pool_grad

    return avg_pool_grad.avg_pool_grad(
        *operands,
        input_shape=root.output.shape,
        windows=_windows(root),
        include_padding=root.attrs["include_padding"],
        **options,
    )


_TEMPLATES: dict[str, Callable[[Node, list[Buffer], Options], Stmt]] = {
    "matmul": _matmul, "conv": _conv, "conv_input_grad": _conv_input_grad,
    "conv_kernel_grad": _conv_kernel_grad, "max_pool": _max_pool, "avg_pool": _avg_pool,
    "max_pool_grad": _max_pool_grad, "avg_pool_grad": _avg_pool_grad,
}  # fmt: skip
