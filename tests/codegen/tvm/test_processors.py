"""Other processors: what runs here is run, and for all the inner loops are read.

An inner loop of a product must be multiply-adds in registers: nothing stored, nothing spilled.
"""

import numpy as np
import pytest
from assembly import densest_loop

from hornfels.codegen.tvm import build
from hornfels.codegen.tvm.lower import lower_plan
from hornfels.codegen.tvm.target import host_machine, parse_target
from hornfels.ir import evaluate, parse
from hornfels.passes.pipeline import make_plan
from hornfels.runtime.executable import BackendOptions
from hornfels.runtime.tvm_backend import TvmBackend

AVX2 = "cpu -mcpu=haswell"
AVX512 = "cpu -mcpu=skylake-avx512"
NEON = "cpu -mtriple=aarch64-linux-gnu -mcpu=cortex-a76"
# Vector registers that hold sums in the inner loop: the others hold factors.
SUMS = {AVX2: 10, AVX512: 16, NEON: 16}

GEOMETRY = "input_dilation=(1,1), kernel_dilation=(1,1), groups=1"


def product(rows=128, terms=256, columns=512):
    return f"""graph g(%a: f32[{rows},{terms}], %b: f32[{terms},{columns}]) {{
      %0: f32[{rows},{columns}] = matmul(%a, %b)
      return y=%0
    }}"""


def convolution(op, taps=5, batch=2, size=16, inputs=32, outputs=64):
    x, y = f"f32[{batch},{size},{size},{inputs}]", f"f32[{batch},{size},{size},{outputs}]"
    w, pad = f"f32[{taps},{taps},{inputs},{outputs}]", taps // 2
    attrs = f"strides=(1,1), padding=(({pad},{pad}),({pad},{pad})), {GEOMETRY}"
    shapes = {"conv_input_grad": f"input_shape={x}, ", "conv_kernel_grad": f"kernel_shape={w}, "}
    shape = shapes.get(op, "").replace("f32[", "(").replace("]", ")")
    operands, result = {
        "conv": (f"%x: {x}, %w: {w}", y),
        "conv_input_grad": (f"%g: {y}, %w: {w}", x),
        "conv_kernel_grad": (f"%x: {x}, %g: {y}", w),
    }[op]
    names = ", ".join(part.split(":")[0] for part in operands.split(", "))
    return f"""graph g({operands}) {{
      %0: {result} = {op}[{shape}{attrs}]({names})
      return y=%0
    }}"""


GRAPHS = {
    "matmul": product(),
    **{op: convolution(op) for op in ("conv", "conv_input_grad", "conv_kernel_grad")},
    "conv 3x3": convolution("conv", taps=3),
}


@pytest.mark.parametrize("target", [AVX2, AVX512, NEON])
@pytest.mark.parametrize("name", GRAPHS)
def test_inner_loops_are_multiply_adds_in_registers(name, target):
    parsed = parse_target(target)
    lowered = lower_plan(make_plan(parse(GRAPHS[name])), parsed)
    loop = densest_loop(build.source(lowered.kernels, lowered.statements, parsed, "asm"))
    assert loop.stores == [], loop
    assert loop.spills == [], loop
    assert len(loop.registers) >= SUMS[target], loop
    width = {AVX2: "%ymm", AVX512: "%zmm", NEON: "4s"}[target]
    assert width in str(loop)


def run_on(target, text):
    graph = parse(text)
    rng = np.random.default_rng(0)
    arrays = {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs}
    backend = TvmBackend(BackendOptions(target))
    found = backend.compile(graph)(backend.state(), arrays)["y"]
    (expected,) = evaluate(graph, arrays).outputs.values()
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())


@pytest.mark.skipif("avx2" not in host_machine().features, reason="the processor has no AVX2")
@pytest.mark.parametrize(
    "text",
    [product(37, 65, 71), convolution("conv", 3, 2, 9, 5, 19), convolution("conv", 5, 1, 7, 8, 8),
     convolution("conv_input_grad", 3, 2, 9, 5, 19),
     convolution("conv_kernel_grad", 3, 2, 9, 5, 19)],
    ids=["matmul", "conv", "conv5", "input-grad", "kernel-grad"],
)  # fmt: skip
def test_code_for_avx2_computes_the_same(text):
    run_on(AVX2, text)


def test_a_loop_that_spills_is_noticed():
    spilling = (
        """f:
.LBB0_1:
\tvmovaps\t32(%rsp), %ymm9
\tvfmadd231ps\t%ymm1, %ymm2, %ymm9
"""
        + "\tvfmadd231ps\t%ymm1, %ymm2, %ymm3\n" * 8
        + """\tvmovaps\t%ymm9, 32(%rsp)
\tjne\t.LBB0_1
"""
    )
    loop = densest_loop(spilling)
    assert len(loop.spills) == 2
    assert len(loop.stores) == 1
    assert loop.registers == {"%ymm9", "%ymm3"}
