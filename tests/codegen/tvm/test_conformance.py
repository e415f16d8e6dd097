"""Every op of the registry as native code against its oracle, on its samples and more sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conformance import SIZES, bound, draw
from native_graph import check_graph, error, tolerance

from hornfels.ir import REGISTRY, Builder, Graph
from hornfels.ir.op import Case, Op

SHAPES = ((0, 3), (1,), (1, 1), (67,), (3, 37))
"""Empty, single, and no multiple of any vector."""

SUMS = {"reduce_sum", "reduce_prod", "matmul", "conv", "conv_input_grad", "conv_kernel_grad",
        "avg_pool", "avg_pool_grad", "max_pool_grad", "scatter_add",
        "cholesky", "triangular_solve", "lu", "qr", "eigh", "svd", "fft"}  # fmt: skip
"""Ops whose terms are added in another order than NumPy's."""


def cases(op: Op) -> list[Case]:
    """The op's samples with sizes for symbols, and elementwise ops on further shapes."""
    static = [
        replace(
            c,
            types=tuple(t.substitute(SIZES) for t in c.types),
            attrs={k: bound(v) for k, v in c.attrs.items()},
        )
        for c in op.samples
    ]
    if op.kind != "elementwise":
        return static
    by_dtypes = {(*(t.dtype for t in c.types), c.attrs.get("dtype")): c for c in static}
    more = [
        replace(c, types=tuple(t.with_shape(shape) for t in c.types))
        for c in by_dtypes.values()
        for shape in SHAPES
    ]
    return static + more


def graph_of(op: Op, samples: list[Case]) -> tuple[Graph, dict[str, np.ndarray]]:
    """All samples as one graph, so that they are compiled at once."""
    arrays: dict[str, np.ndarray] = {}
    outputs = {}
    with Builder(op.name) as b:
        for number, case in enumerate(samples):
            operands = []
            for i, (t, array) in enumerate(zip(case.types, draw(op, case), strict=True)):
                operands.append(b.input(f"x{number}_{i}", t))
                arrays[f"x{number}_{i}"] = array
            for i, value in enumerate(op.all(*operands, **case.attrs)):
                outputs[f"y{number}_{i}"] = value
        return b.finish(outputs), arrays


@pytest.mark.parametrize("name", REGISTRY)
def test_native_code_agrees_with_the_oracle(name):
    op = REGISTRY[name]
    assert op.tvm is None, f"{name} has no native code: {op.tvm}"
    graph, arrays = graph_of(op, cases(op))
    check_graph(graph, arrays, factor=4.0 if name in SUMS else 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_small_error_is_noticed(dtype):
    exact = np.linspace(-1, 1, 40, dtype=dtype)
    wrong = exact.copy()
    wrong[7] *= 1 + 1e3 * np.finfo(dtype).eps * 8
    assert error(exact, exact) == 0
    assert error(wrong, exact) > tolerance(exact, 0.1)
    assert error(exact.reshape(5, 8), exact) == np.inf
    assert error(np.arange(3), np.array([0, 1, 3])) == np.inf
    assert error(np.array([np.nan]), np.array([1.0])) == np.inf
