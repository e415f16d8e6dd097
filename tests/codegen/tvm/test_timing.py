"""Stamps around calls: one for each step of loops, none for branches that were not taken."""

import numpy as np
import pytest

from hornfels.codegen.tvm.entry import Address, Branch, Call, Copy, Loop, Stamp, While
from hornfels.codegen.tvm.timing import Event, timed
from hornfels.ir import parse
from hornfels.runtime.tvm_backend import TvmBackend

CALL = Call("k", (Address(1),))
FLAG = Address(2)


def test_stamps_stand_around_calls_and_copies():
    copy = Copy(Address(0), Address(1), 8)
    found = timed([CALL, copy], 7)
    assert found.statements == (
        Stamp(Address(7, 0)), CALL, Stamp(Address(7, 16)),
        Stamp(Address(7, 32)), copy, Stamp(Address(7, 48)),
    )  # fmt: skip
    assert found.events == [Event("k", (), 0), Event("copy", (), 32)]
    assert found.nbytes == 64


def test_each_step_of_nested_loops_has_stamps():
    inner = Loop(range(3), (CALL,))
    found = timed([Loop(range(5), (inner, CALL))], 4)
    ((outer,),) = (found.statements,)
    (nested, begin, _, end) = outer.body
    assert nested.body[0] == Stamp(Address(4, 0, ((0, 96), (1, 32))))
    assert nested.body[2] == Stamp(Address(4, 16, ((0, 96), (1, 32))))
    assert begin == Stamp(Address(4, 480, ((0, 32),)))
    assert end == Stamp(Address(4, 496, ((0, 32),)))
    assert [e.count for e in found.events] == [15, 5]
    assert found.nbytes == 20 * 32


def test_a_loop_of_open_length_is_one_event():
    loop = While((CALL,), FLAG, (CALL,))
    found = timed([loop, Branch(FLAG, (CALL,), ())], 3)
    assert found.statements[1] == loop
    assert [e.name for e in found.events] == ["while", "k"]


def test_times_are_nanoseconds():
    log = np.array([1, 5, 1, 25, 2, 0, 3, 7], np.int64).view(np.uint8)
    times = Event("k", (2,), 0).times(log)
    assert times.tolist() == [[10**9 + 5, 10**9 + 25], [2 * 10**9, 3 * 10**9 + 7]]


@pytest.mark.parametrize("flag", [True, False])
def test_what_did_not_run_has_no_times(flag):
    graph = parse("""graph choice(%p: bool[], %x: f32[64]) {
      %0: f32[64] = cond(%p, %x) {
          then = graph yes(%x: f32[64]) {
            %0: f32[64] = tanh(%x)
            return y=%0
          }
          otherwise = graph no(%x: f32[64]) {
            %0: f32[64] = exp(%x)
            return y=%0
          }
      }
      return y=%0
    }""")
    executable = TvmBackend().compile_timed(graph)
    x = np.linspace(-1, 1, 64).astype(np.float32)
    y = executable(executable_state := TvmBackend().state(), {"p": np.array(flag), "x": x})["y"]
    assert not list(executable_state.names())
    np.testing.assert_allclose(y, np.tanh(x) if flag else np.exp(x), rtol=1e-6)
    ran = {event.name for event, times in executable.times() if len(times)}
    assert any("tanh" in name for name in ran) == flag
    assert any("exp" in name for name in ran) != flag
    for _, times in executable.times():
        assert (times[:, 0] <= times[:, 1]).all()
