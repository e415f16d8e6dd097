"""Learning rates as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError
from ...ir.graph import Value
from ...ir.types import as_dtype
from .. import ops
from ..config import floatx
from ..identifiers import Catalogue
from ..operation import operation
from ..ops.core import tensor

CATALOGUE = Catalogue("learning rate schedule", "keras.optimizers.schedules")


class LearningRateSchedule:
    """Base class: a callable from the step (an i32 scalar) to the learning rate.

    A subclass defines `__call__(step)` over `ops`, so that the schedule is compiled into the
    training step.
    """

    def __call__(self, step: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(step)")

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        raise NotImplementedError(f"{type(self).__name__} must define get_config")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearningRateSchedule:
        return cls(**config)


class _Schedule(LearningRateSchedule):
    """A schedule whose attributes of these names are its arguments."""

    arguments: tuple[str, ...] = ()

    def get_config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*self.arguments, "name")}


def _number(step: Any) -> Value:
    return tensor(step, floatx())


def _positive(what: str, name: str, value: Any) -> Any:
    if value <= 0:
        raise ArgumentError(f"{what}: {name} must be > 0, got {value!r}")
    return value


class _Decay(_Schedule):
    """What the exponential and the inverse time decay share: the share of a period passed."""

    arguments = ("initial_learning_rate", "decay_steps", "decay_rate", "staircase")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool,
        name: str,
    ) -> None:
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive(type(self).__name__, "decay_steps", decay_steps)
        self.decay_rate = decay_rate
        self.staircase = staircase
        self.name = name

    def periods(self, step: Any) -> Any:
        passed = _number(step) / self.decay_steps
        return ops.floor(passed) if self.staircase else passed


@CATALOGUE.add()
class ExponentialDecay(_Decay):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    @operation
    def __call__(self, step: Any) -> Any:
        rate = sugar.value(self.decay_rate, as_dtype(floatx()))
        return ops.power(rate, self.periods(step)) * self.initial_learning_rate


@CATALOGUE.add()
class InverseTimeDecay(_Decay):
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    @operation
    def __call__(self, step: Any) -> Any:
        return self.initial_learning_rate / (self.periods(step) * self.decay_rate + 1.0)


@CATALOGUE.add()
class PiecewiseConstantDecay(_Schedule):
    """`values[i]` up to and including step `boundaries[i]`, then the next."""

    arguments = ("boundaries", "values")

    def __init__(
        self, boundaries: Sequence[int], values: Sequence[float], name: str = "PiecewiseConstant"
    ) -> None:
        if len(boundaries) != len(values) - 1:
            raise ArgumentError(
                "PiecewiseConstantDecay: there must be one boundary less than values, got "
                f"{len(boundaries)} boundaries and {len(values)} values"
            )
        self.boundaries = list(boundaries)
        self.values = list(values)
        self.name = name

    @operation
    def __call__(self, step: Any) -> Any:
        now, dtype = _number(step), as_dtype(floatx())
        rate = sugar.value(self.values[-1], dtype)
        pairs = list(zip(self.boundaries, self.values, strict=False))
        for boundary, value in reversed(pairs):
            rate = sugar.select(now <= boundary, sugar.value(value, dtype), rate)
        return rate


@CATALOGUE.add()
class PolynomialDecay(_Schedule):
    """`(initial - end) * (1 - step / decay_steps) ** power + end`, constant after that.

    With `cycle`, `decay_steps` grows to the next multiple that lies beyond the step.
    """

    arguments = ("initial_learning_rate", "decay_steps", "end_learning_rate", "power", "cycle")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None:
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive("PolynomialDecay", "decay_steps", decay_steps)
        self.end_learning_rate = end_learning_rate
        self.power = power
        self.cycle = cycle
        self.name = name

    @operation
    def __call__(self, step: Any) -> Any:
        now = _number(step)
        period: Any = self.decay_steps
        if self.cycle:
            period = ops.maximum(ops.ceil(now / period), 1.0) * period
        else:
            now = sugar.binary("minimum", now, period)
        span = self.initial_learning_rate - self.end_learning_rate
        return ops.power(1.0 - now / period, self.power) * span + self.end_learning_rate


@CATALOGUE.add()
class CosineDecay(_Schedule):
    """Half a cosine from the initial rate (or `warmup_target`) down to `alpha` times that.

    With `warmup_target`, the first `warmup_steps` steps rise to it in a line.
    """

    arguments = ("initial_learning_rate", "decay_steps", "alpha", "warmup_target", "warmup_steps")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive("CosineDecay", "decay_steps", decay_steps)
        self.alpha = alpha
        self.name = name
        self.warmup_target = warmup_target
        self.warmup_steps = warmup_steps

    @operation
    def __call__(self, step: Any) -> Any:
        now, start = _number(step), self.initial_learning_rate
        if self.warmup_target is None:
            return self._decayed(now, start)
        decayed = self._decayed(now - self.warmup_steps, self.warmup_target)
        rise = now / self.warmup_steps * (self.warmup_target - start) + start
        return sugar.select(now < self.warmup_steps, rise, decayed)

    def _decayed(self, now: Value, start: float) -> Value:
        share = sugar.binary("minimum", now, self.decay_steps) / self.decay_steps
        cosine = (sugar.unary("cos", share * math.pi) + 1.0) * 0.5
        return (cosine * (1 - self.alpha) + self.alpha) * start


@CATALOGUE.add()
class CosineDecayRestarts(_Schedule):
    """Cosine decay that starts again, each time `t_mul` times as long and `m_mul` times as high.

    Loshchilov and Hutter, SGDR, 2016.
    """

    arguments = ("initial_learning_rate", "first_decay_steps", "t_mul", "m_mul", "alpha")

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "SGDRDecay",
    ) -> None:
        self.initial_learning_rate = initial_learning_rate
        self.first_decay_steps = _positive(
            "CosineDecayRestarts", "first_decay_steps", first_decay_steps
        )
        self.t_mul = t_mul
        self.m_mul = m_mul
        self.alpha = alpha
        self.name = name

    @operation
    def __call__(self, step: Any) -> Any:
        share = _number(step) / self.first_decay_steps
        dtype = share.dtype
        if self.t_mul == 1.0:
            restarts = sugar.unary("floor", share)
            share = share - restarts
        else:
            grown = sugar.unary("log", 1.0 - share * (1.0 - self.t_mul))
            restarts = sugar.unary("floor", grown / math.log(self.t_mul))
            length = sugar.binary("pow", sugar.value(self.t_mul, dtype), restarts)
            share = (share - (1.0 - length) / (1.0 - self.t_mul)) / length
        height = sugar.binary("pow", sugar.value(self.m_mul, dtype), restarts)
        cosine = (sugar.unary("cos", share * math.pi) + 1.0) * 0.5 * height
        return (cosine * (1 - self.alpha) + self.alpha) * self.initial_learning_rate


serialize = CATALOGUE.serialize
deserialize = CATALOGUE.deserialize
