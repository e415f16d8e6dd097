"""Matrix products: transposed operands, symbolic batches, half precision."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.ir import REGISTRY, symbol
from hornfels.ir.types import f32

N, T = symbol("N"), symbol("T")
MATMUL = REGISTRY["matmul"]


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_transposed_operands(transpose_a: bool, transpose_b: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 5, 2))
    stored_a = a.swapaxes(1, 2) if transpose_a else a
    stored_b = b.swapaxes(1, 2) if transpose_b else b
    attrs = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    (got,) = MATMUL.evaluate(stored_a, stored_b, **attrs)
    np.testing.assert_allclose(got, np.einsum("bij,bjk->bik", a, b), rtol=1e-12)


def test_symbolic_sizes() -> None:
    assert MATMUL.infer(f32(N, 5), f32(5, T)) == (f32(N, T),)
    assert MATMUL.infer(f32(N, T, 5), f32(N, 5, T)) == (f32(N, T, T),)
    assert MATMUL.infer(f32(N, 5), f32(N, 3), transpose_a=True) == (f32(5, 3),)
    with pytest.raises(ValueError, match=r"inner dimensions must agree, got N of f32\[5,N\]"):
        MATMUL.infer(f32(5, N), f32(T, 2))


def test_half_precision_accumulates_in_f32() -> None:
    (got,) = MATMUL.evaluate(np.ones((1, 4096), np.float16), np.ones((4096, 1), np.float16))
    assert got.dtype == np.float16
    assert float(got[0, 0]) == 4096


def test_integers_wrap_around() -> None:
    x = np.full((1, 2), 100, np.int8)
    (got,) = MATMUL.evaluate(x, x.T)
    assert got.tolist() == [[20000 % 256 - 256 if 20000 % 256 > 127 else 20000 % 256]]
