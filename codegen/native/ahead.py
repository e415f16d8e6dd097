"""Work that begins before its result is needed, in threads of its own.

It pays for what gives up Python's lock, as LLVM and the loading of libraries do: Python goes on
meanwhile. Who needs the result calls the same function once more, and waits if it is not done yet.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable

from ...ir.errors import LoweringError

_MOST_SECONDS = 10.0  # a thread that takes longer waits for the one that forks
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # those that run are alive


def begin(work: Callable[[], object]) -> None:
    """Call `work` in a thread; the process does not end, nor fork, before it is done.

    What `work` raises as a `LoweringError` or an `OSError` is dropped, for the call that needs the
    result raises it again.
    """

    def run() -> None:
        with contextlib.suppress(LoweringError, OSError):
            work()

    thread = threading.Thread(target=run, name="hornfels-ahead")
    with contextlib.suppress(RuntimeError):  # no more threads, or the process ends
        thread.start()
        _threads.add(thread)


def finish() -> None:
    """Wait until all that began is done."""
    for thread in list(_threads):
        if thread is not threading.current_thread():
            thread.join(_MOST_SECONDS)
            _threads.discard(thread)


# A child would have the locks that these threads hold, and none of the threads.
os.register_at_fork(before=finish, after_in_child=_threads.clear)
