"""Derivatives of functions and gradients of one's own, against JAX."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import hornfels as hf
from hornfels import ops
from hornfels.ir.errors import ArgumentError, DTypeError, GradientError, ShapeError

X = np.array([0.5, -1.0, 2.0], np.float32)
V = np.array([1.0, 0.5, -2.0], np.float32)


def same(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )


# --- on arrays -------------------------------------------------------------------------------


def test_gradients_in_nests_and_by_several_arguments():
    def f(k, p, x, scale=1.0):
        return k.sum(k.tanh(p["a"] * x) * p["b"][0]) * scale

    params = {"a": X, "b": (V, X)}
    ours = hf.value_and_grad(lambda p, x, scale: f(ops, p, x, scale), (0, 1))(params, V, scale=3.0)
    theirs = jax.value_and_grad(lambda p, x, scale: f(jnp, p, x, scale), (0, 1))(
        params, V, scale=3.0
    )
    same(ours, theirs)
    assert isinstance(ours[1][0]["b"], tuple)
    assert not np.any(ours[1][0]["b"][1])  # what f does not read
    same(hf.grad(lambda a, b: ops.sum(a * b), argnums=-1)(X, V), X)


def test_what_comes_along():
    def f(x):
        return ops.sum(x * x), {"double": x + x, "none": None}

    gradient, aux = hf.grad(f, has_aux=True)(X)
    same(gradient, 2 * X)
    same(aux["double"], 2 * X)
    assert aux["none"] is None
    (value, _), _ = hf.value_and_grad(f, has_aux=True)(X)
    same(value, (X * X).sum())
    assert hf.jvp(lambda x: (x, "word"), (X,), (V,), has_aux=True)[2] == "word"


def test_a_vjp_of_several_outputs_is_called_twice():
    calls = []

    def f(k, x, y):
        calls.append(k)
        return {"product": k.sin(x) * y, "sum": k.sum(x)}

    outputs, pullback = hf.vjp(lambda x, y: f(ops, x, y), X, V)
    expected, theirs = jax.vjp(lambda x, y: f(jnp, x, y), X, V)
    same(outputs, expected)
    for cotangents in ({"product": V, "sum": np.float32(2)}, {"product": X, "sum": np.float32(0)}):
        same(pullback(cotangents), theirs(cotangents))
    same(pullback({"product": None, "sum": 1.0}), (np.ones(3, np.float32), np.zeros(3, np.float32)))
    assert calls.count(ops) == 1
    with pytest.raises(ArgumentError, match="cotangents must have the structure of the outputs"):
        pullback({"product": V})


def test_a_jvp_moves_what_it_is_told():
    def f(k, x, n):
        return k.exp(x) * n, x + 1

    ours = ops.jvp(lambda x, n: f(ops, x, n), (X, np.int32(3)), (V, None))
    theirs = jax.jvp(lambda x: f(jnp, x, 3), (X,), (V,))
    same(ours, theirs)
    same(hf.jvp(lambda x, y: x * y, (X, V), (None, X))[1], X * X)
    with pytest.raises(GradientError, match=r"only floating-point|must be floating point"):
        hf.jvp(lambda n: n * 2, (np.int32(3),), (np.int32(1),))
    with pytest.raises(ShapeError, match=r"the tangent must be f32\[3\], got f32\[2\]"):
        hf.jvp(ops.sin, (X,), (V[:2],))
    with pytest.raises(ArgumentError, match="tangents must have the structure of the primals"):
        hf.jvp(ops.sin, (X,), (V, V))
    with pytest.raises(ArgumentError, match="primals must be a tuple"):
        hf.jvp(ops.sin, X, V)


def test_derivatives_of_derivatives():
    def third(grad, k):
        f = lambda x: k.sum(k.sin(x) * x * x)  # noqa: E731
        once = lambda x: k.sum(grad(f)(x) ** 2)  # noqa: E731
        return grad(lambda x: k.sum(grad(once)(x)))

    same(third(hf.grad, ops)(X), third(jax.grad, jnp)(X))


def test_a_perturbation_is_not_confused_with_an_outer_one():
    """d/dx of x * d/dy (x + y) is 1, not 2."""
    inner = lambda x: hf.grad(lambda y: x + y)(1.0)  # noqa: E731
    assert hf.grad(lambda x: x * inner(x))(np.float32(5)) == 1
    by_use = hf.grad(lambda x: ops.sum(x * hf.grad(lambda y: ops.sum(y * x))(x)))
    same(by_use(X), 2 * X)  # y is a use of its own


def test_python_may_branch_on_numbers():
    def f(k, x):
        total = x
        while total < 10:
            total = total * x if total > 3 else total + x
        return total

    for x in (1.5, 2.0, 4.0):
        same(hf.grad(lambda x: f(ops, x))(x), jax.grad(lambda x: f(jnp, x))(x))


def test_numpy_s_functions_do_not_break_the_chain_silently():
    with pytest.raises(DTypeError, match=r"numpy.sin of a traced tensor(.|\n)*use hornfels.ops"):
        hf.grad(lambda x: ops.sum(np.sin(x)))(X)
    with pytest.raises(DTypeError, match=r"numpy.sum of a traced tensor(.|\n)*use hornfels.ops"):
        hf.grad(lambda x: np.sum(x))(X)
    same(hf.grad(lambda x: ops.sum(x * (np.ndim(x) + np.shape(x)[0])))(X), np.full(3, 4.0))
    with pytest.raises(DTypeError, match=r"numpy conversion of a traced tensor"):
        hf.grad(lambda x: float(np.asarray(x).sum()))(X)
    same(hf.grad(lambda x: ops.sum(X * x + np.float32(2) / x))(X), X - 2 / (X * X))


def test_numbers_may_be_looked_at():
    assert hf.grad(lambda x: x * float(x) if int(x) == 3 else x)(np.float32(3)) == 3


def test_variables_are_read_and_assigned_once():
    scale = hf.Variable(np.float32(3.0), name="scale")
    count = hf.Variable(np.int32(0), trainable=False, name="count")

    def f(x):
        count.assign_add(1)
        return ops.sum(x * x) * scale

    same(hf.grad(f)(X), 6 * X)
    assert int(count.numpy()) == 1
    same(hf.grad(lambda s: s * s)(scale), np.float32(6))
    generator = hf.random.SeedGenerator(1)
    noise = hf.grad(lambda x: ops.sum(x * hf.random.uniform((3,), seed=generator)))
    assert np.any(noise(X) != noise(X))


def test_a_layer_is_differentiated():
    layer = hf.layers.Dense(2, activation="tanh")
    x = np.ones((4, 3), np.float32)
    layer(x)
    kernel = layer.kernel.numpy()
    expected = jax.grad(lambda x: jnp.sum(jnp.tanh(x @ kernel)))(x)
    same(hf.grad(lambda x: ops.sum(layer(x)))(x), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hf.grad(ops.sin)(X), GradientError, r"floating-point scalar, got f32\[3\]"),
        (lambda: hf.grad(ops.sum)(np.arange(3)), GradientError, r"floating point, got i\d+\[3\]"),
        (lambda: hf.grad(ops.sum, 2)(X), ArgumentError, "argnums .* got 2 for 1 of them"),
        (lambda: hf.grad(ops.sum, has_aux=True)(X), ArgumentError, "must return a pair"),
        (lambda: hf.vjp(ops.sin, hf.Input((3,))), ArgumentError, "got a symbolic tensor"),
        (lambda: hf.grad(lambda x: ops.sum(ops.argmax(x)))(X), GradientError, "scalar, got i32"),
        (lambda: hf.grad(ops.sum, argnums="x")(X), ArgumentError, "got 'x' for 1 of them"),
        (lambda: hf.grad(ops.sum, argnums=1.0)(X), ArgumentError, "got 1.0 for 1 of them"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- in traces and on symbolic tensors -------------------------------------------------------


def test_gradients_in_a_layer_of_a_functional_model():
    class Score(hf.layers.Layer):
        def call(self, x):
            return hf.grad(lambda x: ops.sum(ops.exp(-x * x)))(x)

    inputs = hf.Input((3,))
    model = hf.Model(inputs, Score()(inputs))
    x = np.stack([X, V])
    same(model.predict(x, verbose=0), -2 * x * np.exp(-x * x))
    direct = hf.grad(lambda t: ops.sum(t * t))(inputs)
    assert direct.shape == (None, 3)
    same(hf.Model(inputs, direct).predict(x, verbose=0), 2 * x)


def test_a_graph_with_a_gradient_has_open_sizes():
    compiled = hf.compile(hf.grad(lambda x: ops.sum(ops.tanh(x))), [((None, 3), "float32")],
                          backend="onnx")  # fmt: skip
    for n in (1, 4):
        x = np.tile(X, (n, 1))
        same(compiled(x), 1 - np.tanh(x) ** 2)


def test_a_layer_that_differentiates_is_called_in_every_way():
    class Energy(hf.layers.Layer):
        def __init__(self):
            super().__init__()
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            def energy(x):
                self.calls.assign_add(1.0)
                return ops.sum(ops.exp(-x * x))

            value, gradient = hf.value_and_grad(energy)(x)
            y, pullback = hf.vjp(ops.sin, x)
            return gradient * value + pullback(ops.ones_like(y))[0]

    layer, x = Energy(), X[None]
    expected = -2 * x * np.exp(-x * x) * np.exp(-x * x).sum() + np.cos(x)
    inputs = hf.Input((3,))
    model = hf.Model(inputs, layer(inputs))
    model.compile(backend="eager")
    assert float(layer.calls.numpy()) == 0  # finding out shapes runs nothing
    for call in (layer, hf.compile(layer, backend="eager"), model, model.predict_on_batch):
        same(call(x), expected)
    assert float(layer.calls.numpy()) == 4


# --- gradients of one's own ------------------------------------------------------------------


def log1pexp(k, custom_gradient):
    @custom_gradient
    def f(x):
        e = k.exp(x)

        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return k.multiply(upstream, 1.0 - 1.0 / k.add(1, e))

        return k.log(1 + e), grad

    return f


def test_a_gradient_of_ones_own_is_stable_where_the_derived_one_is_not():
    ours, theirs = log1pexp(ops, ops.custom_gradient), log1pexp(jnp, jax.custom_gradient)
    far = np.array([100.0, 0.0, -100.0], np.float32)
    same(ours(X), theirs(X))
    same(hf.grad(lambda x: ops.sum(ours(x)))(far), jax.grad(lambda x: jnp.sum(theirs(x)))(far))
    naive = hf.grad(lambda x: ops.sum(ops.log(1 + ops.exp(x))))(far)
    assert np.isnan(naive[0])


def test_second_order_and_forward_mode_through_a_rule():
    ours, theirs = log1pexp(ops, ops.custom_gradient), log1pexp(jnp, jax.custom_gradient)
    expected = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(theirs(x)))(x) * V))(X)
    (product,) = hf.hessian_vector_product(lambda x: ops.sum(ours(x)), (X,), (V,))
    same(product, expected)
    _, tangent = hf.jvp(ours, (X,), (V,))
    same(tangent, V / (1 + np.exp(-X)))


@pytest.mark.parametrize("backend", ["eager", "tvm", "onnx"])
def test_a_rule_is_compiled(backend):
    f = log1pexp(ops, hf.custom_gradient)
    found = hf.compile(lambda x: (f(x), hf.grad(lambda x: ops.sum(f(x)))(x)), backend=backend)(X)
    same(found, (np.log1p(np.exp(X)), 1 / (1 + np.exp(-X))))
    assert "custom_gradient" in str(hf.compile(f, backend=backend).graph(X))


def test_a_rule_for_several_arguments_and_outputs():
    @ops.custom_gradient
    def f(x, pair, n):
        def grad(upstream):
            return upstream["a"] * 10, upstream["b"] * 20, None, None

        return {"a": x * pair[0], "b": pair[1] + n}, grad

    def loss(x, pair):
        y = f(x, pair, np.int32(2))
        return ops.sum(y["a"]) + ops.sum(3 * y["b"])

    dx, dpair = hf.grad(loss, (0, 1))(X, (V, V))
    same(dx, np.full(3, 10.0))
    same(dpair, (np.full(3, 60.0), np.zeros(3)))


def test_a_rule_takes_variables_as_arguments():
    w = hf.Variable(V, name="w")

    @ops.custom_gradient
    def straight_through(w):
        return ops.round(w), lambda upstream: upstream

    model = hf.compile(
        lambda: hf.grad(lambda w: ops.sum(straight_through(w) * X))(w), backend="eager"
    )
    same(model(), X)
    same(straight_through(w), np.round(V))


def test_the_form_with_upstream_as_a_keyword():
    @ops.custom_gradient
    def f(x):
        return x * x, lambda *args, upstream: upstream * args[0] * 7

    same(hf.grad(lambda x: ops.sum(f(x)))(X), 7 * X)


def test_what_a_rule_does_not_cover_is_refused_only_where_it_is_asked_for():
    def with_outer(x, outer):
        f = ops.custom_gradient(lambda x: (x * outer, lambda upstream: upstream))
        return ops.sum(f(x))

    same(hf.grad(with_outer)(X, V), np.ones(3))
    with pytest.raises(GradientError, match="none of its arguments; pass it as one"):
        hf.grad(with_outer, argnums=1)(X, V)


def test_wrong_rules_are_refused():
    def gradient_of(rule):
        return hf.grad(lambda x: ops.sum(ops.custom_gradient(rule)(x)))(X)

    with pytest.raises(
        GradientError, match=r"gradient of argument 0 must be f32\[3\], got f32\[2\]"
    ):
        gradient_of(lambda x: (x, lambda u: u[:2]))
    with pytest.raises(ArgumentError, match="one gradient for each of the 1 arguments, got 2"):
        gradient_of(lambda x: (x, lambda u: (u, u)))
    with pytest.raises(ArgumentError, match="must return a pair"):
        gradient_of(lambda x: x)


def test_a_rule_in_a_trained_model_and_in_its_file(tmp_path):
    """The quantized forward pass trains by straight-through estimation; the file has it inside."""

    class Quantized(hf.layers.Dense):
        def call(self, x):
            quantize = ops.custom_gradient(
                lambda w: (ops.round(w * 4.0) / 4.0, lambda upstream: upstream)
            )
            return ops.matmul(x, quantize(self.kernel))

    hf.utils.set_random_seed(1)
    model = hf.Sequential([hf.Input((3,)), Quantized(1, use_bias=False)])
    model.compile(hf.optimizers.SGD(0.05), "mse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3)).astype(np.float32)
    y = x @ np.array([[0.5], [-0.75], [1.25]], np.float32)
    history = model.fit(x, y, epochs=30, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < 0.05 * history[0]
    hf.compile(model, backend="onnx").export(tmp_path / "m.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(None, {"x": x[:5]})
    same(found, model.predict(x[:5], verbose=0))


def test_stop_gradient():
    same(hf.grad(lambda x: ops.sum(x * ops.stop_gradient(x)))(X), X)
    _, tangent = hf.jvp(ops.stop_gradient, (X,), (V,))
    same(tangent, np.zeros(3))


def test_a_gradient_that_clips_what_comes_back_has_no_forward_mode():
    @hf.custom_gradient
    def clipped(x):
        return ops.sin(x), lambda upstream: ops.clip(upstream, -0.1, 0.1)

    def loss(x):
        return ops.sum(ops.square(clipped(x)))

    with pytest.raises(GradientError, match="custom_gradient: has no forward mode: its gradient"):
        hf.jvp(clipped, (X,), (V,))
    with pytest.raises(GradientError, match="no forward mode"):
        hf.hessian_vector_product(loss, (X,), (V,))
    near = np.array([0.01, -1.0, 2.0], np.float32)  # of these, clip lets the first through
    twice = hf.grad(lambda x: ops.sum(hf.grad(loss)(x) * V))(near)  # backwards, as the hint says
    same(twice, np.array([0.1, 0, 0], np.float32))


@pytest.mark.parametrize("backend", [None, "eager"])
def test_a_variable_that_is_read_around_the_argument_is_refused(backend):
    layer = hf.layers.Dense(2)
    layer.build((None, 3))

    def gradient(x):
        return hf.grad(lambda _, x: ops.sum(layer(x)))(layer.trainable_variables, x)

    call = hf.compile(gradient, backend=backend) if backend else gradient
    with pytest.raises(GradientError, match=r"reads variable 'dense.*' itself(.|\n)*gradients"):
        call(X[None])
    unread = hf.Variable(X)
    same(hf.grad(lambda _, x: ops.sum(x))(unread, X), np.zeros(3))
