"""Other processors: what runs here is run, and for all the inner loops are read.

An inner loop of a product must be multiply-adds in registers: nothing stored, nothing spilled.
"""

import numpy as np
import pytest
import training_graphs
from assembly import densest_loop

from hornfels.codegen.tvm import build
from hornfels.codegen.tvm.lower import lower_plan
from hornfels.codegen.tvm.target import host_machine, parse_target
from hornfels.ir import evaluate, parse
from hornfels.ir.types import f32
from hornfels.passes.pipeline import make_plan
from hornfels.runtime.executable import BackendOptions
from hornfels.runtime.tvm_backend import TvmBackend

AVX2 = "cpu -mcpu=haswell"
AVX512 = "cpu -mcpu=skylake-avx512"
NEON = "cpu -mtriple=aarch64-linux-gnu -mcpu=cortex-a76"
# Vector registers that hold sums in the inner loop: the others hold factors.
SUMS = {AVX2: 10, AVX512: 16, NEON: 16}

GEOMETRY = "input_dilation=(1,1), kernel_dilation=(1,1)"


def product(rows=128, terms=256, columns=512):
    return f"""graph g(%a: f32[{rows},{terms}], %b: f32[{terms},{columns}]) {{
      %0: f32[{rows},{columns}] = matmul(%a, %b)
      return y=%0
    }}"""


def convolution(op, taps=5, batch=2, size=16, inputs=32, outputs=64, stride=1, groups=1):
    result, low, high = size // stride, (taps - stride + 1) // 2, (taps - 1) // 2
    x, y = f"f32[{batch},{size},{size},{inputs}]", f"f32[{batch},{result},{result},{outputs}]"
    w = f"f32[{taps},{taps},{inputs // groups},{outputs}]"
    attrs = f"strides=({stride},{stride}), padding=(({low},{high}),({low},{high})), {GEOMETRY}"
    attrs += f", groups={groups}"
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


LONG_SUM = """graph g(%a: f32[8192,256], %b: f32[8192,128]) {
  %0: f32[256,128] = matmul[transpose_a=True](%a, %b)
  return y=%0
}"""
CHANNELS = {"inputs": 64, "outputs": 64}
WITHOUT_SPILLS = {  # and the registers that hold sums in NEON's inner loop
    "a long sum, of outer products": (LONG_SUM, 24),
    "emulated bf16": (product().replace("f32", "bf16"), 24),
    "1 x 1": (convolution("conv", 1, **CHANNELS), 24),
    "1 x 1, strides": (convolution("conv", 1, stride=2, **CHANNELS), 24),
    "1 x 1, input gradient": (convolution("conv_input_grad", 1, **CHANNELS), 24),
    "1 x 1, kernel gradient": (convolution("conv_kernel_grad", 1, **CHANNELS), 24),
    "3 x 3, input gradient": (convolution("conv_input_grad", 3), 16),
    "3 x 3, kernel gradient": (convolution("conv_kernel_grad", 3), 20),
    "3 x 3, strides": (convolution("conv", 3, stride=2), 16),
    "3 x 3, strides, kernel gradient": (convolution("conv_kernel_grad", 3, stride=2), 24),
    "depthwise": (convolution("conv", 3, groups=64, **CHANNELS), 8),
    "depthwise, input gradient": (convolution("conv_input_grad", 3, groups=64, **CHANNELS), 8),
}
"""What the five models and the larger ones use besides `GRAPHS`. Transforms of minimal filtering
are left out: a tile of 36 vectors does not fit 32 registers; the sums between them are here."""


@pytest.mark.filterwarnings("ignore:bf16:UserWarning")
@pytest.mark.parametrize("name", WITHOUT_SPILLS)
def test_inner_loops_for_neon_hold_their_sums_in_registers(name):
    text, sums = WITHOUT_SPILLS[name]
    parsed = parse_target(NEON)
    lowered = lower_plan(make_plan(parse(text)), parsed)
    loop = densest_loop(build.source(lowered.kernels, lowered.statements, parsed, "asm"))
    assert loop.stores == [], loop
    assert loop.spills == [], loop
    assert len(loop.registers) >= sums, loop
    assert "fmla" in str(loop)


@pytest.mark.parametrize("network", [training_graphs.cnn, training_graphs.resnet])
def test_a_training_step_compiles_for_neon(network):
    parsed = parse_target(NEON)
    bound = network(f32, 12, 4).specialize({"N": 4})
    lowered = lower_plan(make_plan(bound), parsed)
    code = build.compile_code(lowered.kernels, lowered.statements, parsed)
    assert len(code.objects) > 1
    for each in code.objects:
        assert each[:4] == b"\x7fELF"
        assert int.from_bytes(each[18:20], "little") == 183  # the number of 64-bit ARM


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
