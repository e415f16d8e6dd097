"""Linear algebra against Keras on JAX: values, dtypes, refusals and gradients."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

import hornfels
from hornfels.errors import ArgumentError, DTypeError, GradientError, ShapeError
from hornfels.frontend.trace import Trace
from hornfels.ir import evaluate
from hornfels.ir.types import bf16, f32, symbol

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

ops = hornfels.ops
rng = np.random.default_rng(3)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


SQUARE, BATCH, TALL, WIDE = normal(4, 4), normal(2, 4, 4), normal(5, 3), normal(3, 5)
POSITIVE = BATCH @ BATCH.swapaxes(-1, -2) + np.eye(4, dtype=np.float32)
FACTOR = np.linalg.cholesky(POSITIVE[0])
TRIANGLE = np.tril(SQUARE) + 3 * np.eye(4, dtype=np.float32)
INTEGERS = rng.integers(-3, 4, (4, 4)).astype(np.int32)
CUBE = normal(2, 3, 4)
INF = float("inf")

VALUES = [
    ("cholesky", (POSITIVE,), {}), ("cholesky", (POSITIVE,), {"upper": True}),
    ("cholesky_inverse", (FACTOR,), {}), ("cholesky_inverse", (FACTOR.T,), {"upper": True}),
    *[("det", (normal(2, n, n),), {}) for n in (0, 1, 2, 3, 4, 6)], ("det", (INTEGERS,), {}),
    ("slogdet", (BATCH,), {}), ("slogdet", (np.zeros((4, 4), np.float32),), {}),
    ("logdet", (POSITIVE,), {}), ("inv", (BATCH,), {}), ("inv", (INTEGERS[:3, :3],), {}),
    ("lu_factor", (BATCH,), {}), ("lu_factor", (TALL,), {}), ("lu_factor", (WIDE,), {}),
    ("qr", (TALL,), {}), ("qr", (WIDE,), {}), ("qr", (TALL,), {"mode": "complete"}),
    ("svd", (TALL,), {"compute_uv": False}),
    ("solve", (BATCH, normal(2, 4, 3)), {}), ("solve", (SQUARE, normal(4)), {}),
    ("solve", (BATCH, normal(4)), {}), ("solve", (SQUARE, INTEGERS[:, :2]), {}),
    ("solve_triangular", (TRIANGLE.T, normal(4, 2)), {}),
    ("solve_triangular", (TRIANGLE, normal(4)), {"lower": True}),
    ("solve_triangular", (np.stack([TRIANGLE] * 2), normal(2, 4, 1)), {"lower": True}),
    ("lstsq", (TALL, normal(5)), {}), ("lstsq", (TALL, normal(5, 2)), {}),
    ("lstsq", (WIDE, normal(3, 2)), {}), ("lstsq", (WIDE, normal(3)), {"rcond": 0.5}),
    ("matrix_rank", (TALL,), {}), ("matrix_rank", (np.ones((3, 3), np.float32),), {}),
    ("matrix_rank", (BATCH,), {"tol": 0.5}), ("matrix_rank", (np.zeros((2, 3, 3)),), {}),
    ("pinv", (TALL,), {}), ("pinv", (WIDE,), {}), ("pinv", (np.ones((3, 2), np.float32),), {}),
    ("pinv", (TALL,), {"rcond": 0.7}),
    *[("norm", (CUBE,), {"ord": o, "axis": 1}) for o in (None, 0, 1, 2, 3, 0.5, -1, INF, -INF)],
    *[("norm", (CUBE,), {"ord": o, "axis": (0, 2)})
      for o in (None, "fro", "nuc", 1, -1, 2, -2, INF, -INF)],
    *[("norm", (CUBE,), {"ord": o, "axis": (-1, 0), "keepdims": True}) for o in ("nuc", 1, INF)],
    ("norm", (CUBE[0],), {"ord": 2}), ("norm", (CUBE,), {}), ("norm", (CUBE,), {"keepdims": True}),
    ("norm", (INTEGERS,), {}), ("norm", (INTEGERS[0],), {"ord": 3}),
]  # fmt: skip


def listed(result):
    return list(result) if isinstance(result, tuple | list) else [result]


def name_of(case):
    name, arrays, options = case
    shapes = "-".join("x".join(map(str, a.shape)) or "scalar" for a in arrays)
    return f"{name}-{shapes}-{'-'.join(map(str, options.values()))}"


def jitted(name, options):
    """Keras' function compiled as a whole, which is faster than op by op."""
    return jax.jit(lambda *xs: getattr(keras.ops, name)(*xs, **options))


@pytest.mark.parametrize("case", VALUES, ids=name_of)
def test_values_are_those_of_keras(case):
    name, arrays, options = case
    theirs = listed(jitted(name, options)(*map(jax.numpy.asarray, arrays)))
    ours = listed(getattr(ops.linalg, name)(*arrays, **options))
    for got, wanted in zip(ours, map(np.asarray, theirs), strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        scale = max(1.0, float(np.abs(wanted).max(initial=0, where=np.isfinite(wanted))))
        np.testing.assert_allclose(got, wanted, rtol=3e-5, atol=3e-5 * scale)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("x", [TALL, WIDE, BATCH], ids=["tall", "wide", "square"])
def test_svd(x, full):
    """Vectors are unique but for their sign, which `U` decides."""
    u, s, vt = ops.svd(x, full_matrices=full)
    wanted = [np.asarray(v) for v in keras.ops.svd(x, full_matrices=full)]
    assert [v.shape for v in (u, s, vt)] == [v.shape for v in wanted]
    assert {v.dtype for v in (u, s, vt)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(s, wanted[1], rtol=1e-5)
    count = s.shape[-1]
    np.testing.assert_allclose(
        (u[..., :count] * s[..., None, :]) @ vt[..., :count, :], x, atol=1e-5
    )
    for basis in (u, vt.swapaxes(-1, -2)):
        np.testing.assert_allclose(
            basis.swapaxes(-1, -2) @ basis, np.broadcast_to(np.eye(basis.shape[-1]), (
                *basis.shape[:-2], basis.shape[-1], basis.shape[-1])), atol=1e-5)  # fmt: skip
    same = np.abs(u[..., :count]) - np.abs(wanted[0][..., :count])
    np.testing.assert_allclose(same, 0, atol=1e-5)


def test_eigh():
    w, v = ops.eigh(POSITIVE)
    wanted = [np.asarray(x) for x in keras.ops.eigh(POSITIVE)]
    np.testing.assert_allclose(w, wanted[0], rtol=1e-5)
    np.testing.assert_allclose(np.abs(v), np.abs(wanted[1]), atol=2e-5)
    direction = np.cos(np.arange(1.0, 5.0))
    assert (np.einsum("i,bij->bj", direction, v) > 0).all()


GRADIENTS = {
    "cholesky": (lambda k, x: k.cholesky(x), (POSITIVE,)),
    "cholesky_upper": (lambda k, x: k.cholesky(x, upper=True), (POSITIVE,)),
    "cholesky_inverse": (lambda k, x: k.cholesky_inverse(x), (FACTOR,)),
    "det1": (lambda k, x: k.det(x), (normal(2, 1, 1),)),
    "det3_singular": (lambda k, x: k.det(x), (np.ones((3, 3), np.float32),)),
    "det4": (lambda k, x: k.det(x), (BATCH,)),
    "slogdet": (lambda k, x: k.slogdet(x)[1], (BATCH,)),
    "inv": (lambda k, x: k.inv(x), (POSITIVE,)),
    "solve": (lambda k, a, b: k.solve(a, b), (POSITIVE, normal(2, 4, 3))),
    "solve_vector": (lambda k, a, b: k.solve(a, b), (TRIANGLE, normal(4))),
    "triangular": (lambda k, a, b: k.solve_triangular(a, b, lower=True), (TRIANGLE, normal(4, 2))),
    "lu": (lambda k, x: k.lu_factor(x)[0], (SQUARE,)),
    "lu_tall": (lambda k, x: k.lu_factor(x)[0], (TALL,)),
    "lu_wide": (lambda k, x: k.lu_factor(x)[0], (WIDE,)),
    "qr": (lambda k, x: k.add(*(k.sum(v) for v in k.qr(k.square(x)))), (TALL,)),
    "qr_r": (lambda k, x: k.qr(x)[1], (WIDE,)),
    "eigenvalues": (lambda k, x: k.eigh(x)[0], (POSITIVE,)),
    "eigenvectors": (lambda k, x: k.square(k.eigh(x)[1]), (POSITIVE,)),
    "singular_values": (lambda k, x: k.svd(x, compute_uv=False), (TALL,)),
    "left_vectors": (lambda k, x: k.square(k.svd(x, full_matrices=False)[0]), (TALL,)),
    "right_vectors": (lambda k, x: k.square(k.svd(x, full_matrices=False)[2]), (WIDE,)),
    "pinv": (lambda k, x: k.pinv(x), (TALL,)),
    "pinv_orthogonal": (lambda k, x: k.pinv(x), (np.eye(4, 3, dtype=np.float32),)),
    "lstsq": (lambda k, a, b: k.lstsq(a, b), (TALL, normal(5, 2))),
    "norm": (lambda k, x: k.norm(x, axis=1), (CUBE,)),
    "norm3": (lambda k, x: k.norm(x, ord=3, axis=1), (CUBE,)),
    "norm_nuc": (lambda k, x: k.norm(x, ord="nuc", axis=(1, 2)), (CUBE,)),
    "norm_2": (lambda k, x: k.norm(x, ord=2, axis=(1, 2)), (CUBE,)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_jax(name, differentiate, weights_like):
    function, arrays = GRADIENTS[name]
    value, grads = differentiate(lambda *xs: function(ops, *xs), arrays)

    def total(*xs):
        y = function(keras.ops, *xs)
        return (y * weights_like(y)).sum()

    gradient = jax.jit(jax.grad(total, argnums=tuple(range(len(arrays)))))
    wanted = gradient(*map(jax.numpy.asarray, arrays))
    assert np.isfinite(value).all()
    for got, g in zip(grads, map(np.asarray, wanted), strict=True):
        scale = max(1.0, float(np.abs(g).max()))
        np.testing.assert_allclose(got, g, rtol=1e-3, atol=3e-4 * scale)


SECOND = {
    "cholesky": (lambda k, x: k.sum(k.square(k.cholesky(x))[..., 1:, :]), POSITIVE[0]),
    "slogdet": (lambda k, x: k.slogdet(x)[1], SQUARE),
    "inv": (lambda k, x: k.sum(k.square(k.inv(x))), POSITIVE[0]),
    "solve": (lambda k, x: k.sum(k.square(k.solve(x, k.sin(x)))), POSITIVE[0]),
    "eigenvalues": (lambda k, x: k.sum(k.exp(k.eigh(x)[0] * 0.1)), POSITIVE[0]),
    "pinv": (lambda k, x: k.sum(k.square(k.pinv(x))), TALL),
    "rfft": (lambda k, x: k.sum(k.multiply(*map(k.square, k.rfft(x)))), TALL),
}


@pytest.mark.parametrize("name", SECOND)
def test_forward_mode_and_hessian_vector_products(name):
    function, x = SECOND[name]
    v = rng.standard_normal(x.shape).astype(np.float32)
    value, slope = ops.jvp(lambda x: function(ops, x), (x,), (v,))
    product = hornfels.hessian_vector_product(lambda x: function(ops, x), (x,), (v,))
    (product,) = product if isinstance(product, tuple) else (product,)

    def wanted(x, v):
        f = lambda x: function(keras.ops, x)  # noqa: E731
        return *jax.jvp(f, (x,), (v,)), jax.jvp(jax.grad(f), (x,), (v,))[1]

    for got, expected in zip((value, slope, product), jax.jit(wanted)(x, v), strict=True):
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-3 * scale)


def test_a_batch_of_open_size():
    n = symbol("N")
    with Trace("solve") as trace:
        a, b = trace.input("a", f32(n, 4, 4)), trace.input("b", f32(n, 4, 2))
        graph = trace.finish({"x": ops.solve(a, b), "d": ops.slogdet(a)[1], "p": ops.pinv(a)})
    assert str(graph.outputs[0].type) == "f32[N,4,2]"
    assert str(graph.outputs[1].type) == "f32[N]"
    right = normal(2, 4, 2)
    found = evaluate(graph, {"a": BATCH, "b": right}).outputs
    np.testing.assert_allclose(BATCH @ found["x"], right, atol=1e-4)
    np.testing.assert_allclose(found["d"], np.linalg.slogdet(BATCH)[1], rtol=1e-5)
    np.testing.assert_allclose(found["p"], np.linalg.inv(BATCH), rtol=1e-2, atol=1e-3)


def test_half_precision_is_factorized_in_f32():
    x = POSITIVE[0].astype(bf16.numpy)
    inverse = ops.inv(x)
    assert inverse.dtype == bf16.numpy
    wanted = np.linalg.inv(x.astype(np.float64))
    np.testing.assert_allclose(inverse.astype(np.float64), wanted, rtol=1e-2, atol=1e-3)


def test_a_symbolic_tensor_has_the_shapes():
    x = hornfels.Input((5, 3))
    u, s, vt = ops.svd(x, full_matrices=False)
    assert (u.shape, s.shape, vt.shape) == ((None, 5, 3), (None, 3), (None, 3, 3))
    assert ops.det(hornfels.Input((3, 3))).shape == (None,)


REFUSED = [
    (lambda: ops.cholesky(-POSITIVE), ArgumentError, "cholesky: x must be positive definite"),
    (lambda: ops.inv(TALL), ShapeError, "inv: x must be square, got f32[5,3]"),
    (lambda: ops.det(np.ones(3, np.float32)), ShapeError, "rank 2 or more, got f32[3]"),
    (lambda: ops.eig(SQUARE), DTypeError, "there are no complex tensors"),
    (lambda: ops.qr(SQUARE, mode="r"), ArgumentError, "mode must be reduced or complete"),
    (lambda: ops.solve(SQUARE, normal(3)), ShapeError, "b must have 4 rows as a has"),
    (lambda: ops.lstsq(TALL, normal(3)), ShapeError, "lstsq: a must be [m, n]"),
    (lambda: ops.norm(CUBE, ord=2), ArgumentError, "axis must be one axis or two"),
    (lambda: ops.norm(CUBE, ord="fro", axis=1), ArgumentError, "must be a number, got 'fro'"),
    (lambda: ops.norm(CUBE[0], ord=3), ArgumentError, "ord of a matrix norm must be"),
]


@pytest.mark.parametrize("index", range(len(REFUSED)))
def test_refusals(index):
    call, error, message = REFUSED[index]
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "function",
    [lambda x: ops.qr(x, mode="complete")[0], lambda x: ops.svd(x, full_matrices=True)[0]],
    ids=["qr", "svd"],
)
def test_factors_without_a_gradient_say_so(function, differentiate):
    with pytest.raises(GradientError, match="no gradient"):
        differentiate(function, [TALL])
