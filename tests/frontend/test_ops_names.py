"""Every name of Keras' ops is there with its signature, or it is refused with a reason."""

from __future__ import annotations

import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
from op_cases import CASES
from op_cases.run import function

import hornfels
from hornfels.errors import ArgumentError, DTypeError, ShapeError
from hornfels.frontend.trace import Trace
from hornfels.ir.types import f32, i32

ops = hornfels.ops
NAMES = Path(__file__).with_name("keras_ops.txt").read_text().split()
"""The public names of `keras.ops` 3.15."""

ELSEWHERE = {
    "test_ops_control.py": {
        "associative_scan", "cond", "fori_loop", "map", "scan", "switch", "vectorized_map",
        "while_loop",
    },
    "test_ops_linalg.py": {
        "cholesky", "cholesky_inverse", "det", "eig", "eigh", "inv", "logdet", "lstsq",
        "lu_factor", "matrix_rank", "pinv", "qr", "slogdet", "solve", "solve_triangular", "svd",
    },
    "test_ops_fourier.py": {
        "extract_sequences", "fft", "fft2", "ifft2", "irfft", "istft", "rfft", "stft",
    },
    "test_autodiff.py": {"custom_gradient", "jvp"},
    "this file": {
        "convert_to_numpy", "dtype", "is_tensor", "sparsemax", "polar", "vectorize",
        "view_as_complex", "view_as_real",
    },
}  # fmt: skip
"""Names that op_cases has no call of, and where they are tested."""


def test_the_list_is_that_of_the_installed_keras():
    public = {n for n in dir(keras.ops) if n[0] != "_" and callable(getattr(keras.ops, n))}
    public |= {f"image.{n}" for n in dir(keras.ops.image) if n[0] != "_"}
    if keras.__version__.startswith("3.15"):
        assert public == set(NAMES)
    assert len(NAMES) == 353


@pytest.mark.parametrize("space", ["image", "linalg", "nn", "numpy"])
def test_submodules_have_the_names_of_keras(space):
    theirs = {n for n in dir(getattr(keras.ops, space)) if n[0] != "_"}
    ours = getattr(ops, space)
    assert {n for n in theirs if not hasattr(ours, n)} == set()
    further = {"logdet", "slogdet"} if space == "linalg" else set()
    assert set(ours.__all__) == theirs | further


def test_every_name_is_there_and_tested():
    called = {c.name for c in CASES}
    elsewhere = set().union(*ELSEWHERE.values())
    assert [n for n in NAMES if function(ops, n) is None] == []
    assert sorted(set(NAMES) - called - elsewhere) == []
    assert sorted(called & elsewhere) == []
    assert all((Path(__file__).with_name(f)).exists() for f in ELSEWHERE if f != "this file")


def signature(item):
    parameters = inspect.signature(item).parameters.values()
    return [(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD]


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_that_of_keras(name):
    ours, theirs = signature(function(ops, name)), signature(function(keras.ops, name))
    if name == "scan":  # what the gradient stores is a choice here
        ours = [p for p in ours if p[0] != "gradient"]
    assert ours == theirs


@pytest.mark.parametrize("name", NAMES)
def test_every_op_says_what_it_does(name):
    summary = (inspect.getdoc(function(ops, name)) or "").split("\n\n")[0]
    assert summary.endswith("."), summary


# --- what the table has no place for -----------------------------------------------------------


def test_conversion():
    assert ops.dtype(np.zeros(2, np.float16)) == "float16"
    assert ops.is_tensor(np.zeros(2))
    assert not ops.is_tensor([1, 2])
    np.testing.assert_array_equal(ops.convert_to_numpy([1, 2]), [1, 2])


def test_sparsemax_is_the_nearest_distribution():
    """Keras adds running sums where the paper has the last one; its results do not sum to 1."""
    x = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32) * 2
    found = ops.sparsemax(x)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    assert (found >= 0).all()
    assert (found == 0).any()
    for row, p in zip(x, found, strict=True):  # the conditions of the projection
        threshold = row[p > 0] - p[p > 0]
        np.testing.assert_allclose(threshold, threshold[0], rtol=1e-4, atol=1e-5)
        assert (row[p == 0] <= threshold[0] + 1e-5).all()
    np.testing.assert_allclose(ops.sparsemax(x.T, axis=0), found.T, rtol=1e-6)


@pytest.mark.parametrize("name", ["polar", "view_as_complex", "view_as_real"])
def test_complex_numbers_are_refused_with_what_to_use(name):
    arguments = [np.ones((2, 2), np.float32)] * (2 if name == "polar" else 1)
    with pytest.raises(DTypeError, match=r"no complex tensors[\s\S]*pair|stack"):
        getattr(ops, name)(*arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, n: ops.nonzero(x), "nonzero: the shape of the result depends on the numbers"),
        (lambda x, n: ops.where(x > 0), "use where"),
        (lambda x, n: ops.unique(x), "unique with size="),
        (lambda x, n: ops.bincount(n), "segment_sum"),
        (lambda x, n: ops.segment_sum(x, n), "num_segments must be given"),
        (lambda x, n: ops.get_item(x, x > 0), "how many elements a traced mask selects"),
        (lambda x, n: ops.repeat(x, n, axis=0), "the number of repeats of a traced tensor"),
        (lambda x, n: ops.hamming(n[0]), "number of points of a traced tensor"),
    ],
)
def test_shapes_that_depend_on_numbers_are_refused_while_tracing(call, message):
    with Trace("t") as trace:
        x, n = trace.input("x", f32(4)), trace.input("n", i32(4))
        with pytest.raises(DTypeError, match=message):
            call(x, n)


def test_elastic_transform_moves_pixels_repeatably():
    image = np.random.default_rng(0).random((1, 16, 16, 2)).astype(np.float32)
    one, two = (ops.image.elastic_transform(image, alpha=3.0, sigma=1.0, seed=5) for _ in "ab")
    np.testing.assert_array_equal(one, two)
    assert 0.05 < np.abs(one - image).mean() < 0.5
    assert one.min() >= image.min() - 1e-6
    assert one.max() <= image.max() + 1e-6
    other = ops.image.elastic_transform(image, alpha=3.0, sigma=1.0, seed=6)
    assert np.abs(one - other).max() > 0.01


def test_halves_have_the_bits_of_numpy():
    every = np.arange(-(1 << 15), 1 << 15).astype(np.int16)
    halves = ops.view(every, "float16")
    usual = ~np.isnan(every.view(np.float16))
    np.testing.assert_array_equal(halves[usual], every.view(np.float16)[usual])
    np.testing.assert_array_equal(ops.view(halves, "int16")[usual], every[usual])
    assert np.isnan(halves[~usual]).all()


def test_floor_divide_goes_by_the_remainder():
    assert ops.floor_divide(np.float64(1.0), 0.1) == np.floor_divide(1.0, 0.1) == 9


def test_complaints_name_the_argument():
    with pytest.raises(ArgumentError, match="mode must be one of constant"):
        ops.pad(np.zeros((2, 2)), 1, mode="twist")
    with pytest.raises(ArgumentError, match="method must be one of linear"):
        ops.quantile(np.zeros(3), 0.5, method="middle")
    with pytest.raises(ArgumentError, match="two of before, after and target height"):
        ops.image.pad_images(np.zeros((1, 2, 2, 3)), top_padding=1, target_width=3)


def test_vectorize():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 1)).astype(np.float32), rng.normal(size=4).astype(np.float32)

    def larger(module):
        return module.vectorize(lambda x, y: module.where(x > y, x, y * 2))

    wanted = np.asarray(larger(keras.ops)(a, b))
    np.testing.assert_allclose(larger(ops)(a, b), wanted, rtol=1e-6)
    matrices, vectors = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4), (5, 1, 4)))

    def product(module):
        return module.vectorize(
            lambda m, v, k: module.matmul(m, v) * k, signature="(n,m),(m)->(n)", excluded={2}
        )

    wanted = np.asarray(product(keras.ops)(matrices, vectors, 3.0))
    assert wanted.shape == (5, 2, 3)
    np.testing.assert_allclose(product(ops)(matrices, vectors, 3.0), wanted, rtol=1e-5)
    with pytest.raises(ArgumentError, match="not a signature"):
        ops.vectorize(abs, signature="n->m")
    with pytest.raises(ShapeError, match="axis m must have one size"):
        product(ops)(matrices, vectors[..., :3], 3.0)
