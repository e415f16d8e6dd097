"""Files are written as a whole or not at all, and refusals name the file that was asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FileError


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the system's errors inside the block into one of ours about `path`."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise FileError(f"{os.fspath(path)} cannot be written: {reason}") from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to; what is there afterwards takes the place of `path`.

    Its folder is made if need be. If the block raises, `path` is as it was.

    Raises
    ------
    FileError
        If the system refuses.
    """
    target = Path(path)
    owner = f"{os.getpid()}.{threading.get_ident()}"
    part = target.with_name(f"{target.name}.{owner}.partial")
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
