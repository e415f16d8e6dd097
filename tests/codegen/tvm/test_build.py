"""The native program: entry, table, workspace, aliasing, sharing of code, targets and errors."""

from __future__ import annotations

import numpy as np
import pytest
from native import TARGET, aligned, is_parallel, run_function
from tvm import tirx

from hornfels.codegen.tvm import emit
from hornfels.codegen.tvm.build import build, source
from hornfels.codegen.tvm.entry import Address, Call
from hornfels.codegen.tvm.target import host_cores, host_machine, parse_target
from hornfels.ir.errors import LoweringError


def add(amount: float, size: int = 37) -> emit.PrimFunc:
    x, y = emit.buffer("x", (size,)), emit.buffer("y", (size,))
    return emit.kernel(
        "add", [x, y], emit.strips(size, 16, lambda i: emit.store(y, (i,), x[i] + amount))
    )


def test_calls_run_in_order_at_their_offsets():
    arena = aligned(np.zeros(3 * 64, np.float32))
    arena[:37] = np.arange(37)
    kernels = {"one": add(1.0), "ten": add(10.0)}
    places = [Address(0), Address(0, 256), Address(0, 512)]
    calls = [Call("one", (*places[:2],)), Call("ten", (*places[1:],))]
    build(kernels, calls, TARGET).run([arena.ctypes.data])
    np.testing.assert_array_equal(arena[64:101], np.arange(37) + 1)
    np.testing.assert_array_equal(arena[128:165], np.arange(37) + 11)


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_batches_give_the_same_program(batch):
    arena = aligned(np.zeros(64, np.float32))
    kernels = {f"add{n}": add(float(n)) for n in range(6)}
    calls = [Call(f"add{n}", (Address(0), Address(0))) for n in (0, 1, 2, 3, 4, 5, 1)]
    build(kernels, calls, TARGET, batch=batch).run([arena.ctypes.data])
    np.testing.assert_array_equal(arena[:37], np.full(37, 16.0))


def test_equal_kernels_are_compiled_once():
    calls = [Call(name, (Address(0), Address(0, 256))) for name in ("a", "b", "c")]
    code = source({"a": add(1.0), "b": add(1.0), "c": add(2.0)}, calls, TARGET)
    defined = [line for line in code.splitlines() if line.startswith("define")]
    names = [name for name in "abc" if any(f"@{name}_kernel(" in line for line in defined)]
    assert names == ["a", "c"]


def test_a_kernel_may_have_the_name_of_a_function_of_the_c_library():
    x, y = emit.buffer("x", (37,)), emit.buffer("y", (37,))
    body = emit.serial(
        37, lambda i: emit.store(y, (i,), tirx.call_pure_extern("float32", "fmodf", x[i], x[0]))
    )
    kernels = {"fmodf": emit.kernel("fmodf", [x, y], body)}
    array, result = (aligned(np.arange(3, 40, dtype=np.float32)) for _ in range(2))
    program = build(kernels, [Call("fmodf", (Address(0), Address(1)))], TARGET)
    program.run([array.ctypes.data, result.ctypes.data])
    np.testing.assert_array_equal(result, np.arange(37) % 3)


def test_scratch_becomes_one_workspace():
    x, y = emit.buffer("x", (20,)), emit.buffer("y", (20,))

    def body(first):
        return emit.scratch(
            "second",
            (20,),
            "float64",
            lambda second: emit.seq(
                emit.strips(20, 8, lambda i: emit.store(first, (i,), x[i] * 2.0)),
                emit.strips(20, 8, lambda i: emit.store(second, (i,), first[i].astype("float64"))),
                emit.strips(
                    20, 8, lambda i: emit.store(y, (i,), second[i].astype("float32") + 1.0)
                ),
            ),
        )

    function = emit.kernel("k", [x, y], emit.scratch("first", (20,), "float32", body))
    assert emit.workspace_bytes(function) == 128 + 192
    source, target = aligned(np.arange(20, dtype=np.float32)), aligned(np.zeros(20, np.float32))
    run_function(function, [source, target])
    np.testing.assert_array_equal(target, np.arange(20) * 2 + 1)


def test_scratch_in_a_parallel_loop_is_refused():
    y = emit.buffer("y", (4, 8))
    body = emit.parallel(
        4,
        lambda i: emit.scratch(
            "s",
            (8,),
            "float32",
            lambda s: emit.seq(
                emit.strips(8, 8, lambda j: emit.store(s, (j,), emit.constant(1, "float32"))),
                emit.strips(8, 8, lambda j: emit.store(y, (i, j), s[j])),
            ),
        ),
    )
    with pytest.raises(AssertionError, match="parallel"):
        emit.kernel("k", [y], body)


def test_parallel_loops_cover_everything():
    x = emit.buffer("x", (101, 33))
    body = emit.parallel(
        101, lambda i: emit.strips(33, 16, lambda j: emit.store(x, (i, j), x[i, j] + 1.0))
    )
    function = emit.kernel("k", [x], body)
    assert is_parallel(function)
    array = aligned(np.arange(101 * 33, dtype=np.float32).reshape(101, 33))
    expected = array + 1
    run_function(function, [array])
    np.testing.assert_array_equal(array, expected)


def test_outputs_on_an_operands_memory():
    x, y, z = (emit.buffer(name, (40,)) for name in "xyz")
    body = emit.strips(
        40, 16, lambda i: emit.store_all([(y, (i,), x[i] + 1.0), (z, (i,), x[i] * 2.0)])
    )
    function = emit.kernel("k", [x, y, z], body, aliased=True)
    shared, other = aligned(np.arange(40, dtype=np.float32)), aligned(np.zeros(40, np.float32))
    run_function(function, [shared, shared, other])
    np.testing.assert_array_equal(shared, np.arange(40) + 1)
    np.testing.assert_array_equal(other, np.arange(40) * 2)


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_transpose_block(size):
    x, y = emit.buffer("x", (size, size)), emit.buffer("y", (size, size))
    body = emit.transpose_block(
        lambda row, columns: x[row, columns],
        lambda column, rows, vector: emit.store(y, (column, rows), vector),
        size,
    )
    array = aligned(np.arange(size * size, dtype=np.float32).reshape(size, size))
    result = aligned(np.zeros((size, size), np.float32))
    run_function(emit.kernel("k", [x, y], body), [array, result])
    np.testing.assert_array_equal(result, array.T)


def test_an_empty_program_runs():
    program = build({}, [], TARGET)
    program.run([])
    assert program.pointers == 0


def test_errors_name_the_fault():
    with pytest.raises(LoweringError, match="unknown kernel 'nobody'"):
        build({"one": add(1.0)}, [Call("nobody", ())], TARGET)
    with pytest.raises(LoweringError, match="'one' takes 2 pointers, got 1"):
        build({"one": add(1.0)}, [Call("one", (Address(0),))], TARGET)
    program = build({"one": add(1.0)}, [Call("one", (Address(0), Address(1)))], TARGET)
    with pytest.raises(ValueError, match="needs 2 pointers, got 1"):
        program.run([0])


def test_host_machine():
    machine = host_machine()
    assert machine.lanes("float32") == 2 * machine.lanes("float64")
    assert machine.l1 < machine.l2
    assert machine.cores >= 1


@pytest.mark.parametrize(
    ("text", "bits", "registers"),
    [("cpu -mcpu=skylake-avx512", 512, 32), ("cpu -mcpu=haswell", 256, 16),
     ("cpu -mcpu=core2", 128, 16)],
)  # fmt: skip
def test_targets_of_other_processors(text, bits, registers):
    machine = parse_target(text).machine
    assert (machine.vector_bits, machine.vector_registers) == (bits, registers)


@pytest.mark.parametrize(
    ("text", "message"),
    [("tpu", "must be 'cpu'"), ("", "must be 'cpu'"), ("cpu -mcpu=abacus", "'abacus' is unknown"),
     ("cpu -turbo=1", "must be one of"), ("cpu -num-cores=0", "positive integer")],
)  # fmt: skip
def test_wrong_targets_are_refused_in_one_line(text, message):
    with pytest.raises(LoweringError, match=message) as error:
        parse_target(text)
    assert "\n" not in str(error.value)


def test_threads_from_the_environment(monkeypatch):
    monkeypatch.setenv("HORNFELS_NUM_THREADS", "3")
    assert host_cores() == 3
    assert parse_target("cpu").machine.cores == 3
    assert parse_target("cpu -num-cores=2").machine.cores == 2
