"""Functions of single elements, or of the last axes, on whole tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.types import Size, size_of
from .. import tree
from ..operation import operation
from .control import vectorized_map
from .core import tensor

_ARGUMENT = r"\(([\w\s,]*)\)"
_SIGNATURE = rf"\s*{_ARGUMENT}(\s*,\s*{_ARGUMENT})*\s*->\s*{_ARGUMENT}(\s*,\s*{_ARGUMENT})*\s*"


def vectorize(
    pyfunc: Callable[..., Any], *, excluded: Collection[int | str] | None = None,
    signature: str | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """A function of elements as one of tensors, whose shapes broadcast.

    Parameters
    ----------
    pyfunc : callable
        It is traced once, for one element.
    excluded : set of int and str, optional
        Positions and names of arguments that are passed on as they are. Arguments by name
        always are.
    signature : str, optional
        The axes that `pyfunc` takes and returns, such as `"(n,m),(m)->(n)"`: single elements by
        default. The axes before them are those that broadcast.

    Examples
    --------
    >>> larger = ops.vectorize(lambda a, b: ops.where(a > b, a, b))
    >>> larger([1, 5, 2], 3)
    array([3, 5, 3], dtype=int32)
    """
    if not callable(pyfunc):
        raise ArgumentError(f"vectorize: pyfunc must be callable, got {pyfunc!r}")
    kept = set(excluded or ())
    names = None if signature is None else _axes_of(signature)

    def vectorized(*args: Any, **kwargs: Any) -> Any:
        places = [i for i in range(len(args)) if i not in kept]
        given = [tensor(args[i]) for i in places]
        inner = [()] * len(given) if names is None else names
        if len(inner) != len(given):
            raise ArgumentError(f"vectorize: {signature!r} has {len(inner)} arguments, "
                                f"got {len(given)}")  # fmt: skip
        _require_axes(given, inner)
        lead = sugar.broadcast_shapes(
            *(x.shape[: x.ndim - len(n)] for x, n in zip(given, inner, strict=True)),
            name="vectorize",
        )

        def one(values: list[Value]) -> Any:
            arguments = list(args)
            for i, v in zip(places, values, strict=True):
                arguments[i] = v
            return pyfunc(*arguments, **kwargs)

        if not lead:
            return one(given)
        rows = [_rows(x, lead, len(n)) for x, n in zip(given, inner, strict=True)]
        return tree.map_structure(
            lambda y: sugar.reshape(y, (*lead, *y.shape[1:])), vectorized_map(one, rows)
        )

    return operation(vectorized)


def _rows(x: Value, lead: tuple[Size, ...], inner: int) -> Value:
    """The leading axes as one."""
    core = x.shape[x.ndim - inner :]
    return sugar.reshape(sugar.broadcast_to(x, (*lead, *core)), (size_of(lead), *core))


def _axes_of(signature: str) -> list[tuple[str, ...]]:
    """For each argument the names of the axes that the function takes."""
    if not re.fullmatch(_SIGNATURE, signature):
        raise ArgumentError(f"vectorize: not a signature such as '(n,m),(m)->(n)': {signature!r}")
    before = signature.split("->")[0]
    return [
        tuple(name.strip() for name in found.split(",") if name.strip())
        for found in re.findall(_ARGUMENT, before)
    ]


def _require_axes(given: list[Value], inner: list[Any]) -> None:
    size: dict[str, Size] = {}
    for x, names in zip(given, inner, strict=True):
        if x.ndim < len(names):
            raise ShapeError(f"vectorize: {x.type} must have the axes ({', '.join(names)})")
        for name, d in zip(names, x.shape[x.ndim - len(names) :], strict=True):
            if size.setdefault(name, d) != d:
                raise ShapeError(f"vectorize: axis {name} must have one size, got {size[name]} "
                                 f"and {d}")  # fmt: skip


__all__ = ["vectorize"]
