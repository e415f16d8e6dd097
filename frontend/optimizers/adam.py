"""Adam, and AdamW, which is Adam with weight decay."""

from __future__ import annotations

from typing import Any, Unpack

from ...ir import sugar
from ...ir.graph import Value
from .. import ops
from ..variable import Variable
from .optimizer import CATALOGUE, Optimizer, Options, Slots, State


@CATALOGUE.add()
class Adam(Optimizer):
    """Moving averages of the gradients and of their squares; Kingma and Ba, 2014.

    `m += (g - m) * (1 - beta_1)`, `v += (g^2 - v) * (1 - beta_2)`,
    `w -= lr * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)` in step `t`.

    Parameters
    ----------
    learning_rate : float
    beta_1, beta_2 : float
        In [0, 1).
    epsilon : float
    amsgrad : bool
        Divide by the largest `v` so far; Reddi et al., 2018.
    **options
        See `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.amsgrad = amsgrad

    def init_single(self, parameter: Variable) -> Slots:
        moments = {"momentum": "zeros", "velocity": "zeros"}
        return (moments, {"velocity_hat": "zeros"}) if self.amsgrad else (moments,)

    def update(
        self, gradient: Value, parameter: Value, state: State, learning_rate: Value
    ) -> tuple[Value, State]:
        t = sugar.cast(ops.add(self.iterations, 1), parameter.dtype)
        rate = learning_rate * ops.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        m, v = state["momentum"], state["velocity"]
        m = m + (gradient - m) * (1 - self.beta_1)
        v = v + (gradient * gradient - v) * (1 - self.beta_2)
        new = {"momentum": m, "velocity": v}
        if self.amsgrad:
            v = new["velocity_hat"] = sugar.binary("maximum", state["velocity_hat"], v)
        return parameter - m * rate / (ops.sqrt(v) + self.epsilon), new

    def get_config(self) -> dict[str, Any]:
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2,
               "epsilon": self.epsilon, "amsgrad": self.amsgrad}  # fmt: skip
        return {**super().get_config(), **own}


@CATALOGUE.add()
class AdamW(Adam):
    """Adam with decoupled weight decay; Loshchilov and Hutter, 2019.

    Parameters
    ----------
    learning_rate : float
    weight_decay : float
        Taken off every parameter before the step, times the learning rate.
    beta_1, beta_2, epsilon, amsgrad
        See `Adam`.
    **options
        See `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad,
                         weight_decay=weight_decay, **options)  # fmt: skip
