"""Products on AMX tiles: the loops run here on a stand-in for the units, their code elsewhere.

No machine of the tests has the units. So `PORTABLE` does with plain loops what Intel's manual
says of the tiles of one block, and is imported in the place of the intrinsics: packing, padding
and epilogues run as they would there. The instructions that LLVM makes of the intrinsics run on
a processor that is a program (`tiles`), and give the same block.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest
from native import TARGET, declare, run_template
from tiles import FaultError, Processor

from hornfels.codegen.tvm import emit
from hornfels.codegen.tvm.build import source
from hornfels.codegen.tvm.entry import Address, Call
from hornfels.codegen.tvm.schedules import amx
from hornfels.codegen.tvm.schedules.matmul import matmul
from hornfels.codegen.tvm.target import parse_target

BF16 = ml_dtypes.bfloat16
TILED = replace(
    TARGET.machine,
    features=TARGET.machine.features | {"amx-tile", "amx-bf16", "avx512bf16"},
    vector_bits=512,
)

PORTABLE = """
define linkonce_odr i32 @hornfels_amx_begin() {
  ret i32 0
}

define linkonce_odr i32 @hornfels_amx_end() {
  ret i32 0
}

; c[m, n] = sum over steps and 16 pairs of a[m, k] . b[k, n], in 32 x 32 sums
define linkonce_odr i32 @hornfels_amx_block(ptr %a, i64 %stride, ptr %b, ptr %c, i64 %steps) {
entry:
  %pairs = mul i64 %steps, 16
  br label %row
row:
  %m = phi i64 [0, %entry], [%m1, %row_end]
  br label %column
column:
  %n = phi i64 [0, %row], [%n1, %column_end]
  br label %term
term:
  %k = phi i64 [0, %column], [%k1, %term]
  %sum = phi float [0.0, %column], [%high_sum, %term]
  %a_row = mul i64 %m, %stride
  %a_pair = mul i64 %k, 4
  %a_at = add i64 %a_row, %a_pair
  %a_place = getelementptr i8, ptr %a, i64 %a_at
  %x = load i32, ptr %a_place
  %b_row = mul i64 %k, 32
  %b_at = add i64 %b_row, %n
  %b_place = getelementptr i32, ptr %b, i64 %b_at
  %y = load i32, ptr %b_place
  %x_low = shl i32 %x, 16
  %y_low = shl i32 %y, 16
  %x_high = and i32 %x, -65536
  %y_high = and i32 %y, -65536
  %x0 = bitcast i32 %x_low to float
  %y0 = bitcast i32 %y_low to float
  %x1 = bitcast i32 %x_high to float
  %y1 = bitcast i32 %y_high to float
  %low = fmul float %x0, %y0
  %high = fmul float %x1, %y1
  %low_sum = fadd float %sum, %low
  %high_sum = fadd float %low_sum, %high
  %k1 = add i64 %k, 1
  %more_terms = icmp slt i64 %k1, %pairs
  br i1 %more_terms, label %term, label %column_end
column_end:
  %c_row = mul i64 %m, 32
  %c_at = add i64 %c_row, %n
  %c_place = getelementptr float, ptr %c, i64 %c_at
  store float %high_sum, ptr %c_place
  %n1 = add i64 %n, 1
  %more_columns = icmp slt i64 %n1, 32
  br i1 %more_columns, label %column, label %row_end
row_end:
  %m1 = add i64 %m, 1
  %more_rows = icmp slt i64 %m1, 32
  br i1 %more_rows, label %row, label %done
done:
  ret i32 0
}
"""

TRANSPOSES = list(itertools.product((False, True), repeat=2))


@pytest.mark.skipif("avx512bf16" not in TARGET.machine.features, reason="pairs are packed by them")
@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(
    ("batch", "rows", "columns", "terms"),
    [((), 8, 16, 1), ((), 37, 53, 70), ((), 64, 64, 64), ((2,), 33, 16, 35), ((), 32, 33, 97),
     ((3,), 200, 130, 66)],
)  # fmt: skip
def test_products(monkeypatch, batch, rows, columns, terms, transposes):
    monkeypatch.setattr(amx, "FUNCTIONS", PORTABLE)
    random = np.random.default_rng(rows + columns)
    a = random.standard_normal((*batch, rows, terms)).astype(BF16)
    b = random.standard_normal((*batch, terms, columns)).astype(BF16)
    want = a.astype(np.float64) @ b.astype(np.float64)
    operands = [
        np.ascontiguousarray(x.swapaxes(-1, -2)) if turned else x
        for x, turned in zip((a, b), transposes, strict=True)
    ]
    found = run_template(
        matmul, operands, want.shape, np.float32, machine=TILED,
        transpose_a=transposes[0], transpose_b=transposes[1],
    )  # fmt: skip
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-6 * (1 + abs(want).max()))


def test_code_for_an_amx_machine_multiplies_tiles():
    """One step loads two tiles of rows and two of columns and multiplies each with each."""
    target = parse_target("cpu -mcpu=sapphirerapids")
    arrays = [np.zeros((128, 256), BF16), np.zeros((256, 96), BF16), np.zeros((128, 96), BF16)]
    buffers = [declare(f"p{i}", array) for i, array in enumerate(arrays)]
    kernel = emit.kernel("kernel", buffers, matmul(*buffers, machine=target.machine))
    call = Call("kernel", tuple(map(Address, range(4))))
    code = source({"kernel": kernel}, [call], target, "asm")
    counts = {
        name: len(re.findall(rf"\t{name}\t?", code))
        for name in ("tdpbf16ps", "tileloadd", "tilestored", "tilezero", "ldtilecfg",
                     "tilerelease", "syscall")
    }  # fmt: skip
    tasks = counts["ldtilecfg"]
    assert tasks == counts["tilerelease"] == counts["syscall"] >= 1
    assert counts["tilezero"] == counts["tilestored"] == 4 * tasks
    assert counts["tdpbf16ps"] == counts["tileloadd"] >= 4 * tasks  # LLVM repeats the step
    step = code[code.index("tileloadd") :]
    step = step[: step.index("tilestored")]
    assert "zmm" not in step, "between tiles there is no other arithmetic"
    assert re.search(r"\$4131", code), "Linux is asked for the tiles' registers"


BLOCK = """
define void @run(ptr %a, i64 %stride, ptr %b, ptr %c, i64 %steps) {
  %1 = call i32 @hornfels_amx_begin()
  %2 = call i32 @hornfels_amx_block(ptr %a, i64 %stride, ptr %b, ptr %c, i64 %steps)
  %3 = call i32 @hornfels_amx_block(ptr %a, i64 %stride, ptr %b, ptr %c, i64 %steps)
  %4 = call i32 @hornfels_amx_end()
  ret void
}
"""


@pytest.fixture(scope="module")
def assembly() -> str:
    """The machine's instructions for a task that computes a block twice."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    module = llvm.parse_assembly(amx.FUNCTIONS + BLOCK)
    module.triple = "x86_64-unknown-linux-gnu"
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(cpu="sapphirerapids", features="+amx-bf16", opt=2)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(2))
    passes.getModulePassManager().run(module, passes)
    text = machine.emit_assembly(module)
    return text[text.index("\nrun:") :]


@pytest.mark.parametrize(("steps", "padding"), [(1, 0), (2, 16), (5, 0), (9, 48)])
def test_instructions_for_a_block_run(assembly, steps, padding):
    """Rows that begin further apart than they are long; sums overwrite what lay there."""
    random = np.random.default_rng(steps)
    pairs = 16 * steps
    a = random.standard_normal((32, 2 * (pairs + padding))).astype(BF16)
    b = random.standard_normal((pairs, 32, 2)).astype(BF16)
    c = np.full((32, 32), np.nan, np.float32)
    machine = Processor(assembly)
    machine.call("run", a, a.strides[0], b, c, steps)
    right = b.transpose(0, 2, 1).reshape(2 * pairs, 32)
    want = a[:, : 2 * pairs].astype(np.float64) @ right.astype(np.float64)
    np.testing.assert_allclose(c, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert machine.system_calls == [(158, 4131, 18)], "Linux is asked for the tiles' registers"
    assert machine.counts["tdpbf16ps"] == machine.counts["tileloadd"] == 8 * steps
    assert machine.shapes is None, "tiles are released"
    machine.call("run", a, a.strides[0], b, c, steps)
    assert len(machine.system_calls) == 1, "Linux is asked once"


@pytest.mark.parametrize(
    ("old", "new"),
    [("tilezero\t%tmm2", "tilezero\t%tmm3"), ("%tmm7, %tmm4, %tmm1", "%tmm6, %tmm4, %tmm1"),
     ("ldtilecfg\t(%rax)", "nop"), ("tilestored\t%tmm3", "tilestored\t%tmm2")],
)  # fmt: skip
def test_wrong_instructions_are_found(assembly, old, new):
    assert old in assembly
    with pytest.raises((AssertionError, FaultError)):
        test_instructions_for_a_block_run(assembly.replace(old, new), 5, 0)
