"""TVM is imported without what it brings along, and others find it whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import json, os, sys
from pathlib import Path
from hornfels.codegen.native.tvm_ahead import load_libraries

def mapped():
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[-1] for line in lines if "libtvm" in line})

load_libraries()
ahead = [mapped(), "tvm" in sys.modules]
import hornfels.codegen.tvm
ahead.append(mapped())
import tvm, tvm.backend
lean = [name in sys.modules for name in ("tvm.relax", "torch")]
finders = [type(finder).__name__ for finder in sys.meta_path]
try:
    tvm.no_such_thing
except AttributeError as error:
    refusal = str(error)
devices = [tvm.backend.is_loaded("cuda")]
name = tvm.relax.__name__
devices += [tvm.backend.is_loaded("cuda"), os.environ.get("TVM_DEVICE_BACKEND_AUTOLOAD")]
print(json.dumps([lean, finders, name, hasattr(tvm.relax, "Function"), devices, refusal, ahead]))
"""


def test_neither_relax_nor_torch_is_imported_until_somebody_asks():
    """And libraries that were loaded ahead are those that TVM loads."""
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True,
                          env=os.environ, check=True)  # fmt: skip
    lean, finders, name, is_whole, devices, refusal, ahead = json.loads(done.stdout)
    libraries, was_imported, libraries_of_tvm = ahead
    names = [path.rpartition("/")[2] for path in libraries]
    assert set(names) == {"libtvm_ffi.so", "libtvm_runtime.so", "libtvm_compiler.so"}
    assert not was_imported
    assert set(libraries) <= set(libraries_of_tvm)
    assert len(libraries_of_tvm) == len({path.rpartition("/")[2] for path in libraries_of_tvm})
    assert lean == [False, False]
    assert "_Without" not in finders
    assert name == "tvm.relax"
    assert is_whole
    assert devices == [False, True, None]
    assert refusal == "module 'tvm' has no attribute 'no_such_thing'"


WAITING = """
import sys, threading
from hornfels.codegen.native import tvm_ahead

begun, go = threading.Event(), threading.Event()
load = tvm_ahead._load

def slowly():
    begun.set()
    go.wait(60)
    seen.append([name for name in ("tvm_ffi", "tvm") if name in sys.modules])
    load()

seen, tvm_ahead._load = [], slowly
threading.Thread(target=tvm_ahead.load_libraries).start()
begun.wait(60)
threading.Timer(0.3, go.set).start()
import hornfels.codegen.tvm
print(seen[0], "tvm" in sys.modules)
"""


def test_who_imports_tvm_waits_until_its_libraries_are_loaded():
    """TVM's tables are not guarded against two threads that register something."""
    done = subprocess.run([sys.executable, "-P", "-c", WAITING], capture_output=True, text=True,
                          env=os.environ, check=True)  # fmt: skip
    assert done.stdout.split("\n")[0] == "[] True"
