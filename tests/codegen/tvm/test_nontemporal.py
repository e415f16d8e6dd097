"""Results that are stored past the cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native import TARGET
from native_graph import compiled, run_compiled

from hornfels.codegen.tvm import build
from hornfels.codegen.tvm.lower import lower_plan
from hornfels.codegen.tvm.nontemporal import is_streamed
from hornfels.ir import REGISTRY, Builder, Graph, evaluate
from hornfels.ir.types import f32

EAGER = replace(TARGET, machine=replace(TARGET.machine, l3=64))
"""A target whose last cache is one line: all results are too large for it."""

HAS_LINES = TARGET.machine.lanes("float32") == 16
"""Whether a vector of this machine is a line."""


def depthwise(batch: int, pixels: int, channels: int, stride: int) -> Graph:
    """A convolution, its gradients, and what is made of them element by element."""
    attrs = {"strides": (stride,) * 2, "padding": ((1, 1), (0, 2)), "input_dilation": (1, 1),
             "kernel_dilation": (1, 1), "groups": channels}  # fmt: skip
    op = {name: REGISTRY[name] for name in ("conv", "conv_input_grad", "conv_kernel_grad", "exp")}
    with Builder("depthwise") as b:
        x = b.input("x", f32(batch, pixels, pixels, channels))
        w = b.input("w", f32(3, 3, 1, channels))
        y = op["conv"](x, w, **attrs)
        dx = op["conv_input_grad"](y, w, input_shape=x.shape, **attrs)
        dw = op["conv_kernel_grad"](x, y, kernel_shape=w.shape, **attrs)
        outputs = {"y": y, "dx": dx, "dw": dw, "e": op["exp"](dx * 0.01), "s": dx.sum(0)}
        return b.finish(outputs)


@pytest.mark.parametrize(
    ("batch", "pixels", "channels", "stride"),
    [(2, 7, 16, 1), (1, 9, 48, 2), (2, 5, 24, 2), (1, 1, 40, 1), (3, 6, 7, 1), (0, 4, 16, 1)],
)
def test_results_are_those_of_the_oracle(batch, pixels, channels, stride):
    graph = depthwise(batch, pixels, channels, stride)
    rng = np.random.default_rng(0)
    arrays = {v.name: rng.normal(size=v.shape).astype(np.float32) for v in graph.inputs}
    found = run_compiled(compiled(graph, EAGER), arrays).outputs
    for name, wanted in evaluate(graph, arrays).outputs.items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-4, err_msg=name)


def stores(target, channels: int) -> int:
    """Instructions that store past the cache."""
    plan = compiled(depthwise(2, 7, channels, 1), target).plan
    lowered = lower_plan(plan, target)
    text = build.source(lowered.kernels, lowered.statements, target, "asm")
    return sum("vmovnt" in line for line in text.splitlines())


def test_only_whole_lines_of_large_results_go_past_the_cache():
    assert stores(TARGET, 48) == 0
    assert stores(EAGER, 20) <= stores(EAGER, 48)
    assert (stores(EAGER, 48) > 0) == HAS_LINES


def test_what_is_large_depends_on_the_last_cache():
    machine = replace(TARGET.machine, vector_bits=512, l3=32 << 20)
    assert [is_streamed(n << 20, machine) for n in (1, 7, 8, 100)] == [False, False, True, True]
    assert not is_streamed(100 << 20, replace(machine, vector_bits=256))
    assert not is_streamed(100 << 20, replace(machine, l3=0))
