"""What a kernel has to do: floating-point operations and bytes, for rooflines and reports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..ir.graph import Node, Value
from .plan import Kernel
from .stored import cost


@dataclass(frozen=True)
class Work:
    """The work of one call of a kernel.

    Attributes
    ----------
    flops : int
        Of matrix products and convolutions, a multiply-add being two.
    operations : int
        Roughly how many simple operations everything else takes, element by element.
    read, written : int
        Bytes of operands and results, each counted once.
    """

    flops: int
    operations: int
    read: int
    written: int

    @property
    def nbytes(self) -> int:
        """Bytes that go to or come from memory at least."""
        return self.read + self.written

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.operations + other.operations,
            self.read + other.read,
            self.written + other.written,
        )


NO_WORK = Work(0, 0, 0, 0)


def work_of(kernel: Kernel) -> Work:
    """The work of a kernel; its sizes are fixed.

    Examples
    --------
    >>> import numpy as np
    >>> from hornfels.ir import parse
    >>> from hornfels.passes.pipeline import make_plan
    >>> from hornfels.passes.work import work_of
    >>> graph = parse('''graph product(%a: f32[4,5], %b: f32[5,3]) {
    ...   %0: f32[4,3] = matmul(%a, %b)
    ...   return y=%0
    ... }''')
    >>> (kernel,) = make_plan(graph).kernels
    >>> work_of(kernel)
    Work(flops=120, operations=0, read=140, written=48)
    """
    body = kernel.body
    return work_between(body.nodes, body.inputs, body.outputs)


def work_between(nodes: Iterable[Node], read: Iterable[Value], written: Iterable[Value]) -> Work:
    """The work of some nodes that read and write these values."""
    nodes = tuple(nodes)
    return Work(
        sum(map(_flops, nodes)), sum(map(_operations, nodes)), _nbytes(read), _nbytes(written)
    )


def _flops(node: Node) -> int:
    if node.op.flops is None:
        return 0
    types = [v.type for v in node.inputs]
    return node.op.flops(*types, out=node.output.type, **node.attrs)


def _operations(node: Node) -> int:
    """Of an elementwise op for each result, of a reduction or window for each operand."""
    if node.op.flops is not None:
        return 0
    values = (*node.inputs, *node.outputs) if node.op.kind != "elementwise" else node.outputs
    elements = max((math.prod(map(int, v.shape)) for v in values), default=0)
    return elements * cost(node)


def _nbytes(values: Iterable[Value]) -> int:
    return sum(v.type.nbytes for v in dict.fromkeys(values))
