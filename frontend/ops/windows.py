"""Windows of signal processing: weights that fall off towards both ends of a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import constant
from ...ir.errors import ArgumentError
from .. import config
from ..operation import operation
from .core import floating, tensor
from .special import bessel_i0


def _length(op: str, x: Any) -> int:
    """The number of points, which must be known when a graph is made."""
    count = sugar.concrete(tensor(x), f"{op}: the number of points")
    if count.ndim:
        raise ArgumentError(f"{op}: x must be the number of points, got an array of {count.shape}")
    return int(count)


def _window(name: str, doc: str, weights: Callable[[int], np.ndarray]) -> Callable[[Any], Any]:
    def body(x: Any) -> Any:
        return constant(weights(_length(name, x)), config.floatx())

    body.__name__ = body.__qualname__ = name
    body.__doc__ = doc
    return operation(body)


bartlett = _window("bartlett", "A triangle of `x` points that is 0 at both ends.", np.bartlett)
blackman = _window(
    "blackman", "`0.42 - 0.5 cos(2 pi n / (x-1)) + 0.08 cos(4 pi n / (x-1))`.", np.blackman
)
hamming = _window("hamming", "`0.54 - 0.46 cos(2 pi n / (x - 1))`.", np.hamming)
hanning = _window("hanning", "`0.5 - 0.5 cos(2 pi n / (x - 1))`.", np.hanning)


@operation
def kaiser(x: Any, beta: Any) -> Any:
    """The Kaiser window of `x` points, `I0(beta * sqrt(1 - t**2)) / I0(beta)` for t in [-1, 1].

    Parameters
    ----------
    x : int
    beta : float or scalar tensor
        How fast it falls off: 0 is a rectangle, 14 a narrow bell.
    """
    points = _length("kaiser", x)
    beta = floating(beta)
    position = np.linspace(-1.0, 1.0, points) if points > 1 else np.zeros(points)
    height = constant(np.sqrt(np.maximum(1.0 - position**2, 0.0)), beta.dtype)
    return sugar.cast(bessel_i0(height * beta) / bessel_i0(beta), config.floatx())


__all__ = ["bartlett", "blackman", "hamming", "hanning", "kaiser"]
