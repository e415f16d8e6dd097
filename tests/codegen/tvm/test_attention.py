"""Attention kernels: forward and backward as one kernel each, against the oracle."""

from __future__ import annotations

import pytest
from native_graph import arrays_for, check_graph

from hornfels.ir import Builder, Graph, gradients, sugar
from hornfels.ir.types import boolean, f32
from hornfels.passes.fusion import fuse
from hornfels.passes.pipeline import optimize


def softmax(x):
    e = sugar.unary("exp", x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v, mask=None, scale=0.5):
    """Heads before positions, as in `(batch, heads, time, depth)`."""
    scores = sugar.matmul(q, sugar.transpose(k, (0, 1, 3, 2))) * scale
    if mask is not None:
        scores = sugar.select(mask, scores, -1e30)
    return sugar.matmul(softmax(scores), v)


def graph_of(batch, heads, rows, columns, depth, value_depth, dtype=f32, masked=False,
             gradient=False) -> Graph:  # fmt: skip
    """Attention of `(batch, time, heads, depth)`, or its gradients."""
    with Builder("attention") as b:
        x = [b.input(name, dtype(batch, n, heads, d)) for name, n, d in
             (("q", rows, depth), ("k", columns, depth), ("v", columns, value_depth))]  # fmt: skip
        mask = b.input("mask", boolean(batch, heads, rows, columns)) if masked else None
        q, k, v = (sugar.transpose(each, (0, 2, 1, 3)) for each in x)
        out = sugar.transpose(attention(q, k, v, mask), (0, 2, 1, 3))
        if not gradient:
            return b.finish({"out": out})
        g = b.input("g", dtype(batch, rows, heads, value_depth))
        grads = gradients((out * out * g).sum(), x)
        return b.finish(dict(zip(("out", "dq", "dk", "dv"), (out, *grads), strict=True)))


def kernels_of(graph: Graph) -> list[str]:
    return [call.kernel.root for call in fuse(optimize(graph))]


SIZES = [
    (2, 1, 8, 2, 1, 1), (1, 3, 9, 7, 5, 3), (2, 2, 65, 65, 8, 8), (1, 2, 16, 64, 40, 33),
    (3, 1, 33, 17, 32, 16), (1, 1, 130, 100, 7, 64),
]  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("gradient", [False, True])
def test_sizes(sizes, gradient):
    graph = graph_of(*sizes, gradient=gradient)
    found = kernels_of(graph)
    assert found.count("attention") == 1 + gradient
    assert "matmul" not in found
    check_graph(graph, arrays_for(graph), factor=8)
