"""Passes that LLVM leaves out, and that setting this up leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest
import tvm
import tvm_ffi

from hornfels.codegen.tvm import emit, llvm_passes
from hornfels.codegen.tvm.build import source
from hornfels.codegen.tvm.entry import Address, Call
from hornfels.codegen.tvm.target import parse_target

PROGRAM = """
import os, tempfile
from hornfels.codegen.tvm import llvm_passes
before = os.listdir(tempfile.gettempdir())
llvm_passes.leave_out_passes()
assert os.listdir(tempfile.gettempdir()) == before
assert llvm_passes.tvm.get_global_func(llvm_passes._LINKER, allow_missing=True) is None
"""


def test_a_loop_that_fills_memory_is_not_made_a_call():
    out = emit.buffer("out", (1000,))
    zero = emit.constant(0.0, "float32")
    body = emit.serial(1000, lambda i: emit.store(out, (i,), zero))
    kernel = emit.kernel("fill", [out], body)
    calls = [Call("fill", (Address(0),))]
    assembly = source({"fill": kernel}, calls, parse_target(), "asm")
    assert "fill_kernel" in assembly
    assert "memset" not in assembly


def test_no_file_and_no_linker_is_left_behind():
    command = [sys.executable, "-P", "-c", PROGRAM]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(command, text=True, env=environment, capture_output=True)
    assert not done.returncode, done.stderr


def test_a_version_of_llvm_whose_options_are_unknown_gets_none(monkeypatch: pytest.MonkeyPatch):
    for flag in ("_done", "_is_set"):
        monkeypatch.setattr(llvm_passes, flag, False)
    monkeypatch.setattr(llvm_passes, "_options", lambda: pytest.fail("options set"))
    monkeypatch.setattr(llvm_passes, "_KNOWN", 0)
    llvm_passes.leave_out_passes()


def test_another_linker_stays():
    def link(*_: object) -> int:
        return 0

    tvm.register_global_func(llvm_passes._LINKER, link, override=True)
    with llvm_passes._linker():
        pass
    assert tvm.get_global_func(llvm_passes._LINKER)() == 0
    tvm_ffi.registry.remove_global_func(llvm_passes._LINKER)
