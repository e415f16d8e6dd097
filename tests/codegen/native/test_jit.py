"""Linking in memory, wherever there is room in it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FRAGMENTED = """
import ctypes, mmap
import numpy as np
import tvm, llvmlite.binding  # what they take is not between the blocks
import hornfels

def block(size):  # that takes addresses and no memory
    NORESERVE = 0x4000
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)

def address(block):
    return ctypes.addressof(ctypes.c_char.from_buffer(block))

layers = hornfels.layers
model = hornfels.Sequential([layers.Input((33,)), layers.Dense(65, "gelu"), layers.Dense(1)])
holes = [block(4096) for _ in range(200)]
far = [block(3 << 30) for _ in range(3)]
filled = [block(16384)]
while address(filled[-1]) > min(map(address, far)):
    filled.append(block(16384))
for hole in holes[::2]:  # room for constants, and none for code beside them
    hole.close()
print(hornfels.compile(model).predict_on_batch(np.zeros((4, 33), np.float32)).tolist())
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="Linux' mmap is told what to reserve")
def test_an_object_is_loaded_where_free_memory_lies_far_apart():
    done = subprocess.run(
        [sys.executable, "-c", FRAGMENTED],
        capture_output=True,
        text=True,
        env={**os.environ, "HORNFELS_CACHE_SIZE": "0"},
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout == "[[0.0], [0.0], [0.0], [0.0]]\n"
