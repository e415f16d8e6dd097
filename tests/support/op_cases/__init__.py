"""Calls of every op, on several sets of arguments."""

from collections import defaultdict
from dataclasses import replace

from . import arrays, elementwise, nn
from .case import Case

DERIVATIVES = 3
"""Of how many calls of an op derivatives are compared: compiling them is what takes the time."""


def _with_few_derivatives(cases: list[Case]) -> list[Case]:
    """Those of which they are, spread over all calls of an op."""
    calls: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.gradient:
            calls[case.name].append(case)
    chosen = set()
    for same in calls.values():
        count = min(len(same), DERIVATIVES)
        chosen |= {id(same[i * len(same) // count]) for i in range(count)}
    return [case if id(case) in chosen else replace(case, gradient=False) for case in cases]


CASES = _with_few_derivatives([*elementwise.CASES, *arrays.CASES, *nn.CASES, *nn.IMAGES])

__all__ = ["CASES", "Case"]
