"""RMSprop."""

from __future__ import annotations

from typing import Any, Unpack

from ...ir.graph import Value
from .. import ops
from ..variable import Variable
from .optimizer import CATALOGUE, Optimizer, Options, Slots, State


@CATALOGUE.add()
class RMSprop(Optimizer):
    """Gradients divided by the root of a moving average of their squares; Hinton, 2012.

    `v = rho * v + (1 - rho) * g^2`, `w -= lr * g / sqrt(v + epsilon)`; with `momentum`, `w` moves
    by `m = momentum * m + lr * g / sqrt(v + epsilon)`; with `centered`, the square of the moving
    average of `g` is taken off `v`.

    Parameters
    ----------
    learning_rate : float
    rho : float
        Share of the old average, in [0, 1).
    momentum : float
    epsilon : float
    centered : bool
    **options
        See `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, **options)
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered

    def init_single(self, parameter: Variable) -> Slots:
        groups: list[dict[str, Any]] = [{"velocity": "zeros"}]
        if self.momentum > 0:
            groups.append({"momentum": "zeros"})
        if self.centered:
            groups.append({"average_gradient": "zeros"})
        return tuple(groups)

    def update(
        self, gradient: Value, parameter: Value, state: State, learning_rate: Value
    ) -> tuple[Value, State]:
        v = state["velocity"] * self.rho + gradient * gradient * (1 - self.rho)
        new = {"velocity": v}
        spread = v
        if self.centered:
            mean = state["average_gradient"] * self.rho + gradient * (1 - self.rho)
            new["average_gradient"] = mean
            spread = v - mean * mean
        move = learning_rate * gradient / ops.sqrt(spread + self.epsilon)
        if self.momentum > 0:
            move = new["momentum"] = state["momentum"] * self.momentum + move
        return parameter - move, new

    def get_config(self) -> dict[str, Any]:
        own = {"rho": self.rho, "momentum": self.momentum,
               "epsilon": self.epsilon, "centered": self.centered}  # fmt: skip
        return {**super().get_config(), **own}
