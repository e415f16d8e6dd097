"""DTypePolicy: in which dtype a layer keeps its weights and in which it computes."""

from __future__ import annotations

from typing import Any

from ..ir.errors import DTypeError
from ..ir.types import as_dtype, keras_name
from . import config

_MIXED = {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}


class DTypePolicy:
    """One dtype for everything, or float32 weights with computation in 16 bits.

    Parameters
    ----------
    name : str
        A dtype, or `mixed_float16` or `mixed_bfloat16`.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise DTypeError(f"DTypePolicy: name must be a string, got {name!r}")
        self.name = name
        if name in _MIXED:
            self.compute_dtype, self.variable_dtype = _MIXED[name], "float32"
        else:
            self.compute_dtype = self.variable_dtype = keras_name(as_dtype(name))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DTypePolicy:
        return cls(**config)

    def serialized(self) -> dict[str, Any]:
        """The policy as Keras writes it into configurations."""
        return {
            "module": "keras",
            "class_name": "DTypePolicy",
            "config": self.get_config(),
            "registered_name": None,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DTypePolicy) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<DTypePolicy {self.name!r}>"


_default: list[DTypePolicy] = []


def dtype_policy() -> DTypePolicy:
    """The policy of layers that name none."""
    return _default[0] if _default else DTypePolicy(config.floatx())


def set_dtype_policy(policy: Any) -> None:
    """Set the policy of layers that name none: a name such as `mixed_bfloat16`.

    None goes back to the dtype that `hornfels.config.floatx` names.
    """
    _default[:] = [] if policy is None else [get(policy)]


def get(identifier: Any) -> DTypePolicy:
    """A policy given as one, by name, as a dtype, or as a configuration; None is the default."""
    if identifier is None:
        return dtype_policy()
    if isinstance(identifier, DTypePolicy):
        return identifier
    if isinstance(identifier, dict):
        return DTypePolicy(identifier["config"]["name"])
    if isinstance(identifier, str) and identifier in _MIXED:
        return DTypePolicy(identifier)
    return DTypePolicy(keras_name(as_dtype(identifier)))
