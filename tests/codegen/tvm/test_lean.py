"""TVM is imported without what it brings along, and others find it whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import json, os, sys
from pathlib import Path
from hornfels.runtime.tvm_ahead import load_libraries

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
