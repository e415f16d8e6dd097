"""The thread pool: every iteration exactly once, whoever computes it, whatever else happens."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pool_loops
import pytest
from pool_loops import link_loops, run

from hornfels.codegen.native import jit, processor
from hornfels.codegen.native.pool import CHUNKS, Pool, pool_code, pool_of
from hornfels.ir.errors import LoweringError


@pytest.fixture(scope="module")
def loops():
    return link_loops()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("iterations", [1, 2, 3, 8, 31, CHUNKS * 7, CHUNKS * 7 + 1, 1000])
def test_every_iteration_once(loops, threads, iterations):
    counters = np.zeros(iterations + 2, np.int32)
    run(pool_of(threads), loops["run_count"], counters[1:], iterations, 50)
    np.testing.assert_array_equal(counters, [0, *[50] * iterations, 0])


@pytest.mark.parametrize("threads", [2, 5])
def test_very_many_launches(loops, threads):
    counters = np.zeros(9, np.int32)
    run(pool_of(threads), loops["run_count"], counters, 9, 100_000)
    np.testing.assert_array_equal(counters, 100_000)


def test_workers_that_sleep_are_woken_and_not_waited_for(loops):
    pool = Pool(4)
    pool.set_patience(0.0, 0.0, 0.0)  # workers sleep at once, and so does a caller
    counters = np.zeros(16, np.int32)
    for _ in range(300):
        run(pool, loops["run_count"], counters, 16, 10)
    np.testing.assert_array_equal(counters, 3000)


def test_a_launch_in_a_parallel_loop_is_serial(loops):
    counters = np.zeros((40, 40), np.int32)
    run(pool_of(3), loops["run_nested"], counters, 40, 30)
    np.testing.assert_array_equal(counters, 30)


def test_several_threads_at_once(loops):
    pool, found = pool_of(3), [np.zeros(50, np.int32) for _ in range(5)]

    def work(counters: np.ndarray) -> None:
        for _ in range(20):
            run(pool, loops["run_count"], counters, 50, 200)

    threads = [threading.Thread(target=work, args=(counters,)) for counters in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for counters in found:
        np.testing.assert_array_equal(counters, 4000)


def test_other_python_threads_run_meanwhile(loops):
    """The lock of Python is given up: a loop that takes a while does not stop others."""
    counters, ticks, done = np.zeros(4000, np.int32), [], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    while time.perf_counter() - start < 0.2:  # one call
        run(pool_of(2), loops["run_count"], counters, 4000, 10_000)
        end = time.perf_counter()
        if end - start > 0.02:
            break
    done.set()
    thread.join()
    assert sum(start < t < end for t in ticks) >= 2


def test_workers_compute_in_the_mode_of_the_caller_and_its_own_comes_back(loops):
    pool, flush = pool_of(2), processor.host_processor().flush
    before = pool.mode()
    assert not before & flush
    for wanted in (flush, 0, flush):
        modes = np.zeros(64, np.int32)
        run(pool, loops["run_modes"], modes, 64, 300, wanted)
        np.testing.assert_array_equal(modes & flush, wanted)
        assert pool.mode() == before


def test_a_worker_that_stands_still_comes_to_the_caller_and_goes_back(loops):
    """It sleeps in its chunk, which looks like a processor taken away by another process."""
    before = _affinities()
    found = []
    for _ in range(5):
        processors = np.zeros(2, np.int32)
        run(pool_of(2), loops["run_sleep"], processors, 2)
        found.append(int(processors[1]))
    assert 1 in found  # unless the caller computed all, it was on the caller's alone
    assert set(_affinities().values()) == set(before.values())


def _affinities() -> dict[str, frozenset[int]]:
    """The processors that each thread of this process may use."""
    threads = os.listdir("/proc/self/task")
    return {thread: frozenset(os.sched_getaffinity(int(thread))) for thread in threads}


@pytest.mark.parametrize(
    ("name", "triple", "wanted"),
    [
        ("aarch64", "aarch64-unknown-linux-gnu", ["ldaxr", "stlxr", "isb", "FPCR", "syscall"]),
        ("x86_64", "x86_64-unknown-linux-gnu", ["lock", "cmpxchg", "pause", "ldmxcsr", "syscall"]),
    ],
)
def test_the_code_for_processors(name, triple, wanted):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine()
    code = pool_code(4, processor.PROCESSORS[name], triple)
    assembly = machine.emit_assembly(llvm.parse_assembly(code)).lower()
    assert [word for word in wanted if word.lower() not in assembly] == []


def test_one_pool_for_each_number_of_threads():
    assert pool_of(2) is pool_of(2)
    assert pool_of(2).launch != pool_of(3).launch


def test_what_cannot_be_linked_is_refused():
    with pytest.raises(LoweringError, match="load: "):
        jit.link(("f",), code="declare void @nowhere()\ndefine void @f() {\n"
                              "  call void @nowhere()\n  ret void\n}")  # fmt: skip
    with pytest.raises(LoweringError, match="load: "):
        jit.link(("f",), objects=(b"no object file",))


# --- processes -------------------------------------------------------------------------------


PRELUDE = """
import os, threading, time
import numpy as np
from pool_loops import link_loops, run
from hornfels.codegen.native.pool import pool_of

loops, pool = link_loops(), pool_of(4)

def check(times=200):
    counters = np.zeros(40, np.int32)
    run(pool, loops["run_count"], counters, 40, times)
    assert (counters == times).all()

def threads():
    return len(os.listdir("/proc/self/task"))

def ends_well(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def in_a_child(work):
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(0 if sys.exc_info()[0] is None else 1)

import sys
before = threads()
check()
assert threads() == before + 3
"""


def script(text: str) -> None:
    """Run a program in a process of its own; it must end well, and soon."""
    support = str(Path(pool_loops.__file__).parent)
    found = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(text)],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": support, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr


def test_a_child_process_has_workers_of_its_own():
    script("""
        def work():
            alone = threads()
            check()
            assert threads() == alone + 3
            assert ends_well(in_a_child(check))

        children = [in_a_child(work) for _ in range(3)]
        check()
        assert all(map(ends_well, children))
    """)


def test_fork_while_another_thread_computes():
    script("""
        done = []
        def compute():
            while not done:
                check(2000)

        thread = threading.Thread(target=compute)
        thread.start()
        children = []
        for _ in range(10):
            time.sleep(0.005)
            children.append(in_a_child(check))
        done.append(True)
        thread.join()
        assert all(map(ends_well, children))
    """)


def test_the_interpreter_ends_while_threads_compute():
    script("""
        def compute():
            while True:
                check(1000)

        for _ in range(3):
            threading.Thread(target=compute, daemon=True).start()
        time.sleep(0.05)
    """)


def test_an_idle_worker_sleeps():
    script("""
        time.sleep(0.1)
        start = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - start < 0.05
    """)
