"""Nested structures of lists, tuples and dicts; everything else, None included, is a leaf."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

MISSING = object()
"""What no structure holds."""


def leaves(structure: Any) -> Iterator[Any]:
    """The leaves from left to right; dicts in the order of their keys' insertion."""
    if isinstance(structure, dict):
        for item in structure.values():
            yield from leaves(item)
    elif isinstance(structure, list | tuple):
        for item in structure:
            yield from leaves(item)
    else:
        yield structure


def flatten(structure: Any) -> list[Any]:
    """The leaves as a list."""
    return list(leaves(structure))


def map_structure(function: Callable[[Any], Any], structure: Any) -> Any:
    """The same structure with `function` applied to every leaf."""
    if isinstance(structure, dict):
        return {key: map_structure(function, item) for key, item in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_structure(function, item) for item in structure))
    if isinstance(structure, list | tuple):
        return type(structure)(map_structure(function, item) for item in structure)
    return function(structure)


def pack_like(structure: Any, flat: list[Any]) -> Any:
    """The same structure with its leaves replaced by those of `flat`."""
    following = iter(flat)
    return map_structure(lambda _: next(following), structure)


def members(structure: Any, kind: type) -> list[Any]:
    """The objects of a kind in a nest of dicts, lists, tuples and sets."""
    if isinstance(structure, kind):
        return [structure]
    if isinstance(structure, dict):
        structure = structure.values()
    elif not isinstance(structure, list | tuple | set):
        return []
    return [found for item in structure for found in members(item, kind)]


def unique(items: Iterable[Any]) -> list[Any]:
    """The items without repetitions, by identity."""
    seen: set[int] = set()
    return [x for x in items if not (id(x) in seen or seen.add(id(x)))]  # type: ignore[func-returns-value]
