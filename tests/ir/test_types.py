"""Dimensions, dtypes and tensor types."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from hornfels.ir.errors import DTypeError, ShapeError
from hornfels.ir.types import (
    DTYPES,
    as_dtype,
    bf16,
    boolean,
    exact_div,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    keras_name,
    parse_size,
    parse_type,
    promote,
    size_of,
    substitute,
    symbol,
    type_of,
    u8,
    u32,
)  # fmt: skip

N, T = symbol("N"), symbol("T")


def test_polynomials_are_in_normal_form():
    assert N * 49 == 49 * N
    assert (N + 1) * (N - 1) == N * N - 1
    assert N - N == 0
    assert (N + 2) - N == 2
    assert str(2 * N * T + N - 1) == "2*N*T+N-1"
    assert len({N * T, T * N}) == 1


@pytest.mark.parametrize("text", ["0", "12", "N", "-N", "2*N*T+N-1", "N*N", "49*N", "-3*N+7"])
def test_sizes_read_back(text):
    assert str(parse_size(text)) == text


def test_exact_division():
    assert exact_div(49 * N * T, 7 * N) == 7 * T
    assert exact_div(N, 2) is None
    assert exact_div(N + 1, N) is None
    assert exact_div(N + 1, N + 1) == 1
    assert (4 * N) // 2 == 2 * N


def test_quotients_have_one_form():
    half = N // 2
    assert str(half) == "{N}//2"
    assert half == (N + 4) // 2 - 2 == (3 * N) // 2 - N
    assert (-N) // 2 == (N // 2) - N
    assert (N // 2) // 3 == N // 6
    assert ((N - 1) // 2 + 1) // 2 == (N + 1) // 4
    assert (N * T) // 2 != N * (T // 2)
    assert half == (2 * (N // 2)) // 2
    assert half.symbols == {"N"}
    assert N - 2 * half == N % 2
    assert (4 * N + 6) % 2 == 0
    with pytest.raises(ShapeError, match="symbolic"):
        _ = N // T


def random_size(rng: np.random.Generator, depth: int):
    """An expression over N and T as a dimension, and as a function of numbers."""
    if depth == 0:
        return [(N, lambda n, t: n), (T, lambda n, t: t), (3, lambda n, t: 3)][rng.integers(3)]
    (a, f), (b, g) = random_size(rng, depth - 1), random_size(rng, depth - 1)
    k = int(rng.integers(1, 6))
    return [
        (a + b, lambda n, t: f(n, t) + g(n, t)),
        (a * b, lambda n, t: f(n, t) * g(n, t)),
        (a - 2 * b, lambda n, t: f(n, t) - 2 * g(n, t)),
        (a // k, lambda n, t: f(n, t) // k),
        (a % k, lambda n, t: f(n, t) % k),
    ][rng.integers(5)]


@pytest.mark.parametrize("seed", range(60))
def test_dimensions_compute_as_integers_do(seed):
    rng = np.random.default_rng(seed)
    size, function = random_size(rng, 4)
    assert parse_size(str(size)) == size
    for n, t in rng.integers(0, 30, (20, 2)).tolist():
        assert substitute(size, {"N": n, "T": t}) == function(n, t)
        assert substitute(substitute(size, {"N": n}), {"T": t}) == function(n, t)


@pytest.mark.parametrize("text", ["{N}//0x", "{N//2", "N**2", "", "2**N", "{N}/2", "N T+"])
def test_what_is_no_dimension_is_refused(text):
    with pytest.raises(ShapeError, match="not a dimension"):
        parse_size(text)


@pytest.mark.parametrize(
    "use",
    [
        lambda: N < 3, lambda: int(N), lambda: range(N), lambda: 7 // N, lambda: N / 2,
        lambda: 1.0 / N, lambda: N**0.5, lambda: 2**N, lambda: math.sqrt(N),
    ],
)  # fmt: skip
def test_what_needs_a_fixed_size_says_so(use):
    with pytest.raises(ShapeError, match="symbolic"):
        use()


def test_substitute_keeps_unnamed_symbols():
    assert substitute(N * T + 1, {"N": 4}) == 4 * T + 1
    assert substitute(N * T + 1, {"N": 4, "T": 2}) == 9
    assert size_of((N, 7, 7)) == 49 * N


def test_types_print_and_read_back():
    for t in (f32(), f32(N, 28, 28, 1), boolean(0), u32(2), bf16(2 * N - 1),
              f32(N, 2 * ((T + 1) // 2) + 1, N // 3 * T)):  # fmt: skip
        assert parse_type(str(t)) == t
    assert str(f32(N, 10)) == "f32[N,10]"
    with pytest.raises(ShapeError, match="not a tensor type"):
        parse_type("f31[2]")
    with pytest.raises(ShapeError, match=r"sizes must not be negative, got f32\[2,-1\]"):
        parse_type("f32[2,-1]")


def test_dtypes_are_found_by_every_name():
    assert as_dtype("float32") is as_dtype(np.float32) is as_dtype("f32") is f32
    assert as_dtype(ml_dtypes.bfloat16) is bf16
    for d in DTYPES.values():
        assert as_dtype(keras_name(d)) is d
        assert as_dtype(d.numpy) is d
    with pytest.raises(DTypeError, match="complex64"):
        as_dtype("complex64")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(f32, f64, f64), (f16, bf16, f32), (i32, f16, f16), (i64, f32, f32), (u8, i8, i16),
     (u32, i32, i32), (u32, i64, i64), (u8, i32, i32), (boolean, i8, i8),
     (boolean, boolean, boolean), (i16, i64, i64), (u8, u32, u32)],
)  # fmt: skip
def test_promotion(a, b, expected):
    assert promote(a, b) is promote(b, a) is expected


def test_promotion_is_that_of_keras():
    from keras import backend

    for a in DTYPES.values():
        for b in DTYPES.values():
            if 64 in (a.bits, b.bits):
                continue  # which Keras turns into 32 bits
            expected = backend.result_type(keras_name(a), keras_name(b))
            assert promote(a, b) is as_dtype(expected), (a, b)


def test_nbytes():
    assert f32(3, 4).nbytes == 48
    assert type_of(np.zeros((2, 3), np.int64)) == i64(2, 3)
    with pytest.raises(ShapeError, match="symbolic"):
        _ = f32(N).nbytes
    assert i32(0, 5).nbytes == 0
