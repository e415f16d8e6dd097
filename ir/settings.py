"""All settings, in one place: how they are named, where they come from, what they may be.

A setting comes from `with settings(...)`, else from the environment, else its default:

======================  ========================  ==============================================
environment             `settings(...)`           meaning
======================  ========================  ==============================================
HORNFELS_DEBUG          debug="passes,memory"     topics to report on stderr, see `TOPICS`
HORNFELS_DUMP           dump="folder"             write graphs after each pass, one folder a graph
HORNFELS_PASSES         passes="cse,fold"         run these passes instead of the whole pipeline;
                                                  `none` for no pass
HORNFELS_STOP_AFTER     stop_after="cse"          end the pipeline after the pass of that name, or
                                                  of that place: `03_fold`
HORNFELS_REWRITE_LIMIT  rewrite_limit=12          make at most so many rewrites in the pipeline
HORNFELS_CONTRACTS      contracts=True            check all that each pass promises and every plan,
                                                  see `passes/contracts.py`
HORNFELS_NUM_THREADS    num_threads=4             threads of native code; without it, the cores
                                                  that the process may use
HORNFELS_DENORMALS      denormals="keep"          what native code makes of numbers too small for
                                                  the normal form: `flush` (zero, as fast as any
                                                  other number; the default) or `keep`
HORNFELS_CACHE_DIR      cache_dir="folder"        where compiled programs are kept for later use,
                                                  by default `hornfels` in the user's cache folder
HORNFELS_CACHE_SIZE     cache_size="512M"         most bytes in that folder (K, M and G are powers
                                                  of 1024), 1G by default; 0 to keep nothing
HORNFELS_WINOGRAD       winograd=False            whether convolutions may save products by minimal
                                                  filtering, whose rounding error is up to 4 times
                                                  that of the plain sum (they may by default)
HORNFELS_WORKER         worker=3                  index of this process among those that train
                                                  together; its random numbers are its own
======================  ========================  ==============================================

`hornfels bisect` finds with them the pass and the rewrite that break a graph.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

from .errors import ArgumentError

TOPICS = {
    "passes": "nodes before and after each pass, and its time",
    "rules": "how often each rewrite rule fired, and why it was refused",
    "kernels": "the kernels of a plan",
    "memory": "the memory plan: slots, arena, copies",
}

_PREFIX = "HORNFELS_"


@dataclass(frozen=True)
class Settings:
    """The values of all settings; see the module's text."""

    debug: frozenset[str] = frozenset()
    dump: str = ""
    passes: str = ""
    stop_after: str = ""
    rewrite_limit: int | None = None
    contracts: bool = False
    num_threads: int | None = None
    denormals: str = "flush"
    cache_dir: str = ""
    cache_size: int = 1 << 30
    winograd: bool = True
    worker: int = 0


_overrides: ContextVar[Settings | None] = ContextVar("hornfels_settings", default=None)


def current_settings() -> Settings:
    """The settings in force."""
    return _overrides.get() or _read(os.environ)


@contextmanager
def settings(**changes: object) -> Iterator[Settings]:
    """Change settings inside a `with` block.

    >>> with settings(debug="passes,rules", dump="/tmp/ir"):
    ...     model.fit(x, y)

    Raises
    ------
    ArgumentError
        If a name or a value is not a legal one.
    """
    legal = [f.name for f in fields(Settings)]
    for name in changes:
        if name not in legal:
            raise ArgumentError(f"settings: {name!r} is no setting; there are {', '.join(legal)}")
    parsed = {name: _PARSERS[name](name, value) for name, value in changes.items()}
    token = _overrides.set(replace(current_settings(), **parsed))  # type: ignore[arg-type]
    try:
        yield current_settings()
    finally:
        _overrides.reset(token)


def report(topic: str, *texts: object) -> None:
    """Print debug texts on stderr if their topic is asked for; only then `str` makes them."""
    assert topic in TOPICS, topic
    if topic in current_settings().debug:
        for line in "\n".join(map(str, texts)).splitlines():
            print(f"[{topic}] {line}", file=sys.stderr)


def _read(environment: Mapping[str, str]) -> Settings:
    found: dict[str, object] = {}
    for key, text in environment.items():
        name = key.removeprefix(_PREFIX).lower()
        if not key.startswith(_PREFIX) or not text:
            continue
        if name not in _PARSERS:
            legal = ", ".join(f"{_PREFIX}{each.upper()}" for each in _PARSERS)
            raise ArgumentError(f"{key} is no setting; there are {legal}")
        found[name] = _PARSERS[name](key, text)
    return Settings(**found)  # type: ignore[arg-type]


def _topics(name: str, value: object) -> frozenset[str]:
    words = value.split(",") if isinstance(value, str) else list(value)  # type: ignore[call-overload]
    topics = frozenset(word.strip() for word in words if word.strip())
    for topic in sorted(topics - TOPICS.keys()):
        raise ArgumentError(f"{name}: {topic!r} is no topic; there are {', '.join(TOPICS)}")
    return topics


def _text(name: str, value: object) -> str:
    return str(value)


def _number(name: str, value: object, what: str, least: int) -> int | None:
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise ArgumentError(f"{name}: must be a number of {what}, {least} or more, got {value!r}")
    return number


def _rewrites(name: str, value: object) -> int | None:
    return _number(name, value, "rewrites", 0)


def _threads(name: str, value: object) -> int | None:
    return _number(name, value, "threads", 1)


def _denormals(name: str, value: object) -> str:
    if value not in ("flush", "keep"):
        raise ArgumentError(f"{name}: must be flush or keep, got {value!r}")
    return str(value)


def _bytes(name: str, value: object) -> int:
    """A number of bytes, as a number or in words such as `512M`."""
    found = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
    if not found:
        raise ArgumentError(f"{name}: must be a number of bytes such as 512M, got {value!r}")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2].upper()]


def _worker(name: str, value: object) -> int:
    number = _number(name, value, "a worker", 0)
    if number is None or number >= 1 << 15:
        raise ArgumentError(f"{name}: must be less than {1 << 15}, got {value!r}")
    return number


def _flag(name: str, value: object) -> bool:
    words = {"1": True, "true": True, "0": False, "false": False}
    found = words.get(str(value).lower())
    if found is None:
        raise ArgumentError(f"{name}: must be 1 or 0, got {value!r}")
    return found


_PARSERS = {
    "debug": _topics, "dump": _text, "passes": _text, "stop_after": _text,
    "rewrite_limit": _rewrites, "contracts": _flag, "num_threads": _threads,
    "denormals": _denormals, "cache_dir": _text, "cache_size": _bytes, "winograd": _flag,
    "worker": _worker,
}  # fmt: skip
