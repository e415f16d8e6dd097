"""The key of a compiled program: a digest of all that it is made from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np

from ..codegen.native.host import host_text
from ..ir import Graph
from ..ir.digest import digest
from ..ir.settings import current_settings
from .compile_cache import FORMAT

IRRELEVANT = frozenset({"debug", "dump", "contracts", "num_threads", "cache_dir", "cache_size"})
"""Settings on which programs do not depend; threads count as the target's."""

_ROOT = Path(__file__).parents[1]
_ROOMS = ("ir", "passes", "codegen", "runtime")  # what makes programs of graphs


def cache_key(graph: Graph, sizes: Mapping[str, int], target: str, **options: object) -> str:
    """The key of a graph's program.

    Parameters
    ----------
    graph : Graph
        As traced.
    sizes : mapping of str to int
        What its symbols stand for.
    target : str
        As the user gave it, with the number of threads.
    **options : object
        Of the backend; their `repr` counts.

    Returns
    -------
    str
        Hexadecimal digits. Keys are equal only for equal graphs (see `ir.digest`), sizes, targets
        on equal processors, settings, sources of this package, and versions of what it stands on.
    """
    settings = {k: v for k, v in asdict(current_settings()).items() if k not in IRRELEVANT}
    parts = (
        str(FORMAT), digest(graph), repr(sorted(sizes.items())), target, host_text(),
        repr(sorted((settings | options).items())), _sources(), _foundations(),
    )  # fmt: skip
    return blake2b("\n".join(parts).encode(), digest_size=32).hexdigest()


@cache
def _sources() -> str:
    """A digest of this package's own code, which may be edited without a change of version."""
    contents = blake2b(digest_size=32)
    for path in _source_files():
        code = path.read_bytes()
        contents.update(f"{path.relative_to(_ROOT).as_posix()} {len(code)}\n".encode() + code)
    return contents.hexdigest()


def _source_files() -> Iterator[Path]:
    for room in _ROOMS:
        yield from sorted(p for p in (_ROOT / room).rglob("*") if p.suffix in (".py", ".ll"))


@cache
def _foundations() -> str:
    """Versions of what makes code or folds constants; TVM's without importing it."""
    versions = [sys.version, np.__version__, ml_dtypes.__version__]
    for name in ("tvm", "tvm_ffi"):
        spec = find_spec(name)
        folders = spec.submodule_search_locations if spec else None
        for folder in folders or ():
            versions += [_version(Path(folder))]
    return " ".join(versions)


def _version(folder: Path) -> str:
    """What tells one installation of a package from another: its libraries."""
    found = [(path.name, path.stat()) for path in sorted((folder / "lib").glob("*.so"))]
    return repr([(name, about.st_size, about.st_mtime_ns) for name, about in found])
