"""Convolutions and pooling of random geometries with their gradients: JAX, the oracle, native code.

All configurations of a test are one program. Strides, asymmetric padding, both dilations, groups
and depthwise kernels differ from axis to axis; pooled images are full of ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from native import SMALL, TARGET
from native_graph import compiled, run_compiled

from hornfels.ir import REGISTRY, Builder, evaluate
from hornfels.ir.errors import HornfelsError
from hornfels.ir.graph import Graph
from hornfels.ir.types import f32, type_of

COUNT = 3
"""Configurations of each rank."""

Arrays = dict[str, np.ndarray]


def integers(rng: np.random.Generator, low: int, high: int, count: int) -> tuple[int, ...]:
    """Numbers from low to high, both included."""
    return tuple(int(v) for v in rng.integers(low, high + 1, count))


def pairs(rng: np.random.Generator, most: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(integers(rng, 0, m, 2) for m in most)


def run(graph: Graph, arrays: Arrays) -> list[tuple[str, Arrays]]:
    """The outputs by the oracle and by native code for a machine of few registers."""
    native = compiled(graph, replace(TARGET, machine=SMALL))
    return [
        ("oracle", evaluate(graph, arrays).outputs),
        ("native", run_compiled(native, arrays).outputs),
    ]


# --- convolutions ----------------------------------------------------------------------------


def convolutions(rank: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]]:
    """Shapes of image and kernel, and attributes."""
    rng = np.random.default_rng(rank)
    found = 0
    while found < COUNT:
        kernel, groups = integers(rng, 1, 3, rank), (1, 1, 2, 4)[rng.integers(4)]
        attrs = {
            "strides": integers(rng, 1, 3, rank), "padding": pairs(rng, (2,) * rank),
            "input_dilation": integers(rng, 1, 2, rank),
            "kernel_dilation": integers(rng, 1, 2, rank), "groups": groups,
        }  # fmt: skip
        x = (2, *integers(rng, 1, 7, rank), 4)
        w = (*kernel, 4 // groups, int(rng.choice([4, 8])))
        try:
            REGISTRY["conv"].infer(f32(*x), f32(*w), **attrs)
        except HornfelsError:
            continue
        found += 1
        yield x, w, attrs


def lax_conv(x: Any, w: Any, attrs: dict[str, Any]) -> Any:
    letters = "HWD"[: x.ndim - 2]
    return lax.conv_general_dilated(
        x, w, attrs["strides"], attrs["padding"], attrs["input_dilation"],
        attrs["kernel_dilation"], (f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=attrs["groups"], precision=lax.Precision.HIGHEST,
    )  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions(rank: int) -> None:
    rng = np.random.default_rng(10 + rank)
    arrays: Arrays = {}
    expected, outputs = {}, {}
    with Builder("convolutions") as b:
        for number, (x_shape, w_shape, attrs) in enumerate(convolutions(rank)):
            x, w = (rng.standard_normal(s).astype(np.float32) for s in (x_shape, w_shape))
            y, pullback = jax.vjp(lambda x, w, attrs=attrs: lax_conv(x, w, attrs), x, w)
            dy = rng.standard_normal(y.shape).astype(np.float32)
            dx, dw = pullback(dy)
            named = {f"x{number}": x, f"w{number}": w, f"dy{number}": dy}
            arrays |= named
            vx, vw, vdy = (b.input(k, type_of(a)) for k, a in named.items())
            op = REGISTRY["conv_input_grad"]
            outputs |= {
                f"y{number}": REGISTRY["conv"](vx, vw, **attrs),
                f"dx{number}": op(vdy, vw, input_shape=x.shape, **attrs),
                f"dw{number}": REGISTRY["conv_kernel_grad"](vx, vdy, kernel_shape=w.shape, **attrs),
            }
            expected |= {f"y{number}": y, f"dx{number}": dx, f"dw{number}": dw}
        graph = b.finish(outputs)
    for who, found in run(graph, arrays):
        for name, want in expected.items():
            np.testing.assert_allclose(
                found[name], want, rtol=1e-5, atol=4e-5, err_msg=f"{who}: {name}\n{graph}"
            )


# --- pooling ---------------------------------------------------------------------------------


def poolings(rank: int) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
    """Shapes of images, and attributes."""
    rng = np.random.default_rng(20 + rank)
    found = 0
    while found < COUNT:
        window = integers(rng, 1, 3, rank)
        attrs = {
            "window": window, "strides": integers(rng, 1, 3, rank),
            "padding": pairs(rng, tuple(size - 1 for size in window)),
        }  # fmt: skip
        x = (2, *integers(rng, 1, 7, rank), 3)
        try:
            REGISTRY["max_pool"].infer(f32(*x), **attrs)
        except HornfelsError:
            continue
        found += 1
        yield x, attrs


def over_windows(x: Any, start: float, combine: Any, attrs: dict[str, Any]) -> Any:
    window, strides = (1, *attrs["window"], 1), (1, *attrs["strides"], 1)
    padding = ((0, 0), *attrs["padding"], (0, 0))
    return lax.reduce_window(x, start, combine, window, strides, padding)


def lax_mean(x: Any, attrs: dict[str, Any], include_padding: bool) -> Any:
    total = over_windows(x, 0.0, lax.add, attrs)
    if include_padding:
        return total / np.prod(attrs["window"])
    return total / over_windows(jnp.ones_like(x), 0.0, lax.add, attrs)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pooling(rank: int) -> None:
    rng = np.random.default_rng(30 + rank)
    arrays: Arrays = {}
    expected, outputs = {}, {}
    with Builder("pooling") as b:
        for number, (shape, attrs) in enumerate(poolings(rank)):
            x = rng.integers(0, 3, shape).astype(np.float32)
            include = bool(number % 2)
            best, max_pullback = jax.vjp(
                lambda x, attrs=attrs: over_windows(x, -np.inf, lax.max, attrs), x
            )
            mean, mean_pullback = jax.vjp(
                lambda x, attrs=attrs, include=include: lax_mean(x, attrs, include), x
            )
            dy = rng.standard_normal(best.shape).astype(np.float32)
            arrays |= {f"x{number}": x, f"dy{number}": dy}
            vx, vdy = b.input(f"x{number}", type_of(x)), b.input(f"dy{number}", type_of(dy))
            average = attrs | {"include_padding": include}
            outputs |= {
                f"max{number}": REGISTRY["max_pool"](vx, **attrs),
                f"max_grad{number}": REGISTRY["max_pool_grad"](vx, vdy, **attrs),
                f"mean{number}": REGISTRY["avg_pool"](vx, **average),
                f"mean_grad{number}": REGISTRY["avg_pool_grad"](vdy, input_shape=shape, **average),
            }
            expected |= {
                f"max{number}": best, f"max_grad{number}": max_pullback(dy)[0],
                f"mean{number}": mean, f"mean_grad{number}": mean_pullback(dy)[0],
            }  # fmt: skip
        graph = b.finish(outputs)
    for who, found in run(graph, arrays):
        for name, want in expected.items():
            np.testing.assert_allclose(
                found[name], want, rtol=1e-5, atol=1e-5, err_msg=f"{who}: {name}\n{graph}"
            )
