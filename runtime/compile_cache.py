"""The compile cache: native programs on disk, which a later process loads instead of compiling.

A file holds one program, whose key is its name. The key is a digest of all that the program is
made from (see `cache_key`), so a program is never out of date: what changes gets another key, and
what is not used any more is removed in time.

A file, in this order:

===================  ===========================================================================
``hornfels 2\\n``     what it is, and the version of this format
64 digits, ``\\n``    BLAKE2b of all that follows; a file that it does not fit is never executed
JSON, ``\\n``         ``key``; ``pointers``, ``threads``: see `NativeCode`; ``arena`` and
                     ``prepared`` in bytes; ``objects``: their sizes; ``constants``: pairs of
                     dtype and shape
bytes                the object files, then the constants, one after another
===================  ===========================================================================

Files are written under another name and then renamed, so that processes may share the folder
without waiting for each other: at worst, two compile the same at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path

import numpy as np

from ..codegen.native.program import NativeCode
from ..ir.errors import FileError
from ..ir.files import replacing
from ..ir.settings import Settings, current_settings
from ..ir.types import as_dtype

FORMAT = 2
SUFFIX = ".program"
_MAGIC = f"hornfels {FORMAT}\n".encode()
_DIGITS = 64
_PARTIAL_SECONDS = 3600.0  # what is not finished by then was left by a process that ended

_log = logging.getLogger("hornfels.cache")
_told: set[str] = set()


@dataclass(frozen=True, eq=False)
class Compilation:
    """What compiling a graph gives: all that running it needs but for the graph's parameters.

    Attributes
    ----------
    code : NativeCode
        Its table of pointers holds the arena, the inputs, the state, the outputs, the constants
        and what is prepared, in this order.
    arena_bytes : int
        Memory for values in between and for kernels.
    constants : tuple of ndarray
    prepared_bytes : int
        Memory for what a run computes of weights alone and later runs read; 0 if there is nothing.
        The first byte says whether a run computes it.
    """

    code: NativeCode
    arena_bytes: int
    constants: tuple[np.ndarray, ...]
    prepared_bytes: int = 0


@dataclass(frozen=True)
class Entry:
    """A file of the cache."""

    path: Path
    nbytes: int
    used: float
    """When it was last read or written, in seconds since 1970."""


class CompileCache:
    """A folder of programs.

    Nothing here raises because of the file system: a cache that cannot be read holds nothing,
    and one that cannot be written stays as it is; a log line says so once.

    Parameters
    ----------
    folder : Path
        Made when something is first put there.
    most_bytes : int
        When there is more, the programs that were not used for the longest time are removed.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes

    def get(self, key: str) -> Compilation | None:
        """The program of that key, unless it is not there or is damaged (then it is removed)."""
        path = self._path(key)
        try:
            contents = _read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._tell("cannot be read", error)
            return None
        found = _decode(key, contents)
        with contextlib.suppress(OSError):  # what lies in a read-only folder is used all the same
            os.utime(path) if found else path.unlink()
        if found is None:
            _log.info("%s is damaged and will be compiled again", path)
        return found

    def put(self, key: str, program: Compilation) -> None:
        """Keep a program, and remove others if there are too many then."""
        contents = _encode(key, program)
        if len(contents) > self.most_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(self._path(key)) as part:
                part.touch(mode=0o600)
                part.write_bytes(contents)
            self._evict()
        except (FileError, OSError) as error:
            self._tell("cannot be written", error)

    def entries(self) -> list[Entry]:
        """All programs, those used last first."""
        found = [entry for entry in self._files() if entry.path.suffix == SUFFIX]
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Remove all programs; returns how many there were."""
        entries = self.entries()
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        return len(entries)

    def _tell(self, what: str, error: OSError) -> None:
        """Log a problem once: it costs time, not results."""
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        problem = f"compile cache {self.folder} {what}: {cause.strerror or cause}"
        if problem not in _told:
            _told.add(problem)
            _log.warning(problem)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _files(self) -> Iterator[Entry]:
        try:
            with os.scandir(self.folder) as files:
                for file in files:
                    try:
                        about = file.stat()
                    except FileNotFoundError:  # another process was faster
                        continue
                    yield Entry(Path(file.path), about.st_size, about.st_mtime)
        except (FileNotFoundError, NotADirectoryError):
            return

    def _evict(self) -> None:
        """Remove what was used the longest time ago, and what writers have left behind."""
        kept = 0
        for entry in self.entries():
            kept += entry.nbytes
            if kept > self.most_bytes:
                entry.path.unlink(missing_ok=True)
        now = time.time()
        for entry in self._files():
            if entry.path.suffix == ".partial" and now - entry.used > _PARTIAL_SECONDS:
                entry.path.unlink(missing_ok=True)


def folder_of(settings: Settings) -> Path:
    """The folder that settings name, else `hornfels` in the user's cache folder."""
    if settings.cache_dir:
        return Path(settings.cache_dir)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "hornfels"


def current_cache() -> CompileCache | None:
    """The cache for what is compiled now.

    None if there shall be none, and where settings ask to see or check how a program is made.
    """
    settings = current_settings()
    watched = settings.debug or settings.dump or settings.contracts
    if watched or not settings.cache_size:
        return None
    return CompileCache(folder_of(settings), settings.cache_size)


# --- files -----------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    """The contents of a file; code that somebody else could have put there is not executed."""
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        if about.st_uid not in (0, os.geteuid()) or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError("others may write it")
        return file.read()


def _encode(key: str, program: Compilation) -> bytes:
    code, constants = program.code, program.constants
    header = {
        "key": key, "pointers": code.pointers, "threads": code.threads,
        "arena": program.arena_bytes, "prepared": program.prepared_bytes,
        "objects": [len(each) for each in code.objects],
        "constants": [(as_dtype(array.dtype).name, array.shape) for array in constants],
    }  # fmt: skip
    arrays = [np.ascontiguousarray(array).tobytes() for array in constants]
    rest = b"".join([json.dumps(header).encode(), b"\n", *code.objects, *arrays])
    return _head(rest) + rest


def _decode(key: str, contents: bytes) -> Compilation | None:
    """The program in a file, or None if the file is not whole or of another key."""
    start = len(_MAGIC) + _DIGITS + 1
    if contents[:start] != _head(memoryview(contents)[start:]):
        return None
    end = contents.index(b"\n", start)
    header = json.loads(contents[start:end])
    if header["key"] != key:
        return None
    parts = _Parts(contents, end + 1)
    objects = tuple(bytes(parts.take(nbytes)) for nbytes in header["objects"])
    constants = tuple(parts.array(*each) for each in header["constants"])
    code = NativeCode(objects, header["pointers"], header["threads"])
    return Compilation(code, header["arena"], constants, header["prepared"])


class _Parts:
    """Cuts bytes in pieces."""

    def __init__(self, contents: bytes, start: int) -> None:
        self._rest = memoryview(contents)[start:]

    def take(self, nbytes: int) -> memoryview:
        taken, self._rest = self._rest[:nbytes], self._rest[nbytes:]
        return taken

    def array(self, dtype: str, shape: Sequence[int]) -> np.ndarray:
        kind = as_dtype(dtype).numpy
        return np.frombuffer(self.take(prod(shape) * kind.itemsize), kind).reshape(shape)


def _head(rest: bytes | memoryview) -> bytes:
    """The first two lines of a file, by what follows them."""
    checksum = blake2b(rest, digest_size=_DIGITS // 2).hexdigest()
    return b"".join([_MAGIC, checksum.encode(), b"\n"])
