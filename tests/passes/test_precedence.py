"""Precedence: against a graph search, and while groups are merged."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.passes.precedence import Precedence


def search(sources: dict[int, set[int]], a: int, b: int) -> bool:
    """Whether `b` depends on `a`, by following what it reads."""
    stack, seen = [b], set()
    while stack:
        for source in sources.get(stack.pop(), ()):
            if source == a:
                return True
            if source not in seen:
                seen.add(source)
                stack.append(source)
    return False


def random_sources(seed: int, count: int) -> dict[int, set[int]]:
    rng = np.random.default_rng(seed)
    return {i: set(rng.integers(0, i, rng.integers(0, 3)).tolist()) if i else set()
            for i in range(count)}  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 130])
def test_it_says_what_a_search_says(count):
    sources = random_sources(count, count)
    order = Precedence([sources[i] for i in range(count)])
    for a in range(count):
        after = order.after(a)
        for b in range(count):
            expected = search(sources, a, b)
            assert order.precedes(a, b) == after[b] == order.before(b)[a] == expected


def test_merging_keeps_it_right():
    count = 90
    sources = random_sources(7, count)
    order = Precedence([sources[i] for i in range(count)])
    alive = set(range(count))
    rng = np.random.default_rng(0)
    refused = 0
    while len(alive) > 20:
        a, b = sorted(rng.choice(sorted(alive), 2, replace=False).tolist())
        between = any(
            (search(sources, a, g) and search(sources, g, b))
            or (search(sources, b, g) and search(sources, g, a))
            for g in alive - {a, b}
        )
        assert order.between(a, b) == between
        if between:
            refused += 1
            if refused > 3000:
                break
            continue
        order.merge(a, b)
        sources[a] = (sources[a] | sources.pop(b)) - {a, b}
        for read in sources.values():
            if b in read:
                read.remove(b)
                read.add(a)
        sources[a].discard(a)
        alive.remove(b)
        for g in sorted(alive):
            assert order.precedes(a, g) == search(sources, a, g)
            assert order.precedes(g, a) == search(sources, g, a)
    assert len(alive) < 60
