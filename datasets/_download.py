"""Files that are fetched once into the Keras cache folder and checked on every use."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from ..ir.errors import HornfelsError

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30


class DatasetError(HornfelsError, OSError):
    """A data set's file is missing and could not be fetched, or is not the published one."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file: where it comes from, what it must be, and where it is kept.

    Parameters
    ----------
    url
        Address of the file; `http`, `https` or `file`.
    sha256
        SHA-256 of the file's bytes, in hexadecimal digits.
    path
        Where to keep it, relative to the data set folder; an absolute path stands for itself.
    other_names
        Further names in the same folder under which Keras may have stored the same file.
    """

    url: str
    sha256: str
    path: str
    other_names: tuple[str, ...] = ()


def dataset_folder() -> Path:
    """The folder that Keras keeps data sets in: `$KERAS_HOME/datasets` or `~/.keras/datasets`."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "datasets"


def fetch(remote: RemoteFile) -> Path:
    """Return the path of a local copy of `remote`, downloading it if there is none.

    The SHA-256 is checked on every call. A download goes to a temporary file in the same folder,
    which takes the final name only when it is complete and right.

    Raises
    ------
    DatasetError
        The file could not be downloaded, or its SHA-256 is another.
    """
    target = dataset_folder() / remote.path
    found = None
    for candidate in (target, *(target.with_name(name) for name in remote.other_names)):
        if not candidate.is_file():
            continue
        if _sha256_of(candidate) == remote.sha256:
            return candidate
        found = candidate
    try:
        _download(remote, target)
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        state = f"{found} is not the published file" if found else f"{target} does not exist"
        raise DatasetError(
            f"datasets: {state}, and downloading {remote.url} failed: {_reason(error)}",
            hint=f"fetch {remote.url} on a machine that can reach it, "
            f"check that its SHA-256 is {remote.sha256}, and put it at {target}",
        ) from error
    return target


def _reason(error: Exception) -> str:
    """What went wrong, without the wrapping that urllib and our own class add."""
    if isinstance(error, DatasetError):
        return error.message
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        error = error.reason if isinstance(error.reason, Exception) else error
    return f"{type(error).__name__}: {error}"


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(remote: RemoteFile, target: Path) -> None:
    """Write `target` in one step, or leave everything as it was and raise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    part = Path(name)
    try:
        with open(descriptor, "wb") as file:
            digest = _copy(remote, file)
        if digest != remote.sha256:
            raise DatasetError(f"its SHA-256 is {digest}, expected {remote.sha256}")
        part.chmod(0o644)  # mkstemp's own mode hides the file from the other users of the cache
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _copy(remote: RemoteFile, file: BinaryIO) -> str:
    """Copy the remote bytes into `file` and return their SHA-256."""
    digest = hashlib.sha256()
    console = Console(stderr=True)
    with urllib.request.urlopen(remote.url, timeout=_TIMEOUT_SECONDS) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        if not console.is_terminal:
            console.print(f"Downloading {remote.url}", soft_wrap=True)
        columns = (
            "Downloading {task.description}",
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(Path(remote.path).name, total=total)
            received = 0
            while chunk := response.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
                received += len(chunk)
                progress.update(task, completed=received)
    if total is not None and received < total:
        raise DatasetError(f"the connection ended after {received} of {total} bytes")
    return digest.hexdigest()
