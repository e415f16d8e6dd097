"""Convolutions by minimal filtering against the oracles in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from native import SMALL, TARGET, aligned, declare, run_function, run_template

from hornfels.codegen.tvm import emit
from hornfels.codegen.tvm.schedules import winograd_cost
from hornfels.codegen.tvm.schedules.conv import Geometry, conv, conv_input_grad
from hornfels.codegen.tvm.schedules.conv_kernel_grad import conv_kernel_grad
from hornfels.ir.op import get
from hornfels.ir.settings import settings

# (batch, spatial, channels, outputs, padding)
CASES = {
    "one result": (1, (3, 3), 1, 1, ((0, 0), (0, 0))),
    "whole tiles": (2, (10, 14), 8, 8, ((0, 0), (0, 0))),
    "same": (2, (7, 9), 3, 5, ((1, 1), (1, 1))),
    "one pixel, all else padding": (3, (1, 1), 3, 4, ((1, 1), (1, 1))),
    "lopsided padding": (2, (5, 4), 3, 9, ((4, 0), (0, 3))),
    "padding beyond the kernel": (1, (3, 4), 3, 5, ((4, 5), (6, 4))),
    "panels and tails": (2, (6, 11), 17, 35, ((1, 1), (1, 1))),
    "more tiles than a block": (5, (13, 9), 6, 7, ((1, 1), (1, 1))),
    "sums in parts": (2, (6, 5), 24, 16, ((1, 1), (1, 1))),
}


class Problem:
    """Arrays and geometry of one case."""

    def __init__(self, batch, spatial, channels, outputs, padding, dtype=np.float32):
        self.geometry = Geometry((1, 1), padding, (1, 1), (1, 1))
        self.attributes = {
            "strides": (1, 1), "padding": padding, "input_dilation": (1, 1),
            "kernel_dilation": (1, 1), "groups": 1,
        }  # fmt: skip
        sizes = (n + sum(pair) - 2 for n, pair in zip(spatial, padding, strict=True))
        shapes = (batch, *spatial, channels), (3, 3, channels, outputs), (batch, *sizes, outputs)
        random = np.random.default_rng(math.prod(shapes[0]) + outputs)
        self.x, self.w, self.dy = (random.standard_normal(s).astype(dtype) for s in shapes)

    def run(self, kind, machine=TARGET.machine):
        """The result of one of the three kinds and what it should be."""
        template, operands, shape, extra = {
            "conv": (conv, (self.x, self.w), self.dy.shape, {}),
            "conv_input_grad": (
                conv_input_grad, (self.dy, self.w), self.x.shape, {"input_shape": self.x.shape},
            ),
            "conv_kernel_grad": (
                conv_kernel_grad, (self.x, self.dy), self.w.shape, {"kernel_shape": self.w.shape},
            ),
        }[kind]  # fmt: skip
        result = run_template(
            template, operands, shape, "float32", machine=machine, geometry=self.geometry, **extra
        )
        more = {"input_shape": self.x.shape} if kind == "conv_input_grad" else {}
        if kind == "conv_kernel_grad":
            more = {"kernel_shape": self.w.shape}
        wide = (operand.astype(np.float64) for operand in operands)
        return result, get(kind).numpy(*wide, **self.attributes, **more)


KINDS = ["conv", "conv_input_grad", "conv_kernel_grad"]


@pytest.fixture
def always(monkeypatch):
    """Choose minimal filtering wherever it fits."""
    monkeypatch.setattr(winograd_cost, "_MARGIN", math.inf)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cases(case, kind):
    result, want = Problem(*case).run(kind, SMALL)
    np.testing.assert_allclose(result, want, rtol=0, atol=3e-5 * np.abs(want).max())


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["same", "panels and tails", "sums in parts"])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bf16", "f16"])
def test_half_precision(case, kind, dtype):
    """Operands become f32 as they are read, so that only the sums are rounded, as in f32."""
    result, want = Problem(*CASES[case], dtype=dtype).run(kind, SMALL)
    np.testing.assert_allclose(result, want, rtol=0, atol=3e-5 * np.abs(want).max())


# Tiles and panels are whole in the first shape and not in the second, and the last has weights
# much larger than the cache; all are enough for several tasks.
SHAPES = {
    "whole": (16, (16, 16), 32, 32, ((1, 1), (1, 1))),
    "ragged": (17, (13, 11), 24, 40, ((1, 1), (1, 1))),
    "deep": (2, (12, 12), 96, 96, ((1, 1), (1, 1))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_error_is_at_most_four_times_that_of_the_plain_sum(shape, kind):
    problem, machine = Problem(*shape), replace(TARGET.machine, l2=256 << 10)
    result, want = problem.run(kind, machine)
    with settings(winograd=False):
        plain, _ = problem.run(kind, machine)
    assert (result != plain).mean() > 0.5, "minimal filtering was not chosen"
    assert np.abs(result - want).max() <= 4 * np.abs(plain - want).max()
    assert np.square(result - want).mean() <= 4**2 * np.square(plain - want).mean()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("steps", [1, 8], ids=["short", "long"])
@pytest.mark.parametrize("spatial", [(8, 8), (5, 7)], ids=["whole tiles", "ragged tiles"])
def test_epilogue(spatial, steps):
    """A residual read from the memory of the output, a bias, and once for each element."""
    problem = Problem(2, spatial, 5, 21, ((1, 1), (1, 1)))
    residual = np.random.default_rng(1).standard_normal(problem.dy.shape).astype(np.float32)
    bias = np.arange(21, dtype=np.float32)
    arrays = [aligned(array) for array in (problem.x, problem.w, bias, residual)]
    x, w, add, out = (declare(f"p{i}", array) for i, array in enumerate(arrays))

    def epilogue(indices, value):
        total = value + add[indices[-1]]
        for _ in range(steps):
            total = total * 2.0 / 2.0
        return [(out, indices, out[indices] + total)]

    body = conv(x, w, geometry=problem.geometry, machine=SMALL, epilogue=epilogue)
    run_function(emit.kernel("k", [x, w, add, out], body, aliased=True), arrays)
    wide = (operand.astype(np.float64) for operand in (problem.x, problem.w))
    want = get("conv").numpy(*wide, **problem.attributes) + bias + residual
    np.testing.assert_allclose(arrays[-1], want, rtol=0, atol=1e-3)


def pays(batch, size, channels, outputs, machine=TARGET.machine, dtype="float32"):
    x = emit.buffer("x", (batch, size, size, channels), dtype)
    dy = emit.buffer("dy", (batch, size, size, outputs), dtype)
    return winograd_cost.pays_for_kernel(x, dy, (3, 3), (-1, -1), machine)


def test_what_it_is_chosen_for():
    machine = replace(TARGET.machine, vector_bits=512, vector_registers=32, l2=1 << 20, l3=32 << 20)
    assert pays(128, 32, 16, 16, machine)
    assert pays(128, 8, 64, 64, machine)
    assert pays(1, 56, 64, 64, machine)
    assert not pays(128, 28, 1, 32, machine)  # the square costs more than its products
    assert not pays(128, 2, 16, 16, machine)  # three quarters of each tile are wasted
    assert not pays(1, 7, 16, 16, machine)  # four tiles do not pay for transformed weights
    with settings(winograd=False):
        assert not pays(128, 32, 16, 16, machine)


def test_pairs_of_bf16_are_counted_at_their_speed():
    features = TARGET.machine.features | {"avx512bf16"}
    machine = replace(TARGET.machine, vector_bits=512, vector_registers=32, l2=1 << 20,
                      l3=32 << 20, features=features)  # fmt: skip
    assert pays(128, 32, 16, 16, machine, "uint16")
    assert not pays(8, 8, 16, 16, machine, "uint16")
    assert pays(8, 8, 16, 16, replace(machine, features=features - {"avx512bf16"}), "uint16")
