"""The tool that times single kernels: its cases compute what they say."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.benchmarks.arrays import ArrayCase, compiled
from hornfels.benchmarks.kernels import FAMILIES, OPS, Case, native, operands, same
from hornfels.codegen.tvm.target import parse_target
from hornfels.ir.op import get
from hornfels.ir.types import f32

CASES = {
    "plain": Case(6, 4, 8, 3, padding=(1, 1), batch=2),
    "strides": Case(7, 3, 8, 3, 2, same(7, 3, 2), batch=1),
    "transposed": Case(6, 4, 8, 2, 2, transposed=True, batch=1),
    "depthwise": Case(6, 8, 8, 3, padding=(1, 1), groups=8, batch=1),
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_native_kernel_is_the_op(case, op):
    arrays = operands(case, op)
    native(case, op, arrays, parse_target("cpu -num-cores=1"))()
    name = {"forward": "conv", "input": "conv_input_grad", "kernel": "conv_kernel_grad"}
    if case.transposed:
        name = {"forward": "conv_input_grad", "input": "conv", "kernel": "conv_kernel_grad"}
    pair = (1, 1)
    attributes = {
        "strides": (case.stride,) * 2, "padding": (case.padding,) * 2, "input_dilation": pair,
        "kernel_dilation": pair, "groups": case.groups,
    }  # fmt: skip
    x, w, _ = case.shapes
    extra = {"conv_input_grad": {"input_shape": x}, "conv_kernel_grad": {"kernel_shape": w}}
    wide = (array.astype(np.float64) for array in arrays[:2])
    want = get(name[op]).numpy(*wide, **attributes, **extra.get(name[op], {}))
    np.testing.assert_allclose(arrays[-1], want, rtol=1e-4, atol=1e-4)


def test_a_case_of_arrays_is_its_graph():
    case = ArrayCase("sum", (f32(5, 3), f32(5, 3)), lambda x, y: x * y, lambda torch, x, y: x * y)
    operands = case.arrays()
    run, (result,), moved = compiled(case, operands, parse_target("cpu -num-cores=1"))
    run()
    np.testing.assert_array_equal(result, operands[0] * operands[1])
    assert moved == 3 * 5 * 3 * 4


def test_work_is_counted():
    case = Case(5, 4, 8, 3, 2, (1, 1), batch=2)
    assert case.result == 3
    assert case.flops == 2 * (2 * 3 * 3 * 8) * (3 * 3 * 4)
    assert case.nbytes("forward") == 4 * (2 * 25 * 4 + 9 * 4 * 8 + 2 * 9 * 8)


def test_families_hold_valid_cases():
    for case in (case for family in FAMILIES.values() for case in family):
        if isinstance(case, ArrayCase):
            assert case.graph().outputs
            continue
        assert case.result > 0
        assert case.channels % case.groups == case.outputs % case.groups == 0
