"""Control flow of the IR for compositions: bodies written as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir.builder import Builder
from ...ir.graph import Graph, Value
from ...ir.op import get
from ...ir.types import TensorType

Values = Sequence[Value]


def _body(function: Callable[..., Values], types: Sequence[TensorType]) -> Graph:
    with Builder("body") as b:
        results = function(*(b.input(f"x{i}", t) for i, t in enumerate(types)))
        return b.finish({f"y{i}": v for i, v in enumerate(results)})


def scan(
    function: Callable[..., Values],
    carries: Values,
    xs: Values,
    shared: Values = (),
    reverse: bool = False,
) -> tuple[Value, ...]:
    """A scan of `function(*carries, *slices, *shared)`, which gives the carries and the rest."""
    types = [v.type for v in carries]
    types += [v.type.with_shape(v.shape[1:]) for v in xs]
    types += [v.type for v in shared]
    return get("scan").all(
        *carries, *xs, *shared, body=_body(function, types), carry=len(carries), stacked=len(xs),
        length=xs[0].shape[0], reverse=reverse,
    )  # fmt: skip


def loop(
    condition: Callable[..., Value],
    function: Callable[..., Values],
    carries: Values,
    shared: Values = (),
) -> tuple[Value, ...]:
    """`function(*carries, *shared)` as long as `condition` of the same holds."""
    types = [v.type for v in (*carries, *shared)]
    return get("while").all(
        *carries, *shared, condition=_body(lambda *xs: (condition(*xs),), types),
        body=_body(function, types), carry=len(carries),
    )  # fmt: skip
