"""Convolution and its gradients against JAX, over strides, padding, dilation and groups."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

from hornfels.ir import REGISTRY, Builder, gradients, symbol
from hornfels.ir.errors import ArgumentError, ShapeError
from hornfels.ir.types import f32

N = symbol("N")
_LETTERS = "HWD"


def geometry(
    rank: int,
    strides: int = 1,
    padding: tuple[int, int] = (0, 0),
    input_dilation: int = 1,
    kernel_dilation: int = 1,
    groups: int = 1,
) -> dict[str, Any]:
    return {
        "strides": (strides,) * rank,
        "padding": (padding,) * rank,
        "input_dilation": (input_dilation,) * rank,
        "kernel_dilation": (kernel_dilation,) * rank,
        "groups": groups,
    }


def lax_conv(x: Any, w: Any, attrs: dict[str, Any]) -> Any:
    letters = _LETTERS[: x.ndim - 2]
    return lax.conv_general_dilated(
        x, w, attrs["strides"], attrs["padding"], attrs["input_dilation"],
        attrs["kernel_dilation"], (f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=attrs["groups"], precision=lax.Precision.HIGHEST,
    )  # fmt: skip


GEOMETRIES = [  # rank, stride, padding, input dilation, kernel dilation, groups
    (1, 1, (0, 0), 1, 1, 1),
    (1, 2, (1, 2), 1, 2, 2),
    (1, 3, (0, 0), 3, 2, 1),
    (2, 1, (1, 1), 1, 1, 1),
    (2, 1, (1, 2), 2, 1, 2),
    (2, 2, (0, 0), 1, 2, 1),
    (2, 2, (1, 2), 3, 2, 2),
    (2, 3, (1, 2), 1, 1, 1),
    (2, 3, (0, 0), 2, 1, 2),
    (2, 1, (1, 1), 1, 1, 4),
    (3, 2, (1, 0), 1, 1, 1),
]


@pytest.mark.parametrize(("rank", "s", "p", "d", "k", "g"), GEOMETRIES)
def test_conv_and_its_gradients_are_those_of_jax(
    rank: int, s: int, p: tuple[int, int], d: int, k: int, g: int
) -> None:
    rng = np.random.default_rng(rank * 100 + s)
    attrs = geometry(rank, s, p, d, k, g)
    x = rng.standard_normal((2, *(6, 7, 5)[:rank], 4)).astype(np.float32)
    w = rng.standard_normal((*(3, 2, 2)[:rank], 4 // g, 8)).astype(np.float32)
    (y,) = REGISTRY["conv"].evaluate(x, w, **attrs)
    expected, pullback = jax.vjp(lambda x, w: lax_conv(x, w, attrs), x, w)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    dy = rng.standard_normal(y.shape).astype(np.float32)
    dx, dw = pullback(dy)
    (got_dx,) = REGISTRY["conv_input_grad"].evaluate(dy, w, input_shape=x.shape, **attrs)
    (got_dw,) = REGISTRY["conv_kernel_grad"].evaluate(x, dy, kernel_shape=w.shape, **attrs)
    np.testing.assert_allclose(got_dx, dx, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got_dw, dw, rtol=1e-5, atol=2e-5)


def test_symbolic_batch_goes_through_conv_and_its_gradients() -> None:
    with Builder() as b:
        x, w = b.input("x", f32(N, 5, 5, 2)), b.input("w", f32(3, 3, 2, 4))
        y = REGISTRY["conv"](x, w, **geometry(2))
        dx, dw = gradients((y * y).sum(), [x, w])
    assert y.type == f32(N, 3, 3, 4)
    assert dx is not None
    assert dx.type == x.type
    assert dw is not None
    assert dw.type == w.type


def test_half_precision_accumulates_in_f32() -> None:
    ones = np.ones((1, 3, 4096), np.float16)
    (y,) = REGISTRY["conv"].evaluate(ones, np.ones((1, 4096, 1), np.float16), **geometry(1))
    assert y.dtype == np.float16
    assert y[0, 0, 0] == 4096  # in f16 the sum would stop at 2048


def test_empty_batch() -> None:
    x, w = np.zeros((0, 5, 5, 2), np.float32), np.ones((3, 3, 2, 4), np.float32)
    (y,) = REGISTRY["conv"].evaluate(x, w, **geometry(2))
    assert y.shape == (0, 3, 3, 4)
    (dx,) = REGISTRY["conv_input_grad"].evaluate(y, w, input_shape=x.shape, **geometry(2))
    assert dx.shape == x.shape
    (dw,) = REGISTRY["conv_kernel_grad"].evaluate(x, y, kernel_shape=w.shape, **geometry(2))
    np.testing.assert_array_equal(dw, np.zeros_like(w))


def test_an_open_image_size_stays_open() -> None:
    conv = REGISTRY["conv"]
    attrs = geometry(2, strides=2, padding=(1, 1))
    assert conv.infer(f32(2, N, 5, 2), f32(3, 3, 2, 4), **attrs) == (
        f32(2, (N - 1) // 2 + 1, 3, 4),
    )
    for size in range(1, 9):
        (fixed,) = conv.infer(f32(2, size, 5, 2), f32(3, 3, 2, 4), **attrs)
        assert fixed.shape[1] == (size - 1) // 2 + 1


def test_open_channels_are_refused_with_a_cure() -> None:
    with pytest.raises(ShapeError, match=r"conv: operand x must have a fixed size along axis 3"
                                         r"(.|\n)*hint: give that dimension a size"):  # fmt: skip
        REGISTRY["conv"].infer(f32(2, 5, 5, N), f32(3, 3, 2, 4), **geometry(2))


def test_padding_that_is_no_pair_is_refused() -> None:
    attrs = geometry(2) | {"padding": ((0,), (0,))}
    with pytest.raises(ArgumentError, match="padding must have 2 entries"):
        REGISTRY["conv"].infer(f32(2, 5, 5, 2), f32(3, 3, 2, 4), **attrs)
