"""Native factorizations on hard matrices: as accurate as LAPACK, and defined on every input."""

from __future__ import annotations

import numpy as np
import pytest
from native_graph import check_graph, run_graph

from hornfels.ir import REGISTRY, Builder, gradients
from hornfels.ir.types import f64, type_of

rng = np.random.default_rng(11)
EPSILON = {np.float32: 2.0**-23, np.float64: 2.0**-52}


def run(name, *arrays, **attrs):
    with Builder(name) as b:
        operands = [b.input(f"x{i}", type_of(a)) for i, a in enumerate(arrays)]
        outputs = REGISTRY[name].all(*operands, **attrs)
        graph = b.finish({f"y{i}": v for i, v in enumerate(outputs)})
    found = run_graph(graph, {f"x{i}": a for i, a in enumerate(arrays)}).outputs
    return [found[f"y{i}"] for i in range(len(outputs))]


def low_rank(rows, columns, dtype):
    left, right = rng.standard_normal((rows, 3)), rng.standard_normal((3, columns))
    return (left @ right).astype(dtype)


def matrices(dtype):
    """Of one shape, so that one kernel runs on all of them."""
    graded = rng.standard_normal((12, 12)) * 10.0 ** np.linspace(0, -9, 12)
    return {
        "random": rng.standard_normal((12, 12)).astype(dtype),
        "graded": graded.astype(dtype),
        "low rank": low_rank(12, 12, dtype),
        "large": low_rank(12, 12, dtype) * dtype(1e30),
        "small": low_rank(12, 12, dtype) * dtype(1e-30),
        "zero": np.zeros((12, 12), dtype),
        "ones": np.ones((12, 12), dtype),
        "identity": np.eye(12, dtype=dtype),
    }


def orthonormal(columns, dtype, factor=20):
    wide = columns.astype(np.float64)
    gram = wide.swapaxes(-1, -2) @ wide
    return np.abs(gram - np.eye(wide.shape[-1])).max(initial=0) <= factor * EPSILON[dtype]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hard_matrices(dtype):
    named = matrices(dtype)
    x = np.stack(list(named.values()))
    wide, size = x.astype(np.float64), np.abs(x.astype(np.float64)).max((1, 2)) * 12
    bound = 30 * EPSILON[dtype] * size
    u, s, vt = run("svd", x)
    q, r = run("qr", x)
    symmetric = x + x.swapaxes(1, 2)
    w, v = run("eigh", symmetric)
    exact = np.linalg.svd(wide, compute_uv=False)
    eigenvalues = np.linalg.eigvalsh(wide + wide.swapaxes(1, 2))
    for i, name in enumerate(named):
        for basis in (u[i], vt[i].T, q[i], v[i]):
            assert orthonormal(basis, dtype), name
        products = {
            "svd": (u[i].astype(float) * s[i]) @ vt[i],
            "qr": q[i].astype(float) @ r[i],
        }
        for factorization, product in products.items():
            assert np.abs(product - wide[i]).max() <= bound[i], (name, factorization)
        rebuilt = (v[i].astype(float) * w[i]) @ v[i].T
        assert np.abs(rebuilt - symmetric[i]).max() <= 2 * bound[i], name
        assert np.abs(s[i] - exact[i]).max() <= bound[i], name
        assert np.abs(w[i] - eigenvalues[i]).max() <= 2 * bound[i], name
        assert (np.diff(s[i]) <= 0).all()
        assert (np.diff(w[i]) >= 0).all()
        assert (np.tril(r[i], -1) == 0).all()


def test_full_bases_of_matrices_of_low_rank():
    x = np.stack([low_rank(7, 4, np.float32), np.zeros((7, 4), np.float32)])
    for given in (x, x.swapaxes(1, 2).copy()):
        u, s, vt = run("svd", given, vectors="full")
        for i in range(2):
            assert orthonormal(u[i], np.float32)
            assert orthonormal(vt[i].T, np.float32)
            product = (u[i][:, :4] * s[i]) @ vt[i][:4] if given is x else (
                u[i][:4, :4] * s[i]) @ vt[i][:4]  # fmt: skip
            np.testing.assert_allclose(product, given[i], atol=1e-5)


def test_what_has_no_factors_is_nan():
    bad = np.full((2, 2), np.inf, np.float32)
    assert all(np.isnan(y).all() for y in run("eigh", bad))
    assert all(np.isnan(y).all() for y in run("svd", bad))
    (lower,) = run("cholesky", -np.eye(2, dtype=np.float32))
    np.testing.assert_array_equal(lower, [[np.nan, 0], [np.nan, np.nan]])


def test_a_zero_pivot():
    x = np.array([[0, 0, 1], [0, 2, 3], [0, 4, 5]], np.float32)
    packed, pivots, order = run("lu", x)
    np.testing.assert_array_equal(pivots, [0, 2, 2])
    np.testing.assert_array_equal(order, [0, 2, 1])
    lower = np.tril(packed, -1) + np.eye(3)
    np.testing.assert_allclose(lower @ np.triu(packed), x[order])


def test_a_large_batch_is_split_over_the_cores():
    x = rng.standard_normal((300, 24, 24)).astype(np.float32)
    (packed, _, order) = run("lu", x)
    lower = np.tril(packed, -1) + np.eye(24, dtype=np.float32)
    rows = np.take_along_axis(x, order[..., None], 1)
    np.testing.assert_allclose(lower @ np.triu(packed), rows, atol=2e-4)


@pytest.mark.parametrize("size", [1, 64, 77, 1021])
def test_transforms_of_any_size(size):
    real, imag = rng.standard_normal((2, 3, size))
    for inverse in (False, True):
        a, b = run("fft", real, imag, inverse=inverse)
        wanted = (np.fft.ifft if inverse else np.fft.fft)(real + 1j * imag)
        scale = np.abs(wanted).max()
        assert np.abs(a + 1j * b - wanted).max() <= 1e-14 * scale * np.log2(size + 2)


def test_gradients_run_natively():
    """Of everything at once, in f64; some results of a factorization are used by nobody."""
    shapes = {"lu": (4, 4), "qr": (5, 3), "eigh": (4, 4), "svd": (3, 4), "cholesky": (3, 3)}
    arrays = {name: rng.standard_normal((2, *shape)) for name, shape in shapes.items()}
    arrays["cholesky"] = arrays["cholesky"] @ arrays["cholesky"].swapaxes(1, 2) + np.eye(3)
    arrays["eigh"] += 3 * np.diag(np.arange(4))
    with Builder("gradients") as b:
        total, operands = None, []
        for name, array in arrays.items():
            x = b.input(name, f64(*array.shape))
            first = REGISTRY[name].all(x)[0]
            term = (first * first * 0.5 + first).sum()
            total = term if total is None else total + term
            operands.append(x)
        found = gradients(total, operands)
        graph = b.finish({f"d{x.name}": g for x, g in zip(operands, found, strict=True)})
    check_graph(graph, arrays, factor=100.0)
