"""The entry runs kernels one after another over one arena."""

from __future__ import annotations

import re

import pytest
from random_graphs import assert_same, random_arrays

from hornfels.codegen.tvm.build import source
from hornfels.codegen.tvm.lower import compile_plan, lower_plan
from hornfels.codegen.tvm.target import parse_target
from hornfels.ir import Builder, Value, evaluate
from hornfels.ir.evaluate import Evaluation
from hornfels.ir.op import get
from hornfels.ir.types import f32
from hornfels.passes.pipeline import make_plan, optimize
from hornfels.runtime.tvm_backend import TvmExecutable, TvmState


def softmax(x: Value, axis: int) -> Value:
    exponentials = get("exp")(x - x.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True)


def softmax_over_the_middle():
    """Small kernels in a row that LLVM would like to inline, over the same bytes of the arena."""
    with Builder("softmax") as builder:
        x, b = builder.input("x", f32(4, 6, 8)), builder.input("b", f32(8))
        p = softmax(x @ builder.input("w", f32(8, 8)) + b, 1)
        c = builder.input("c", f32(10))
        q = softmax(p.reshape((4, 48)) @ builder.input("v", f32(48, 10)) + c, 1)
        return optimize(builder.finish({"p": q}))


@pytest.fixture(scope="module")
def compiled():
    return compile_plan(make_plan(softmax_over_the_middle()), parse_target("cpu"))


def test_a_kernel_reads_what_the_kernel_before_it_stored(compiled):
    plan = compiled.plan
    arrays = random_arrays(plan.graph)
    assert any(plan.in_place(call) for call in plan.calls)
    found = Evaluation(TvmExecutable.of(compiled)(TvmState(), arrays), {})
    assert_same(found, evaluate(plan.graph, arrays), 1e-5, 1e-6)


def test_kernels_are_called_and_not_inlined(compiled):
    """LLVM believes that buffers of different kernels are disjoint, and they are not."""
    target = parse_target("cpu")
    lowered = lower_plan(compiled.plan, target)
    text = source(lowered.kernels, lowered.statements, target)
    entry = re.search(r"define [^\n]*@hornfels_entry\(.*?\n}", text, re.DOTALL)[0]
    for call in compiled.plan.calls:
        assert f"@{call.kernel.name}_kernel(" in entry
