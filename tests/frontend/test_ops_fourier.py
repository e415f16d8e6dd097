"""Fourier transforms against Keras on JAX: values, dtypes, refusals and gradients."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

import hornfels
from hornfels.errors import ArgumentError, DTypeError, ShapeError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

ops = hornfels.ops
rng = np.random.default_rng(5)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


X, Y, SIGNAL = normal(2, 3, 12), normal(2, 3, 12), normal(2, 50)
CUSTOM = np.linspace(0.1, 1, 8).astype(np.float32)
WINDOWS = {"hann": "hann", "hamming": "hamming", "none": None, "custom": CUSTOM}

CALLS = [
    ("fft", {}), ("fft2", {}), ("ifft2", {}), ("irfft", {}),
    *[("irfft", {"fft_length": n}) for n in (1, 2, 7, 23, 40)],
    ("rfft", {}), *[("rfft", {"fft_length": n}) for n in (1, 7, 20)],
    ("extract_sequences", {"sequence_length": 4, "sequence_stride": 3}),
    ("extract_sequences", {"sequence_length": 12, "sequence_stride": 5}),
]  # fmt: skip


def assert_same(ours, theirs):
    ours, theirs = (list(v) if isinstance(v, tuple | list) else [v] for v in (ours, theirs))
    for got, wanted in zip(ours, map(np.asarray, theirs), strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def jitted(name, **options):
    return jax.jit(lambda x: getattr(keras.ops, name)(x, **options))


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_values_are_those_of_keras(name, options):
    x = X if name in ("rfft", "extract_sequences") else (X, Y)
    assert_same(getattr(ops, name)(x, **options), jitted(name, **options)(x))


def test_integers_are_transformed_as_floats_and_cut_as_they_are():
    x = rng.integers(-5, 6, (2, 9)).astype(np.int32)
    assert_same(ops.rfft(x), keras.ops.rfft(x))
    assert_same(ops.extract_sequences(x, 3, 2), keras.ops.extract_sequences(x, 3, 2))


@pytest.mark.parametrize("sizes", [(8, 4, 8), (8, 2, 16), (8, 3, 11)])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
def test_stft_and_back(window, center, sizes):
    options = {"window": WINDOWS[window], "center": center}
    keys = ("sequence_length", "sequence_stride", "fft_length")
    options |= dict(zip(keys, sizes, strict=True))
    spectrum = ops.stft(SIGNAL, **options)
    assert_same(spectrum, jitted("stft", **options)(SIGNAL))
    assert_same(ops.istft(spectrum, **options), jitted("istft", **options)(spectrum))
    cut = ops.istft(spectrum, length=30, **options)
    assert cut.shape == (2, 30)


GRADIENTS = {
    "fft": (lambda k, x, y: k.add(*k.fft((x, y))), (X, Y)),
    "fft_real": (lambda k, x, y: k.fft((x, y))[0], (X, Y)),
    "ifft2": (lambda k, x, y: k.multiply(*k.ifft2((x, y))), (X, Y)),
    "rfft": (lambda k, x: k.add(*k.rfft(x, fft_length=9)), (X,)),
    "irfft": (lambda k, x, y: k.irfft((x, y)), (X, Y)),
    "extract_sequences": (lambda k, x: k.square(k.extract_sequences(x, 5, 2)), (X,)),
    "stft": (lambda k, x: k.add(*map(k.square, k.stft(x, 8, 4, 8))), (SIGNAL,)),
    "istft": (lambda k, x: k.square(k.istft(k.stft(x, 8, 2, 8), 8, 2, 8)), (SIGNAL,)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_jax(name, differentiate, weights_like):
    function, arrays = GRADIENTS[name]
    _, grads = differentiate(lambda *xs: function(ops, *xs), arrays)

    def total(*xs):
        y = function(keras.ops, *xs)
        return (y * weights_like(y)).sum()

    gradient = jax.jit(jax.grad(total, argnums=tuple(range(len(arrays)))))
    for got, wanted in zip(grads, gradient(*map(jax.numpy.asarray, arrays)), strict=True):
        scale = float(np.abs(wanted).max())
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=1e-5 * scale)


REFUSED = [
    (lambda: ops.fft(X), ArgumentError, "x must be a pair (real, imag)"),
    (lambda: ops.fft((X, Y[0])), ShapeError, "real and imag must have one shape"),
    (lambda: ops.fft((X.astype(int), Y.astype(int))), DTypeError, "must be floating point"),
    (lambda: ops.fft2((X[0, 0], Y[0, 0])), ShapeError, "fft2: x must have rank 2 or more"),
    (lambda: ops.rfft(X, fft_length=0), ArgumentError, "fft_length must be 1 or more, got 0"),
    (lambda: ops.extract_sequences(X, 13, 1), ArgumentError, "must be in [1, 12]"),
    (lambda: ops.stft(SIGNAL.astype(int), 8, 4, 8), DTypeError, "x must be f32 or f64"),
    (lambda: ops.stft(SIGNAL, 8, 4, 4), ArgumentError, "must be in [1, fft_length]"),
    (lambda: ops.stft(SIGNAL, 8, 4, 8, window="x"), ArgumentError, "hann or hamming, got 'x'"),
    (lambda: ops.stft(SIGNAL, 8, 4, 8, window=CUSTOM[:5]), ArgumentError, "shape [8], got f32[5]"),
    (lambda: ops.istft((X[0, 0], X[0, 0]), 8, 4, 8), ShapeError, "rank 2 or more, got f32[12]"),
    (lambda: ops.fft((hornfels.Input((None,)),) * 2), ShapeError, "must have a fixed size"),
]


@pytest.mark.parametrize("index", range(len(REFUSED)))
def test_refusals(index):
    call, error, message = REFUSED[index]
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
