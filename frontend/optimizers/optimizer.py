"""What all optimizers share: variables, clipping, decay, averaging and the application of a step.

An optimizer itself is two short functions: `init_single` names the state that it keeps for a
parameter, `update` is its formula.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict

from ...ir import sugar
from ...ir.builder import EagerBuilder, current
from ...ir.errors import ArgumentError, DTypeError, ShapeError
from ...ir.graph import Value
from ...ir.types import as_dtype
from .. import naming, ops
from ..config import floatx
from ..identifiers import Catalogue
from ..ops.core import tensor
from ..variable import Variable
from . import schedules

CATALOGUE = Catalogue("optimizer", "keras.optimizers", ignore_case=True)

State = dict[str, Value]
"""What an optimizer keeps for one parameter, by slot name."""

Slots = tuple[dict[str, Any], ...]
"""Groups of slot names and initializers. The slots of one group lie side by side for every
parameter, the groups lie one after another: the order of Keras' weight files."""


class Options(TypedDict, total=False):
    """The arguments that all optimizers take by name; see `Optimizer`."""

    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None


@contextmanager
def evaluating() -> Iterator[None]:
    """Ops inside give Values: of the graph that is traced, or computed at once."""
    if current() is not None:
        yield
        return
    with EagerBuilder():
        yield


class Optimizer:
    """Base class of optimizers.

    A subclass defines `init_single(parameter)` and `update(gradient, parameter, state,
    learning_rate)`; or, the Keras way, `build` and `update_step`.

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        A float becomes a variable that can be set while training.
    weight_decay : float, optional
        Each step first takes `weight_decay * learning_rate * parameter` off every parameter.
    clipnorm, clipvalue, global_clipnorm : float, optional
        At most one: the largest norm of each gradient, the largest magnitude of an element,
        the largest norm of all gradients together.
    use_ema : bool
        Keep moving averages of the parameters (with `ema_momentum`), and put them in the
        parameters' place every `ema_overwrite_frequency` steps or at the end of training.
    loss_scale_factor : float, optional
        The loss is multiplied by it and the gradients are divided by it.
    gradient_accumulation_steps : int, optional
        Update once in so many steps, with the mean of their gradients.
    name : str, optional
    """

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.name = name or naming.auto_name(type(self).__name__)
        if kwargs:
            raise ArgumentError(f"optimizer {self.name!r}: unknown arguments {', '.join(kwargs)}")
        self.weight_decay = weight_decay
        self.clipnorm = clipnorm
        self.clipvalue = clipvalue
        self.global_clipnorm = global_clipnorm
        self.use_ema = use_ema
        self.ema_momentum = ema_momentum
        self.ema_overwrite_frequency = ema_overwrite_frequency
        self.loss_scale_factor = loss_scale_factor
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self._check_options()
        self.built = False
        self._variables: list[Variable] = []
        self._trainable_variables: list[Variable] = []
        self._slots: dict[Variable, dict[str, Variable]] = {}
        self._averages: list[Variable] = []
        self._accumulators: list[Variable] = []
        self._undecayed: set[Variable] = set()
        self._undecayed_names: list[str] = []
        self._iterations = self.add_variable((), dtype="int32", name="iteration")
        self._learning_rate = self._standardize_learning_rate(learning_rate)

    def _check_options(self) -> None:
        clips = {"clipnorm": self.clipnorm, "clipvalue": self.clipvalue,
                 "global_clipnorm": self.global_clipnorm}  # fmt: skip
        given = [f"{k}={v}" for k, v in clips.items() if v is not None]
        if len(given) > 1:
            raise ArgumentError(
                f"optimizer {self.name!r}: only one of {', '.join(clips)} may be set, "
                f"got {', '.join(given)}"
            )
        steps = self.gradient_accumulation_steps
        if steps is not None and (not isinstance(steps, int) or steps < 2):
            raise ArgumentError(
                f"optimizer {self.name!r}: gradient_accumulation_steps must be an int >= 2, "
                f"got {steps!r}"
            )
        if self.use_ema and not 0 <= self.ema_momentum <= 1:
            raise ArgumentError(
                f"optimizer {self.name!r}: ema_momentum must be in [0, 1], "
                f"got {self.ema_momentum!r}"
            )
        every = self.ema_overwrite_frequency
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ArgumentError(
                f"optimizer {self.name!r}: ema_overwrite_frequency must be an int >= 1, "
                f"got {every!r}"
            )

    # --- for subclasses ----------------------------------------------------------------------

    def init_single(self, parameter: Variable) -> Slots:
        """The slots of state for one parameter, with their initializers; see `Slots`."""
        return ()

    def update(
        self, gradient: Value, parameter: Value, state: State, learning_rate: Value
    ) -> tuple[Value, State]:
        """The new parameter and its new state; all four are of the parameter's dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define update or update_step")

    def update_step(self, gradient: Any, variable: Variable, learning_rate: Any) -> None:
        """Assign what `update` returns; a subclass may assign on its own instead."""
        dtype = as_dtype(variable.dtype)
        slots = self._slots[variable]
        parameter, state = self.update(
            tensor(gradient, dtype),
            tensor(variable),
            {name: tensor(slot) for name, slot in slots.items()},
            tensor(learning_rate, dtype),
        )
        for name, value in state.items():
            slots[name].assign(value)
        variable.assign(parameter)

    # --- variables ---------------------------------------------------------------------------

    @property
    def variables(self) -> list[Variable]:
        """The counter, the learning rate and all state, in Keras' order."""
        return list(self._variables)

    @property
    def iterations(self) -> Any:
        """How many updates were made."""
        if self.gradient_accumulation_steps:
            return ops.floor_divide(self._iterations, self.gradient_accumulation_steps)
        return self._iterations

    @property
    def learning_rate(self) -> Any:
        """The variable, or what the schedule gives for the present step."""
        rate = self._learning_rate
        if isinstance(rate, Variable):
            return rate
        return (
            rate(self._iterations) if isinstance(rate, schedules.LearningRateSchedule) else rate()
        )

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        old = self._learning_rate
        if isinstance(old, Variable) and not callable(learning_rate):
            old.assign(learning_rate)
            return
        if not callable(learning_rate):
            raise DTypeError(
                f"optimizer {self.name!r}: its learning rate is a schedule and cannot be set to "
                f"{learning_rate!r}",
                hint="make the optimizer with a float learning_rate",
            )
        self._learning_rate = learning_rate
        self._variables = [v for v in self._variables if v is not old]

    def _standardize_learning_rate(self, learning_rate: Any) -> Any:
        if isinstance(learning_rate, dict):
            learning_rate = schedules.deserialize(learning_rate)
        if callable(learning_rate):
            return learning_rate
        if isinstance(learning_rate, bool) or not isinstance(learning_rate, int | float):
            raise ArgumentError(
                f"optimizer {self.name!r}: learning_rate must be a float, a LearningRateSchedule "
                f"or a callable, got {learning_rate!r}"
            )
        rate = self.add_variable((), dtype=floatx(), name="learning_rate")
        rate.assign(float(learning_rate))
        return rate

    def add_variable(
        self,
        shape: Sequence[int],
        initializer: Any = "zeros",
        dtype: Any = None,
        aggregation: str = "none",
        layout: Any = None,
        name: str | None = None,
    ) -> Variable:
        """A variable of the optimizer's own."""
        with naming.name_scope(self.name):
            variable = Variable(initializer, shape=shape, dtype=dtype or floatx(),
                                trainable=False, name=name)  # fmt: skip
        self._variables.append(variable)
        return variable

    def add_variable_from_reference(
        self, reference_variable: Variable, name: str | None = None, initializer: Any = "zeros"
    ) -> Variable:
        """A variable of the shape and dtype of a model's variable."""
        path = reference_variable.path.replace("/", "_")
        return self.add_variable(reference_variable.shape, initializer, reference_variable.dtype,
                                 name=f"{path}_{name or 'var'}")  # fmt: skip

    def add_optimizer_variables(
        self, trainable_variables: Iterable[Variable], name: Any, initializer: Any = "zeros"
    ) -> list[Any]:
        """For each name and each variable one variable of the same shape."""
        names = [name] if isinstance(name, str) else list(name)
        starts = (
            initializer if isinstance(initializer, list | tuple) else [initializer] * len(names)
        )
        lists: list[list[Variable]] = [[] for _ in names]
        for variable in trainable_variables:
            for found, n, start in zip(lists, names, starts, strict=True):
                found.append(self.add_variable_from_reference(variable, n, start))
        return lists[0] if isinstance(name, str) else lists

    def build(self, variables: Iterable[Variable]) -> None:
        """Make the state for these parameters."""
        if self.built:
            return
        variables = list(variables)
        self._trainable_variables = variables
        if self.use_ema:
            self._averages = self.add_optimizer_variables(variables, "average")
        if self.gradient_accumulation_steps:
            self._accumulators = self.add_optimizer_variables(variables, "gradient_accumulator")
        slots = [self.init_single(v) for v in variables]
        self._slots = {v: {} for v in variables}
        for group in range(max(map(len, slots), default=0)):
            for variable, groups in zip(variables, slots, strict=True):
                for name, start in groups[group].items():
                    made = self.add_variable_from_reference(variable, name, start)
                    self._slots[variable][name] = made
        self.built = True

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Assign arrays to `variables`, in order."""
        if len(weights) != len(self._variables):
            raise ArgumentError(
                f"optimizer {self.name!r}: set_weights needs {len(self._variables)} arrays, "
                f"got {len(weights)}"
            )
        for variable, weight in zip(self._variables, weights, strict=True):
            variable.assign(weight)

    def assign(self, variable: Variable, value: Any) -> None:
        """Set a variable; for optimizers written the Keras way."""
        variable.assign(value)

    def assign_add(self, variable: Variable, value: Any) -> None:
        """Add to a variable."""
        variable.assign_add(value)

    def assign_sub(self, variable: Variable, value: Any) -> None:
        """Subtract from a variable."""
        variable.assign_sub(value)

    def _get_variable_index(self, variable: Variable) -> int:
        """Where a variable stands among those of `build`; for optimizers written the Keras way."""
        return next(i for i, v in enumerate(self._trainable_variables) if v is variable)

    # --- a step ------------------------------------------------------------------------------

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Variable]]) -> Variable:
        """Update the variables of (gradient, variable) pairs; returns the step counter."""
        grads, variables = zip(*grads_and_vars, strict=True)
        self.apply(grads, variables)
        return self._iterations

    def apply(self, grads: Iterable[Any], trainable_variables: Any = None) -> None:
        """Update the variables by their gradients.

        Parameters
        ----------
        grads : sequence of tensor or None
            One for each variable; None leaves the variable as it is and warns.
        trainable_variables : sequence of Variable, optional
            Those that the optimizer was built with by default.
        """
        grads = list(grads)
        variables = self._known_variables(trainable_variables, len(grads))
        with evaluating():
            pairs = self._pairs(grads, variables)
            if self.gradient_accumulation_steps:
                self._accumulate(pairs, self.gradient_accumulation_steps)
            else:
                self._update_all(pairs)
            if self.use_ema:
                self._update_averages()
            for _, variable in pairs:
                if variable.constraint is not None:
                    variable.assign(variable.constraint(tensor(variable)))
            self._iterations.assign_add(1)

    def _known_variables(self, variables: Any, count: int) -> list[Variable]:
        if variables is None and not self.built:
            raise ArgumentError(
                f"optimizer {self.name!r}: apply(grads) needs an optimizer that is built",
                hint="call optimizer.build(trainable_variables) first",
            )
        variables = list(self._trainable_variables if variables is None else variables)
        if len(variables) != count:
            raise ArgumentError(
                f"optimizer {self.name!r}: there must be one gradient for each variable, got "
                f"{count} gradients for {len(variables)} variables"
            )
        self.build(variables)
        known = set(self._trainable_variables)
        for variable in variables:
            if variable not in known:
                raise ArgumentError(
                    f"optimizer {self.name!r}: was not built with variable {variable.path!r}",
                    hint="make a new optimizer for a new set of variables",
                )
        return variables

    def _pairs(self, grads: list[Any], variables: list[Variable]) -> list[tuple[Value, Variable]]:
        """Gradients in the variables' dtypes, without those that are None."""
        missing = [v.path for g, v in zip(grads, variables, strict=True) if g is None]
        if len(missing) == len(variables):
            raise ArgumentError(f"optimizer {self.name!r}: no variable has a gradient")
        if missing:
            warnings.warn(
                f"the loss does not depend on {', '.join(missing)}: no gradient for them",
                stacklevel=4,
            )
        pairs = []
        for g, variable in zip(grads, variables, strict=True):
            if g is None:
                continue
            gradient = tensor(g, as_dtype(variable.dtype))
            if gradient.shape != variable.shape:
                raise ShapeError(
                    f"optimizer {self.name!r}: the gradient of {variable.path!r} must have shape "
                    f"{list(variable.shape)}, got {gradient.type}"
                )
            if self.loss_scale_factor is not None:
                gradient = gradient / self.loss_scale_factor
            pairs.append((gradient, variable))
        return pairs

    def _update_all(self, pairs: list[tuple[Value, Variable]]) -> None:
        gradients = self._clip([g for g, _ in pairs])
        rate = tensor(self.learning_rate)
        for gradient, (_, variable) in zip(gradients, pairs, strict=True):
            if self.weight_decay is not None and self._decays(variable):
                w = tensor(variable)
                variable.assign(w - w * self.weight_decay * sugar.cast(rate, w.dtype))
            self.update_step(gradient, variable, rate)

    def _accumulate(self, pairs: list[tuple[Value, Variable]], steps: int) -> None:
        """Add up gradients; keep the results of an update only in the last of `steps` steps."""
        count = tensor(self._iterations)
        last = sugar.binary("equal", (count + 1) % steps, 0)
        sums = dict(zip(self._trainable_variables, self._accumulators, strict=True))
        totals = [(g + tensor(sums[v]), v) for g, v in pairs]
        kept = [v for v in self._variables if v not in set(self._accumulators)]
        kept += [v for _, v in pairs]
        before = [tensor(v) for v in kept]
        self._update_all([(total / steps, v) for total, v in totals])
        for variable, old in zip(kept, before, strict=True):
            variable.assign(sugar.select(last, tensor(variable), old))
        for total, variable in totals:
            sums[variable].assign(sugar.select(last, sugar.zeros_like(total), total))

    # --- clipping, decay, averages -----------------------------------------------------------

    def _clip(self, gradients: list[Value]) -> list[Value]:
        if self.clipnorm:
            return [_clip_by_norm(g, self.clipnorm) for g in gradients]
        if self.global_clipnorm:
            return _clip_by_global_norm(gradients, self.global_clipnorm)
        if self.clipvalue:
            return [ops.clip(g, -self.clipvalue, self.clipvalue) for g in gradients]
        return gradients

    def exclude_from_weight_decay(
        self, var_list: Iterable[Variable] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Leave variables, or those whose name contains one of `var_names`, without decay."""
        if self.built:
            raise ArgumentError(
                f"optimizer {self.name!r}: exclude_from_weight_decay comes before build"
            )
        self._undecayed = set(var_list or ())
        self._undecayed_names = list(var_names or ())

    def _decays(self, variable: Variable) -> bool:
        if variable in self._undecayed:
            return False
        return not any(re.search(name, variable.name) for name in self._undecayed_names)

    def _update_averages(self) -> None:
        step = tensor(self.iterations)
        for variable, average in zip(self._trainable_variables, self._averages, strict=True):
            w, old = tensor(variable), tensor(average)
            momentum = sugar.cast(sugar.binary("not_equal", step, 0), w.dtype) * self.ema_momentum
            mean = momentum * old + (1 - momentum) * w
            average.assign(mean)
            if self.ema_overwrite_frequency:
                now = sugar.binary("equal", (step + 1) % self.ema_overwrite_frequency, 0)
                variable.assign(sugar.select(now, mean, w))

    def finalize_variable_values(self, var_list: Any = None) -> None:
        """At the end of training: put the moving averages in the parameters' place."""
        for variable, average in zip(self._trainable_variables, self._averages, strict=False):
            variable.assign(average.value)

    def scale_loss(self, loss: Any) -> Any:
        """The loss times `loss_scale_factor`."""
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    # --- configuration -----------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        rate = self._learning_rate
        if isinstance(rate, Variable):
            rate = float(rate.numpy())
        elif isinstance(rate, schedules.LearningRateSchedule):
            rate = schedules.serialize(rate)
        config = {"name": self.name, "learning_rate": rate}
        return config | {k: getattr(self, k) for k in Options.__annotations__ if k != "name"}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Optimizer:
        return cls(**config)


def _clip_by_norm(gradient: Value, largest: float) -> Value:
    square = (gradient * gradient).sum()
    positive = square > 0  # so that the gradient of a gradient of 0 is not NaN
    norm = sugar.select(positive, ops.sqrt(sugar.select(positive, square, 1.0)), square)
    return gradient * largest / sugar.binary("maximum", norm, largest)


def _clip_by_global_norm(gradients: list[Value], largest: float) -> list[Value]:
    total: Any = 0.0
    for g in gradients:
        total = (g * g).sum() + total
    norm = ops.sqrt(total)
    scale = sugar.binary("minimum", 1.0 / norm, 1.0 / largest) * largest
    scale = scale + (norm - norm)  # NaN if the norm is not finite
    return [g * sugar.cast(scale, g.dtype) for g in gradients]
