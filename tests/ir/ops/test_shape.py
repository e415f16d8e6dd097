"""Ops that move elements: symbolic sizes in types and gradients, cropping and dilating pads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from jax import lax

from hornfels.ir import REGISTRY, Builder, evaluate, gradients, symbol
from hornfels.ir.graph import Value
from hornfels.ir.types import TensorType, f32

N, T = symbol("N"), symbol("T")


@pytest.mark.parametrize(
    ("name", "operands", "attrs", "expected"),
    [
        ("broadcast", [f32(N, 1)], {"shape": (N, T, 5), "axes": (0, 2)}, f32(N, T, 5)),
        ("reshape", [f32(N, 7, 7)], {"shape": (N * 49,)}, f32(N * 49)),
        ("reshape", [f32(N, T)], {"shape": (T, N)}, f32(T, N)),
        ("transpose", [f32(N, 2, T)], {"permutation": (2, 0, 1)}, f32(T, N, 2)),
        ("concat", [f32(N, 2), f32(T, 2), f32(1, 2)], {"axis": 0}, f32(N + T + 1, 2)),
        ("slice", [f32(N)], {"starts": (1,), "limits": (N,), "strides": (1,)}, f32(N - 1)),
        ("slice", [f32(N)], {"starts": (N - 1,), "limits": (N,), "strides": (1,)}, f32(1)),
        ("pad", [f32(N)], {"low": (2,), "high": (-1,), "interior": (0,), "value": 0.0}, f32(N + 1)),
        ("pad", [f32(N)], {"low": (0,), "high": (0,), "interior": (2,), "value": 0.0},
         f32(N * 3 - 2)),
        ("reverse", [f32(N, 2)], {"axes": (0,)}, f32(N, 2)),
    ],
)  # fmt: skip
def test_symbolic_sizes_are_computed_with(
    name: str, operands: list[TensorType], attrs: dict[str, Any], expected: TensorType
) -> None:
    assert REGISTRY[name].infer(*operands, **attrs) == (expected,)
    with Builder():
        values = [Value(x, name=f"x{i}") for i, x in enumerate(operands)]
        shares = gradients(REGISTRY[name](*values, **attrs).sum(), values)
    assert [g.type for g in shares if g is not None] == operands


PADS = [((1, 0), (0, 2), (0, 0)), ((0, 1), (1, 0), (2, 1)), ((-1, 2), (1, -2), (0, 1)),
        ((-2, -1), (-1, -2), (1, 2)), ((3, -4), (-3, 5), (0, 0))]  # fmt: skip


@pytest.mark.parametrize(("low", "high", "interior"), PADS)
def test_pad_is_that_of_lax(low: Any, high: Any, interior: Any) -> None:
    x = np.arange(20, dtype=np.float32).reshape(4, 5)
    expected = lax.pad(x, np.float32(7), list(zip(low, high, interior, strict=True)))
    (got,) = REGISTRY["pad"].evaluate(x, low=low, high=high, interior=interior, value=7.0)
    np.testing.assert_array_equal(got, expected)


def test_gradient_of_a_crop_is_zero_where_elements_were_cut() -> None:
    with Builder() as b:
        x = b.input("x", f32(4))
        cropped = REGISTRY["pad"](x, low=(-1,), high=(-1,), interior=(0,), value=0.0)
        (share,) = gradients((cropped * 3.0).sum(), [x])
        assert share is not None
        graph = b.finish({"share": share})
    found = evaluate(graph, {"x": np.ones(4, np.float32)}).outputs["share"]
    assert found.tolist() == [0, 3, 3, 0]


def test_broadcast_repeats_along_the_axes_that_are_not_named() -> None:
    x = np.asarray([1, 2, 3], np.float32)
    (rows,) = REGISTRY["broadcast"].evaluate(x, shape=(2, 3), axes=(1,))
    (columns,) = REGISTRY["broadcast"].evaluate(x, shape=(3, 2), axes=(0,))
    assert rows.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert columns.tolist() == [[1, 1], [2, 2], [3, 3]]
