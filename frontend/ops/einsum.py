"""Einstein's summation, and the rearrangement of axes by name."""

from __future__ import annotations

import itertools
from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.types import Dim, Size, size_of
from ..operation import operation
from .core import countable
from .core import tensor as as_value
from .products import product, times, widened

Labels = tuple[str, ...]


@operation
def einsum(subscripts: str, *operands: Any, **kwargs: Any) -> Any:
    """Einstein's summation: products summed over every letter that the result does not name.

    Parameters
    ----------
    subscripts : str
        A letter for each axis of each operand, then `->` and those of the result. A letter that
        an operand repeats means its diagonal; `...` stands for further axes, which broadcast.
        Without `->` the result has the letters that occur once, in alphabetical order.
    *operands : tensors

    Notes
    -----
    Operands are contracted two at a time, each pair as one matrix product, next the pair whose
    result is smallest.

    >>> ops.einsum("bqd,bkd->bqk", query, key)
    """
    values = widened(*map(as_value, operands))
    names, output = _labels(subscripts, values)
    if len(values) > 1:
        values = list(sugar.common(*values))
    terms = [_diagonals(name, x) for name, x in zip(names, values, strict=True)]
    terms = _without_broadcast(terms)
    while len(terms) > 1:
        i, j = _cheapest_pair(terms, output)
        rest = [t for k, t in enumerate(terms) if k not in (i, j)]
        needed = set(output).union(*(name for name, _ in rest))
        terms = [*rest, _contract(terms[i], terms[j], needed)]
    return _ordered(*_summed(*terms[0], set(output)), output)


def _labels(subscripts: str, values: list[Value]) -> tuple[list[Labels], Labels]:
    """The labels of each operand and of the result, those of `...` numbered from the right."""
    inputs, arrow, result = subscripts.replace(" ", "").partition("->")
    names = inputs.split(",")
    if len(names) != len(values):
        raise ArgumentError(
            f"einsum: {subscripts!r} names {len(names)} operands, got {len(values)}"
        )
    found = [_expanded(name, x) for name, x in zip(names, values, strict=True)]
    hidden = sorted({c for labels in found for c in labels if c.isdigit()}, key=int, reverse=True)
    if arrow:
        before, dots, after = result.partition("...")
        output = (*before, *(hidden if dots else ()), *after)
    else:
        letters = [c for labels in found for c in labels if not c.isdigit()]
        output = (*hidden, *sorted(c for c in set(letters) if letters.count(c) == 1))
    unknown = set(output) - {c for labels in found for c in labels}
    if unknown or len(set(output)) != len(output):
        raise ArgumentError(
            f"einsum: the result must name axes of the operands once each, got {subscripts!r}"
        )
    return found, output


def _expanded(name: str, x: Value) -> Labels:
    before, dots, after = name.partition("...")
    count = x.ndim - len(before) - len(after)
    if count < 0 or (count and not dots) or "." in before + after:
        raise ShapeError(f"einsum: {name!r} must name each axis of {x.type}")
    return (*before, *(str(i) for i in reversed(range(count))), *after)


def _diagonals(labels: Labels, x: Value) -> tuple[Labels, Value]:
    """Each label once: where one repeats, the elements at which its indices agree."""
    for label in dict.fromkeys(labels):
        axes = [i for i, c in enumerate(labels) if c == label]
        for axis in axes[:0:-1]:
            order = [i for i in range(x.ndim) if i not in (axes[0], axis)]
            x = sugar.transpose(x, [*order, axes[0], axis])
            size = int(x.shape[-1])
            flat = sugar.reshape(x, (*x.shape[:-2], size * size))
            x = flat[..., :: size + 1]
            labels = (*(labels[i] for i in order), label)
            axes = [i for i, c in enumerate(labels) if c == label]
            if len(axes) > 1:
                return _diagonals(labels, x)
    return labels, x


def _without_broadcast(terms: list[tuple[Labels, Value]]) -> list[tuple[Labels, Value]]:
    """Axes of size 1 dropped where the label is longer elsewhere."""
    size: dict[str, Size] = {}
    for labels, x in terms:
        for c, d in zip(labels, x.shape, strict=True):
            if size.setdefault(c, d) == 1:
                size[c] = d
            if d not in (1, size[c]):
                raise ShapeError(f"einsum: axis {c!r} must have one size, got {size[c]} and {d}")
    result = []
    for labels, x in terms:
        drop = [i for i, (c, d) in enumerate(zip(labels, x.shape, strict=True))
                if d == 1 and size[c] != 1]  # fmt: skip
        kept = [i for i in range(x.ndim) if i not in drop]
        x = sugar.reshape(x, tuple(x.shape[i] for i in kept)) if drop else x
        result.append((tuple(labels[i] for i in kept), x))
    return result


def _cheapest_pair(terms: list[tuple[Labels, Value]], output: Labels) -> tuple[int, int]:
    """The two operands whose product is smallest; an open size counts as a large one."""

    def cost(pair: tuple[int, int]) -> int:
        rest = [name for k, (name, _) in enumerate(terms) if k not in pair]
        needed = set(output).union(*rest)
        sizes = {c: d for k in pair for c, d in zip(terms[k][0], terms[k][1].shape, strict=True)}
        total = 1
        for c in needed & set(sizes):
            d = sizes[c]
            total *= 1 << 20 if isinstance(d, Dim) else d
        return total

    return min(itertools.combinations(range(len(terms)), 2), key=cost)


def _summed(labels: Labels, x: Value, needed: set[str]) -> tuple[Labels, Value]:
    """Sum over the axes that nothing else names."""
    axes = tuple(i for i, c in enumerate(labels) if c not in needed)
    if not axes:
        return labels, x
    kept = tuple(c for c in labels if c in needed)
    return kept, sugar.cast(sugar.reduce("reduce_sum", countable(x), axes), x.dtype)


def _ordered(labels: Labels, x: Value, output: Labels) -> Value:
    return sugar.transpose(x, [labels.index(c) for c in output])


def _contract(
    one: tuple[Labels, Value], other: tuple[Labels, Value], needed: set[str]
) -> tuple[Labels, Value]:
    """The product of two operands, summed over what both name and nothing needs."""
    left, a = _summed(*one, needed.union(other[0]))
    right, b = _summed(*other, needed.union(one[0]))
    batch = [c for c in left if c in right and c in needed]
    inner = [c for c in left if c in right and c not in needed]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    made = (*batch, *rows, *columns)
    size = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))

    def many(letters: list[str]) -> Size:
        return size_of(size[c] for c in letters)

    lead = tuple(size[c] for c in batch)
    a = sugar.transpose(a, [left.index(c) for c in batch + rows + inner])
    if not inner:
        a = sugar.reshape(a, (*a.shape, *(1,) * len(columns)))
        b = sugar.transpose(b, [right.index(c) for c in batch + columns])
        return made, times(a, sugar.reshape(b, (*lead, *(1,) * len(rows), *b.shape[len(batch) :])))
    b = sugar.transpose(b, [right.index(c) for c in batch + inner + columns])
    matrices = product(
        sugar.reshape(a, (*lead, many(rows), many(inner))),
        sugar.reshape(b, (*lead, many(inner), many(columns))),
    )
    return made, sugar.reshape(matrices, tuple(size[c] for c in made))


# --- rearrange -------------------------------------------------------------------------------


@operation
def rearrange(tensor: Any, pattern: str, **axes_lengths: int) -> Any:
    """Axes split, joined and permuted by name.

    Parameters
    ----------
    pattern : str
        `"b (h d) t -> b h t d"`: a name for each axis, those that are one axis in parentheses.
        `1` is an axis of size 1, `...` stands for the axes that are not named.
    **axes_lengths : int
        Sizes of names within parentheses; one of each pair may be left open.
    """
    x = as_value(tensor)
    left, arrow, right = pattern.partition("->")
    if not arrow:
        raise ArgumentError(f"rearrange: pattern must have '->', got {pattern!r}")
    before, after = _groups(left, x.ndim), _groups(right, None)
    if len(before) != x.ndim:
        raise ShapeError(f"rearrange: {left.strip()!r} must name each axis of {x.type}")
    size: dict[str, Size] = dict(axes_lengths)
    for group, d in zip(before, x.shape, strict=True):
        _solve(group, d, size, pattern)
    dots = [c for group in before for c in group if c.startswith(".")]
    after = [g for group in after for g in ([[d] for d in dots] if group == ["..."] else [group])]
    after = [[c for d in g for c in (dots if d == "..." else [d])] for g in after]
    names = [c for group in before for c in group if c != "1"]
    wanted = [c for group in after for c in group if c != "1"]
    if sorted(names) != sorted(wanted):
        raise ArgumentError(f"rearrange: both sides must have the same names, got {pattern!r}")
    x = sugar.reshape(x, tuple(size[c] for c in names))
    x = sugar.transpose(x, [names.index(c) for c in wanted])
    return sugar.reshape(x, tuple(size_of(size[c] for c in g if c != "1") for g in after))


def _groups(side: str, rank: int | None) -> list[list[str]]:
    """A list of names for each axis; `...` becomes the axes it stands for if the rank is known."""
    tokens = side.replace("(", " ( ").replace(")", " ) ").split()
    groups: list[list[str]] = []
    inside = False
    for token in tokens:
        if token in "()":
            if inside == (token == "("):
                raise ArgumentError(f"rearrange: parentheses must match, got {side.strip()!r}")
            inside = token == "("
            if inside:
                groups.append([])
        elif inside:
            groups[-1].append(token)
        else:
            groups.append([token])
    if rank is None or ["..."] not in groups:
        return groups
    at, count = groups.index(["..."]), rank - len(groups) + 1
    return [*groups[:at], *([f".{i}"] for i in range(count)), *groups[at + 1 :]]


def _solve(group: list[str], total: Size, size: dict[str, Size], pattern: str) -> None:
    """The one size of a group that is not known."""
    names = [c for c in group if c != "1"]
    unknown = [c for c in names if c not in size]
    known = size_of(size[c] for c in names if c in size)
    if len(unknown) > 1:
        raise ArgumentError(f"rearrange: the sizes of {unknown} must be given for {pattern!r}")
    if unknown:
        size[unknown[0]] = total // known
    if size_of(size[c] for c in names) != total:
        raise ShapeError(f"rearrange: {group} must have {total} elements in {pattern!r}")


__all__ = ["einsum", "rearrange"]
