"""Hessian-vector products of real models, four ways, against JAX and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import hornfels as hf

Params = dict[str, np.ndarray]
Model = Callable[[Any, Params, np.ndarray, np.ndarray], Any]


def mlp(ops: Any, p: Any, x: Any, y: Any) -> Any:
    hidden = ops.tanh(ops.matmul(ops.reshape(x, (-1, 48)), p["w0"]) + p["b0"])
    hidden = ops.gelu(ops.matmul(hidden, p["w1"]), approximate=False)
    return ops.mean(ops.square(ops.matmul(hidden, p["w2"]) - y))


def cnn(ops: Any, p: Any, x: Any, y: Any) -> Any:
    image = ops.softplus(ops.conv(x, p["k0"], padding="same", data_format="channels_last"))
    image = ops.max_pool(image, (2, 2), (2, 2), data_format="channels_last")
    image = ops.sigmoid(ops.conv(image, p["k1"], strides=2, padding="same",
                                 data_format="channels_last"))  # fmt: skip
    logits = ops.matmul(ops.mean(image, axis=(1, 2)), p["w"])
    return -ops.mean(ops.sum(y * ops.log_softmax(logits, axis=-1), axis=-1))


def batch_norm(ops: Any, p: Any, x: Any, y: Any) -> Any:
    image = ops.conv(x, p["k0"], padding="valid", data_format="channels_last")
    mean = ops.mean(image, axis=(0, 1, 2), keepdims=True)
    variance = ops.mean(ops.square(image - mean), axis=(0, 1, 2), keepdims=True)
    image = (image - mean) / ops.sqrt(variance + 1e-3) * p["gamma"] + p["beta"]
    logits = ops.matmul(ops.reshape(ops.silu(image), (x.shape[0], -1)), p["w"])
    return -ops.mean(ops.sum(y * ops.log_softmax(logits, axis=-1), axis=-1))


def attention(ops: Any, p: Any, x: Any, y: Any) -> Any:
    tokens = ops.reshape(x, (x.shape[0], 16, 3))
    q, k, v = (ops.matmul(tokens, p[name]) for name in ("wq", "wk", "wv"))
    weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))) / 2.0, axis=-1)
    mixed = ops.matmul(weights, v)
    mean = ops.mean(mixed, axis=-1, keepdims=True)
    spread = ops.mean(ops.square(mixed - mean), axis=-1, keepdims=True)
    mixed = (mixed - mean) / ops.sqrt(spread + 1e-3)
    return ops.mean(ops.square(ops.matmul(ops.mean(mixed, axis=1), p["wo"]) - y))


SHAPES: dict[Model, dict[str, tuple[int, ...]]] = {
    mlp: {"w0": (48, 6), "b0": (6,), "w1": (6, 5), "w2": (5, 3)},
    cnn: {"k0": (3, 3, 3, 4), "k1": (3, 3, 4, 4), "w": (4, 3)},
    batch_norm: {"k0": (3, 3, 3, 4), "gamma": (4,), "beta": (4,), "w": (16, 3)},
    attention: {"wq": (3, 4), "wk": (3, 4), "wv": (3, 4), "wo": (4, 3)},
}
MODELS = [pytest.param(model, id=model.__name__) for model in SHAPES]


class Problem:
    """A model's loss on fixed data, its parameters, and a direction."""

    def __init__(self, model: Model, dtype: Any = np.float64) -> None:
        rng = np.random.default_rng(len(model.__name__))
        self.model = model
        self.x = rng.standard_normal((4, 4, 4, 3)).astype(dtype)
        self.y = np.eye(3)[rng.integers(0, 3, 4)].astype(dtype)
        shapes = SHAPES[model].items()
        self.params = {n: (rng.standard_normal(s) * 0.5).astype(dtype) for n, s in shapes}
        self.direction = {n: rng.standard_normal(s).astype(dtype) for n, s in shapes}

    def loss(self, params: Any) -> Any:
        return self.model(hf.ops, params, self.x, self.y)

    def gradient(self, step: float) -> Params:
        moved = {n: p + step * self.direction[n] for n, p in self.params.items()}
        return hf.grad(self.loss)(moved)

    def along(self, gradient: Any) -> Any:
        """The inner product with the direction."""
        terms = [hf.ops.sum(gradient[n] * d) for n, d in self.direction.items()]
        return sum(terms[1:], terms[0])


def assert_close(found: Params, expected: Params, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    scale = max(np.abs(e).max() for e in expected.values())
    for name, e in expected.items():
        np.testing.assert_allclose(found[name], e, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_all_ways_to_the_product_agree_with_finite_differences(model):
    """Forward over backward, backward over forward, backward over backward; in f64."""
    problem = Problem(model)
    step = 1e-5
    ahead, behind = problem.gradient(step), problem.gradient(-step)
    expected = {n: (ahead[n] - behind[n]) / (2 * step) for n in ahead}
    params, direction = problem.params, problem.direction
    found = [
        hf.hessian_vector_product(problem.loss, (params,), (direction,))[0],
        hf.grad(lambda p: problem.along(hf.grad(problem.loss)(p)))(params),
        hf.grad(lambda p: hf.jvp(problem.loss, (p,), (direction,))[1])(params),
    ]
    for product in found:
        assert_close(product, expected, 1e-7)
    first, second, third = found
    assert_close(second, first, 1e-12)
    assert_close(third, first, 1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_products_and_derivatives_are_those_of_jax(model):
    from keras import ops as keras_ops

    problem = Problem(model, np.float32)

    def loss(params: Any) -> Any:
        return model(keras_ops, params, problem.x, problem.y)

    @jax.jit
    def derivatives(params: Any, direction: Any) -> Any:
        value, slope = jax.jvp(loss, (params,), (direction,))
        return value, slope, *jax.jvp(jax.grad(loss), (params,), (direction,))

    value, slope, gradient, product = derivatives(problem.params, problem.direction)
    our_value, our_gradient = hf.value_and_grad(problem.loss)(problem.params)
    (ours,) = hf.hessian_vector_product(problem.loss, (problem.params,), (problem.direction,))
    _, our_slope = hf.jvp(problem.loss, (problem.params,), (problem.direction,))
    np.testing.assert_allclose(our_value, value, rtol=1e-5)
    np.testing.assert_allclose(our_slope, slope, rtol=1e-4)
    assert_close(our_gradient, jax.tree.map(np.asarray, gradient), 1e-5)
    assert_close(ours, jax.tree.map(np.asarray, product), 1e-4)


@pytest.mark.parametrize("backend", ["tvm", "onnx"])
@pytest.mark.parametrize("model", MODELS)
def test_compiled_products_are_those_of_numpy(model, backend):
    problem = Problem(model, np.float32)

    def product(params: Any, direction: Any) -> Any:
        return hf.hessian_vector_product(problem.loss, (params,), (direction,))[0]

    expected = product(problem.params, problem.direction)
    compiled = hf.compile(product, backend=backend)
    assert_close(compiled(problem.params, problem.direction), expected, 1e-5)


def test_the_cost_of_a_product_is_a_few_gradients():
    """The Hessian is never there: nodes grow by a factor, not with the number of parameters."""
    problem = Problem(cnn, np.float32)
    params = problem.params
    gradient = hf.compile(hf.grad(problem.loss), backend="eager").graph(params)
    product = hf.compile(
        lambda p, v: hf.hessian_vector_product(problem.loss, (p,), (v,)), backend="eager"
    ).graph(params, problem.direction)
    convolutions = [
        sum(node.op.name.startswith("conv") for node in graph.nodes)
        for graph in (gradient, product)
    ]
    assert convolutions[0] == 5
    assert convolutions[1] <= 4 * convolutions[0]
    assert len(product.nodes) <= 4 * len(gradient.nodes)
