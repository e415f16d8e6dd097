"""Computed positions against JAX: indices out of range, repeated ones, and the gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from hornfels.ir import REGISTRY, Builder, evaluate, gradients
from hornfels.ir.types import type_of

Arrays = tuple[np.ndarray, ...]


def values_and_gradients(
    op: Callable[..., Any], floats: Arrays, others: Arrays, weights: np.ndarray
) -> list[np.ndarray]:
    """What `op` gives, and the derivatives of its weighted sum with respect to `floats`."""
    arrays = {f"x{i}": np.asarray(a) for i, a in enumerate((*floats, *others))}
    with Builder() as b:
        operands = [b.input(n, type_of(a)) for n, a in arrays.items()]
        y = op(*operands)
        grads = gradients((y * weights).sum(), operands[: len(floats)])
        assert all(g is not None for g in grads)
        named = {f"g{i}": g for i, g in enumerate(grads) if g is not None}
        graph = b.finish({"y": y, **named})
    return list(evaluate(graph, arrays).outputs.values())


def compare(
    ours: Callable[..., Any], theirs: Callable[..., Any], floats: Arrays, others: Arrays = ()
) -> None:
    """The same values and gradients, with random weights of the result."""
    y, pullback = jax.vjp(lambda *xs: theirs(*xs, *others), *floats)
    weights = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    got = values_and_gradients(ours, floats, others, weights)
    for found, wanted in zip(got, (y, *pullback(weights)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_clips_as_jax_does(axis: int) -> None:
    at = np.asarray([[-7, 0, 2], [1, 99, 3]], np.int32)
    compare(
        lambda x, i: REGISTRY["gather"](x, i, axis=axis),
        lambda x, i: jnp.take(x, jnp.maximum(i, 0), axis=axis, mode="clip"),
        (normal(4, 3, 5),), (at,),
    )  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1])
def test_take_along_clips_as_jax_does(axis: int) -> None:
    at = np.random.default_rng(0).integers(0, 9, (4, 5)).astype(np.int32)
    compare(
        lambda x, i: REGISTRY["take_along"](x, i, axis=axis),
        lambda x, i: jnp.take_along_axis(x, i, axis=axis, mode="clip"),
        (normal(4, 5),), (at,),
    )  # fmt: skip


@pytest.mark.parametrize("starts", [(0, 0), (1, 2), (-5, 9), (9, -5)])
def test_windows_are_moved_inside_as_in_jax(starts: tuple[int, int]) -> None:
    at = tuple(np.asarray(s, np.int32) for s in starts)
    if min(starts) >= 0:  # JAX counts negative starts from the end
        compare(
            lambda x, *s: REGISTRY["dynamic_slice"](x, *s, sizes=(2, 3)),
            lambda x, *s: lax.dynamic_slice(x, s, (2, 3)),
            (normal(4, 6),), at,
        )  # fmt: skip
        compare(
            lambda x, u, *s: REGISTRY["dynamic_update"](x, u, *s),
            lambda x, u, *s: lax.dynamic_update_slice(x, u, s),
            (normal(4, 6), normal(2, 3)), at,
        )  # fmt: skip
    x = normal(4, 6)
    (got,) = REGISTRY["dynamic_slice"].evaluate(x, *at, sizes=(2, 3))
    i, j = min(max(starts[0], 0), 2), min(max(starts[1], 0), 3)
    np.testing.assert_array_equal(got, x[i : i + 2, j : j + 3])


@pytest.mark.parametrize("combine", ["set", "max", "min"])
def test_scatter_is_that_of_jax(combine: str) -> None:
    """Repeated indices, some beyond the end, and ties of updates with each other and with x."""
    at = np.asarray([1, 3, 1, 9, 0], np.int32)
    x, updates = np.round(normal(4, 3)), np.round(normal(5, 3))
    updates[2] = updates[0]
    x[0] = updates[4]
    compare(
        lambda x, u, i: REGISTRY["scatter"](x, i, u, axis=0, combine=combine),
        lambda x, u, i: getattr(x.at[i], combine)(u, mode="drop"),
        (x, updates), (at,),
    )  # fmt: skip


def test_products_are_those_of_jax() -> None:
    at = np.asarray([2, 0, 9], np.int32)  # JAX has the gradient of different indices only
    x, updates = normal(4, 3), normal(3, 3)
    x[0, 0] = updates[0, 1] = 0.0
    x[2, 2] = updates[0, 2] = 0.0
    compare(
        lambda x, u, i: REGISTRY["scatter"](x, i, u, axis=0, combine="prod"),
        lambda x, u, i: x.at[i].mul(u, mode="drop", unique_indices=True),
        (x, updates), (at,),
    )  # fmt: skip


def test_gradient_of_products_of_several_updates_with_zeros() -> None:
    """Of x * a * b with respect to each, where none, one or two are 0."""
    x = np.asarray([2.0, 2.0, 0.0, 2.0], np.float32)
    a, b = np.asarray([3.0, 0.0, 3.0, 0.0]), np.asarray([5.0, 5.0, 5.0, 0.0])
    updates = np.concatenate([a, b]).astype(np.float32)
    at = np.tile(np.arange(4, dtype=np.int32), 2)
    _, dx, du = values_and_gradients(
        lambda x, u, i: REGISTRY["scatter"](x, i, u, axis=0, combine="prod"),
        (x, updates), (at,), np.ones(4, np.float32),
    )  # fmt: skip
    np.testing.assert_allclose(dx, a * b)
    np.testing.assert_allclose(du, np.concatenate([x * b, x * a]))


def test_negative_indices_are_dropped_too() -> None:
    x, at = np.zeros(3, np.float32), np.asarray([-1, 0, 3], np.int32)
    for combine in ("set", "max"):
        (got,) = REGISTRY["scatter"].evaluate(
            x, at, np.ones(3, np.float32), axis=0, combine=combine
        )
        assert got.tolist() == [1.0, 0.0, 0.0]
