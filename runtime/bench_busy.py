"""A busy machine for `hornfels bench --busy`: another process computes on one of our cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What counts is that the core is taken; the line says that it is.
_SCRIPT = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(sys.argv[1])})
print(flush=True)
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1000000):
        pass
"""


def busy_core() -> int:
    """The core that is made busy: the last one that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(os.sched_getaffinity(0))
    return (os.cpu_count() or 1) - 1


@contextmanager
def one_busy_core() -> Iterator[None]:
    """Let another process compute on `busy_core`, and on no other, inside a `with` block."""
    command = [sys.executable, "-I", "-S", "-c", _SCRIPT, str(busy_core())]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
