"""A child process goes on with the compiled models of its parent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import numpy as np
import pytest

import hornfels as hf

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
