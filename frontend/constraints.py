"""Projections that a weight goes through after each optimizer step."""

from __future__ import annotations

from typing import Any

from . import ops
from .config import epsilon
from .identifiers import Catalogue

CATALOGUE = Catalogue("constraint", "keras.constraints")


class Constraint:
    """Base class: a callable from a weight to the weight that is kept."""

    def __call__(self, w: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Constraint:
        return cls(**config)


def _norm(w: Any, axis: Any) -> Any:
    return ops.sqrt(ops.sum(ops.square(w), axis=axis, keepdims=True))


@CATALOGUE.add()
class MaxNorm(Constraint):
    """Scale down what is longer than `max_value` along `axis`."""

    def __init__(self, max_value: float = 2, axis: Any = 0) -> None:
        self.max_value = max_value
        self.axis = axis

    def __call__(self, w: Any) -> Any:
        norms = _norm(w, self.axis)
        wanted = ops.clip(norms, 0, self.max_value)
        return ops.multiply(w, ops.divide(wanted, ops.add(norms, epsilon())))

    def get_config(self) -> dict[str, Any]:
        return {"max_value": self.max_value, "axis": self.axis}


@CATALOGUE.add()
class NonNeg(Constraint):
    """Negative weights become 0."""

    def __call__(self, w: Any) -> Any:
        return ops.maximum(w, ops.zeros_like(w))


@CATALOGUE.add()
class UnitNorm(Constraint):
    """Length 1 along `axis`."""

    def __init__(self, axis: Any = 0) -> None:
        self.axis = axis

    def __call__(self, w: Any) -> Any:
        return ops.divide(w, ops.add(_norm(w, self.axis), epsilon()))

    def get_config(self) -> dict[str, Any]:
        return {"axis": self.axis}


@CATALOGUE.add()
class MinMaxNorm(Constraint):
    """Move the length along `axis` into `[min_value, max_value]`, by the share `rate` a step."""

    def __init__(
        self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Any = 0
    ) -> None:
        self.min_value = min_value
        self.max_value = max_value
        self.rate = rate
        self.axis = axis

    def __call__(self, w: Any) -> Any:
        norms = _norm(w, self.axis)
        inside = ops.multiply(ops.clip(norms, self.min_value, self.max_value), self.rate)
        wanted = ops.add(inside, ops.multiply(norms, 1 - self.rate))
        return ops.multiply(w, ops.divide(wanted, ops.add(norms, epsilon())))

    def get_config(self) -> dict[str, Any]:
        return {
            "min_value": self.min_value, "max_value": self.max_value,
            "rate": self.rate, "axis": self.axis,
        }  # fmt: skip


max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm
get = CATALOGUE.get
serialize = CATALOGUE.serialize
deserialize = CATALOGUE.deserialize
