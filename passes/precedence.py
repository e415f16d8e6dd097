"""Which of many groups must run before which, kept while groups are merged.

One row of bits for each group: those that must run before it. A bit matrix of 6,000 groups, as a
training step of 20,000 nodes has, takes 4.5 MB, and a merge touches it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Precedence:
    """The transitive "before" of groups that are numbered in an order in which they can run.

    Parameters
    ----------
    sources : sequence of iterables of int
        For each group the groups that it reads from, all with smaller numbers.
    """

    def __init__(self, sources: Sequence[Iterable[int]]) -> None:
        count = len(sources)
        self._count = count
        self._before = np.zeros((count, (count + 63) // 64), np.uint64)
        for group, read in enumerate(sources):
            row = self._before[group]
            for source in read:
                row |= self._before[source]
                _set(row, source)

    def precedes(self, a: int, b: int) -> bool:
        """Whether `a` must run before `b`."""
        return bool(self._before[b, a >> 6] >> np.uint64(a & 63) & np.uint64(1))

    def after(self, a: int) -> np.ndarray:
        """For each group whether it must run after `a`; bool[groups]."""
        column = self._before[:, a >> 6] >> np.uint64(a & 63)
        return np.asarray(column & np.uint64(1), np.bool_)

    def before(self, a: int) -> np.ndarray:
        """For each group whether it must run before `a`; bool[groups]."""
        bits = np.unpackbits(self._before[a].view(np.uint8), bitorder="little")
        return np.asarray(bits[: self._count], np.bool_)

    def between(self, a: int, b: int) -> bool:
        """Whether a third group must run after one of the two and before the other."""
        if self.precedes(b, a):
            a, b = b, a
        return self.precedes(a, b) and bool(np.any(self.after(a) & self.before(b)))

    def merge(self, a: int, b: int) -> None:
        """Make `b` a part of `a`; there must be no group between them."""
        followers = self.after(a) | self.after(b)
        followers[[a, b]] = False
        row = self._before[a] | self._before[b]
        for merged in (a, b):
            _clear(row, merged)
        self._before[a] = row
        self._before[b] = 0
        self._before[:, b >> 6] &= ~(np.uint64(1) << np.uint64(b & 63))
        _set(row, a)
        self._before[followers] |= row


def _set(row: np.ndarray, bit: int) -> None:
    row[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)


def _clear(row: np.ndarray, bit: int) -> None:
    row[bit >> 6] &= ~(np.uint64(1) << np.uint64(bit & 63))
