"""Gradients inside of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir import autodiff
from ..ir.builder import current
from ..ir.errors import GradientError
from ..ir.graph import Value
from .trace import Trace
from .variable import Variable


def gradients(loss: Value, variables: Sequence[Any]) -> list[Value | None]:
    """Derivatives of a scalar with respect to variables or traced tensors.

    It works where a graph is traced: in a model's `train_step`, or in a function that is
    compiled.

    Parameters
    ----------
    loss : Value
        A floating-point scalar.
    variables : sequence of Variable or Value

    Returns
    -------
    list of Value or None
        One for each variable, of its shape and dtype; None where the loss does not depend on it.

    Raises
    ------
    GradientError
        Outside of a trace, where operations are evaluated at once and leave no record.

    Examples
    --------
    >>> def train_step(self, x, y, sample_weight=None):
    ...     loss = self.compute_loss(x, y, self(x, training=True))
    ...     grads = hornfels.gradients(loss, self.trainable_variables)
    ...     self.optimizer.apply(grads, self.trainable_variables)
    ...     return {"loss": loss}
    """
    builder = current()
    if not isinstance(builder, Trace) or not isinstance(loss, Value):
        raise GradientError(
            "gradients: needs a loss that is traced; operations on arrays leave no record",
            hint="call it in train_step, or in a function given to hornfels.compile; "
                 "hornfels.grad differentiates functions of arrays",
        )  # fmt: skip
    wrt = [builder.state_of(v) if isinstance(v, Variable) else v for v in variables]
    return autodiff.gradients(loss, wrt)
