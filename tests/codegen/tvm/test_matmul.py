"""Matrix products against NumPy in float64, on shapes that no tile divides."""

from __future__ import annotations

import itertools
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from native import SMALL, TARGET, aligned, declare, run_function, run_template

from hornfels.codegen.tvm import emit
from hornfels.codegen.tvm.schedules.matmul import matmul

SHAPES = {
    "one": (1, 1, 1),
    "tails": (17, 37, 19),
    "full tiles": (28, 64, 32),
    "row": (1, 40, 21),
    "column": (29, 1, 50),
    "few columns": (19, 3, 40),
    "few rows": (3, 70, 33),
    "no term": (5, 6, 0),
    "no row": (0, 6, 4),
    "no column": (5, 0, 4),
}

TRANSPOSES = list(itertools.product((False, True), repeat=2))


def operands(rows, columns, terms, transposes=(False, False), batch=(), dtype=np.float32):
    random = np.random.default_rng(rows + columns + terms)
    a = random.standard_normal((*batch, *((terms, rows) if transposes[0] else (rows, terms))))
    b = random.standard_normal((*batch, *((columns, terms) if transposes[1] else (terms, columns))))
    return (4 * a).astype(dtype), (4 * b).astype(dtype)


def expected(a, b, transposes=(False, False)):
    left, right = a.astype(np.float64), b.astype(np.float64)
    left = left.swapaxes(-1, -2) if transposes[0] else left
    right = right.swapaxes(-1, -2) if transposes[1] else right
    return left @ right


def check(
    rows, columns, terms, transposes=(False, False), batch=(), dtype=np.float32, tol=1e-5,
    machine=TARGET.machine,
):  # fmt: skip
    a, b = operands(rows, columns, terms, transposes, batch, dtype)
    result = run_template(
        matmul, [a, b], (*batch, rows, columns), dtype,
        transpose_a=transposes[0], transpose_b=transposes[1], machine=machine,
    )  # fmt: skip
    want = expected(a, b, transposes)
    bound = tol * (1 + abs(want).max(initial=0))
    np.testing.assert_allclose(result.astype(np.float64), want, rtol=0, atol=bound)


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes(shape, transposes):
    check(*shape, transposes, machine=SMALL)


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("shape", [(31, 53, 37), (29, 1, 50), (3, 70, 33)])
def test_shapes_on_this_machine(shape, transposes):
    check(*shape, transposes)


@pytest.mark.parametrize(
    ("shape", "transposes"),
    [((130, 300, 129), (False, False)), ((301, 70, 200), (True, True)),
     ((2, 1100, 1200), (False, False)), ((8, 8, 40000), (True, False)),
     ((130, 256, 1024), (False, True)), ((1024, 256, 64), (True, False))],
)  # fmt: skip
def test_parallel(shape, transposes):
    """Large enough to be split: by columns, by rows, by terms; and rows of conflicting length."""
    check(*shape, transposes)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_more_rows_than_the_cache_holds(dtype, transpose_b):
    """Also of a length at which rows conflict in the cache, and an odd number of terms."""
    tol = {2: 1e-2, 4: 1e-5, 8: 1e-13}[np.dtype(dtype).itemsize]
    check(301, 21, 35, (False, transpose_b), dtype=dtype, tol=tol, machine=SMALL)
    check(61, 37, 1024, (False, transpose_b), dtype=dtype, tol=tol, machine=SMALL)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_few_rows_and_a_matrix_that_leaves_the_cache(rows, dtype):
    """Whole and cut vectors, stretches and groups of terms."""
    tol = {2: 1e-2, 4: 1e-5, 8: 1e-13}[np.dtype(dtype).itemsize]
    check(rows, 1056, 35, dtype=dtype, tol=tol, machine=SMALL)
    check(rows, 1055, 8, (True, False), dtype=dtype, tol=tol, machine=SMALL)


def test_few_rows_and_long_rows_of_a_matrix_on_this_machine():
    check(1, 9005, 130)
    check(3, 2050, 517)


def test_more_rows_than_the_cache_holds_on_this_machine():
    check(3001, 70, 50)
    check(3001, 45, 50, (False, True), dtype=ml_dtypes.bfloat16, tol=1e-2)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_matrix_larger_than_the_cache(dtype, transpose_a):
    """Its rows are fetched ahead: where they lie, of one panel after the other, in a batch."""
    tol = 1e-5 if dtype == np.float32 else 1e-2
    transposes = (transpose_a, False)
    check(21, 75, 131, transposes, dtype=dtype, tol=tol, machine=SMALL)
    check(5, 75, 67, transposes, batch=(2,), dtype=dtype, tol=tol, machine=SMALL)


@pytest.mark.parametrize("transposes", TRANSPOSES)
def test_batch(transposes):
    check(5, 18, 7, transposes, batch=(2, 3))


def test_parallel_batch():
    check(33, 34, 35, batch=(70,))


def test_empty_batch():
    check(3, 4, 5, batch=(0, 2))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-13), ("float16", 1e-3), ("int32", 0.0)]
)
def test_dtypes(dtype, tolerance):
    check(13, 21, 34, (False, True), dtype=dtype, tol=tolerance)


BF16 = ml_dtypes.bfloat16
EMULATED = replace(SMALL, features=frozenset())
MACHINES = {"pairs": TARGET.machine, "small pairs": SMALL, "emulated": EMULATED}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("shape", [(31, 53, 37), (3, 70, 33), (29, 1, 50)])
def test_bfloat16(shape, transposes, machine):
    check(*shape, transposes, dtype=BF16, tol=1e-2, machine=machine)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bfloat16_shapes(shape):
    check(*shape, (False, True), dtype=BF16, tol=1e-2)


@pytest.mark.parametrize("transposes", TRANSPOSES)
def test_bfloat16_batch(transposes):
    check(18, 35, 33, transposes, batch=(2, 3), dtype=BF16, tol=1e-2)


def sums(a, b, transposes, machine=TARGET.machine):
    """The product of bf16 matrices in f32, as it is before it is rounded."""
    rows, columns = a.shape[1 if transposes[0] else 0], b.shape[0 if transposes[1] else 1]
    return run_template(
        matmul, [a, b], (rows, columns), np.float32,
        transpose_a=transposes[0], transpose_b=transposes[1], machine=machine,
    )  # fmt: skip


@pytest.mark.parametrize("transposes", TRANSPOSES)
def test_bfloat16_is_summed_in_f32(transposes):
    a, b = operands(33, 40, 301, transposes, dtype=BF16)
    want = expected(a, b, transposes)
    np.testing.assert_allclose(sums(a, b, transposes), want, rtol=0, atol=2e-6 * abs(want).max())


@pytest.mark.parametrize("transposes", TRANSPOSES)
def test_bfloat16_passes_on_infinity_and_nan(transposes):
    """A pair in the middle, and the last one, which is half of a pair."""
    a, b = operands(18, 20, 35, transposes, dtype=BF16)
    left, right = a.T if transposes[0] else a, b.T if transposes[1] else b
    left[0, 7], left[1, 34], left[2, 34], right[:, 3] = np.inf, np.inf, np.nan, 1.0
    result = sums(a, b, transposes)
    assert result[0, 3] == result[1, 3] == np.inf
    assert np.isnan(result[2]).all()
    assert np.isfinite(result[3:]).all()


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("machine", [TARGET.machine, EMULATED], ids=["pairs", "emulated"])
@pytest.mark.parametrize("shape", [(31, 53, 70), (2, 40, 33)])
def test_f32_is_rounded_where_the_other_operand_is_bfloat16(shape, transposes, machine):
    """Master weights are read as they are: ties go to the even number."""
    a, b = operands(*shape, transposes)
    ties = b.view(np.uint32) & np.uint32(0xFFFF0000) | np.uint32(0x8000)
    b = np.where(np.arange(b.size).reshape(b.shape) % 2, b, ties.view(np.float32))
    a = a.astype(BF16)
    want = expected(a, b.astype(BF16), transposes)
    result = sums(a, b, transposes, machine)
    np.testing.assert_allclose(result, want, rtol=0, atol=2e-6 * abs(want).max())
    if transposes == (False, False):
        result = sums(b.T.astype(np.float32).copy(), np.ascontiguousarray(a.T), transposes, machine)
        np.testing.assert_allclose(result, want.T, rtol=0, atol=2e-6 * abs(want).max())


@pytest.mark.parametrize("steps", [1, 8], ids=["short", "long"])
@pytest.mark.parametrize("shape", [(17, 37, 19), (3, 2, 40), (3, 5, 0), (8, 8, 40000)])
def test_epilogue_runs_once_for_each_element(shape, steps):
    """A bias, a second output, and a count; a long epilogue is emitted as a loop."""
    a, b = operands(*shape)
    bias = np.arange(shape[1], dtype=np.float32)
    blank = np.zeros(shape[:2], np.float32)
    arrays = [aligned(array) for array in (a, b, bias, blank, blank)]
    left, right, add, out, count = (declare(f"p{i}", array) for i, array in enumerate(arrays))

    def epilogue(indices, value):
        total = value + add[indices[-1]]
        for _ in range(steps):
            total = total * 2.0 / 2.0
        return [(out, indices, total), (count, indices, count[indices] + 1.0)]

    body = matmul(left, right, machine=TARGET.machine, epilogue=epilogue)
    parameters = [left, right, add, out, count]
    run_function(emit.kernel("k", parameters, body, aliased=True), arrays)
    want = expected(a, b) + bias
    np.testing.assert_allclose(arrays[3], want, rtol=0, atol=1e-5 * (1 + abs(want).max()))
    np.testing.assert_array_equal(arrays[4], np.ones(shape[:2]))
