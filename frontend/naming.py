"""Names: unique default names of layers and tensors, and the scopes that make variable paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_used: Counter[str] = Counter()
_scopes: ContextVar[tuple[str, ...]] = ContextVar("hornfels_name_scopes", default=())


def to_snake_case(name: str) -> str:
    """`BatchNormalization` -> `batch_normalization`, as Keras spells default names."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def auto_name(prefix: str) -> str:
    """The next free default name: `dense`, `dense_1`, `dense_2`."""
    prefix = to_snake_case(prefix)
    taken = _used[prefix]
    _used[prefix] += 1
    return f"{prefix}_{taken}" if taken else prefix


def reset_names() -> None:
    """Count default names from the start again."""
    _used.clear()


@contextmanager
def name_scope(name: str) -> Iterator[None]:
    """Variables made inside get `name/` before their path.

    >>> with name_scope("encoder"):
    ...     Variable(0.0, name="scale").path
    'encoder/scale'
    """
    token = _scopes.set((*_scopes.get(), name))
    try:
        yield
    finally:
        _scopes.reset(token)


def current_path() -> str:
    """The open scopes joined with `/`."""
    return "/".join(filter(None, _scopes.get()))
