"""Who may import whom: the rooms of the package, checked on every import statement.

Ruff's banned-api rule knows names but not folders; this test knows both, and it tells an import
at the top of a file from one inside a function.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("frontend", "ir", "passes", "codegen", "runtime", "fuzz", "datasets")

# A room may import itself and these. The face (`__init__`, `__main__`, files beside them) may
# import all.
MAY_IMPORT = {
    "ir": set(),
    "passes": {"ir"},
    "codegen": {"ir", "passes"},
    "runtime": {"ir", "passes", "codegen", "benchmarks"},
    "fuzz": {"ir", "passes", "runtime"},
    "frontend": {"ir"},
    "datasets": {"ir"},  # for the base of its errors
}

# The edge: a model's `compile` and `fit` reach the runtime from inside a function, never at
# import time.
MAY_IMPORT_INSIDE_FUNCTIONS = {"frontend": {"runtime"}}

# `hornfels bench` starts the engines of benchmarks/, which use the package as its users do.
OUTSIDE_THE_RULE = {"benchmarks"}

# Settings and errors of the whole package, which hold nothing of a room.
SHARED_MODULES = {"settings"}

# Packages of others, and the only places that may import them.
FENCED = {
    "tvm": ("codegen/tvm/*", "runtime/tvm*.py"),
    "tvm_ffi": ("codegen/tvm/*", "runtime/tvm*.py"),
    "llvmlite": ("codegen/native/*",),
    "onnx": ("codegen/onnx/*", "runtime/onnx*.py"),
    "onnxruntime": ("codegen/onnx/*", "runtime/onnx*.py", "demo.py"),
}
ALLOWED_IN_IR = {"numpy", "ml_dtypes"}
OURS_BY_NAME = {"hornfels", *ROOMS}
NEVER = {"torch", "jax", "tensorflow", "sklearn"}


@dataclass(frozen=True)
class Import:
    """One imported module: `target` is dotted from the root for ours, the full name for others."""

    target: str
    ours: bool
    line: int
    in_function: bool
    typing_only: bool


def imports_of(source: str, file: PurePosixPath) -> Iterator[Import]:
    """Every module that `source`, standing at `file` below the root, imports."""
    package = list(file.parent.parts)

    def visit(node: ast.AST, in_function: bool, typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, False, node.lineno, in_function, typing_only)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield Import(node.module or "", False, node.lineno, in_function, typing_only)
                return
            base = package[: len(package) - (node.level - 1)]
            module = [*base, *(node.module.split(".") if node.module else [])]
            # `from .. import ir` names a module in its alias, `from ..ir import x` in its path.
            for target in [module] if module else [[alias.name] for alias in node.names]:
                yield Import(".".join(target), True, node.lineno, in_function, typing_only)
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, in_function or inside, typing_only or guarded)

    yield from visit(ast.parse(source), False, False)


def violations(source: str, file: PurePosixPath) -> list[str]:
    """What `source` imports against the rule, one line each."""
    room = file.parts[0] if len(file.parts) > 1 else None
    found = []
    for item in imports_of(source, file):
        top = item.target.split(".")[0]
        reason = None
        if item.ours:
            reason = _reason_against_ours(room, top, item)
        elif top in OURS_BY_NAME:
            reason = "inside the package imports are relative"
        elif top in NEVER:
            reason = "is no dependency"
        elif top in FENCED and not any(_covers(pattern, file) for pattern in FENCED[top]):
            reason = f"belongs to {' and '.join(FENCED[top])} only"
        elif room == "ir" and top not in ALLOWED_IN_IR and top not in sys.stdlib_module_names:
            reason = "ir/ needs NumPy and ml_dtypes alone"
        if reason:
            found.append(f"{file}:{item.line}: imports {item.target}: {reason}")
    return found


def _covers(pattern: str, file: PurePosixPath) -> bool:
    """`folder/*` covers all below the folder, another pattern a file of that name."""
    folder = pattern.removesuffix("/*")
    return file.is_relative_to(folder) if folder != pattern else file.match(pattern)


def _reason_against_ours(room: str | None, top: str, item: Import) -> str | None:
    if room is None or top == room or top in SHARED_MODULES:
        return None
    if top not in (*ROOMS, *OUTSIDE_THE_RULE):
        return f"{room}/ reaches the face of the package"
    if top in MAY_IMPORT[room] or item.typing_only:
        return None
    if item.in_function and top in MAY_IMPORT_INSIDE_FUNCTIONS.get(room, ()):
        return None
    return f"{room}/ may import {', '.join(sorted(MAY_IMPORT[room])) or 'nothing of ours'}"


def package_files() -> list[Path]:
    face = sorted(ROOT.glob("*.py"))
    return face + sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))


def test_the_tree_keeps_the_rule():
    files = package_files()
    assert len(files) > len(ROOMS)
    found = []
    for path in files:
        relative = PurePosixPath(path.relative_to(ROOT).as_posix())
        found += violations(path.read_text(), relative)
    assert found == []


def test_every_room_has_a_rule():
    assert set(MAY_IMPORT) == set(ROOMS)


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("ir/graph.py", "from ..passes import cse", "may import nothing of ours"),
        ("ir/graph.py", "from .. import codegen", "may import nothing of ours"),
        ("ir/ops/conv.py", "import scipy.signal", "NumPy and ml_dtypes alone"),
        ("ir/ops/conv.py", "import tvm", "belongs to codegen/tvm"),
        ("passes/cse.py", "def f():\n    from ..runtime import session", "may import ir"),
        ("passes/cse.py", "import ir.graph", "imports are relative"),
        ("codegen/tvm/lower.py", "import onnx", "belongs to codegen/onnx"),
        ("codegen/onnx/lower.py", "from tvm import te", "belongs to codegen/tvm"),
        ("codegen/native/jit.py", "import tvm", "belongs to codegen/tvm"),
        ("codegen/tvm/build.py", "import llvmlite", "belongs to codegen/native"),
        ("codegen/tvm/lower.py", "from ...frontend import layers", "may import ir, passes"),
        ("frontend/models.py", "from ..runtime import session", "may import ir"),
        ("frontend/layers/core.py", "from ...codegen import tvm", "may import ir"),
        ("runtime/session.py", "import tvm_ffi", "belongs to codegen/tvm"),
        ("runtime/session.py", "from .. import compile", "reaches the face"),
        ("runtime/session.py", "import hornfels", "imports are relative"),
        ("datasets/digits.py", "import sklearn", "is no dependency"),
    ],
)
def test_a_breach_is_seen(file, source, message):
    (found,) = violations(source, PurePosixPath(file))
    assert message in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("ir/ops/conv.py", "import numpy as np\nimport math\nfrom ..types import f32"),
        ("passes/cse.py", "from ..ir import Graph\nfrom .pipeline import run"),
        ("codegen/tvm/schedules/conv.py", "from tvm import te\nfrom ....ir import Graph"),
        ("runtime/tvm_device.py", "import tvm_ffi\nfrom ..codegen.tvm import lower"),
        ("frontend/models.py", "def fit(self):\n    from ..runtime import training"),
        ("__main__.py", "from .runtime import bench\nfrom . import datasets"),
    ],
)
def test_a_lawful_import_passes(file, source):
    assert violations(source, PurePosixPath(file)) == []
