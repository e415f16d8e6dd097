"""`hornfels cache`: what the compile cache holds, and emptying it."""

from __future__ import annotations

import argparse
import time

from ..ir.errors import FileError
from ..ir.settings import current_settings
from .compile_cache import CompileCache, folder_of

_UNITS = ("bytes", "KiB", "MiB", "GiB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hornfels cache`."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=("show", "clear"),
        default="show",
        help="say where it is and what it holds (default), or empty it",
    )


def run(arguments: argparse.Namespace) -> None:
    """Show or clear the cache that the settings name."""
    settings = current_settings()
    cache = CompileCache(folder_of(settings), settings.cache_size)
    if arguments.action == "clear":
        try:
            count = cache.clear()
        except OSError as error:
            raise FileError(f"{cache.folder} cannot be emptied: {error.strerror}") from error
        print(f"removed {count} programs from {cache.folder}")
        return
    print("\n".join(_lines(cache)))


def _lines(cache: CompileCache) -> list[str]:
    entries = cache.entries()
    total = sum(entry.nbytes for entry in entries)
    most = _size(cache.most_bytes) if cache.most_bytes else "0: nothing is kept"
    lines = [
        f"folder   {cache.folder}",
        f"programs {len(entries)}",
        f"size     {_size(total)} of at most {most}",
    ]
    if entries:
        lines.append(f"used     {_ago(entries[0].used)} to {_ago(entries[-1].used)} ago")
    return lines


def _size(nbytes: int) -> str:
    number, unit = float(nbytes), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.4g} {_UNITS[unit]}"


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
