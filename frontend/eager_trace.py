"""EagerTrace: a trace whose values have numbers, for derivatives of functions of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.builder import suspended
from ..ir.errors import ArgumentError
from ..ir.graph import Value, reachable
from ..ir.types import type_of
from . import tree
from .trace import Trace

if TYPE_CHECKING:
    from .variable import Variable


class EagerTrace(Trace):
    """Collects nodes as a trace does, and computes a value when somebody asks for its numbers.

    What is computed is kept, so that a derivative finds what the function computed, and Python
    may branch on numbers. What nobody asks for is never computed.
    """

    def __init__(self, name: str = "eager") -> None:
        super().__init__(name)
        self._arrays: dict[Value, np.ndarray] = {}

    def given(self, name: str, array: np.ndarray) -> Value:
        """An input that has numbers."""
        value = self.input(name, type_of(array))
        self._arrays[value] = array
        return value

    def state_of(self, variable: Variable) -> Value:
        """The value of the variable; its numbers are those of the first time that it is read."""
        state = super().state_of(variable)
        if state not in self._arrays:
            with suspended():
                self._arrays[state] = np.asarray(variable.value)
        return state

    def known(self, value: Value) -> np.ndarray | None:
        """The numbers of a value, None if it depends on something that has none."""
        if value not in self._arrays:
            with np.errstate(all="ignore"):
                for node in reachable([value], self._arrays):
                    if not all(v in self._arrays for v in node.inputs):
                        return None
                    arrays = node.op.evaluate(*map(self._arrays.__getitem__, node.inputs),
                                              **node.attrs)  # fmt: skip
                    self._arrays.update(zip(node.outputs, arrays, strict=True))
        return self._arrays.get(value)

    def arrays(self, structure: Any) -> Any:
        """A nest with arrays for values."""
        return tree.map_structure(self._array, structure)

    def _array(self, x: Any) -> Any:
        if not isinstance(x, Value):
            return x
        array = self.known(x)
        if array is None:
            raise ArgumentError(f"a result {x.type} depends on a tensor of another trace",
                                hint="pass it as an argument")  # fmt: skip
        return np.array(array)

    def store(self) -> None:
        """Give the variables what was assigned to them; call it when the trace is not current."""
        arrays = {v: self._array(value) for v, value in self._assigned.items()}
        for variable, array in arrays.items():
            variable.assign(array)
