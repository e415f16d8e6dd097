"""Functions that close over symbolic tensors, as nests whose leaves those tensors are.

`ops.cond(p, lambda: x + 1, lambda: x)` on symbolic `p` and `x` reads `x` without having it as an
argument. `closure` shows such tensors as part of the argument, so that the layer graph notes them
as inputs of the call, and values can take their places when the model runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType
from typing import Any, NamedTuple

from ..ir.errors import ArgumentError
from . import tree
from .keras_tensor import is_symbolic


class Closure(NamedTuple):
    """A function, and what stands for the variables around it that hold symbolic tensors."""

    function: Any
    around: dict[str, Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function, reading `around` for the variables of these names."""
        old = self.function
        cells = tuple(
            CellType(self.around[name]) if name in self.around else cell
            for name, cell in zip(old.__code__.co_freevars, old.__closure__ or (), strict=True)
        )
        names = {**old.__globals__, **self.around}
        new = FunctionType(old.__code__, names, old.__name__, old.__defaults__, cells)
        new.__kwdefaults__ = old.__kwdefaults__
        return new(*args, **kwargs)


def require_callable(op: str, **functions: Any) -> None:
    """Refuse an argument of `op` that ought to be a function and is none."""
    for name, function in functions.items():
        if not callable(function):
            raise ArgumentError(f"{op}: {name} must be callable, got {function!r:.60}")


def closure(function: Any) -> Any:
    """A `Closure` if the function closes over symbolic tensors, else what was given."""
    return _closure(function, frozenset())


def _closure(function: Any, inside: frozenset[int]) -> Any:
    if not isinstance(function, FunctionType) or id(function) in inside:
        return function
    inside |= {id(function)}
    around = {}
    for name, content in _around(function):
        if isinstance(content, FunctionType):
            content = _closure(content, inside)
        if is_symbolic(content):
            around[name] = content
    return Closure(function, around) if around else function


def _around(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables outside that the function reads."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet, as a function's own name while it is defined
            continue
    for name in _global_names(code):
        content = function.__globals__.get(name)
        theirs = getattr(content, "__globals__", function.__globals__)
        if theirs is function.__globals__:  # functions of other files close over nothing here
            yield name, content


def _global_names(code: CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*map(_global_names, inner))


def closing(call: Callable[..., Any]) -> Callable[..., Any]:
    """Make functions among the arguments show the symbolic tensors that they close over."""

    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        args = tuple(tree.map_structure(closure, x) for x in args)
        return call(*args, **{k: tree.map_structure(closure, x) for k, x in kwargs.items()})

    return wrapped
