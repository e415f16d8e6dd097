"""Activation functions by name; the formulas stand in `ops.nn`, `relu` alone takes more here."""

from __future__ import annotations

from typing import Any

from . import ops
from .identifiers import Catalogue
from .operation import operation

CATALOGUE = Catalogue("activation", "keras.activations")


@CATALOGUE.add()
@operation
def relu(
    x: Any, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> Any:
    """`x` above `threshold`, `negative_slope * (x - threshold)` below, at most `max_value`.

    Parameters
    ----------
    x : tensor
    negative_slope : float
        The slope below the threshold.
    max_value : float, optional
        Where the result saturates.
    threshold : float
        Below it the slope is `negative_slope`.
    """
    if threshold == 0:
        result = ops.leaky_relu(x, negative_slope) if negative_slope else ops.relu(x)
    else:
        below = ops.multiply(ops.subtract(x, threshold), negative_slope)
        result = ops.where(ops.greater(x, threshold), x, below)
    return result if max_value is None else ops.minimum(result, max_value)


@CATALOGUE.add()
def linear(x: Any) -> Any:
    """`x` itself."""
    return x


@CATALOGUE.add()
@operation
def exponential(x: Any) -> Any:
    """`exp(x)`."""
    return ops.exp(x)


@CATALOGUE.add()
@operation
def gelu(x: Any, approximate: bool = False) -> Any:
    """`x` times the normal distribution function of `x`; with `approximate`, through tanh."""
    return ops.gelu(x, approximate=approximate)


@CATALOGUE.add()
@operation
def mish(x: Any) -> Any:
    """`x * tanh(softplus(x))`."""
    return ops.multiply(x, ops.tanh(ops.softplus(x)))


celu = CATALOGUE.add()(ops.celu)
elu = CATALOGUE.add()(ops.elu)
glu = CATALOGUE.add()(ops.glu)
hard_shrink = CATALOGUE.add()(ops.hard_shrink)
hard_sigmoid = CATALOGUE.add()(ops.hard_sigmoid)
hard_silu = hard_swish = CATALOGUE.add("hard_swish")(ops.hard_silu)
hard_tanh = CATALOGUE.add()(ops.hard_tanh)
leaky_relu = CATALOGUE.add()(ops.leaky_relu)
log_sigmoid = CATALOGUE.add()(ops.log_sigmoid)
log_softmax = CATALOGUE.add()(ops.log_softmax)
relu6 = CATALOGUE.add()(ops.relu6)
selu = CATALOGUE.add()(ops.selu)
sigmoid = CATALOGUE.add()(ops.sigmoid)
silu = swish = CATALOGUE.add("swish")(ops.silu)
soft_shrink = CATALOGUE.add()(ops.soft_shrink)
softmax = CATALOGUE.add()(ops.softmax)
softplus = CATALOGUE.add()(ops.softplus)
softsign = CATALOGUE.add()(ops.softsign)
sparse_plus = CATALOGUE.add()(ops.sparse_plus)
sparse_sigmoid = CATALOGUE.add()(ops.sparse_sigmoid)
squareplus = CATALOGUE.add()(ops.squareplus)
tanh = CATALOGUE.add()(ops.tanh)
tanh_shrink = CATALOGUE.add()(ops.tanh_shrink)
threshold = CATALOGUE.add()(ops.threshold)


def get(identifier: Any) -> Any:
    """An activation from its name, a callable, a layer or None (linear)."""
    return linear if identifier is None else CATALOGUE.get(identifier)


serialize = CATALOGUE.serialize
deserialize = CATALOGUE.deserialize
