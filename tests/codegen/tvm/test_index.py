"""Index arithmetic: normal forms, and random expressions against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx

from hornfels.codegen.tvm import index as ix
from hornfels.codegen.tvm.index import Clamped, Index, Loop, Quotient, Remainder


def loop(name: str, extent: int) -> Index:
    return ix.of(Loop(tirx.Var(name, "int32"), 0, extent - 1, 1))


def value(index: Index, values: dict[Loop, int]) -> int:
    """What an index is for given values of the loops; its terms' bounds must hold."""
    total = index.constant
    for term, c in index.terms.items():
        if isinstance(term, Loop):
            v = values[term]
        else:
            base, numbers = value(term.base, values), term.numbers
            if isinstance(term, Quotient):
                v = base // numbers[0]
            elif isinstance(term, Remainder):
                v = base % numbers[0]
            else:
                assert isinstance(term, Clamped)
                v = min(max(base, numbers[0]), numbers[1])
        assert term.low <= v <= term.high
        total += c * v
    assert index.low <= total <= index.high
    return total


def test_merged_dimensions_come_apart_and_together():
    i, j, k = loop("i", 4), loop("j", 5), loop("k", 6)
    flat = ix.linearize((i, j, k), (4, 5, 6))
    assert ix.delinearize(flat, (4, 5, 6)) == (i, j, k)
    assert ix.delinearize(flat, (20, 6)) == (i * 5 + j, k)
    assert ix.delinearize(flat, (4, 30)) == (i, j * 6 + k)


@pytest.mark.parametrize("shapes", [((4, 5, 6),), ((20, 6), (4, 5, 6)), ((2, 60), (8, 15), (120,))])
def test_a_flat_position_survives_reshapes(shapes):
    flat = loop("f", 120)
    position = flat
    for shape in shapes:
        position = ix.linearize(ix.delinearize(position, shape), shape)
    assert position == flat


def test_a_split_inside_a_dimension_needs_one_division():
    i, j = loop("i", 4), loop("j", 15)
    (a, b) = ix.delinearize(ix.linearize((i, j), (4, 15)), (6, 10))
    assert not a.is_affine
    assert {type(t) for t in b.terms} <= {Loop, Remainder}


def test_clamping_what_is_inside_changes_nothing():
    i = loop("i", 8)
    assert i.clamp(0, 7) is i
    assert (i - 1).clamp(0, 7) != i - 1
    assert ix.number(9).clamp(0, 7) == ix.number(7)


OPERATIONS = (
    lambda x, y, c: x + y,
    lambda x, y, c: x - y,
    lambda x, y, c: x * c,
    lambda x, y, c: x // c,
    lambda x, y, c: x % c,
    lambda x, y, c: x.clamp(-c, c) if isinstance(x, Index) else min(max(x, -c), c),
)


@pytest.mark.parametrize("seed", range(20))
def test_random_expressions_equal_pythons(seed):
    rng = np.random.default_rng(seed)
    loops = [Loop(tirx.Var(f"i{n}", "int32"), 0, int(rng.integers(1, 9)), 1) for n in range(3)]
    assignments = [{t: int(rng.integers(t.low, t.high + 1)) for t in loops} for _ in range(8)]
    pool = [(ix.of(t), [a[t] for a in assignments]) for t in loops]
    for _ in range(40):
        (x, xs), (y, ys) = (pool[int(rng.integers(len(pool)))] for _ in range(2))
        c, operation = int(rng.integers(1, 13)), OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        expected = [operation(a, b, c) for a, b in zip(xs, ys, strict=True)]
        pool.append((operation(x, y, c), expected))
    for index, expected in pool:
        assert [value(index, a) for a in assignments] == expected
