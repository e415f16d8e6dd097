"""Sums in epilogues: what a convolution or a product may add up of its results while it has them.

    %c = conv(%x, %w)                          conv_reduce_sum:
    %s = reduce_sum[axes=(0, 1, 2)](%c)   ->     one pass over %c, which stores %c and leaves %s
    %m = mul(%s, 1/n)                            and %m behind it

The sums go over all axes but the last, so each channel has one: the statistics of a batch, the two
sums of a gradient that those of its parameters need, and the gradient of a bias. What they sum up
is pointwise over the root's result; whatever is computed of the sums has one element a channel.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence, Set

from ..ir.graph import Node, Value
from .moments import centered
from .outline import VIEWS, members, viewed
from .rows import Rows, agree, rows_of

SUMMING = frozenset({"conv", "conv_input_grad", "matmul"})
"""Roots whose templates run vectors along the last axis and make each result once."""
LEAST_BYTES = 1 << 18
"""Of the root's output: a pass over less is over soon."""
LEAST_PIXELS = 4096
"""Results of each channel from which on a few of them may be computed twice, for a shift."""

_INSIDE = frozenset({"broadcast", "constant", "reduce_sum"}) | VIEWS


def summed(root: Node) -> bool:
    """Whether a root's template may have sums in its epilogue."""
    output = root.output
    if root.op.name not in SUMMING or not output.dtype.is_float:
        return False
    if output.type.nbytes < LEAST_BYTES:
        return False
    # a gradient of single pixels is a product whose columns are whole images
    is_image = root.op.name == "conv_input_grad"
    return not is_image or any(int(d) > 1 for d in root.inputs[0].shape[1:-1])


def in_order(root: Node) -> bool:
    """Whether results come in the order of memory, so that a further array is read at full speed.

    Convolutions of several taps leave a few rows of a few pixels at a time, products a part of
    some rows. A pass of its own over what such small pieces are read of is faster: with the sums
    of all its gradients in epilogues a step of ResNet-20 took 4 % longer.
    """
    if root.op.name == "matmul":
        return False
    *taps, channels, _ = map(int, root.inputs[1].shape)
    return math.prod(taps) == 1 or (channels == 1 and root.attrs["groups"] > 1)


def fit_epilogue(
    root: Node,
    sums: Sequence[Node],
    outputs: Collection[Value],
    inside: Sequence[Value],
    borders: Collection[Value],
) -> bool:
    """Whether the epilogue of `root` can compute `sums` too.

    Parameters
    ----------
    root : Node
        One that is `summed`.
    sums : sequence of Node
        Reductions.
    outputs : collection of Value
        All that the kernel would store.
    inside : sequence of Value
        Those of `outputs` that are computed from the sums.
    borders : collection of Value
        What is read from memory.
    """
    rows = rows_of(sums[0])
    if rows is None or not _by_channel(root, rows):
        return False
    if not all(_fits(root, node, rows) for node in sums):
        return False
    if not all(int(v.type.size) == rows.count for v in inside):
        return False
    nodes = members(inside, borders)
    if not all(n.op.kind == "elementwise" or n.op.name in _INSIDE for n in nodes if n is not root):
        return False
    own = set(outputs)
    if not all(_in_one_pass(node, sums, own, borders) for node in sums):
        return False
    if any(centered(node, sums) for node in sums) and not _may_sample(root, rows):
        return False
    return agree(outputs, borders, rows)


def _by_channel(root: Node, rows: Rows) -> bool:
    """Whether each channel of the root's output is a row."""
    channels = int(root.output.shape[-1])
    return rows.total == root.output.type.size and rows.kept == ((1, channels),)


def _fits(root: Node, node: Node, rows: Rows) -> bool:
    same = node.inputs[0].shape == root.output.shape and node.inputs[0].dtype.is_float
    return node.op.name == "reduce_sum" and same and rows_of(node) == rows


def _in_one_pass(
    node: Node, sums: Sequence[Node], outputs: Set[Value], borders: Collection[Value]
) -> bool:
    """Whether what a sum adds up is known before the other sums are."""
    if centered(node, sums):
        return True
    pending, seen = list(node.inputs), set(node.inputs)
    while pending:
        value = pending.pop()
        if value.node in sums:
            return False
        if value.node is None or (value in borders and viewed(value) not in outputs):
            continue
        new = set(value.node.inputs) - seen
        seen |= new
        pending.extend(new)
    return True


def _may_sample(root: Node, rows: Rows) -> bool:
    """Whether a few pixels may be computed before all others."""
    dense = root.op.name == "conv" and all(d == 1 for d in root.attrs["input_dilation"])
    return dense and rows.length >= LEAST_PIXELS
