"""The gradient of an activation as one product: what comes from behind, times a derivative.

Differentiation adds a term for each place where the activation uses its operand. For a GELU,
`x * phi(x)` with gradient `g`:

    %a = mul(%g, %phi)
    %b = mul(%g, %x)                           %b = mul(%x, %density)
    %c = mul(%b, %density)         ->          %c = add(%phi, %b)
    %d = add(%a, %c)                           %d = mul(%g, %c)

What `g` is multiplied with depends on `x` alone, so it can be computed where `x` is (see
`passes.derivatives`). Fires only if a function that takes long is among the factors, and takes out
only what is not computed from the same values as the other factors: products of two activations
are left as they are. Rounding may differ in the last bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce

from ...ir.graph import Value
from ...ir.op import get
from ...ir.rewrite import Rule
from .algebra import floating, like

_LONG = frozenset({"exp", "expm1", "erf", "tanh", "sigmoid", "log1p", "sin", "cos"})
_SEEN = 64  # values that are looked at from a factor on
_MOVES = frozenset({"broadcast", "reshape"})


def _factors(x: Value, depth: int = 6) -> list[Value]:
    """What is multiplied to `x`."""
    if x.node is None or x.node.op.name != "mul" or not depth:
        return [x]
    return [f for operand in x.node.inputs for f in _factors(operand, depth - 1)]


def _sources(values: Iterable[Value]) -> tuple[set[Value], bool]:
    """What values are computed from element by element, and whether that takes long."""
    found: set[Value] = set()
    seen, stack, takes_long = set[Value](), list(values), False
    while stack:
        value = stack.pop()
        if value in seen or value.is_constant:
            continue
        seen.add(value)
        node = value.node
        inner = node is not None and (node.op.kind == "elementwise" or node.op.name in _MOVES)
        if node is None or not inner or len(seen) > _SEEN:
            found.add(value)
            continue
        takes_long = takes_long or node.op.name in _LONG
        stack.extend(node.inputs)
    return found, takes_long


def _split(x: Value, y: Value) -> tuple[list[Value], list[Value], list[Value], bool]:
    """The factors that `x` and `y` share and that are foreign to the others; these of each; and
    whether any of these takes long."""
    left, right = Counter(_factors(x)), Counter(_factors(y))
    common = {f for f in left.keys() & right.keys() if not f.is_constant}
    sources, takes_long = _sources((left.keys() | right.keys()) - common)
    taken = {f: None for f in left if f in common and left[f] == right[f] == 1
             and _sources([f])[0].isdisjoint(sources)}  # fmt: skip
    x_rest, y_rest = ([f for f in c.elements() if f not in taken] for c in (left, right))
    return list(taken), x_rest, y_rest, takes_long


def _may_factor(x: Value, y: Value, out: Value) -> bool | str:
    if not out.dtype.is_float:
        return floating(out)
    taken, *_, takes_long = _split(x, y)
    return (bool(taken) and takes_long) or "no common factor, or all others are soon computed"


def _product(factors: Sequence[Value], out: Value) -> Value:
    return reduce(get("mul"), factors) if factors else like(out, 1)


def _factored(x: Value, y: Value, out: Value) -> Value:
    taken, left, right, _ = _split(x, y)
    derivative = get("add")(_product(left, out), _product(right, out))
    return get("mul")(_product(taken, out), derivative)


FACTORS = (
    Rule("common-factor", lambda p, x, y: p.add(x, y), where=_may_factor, replace=_factored),
)  # fmt: skip
