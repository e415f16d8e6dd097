"""Metric: numbers that are gathered over batches in variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import naming
from ..config import floatx
from ..identifiers import Catalogue
from ..variable import Variable

CATALOGUE = Catalogue("metric", "keras.metrics")


class Metric:
    """Base class: define `update_state(...)` and `result()`, over variables of `add_variable`.

    Parameters
    ----------
    dtype : str, optional
        The float type of the result; `floatx()` by default.
    name : str, optional
        The key in logs.
    """

    def __init__(self, dtype: Any = None, name: str | None = None) -> None:
        self.name = name or naming.auto_name(type(self).__name__)
        self._dtype = dtype

    @property
    def dtype(self) -> str:
        """The float type of the result."""
        return (
            floatx() if self._dtype is None else getattr(self._dtype, "compute_dtype", self._dtype)
        )

    @property
    def variables(self) -> list[Variable]:
        """The state, that of metrics inside of this one included, in the order of creation."""
        found: list[Variable] = []
        for item in vars(self).values():
            for part in item if isinstance(item, (list, tuple)) else (item,):
                if isinstance(part, Variable):
                    found.append(part)
                elif isinstance(part, Metric):
                    found.extend(part.variables)
        return list(dict.fromkeys(found))

    def add_variable(
        self,
        shape: Sequence[int] = (),
        initializer: Any = None,
        dtype: Any = None,
        aggregation: str = "sum",
        name: str | None = None,
    ) -> Variable:
        """A variable of state, zero unless an initializer is given; keep it as an attribute."""
        with naming.name_scope(self.name.replace("/", ">")):
            return Variable(initializer or "zeros", shape=shape, dtype=dtype or self.dtype,
                            trainable=False, name=name)  # fmt: skip

    def add_weight(
        self,
        shape: Sequence[int] = (),
        initializer: Any = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> Variable:
        """The same as `add_variable`."""
        return self.add_variable(shape, initializer, dtype, name=name)

    def reset_state(self) -> None:
        """Forget all batches."""
        for variable in self.variables:
            variable.assign(np.zeros(variable.shape, variable.type.dtype.numpy))

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Take in one batch."""
        raise NotImplementedError(f"{type(self).__name__} must define update_state")

    def result(self) -> Any:
        """The metric of all batches so far."""
        raise NotImplementedError(f"{type(self).__name__} must define result")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take in one batch and return the result so far."""
        self.update_state(*args, **kwargs)
        return self.result()

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"name": self.name, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Metric:
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"
