"""Optimizers: Keras' names, arguments, defaults and order of variables."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ArgumentError
from . import schedules
from .adam import Adam, AdamW
from .optimizer import CATALOGUE, Optimizer
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = [
    "SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "schedules",
    "deserialize", "get", "serialize",
]  # fmt: skip


def get(identifier: Any) -> Optimizer:
    """An optimizer from its name, its config, its class or itself.

    Raises
    ------
    ArgumentError
        If it is none; the message lists the legal names.
    """
    found = identifier if isinstance(identifier, Optimizer) else CATALOGUE.get(identifier)
    if not isinstance(found, Optimizer):
        raise ArgumentError(
            f"optimizer: must be a name, an Optimizer or a serialized one, got {identifier!r}"
        )
    return found


serialize = CATALOGUE.serialize
deserialize = CATALOGUE.deserialize
