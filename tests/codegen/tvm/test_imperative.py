"""The little language for algorithms: loops of all extents, vectors and rests, sums, tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native import TARGET, aligned, declare, run_function

from hornfels.codegen.tvm import emit
from hornfels.codegen.tvm.imperative import Code, logical_not, magnitude, nan, select, sqrt
from hornfels.codegen.tvm.nest import Nest


def run(algorithm, *arrays, lanes=4):
    """Run `algorithm(code, *arrays)`; the arrays come back as they are afterwards."""
    arrays = [aligned(array) for array in arrays]
    buffers = [declare(f"p{i}", array) for i, array in enumerate(arrays)]
    nest = Nest()
    code = Code(nest, lanes)
    algorithm(code, *(code.array(b) for b in buffers))
    code.finish()
    run_function(emit.kernel("kernel", buffers, nest.finish(), plain=True), arrays)
    return arrays


@pytest.mark.parametrize("lanes", [1, 4])
def test_loops_of_every_length_touch_their_elements_once(lanes):
    def algorithm(code, x, size):
        for i in code.range(10):
            row = x.matrix(10).row(i)
            for j in code.strips(size[i], 1):  # known when it runs
                row[j] = row[j] + 1.0
        for i in code.strips(6, 100):  # known before
            x[i] = x[i] + 1.0
        for i in code.range(0):
            x[i] = 7.0

    sizes = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], np.int32)
    (found, _) = run(algorithm, np.zeros(110, np.float32), sizes, lanes=lanes)
    wanted = np.zeros((11, 10), np.float32)
    for i, size in enumerate(sizes):
        wanted[i, 1 : 1 + size] = 1
    wanted[10, :6] = 1
    np.testing.assert_array_equal(found.reshape(11, 10), wanted)


def test_numbers_change_and_kept_values_do_not():
    def algorithm(code, x):
        total = code.number(0.0, "float32")
        for i in code.down(4):
            before = code.let(total.now)
            total.add(x[i])
            with code.when(total.now > 5.0):
                x[i] = before
        x[4] = total.now

    (found,) = run(algorithm, np.array([1, 2, 3, 4, 0], np.float32))
    np.testing.assert_array_equal(found, [9, 7, 4, 4, 10])


@pytest.mark.parametrize("most", [5, 40])
def test_inner_products(most):
    def algorithm(code, x, y, out):
        for i in code.range(most + 1):
            out[i] = code.dot(i, x, y, most)
        out[most + 1] = code.dot(most, x, y, most)

    rng = np.random.default_rng(1)
    x, y = rng.integers(-9, 9, (2, most)).astype(np.float64)
    *_, found = run(algorithm, x, y, np.zeros(most + 2))
    wanted = [x[:i] @ y[:i] for i in range(most + 1)]
    np.testing.assert_array_equal(found, [*wanted, x @ y])


@pytest.mark.parametrize("count", [1, 5, 8])
def test_each_task_has_scratch_of_its_own(count):
    cores = replace(TARGET.machine, cores=4).cores

    def algorithm(code, x):
        for problem in code.batch(count, 1e9, cores):
            kept = code.scratch("float32", 3)
            for _ in code.range(200):
                for i in code.range(3):
                    kept[i] = x[problem * 3 + i]
                for i in code.range(3):
                    x[problem * 3 + i] = kept[2 - i]
        assert code.scratch("float32", 1).base == 0

    x = np.arange(3 * count, dtype=np.float32)
    (found,) = run(algorithm, x)
    np.testing.assert_array_equal(found, x)


def test_functions_of_a_number():
    def algorithm(code, x):
        x[0] = sqrt(x[0])
        x[1] = magnitude(x[1])
        x[2] = select(logical_not(x[2] > 0.0), nan("float32"), x[2])
        x[3] = nan("float32")
        m = x.matrix(2)
        m.T[0, 1] = m[0, 0] + 1.0

    (found,) = run(algorithm, np.array([9, -4, np.nan, 0], np.float32))
    np.testing.assert_array_equal(found, [3, 4, 4, np.nan])
