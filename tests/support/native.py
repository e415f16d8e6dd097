"""Compile one kernel and run it on NumPy arrays."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np

from hornfels.codegen.tvm import emit
from hornfels.codegen.tvm.build import build
from hornfels.codegen.tvm.emit import Buffer, PrimFunc, Stmt
from hornfels.codegen.tvm.entry import Address, Call
from hornfels.codegen.tvm.target import Machine, parse_target

TARGET = parse_target("cpu")

SMALL = replace(TARGET.machine, vector_bits=128, vector_registers=10, l2=16 << 10)
"""A machine of few registers: small shapes have many tiles there, and little code."""

GUARD = 64
"""Bytes before each array, and up to the next multiple of it behind, that no kernel may touch."""

_protect = ctypes.CDLL(None, use_errno=True).mprotect
_protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def aligned(array: np.ndarray) -> np.ndarray:
    """Copy an array to memory that begins at a multiple of 64 bytes, with guards around it.

    It ends where memory does: reading or writing what lies 64 bytes behind it is a fault.
    """
    taken = -(-array.nbytes // GUARD) * GUARD
    size = -(-(GUARD + taken) // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = np.frombuffer(mmap.mmap(-1, size + mmap.PAGESIZE), np.uint8)
    if _protect(pages.ctypes.data + size, mmap.PAGESIZE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    block = pages[:size]
    block[...] = 0xA5
    copy = block[size - taken :][: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    _blocks[id(copy)] = block
    weakref.finalize(copy, _blocks.pop, id(copy))
    return copy


_blocks: dict[int, np.ndarray] = {}  # by the array that lies in it


def guard_holds(array: np.ndarray) -> bool:
    """Whether the bytes around an array of `aligned` are as they were."""
    block = _blocks[id(array)]
    start = array.ctypes.data - block.ctypes.data
    return bool((block[:start] == 0xA5).all() and (block[start + array.nbytes :] == 0xA5).all())


def run_function(function: PrimFunc, arrays: Sequence[np.ndarray]) -> None:
    """Run a kernel on aligned arrays, with a workspace if it needs one; check the guards."""
    arrays = list(arrays)
    if emit.workspace_bytes(function):
        # NaN: what a kernel reads before it wrote it must not matter.
        arrays.append(aligned(np.full(emit.workspace_bytes(function), 0xFF, np.uint8)))
    call = Call("kernel", tuple(map(Address, range(len(arrays)))))
    build({"kernel": function}, [call], TARGET).run([array.ctypes.data for array in arrays])
    assert all(guard_holds(array) for array in arrays)


def run_template(
    template: Callable[..., Stmt],
    inputs: Sequence[np.ndarray],
    shape: Sequence[int],
    dtype: np.dtype | type | str,
    *,
    machine: Machine = TARGET.machine,
    **attributes: object,
) -> np.ndarray:
    """Run a template of `schedules` that stores one result of `shape` and `dtype`."""
    arrays = [aligned(array) for array in (*inputs, np.full(shape, 7, dtype))]
    buffers = [declare(f"p{index}", array) for index, array in enumerate(arrays)]
    body = template(*buffers, machine=machine, **attributes)
    run_function(emit.kernel("kernel", buffers, body), arrays)
    return arrays[-1]


def declare(name: str, array: np.ndarray) -> Buffer:
    """Declare the buffer that an array fills."""
    dtype = "uint16" if array.dtype == ml_dtypes.bfloat16 else str(array.dtype)
    return emit.buffer(name, array.shape, dtype)


def is_parallel(function: PrimFunc) -> bool:
    """Whether a kernel starts a parallel region."""
    return bool(function.attrs[emit.PARALLEL])
