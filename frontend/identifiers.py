"""Objects by name: what `get`, `serialize` and `deserialize` of every family share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ..ir.errors import ArgumentError
from .naming import to_snake_case


@dataclass(frozen=True)
class Catalogue:
    """The objects of one family (losses, initializers, ...), found by their Keras names.

    Attributes
    ----------
    what : str
        The word that error messages use: `loss`.
    module : str
        Where Keras keeps the family; written into serialized objects.
    entries : dict
        Classes and functions by every name that `get` accepts.
    ignore_case : bool
        Whether names are compared in lower case, as Keras does for optimizers.
    """

    what: str
    module: str
    entries: dict[str, Any] = field(default_factory=dict)
    ignore_case: bool = False

    def add(self, *names: str) -> Callable[[Any], Any]:
        """A decorator: enter a class or function under its own name and these."""

        def enter(item: Any) -> Any:
            for name in (item.__name__, *names):
                self.entries[self._key(name)] = item
            if isinstance(item, type) and not self.ignore_case:
                # A function of that name comes first.
                self.entries.setdefault(self._key(to_snake_case(item.__name__)), item)
            return item

        return enter

    def alias(self, item: Any, names: Iterable[str]) -> None:
        """Enter one object under further names."""
        for name in names:
            self.entries[self._key(name)] = item

    def _key(self, name: str) -> str:
        return name.lower() if self.ignore_case else name

    def find(self, name: str, custom_objects: Mapping[str, Any] | None = None) -> Any:
        """The class or function of that name.

        Raises
        ------
        ArgumentError
            If there is none; the message lists the legal names.
        """
        if custom_objects and name in custom_objects:
            return custom_objects[name]
        found = self.entries.get(self._key(name))
        if found is None:
            near = get_close_matches(self._key(name), self.entries, n=1)
            raise ArgumentError(
                f"{self.what}: the name must be one of {', '.join(sorted(self.entries))}; "
                f"got {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else "",
            )
        return found

    def get(self, identifier: Any) -> Any:
        """An object from its name, its serialized form, its class or itself; None stays None."""
        if identifier is None:
            return None
        if isinstance(identifier, dict):
            return self.deserialize(identifier)
        item = self.find(identifier) if isinstance(identifier, str) else identifier
        if isinstance(item, type):
            return item()
        if callable(item):
            return item
        raise ArgumentError(
            f"{self.what}: must be a name, a callable or a serialized object, "
            f"got {identifier!r} of type {type(identifier).__name__}"
        )

    def serialize(self, item: Any) -> Any:
        """Keras' serialized form: a name for a function, a dict for an object, None for None."""
        if item is None:
            return None
        if not hasattr(item, "get_config"):
            return getattr(item, "__name__", type(item).__name__)
        ours = type(item) in self.entries.values()
        return {
            "module": self.module if ours else type(item).__module__,
            "class_name": type(item).__name__,
            "config": item.get_config(),
            "registered_name": None if ours else type(item).__name__,
        }

    def deserialize(self, config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
        """The object of a serialized form."""
        if not isinstance(config, dict):
            return self.get(self.find(config, custom_objects) if config else None)
        name, values = config.get("class_name"), config.get("config", {})
        if not isinstance(name, str):
            raise ArgumentError(
                f"{self.what}: a serialized object must have a class_name, got {config!r}"
            )
        if isinstance(values, str):  # a function, as Keras writes it in older files
            return self.find(values, custom_objects)
        return self.find(name, custom_objects).from_config(values)
