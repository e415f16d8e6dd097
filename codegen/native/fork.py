"""Child processes: `fork` copies locks as they are, and none of the threads that hold them."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """What has locks or threads of its own."""

    def forked(self) -> None:
        """Make them anew: this is a child process, and none of the parent's threads runs in it."""


_things: weakref.WeakSet[Forked] = weakref.WeakSet()


def renew_in_children(thing: Forked) -> None:
    """Have `thing.forked()` called in child processes, as long as it lives."""
    _things.add(thing)


def _forked() -> None:
    for thing in list(_things):
        thing.forked()


os.register_at_fork(after_in_child=_forked)
