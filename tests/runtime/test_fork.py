"""A child process goes on with the compiled models of its parent."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import hornfels as hf
from hornfels.codegen.native import ahead
from hornfels.ir.collector import YOUNG, rare_collection
from hornfels.ir.errors import LoweringError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def in_a_child(work: Callable[[], bool]) -> bool:
    """Whether `work` returns True in a child process, and soon."""
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends the process
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_child_compiles_for_another_batch_size():
    """The parent's threads that compile are not in the child."""
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
    model = hf.Sequential([hf.layers.Input((4,)), hf.layers.Dense(3, activation="tanh")])
    model.compile("sgd", "mse")
    native = hf.compile(model, backend="tvm")
    expected = native.predict_on_batch(x)

    def work() -> bool:
        close = np.allclose(native.predict_on_batch(x[:5]), expected[:5], rtol=1e-5, atol=1e-6)
        native.train_on_batch(x, np.zeros((8, 3), np.float32))
        return close and not np.array_equal(native.predict_on_batch(x), expected)

    assert in_a_child(work)
    np.testing.assert_array_equal(native.predict_on_batch(x), expected)


@pytest.mark.parametrize("kind", ["model", "function"])
def test_a_child_can_run_what_another_thread_ran(kind):
    """The lock that a thread of the parent holds is another one in the child."""
    x = np.ones((2, 4), np.float32)
    if kind == "model":
        model = hf.Sequential([hf.layers.Input((4,)), hf.layers.Dense(3)])
        compiled = hf.compile(model, backend="eager")
        call = compiled.predict_on_batch
    else:
        compiled = call = hf.compile(lambda x: x + 1.0, backend="eager")
    expected = call(x)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with compiled._lock:
            held.set()
            done.wait(120)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        held.wait(60)
        assert in_a_child(lambda: np.array_equal(call(x), expected))
    finally:
        done.set()
        thread.join()


def test_a_child_can_assign_what_another_thread_moved():
    """A thread of the parent is in the middle of a move, which all assignments wait for."""
    moving, done = threading.Event(), threading.Event()

    class Slow:
        def read(self, variable: hf.Variable) -> np.ndarray:
            raise AssertionError

        def write(self, variable: hf.Variable, array: np.ndarray) -> None:
            moving.set()
            done.wait(120)

    thread = threading.Thread(target=hf.Variable(0.0).move_to, args=(Slow(),))
    thread.start()
    try:
        assert moving.wait(60)
        other = hf.Variable(1.0)
        assert in_a_child(lambda: float(other.assign_add(1.0)) == float(other) == 2.0)
    finally:
        done.set()
        thread.join()


def test_a_child_made_while_work_goes_on_ahead():
    """What began in the background is done before `fork`, so the child finds no lock held."""
    lock, entered = threading.Lock(), threading.Event()

    def work() -> None:
        with lock:
            entered.set()
            time.sleep(0.1)

    ahead.begin(work)
    assert entered.wait(60)
    assert in_a_child(lambda: lock.acquire(timeout=0))


def test_a_failure_ahead_is_that_of_who_needs_the_result():
    """It is dropped in the background, as an exception in a thread would be a warning."""

    def work() -> None:
        raise LoweringError("no such processor")

    ahead.begin(work)
    ahead.finish()
    with pytest.raises(LoweringError):
        work()


def test_the_collector_of_a_child_is_as_before():
    """A thread that traces, and had it collect rarely, is not in the child."""
    before, inside, done = gc.get_threshold(), threading.Event(), threading.Event()

    def trace() -> None:
        with rare_collection():
            inside.set()
            done.wait(120)

    thread = threading.Thread(target=trace)
    thread.start()
    try:
        assert inside.wait(60)
        with rare_collection():
            assert gc.get_threshold()[0] == YOUNG
        assert gc.get_threshold()[0] == YOUNG  # the other thread is inside still
        assert in_a_child(lambda: gc.get_threshold() == before)
    finally:
        done.set()
        thread.join()
    assert gc.get_threshold() == before
