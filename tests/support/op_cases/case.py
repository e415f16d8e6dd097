"""One call of an op: what the tests compare with Keras."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

rng = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """`ops.<name>(*args, **kwargs)`.

    Attributes
    ----------
    gradient : bool
        Whether derivatives with respect to the float32 arrays are compared.
    traced : bool
        Whether the arrays may be inputs of a graph: not if the shape of the result depends on
        their numbers.
    jit : bool
        Whether Keras can do so too.
    tolerance : float
        Allowed difference, relative to 1 or to the number if that is larger.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    gradient: bool = True
    traced: bool = True
    jit: bool = True
    tolerance: float = 2e-5

    @property
    def label(self) -> str:
        shapes = "-".join("x".join(map(str, a.shape)) for a in self.args if hasattr(a, "shape"))
        options = "-".join(f"{k}={v}" for k, v in self.kwargs.items() if not hasattr(v, "shape"))
        return f"{self.name}-{shapes}-{options}"[:70]


def case(
    name: str, *args: Any, gradient: bool = True, traced: bool = True, jit: bool = True,
    tolerance: float = 2e-5, **kwargs: Any,
) -> Case:  # fmt: skip
    return Case(name, args, kwargs, gradient, traced, jit, tolerance)


def floats(*shape: int, low: float = -3.0, high: float = 3.0) -> np.ndarray:
    return rng.uniform(low, high, shape).astype(np.float32)


def ints(*shape: int, low: int = 0, high: int = 5) -> np.ndarray:
    return rng.integers(low, high, shape).astype(np.int32)


def int32(*numbers: Any) -> np.ndarray:
    return np.array(numbers, np.int32)


A, B = floats(3, 4), floats(3, 4)
POSITIVE, UNIT = floats(3, 4, low=0.1), floats(3, 4, low=-0.9, high=0.9)
BOOLS, MORE_BOOLS = rng.random((3, 4)) > 0.5, rng.random((3, 4)) > 0.5
ODD = np.array([0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 1e30], np.float32)
OTHER = np.array([2.0, 1.0, 0.0, -2.0, np.inf, 3.0, 1.0, np.nan], np.float32)
VECTOR, CUBE = floats(4), floats(2, 3, 4)
NANS = floats(3, 4)
NANS[1, 2] = NANS[0, 0] = np.nan
NUMBERS, SIGNED = ints(3, 5), ints(3, 4, low=-9, high=9)
