"""Rules about reductions, and about sizes that are known."""

from __future__ import annotations

from ...ir.builder import constant
from ...ir.graph import Value
from ...ir.op import get
from ...ir.rewrite import Rule
from ...ir.sugar import full
from ...ir.types import Dim, Shape, size_of
from .shape import reshaped

Ints = tuple[int, ...]

IDEMPOTENT = ("reduce_max", "reduce_min", "reduce_any", "reduce_all")
REDUCTIONS = ("reduce_sum", "reduce_prod", *IDEMPOTENT)


def _reduces_ones(x: Value, axes: Ints) -> bool | str:
    return all(x.shape[a] == 1 for a in axes) or "an axis has more than one element"


def _repeated_only(x: Value, shape: Shape, axes: Ints, over: Ints) -> bool | str:
    """Whether all axes of a reduction are ones along which a broadcast repeats."""
    varying = {a for i, a in enumerate(axes) if x.shape[i] != 1}
    if varying & set(over):
        return "it reduces elements that differ"
    if any(isinstance(shape[a], Dim) for a in over):
        return "the number of repetitions is symbolic"
    return 0 not in (shape[a] for a in over) or "it reduces nothing"


def _rest(x: Value, shape: Shape, axes: Ints, over: Ints) -> Value:
    """What is left of `broadcast(x)` when the repeated axes `over` are dropped."""
    kept = [a for a in range(len(shape)) if a not in over]
    mine = [i for i, a in enumerate(axes) if a not in over]
    squeezed = reshaped(x, tuple(x.shape[i] for i in mine))
    return get("broadcast")(squeezed, shape=tuple(shape[a] for a in kept),
                            axes=tuple(kept.index(axes[i]) for i in mine))  # fmt: skip


def _times(x: Value, shape: Shape, axes: Ints, over: Ints) -> Value:
    rest = _rest(x, shape, axes, over)
    count = size_of(shape[a] for a in over)
    return get("mul")(rest, full(rest.shape, count, rest.dtype))


def _exact_count(x: Value, shape: Shape, axes: Ints, over: Ints) -> bool | str:
    verdict = _repeated_only(x, shape, axes, over)
    if verdict is not True:
        return verdict
    digits = {"f16": 11, "bf16": 8}.get(x.dtype.name, 24)
    count = int(size_of(shape[a] for a in over))
    if x.dtype.is_float and count >= 2**digits:
        return f"{x.dtype} does not hold the count {count}"
    return True


def _constant_along(c: Value, axes: Ints, over: Ints) -> bool | str:
    if c.dtype.is_float and c.dtype.bits < 32:
        return f"a sum in {c.dtype} may overflow where that of products does not"
    varying = {a for i, a in enumerate(axes) if c.shape[i] != 1}
    return not varying & set(over) or "the factor varies along the reduced axes"


def _factor_out(x: Value, c: Value, shape: Shape, axes: Ints, over: Ints, name: str) -> Value:
    """`sum(x * c)` as `sum(x) * c`, or with `/`."""
    total = get("reduce_sum")(x, axes=over)
    return get(name)(total, _rest(c, shape, axes, over))


def _joined_axes(first: Ints, second: Ints, rank: int) -> Ints:
    """Axes of the operand that two reductions in a row take away."""
    left = [a for a in range(rank) if a not in first]
    return tuple(sorted([*first, *(left[a] for a in second)]))


def _twice(name: str) -> Rule:
    return Rule(
        f"{name}-twice",
        lambda p, x, a, b: p.any((name,), p.any((name,), x, axes=a), axes=b),
        replace=lambda x, a, b: get(name)(x, axes=_joined_axes(a, b, x.ndim)),
    )


def _size_known(x: Value, axis: int) -> bool | str:
    return isinstance(x.shape[axis], int) or f"the size is {x.shape[axis]}"


REDUCTION = (
    Rule("reduce-ones", lambda p, x, a: p.any(REDUCTIONS, x, axes=a),
         where=lambda x, a: _reduces_ones(x, a), replace=lambda x, out: reshaped(x, out.shape)),
    Rule("reduce-broadcast",
         lambda p, x, s, a, o: p.any(IDEMPOTENT, p.broadcast(x, shape=s, axes=a), axes=o),
         where=lambda x, s, a, o: _repeated_only(x, s, a, o),
         replace=lambda x, s, a, o: _rest(x, s, a, o), keeps_inner=True),
    Rule("sum-broadcast",
         lambda p, x, s, a, o: p.reduce_sum(p.broadcast(x, shape=s, axes=a), axes=o),
         where=lambda x, s, a, o: _exact_count(x, s, a, o),
         replace=lambda x, s, a, o: _times(x, s, a, o), keeps_inner=True),
    *map(_twice, REDUCTIONS),
    Rule("sum-neg", lambda p, x, a: p.reduce_sum(p.neg(x), axes=a),
         replace=lambda x, a: get("neg")(get("reduce_sum")(x, axes=a))),
    # Rounds differently from the sum of products, not worse; of infinite factors the sum may be
    # NaN where that of products is infinite, or the other way round.
    Rule("sum-mul-broadcast",
         lambda p, x, c, s, a, o: p.reduce_sum(p.mul(x, p.broadcast(c, shape=s, axes=a)), axes=o),
         where=lambda c, a, o: _constant_along(c, a, o),
         replace=lambda x, c, s, a, o: _factor_out(x, c, s, a, o, "mul"), keeps_inner=True),
    Rule("sum-div-broadcast",
         lambda p, x, c, s, a, o: p.reduce_sum(p.div(x, p.broadcast(c, shape=s, axes=a)), axes=o),
         where=lambda c, a, o, out: _constant_along(c, a, o) if out.dtype.is_float
         else "a quotient of integers is cut",
         replace=lambda x, c, s, a, o: _factor_out(x, c, s, a, o, "div"), keeps_inner=True),
    Rule("dimension-size", lambda p, x, a: p.dimension_size(x, axis=a),
         where=lambda x, a: _size_known(x, a),
         replace=lambda x, a, out: constant(x.shape[a], out.dtype)),
)  # fmt: skip
