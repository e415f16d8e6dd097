"""Convolutions and their gradients against the oracles in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from native import SMALL, TARGET, aligned, declare, run_function, run_template

from hornfels.codegen.tvm import emit
from hornfels.codegen.tvm.schedules.conv import Geometry, conv, conv_input_grad, positions
from hornfels.codegen.tvm.schedules.conv_kernel_grad import conv_kernel_grad
from hornfels.ir.op import get

BF16 = ml_dtypes.bfloat16

# (batch, spatial, channels, outputs, kernel, attributes)
CASES = {
    "plain": (2, (7, 9), 3, 5, 3, {}),
    "same": (2, (7, 9), 3, 5, 3, {"padding": 1}),
    "one": (1, (1, 1), 1, 1, 1, {}),
    "all padding but one": (2, (1, 1), 3, 4, 3, {"padding": 1}),
    "first layer": (2, (28, 17), 1, 32, 3, {}),
    "padding beyond the kernel": (2, (3, 4), 3, 5, 3, {"padding": 4}),
    "kernel beyond the image": (2, (2, 3), 3, 5, 5, {"padding": 3}),
    "lopsided padding and strides": (
        2, (5, 4), 3, 5, 3, {"padding": ((4, 0), (0, 3)), "strides": 2},
    ),
    "wide kernel": (1, (3, 4), 2, 5, (1, 9), {"padding": ((0, 0), (5, 3))}),
    "rank 3, padding": (1, (3, 3, 4), 2, 5, 3, {"padding": 2}),
    "groups, padding": (2, (4, 3), 8, 12, 3, {"groups": 4, "padding": 2}),
    "tails": (2, (5, 31), 17, 35, 3, {"padding": 1}),
    "short rows": (2, (3, 3), 16, 48, 3, {"padding": 1}),
    "strides": (1, (8, 8), 4, 20, 3, {"strides": 2, "padding": ((0, 1), (1, 0))}),
    "strides beyond the kernel": (2, (7, 6), 2, 3, 2, {"strides": 3}),
    "strides and groups": (3, (7, 6), 4, 6, 3, {"strides": (2, 3), "padding": 1, "groups": 2}),
    "strides, rank 3": (2, (4, 5, 4), 2, 3, (2, 3, 1), {"strides": 2, "padding": 1}),
    "strides, many images": (7, (6, 5), 3, 5, 4, {"strides": 2, "padding": ((1, 2), (2, 1))}),
    "many phases": (2, (17, 19), 5, 6, (5, 3), {"strides": 4, "padding": ((1, 1), (2, 0))}),
    "many phases, rank 3": (
        2, (9, 8, 7), 2, 3, 4, {"strides": 4, "padding": ((1, 2), (0, 1), (2, 2))},
    ),
    "many phases and groups": (2, (13, 11), 4, 6, (3, 4), {"strides": (3, 4), "groups": 2}),
    "more phases than elements": (1, (1, 2, 9), 2, 3, 3, {"strides": 3, "padding": 1}),
    "patches": (2, (32, 48), 3, 20, 16, {"strides": 16}),
    "first layer of a residual net": (1, (15, 14), 3, 8, 7, {"strides": 2, "padding": 3}),
    "rank 1": (3, (9,), 4, 6, 3, {"padding": 1}),
    "rank 3": (2, (4, 5, 6), 2, 3, (2, 3, 2), {"strides": (1, 2, 1), "padding": 1}),
    "kernel dilation": (2, (9, 9), 4, 8, 3, {"kernel_dilation": 2, "padding": 2}),
    "dilation and strides": (
        2, (9, 9), 4, 8, 3, {"kernel_dilation": 2, "padding": 2, "strides": 2},
    ),
    "input dilation": (2, (5, 5), 4, 8, 3, {"input_dilation": 2, "padding": 1}),
    "everything": (
        2, (5, 6), 4, 6, 3,
        {"input_dilation": 2, "padding": ((2, 0), (0, 1)), "strides": (3, 2),
         "kernel_dilation": (1, 2), "groups": 2},
    ),
    "groups": (2, (6, 6), 8, 12, 3, {"groups": 4, "padding": 1}),
    "depthwise": (2, (6, 7), 20, 20, 3, {"groups": 20, "padding": 1}),
    "depthwise, in place": (2, (6, 7), 20, 20, 3, {"groups": 20}),
    "depthwise, strides": (2, (6, 7), 35, 35, 3, {"groups": 35, "padding": 1, "strides": 2}),
    "depthwise, dilation": (
        2, (9, 21), 5, 5, 3, {"groups": 5, "padding": ((3, 1), (2, 4)), "kernel_dilation": (2, 3)},
    ),
    "depthwise, rank 1": (2, (37,), 6, 6, 4, {"groups": 6, "padding": 2, "strides": 3}),
    "depthwise, rank 3": (1, (3, 4, 9), 6, 6, (2, 3, 3), {"groups": 6, "padding": 1}),
    "depthwise, zeros between": (
        2, (4, 5), 6, 6, 3, {"groups": 6, "input_dilation": 2, "padding": 2},
    ),
    "depthwise, padding beyond the kernel": (1, (3, 2), 5, 5, 2, {"groups": 5, "padding": 5}),
    "depthwise, strides beyond the kernel": (2, (9, 8), 5, 5, 2, {"groups": 5, "strides": 3}),
    "depthwise, two outputs": (2, (6, 7), 6, 12, 3, {"groups": 6, "padding": 1}),
    "pointwise": (2, (6, 6), 20, 33, 1, {}),
    "pointwise, strides": (2, (7, 6), 20, 33, 1, {"strides": 2}),
    "whole image": (3, (4, 4), 5, 6, 4, {}),
    "no image": (0, (5, 5), 2, 3, 3, {}),
    "depthwise, no image": (0, (5, 5), 6, 6, 3, {"groups": 6}),
    "no channel": (2, (5, 5), 0, 3, 3, {}),
    "no output": (2, (5, 5), 3, 0, 3, {}),
}  # fmt: skip

PARALLEL = {
    "one tap": (4, (32, 32), 24, 40, 1, {}),
    "one tap, strides": (4, (41, 32), 64, 48, 1, {"strides": 2}),
    "one tap, few pixels": (1, (7, 7), 160, 544, 1, {}),
    "images": (5, (16, 16), 16, 32, 3, {"padding": 1}),
    "rows": (1, (40, 40), 16, 32, 3, {"padding": 1}),
    "panels": (1, (8, 8), 64, 128, 3, {"padding": 1}),
    "strides": (6, (16, 16), 24, 40, 3, {"padding": ((0, 1), (0, 1)), "strides": 2}),
    "cotangents at powers of two": (3, (9, 9), 64, 256, 3, {"padding": 1, "strides": 2}),
    "depthwise": (8, (32, 32), 48, 48, 3, {"groups": 48, "padding": 1}),
    "depthwise, one image": (1, (57, 60), 72, 72, 5, {"groups": 72, "padding": 2, "strides": 2}),
}  # fmt: skip


GROUPED = {
    "4 of 4": (2, (6, 9), 48, 48, 3, {"groups": 12, "padding": 1}),
    "8 of 8, strides": (2, (9, 19), 40, 40, 3, {"groups": 5, "padding": 1, "strides": 2}),
    "3 of 5, dilation": (
        2, (7, 21), 21, 35, 3, {"groups": 7, "padding": ((3, 1), (2, 4)), "kernel_dilation": 2},
    ),
    "1 of 2": (2, (5, 8), 19, 38, 3, {"groups": 19, "padding": 1}),
    "2 of 1": (2, (5, 8), 38, 19, 3, {"groups": 19, "padding": 1, "strides": (1, 2)}),
    "6 of 7, rank 1": (2, (37,), 12, 14, 4, {"groups": 2, "padding": 2, "strides": 3}),
    "2 of 3, rank 3": (1, (3, 4, 9), 14, 21, (2, 3, 3), {"groups": 7, "padding": 1}),
    "4 of 4, no image": (0, (5, 5), 8, 8, 3, {"groups": 2}),
    "4 of 4, one tap": (2, (5, 11), 68, 68, 1, {"groups": 17}),
    "4 of 4, zeros between": (2, (4, 5), 8, 8, 3, {"groups": 2, "input_dilation": 2, "padding": 2}),
    "4 of 2, padding beyond": (1, (3, 2), 20, 10, 2, {"groups": 5, "padding": 5}),
    "4 of 4, strides beyond": (2, (9, 8), 20, 20, 2, {"groups": 5, "strides": 3}),
    "2 of 2, many phases": (2, (17, 9), 18, 18, (5, 3), {"groups": 9, "strides": 4, "padding": 1}),
    "parallel": (4, (32, 32), 64, 64, 3, {"groups": 16, "padding": 1}),
}  # fmt: skip

EMULATED = replace(SMALL, features=frozenset())

SHORT = (
    "plain", "first layer", "lopsided padding and strides", "tails", "short rows", "strides",
    "strides and groups", "rank 3", "kernel dilation", "everything", "groups", "depthwise",
    "pointwise", "whole image", "no image", "no channel",
)  # fmt: skip


class Problem:
    """Arrays, geometry and the attributes of the IR's ops for one case."""

    def __init__(self, batch, spatial, channels, outputs, kernel, options, dtype="float32"):
        rank = len(spatial)

        def each(value):
            return (value,) * rank if isinstance(value, int) else tuple(value)

        padding = options.get("padding", 0)
        self.attributes = {
            "strides": each(options.get("strides", 1)),
            "padding": ((padding, padding),) * rank if isinstance(padding, int) else padding,
            "input_dilation": each(options.get("input_dilation", 1)),
            "kernel_dilation": each(options.get("kernel_dilation", 1)),
            "groups": options.get("groups", 1),
        }
        self.geometry = Geometry(**self.attributes)
        self.x_shape = (batch, *spatial, channels)
        self.w_shape = (*each(kernel), channels // self.attributes["groups"], outputs)
        sizes = positions(tuple(spatial), each(kernel), self.geometry)
        self.y_shape = (batch, *sizes, outputs)
        random = np.random.default_rng(math.prod(self.x_shape) + outputs)
        self.dtype, self.result = dtype, "float32" if dtype == BF16 else dtype
        self.x, self.w, self.dy = (
            random.standard_normal(shape).astype(dtype)
            for shape in (self.x_shape, self.w_shape, self.y_shape)
        )

    def expected(self, op, *operands, **attributes):
        if 0 in (self.x_shape[0], self.x_shape[-1], self.y_shape[-1]):
            return 0.0
        wide = (operand.astype(np.float64) for operand in operands)
        return get(op).numpy(*wide, **self.attributes, **attributes)


def assert_close(result, want, terms, unit):
    scale = 1 + np.abs(want).max(initial=0)
    np.testing.assert_allclose(
        result, np.broadcast_to(want, result.shape), rtol=0, atol=unit * scale * math.sqrt(terms)
    )


UNIT = {"float32": 1e-6, "float64": 1e-14, BF16: 1e-6}  # bf16 is summed, and compared, in f32


def check_forward(problem, machine=TARGET.machine):
    result = run_template(
        conv, [problem.x, problem.w], problem.y_shape, problem.result, geometry=problem.geometry,
        machine=machine,
    )  # fmt: skip
    want = problem.expected("conv", problem.x, problem.w)
    assert_close(result, want, math.prod(problem.w_shape[:-1]) + 1, UNIT[problem.dtype])


def check_input_grad(problem, machine=TARGET.machine):
    result = run_template(
        conv_input_grad, [problem.dy, problem.w], problem.x_shape, problem.result,
        input_shape=problem.x_shape, geometry=problem.geometry, machine=machine,
    )  # fmt: skip
    want = problem.expected("conv_input_grad", problem.dy, problem.w, input_shape=problem.x_shape)
    assert_close(result, want, math.prod(problem.w_shape) + 1, UNIT[problem.dtype])


def check_kernel_grad(problem, machine=TARGET.machine):
    result = run_template(
        conv_kernel_grad, [problem.x, problem.dy], problem.w_shape, problem.result,
        kernel_shape=problem.w_shape, geometry=problem.geometry, machine=machine,
    )  # fmt: skip
    want = problem.expected("conv_kernel_grad", problem.x, problem.dy, kernel_shape=problem.w_shape)
    assert_close(result, want, math.prod(problem.y_shape[:-1]) + 1, UNIT[problem.dtype])


CHECKS = {
    "forward": check_forward, "input gradient": check_input_grad,
    "kernel gradient": check_kernel_grad,
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cases(case, check):
    check(Problem(*case), SMALL)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("name", ["tails", "short rows", "strides", "depthwise"])
def test_cases_on_this_machine(name, check):
    check(Problem(*CASES[name]))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("case", GROUPED.values(), ids=GROUPED)
def test_vectors_of_several_groups(case, check):
    check(Problem(*case))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("dtype", ["float64", BF16], ids=str)
@pytest.mark.parametrize("name", ["4 of 4", "8 of 8, strides"])
def test_vectors_of_several_groups_of_dtypes(name, dtype, check):
    check(Problem(*GROUPED[name], dtype=dtype))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("outputs", [8, 24, 33, 72, 100])
def test_one_tap(outputs, check):
    """Columns in panels of two and three vectors, and halves of vectors."""
    check(Problem(2, (9, 7), 37, outputs, 1, {}))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("strides", [1, 2], ids=["in place", "strides"])
def test_one_tap_blocks(strides, check):
    """More pixels and channels than one block holds, rows that fall in the same cache lines."""
    check(
        Problem(3, (29, 31), 512, 44, 1, {"strides": strides}), replace(TARGET.machine, l2=1 << 16)
    )


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_depthwise_from_memory(check):
    """A cache so small that images are fetched ahead."""
    case = (2, (19, 21), 40, 40, 3, {"groups": 40, "padding": 1, "strides": 2})
    check(Problem(*case), replace(TARGET.machine, l2=1 << 10))


@pytest.mark.parametrize("check", list(CHECKS.values())[:2], ids=list(CHECKS)[:2])
def test_one_tap_panels(check):
    """Few pixels, and weights that fill the cache: each panel is packed where it is used."""
    check(Problem(1, (3, 11), 200, 102, 1, {}), replace(TARGET.machine, l2=1 << 16))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("case", PARALLEL.values(), ids=PARALLEL)
def test_parallel(case, check):
    """Large enough to be split over tasks."""
    check(Problem(*case))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("name", SHORT)
def test_bfloat16(name, check):
    check(Problem(*CASES[name], dtype=BF16), SMALL)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("machine", [TARGET.machine, EMULATED], ids=["pairs", "emulated"])
@pytest.mark.parametrize("name", ["tails", "strides and groups"])
def test_bfloat16_of_other_machines(name, machine, check):
    check(Problem(*CASES[name], dtype=BF16), machine)


@pytest.mark.parametrize("check", [check_forward, check_input_grad], ids=list(CHECKS)[:2])
@pytest.mark.parametrize("machine", [SMALL, EMULATED], ids=["pairs", "emulated"])
@pytest.mark.parametrize("name", ["tails", "depthwise", "pointwise"])
def test_master_weights_are_rounded(name, machine, check):
    """Weights in f32 beside images in bf16 count as rounded."""
    rounded, problem = (Problem(*CASES[name], dtype=BF16) for _ in range(2))
    exact = np.random.default_rng(0).standard_normal(problem.w_shape).astype(np.float32)
    problem.w, rounded.w = exact, exact.astype(BF16)
    problem.expected = lambda *operands, **attributes: rounded.expected(
        operands[0], operands[1], rounded.w, **attributes
    )
    check(problem, machine)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_float64(check):
    check(Problem(2, (9, 14), 6, 19, 3, {"padding": 1}, "float64"))


@pytest.mark.parametrize("steps", [1, 8], ids=["short", "long"])
@pytest.mark.parametrize("spatial", [(9, 17), (3, 3)], ids=["rows", "short rows"])
def test_epilogue(spatial, steps):
    """A residual read from the memory of the output, a bias, and once for each element."""
    problem = Problem(2, spatial, 5, 21, 3, {"padding": 1})
    residual = np.random.default_rng(1).standard_normal(problem.y_shape).astype(np.float32)
    bias = np.arange(21, dtype=np.float32)
    arrays = [aligned(array) for array in (problem.x, problem.w, bias, residual)]
    x, w, add, out = (declare(f"p{i}", array) for i, array in enumerate(arrays))

    def epilogue(indices, value):
        total = value + add[indices[-1]]
        for _ in range(steps):
            total = total * 2.0 / 2.0
        return [(out, indices, out[indices] + total)]

    body = conv(x, w, geometry=problem.geometry, machine=TARGET.machine, epilogue=epilogue)
    run_function(emit.kernel("k", [x, w, add, out], body, aliased=True), arrays)
    want = problem.expected("conv", problem.x, problem.w) + bias + residual
    assert_close(arrays[-1], want, 45, 1e-6)


def test_half_precision_sums_in_single():
    problem = Problem(2, (6, 7), 64, 16, 3, {"padding": 1}, "float16")
    result = run_template(
        conv, [problem.x, problem.w], problem.y_shape, "float16", geometry=problem.geometry
    )
    want = problem.expected("conv", problem.x, problem.w)
    np.testing.assert_allclose(result, want, rtol=1e-3, atol=1e-2)


def test_code_does_not_grow_with_the_product_of_the_strides():
    """Each phase of the strides used to have code of its own, 64 times as much here."""

    def size(strides):
        problem = Problem(2, (9, 9, 9), 2, 3, 4, {"strides": strides})
        dy, w = declare("dy", problem.dy), declare("w", problem.w)
        out = emit.buffer("out", problem.x_shape)
        code = conv_input_grad(
            dy,
            w,
            out,
            input_shape=problem.x_shape,
            geometry=problem.geometry,
            machine=TARGET.machine,
        )
        return len(str(code))

    assert size(4) < 4 * size(1)
