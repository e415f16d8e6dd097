"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import numpy as np

from hornfels.codegen.native.memory import give_back

MIB = 1 << 20


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_free_memory_under_memory_in_use_is_given_back():
    blocks = [np.ones(64 << 10, np.uint8) for _ in range(1024)]  # too small to be mapped alone
    kept = blocks[-1]
    before = resident() if platform.system() == "Linux" else 0
    del blocks
    give_back()
    if platform.libc_ver()[0] == "glibc":
        assert resident() < before - 32 * MIB
    assert kept.all()
