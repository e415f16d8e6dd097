"""Penalties on weights that are added to the loss."""

from __future__ import annotations

import math
from typing import Any

from ..ir.errors import ArgumentError
from . import ops
from .identifiers import Catalogue

CATALOGUE = Catalogue("regularizer", "keras.regularizers")


class Regularizer:
    """Base class: a callable from a tensor to a scalar penalty."""

    def __call__(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Regularizer:
        return cls(**config)


def _factor(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentError(f"regularizer: {name} must be a number, got {value!r}")
    if value < 0 or not math.isfinite(value):
        raise ArgumentError(f"regularizer: {name} must be finite and >= 0, got {value!r}")
    return float(value)


@CATALOGUE.add("l1_l2", "l1l2")
class L1L2(Regularizer):
    """`l1 * sum(|x|) + l2 * sum(x^2)`.

    Parameters
    ----------
    l1, l2 : float, default 0
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1 = _factor("l1", 0.0 if l1 is None else l1)
        self.l2 = _factor("l2", 0.0 if l2 is None else l2)

    def __call__(self, x: Any) -> Any:
        terms = []
        if self.l1:
            terms.append(ops.multiply(ops.sum(ops.abs(x)), self.l1))
        if self.l2:
            terms.append(ops.multiply(ops.sum(ops.square(x)), self.l2))
        if not terms:
            return ops.sum(ops.zeros((), dtype=x.dtype))
        return terms[0] if len(terms) == 1 else ops.add(*terms)

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1, "l2": self.l2}


@CATALOGUE.add("l1")
class L1(L1L2):
    """`l1 * sum(|x|)`."""

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=0.01 if l1 is None else l1)

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1}


@CATALOGUE.add("l2")
class L2(L1L2):
    """`l2 * sum(x^2)`."""

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=0.01 if l2 is None else l2)

    def get_config(self) -> dict[str, Any]:
        return {"l2": self.l2}


l1, l2, l1_l2 = L1, L2, L1L2
get = CATALOGUE.get
serialize = CATALOGUE.serialize
deserialize = CATALOGUE.deserialize
