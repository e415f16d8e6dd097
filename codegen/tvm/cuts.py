"""Loops in parts, between which the operand changes that an element comes from.

The joined operands of a concatenation, or the border and the inside of what is padded, meet at
places that are known. A loop that is cut there has no choice to make, and reads each operand in
whole vectors:

    for j in 256: y[j] = x[j] if j < 224 else z[j - 224]
    ->  for j in 224: y[j] = x[j];   for j in 32: y[224 + j] = z[j]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import index as ix
from .index import Index

PARTS = 9
"""Parts that all loops of a kernel are cut in, at most: the inside of an image and its border."""


@dataclass(frozen=True)
class Part:
    """Places first ... first + length - 1 of a loop."""

    first: int
    length: int


def cut(
    terms: Sequence[ix.Loop], positions: Iterable[Index], lanes: int, most: int = PARTS
) -> list[list[Part]]:
    """Cut loops where a clamp of one of these positions begins or ends to hold.

    Parameters
    ----------
    terms : sequence of Loop
        The loops' variables, each from 0 on.
    positions : iterable of Index
        What is read of memory, in these variables.
    lanes : int
        Of vectors along the last loop, which is cut if that makes at most twice as many.
    most : int
        Parts of all loops together. The last loops are cut first, along which vectors run.

    Returns
    -------
    list of list of Part
        The parts of each loop, one where it stays whole.
    """
    places: dict[ix.Loop, set[int]] = {term: set() for term in terms}
    for position in positions:
        for term, place in _borders(position):
            if term in places and 0 < place <= term.high:
                places[term].add(place)
    found: list[list[Part]] = []
    for term in reversed(terms):
        whole = Part(0, term.high + 1)
        bounds = [0, *sorted(places[term]), whole.length]
        parts = [Part(a, b - a) for a, b in pairwise(bounds)]
        vectors = sum(-(-part.length // lanes) for part in parts)
        if len(parts) > most or (not found and vectors > 2 * -(-whole.length // lanes)):
            parts = [whole]
        most //= len(parts)
        found.append(parts)
    return found[::-1]


def _borders(index: Index) -> Iterator[tuple[ix.Loop, int]]:
    """The places of loops at which a clamp in an index begins or ends to hold."""
    for compound in index.terms:
        if isinstance(compound, ix.Loop):
            continue
        base = compound.base
        yield from _borders(base)
        if not isinstance(compound, ix.Clamped) or len(base.terms) != 1:
            continue
        ((term, step),) = base.terms.items()
        if isinstance(term, ix.Loop):
            low, high = (number - base.constant for number in compound.numbers)
            if step < 0:
                low, high, step = -high, -low, -step
            yield term, -(-low // step)
            yield term, high // step + 1
