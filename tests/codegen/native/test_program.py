"""Object code as a program: stored, loaded without TVM, denormal numbers, several threads."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from native import TARGET, aligned

from hornfels import settings
from hornfels.codegen.native.program import NativeCode, NativeProgram, load
from hornfels.codegen.tvm import emit
from hornfels.codegen.tvm.build import compile_code
from hornfels.codegen.tvm.entry import Address, Call
from hornfels.ir.errors import ArgumentError, LoweringError

TINY = {"float32": np.float32(1e-40), "float64": np.float64(1e-310)}
TASKS = 8


def halves(dtype: str) -> NativeCode:
    """A program ``y = x * 0.5`` of a parallel and a serial kernel, each of half of the elements."""
    x, y = emit.buffer("x", (TASKS * 32,), dtype), emit.buffer("y", (TASKS * 32,), dtype)
    half = emit.constant(0.5, dtype)

    def row(task: emit.Index) -> emit.Stmt:
        return emit.strips(
            16, 8, lambda i: emit.store(y, (task * 16 + i,), x[task * 16 + i] * half)
        )

    kernels = {
        "parallel": emit.kernel("parallel", [x, y], emit.parallel(TASKS, row)),
        "serial": emit.kernel("serial", [x, y], emit.serial(TASKS, lambda t: row(t + TASKS))),
    }
    return compile_code(kernels, [Call(k, (Address(0), Address(1))) for k in kernels], TARGET)


@pytest.fixture(scope="module")
def code() -> dict[str, NativeCode]:
    return {dtype: halves(dtype) for dtype in TINY}


def run(program: NativeProgram, x: np.ndarray) -> np.ndarray:
    x, y = aligned(x), aligned(np.full_like(x, 7))
    program.run([x.ctypes.data, y.ctypes.data])
    return y


def full(value: float, dtype: str) -> np.ndarray:
    return np.full(TASKS * 32, value, dtype)


def numpy_keeps(dtype: str) -> bool:
    """Whether this thread computes with denormal numbers."""
    return bool((full(TINY[dtype], dtype) * 2 > TINY[dtype]).all())


@pytest.mark.parametrize("dtype", TINY)
def test_tiny_numbers_are_zero_while_a_program_runs_and_only_then(code, dtype):
    program = load(code[dtype])
    for _ in range(50):
        np.testing.assert_array_equal(run(program, full(TINY[dtype], dtype)), 0)  # as operands
        smallest = np.finfo(dtype).smallest_normal
        np.testing.assert_array_equal(run(program, full(smallest, dtype)), 0)  # as results
        np.testing.assert_array_equal(run(program, full(3.0, dtype)), 1.5)
        assert numpy_keeps(dtype)
    with pytest.raises(ValueError, match="needs 2 pointers"):
        program.run([0])
    assert numpy_keeps(dtype)


@pytest.mark.parametrize("dtype", TINY)
def test_a_setting_keeps_tiny_numbers(code, dtype):
    with settings(denormals="keep"):
        program = load(code[dtype])
    for _ in range(50):
        half = TINY[dtype] / 2
        np.testing.assert_array_equal(run(program, full(TINY[dtype], dtype)), half)
    assert numpy_keeps(dtype)
    with pytest.raises(ArgumentError, match="must be flush or keep"), settings(denormals="no"):
        pass


def test_code_is_plain_data_that_another_process_loads_without_tvm(code, tmp_path):
    path = tmp_path / "code"
    path.write_bytes(pickle.dumps(code["float32"]))
    script = f"""
import ctypes, pickle, sys
import numpy as np
from hornfels.codegen.native.program import load
program = load(pickle.loads(open({str(path)!r}, "rb").read()))
block = np.zeros({TASKS * 32} * 2 + 16, np.float32)
start = -block.ctypes.data % 64 // 4
x, y = block[start:][:{TASKS * 32}], block[start:][{TASKS * 32}:][:{TASKS * 32}]
x[:] = 3
program.run([x.ctypes.data, y.ctypes.data])
assert (y == 1.5).all()
assert not any(name.split(".")[0] in ("tvm", "tvm_ffi") for name in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_threads_that_run_one_program_wait_for_each_other(code):
    program, wrong = load(code["float32"]), []

    def work(value: float) -> None:
        for _ in range(300):
            if not (run(program, full(value, "float32")) == value / 2).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in (1.0, 2.0, 5.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_programs_come_and_go(code):
    for _ in range(100):
        program = load(code["float32"])
        np.testing.assert_array_equal(run(program, full(3.0, "float32")), 1.5)
        del program
    gc.collect()


def test_code_that_is_none_is_refused():
    with pytest.raises(LoweringError, match="load: "):
        load(NativeCode((b"\x7fELF, but damaged",), 1, 1))
    with pytest.raises(LoweringError, match="load: "):
        load(NativeCode((), 1, 1))
