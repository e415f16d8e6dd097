"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any, Unpack

from ...ir.errors import ArgumentError
from ...ir.graph import Value
from ..variable import Variable
from .optimizer import CATALOGUE, Optimizer, Options, Slots, State


@CATALOGUE.add()
class SGD(Optimizer):
    """Gradient descent, with momentum if it is not 0.

    `w -= lr * g`; or `m = momentum * m - lr * g` and `w += m`;
    or, with `nesterov`, `w += momentum * m - lr * g`.

    Parameters
    ----------
    learning_rate : float
    momentum : float
        In [0, 1].
    nesterov : bool
    **options
        See `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, **options)
        if not isinstance(momentum, int | float) or not 0 <= momentum <= 1:
            raise ArgumentError(f"SGD: momentum must be a number in [0, 1], got {momentum!r}")
        self.momentum = momentum
        self.nesterov = nesterov

    def init_single(self, parameter: Variable) -> Slots:
        return ({"momentum": "zeros"},) if self.momentum else ()

    def update(
        self, gradient: Value, parameter: Value, state: State, learning_rate: Value
    ) -> tuple[Value, State]:
        step = gradient * learning_rate
        if not self.momentum:
            return parameter - step, {}
        m = state["momentum"] * self.momentum - step
        move = m * self.momentum - step if self.nesterov else m
        return parameter + move, {"momentum": m}

    def get_config(self) -> dict[str, Any]:
        own = {"momentum": self.momentum, "nesterov": self.nesterov}
        return {**super().get_config(), **own}
